# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
# shellcheck disable=SC2154 # TESTS is theirs who source this, and $file
#
# What the scripts share whose tests have dax_hold hold pages, to be sourced. TESTS
# are FIXTURE.VARIANT.TEST each; a function run does one.

# shellcheck source=dax_ns.sh
. "$DIR"/dax_ns.sh

LEN=$((4 << 20))
SECS=30

# within_secs COMMAND...: it comes true in time.
within_secs()
{
	local i

	for ((i = 0; i < SECS * 10; i++)); do
		"$@" && return
		sleep 0.1
	done
	return 1
}

gone()
{
	! kill -0 "$1" 2>/dev/null
}

new_dmesg()
{
	dmesg | tail -n +$(($(wc -l <"$TMP/dmesg") + 1))
}

# log_is_clean [PATTERN]: of this, too
log_is_clean()
{
	! new_dmesg | grep -E "WARNING:|BUG:|Oops|blocked for more${1:+|$1}" |
		sed 's/^/# /' | grep .
}

# What dax_hold writes.
pattern()
{
	yes dax_hold | tr -d '\n' | head -c "$1"
}

# hold HOW [DISK]
hold()
{
	: >"$TMP/holder"
	"$DIR"/dax_hold "$file" "$LEN" "$@" >"$TMP/holder" &
	holder=$!
	holder_says holding
}

holder_says()
{
	within_secs grep -q "$1" "$TMP/holder"
}

accesses_give()
{
	kill -USR1 "$holder" && holder_says "$1"
}

end_holder()
{
	kill "$holder" 2>/dev/null
	wait "$holder"
}

# step NAME COMMAND...
step()
{
	local name=$1

	shift
	"$@" && return
	ktap_print_msg "not so: $name"
	return 1
}

# skip TEST REASON: ktap_test_skip has no room for one.
skip()
{
	__ktap_test ok "$1" "SKIP $2"
	KTAP_CNT_SKIP=$((KTAP_CNT_SKIP + 1))
}

# For a failure after which no other test can run.
not_ending()
{
	echo "# not ending, see $(basename "$0"); start the machine anew"
	sleep infinity
}

# What a test has not got, if anything. For scripts to say otherwise.
lacks()
{
	:
}

# A test has failed. For scripts to say otherwise, that can go on.
failed()
{
	not_ending
}

# Those chosen.
run_tests()
{
	local test why

	for test in "${only[@]}"; do
		echo "#  RUN           $test ..."
		why=$(lacks "$test")
		if [ -n "$why" ]; then
			skip "$test" "$why"
		elif run "$test"; then
			ktap_test_pass "$test"
		else
			failed "$test"
		fi
	done
	ktap_finished
}

# choose ARGUMENT...: which of the TESTS to run; or list them, as the programs on the
# harness do, in columns.
choose()
{
	local test fixture variant name

	only=()
	while [ $# -gt 0 ]; do
		case $1 in
		-l)	{
				printf '%-20s %-25s %s\n' FIXTURE VARIANT TEST
				for test in "${TESTS[@]}"; do
					IFS=. read -r fixture variant name <<<"$test"
					printf '%-20s %-25s %s\n' "$fixture" "$variant" "$name"
				done
			} >&2
			exit ;;
		-r)	only+=("$2") && shift 2 ;;
		*)	sed -n 's/^#   //p' "$0" >&2; exit 2 ;;
		esac
	done
	[ ${#only[@]} -gt 0 ] || only=("${TESTS[@]}")
}

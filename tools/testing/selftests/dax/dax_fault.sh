#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# shellcheck disable=SC2317 # reached through step
#
# Attach and detach a device while the kernel runs out of memory: the first allocation
# fails, then the second, until there is none left to fail. The bind may fail, and the
# next works; so may the write that asks for the unbind, but that ends, with a mapping
# taken away, whatever fails in it. Nothing is lost, neither what was written nor
# memory, as far as kmemleak can tell.
#
#   dax_fault.sh [-l] [-r TEST]...	list, or run only these
#   DAX_GUP_NDNS=namespaceX.Y		a pmem namespace, whose contents are destroyed
#   DAX_GUP_DAXDEV=/dev/daxX.Y		device-dax; what it holds is destroyed
#
# Needs CONFIG_FAULT_INJECTION_DEBUG_FS, CONFIG_FAILSLAB and CONFIG_FAIL_PAGE_ALLOC.
# A test that fails leaves the device in no state for another: the script says so and
# does not end, for the machine to be started anew.
#
# Recorded on stock: a bind that failed is the last one before the machine is started
# anew, and there are warnings; unbind of ext4 leaves a mapping behind. devdax.unbind
# passes there: it guards the order in which device-dax is taken down.

DIR="$(dirname "$(readlink -f "$0")")"
# shellcheck source=dax_held.sh
. "$DIR"/dax_held.sh

DEBUG=/sys/kernel/debug

# FIXTURE.VARIANT.TEST each
TESTS=()
for fs in ext4 devdax; do
	TESTS+=("fault.$fs.bind" "fault.$fs.unbind")
done

# By default only those that cannot wait may fail.
let_any_fail()
{
	local dir

	for dir in "$DEBUG"/failslab "$DEBUG"/fail_page_alloc; do
		echo N >"$dir/ignore-gfp-wait" && echo 0 >"$dir/verbose" || return
	done
	echo N >"$DEBUG/fail_page_alloc/ignore-gfp-highmem" &&
		echo 0 >"$DEBUG/fail_page_alloc/min-order"
}

# failing N FILE: write the device to it with the Nth allocation failing. As a process
# of its own, whose allocations are those of the kernel on its behalf.
failing()
(
	exec 3<>/proc/self/fail-nth 4>"$2"
	echo "$1" >&3
	echo "$dev" >&4
	read -r left <&3
	echo 0 >&3
	echo "$left" >"$TMP/left"
) 2>/dev/null

was_hit()
{
	[ "$(cat "$TMP/left")" = 0 ]
}

bind()
{
	echo "$dev" >"$driver/bind"
}

is_bound()
{
	[ -e "$driver/$dev" ]
}

find_device()
{
	case $fs in
	devdax)	file=$DAX_GUP_DAXDEV dev=${file##*/} driver=/sys/bus/dax/drivers/device_dax ;;
	*)	file=$MNT/file driver=$DRIVER dev=$(pfn_dev) && pmem=$(pmem_dev) &&
			mkfs.ext4 -q -F "$pmem" && mount -o dax=always "$pmem" "$MNT" &&
			fallocate -l "$LEN" "$file" ;;
	esac && hold map && end_holder && unmounts
}

mounts()
{
	case $fs in
	devdax)	within_secs [ -c "$file" ] ;;
	*)	within_secs [ -b "$pmem" ] && mount -o dax=always "$pmem" "$MNT" ;;
	esac
}

unmounts()
{
	[ "$fs" = devdax ] || umount "$MNT"
}

data_are_there()
{
	mounts && "$DIR"/dax_hold "$file" "$LEN" check && unmounts
}

run_bind()
{
	echo "$dev" >"$driver/unbind"
	failing "$n" "$driver/bind"
	is_bound || step "the next bind works" bind || return
	step "the data are there" data_are_there
}

# The write may fail before the driver gets to know of it.
unbind()
{
	failing "$n" "$driver/unbind"
	! is_bound || echo "$dev" >"$driver/unbind"
}

run_unbind()
{
	step "mounts" mounts && step "held" hold map || return
	unbind &
	unbinder=$!
	step "the unbind ends" within_secs gone "$unbinder" &&
		step "access gives SIGBUS" accesses_give '^SIGBUS' || return
	end_holder
	step "unmounts" unmounts && ! is_bound && step "binds" bind &&
		step "the data are there" data_are_there
}

no_leak()
{
	local leaks=$DEBUG/kmemleak

	[ -e "$leaks" ] || return 0
	# What is new is taken for a leak only later.
	echo scan >"$leaks" && sleep 6 && echo scan >"$leaks" &&
		! sed 's/^/# /' "$leaks" | grep .
}

lacks()
{
	[[ $1 != *.devdax.* || -n ${DAX_GUP_DAXDEV:-} ]] || echo "DAX_GUP_DAXDEV is not set"
}

run()
{
	local fs how n ret=0

	IFS=. read -r _ fs how <<<"$1"
	dmesg >"$TMP/dmesg"
	step "a file" find_device || return
	[ ! -e "$DEBUG/kmemleak" ] || echo clear >"$DEBUG/kmemleak"
	for ((n = 1; ; n++)); do
		"run_$how" || { ktap_print_msg "allocation $n"; return 1; }
		was_hit || break
	done
	ktap_print_msg "$how: $((n - 1)) allocations"
	step "an allocation failed" [ "$n" -gt 1 ] || ret=1
	step "nothing leaked" no_leak || ret=1
	# A failed allocation leaves a call trace there, which is in order.
	step "the kernel log is clean" log_is_clean || ret=1
	return $ret
}

choose "$@"
need mkfs.ext4
if [ ! -e /proc/self/fail-nth ] || ! let_any_fail 2>/dev/null; then
	skip_all "the kernel cannot make allocations fail"
fi

MNT=$TMP/mnt
holder='' file='' dev='' pmem='' driver='' unbinder=''

ktap_set_plan ${#only[@]}
create mem || ktap_exit_fail_msg "create: $(tail -n1 "$TMP/ndctl")"
run_tests

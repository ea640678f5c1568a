# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
# shellcheck disable=SC2034 # DRIVER is for those who source this
#
# What the scripts share that make and unmake a namespace, to be sourced. The
# contents of the namespace are destroyed:
#
#   DAX_GUP_NDNS=namespaceX.Y	a pmem namespace; or what else WHERE names

# shellcheck disable=SC1091
. "$DIR"/../kselftest/ktap_helpers.sh

DEVICES=/sys/bus/nd/devices
DRIVER=/sys/bus/nd/drivers/nd_pmem
MNT=
TMP=
WHERE=DAX_GUP_NDNS

cleanup()
{
	[ -z "$MNT" ] || umount "$MNT" 2>/dev/null
	[ -z "$TMP" ] || rm -rf --one-file-system "$TMP"
}

skip_all()
{
	ktap_skip_all "$1"
	exit "$KSFT_SKIP"
}

# need TOOL...: begin, if these and the namespace are there.
need()
{
	local tool

	ktap_print_header
	[ "$UID" = 0 ] || skip_all "must be run as root"
	NDNS=${!WHERE:-}
	[ -n "$NDNS" ] || skip_all "$WHERE is not set"
	[ -d "$DEVICES/$NDNS" ] || skip_all "there is no $NDNS"
	for tool in ndctl "$@"; do
		command -v "$tool" >/dev/null || skip_all "there is no $tool"
	done
	trap cleanup EXIT
	TMP=$(mktemp -d)
	mkdir "$TMP/mnt"
	dmesg >"$TMP/dmesg"
}

ns()
{
	ndctl "$1-namespace" "$NDNS" >/dev/null 2>&1
}

# create MAP: as fsdax, with its memmap there.
create()
{
	ndctl create-namespace -f -e "$NDNS" -m fsdax -M "$1" >"$TMP/ndctl" 2>&1
}

# The pfn device that has claimed the namespace.
pfn_dev()
{
	local dev

	for dev in "$DEVICES"/pfn*; do
		[ "$(cat "$dev/namespace" 2>/dev/null)" = "$NDNS" ] || continue
		basename "$dev"
		return
	done
	return 1
}

pmem_dev()
{
	local dev

	dev=$(ls -d "$DEVICES/$(pfn_dev)"/block/pmem* 2>/dev/null) && echo "/dev/${dev##*/}"
}

check_log()
{
	dmesg | tail -n +$(($(wc -l <"$TMP/dmesg") + 1)) >"$TMP/new_dmesg"
	if grep -E 'WARNING:|BUG:|Oops|Call Trace' "$TMP/new_dmesg" | sed 's/^/# /' | grep .; then
		ktap_test_fail "kernel log is clean"
	else
		ktap_test_pass "kernel log is clean"
	fi
}

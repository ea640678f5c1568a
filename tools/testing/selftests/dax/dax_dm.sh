#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# shellcheck disable=SC2317 # reached through step
#
# Unbind a device that a dm target has its cache on, and uses without asking anybody:
# the unbind waits until the target goes, which works until then, and what it has been
# given is there when the device is back.
#
#   dax_dm.sh [-l] [-r TEST]...		list, or run only these
#   DAX_GUP_NDNS=namespaceX.Y		a pmem namespace, whose contents are destroyed
#   DAX_GUP_DISK=/dev/...		a disk, the same
#
# A test that fails leaves the device in no state for another: the script says so and
# does not end, for the machine to be started anew.
#
# Recorded on stock: an oops of the target's.

DIR="$(dirname "$(readlink -f "$0")")"
# shellcheck source=dax_held.sh
. "$DIR"/dax_held.sh

# FIXTURE.VARIANT.TEST each
TESTS=("dm.writecache.unbind" "dm.pcache.unbind")

NAME=dax_dm
MB=8

create_target()
{
	local pmem size

	pmem=$(pmem_dev) && size=$(blockdev --getsz "$DAX_GUP_DISK") || return
	case $target in
	writecache)	set -- writecache p "$DAX_GUP_DISK" "$pmem" 4096 0 ;;
	pcache)		set -- pcache "$pmem" "$DAX_GUP_DISK" 4 cache_mode writeback \
				data_crc true ;;
	esac
	dmsetup create $NAME --table "0 $size $*"
}

# put ROUND: give it data, and keep a copy.
put()
{
	yes "dax_dm $1" | head -c "$((MB << 20))" >"$TMP/$1"
	dd if="$TMP/$1" of="/dev/mapper/$NAME" bs=1M seek="$(($1 * MB))" oflag=direct status=none
}

has()
{
	dd if="/dev/mapper/$NAME" bs=1M skip="$(($1 * MB))" count=$MB iflag=direct status=none |
		cmp -s - "$TMP/$1"
}

unbind()
{
	echo "$dev" >"$DRIVER/unbind" &
	unbinder=$!
}

waits_for_the_target()
{
	within_secs says_why && ! gone "$unbinder"
}

says_why()
{
	new_dmesg | grep -q 'removal waits for .*a mapped device'
}

shows_why()
{
	grep -q "^$dev: .*a mapped device" /sys/kernel/debug/pgmap_busy
}

lacks()
{
	local target

	IFS=. read -r _ target _ <<<"$1"
	modprobe -q "dm-$target" || echo "the kernel has no dm-$target"
}

run()
{
	local target dev ret=0

	IFS=. read -r _ target _ <<<"$1"
	dmesg >"$TMP/dmesg"
	step "a namespace" create mem && dev=$(pfn_dev) &&
		dd if=/dev/zero of="$(pmem_dev)" bs=1M count=16 oflag=direct status=none || return
	step "the target" create_target && step "it works" put 0 || return
	unbind
	step "the unbind waits, and says so" waits_for_the_target || ret=1
	step "it says so in debugfs" shows_why || ret=1
	step "the target still works" put 1 && step "and reads" has 0 && has 1 || return
	step "it goes" dmsetup remove $NAME &&
		step "the unbind ends" within_secs gone "$unbinder" || return
	echo "$dev" >"$DRIVER/bind" || return
	step "the target is back" within_secs pmem_dev >"$TMP/pmem" && create_target || return
	step "the data are there" has 0 && has 1 || ret=1
	step "it goes again" dmsetup remove $NAME || return
	step "the kernel log is clean" log_is_clean "Call Trace" || ret=1
	return $ret
}

choose "$@"
need dmsetup
[ -n "${DAX_GUP_DISK:-}" ] || skip_all "DAX_GUP_DISK is not set"

export DM_DISABLE_UDEV=1	# or there are no nodes without udev
unbinder=''

ktap_set_plan ${#only[@]}
run_tests

#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# shellcheck disable=SC2317 # reached through step
#
# Unbind a device while its file system is at work, again and again: the unbind ends,
# and so does the work, with an error; the file system can be unmounted; and when the
# device is back it is sound, and what was written is there.
#
#   dax_busy.sh [-l] [-r TEST]...	list, or run only these
#   DAX_GUP_NDNS=namespaceX.Y		a pmem namespace, whose contents are destroyed
#
# A test that fails leaves the device in no state for another: the script says so and
# does not end, for the machine to be started anew.
#
# Recorded on stock: an oops, but for mount, which passes, as nothing is mapped: that
# one guards against an unbind and a mount that wait for each other.

DIR="$(dirname "$(readlink -f "$0")")"
# shellcheck source=dax_held.sh
. "$DIR"/dax_held.sh

ROUNDS=5

# The work:
#	mount	mount and unmount
#	freeze	freeze and thaw, while a file is mapped
#	fsync	as in dax_hold: of a mapping that is dirty
#	sync	as in dax_hold: faults with MAP_SYNC, each of which allocates a block. What
#		it has written is there, though nobody has called fsync()
# FIXTURE.VARIANT.TEST each
TESTS=()
for fs in ext4 xfs; do
	for how in mount freeze fsync sync; do
		TESTS+=("busy.$fs.$how")
	done
done

make_fs()
{
	dev=$(pfn_dev) && pmem=$(pmem_dev) || return
	case $fs in
	ext4)	mkfs.ext4 -q -F "$pmem" ;;
	xfs)	mkfs.xfs -q -f "$pmem" ;;
	esac >"$TMP/mkfs" 2>&1 && mount_it && fallocate -l "$LEN" "$file" &&
		hold map && end_holder
}

mount_it()
{
	mount -o dax=always "$pmem" "$MNT"
}

mount_and_unmount()
{
	while mount_it; do
		echo holding
		umount "$MNT" || return
	done 2>/dev/null
}

start()
{
	case $how in
	mount)	umount "$MNT" && : >"$TMP/holder" || return
		mount_and_unmount >"$TMP/holder" &
		holder=$!
		holder_says holding ;;
	sync)	rm -f "$busy" && truncate -s "$MANY" "$busy" &&
			file=$busy LEN=$MANY hold sync ;;
	*)	hold "$how" ;;
	esac
}

unbind()
{
	sleep "0.$((RANDOM % 10))"
	echo "$dev" >"$DRIVER/unbind" &
	unbinder=$!
}

work_ends()
{
	case $how in
	mount)	within_secs gone "$holder" ;;
	*)	holder_says '^[ES]' && end_holder ;;
	esac
}

is_sound()
{
	case $fs in
	ext4)	e2fsck -fn "$pmem" ;;
	xfs)	xfs_repair -n "$pmem" ;;
	esac >"$TMP/fsck" 2>&1
}

data_are_there()
{
	local pages

	mount_it && "$DIR"/dax_hold "$file" "$LEN" check || return
	[ "$how" = sync ] || return 0
	pages=$(sed -n 's/^SIGBUS, pages: //p' "$TMP/holder")
	[ -n "$pages" ] && "$DIR"/dax_hold "$busy" "$((pages * 4096))" check
}

run()
{
	local fs how ret=0 round

	IFS=. read -r _ fs how <<<"$1"
	dmesg >"$TMP/dmesg"
	step "a file" make_fs || return
	for ((round = 0; round < ROUNDS; round++)); do
		step "at work" start || return
		unbind
		step "the unbind ends" within_secs gone "$unbinder" || return
		step "the work ends" work_ends || return
		[ "$how" = mount ] || step "unmounts" umount "$MNT" || return
		echo "$dev" >"$DRIVER/bind" && within_secs [ -b "$pmem" ] || return
		step "bound again, the data are there" data_are_there || ret=1
	done
	step "unmounts" umount "$MNT" || return
	step "the file system is sound" is_sound || ret=1
	step "the kernel log is clean" log_is_clean "Call Trace" || ret=1
	return $ret
}

choose "$@"
need mkfs.ext4 mkfs.xfs e2fsck xfs_repair

MNT=$TMP/mnt
MANY=$((64 << 30))	# more than there is
holder='' file=$MNT/file busy=$MNT/busy dev='' pmem='' unbinder=''

ktap_set_plan ${#only[@]}
create mem || ktap_exit_fail_msg "create: $(tail -n1 "$TMP/ndctl")"
run_tests

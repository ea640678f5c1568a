#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# shellcheck disable=SC2317 # reached through step
#
# Unbind a device while somebody has pages of it: the unbind ends, unless a page is
# pinned, and then when the pin goes; a mapping is taken away, an access gives
# SIGBUS; nothing looks at the old device when files are closed and unmounted; and
# what was written is there when the device is back.
#
#   dax_unbind.sh [-l] [-r TEST]...	list, or run only these
#   DAX_GUP_NDNS=namespaceX.Y		a pmem namespace, whose contents are destroyed
#   DAX_GUP_DAXDEV=/dev/daxX.Y		device-dax; what it holds is destroyed
#
# A test that fails leaves the device in no state for another: the script says so and
# does not end, for the machine to be started anew.
#
# Recorded on stock: an oops, or no end. Three pass there: ext4.closed and devdax.map,
# which guard against what would be wrong with holding a device too long, and
# rmap1.map, where the reverse map of XFS works, as the file is in the last group.

DIR="$(dirname "$(readlink -f "$0")")"
# shellcheck source=dax_held.sh
. "$DIR"/dax_held.sh

# What dax_hold holds, on each of these. rmap0 and rmap1: XFS with a reverse map, and
# the file in that allocation group of two.
# FIXTURE.VARIANT.TEST each
TESTS=()
for how in map private open closed unlinked pin; do
	TESTS+=("unbind.ext4.$how")
done
for fs in devdax xfs rmap0; do
	TESTS+=("unbind.$fs.map" "unbind.$fs.pin")
done
TESTS+=("unbind.rmap1.map")

# A file in this allocation group: XFS changes the group from directory to directory.
file_in_group()
{
	local i

	for i in 1 2 3 4 5 6 7 8; do
		mkdir "$MNT/$i" && fallocate -l "$LEN" "$MNT/$i/file" || return
		if [ "$(xfs_bmap -v "$MNT/$i/file" | awk 'NR == 3 { print $4 }')" = "$1" ]; then
			echo "$MNT/$i/file"
			return
		fi
		rm -r "${MNT:?}/$i"
	done
	return 1
}

make_file()
{
	local fs=$1 pmem

	driver=$DRIVER dev=$(pfn_dev) && pmem=$(pmem_dev) || return
	case $fs in
	ext4)	mkfs.ext4 -q -F "$pmem" ;;
	xfs)	mkfs.xfs -q -f -m rmapbt=0 "$pmem" ;;
	rmap*)	mkfs.xfs -q -f -m rmapbt=1 -d agcount=2 "$pmem" ;;
	esac >"$TMP/mkfs" 2>&1 && mount -o dax=always "$pmem" "$MNT" || return
	case $fs in
	rmap*)	file=$(file_in_group "${fs#rmap}") ;;
	*)	file=$MNT/file && fallocate -l "$LEN" "$file" ;;
	esac
}

unbind()
{
	echo "$dev" >"$driver/unbind" &
	unbinder=$!
}

says_why()
{
	new_dmesg | grep -q 'removal waits for [1-9]'
}

waits_for_the_pin()
{
	within_secs says_why && ! gone "$unbinder" && kill "$holder"
}

unmounts()
{
	[ "$file" = "$DAX_GUP_DAXDEV" ] || umount "$MNT"
}

data_are_there()
{
	echo "$dev" >"$driver/bind" || return
	if [ "$file" = "$DAX_GUP_DAXDEV" ]; then
		within_secs [ -c "$file" ] && "$DIR"/dax_hold "$file" "$LEN" check
	elif [ "$1" = unlinked ]; then
		mount -o dax=always "$(pmem_dev)" "$MNT" && [ ! -e "$file" ] && umount "$MNT"
	else
		mount -o dax=always "$(pmem_dev)" "$MNT" &&
			"$DIR"/dax_hold "$file" "$LEN" check && umount "$MNT"
	fi
}

run()
{
	local fs how ret=0

	IFS=. read -r _ fs how <<<"$1"
	dmesg >"$TMP/dmesg"
	if [ "$fs" = devdax ]; then
		file=$DAX_GUP_DAXDEV dev=${DAX_GUP_DAXDEV##*/}
		driver=/sys/bus/dax/drivers/device_dax
	else
		step "a file" make_file "$fs" || return
	fi
	step "held" hold "$how" || return
	unbind
	if [ "$how" = pin ]; then
		step "the unbind waits, and says so" waits_for_the_pin || ret=1
	fi
	step "the unbind ends" within_secs gone "$unbinder" || return
	case $how in
	map | unlinked)	step "access gives SIGBUS" accesses_give '^SIGBUS' || ret=1 ;;
	private)	step "access gives SIGBUS, but a copy stays" \
				accesses_give '^SIGBUS, copy read$' || ret=1 ;;
	esac
	end_holder
	step "unmounts" unmounts &&
		step "bound again, the data are there" data_are_there "$how" || ret=1
	step "the kernel log is clean" log_is_clean || ret=1
	return $ret
}

choose "$@"
need mkfs.ext4 mkfs.xfs xfs_bmap

MNT=$TMP/mnt
holder='' file='' dev='' driver='' unbinder=''

ktap_set_plan ${#only[@]}
[[ "${only[*]}" = unbind.devdax.* ]] || create mem ||
	ktap_exit_fail_msg "create: $(tail -n1 "$TMP/ndctl")"
for test in "${only[@]}"; do
	echo "#  RUN           $test ..."
	if [[ $test = *.devdax.* && -z ${DAX_GUP_DAXDEV:-} ]]; then
		ktap_test_skip "$test"
	elif run "$test"; then
		ktap_test_pass "$test"
	else
		not_ending
	fi
done
ktap_finished

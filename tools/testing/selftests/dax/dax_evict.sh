#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# shellcheck disable=SC2317 # reached through step
#
# The end of a file while a page of it is pinned, by a pipe that vmsplice() has
# filled, or for long, by io_uring: who removes it or closes it last does not wait for
# the pin, nor does who unmounts; the block is nobody else's as long as the pin is
# there, and free after that.
#
#   dax_evict.sh [-l] [-r TEST]...	list, or run only these
#   DAX_GUP_NDNS=namespaceX.Y		a pmem namespace, whose contents are destroyed
#
# Recorded on stock: all fail. The task sleeps, and SIGKILL does not help, until the
# pin is gone. Where that is its own, the test says so and does not end, for the
# machine to be started anew.

DIR="$(dirname "$(readlink -f "$0")")"
# shellcheck source=dax_held.sh
. "$DIR"/dax_held.sh

# FIXTURE.VARIANT.TEST each
TESTS=()
for fs in ext4 xfs; do
	for how in unlink close umount lazy longterm; do
		TESTS+=("evict.$fs.$how")
	done
done
TESTS+=("evict.xfs.shared")

free_space()
{
	echo $(($(stat -f -c '%f * %S' "$MNT")))
}

# A small file system, so that it can be filled.
make_fs()
{
	case $fs in
	ext4)	mkfs.ext4 -q -F -b 4096 "$pmem" 64M ;;
	xfs)	mkfs.xfs -q -f -d size=300m "$pmem" ;;
	esac >"$TMP/mkfs" 2>&1 && mount -o dax=always "$pmem" "$MNT" &&
		room=$(free_space) && fallocate -l "$LEN" "$file"
}

# background COMMAND...: it may hang.
background()
{
	"$@" >"$TMP/background" 2>&1 &
	task=$!
}

ends_at_once()
{
	within_secs gone "$task" && wait "$task"
}

# As before the file was there, but for some metadata.
has_room()
{
	[ "$(free_space)" -gt $((room - LEN / 2)) ]
}

says_why()
{
	new_dmesg | grep -q "${pmem##*/}: $1.* pinned"
}

is_busy()
{
	! umount "$MNT" 2>"$TMP/umount" && grep -q busy "$TMP/umount"
}

# There is a directory as long as there is a superblock.
is_mounted()
{
	[ -d "/sys/fs/$fs/${pmem##*/}" ]
}

is_unmounted()
{
	! is_mounted
}

umount_later()
{
	within_secs umount "$MNT" 2>"$TMP/umount" && within_secs is_unmounted
}

is_intact()
{
	case $fs in
	ext4)	e2fsck -fn "$pmem" ;;
	xfs)	xfs_repair -n "$pmem" ;;
	esac >"$TMP/fsck" 2>&1
}

# The file is gone, and a page of it pinned: let another have all that is free.
block_stays()
{
	dd if=/dev/zero of="$MNT/filler" bs=1M oflag=direct 2>/dev/null
	sync "$MNT/filler"
	step "the page is as it was" accesses_give '^read$'
}

run_unlink()
{
	step "held" hold pin || return
	background rm "$file"
	step "unlink ends" ends_at_once && block_stays
}

run_close()
{
	# Who sleeps there has the pin itself: nothing will ever wake it.
	step "the last close ends" hold last || not_ending
	block_stays
}

run_umount()
{
	step "held" hold pin || return
	background is_busy
	step "umount says that it is busy" ends_at_once &&
		step "and why" says_why "not unmounted" &&
		step "the page is as it was" accesses_give '^read$'
}

run_lazy()
{
	step "held" hold pin || return
	background umount -l "$MNT"
	step "umount -l ends" ends_at_once &&
		step "there is a message" says_why "stays until" &&
		step "the file system is there" is_mounted &&
		step "the page is as it was" accesses_give '^read$' &&
		step "it can be mounted again" mount -o dax=always "$pmem" "$MNT" &&
		step "with the file" [ -f "$file" ]
}

has_no_room()
{
	! has_room
}

says_no()
{
	! mount -o remount,ro "$MNT" 2>"$TMP/remount" && grep -q busy "$TMP/remount"
}

freeze_and_thaw()
{
	fsfreeze -f "$MNT" && fsfreeze -u "$MNT"
}

# Nobody has the file open or mapped; a device can write to it.
run_longterm()
{
	step "held" hold ring || return
	background says_no
	step "it does not become read-only" ends_at_once &&
		step "and says why" says_why "stays writable" || return
	background freeze_and_thaw
	step "it freezes and thaws" ends_at_once || return
	background is_busy
	step "umount says that it is busy" ends_at_once || return
	background rm "$file"
	step "unlink ends" ends_at_once || return
	sync -f "$MNT"
	step "its blocks stay" has_no_room || return
	end_holder
	step "the blocks become free" within_secs has_room &&
		step "and it read-only" within_secs mount -o remount,ro "$MNT" &&
		step "or not" mount -o remount,rw "$MNT"
}

# Another file has the block, and is the one whose page is pinned.
run_shared()
{
	local other=$file

	"$DIR"/dax_hold "$file" "$LEN" map >"$TMP/holder" &
	holder=$!
	within_secs grep -q holding "$TMP/holder" && end_holder
	file=$MNT/copy
	step "a copy" cp --reflink=always "$other" "$file" &&
		step "the file is mapped" "$DIR"/dax_hold "$other" "$LEN" check &&
		step "held" hold readpin || return
	background rm "$other"
	step "unlink ends" ends_at_once && block_stays
}

run()
{
	local fs how ret=0 room

	IFS=. read -r _ fs how <<<"$1"
	file=$MNT/file
	dmesg >"$TMP/dmesg"
	step "a file" make_fs || return
	"run_$how" || ret=1
	end_holder
	if [ "$how" = unlink ] || [ "$how" = close ]; then
		rm -f "$MNT/filler"
		step "its blocks are free" within_secs has_room || ret=1
	fi
	step "unmounts" umount_later || ret=1
	step "the file system is intact" is_intact || ret=1
	step "the kernel log is clean" log_is_clean "Call Trace" || ret=1
	return $ret
}

choose "$@"
need mkfs.ext4 mkfs.xfs e2fsck xfs_repair fsfreeze

MNT=$TMP/mnt
holder='' file='' task=''

ktap_set_plan ${#only[@]}
create mem || ktap_exit_fail_msg "create: $(tail -n1 "$TMP/ndctl")"
pmem=$(pmem_dev) || ktap_exit_fail_msg "no block device"
for test in "${only[@]}"; do
	echo "#  RUN           $test ..."
	if run "$test"; then
		ktap_test_pass "$test"
	else
		ktap_test_fail "$test"
	fi
done
ktap_finished

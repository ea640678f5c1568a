#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# shellcheck disable=SC2317 # reached through step
#
# A namespace without a memmap: files there can be mapped with DAX if that is asked for,
# and are as before otherwise; dm does not mix up memory with and without pages; memory
# that is bad gives SIGBUS, also to who has mapped it already; the device can be taken
# away under a mapping, and what was written is there when it is back; and attaching it
# takes no memory for a memmap.
#
#   dax_raw.sh [-l] [-r TEST]...	list, or run only these
#   DAX_GUP_NDNS=namespaceX.Y		a pmem namespace, whose contents are destroyed
#   DAX_GUP_NDNS2=namespaceX.Y		another one, the same
#   and what dax_raw needs, for the tests that run it
#
# A test that cannot take the device away leaves it in no state for another: the script
# says so and does not end, for the machine to be started anew.
#
# Expected on stock: all fail.

DIR="$(dirname "$(readlink -f "$0")")"
# shellcheck source=dax_held.sh
. "$DIR"/dax_held.sh

# rmap is XFS with a reverse map, dm is ext4 on top of the device mapper.
# FIXTURE.VARIANT.TEST each
TESTS=(attr.raw.{garbage,parameter,toggle} attr.fsdax.absent attr.raw.memory)
for fs in ext4 xfs erofs; do
	TESTS+=("off.$fs.mount")
done
for fs in ext4 xfs rmap erofs; do
	TESTS+=("on.$fs.mount")
done
TESTS+=(on.ext4.mr)
TESTS+=(dm.linear.{mixed,reload,mount} dm.striped.{mixed,mount})
TESTS+=(bad.{ext4,xfs}.{pte,pmd} failure.{ext4,xfs,rmap,dm}.mapped)
for fs in ext4 xfs; do
	for how in map private open closed unlinked; do
		TESTS+=("gone.$fs.$how")
	done
done
TESTS+=(gone.rmap.map gone.erofs.read gone.dm.map)

NAME=dax_raw_dm
PARAMETER=/sys/module/nd_pmem/parameters/pageless

# needs TEST: the variables, then the tools.
needs()
{
	case $1 in
	dm.*)		echo DAX_GUP_NDNS2 ;;
	esac
	case $1 in
	dm.*.mount | bad.* | failure.*)
			echo DAX_GUP_DISK DAX_GUP_EXT4 DAX_GUP_XFS ;;
	esac
	case $1 in
	dm.* | *.dm.*)	echo dmsetup ;;
	*.erofs.*)	echo mkfs.erofs ;;
	*.mr)		echo ip rdma ;;
	esac
}

# What a test has not got, if anything.
lacks()
{
	local it

	for it in $(needs "$1"); do
		case $it in
		DAX_*)	[ -n "${!it:-}" ] || { echo "$it is not set"; return; } ;;
		*)	command -v "$it" >/dev/null || { echo "there is no $it"; return; } ;;
		esac
	done
	case $1 in
	*.erofs.*)	grep -qw erofs /proc/filesystems || modprobe -q erofs ||
				echo "the kernel has no erofs" ;;
	*.memory)	! grep -q ' kasan_report$' /proc/kallsyms ||
				echo "KASAN has a shadow of what is mapped" ;;
	*.mr)		[ -x "$DIR/dax_mr" ] || echo "dax_mr was built without libibverbs"
			modprobe -q rdma_rxe || echo "the kernel has no rxe" ;;
	esac
}

disk_of()
{
	local dev

	dev=$(ls -d "$DEVICES/$1"/block/pmem* 2>/dev/null) && echo "/dev/${dev##*/}"
}

is_attached()
{
	pmem=$(disk_of "$NDNS") && [ -b "$pmem" ] && attr=/sys/block/${pmem##*/}/dax/pageless
}

# attach VALUE: of the attribute.
attach()
{
	ndctl create-namespace -f -e "$NDNS" -m raw >"$TMP/ndctl" 2>&1 &&
		within_secs is_attached && set_attr "$1"
}

set_attr()
{
	[ -e "$attr" ] && echo "$1" 2>/dev/null >"$attr"
}

attr_is()
{
	[ "$(cat "$attr")" = "$1" ]
}

# With its memmap, the second namespace, and where.
attach_pages()
{
	NDNS=$DAX_GUP_NDNS2 create mem && pages=$(NDNS=$DAX_GUP_NDNS2 pmem_dev)
}

# For the filesystem that the test is named for.
make_fs()
{
	disk=$pmem
	case $fs in
	xfs)	mkfs.xfs -q -f -m rmapbt=0 -d su=2m,sw=1 "$disk" ;;
	rmap)	mkfs.xfs -q -f -m rmapbt=1 -d su=2m,sw=1 "$disk" ;;
	erofs)	mkdir -p "$TMP/erofs" && truncate -s "$LEN" "$TMP/erofs/file" &&
			file=$TMP/erofs/file hold map && end_holder &&
			mkfs.erofs "$disk" "$TMP/erofs" ;;
	dm)	make_dm && make_ext4 ;;
	*)	make_ext4 ;;
	esac >"$TMP/mkfs" 2>&1
}

make_ext4()
{
	mkfs.ext4 -q -F -b 4096 -E stride=512,stripe_width=512 "$disk"
}

# Both halves of the device, the second first, in one or the other way.
halves()
{
	local half=$(($(blockdev --getsz "$pmem") / 2))

	case $target in
	striped)	echo "0 $((2 * half)) striped 2 4096 $1 $half $1 0" ;;
	*)		echo "0 $half linear $1 $half"
			echo "$half $half linear $1 0" ;;
	esac
}

make_dm()
{
	halves "$pmem" | dmsetup create "$NAME" && disk=/dev/mapper/$NAME
}

remove_dm()
{
	dmsetup remove "$NAME"
}

mount_it()
{
	mount -o dax=always "$disk" "$MNT" 2>"$TMP/mount"
}

unmounts()
{
	umount "$MNT" && { [ "$fs" != dm ] || remove_dm; }
}

make_file()
{
	file=$MNT/file
	[ "$fs" = erofs ] || fallocate -l "$LEN" "$file"
}

# STATX_ATTR_DAX
is_dax()
{
	local attributes

	attributes=$(xfs_io -r -c "statx -r" "$file" | sed -n 's/^stat.attributes = //p')
	[ $((attributes & 0x200000)) != 0 ]
}

is_not_dax()
{
	! is_dax
}

says_so()
{
	new_dmesg | grep -q "${disk##*/}: no memmap: files can be mapped with DAX, not pinned" ||
		{ [ "$fs" = dm ] && new_dmesg | grep -q ': no memmap: '; }
}

says_nothing()
{
	! new_dmesg | grep ': no memmap: '
}

no_mount()
{
	! mount_it
}

# A file, mapped and compared, also after another mount.
works()
{
	step "mounts" mount_it && step "the log says how" says_so &&
		step "a file" make_file && step "it has DAX" is_dax || return
	case $fs in
	erofs)	hold read ;;
	*)	hold map ;;
	esac || { step "mapped" false; return; }
	step "it can be read" accesses_give '^read$' && end_holder &&
		step "unmounts" umount "$MNT" && mount_it &&
		step "the data are there" "$DIR"/dax_hold "$file" "$LEN" check
}

is_invalid()
{
	! { echo "$1" >"$attr"; } 2>"$TMP/error" && grep -q "Invalid argument" "$TMP/error"
}

run_garbage()
{
	local value is

	for is in 0 1; do
		step "attached" attach "$is" && step "it is $is" attr_is "$is" || return
		for value in 2 -1 x ''; do
			step "'$value' is invalid" is_invalid "$value" &&
				step "it is still $is" attr_is "$is" || return
		done
		step "it can be changed" set_attr $((1 - is)) &&
			step "and is" attr_is $((1 - is)) || return
	done
}

reattach()
{
	echo "$NDNS" >"$DRIVER/unbind" && echo "$NDNS" >"$DRIVER/bind" && within_secs is_attached
}

run_parameter()
{
	local ret=0

	step "attached" attach 0 && step "there is a parameter" [ -e "$PARAMETER" ] &&
		step "it is off" [ "$(cat "$PARAMETER")" = N ] || return
	echo 1 >"$PARAMETER"
	step "what is attached stays as it is" attr_is 0 &&
		step "attached again" reattach && step "it is on" attr_is 1 || ret=1
	echo 0 >"$PARAMETER"
	step "attached again" reattach && step "it is off" attr_is 0 && return "$ret"
}

# Who has mapped a file goes on, and can unmount.
run_toggle()
{
	local ret

	step "attached" attach 1 && make_fs && works || return
	hold map
	step "switched off" set_attr 0 &&
		step "it can be read" accesses_give '^read$' &&
		step "the data are there" "$DIR"/dax_hold "$file" "$LEN" check
	ret=$?
	end_holder
	step "unmounts" umount "$MNT" && step "it cannot be mounted any more" no_mount || return
	step "switched on" set_attr 1 && step "but then" mount_it &&
		step "the data are there" "$DIR"/dax_hold "$file" "$LEN" check && unmounts || return
	return "$ret"
}

# Only for what it is about.
run_absent()
{
	step "attached without a memmap, it is there" attach 1 &&
		step "attached with one" create mem && pmem=$(pmem_dev) &&
		step "it is not" [ ! -e "/sys/block/${pmem##*/}/dax/pageless" ] &&
		step "but its neighbour is" [ -e "/sys/block/${pmem##*/}/dax/write_cache" ]
}

# With what a processor keeps for itself.
free_kib()
{
	sync
	echo 3 >/proc/sys/vm/drop_caches
	awk '$1 == "nr_free_pages" || $1 == "count:" { n += $2 } END { print n * 4 }' /proc/zoneinfo
}

# Sets kib, to what it takes to attach a device, the least of three times.
cost()
{
	local i free

	kib=''
	for i in 1 2 3; do
		echo "$1" >"$DRIVER/unbind"
		free=$(free_kib)
		echo "$1" >"$DRIVER/bind"
		free=$((free - $(free_kib)))
		[ -n "$kib" ] && [ "$kib" -le "$free" ] || kib=$free
	done
}

# 64 bytes for each page is what it would take, and does take with a memmap.
run_memory()
{
	local memmap

	step "attached" attach 1 || return
	memmap=$(($(blockdev --getsz "$pmem") * 64 / 8 / 1024))
	cost "$NDNS"
	ktap_print_msg "attached without a memmap: $kib KiB of memory, a memmap is $memmap KiB"
	step "next to nothing" [ "$kib" -lt $((memmap / 4)) ] || return
	create mem && cost "$(pfn_dev)"
	ktap_print_msg "attached with a memmap: $kib KiB"
	step "that can be told" [ "$kib" -ge $((memmap * 3 / 4)) ]
}

# Nothing is other than before.
run_off()
{
	step "attached" attach 0 && step "it is off" attr_is 0 && make_fs || return
	case $fs in
	ext4)	step "it cannot be mounted with DAX" no_mount &&
			mount "$disk" "$MNT" ;;
	*)	step "it can be mounted" mount_it ;;
	esac && step "a file" make_file && step "it has no DAX" is_not_dax &&
		step "the log is as before" says_nothing && unmounts
}

run_mount()
{
	step "attached" attach 1 && step "it is on" attr_is 1 && make_fs && works && unmounts
}

run_mr()
{
	local ret

	step "attached" attach 1 && make_fs && works || return
	ip link add dax_veth type veth peer name dax_peer &&
		ip link set dax_veth up && rdma link add dax_rxe type rxe netdev dax_veth || return
	timeout 10 "$DIR"/dax_mr dax_rxe "$file" "$LEN" >"$TMP/mr" 2>&1
	step "a memory region is refused" grep -q "ibv_reg_mr: Bad address" "$TMP/mr"
	ret=$?
	rdma link delete dax_rxe && ip link delete dax_veth && unmounts && return "$ret"
}

# refused COMMAND...: by the device mapper, as invalid.
refused()
{
	! "$@" >"$TMP/dm" 2>&1 && grep -q "Invalid argument" "$TMP/dm"
}

# combine FIRST SECOND: two devices in one.
combine()
{
	local half=$((128 << 11))

	case $target in
	striped)	echo "0 $((2 * half)) striped 2 4096 $1 0 $2 0" ;;
	*)		echo "0 $half linear $1 0"
			echo "$half $half linear $2 0" ;;
	esac | dmsetup create "$NAME"
}

says_why()
{
	new_dmesg | grep -q "with and without a memmap"
}

run_mixed()
{
	step "attached" attach 1 && step "with pages, too" attach_pages || return
	step "refused" refused combine "$pmem" "$pages" &&
		step "refused the other way" refused combine "$pages" "$pmem" &&
		step "and the log says why" says_why &&
		step "each alone works" combine "$pmem" "$pmem" && remove_dm &&
		step "and the other" combine "$pages" "$pages" && remove_dm &&
		step "switched off" set_attr 0 &&
		step "it is no DAX device at all" combine "$pmem" "$pages" && remove_dm
}

load()
{
	dmsetup load "$NAME" --table "0 $((128 << 11)) linear $1 $2"
}

reads_zeros()
{
	head -c "$LEN" /dev/zero | cmp -s -n "$LEN" - "/dev/mapper/$NAME"
}

swap_tables()
{
	dmsetup suspend --nolockfs "$NAME" && dmsetup resume "$NAME"
}

run_reload()
{
	local have other dev

	step "attached" attach 1 && step "with pages, too" attach_pages || return
	for dev in "$pmem" "$pages"; do
		dd if=/dev/zero of="$dev" bs=1M count=256 oflag=direct status=none || return
	done
	for have in "$pmem" "$pages"; do
		other=$pages
		[ "$have" = "$pmem" ] || other=$pmem
		dmsetup create "$NAME" --table "0 $((128 << 11)) linear $have 0" || return
		step "the other kind is refused" refused load "$other" 0 &&
			step "it still works" reads_zeros &&
			step "the same kind is not" load "$have" 4096 && swap_tables &&
			step "it works" reads_zeros || return
		remove_dm || return
	done
}

# run_dax_raw TEST...: tests of dax_raw on what is mounted.
run_dax_raw()
{
	local test args=()

	for test in "$@"; do
		args+=(-r "raw.$test")
	done
	DAX_GUP_RAW_EXT4=$MNT DAX_GUP_RAW_XFS=$MNT \
		DAX_GUP_RAW_BADBLOCKS=/sys/block/${pmem##*/}/badblocks \
		"$DIR"/dax_raw "${args[@]}" >"$TMP/dax_raw" 2>&1 && return
	sed 's/^/# /' "$TMP/dax_raw"
	return 1
}

run_dm_mount()
{
	fs=dm
	step "attached" attach 1 && step "the target" make_fs && works &&
		step "what dax_raw looks at" \
			run_dax_raw ext4_{pte,pmd}.{faults,private_write,truncate,ptrace} &&
		unmounts
}

# The device forgets its bad blocks when it is attached again.
run_bad()
{
	step "attached" attach 1 && make_fs && step "mounts" mount_it &&
		step "nobody gets what is bad" \
			run_dax_raw "${fs}_$how.bad_block" && unmounts
}

run_failure()
{
	local kind=xfs

	case $fs in
	ext4 | dm)	kind=ext4 ;;
	esac
	step "attached" attach 1 && make_fs && works &&
		step "who maps it is told" run_dax_raw "${kind}"_{pte,pmd}.memory_failure &&
		unmounts
}

bind()
{
	echo "$NDNS" >"$DRIVER/bind" && within_secs is_attached
}

run_gone()
{
	local ret=0

	step "attached" attach 1 && make_fs && works && step "held" hold "$how" || return
	# It is not told that the device goes, and cannot write what it has not written.
	[ "$fs" != dm ] || sync -f "$MNT"
	# From here on, what fails leaves the device in no state for another test.
	stuck=1
	echo "$NDNS" >"$DRIVER/unbind" &
	unbinder=$!
	step "the unbind ends" within_secs gone "$unbinder" || return
	case $how in
	map | read | unlinked)
		step "access gives SIGBUS" accesses_give '^SIGBUS' || ret=1 ;;
	private)
		step "access gives SIGBUS, but a copy stays" \
			accesses_give '^SIGBUS, copy read$' || ret=1 ;;
	esac
	step "the holder ends well" end_holder || ret=1
	step "unmounts" unmounts || return
	step "bound again" bind && set_attr 1 || return
	[ "$fs" != dm ] || make_dm || return
	step "mounts" mount_it || return
	if [ "$how" = unlinked ]; then
		step "the file is gone" [ ! -e "$file" ] || ret=1
	else
		step "the data are there" "$DIR"/dax_hold "$file" "$LEN" check || ret=1
	fi
	unmounts && stuck='' && return "$ret"
}

run()
{
	local fs fixture how target ret=0

	IFS=. read -r fixture fs how <<<"$1"
	target=$fs stuck='' holder=''
	dmesg >"$TMP/dmesg"
	case $fixture.$how in
	off.* | bad.* | failure.* | gone.*)
			"run_$fixture" ;;
	dm.mount)	run_dm_mount ;;
	*)		"run_$how" ;;
	esac || ret=1
	step "the kernel log is clean" log_is_clean "Call Trace" || ret=1
	return $ret
}

failed()
{
	[ -z "$stuck" ] || not_ending
	[ -z "$holder" ] || end_holder
	umount "$MNT" 2>/dev/null
	[ ! -e "/dev/mapper/$NAME" ] || remove_dm
	ktap_test_fail "$1"
}

choose "$@"
need mkfs.ext4 mkfs.xfs xfs_io blockdev

MNT=$TMP/mnt
export DM_DISABLE_UDEV=1	# or there are no nodes without udev
attr='' disk='' file='' holder='' kib='' pages='' pmem='' stuck='' unbinder=''

ktap_set_plan ${#only[@]}
run_tests

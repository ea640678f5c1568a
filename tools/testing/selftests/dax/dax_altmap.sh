#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Where the memmap of a namespace is, and what it costs: with map=dev in the
# namespace itself (a vmem_altmap), with map=mem in DRAM. Pages can be pinned over
# either, and a namespace that reserves too little for its memmap is refused.
#
#   DAX_GUP_NDNS=namespaceX.Y	a pmem namespace, whose contents are destroyed
#   DAX_GUP_DISK=/dev/...	a disk, 16 MiB of which are destroyed
#
# Needs ndctl, mkfs.ext4 and nothing else that mounts or unmounts meanwhile.

DIR="$(dirname "$(readlink -f "$0")")"
# shellcheck source=dax_ns.sh
. "$DIR"/dax_ns.sh

need mkfs.ext4
DISK=${DAX_GUP_DISK:-}
[ -n "$DISK" ] || skip_all "DAX_GUP_DISK is not set"

vmstat()
{
	awk -v key="$1" '$1 == key { print $2 }' /proc/vmstat
}

# Pages of DRAM that nobody has, those on the lists of a CPU included.
free_pages()
{
	sync
	echo 3 >/proc/sys/vm/drop_caches
	awk '$1 == "nr_free_pages" || $1 == "count:" { sum += $2 } END { print sum }' \
		/proc/zoneinfo
}

# Least of three: what else allocates in the meantime can but add.
cost_of_enabling()
{
	local i before cost least=

	for i in 1 2 3; do
		ns disable
		before=$(free_pages)
		ns enable || return 1
		cost=$((before - $(free_pages)))
		[ -n "$least" ] && [ "$least" -le $cost ] || least=$cost
	done
	echo "$least"
}

size=$(cat "$DEVICES/$NDNS/size")
pages=$((size / $(getconf PAGESIZE)))
memmap=$((pages * 64 / $(getconf PAGESIZE)))	# in pages

check_cost()
{
	local map=$1 cost reserve before grown

	create "$map" || { ktap_test_fail "map=$map: create: $(tail -n1 "$TMP/ndctl")"; return; }
	cost=$(cost_of_enabling)
	reserve=$(( $(cat "$DEVICES/$NDNS/size") - $(cat "$DEVICES/$(pfn_dev)/size") ))
	ns disable
	before=$(vmstat nr_memmap_pages)
	ns enable
	grown=$(($(vmstat nr_memmap_pages) - before))

	ktap_print_msg "map=$map: $pages pages, memmap of $grown pages," \
		"DRAM $cost pages, reserve of $((reserve >> 10)) KiB"
	if [ "$map" = dev ]; then
		# Page tables, and what every device needs: not a matter of size.
		[ "$cost" -lt $((memmap / 8)) ]
	else
		[ "$cost" -gt $((memmap * 7 / 8)) ] && [ "$cost" -lt $((memmap * 9 / 8)) ]
	fi
	ktap_test_result "map=$map: cost in DRAM" [ $? = 0 ]
	ktap_test_result "map=$map: memmap of 64 bytes a page" [ "$grown" = "$memmap" ]
	if [ "$map" = dev ]; then
		ktap_test_result "map=dev: reserve holds the memmap" \
			[ "$reserve" -ge $((pages * 64)) ]
	else
		ktap_test_result "map=mem: no reserve" [ "$reserve" -le $((2 << 20)) ]
	fi
}

# Direct I/O from the disk to a mapping, and back to another place of the disk.
check_pin()
{
	local map=$1 pmem before after len=$((4 << 20))

	before=$(vmstat devmap_pinned)
	pmem=$(pmem_dev)
	MNT=$TMP/mnt
	dd if=/dev/urandom of="$DISK" bs=1M count=4 oflag=direct status=none
	mkfs.ext4 -q -F -b 4096 "$pmem" && mount -o dax=always "$pmem" "$MNT" &&
		"$DIR"/dax_copy --to-map "$MNT/file" "$DISK" 0 $len 1M &&
		cmp -n $len "$MNT/file" "$DISK" &&
		"$DIR"/dax_copy --from-map "$MNT/file" "$DISK" 8M $len 64K &&
		cmp -n $len "$DISK" "$DISK" 0 8388608
	ktap_test_result "map=$map: direct I/O to and from a mapping" [ $? = 0 ]
	umount "$MNT"
	MNT=
	after=$(vmstat devmap_pinned)
	ktap_test_result "map=$map: pages were pinned as the device's" \
		[ "$((${after:-0} - ${before:-0}))" -ge $((2 * len / $(getconf PAGESIZE))) ]
}

# The info block lies 4 KiB into the namespace, its last 8 bytes are a Fletcher
# checksum over its 32-bit words with those bytes zero.
le64()
{
	local i

	for i in 0 8 16 24 32 40 48 56; do
		# shellcheck disable=SC2059
		printf "\\x$(printf %02x $(($1 >> i & 255)))"
	done
}

checksum()
{
	local lo=0 hi=0 word

	for word in $(head -c 4088 "$1" | od -An -v -t u4); do
		lo=$(((lo + word) & 0xffffffff))
		hi=$(((hi + lo) & 0xffffffff))
	done
	# Two more words, of zero.
	hi=$(((hi + 2 * lo) & 0xffffffff))
	echo $((hi << 32 | lo))
}

# Run "$@" with the block device of the bare namespace.
raw()
{
	local rc

	ns disable
	echo 1 >"$DEVICES/$NDNS/force_raw"
	ns enable
	"$@" "/dev/$(basename "$(ls -d "$DEVICES/$NDNS"/block/pmem*)")"
	rc=$?
	ns disable
	echo 0 >"$DEVICES/$NDNS/force_raw"
	return $rc
}

save_info()
{
	dd if="$1" of="$TMP/info" bs=4096 skip=1 count=1 iflag=direct status=none
}

write_info()
{
	dd if="$TMP/new" of="$1" bs=4096 seek=1 count=1 oflag=direct status=none
}

# Bytes 56 to 63 say where the data start, and what is before is the reserve.
info_with_dataoff()
{
	local sum

	{ head -c 56 "$TMP/info"; le64 "$1"; tail -c +65 "$TMP/info" | head -c 4024; } >"$TMP/new"
	sum=$(checksum "$TMP/new")
	le64 "$sum" >>"$TMP/new"
}

check_refused()
{
	local what=$1 dataoff=$2 before error dev

	info_with_dataoff "$dataoff"
	raw write_info
	before=$(vmstat nr_memmap_pages)
	ns enable
	dev=$(pfn_dev)
	error=$( { echo "$dev" >"$DRIVER/bind"; } 2>&1)
	ktap_print_msg "$what: bind of $dev says ${error##*: }"
	[ -n "$dev" ] && [ -n "$error" ] && [ -z "$(pmem_dev)" ]
	ktap_test_result "$what: refused" [ $? = 0 ]
	ktap_test_result "$what: no memmap is left" \
		[ "$(vmstat nr_memmap_pages)" = "$before" ]
}

ktap_set_plan 19

check_cost mem
check_pin mem
check_cost dev
check_pin dev

# The namespace as ndctl makes it must pass what the others fail.
raw save_info
info_with_dataoff "$(od -An -t u8 -j 56 -N 8 "$TMP/info" | tr -d ' ')"
ktap_test_result "info block is understood" cmp "$TMP/info" "$TMP/new"

# All but the last block of the memmap fits, one block fits, nothing is reserved.
check_refused "reserve a little too small" $((pages * 64))
check_refused "reserve far too small" $((2 << 20))
check_refused "no reserve" 0

create dev && [ -n "$(pmem_dev)" ]
ktap_test_result "namespace is usable again" [ $? = 0 ]

check_log
ktap_finished

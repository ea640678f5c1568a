#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Unbind a pmem device below a mounted filesystem of which a file is mapped: the
# unbind ends, the mapping is taken away, its owner is told, and what was written
# is there when the device is back.
#
#   DAX_GUP_NDNS=namespaceX.Y	a pmem namespace, whose contents are destroyed
#
# The filesystem is XFS with a reverse map, through which it finds who maps a file.
# Recorded on stock: if any file is in an allocation group that is not the last,
# the unbind does not end, and keeps a processor busy. Run it late.

DIR="$(dirname "$(readlink -f "$0")")"
# shellcheck source=dax_ns.sh
. "$DIR"/dax_ns.sh

need mkfs.xfs xfs_bmap

MNT=$TMP/mnt
LEN=$((4 << 20))
SECS=30
what='' broken='' holder='' file=''

# step NAME COMMAND...: a test, which fails if one before it in the same case did.
step()
{
	local name=$1

	shift
	if [ -z "$broken" ] && "$@"; then
		ktap_test_pass "$what: $name"
	else
		ktap_test_fail "$what: $name"
		broken=1
	fi
}

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

map_a_file()
{
	mkfs.xfs -q -f -m rmapbt=1 -d agcount=2 "$(pmem_dev)" >"$TMP/mkfs" 2>&1 &&
		mount -o dax=always "$(pmem_dev)" "$MNT" &&
		file=$(file_in_group "$1") || return
	"$DIR"/dax_hold "$file" "$LEN" >"$TMP/holder" &
	holder=$!
	within_secs grep -q mapped "$TMP/holder"
}

unbind()
{
	echo "$pfn" >"$DRIVER/unbind" &
	within_secs gone $!
}

taken_away()
{
	within_secs grep -q SIGBUS "$TMP/holder" && kill "$holder" && wait "$holder"
}

data_are_there()
{
	echo "$pfn" >"$DRIVER/bind" && mount -o dax=always "$(pmem_dev)" "$MNT" &&
		yes dax_hold | tr -d '\n' | head -c "$LEN" | cmp - "$file"
}

check()
{
	what="file in group $1" broken=
	step "mapped" map_a_file "$1"
	step "unbind ends" unbind
	step "the mapping is taken away" taken_away
	step "unmounts" umount "$MNT"
	step "bound again, the data are there" data_are_there
	[ -n "$broken" ] || umount "$MNT"
}

ktap_set_plan 11
create mem || ktap_exit_fail_msg "create: $(tail -n1 "$TMP/ndctl")"
pfn=$(pfn_dev)
# The last group first, where stock gets through.
check 1
check 0
check_log
# To unmount would wait for an unbind that does not end.
[ -z "$broken" ] || MNT=
ktap_finished

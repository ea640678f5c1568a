#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# shellcheck disable=SC2317 # reached through ktap_test_result
#
# Devices that are unbound and bound all the time while faulters, pinners and
# truncators are at work on them, see dax_soak.c: every unbind ends, what was made
# durable is there when the device is back, and in the end nobody holds anything.
#
#   DAX_GUP_REGION=regionX	a pmem region of 1 GiB on one NVDIMM with labels; all its
#				namespaces are destroyed
#   DAX_GUP_DISK=/dev/...	a disk, 16 MiB of which are destroyed
#   DAX_GUP_SOAK_SECONDS=N	60
#   DAX_GUP_SOAK_CYCLES=N	and until there were as many, 0
#
# Recorded on stock: an oops in the first cycles.

DIR="$(dirname "$(readlink -f "$0")")"
# shellcheck source=dax_held.sh
. "$DIR"/dax_held.sh

LEAKS=/sys/kernel/debug/kmemleak

# No namespace, and a label area that can take some.
clear_region()
{
	ndctl disable-region "$REGION" &&
		ndctl init-labels -f "$(cut -d, -f1 "$DEVICES/$REGION/mapping0")" &&
		ndctl enable-region "$REGION"
} >"$TMP/ndctl" 2>&1

# add FS SIZE [ALIGN]: a place for dax_soak on a namespace of its own.
add()
{
	local fs=$1 dev name mnt='' mode=fsdax

	[ "$fs" != devdax ] || mode=devdax
	ndctl create-namespace -r "$REGION" -s "$2" -m $mode -M mem ${3:+-a "$3"} \
		>"$TMP/ndctl" 2>&1 || return
	NDNS=$(sed -n 's/.*"dev":"\(namespace[^"]*\)".*/\1/p' "$TMP/ndctl")
	if [ "$fs" = devdax ]; then
		name=$(sed -n 's/.*"chardev":"\([^"]*\)".*/\1/p' "$TMP/ndctl")
		dev=/dev/$name
	else
		name=$(pfn_dev) && dev=$(pmem_dev) || return
		mnt=$TMP/$name
		mkdir "$mnt"
	fi
	places+=("$fs:$name:$dev:$mnt")
}

# Two MiB stripes, so that files get extents that PMDs can map.
make_fs()
{
	local place rmapbt=0 fs dev

	for place in "${places[@]}"; do
		IFS=: read -r fs _ dev _ <<<"$place"
		case $fs in
		ext4)	mkfs.ext4 -q -F -b 4096 -E stride=512,stripe_width=512 "$dev" ;;
		xfs)	mkfs.xfs -q -f -m "rmapbt=$rmapbt" -l size=64m \
				-d agcount=2,su=2m,sw=1 "$dev" && rmapbt=1 ;;
		esac >"$TMP/mkfs" 2>&1 || return
	done
}

are_intact()
{
	local place fs dev mnt ret=0

	for place in "${places[@]}"; do
		IFS=: read -r fs _ dev mnt <<<"$place"
		[ -z "$mnt" ] || ! mountpoint -q "$mnt" || umount "$mnt" || ret=1
		case $fs in
		ext4)	e2fsck -fn "$dev" ;;
		xfs)	xfs_repair -n "$dev" ;;
		esac >"$TMP/fsck" 2>&1 && continue
		sed 's/^/# /' "$TMP/fsck"
		ret=1
	done
	return "$ret"
}

# Twice, since what is on its way from one place to another may not be found.
nothing_leaks()
{
	sleep 6
	echo scan >"$LEAKS" && echo scan >"$LEAKS"
	! sed 's/^/# /' "$LEAKS" | grep .
}

WHERE=DAX_GUP_REGION
need mkfs.ext4 mkfs.xfs e2fsck xfs_repair
REGION=$NDNS
DISK=${DAX_GUP_DISK:-}
[ -n "$DISK" ] || skip_all "DAX_GUP_DISK is not set"
places=()

ktap_set_plan $((3 + $([ -e $LEAKS ] && echo 1 || echo 0)))
{ clear_region && add ext4 128M && add xfs 352M && add xfs 352M && add devdax 32M 2M &&
	add devdax 32M 4K; } || ktap_exit_fail_msg "create: $(tail -n1 "$TMP/ndctl")"
make_fs || ktap_exit_fail_msg "mkfs: $(head -n1 "$TMP/mkfs")"
[ ! -e $LEAKS ] || echo clear >$LEAKS

"$DIR"/dax_soak "${DAX_GUP_SOAK_SECONDS:-60}" "${DAX_GUP_SOAK_CYCLES:-0}" "$DISK" "${places[@]}"
status=$?
if [ $status = 2 ]; then
	dmesg | tail -n 300 | sed 's/^/# /'
	ktap_test_fail "soak"
	not_ending
fi
ktap_test_result "soak" [ $status = 0 ]
ktap_test_result "file systems are intact" are_intact
[ ! -e $LEAKS ] || ktap_test_result "nothing leaks" nothing_leaks
ktap_test_result "kernel log is clean" log_is_clean
ktap_finished

#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# shellcheck disable=SC2317 # reached through step
#
# A remote peer, which is in a network namespace of its own, writes to a file on DAX and
# reads it, over soft RoCE and soft iWARP: the file then holds what was written, and keeps
# its blocks as long as it is registered.
#
#   dax_rdma.sh [-l] [-r TEST]...	list, or run only these
#   DAX_GUP_NDNS=namespaceX.Y		a pmem namespace, whose contents are destroyed
#
# Expected on stock: a file cannot be registered, except on demand, and what is written on
# demand is wrong, in any memory. Only memory passes there.

DIR="$(dirname "$(readlink -f "$0")")"
# shellcheck source=dax_held.sh
. "$DIR"/dax_held.sh

# What the peer writes to, over each of these; and
#	hole	a file that has no blocks yet
#	big	by one message of 64 MiB
#	odp	on demand: what is not pinned can be truncated
# FIXTURE.VARIANT.TEST each
TESTS=()
for type in rxe siw; do
	for what in memory ext4 xfs ext4hole xfshole; do
		TESTS+=("rdma.$type.$what")
	done
done
for what in memory ext4 xfs; do
	TESTS+=("rdma.rxe.${what}odp")
done
TESTS+=("rdma.rxe.ext4big")

ADDRESS=10.77.0.1

lacks()
{
	local module type

	IFS=. read -r _ type _ <<<"$1"
	[ -x "$DIR/dax_rdma" ] || { echo "there was no librdmacm to build with"; return; }
	for module in veth rdma_ucm "${type/rxe/rdma_rxe}"; do
		modprobe -q "$module" || { echo "the kernel has no $module"; return; }
	done
}

# on SIDE COMMAND...
on()
{
	local side=$1

	shift
	ip netns exec "dax_$side" "$@"
}

# Frames that a page fits in.
connect()
{
	local side address=$ADDRESS

	ip netns add dax_server && ip netns add dax_client &&
		ip link add dax_veth mtu 9000 netns dax_server type veth \
			peer name dax_veth mtu 9000 netns dax_client || return
	for side in server client; do
		on "$side" ip addr add "$address/24" dev dax_veth &&
			on "$side" ip link set dax_veth up &&
			on "$side" rdma link add "dax_$side" type "$type" netdev dax_veth || return
		address=${ADDRESS%.*}.2
	done
}

# All of it, whatever there is.
disconnect()
{
	local side ret=0

	for side in server client; do
		rdma link delete "dax_$side" || ret=1
	done
	for side in server client; do
		ip netns delete "dax_$side" || ret=1
	done
	return "$ret"
}

make_file()
{
	case $what in
	memory*) return ;;
	ext4*)	mkfs.ext4 -q -F "$pmem" ;;
	xfs*)	mkfs.xfs -q -f "$pmem" ;;
	esac >"$TMP/mkfs" 2>&1 && mount -o dax=always "$pmem" "$MNT" || return
	file=$MNT/file
	case $what in
	*hole)	truncate -s "$LEN" "$file" ;;
	*)	fallocate -l "$LEN" "$file" ;;
	esac
}

says_or_ends()
{
	gone "$holder" || grep -q "$1" "$TMP/holder"
}

says()
{
	within_secs says_or_ends "$1" && grep -q "$1" "$TMP/holder"
}

serve()
{
	: >"$TMP/holder"
	ip netns exec dax_server "$DIR"/dax_rdma serve "$ADDRESS" "$LEN" "$how" \
		${file:+"$file"} >"$TMP/holder" &
	holder=$!
	says holding
}

let_go()
{
	[ -z "$holder" ] || end_holder
	holder=''
}

put()
{
	on client timeout "$SECS" "$DIR"/dax_rdma put "$ADDRESS" "${sizes[@]}"
}

cannot_truncate()
{
	! truncate -s 0 "$file" 2>"$TMP/truncate" && grep -q "Text file busy" "$TMP/truncate"
}

data_are_there()
{
	umount "$MNT" && mount -o dax=always "$pmem" "$MNT" && "$DIR"/dax_rdma check "$file" "$LEN"
}

transfer()
{
	step "registered" serve && step "the peer writes and reads" put &&
		step "the data are there" says equal || return
	case $what in
	memory*)	;;
	*odp)		step "it can be truncated" truncate -s 0 "$file" ;;
	*)		step "it cannot be truncated" cannot_truncate || return
			let_go
			step "mounted again, the data are there" data_are_there ;;
	esac
}

run()
{
	local type what how=pin ret=0 LEN=$((6 << 20)) sizes=(4096 65536 1000 $((1 << 20)))

	IFS=. read -r _ type what <<<"$1"
	case $what in
	*odp)	how=odp ;;
	*big)	LEN=$((64 << 20)) sizes=("$LEN") ;;
	esac
	file='' holder=''
	dmesg >"$TMP/dmesg"
	step "a link" connect && step "a file" make_file && transfer || ret=1
	let_go
	if [ -n "$file" ]; then
		step "it can be truncated" truncate -s 0 "$file" || ret=1
		step "unmounts" umount "$MNT" || ret=1
	fi
	step "nobody has the link" disconnect || ret=1
	step "the kernel log is clean" log_is_clean "Call Trace" || ret=1
	return $ret
}

failed()
{
	ktap_test_fail "$1"
}

choose "$@"
need mkfs.ext4 mkfs.xfs ip rdma

MNT=$TMP/mnt
SECS=120
holder='' file=''
trap 'let_go; disconnect 2>/dev/null; cleanup' EXIT

ktap_set_plan ${#only[@]}
create mem || ktap_exit_fail_msg "create: $(tail -n1 "$TMP/ndctl")"
pmem=$(pmem_dev) || ktap_exit_fail_msg "no block device"
run_tests

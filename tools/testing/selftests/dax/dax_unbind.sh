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
#   DAX_GUP_DAXDEV_PTE=/dev/daxX.Y	the same, of 4 KiB alignment
#   DAX_GUP_DISK=/dev/...		a disk, 4 KiB of which are destroyed
#
# A test that fails leaves the device in no state for another: the script says so and
# does not end, for the machine to be started anew.
#
# Recorded on stock: an oops, or no end. Some pass there: ext4.closed, and map and peer
# of device-dax, which guard against what would be wrong with holding a device too long,
# and rmap1.map, where the reverse map of XFS works, as the file is in the last group.

DIR="$(dirname "$(readlink -f "$0")")"
# shellcheck source=dax_held.sh
. "$DIR"/dax_held.sh

# What dax_hold holds, on each of these; and
#	shared	two mappings, of files that share their blocks
#	mr	a memory region of RDMA, on soft RoCE, by dax_mr
#	ram	a pin, while the device is to become memory of the system, and back
# rmap0 and rmap1: XFS with a reverse map, and the file in that allocation group of
# two. dm: ext4 on top of the device mapper. region: ext4, and what goes is the region
# below the namespace. devpte: device-dax of 4 KiB. ndctl: device-dax, and what goes is
# the namespace. module: device-dax, and what goes is its driver.
# FIXTURE.VARIANT.TEST each
TESTS=()
for how in map private open closed unlinked pin flight peer frozen; do
	TESTS+=("unbind.ext4.$how")
done
for fs in devdax xfs rmap0; do
	TESTS+=("unbind.$fs.map" "unbind.$fs.pin")
done
TESTS+=("unbind.rmap1.map")
for how in flight frozen shared; do
	TESTS+=("unbind.xfs.$how")
done
TESTS+=("unbind.erofs.read" "unbind.erofs.readpin")
for fs in dm region devpte ndctl; do
	TESTS+=("unbind.$fs.map" "unbind.$fs.pin")
done
for how in open ring iommufd mr flight peer ram; do
	TESTS+=("unbind.devdax.$how")
done
TESTS+=("unbind.devpte.ram" "unbind.module.pin")
for how in ring iommufd mr; do
	TESTS+=("unbind.ext4.$how")
done
TESTS+=("unbind.xfs.ring")

# needs TEST: the variables, then the tools.
needs()
{
	case $1 in
	*.devpte.*)	echo DAX_GUP_DAXDEV_PTE ;;
	*.devdax.* | *.ndctl.* | *.module.*)
			echo DAX_GUP_DAXDEV ;;
	esac
	case $1 in
	*.flight)	echo DAX_GUP_DISK dmsetup ;;
	*.dm.*)		echo dmsetup ;;
	*.erofs.*)	echo mkfs.erofs ;;
	*.mr)		echo ip rdma ;;
	*.ram)		echo daxctl ;;
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
	*.iommufd)	[ -d /sys/bus/iommufd_mock ] ||
				echo "the kernel has no test of iommufd" ;;
	*.mr)		[ -x "$DIR/dax_mr" ] || echo "dax_mr was built without libibverbs"
			modprobe -q rdma_rxe || echo "the kernel has no rxe" ;;
	*.ram)		[ -d /sys/bus/dax/drivers/kmem ] || modprobe -q kmem ||
				echo "the kernel has no kmem" ;;
	*.module.*)	[ -e /sys/module/device_dax/refcnt ] ||
				echo "device_dax is no module" ;;
	esac
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

# The block device that has the file system.
find_disk()
{
	within_secs pmem_dev >"$TMP/pmem" && disk=$(tail -n1 "$TMP/pmem") || return
	[ "$fs" = dm ] || return 0
	dmsetup create dax_unbind --table "0 $(blockdev --getsz "$disk") linear $disk 0" &&
		disk=/dev/mapper/dax_unbind
}

mount_it()
{
	find_disk && mount -o dax=always "$disk" "$MNT"
}

make_fs()
{
	case $fs in
	xfs)	mkfs.xfs -q -f -m rmapbt=0 "$disk" ;;
	rmap*)	mkfs.xfs -q -f -m rmapbt=1 -d agcount=2 "$disk" ;;
	erofs)	mkdir -p "$TMP/erofs" && pattern "$LEN" >"$TMP/erofs/file" &&
			mkfs.erofs "$disk" "$TMP/erofs" ;;
	*)	mkfs.ext4 -q -F "$disk" ;;
	esac
}

make_file()
{
	find_disk && make_fs >"$TMP/mkfs" 2>&1 && mount -o dax=always "$disk" "$MNT" || return
	case $fs in
	rmap*)	file=$(file_in_group "${fs#rmap}") ;;
	erofs)	file=$MNT/file ;;
	*)	file=$MNT/file && fallocate -l "$LEN" "$file" ;;
	esac
}

# What is to go, and where it is bound.
find_device()
{
	local parent

	driver=$DRIVER
	case $fs in
	devdax | module)
		file=$DAX_GUP_DAXDEV dev=${file##*/} driver=/sys/bus/dax/drivers/device_dax ;;
	devpte)	file=$DAX_GUP_DAXDEV_PTE dev=${file##*/} driver=/sys/bus/dax/drivers/device_dax ;;
	ndctl)	file=$DAX_GUP_DAXDEV
		parent=$(dirname "$(readlink -f "/sys/bus/dax/devices/${file##*/}")")
		dev=$(cat "$parent/namespace") ;;
	region)	parent=$(dirname "$(readlink -f "$DEVICES/$NDNS")")
		dev=${parent##*/} driver=/sys/bus/nd/drivers/nd_region ;;
	*)	dev=$(pfn_dev) ;;
	esac
	case $file in
	/dev/*)	;;
	*)	make_file ;;
	esac
}

# Filled first, as who writes to it gets blocks of its own.
hold_both()
{
	hold map && end_holder && cp --reflink=always "$file" "$file.copy" && hold read || return
	other=$holder
	mv "$TMP/holder" "$TMP/other"
	file=$file.copy hold read
}

both_give()
{
	accesses_give "$1" && end_holder || return
	holder=$other
	mv "$TMP/other" "$TMP/holder"
	accesses_give "$1"
}

# A disk that keeps what it is asked for until it is told to go on.
hold_flight()
{
	dmsetup create dax_slow --table "0 8 linear $DAX_GUP_DISK 0" &&
		pattern 4096 | dd of=/dev/mapper/dax_slow bs=4096 iflag=fullblock \
			oflag=direct conv=nocreat status=none &&
		dmsetup suspend --nolockfs dax_slow && hold flight /dev/mapper/dax_slow
}

hold_mr()
{
	hold map && end_holder && ip link add dax_veth type veth peer name dax_peer &&
		ip link set dax_veth up && rdma link add dax_rxe type rxe netdev dax_veth || return
	"$DIR"/dax_mr dax_rxe "$file" "$LEN" >"$TMP/holder" &
	holder=$!
	holder_says holding
}

start()
{
	case $how in
	flight)	hold_flight ;;
	mr)	hold_mr ;;
	shared)	hold_both ;;
	ram)	hold pin ;;
	*)	hold "$how" ;;
	esac || return
	# It is not told that the device goes, and cannot write what it has not written.
	[ "$fs" != dm ] || sync -f "$MNT"
}

unbind()
{
	case $fs.$how in
	*.ram)		daxctl reconfigure-device --mode=system-ram "$dev" ;;
	ndctl.*)	ndctl disable-namespace "$dev" ;;
	module.*)	modprobe -r device_dax ;;
	*)		echo "$dev" >"$driver/unbind" ;;
	esac >"$TMP/unbind" 2>&1 &
	unbinder=$!
}

bind()
{
	case $fs.$how in
	*.ram)		daxctl reconfigure-device --force --mode=devdax "$dev" ;;
	ndctl.*)	ndctl enable-namespace "$dev" ;;
	module.*)	modprobe device_dax ;;
	*)		echo "$dev" >"$driver/bind" ;;
	esac >"$TMP/bind" 2>&1
}

ends()
{
	within_secs gone "$unbinder" && wait "$unbinder"
}

says_why_or_ends()
{
	gone "$unbinder" || new_dmesg | grep -q 'removal waits for [1-9]'
}

let_go()
{
	case $how in
	flight)	dmsetup resume dax_slow ;;
	*)	kill "$holder" ;;
	esac
}

waits_for_the_pin()
{
	within_secs says_why_or_ends && ! gone "$unbinder"
}

# Who has a page of a file for long is known.
says_who()
{
	new_dmesg | grep -q "removal waits .* pinned for long by dax_[a-z]*\[$holder\]"
}

unmounts()
{
	case $file in
	/dev/*)	;;
	*)	umount "$MNT" && { [ "$fs" != dm ] || dmsetup remove dax_unbind; } ;;
	esac
}

is_memory()
{
	[ -e "/sys/bus/dax/drivers/kmem/$dev" ] &&
		grep -q '"online_memblocks":[1-9]' "$TMP/unbind"
}

data_are_there()
{
	local name

	bind || return
	case $file in
	/dev/*)	within_secs [ -c "$file" ] && "$DIR"/dax_hold "$file" "$LEN" check
		return ;;
	esac
	mount_it || return
	if [ "$how" = unlinked ]; then
		[ ! -e "$file" ]
	else
		for name in "$file"*; do
			"$DIR"/dax_hold "$name" "$LEN" check || return
		done
	fi && unmounts
}

run()
{
	local fs how ret=0

	IFS=. read -r _ fs how <<<"$1"
	file=''
	dmesg >"$TMP/dmesg"
	step "a file" find_device || return
	step "held" start || return
	unbind
	case $how in
	*pin | ring | iommufd | mr | flight | ram)
		step "the unbind waits, and says so" waits_for_the_pin || ret=1
		case $fs.$how in
		dev*)	;;
		*.ring | *.iommufd | *.mr)
			step "and for whom" says_who || ret=1 ;;
		esac
		let_go ;;
	esac
	step "the unbind ends" ends || return
	case $how in
	map | read | unlinked | flight | frozen)
		step "access gives SIGBUS" accesses_give '^SIGBUS' || ret=1 ;;
	shared)	step "access to either gives SIGBUS" both_give '^SIGBUS' || ret=1 ;;
	private)	step "access gives SIGBUS, but a copy stays" \
				accesses_give '^SIGBUS, copy read$' || ret=1 ;;
	peer)	step "access by another gives EFAULT" holder_says '^EFAULT$' || ret=1 ;;
	esac
	step "the holder ends well" end_holder || ret=1
	if [ "$how" = flight ]; then
		step "nobody has the disk" within_secs dmsetup remove dax_slow || ret=1
	elif [ "$how" = mr ]; then
		step "nobody has the link" rdma link delete dax_rxe &&
			ip link delete dax_veth || ret=1
	fi
	step "unmounts" unmounts || return
	if [ "$how" = ram ]; then
		step "it is memory" is_memory && step "and no longer" bind &&
			step "and can be used" hold map || ret=1
		end_holder
	else
		step "bound again, the data are there" data_are_there || ret=1
	fi
	step "the kernel log is clean" log_is_clean "Call Trace" || ret=1
	return $ret
}

choose "$@"
need mkfs.ext4 mkfs.xfs xfs_bmap

MNT=$TMP/mnt
export DM_DISABLE_UDEV=1	# or there are no nodes without udev
holder='' other='' dev='''' disk='' driver='' unbinder=''

ktap_set_plan ${#only[@]}
create mem || ktap_exit_fail_msg "create: $(tail -n1 "$TMP/ndctl")"
run_tests

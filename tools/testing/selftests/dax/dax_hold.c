// SPDX-License-Identifier: GPL-2.0
/*
 * Hold pages of a file on DAX, or of device-dax, until SIGTERM:
 *
 *	dax_hold FILE LENGTH HOW [DISK]
 *
 * Maps the file, fills it with "dax_hold" and says "holding". HOW says what it
 * keeps:
 *
 *	map	the mapping; at SIGUSR1 it reads a page of it, and says "SIGBUS" or
 *		"read"
 *	private	a private mapping, of which every other page is a copy; at SIGUSR1
 *		it reads one of the others, and then a copy
 *	open	the file, no longer mapped
 *	closed	nothing: the kernel alone remembers the pages
 *	unlinked the mapping, of a file without a name
 *	pin	a page in a pipe, and neither the mapping nor the file; at SIGUSR1 it
 *		reads it, and says "read"
 *	last	the same, of a file without a name, so that it has been the last to
 *		close it
 *	readpin	the same, without having filled or written to the file
 *	ring	a page that is a registered buffer of io_uring, and neither the
 *		mapping, with MAP_SYNC, nor the file
 *	iommufd	a page that is mapped for a device, in place of which the kernel's own
 *		test of iommufd stands, and neither the mapping, with MAP_SYNC, nor the file
 *	flight	the mapping, and a read of its first page from DISK by O_DIRECT, which
 *		has been submitted; at SIGUSR1 as map
 *	frozen	the mapping, and the file system frozen until SIGTERM
 *	read	the mapping, of a file that it has not opened for writing
 *	check	nothing at all: it compares instead, and exits
 *
 * or what it does all the time until that fails, when it says why:
 *
 *	peer	another process reads and writes the mapping
 *	freeze	it freezes and thaws the file system
 *	fsync	it writes all of the mapping, and then fsync()
 *	sync	it writes to the holes of an empty file with MAP_SYNC, and says how
 *		many pages it has written
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <linux/io_uring.h>
#include <linux/iommufd.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "../../../../drivers/iommu/iommufd/iommufd_test.h"
#include "dax_data.h"

static const char pattern[] = "dax_hold";

static sigjmp_buf no_page;
static volatile sig_atomic_t reading;

/* A signal that comes without an access is the kernel's way to tell of the loss. */
static void sigbus(int sig)
{
	if (reading)
		siglongjmp(no_page, 1);
}

static const char *try_to_read(char *addr)
{
	const char *found = "SIGBUS";

	if (!sigsetjmp(no_page, 1)) {
		reading = 1;
		found = *(volatile char *)addr == 'd' ? "read" : "read nonsense";
	}
	reading = 0;
	return found;
}

static void pin(int *pipefd, char *page)
{
	struct iovec iov = { page, PAGE };

	if (pipe(pipefd) || vmsplice(pipefd[1], &iov, 1, 0) != PAGE)
		die("vmsplice");
}

/* Read it, and keep the pin. */
static const char *read_pinned(int *pipefd)
{
	char buf[PAGE];
	int copy[2], i;

	if (pipe(copy) || tee(pipefd[0], copy[1], PAGE, 0) != PAGE ||
	    read(copy[0], buf, PAGE) != PAGE)
		die("tee");
	close(copy[0]);
	close(copy[1]);
	for (i = 0; i < PAGE; i++)
		if (buf[i] != pattern[i % 8])
			return "read nonsense";
	return "read";
}

static void register_buffer(char *page)
{
	struct io_uring_params params = {};
	struct iovec iov = { page, PAGE };
	int ring = syscall(SYS_io_uring_setup, 1, &params);

	if (ring < 0 ||
	    syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &iov, 1))
		die("io_uring");
}

static void map_for_device(char *page)
{
	struct iommu_ioas_alloc ioas = { .size = sizeof(ioas) };
	struct iommu_test_cmd domain = {
		.size = sizeof(domain),
		.op = IOMMU_TEST_OP_MOCK_DOMAIN,
	};
	struct iommu_ioas_map map = {
		.size = sizeof(map),
		.flags = IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE,
		.user_va = (unsigned long)page,
		.length = PAGE,
	};
	int fd = open("/dev/iommu", O_RDWR);

	if (fd < 0 || ioctl(fd, IOMMU_IOAS_ALLOC, &ioas))
		die("iommufd");
	domain.id = ioas.out_ioas_id;
	map.ioas_id = ioas.out_ioas_id;
	if (ioctl(fd, IOMMU_TEST_CMD, &domain) ||
	    ioctl(fd, IOMMU_IOAS_MAP, &map))
		die("map for a device");
}

/* As long as the disk is suspended, this ends here, and the read does not. */
static void submit_read(const char *disk, char *page)
{
	struct iocb cb = {
		.aio_lio_opcode = IOCB_CMD_PREAD,
		.aio_fildes = open(disk, O_RDONLY | O_DIRECT),
		.aio_buf = (unsigned long)page,
		.aio_nbytes = PAGE,
	}, *cbs = &cb;
	aio_context_t ctx = 0;

	memset(page, 0, PAGE);
	if (syscall(SYS_io_setup, 1, &ctx) || syscall(SYS_io_submit, ctx, 1, &cbs) != 1)
		die(disk);
}

static void touch_parent(char *map, size_t len)
{
	char buf[PAGE];
	struct iovec local = { buf, PAGE }, remote = { map, PAGE };
	pid_t parent = getpid();
	size_t i;

	if (fork_child())
		return;
	for (i = 0; ; i++) {
		remote.iov_base = map + i / 2 * PAGE % len;
		if ((i % 2 ? process_vm_writev(parent, &local, 1, &remote, 1, 0) :
			     process_vm_readv(parent, &local, 1, &remote, 1, 0)) != PAGE)
			break;
		if (!i)
			say("holding");
	}
	say(strerrorname_np(errno));
	exit(0);
}

static void freeze_and_thaw(int fd)
{
	do {
		say("holding");
	} while (!ioctl(fd, FIFREEZE, 0) && !ioctl(fd, FITHAW, 0));
	say(strerrorname_np(errno));
}

static void write_and_fsync(int fd, char *map, size_t len)
{
	const char *error = "SIGBUS";
	size_t i;

	if (!sigsetjmp(no_page, 1)) {
		reading = 1;
		do {
			for (i = 0; i < len; i++)
				map[i] = pattern[i % 8];
			say("holding");
		} while (!fsync(fd));
		error = strerrorname_np(errno);
	}
	reading = 0;
	say(error);
}

static void write_to_holes(char *map, size_t len)
{
	static size_t done;
	size_t i;

	if (!sigsetjmp(no_page, 1)) {
		reading = 1;
		for (; done < len; done += PAGE) {
			for (i = done; i < done + PAGE; i++)
				map[i] = pattern[i % 8];
			if (!done)
				say("holding");
		}
	}
	reading = 0;
	printf("%s, pages: %zu\n", done < len ? "SIGBUS" : "no end", done / PAGE);
	fflush(stdout);
}

/* What it holds. */
static const char *how;

static bool is(const char *name)
{
	return !strcmp(how, name);
}

int main(int argc, char **argv)
{
	struct sigaction sa = { .sa_handler = sigbus };
	int fd, sig, pipefd[2] = { -1, -1 };
	const char *found;
	bool fills, longterm;
	size_t len, i;
	sigset_t set;
	char *map;

	if (argc < 4 || argc > 5) {
		fputs("usage: dax_hold FILE LENGTH HOW [DISK]\n", stderr);
		return 2;
	}
	len = strtoul(argv[2], NULL, 0);
	how = argv[3];
	fills = !is("check") && !is("readpin") && !is("read");
	longterm = is("ring") || is("iommufd");

	fd = open(argv[1], fills ? O_RDWR : O_RDONLY);
	if (fd < 0)
		die(argv[1]);
	map = mmap(NULL, len, PROT_READ | (fills ? PROT_WRITE : 0),
		   is("sync") || longterm ? MAP_SHARED_VALIDATE | MAP_SYNC : MAP_SHARED,
		   fd, 0);
	if (map == MAP_FAILED)
		die("mmap");
	for (i = 0; i < len && !is("sync"); i++) {
		if (fills)
			map[i] = pattern[i % 8];
		else if (map[i] != pattern[i % 8])
			return 1;
	}
	if (is("check"))
		return 0;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGTERM);
	if (sigaction(SIGBUS, &sa, NULL) || sigprocmask(SIG_BLOCK, &set, NULL))
		die("signals");

	if (is("pin") || is("last") || is("readpin"))
		pin(pipefd, map);
	else if (is("ring"))
		register_buffer(map);
	else if (is("iommufd"))
		map_for_device(map);
	else if (is("flight"))
		submit_read(argc == 5 ? argv[4] : "", map);
	if (is("unlinked") || is("last")) {
		if (unlink(argv[1]))
			die("unlink");
	} else if (is("private")) {
		munmap(map, len);
		map = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
		if (map == MAP_FAILED)
			die("mmap");
		for (i = 0; i < len; i += PAGE) {
			if (i / PAGE % 2)
				map[i] = 'd';
			else if (map[i] != 'd')
				return 1;
		}
	}
	if (is("open") || is("closed") || longterm || pipefd[0] >= 0)
		munmap(map, len);
	if (!is("open") && !is("fsync") && !is("freeze") && !is("frozen"))
		close(fd);

	if (is("peer"))
		touch_parent(map, len);
	else if (is("freeze"))
		freeze_and_thaw(fd);
	else if (is("fsync"))
		write_and_fsync(fd, map, len);
	else if (is("sync"))
		write_to_holes(map, len);
	else if (is("frozen") && ioctl(fd, FIFREEZE, 0))
		die("freeze");
	else
		say("holding");

	while (!sigwait(&set, &sig) && sig == SIGUSR1) {
		found = pipefd[0] >= 0 ? read_pinned(pipefd) : try_to_read(map);
		if (is("private")) {
			printf("%s, copy ", found);
			found = try_to_read(map + PAGE);
		}
		say(found);
	}
	/* With this file: none can be opened on a device that is gone. */
	if (is("frozen") && ioctl(fd, FITHAW, 0))
		die("thaw");
	return 0;
}

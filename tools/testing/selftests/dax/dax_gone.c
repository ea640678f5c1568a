// SPDX-License-Identifier: GPL-2.0
/*
 * A device that is gone gets no new pins.
 *
 * Maps a file on DAX, unbinds the device below, and asks GUP for the pages in as
 * many ways as user space has. A kernel that leaves the page tables pointing at
 * them, and takes the pages without asking the device, oopses in the first case.
 * Recorded on stock: crash.
 *
 *   DAX_GUP_GONE_DIR	 directory on a DAX filesystem
 *   DAX_GUP_GONE_UNBIND sysfs file of the driver to unbind from
 *   DAX_GUP_GONE_DEV	 what to write to it: the device below the filesystem
 *   DAX_GUP_DISK	 a block device to write to with O_DIRECT
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "kselftest.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

#define LEN	(4UL << 20)	/* enough for one aligned PMD */
#define PAGE	4096

static char *map;
static int disk, pipefd[2];
static char buf[PAGE];

static ssize_t by_readv(void *addr)
{
	struct iovec local = { buf, PAGE }, remote = { addr, PAGE };

	return process_vm_readv(getpid(), &local, 1, &remote, 1, 0);
}

static ssize_t by_vmsplice(void *addr)
{
	struct iovec iov = { addr, PAGE };

	return vmsplice(pipefd[1], &iov, 1, 0);
}

static ssize_t by_direct_io(void *addr)
{
	return pwrite(disk, addr, PAGE, 0);
}

static ssize_t by_populate(void *addr)
{
	return madvise(addr, PAGE, MADV_POPULATE_READ);
}

static const struct {
	const char *name;
	ssize_t (*get)(void *addr);
} ways[] = {
	{ "process_vm_readv", by_readv },
	{ "vmsplice", by_vmsplice },
	{ "O_DIRECT", by_direct_io },
	{ "MADV_POPULATE_READ", by_populate },
};

static const char *need(const char *name)
{
	const char *val = getenv(name);

	if (!val || !*val)
		ksft_exit_skip("%s is not set\n", name);
	return val;
}

int main(void)
{
	const char *dir = need("DAX_GUP_GONE_DIR"), *unbind = need("DAX_GUP_GONE_UNBIND");
	const char *dev = need("DAX_GUP_GONE_DEV"), *disk_name = need("DAX_GUP_DISK");
	char path[PATH_MAX];
	unsigned int i;
	int fd;

	ksft_print_header();

	snprintf(path, sizeof(path), "%s/gone", dir);
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	if (fd < 0 || posix_fallocate(fd, 0, LEN))
		ksft_exit_fail_perror(path);
	map = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_SHARED_VALIDATE | MAP_SYNC, fd, 0);
	if (map == MAP_FAILED)
		ksft_exit_fail_perror("mmap with MAP_SYNC: is this DAX?");
	memset(map, 0x5a, LEN);

	disk = open(disk_name, O_WRONLY | O_DIRECT);
	if (disk < 0)
		ksft_exit_fail_perror(disk_name);
	if (pipe(pipefd))
		ksft_exit_fail_perror("pipe");

	/* Each way works as long as the device does, or the rest proves nothing. */
	for (i = 0; i < ARRAY_SIZE(ways); i++) {
		ssize_t ret = ways[i].get(map + PAGE * i);

		if (ret < 0)
			ksft_exit_fail_perror(ways[i].name);
	}
	if (read(pipefd[0], buf, PAGE) != PAGE)
		ksft_exit_fail_perror("emptying the pipe");

	fd = open(unbind, O_WRONLY);
	if (fd < 0 || write(fd, dev, strlen(dev)) != (ssize_t)strlen(dev))
		ksft_exit_fail_perror(unbind);

	ksft_set_plan(ARRAY_SIZE(ways));
	for (i = 0; i < ARRAY_SIZE(ways); i++) {
		ssize_t ret = ways[i].get(map + PAGE * (16 + i));
		int err = ret < 0 ? errno : 0;

		if (err != EFAULT)
			ksft_print_msg("%s returned %zd, errno %d\n", ways[i].name, ret, err);
		ksft_test_result(err == EFAULT, "%s of an unbound device's page: EFAULT\n",
				 ways[i].name);
	}
	ksft_finished();
}

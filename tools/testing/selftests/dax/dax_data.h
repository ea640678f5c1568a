/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Data to compare, and what else the tests share that are on the harness and those
 * that are not.
 */
#ifndef DAX_DATA_H
#define DAX_DATA_H

#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#include <linux/fs.h>
#include <linux/types.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>

#ifndef MAP_SYNC
#define MAP_SYNC 0x80000
#endif

#define KB		1024UL
#define MB		(1024 * KB)
#define SECTOR		512UL
#define PMD_SIZE	(2 * MB)	/* map_setup() checks it */
#define PAGE		((size_t)getpagesize())

static inline void die(const char *what)
{
	perror(what);
	exit(1);
}

/* To a script that waits for it. */
static inline void say(const char *what)
{
	puts(what);
	fflush(stdout);
}

/* Bytes as a function of their offset and a seed, different in every sector. */
static inline void fill(void *buf, size_t len, unsigned int seed)
{
	__u64 *p = buf, x;
	size_t i;

	for (i = 0; i < len / sizeof(*p); i++) {
		x = (i + ((__u64)seed << 32)) * 0x9e3779b97f4a7c15ULL;
		p[i] = x ^ x >> 32;
	}
}

/* XFS then keeps extents of the file 2 MiB aligned; ext4 does not know and need it. */
static inline void set_extent_size(int fd)
{
	struct fsxattr attr;

	if (ioctl(fd, FS_IOC_FSGETXATTR, &attr))
		return;
	attr.fsx_xflags |= FS_XFLAG_EXTSIZE;
	attr.fsx_extsize = PMD_SIZE;
	ioctl(fd, FS_IOC_FSSETXATTR, &attr);
}

/* A child that dies with its parent. */
static inline pid_t fork_child(void)
{
	pid_t pid = fork();

	if (!pid)
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	return pid;
}

static inline long now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000L + ts.tv_nsec / 1000000;
}

#endif /* DAX_DATA_H */

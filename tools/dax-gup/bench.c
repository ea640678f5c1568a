// SPDX-License-Identifier: GPL-2.0
/*
 * What make bench times in the guest, where a nanosecond is an instruction:
 *
 *	bench gup NAME PATH MIB		gup_test on a mapping of PATH
 *	bench fault NAME PATH MIB	faults, and munmap(), of a file without blocks
 *	bench refault NAME PATH MIB	the same of a file that has them, see bench.guest
 *	bench fork NAME PATH MIB
 *	bench direct NAME PATH DEVICE	O_DIRECT from DEVICE into a mapping of PATH
 *	bench register NAME PATH DEVICE	memory regions of DEVICE, of RDMA
 *	bench write NAME FILE TEXT	one write(), such as to bind a driver
 *	bench umount NAME DIR
 *	bench hold DIR N		map N files and wait to be killed
 *	bench profile NAME PATH MIB	GUP, faults and munmap() in windows for profile
 *
 * PATH "anon" is anonymous memory. NAME begins the names of the results and says in
 * its second word, parts being divided by dots, how to map: "pmd", "pte" or "thp",
 * and in the third "sync" for MAP_SYNC. Writes lines of a name, a tab, a number.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <infiniband/verbs.h>
#include <linux/types.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "gup_test.h"
#include "prof.h"

#define MIB		(1UL << 20)
#define PMD_SIZE	(2 * MIB)
#define PAGE		4096UL
#define RUNS		5
#define FOLL_WRITE	1

static const char *name;

static void die(const char *what)
{
	fprintf(stderr, "bench: %s: %s: %s\n", name, what, strerror(errno));
	exit(1);
}

static void result(const char *what, double value)
{
	printf("%s.%s\t%.2f\n", name, what, value);
}

static void refused(const char *what)
{
	printf("%s.%s\trefused: %s\n", name, what, strerror(errno));
}

static double clock_ns(clockid_t id)
{
	struct timespec t;

	clock_gettime(id, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

static double now(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

/* Is this one of the words of the name? */
static bool named(const char *word)
{
	size_t len = strlen(word);
	const char *p = name;

	while ((p = strstr(p, word))) {
		if ((p == name || p[-1] == '.') && (!p[len] || p[len] == '.'))
			return true;
		p++;
	}
	return false;
}

static int open_path(const char *path)
{
	int fd = strcmp(path, "anon") ? open(path, O_RDWR | O_CREAT, 0600) : -1;

	if (fd < 0 && strcmp(path, "anon"))
		die(path);
	return fd;
}

/* Where a pmd can map it, or a page beside that. */
static char *map(int fd, size_t len, int flags)
{
	size_t off = named("pte") ? PAGE : 0;
	char *room, *p;

	room = mmap(NULL, len + 2 * PMD_SIZE, PROT_NONE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (room == MAP_FAILED)
		die("mmap");
	p = (char *)(((unsigned long)room + PMD_SIZE - 1) & ~(PMD_SIZE - 1)) + off;
	if (!flags)
		flags = named("sync") ? MAP_SHARED_VALIDATE | MAP_SYNC : MAP_SHARED;
	if (fd < 0)
		flags = MAP_PRIVATE | MAP_ANONYMOUS;
	p = mmap(p, len, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd, 0);
	if (p == MAP_FAILED)
		die("mmap of the file");
	if (fd < 0)
		madvise(p, len, named("thp") ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	return p;
}

static double touch_by(char *p, size_t len, size_t step, bool write)
{
	double start = now();
	size_t i;

	for (i = 0; i < len; i += step) {
		if (write)
			*(volatile char *)(p + i) = 1;
		else
			(void)*(volatile char *)(p + i);
	}
	return now() - start;
}

/* Touch it all, by one access for each fault that is expected; the time in all. */
static double touch(char *p, size_t len, bool write)
{
	size_t step = named("pmd") || named("thp") ? PMD_SIZE : PAGE;
	double took = touch_by(p, len, step, write);
	struct rusage before, after;

	/* One would think that file, alignment and setting did it. */
	getrusage(RUSAGE_SELF, &before);
	touch_by(p, len, PAGE, write);
	getrusage(RUSAGE_SELF, &after);
	if (after.ru_minflt + after.ru_majflt > before.ru_minflt + before.ru_majflt) {
		errno = EINVAL;
		die("not all of it is mapped as wanted");
	}
	return took;
}

static double per_fault(char *p, size_t len, bool write)
{
	return touch(p, len, write) /
	       (len / (named("pmd") || named("thp") ? PMD_SIZE : PAGE));
}

static double time_munmap(char *p, size_t len)
{
	double start = now();

	munmap(p, len);
	return (now() - start) / (len / PAGE);
}

static void gup_one(int test, char *p, size_t len, const char *get, const char *put,
		    unsigned long cmd, int batch, int flags)
{
	double best_get = 0, best_put = 0;
	char what[64];
	int i;

	for (i = 0; i < RUNS; i++) {
		struct gup_test gup = {
			.addr = (unsigned long)p,
			.size = len,
			.nr_pages_per_call = batch,
			.gup_flags = flags,
		};

		snprintf(what, sizeof(what), "%s.%d.%c", get, batch, flags ? 'w' : 'r');
		if (ioctl(test, cmd, &gup)) {
			refused(what);
			return;
		}
		if (gup.size != len) { /* what was pinned */
			errno = EFAULT;
			refused(what);
			return;
		}
		if (!i || gup.get_delta_usec < best_get)
			best_get = gup.get_delta_usec;
		if (!i || gup.put_delta_usec < best_put)
			best_put = gup.put_delta_usec;
	}
	result(what, best_get * 1000 / (len / PAGE));
	snprintf(what, sizeof(what), "%s.%d.%c", put, batch, flags ? 'w' : 'r');
	result(what, best_put * 1000 / (len / PAGE));
}

static void gup(const char *path, size_t len)
{
	int test = open("/sys/kernel/debug/gup_test", O_RDWR), fd = open_path(path), i, j;
	static const int batch[] = { 512, 1 }, flags[] = { FOLL_WRITE, 0 };
	char *p;

	if (test < 0)
		die("gup_test");
	if (fd >= 0 && strncmp(path, "/dev/", 5) && posix_fallocate(fd, 0, len))
		die("fallocate");
	p = map(fd, len, 0);
	touch(p, len, true);
	for (i = 0; i < 2; i++) {
		for (j = 0; j < 2 && !named("sync"); j++) {
			gup_one(test, p, len, "get", "put", GUP_FAST_BENCHMARK,
				batch[i], flags[j]);
			gup_one(test, p, len, "pin", "unpin", PIN_FAST_BENCHMARK,
				batch[i], flags[j]);
		}
		if (named("sync") || fd < 0)
			gup_one(test, p, len, "longterm", "unpin-longterm",
				PIN_LONGTERM_BENCHMARK, batch[i], FOLL_WRITE);
	}
}

static void fault(const char *path, size_t len, bool first)
{
	int fd = open_path(path);
	char *p;

	if (first && fd >= 0) {
		if (ftruncate(fd, 0) || posix_fallocate(fd, 0, len))
			die("fallocate");
	}
	p = map(fd, len, 0);
	result(first ? "write-unwritten" : "write-cold", per_fault(p, len, true));
	result("munmap-write", time_munmap(p, len));
	if (fd < 0)
		return;

	p = map(fd, len, 0);
	result("write-again", per_fault(p, len, true));
	result("munmap-again", time_munmap(p, len));

	p = map(fd, len, 0);
	result("read-again", per_fault(p, len, false));
	result("munmap-read", time_munmap(p, len));
}

static void profile(const char *path, size_t len)
{
	int test = open("/sys/kernel/debug/gup_test", O_RDWR), fd = open_path(path);
	struct gup_test gup = { .size = len, .nr_pages_per_call = 512, .gup_flags = FOLL_WRITE };
	char what[64], *p;
	int i;

	if (fd >= 0 && posix_fallocate(fd, 0, len))
		die("fallocate");
	for (i = 0; i < 2; i++) {
		p = map(fd, len, 0);
		snprintf(what, sizeof(what), "%s.fault-%s", name, i ? "again" : "first");
		prof_begin(what);
		touch_by(p, len, named("pmd") || named("thp") ? PMD_SIZE : PAGE, true);
		prof_end();
		touch_by(p, len, PAGE, true);
		gup.addr = (unsigned long)p;
		gup.size = len;
		if (!i && ioctl(test, GUP_FAST_BENCHMARK, &gup))
			die("gup_test");
		if (i) {
			snprintf(what, sizeof(what), "%s.gup", name);
			prof_begin(what);
			ioctl(test, GUP_FAST_BENCHMARK, &gup);
			prof_end();
			snprintf(what, sizeof(what), "%s.munmap", name);
			prof_begin(what);
		}
		munmap(p, len);
		if (i)
			prof_end();
	}
}

static void time_fork(const char *path, size_t len)
{
	static const struct { const char *name; int flags; } how[] = {
		{ "shared", MAP_SHARED }, { "private", MAP_PRIVATE },
	};
	int fd = open_path(path), i, j;

	if (fd >= 0 && posix_fallocate(fd, 0, len))
		die("fallocate");
	for (i = 0; i < (fd < 0 ? 1 : 2); i++) {
		char *p = map(fd, len, how[i].flags), what[64];
		double best = 0;

		touch(p, len, fd < 0 || how[i].flags == MAP_SHARED);
		/* What of it is copied depends on whether a page is one's own. */
		if (how[i].flags == MAP_PRIVATE)
			p[0] = 1;
		for (j = 0; j < RUNS; j++) {
			double start = now(), took;
			pid_t pid = fork();

			if (!pid)
				_exit(0);
			took = now() - start;
			waitpid(pid, NULL, 0);
			if (!j || took < best)
				best = took;
		}
		snprintf(what, sizeof(what), "fork-%s", fd < 0 ? "anon" : how[i].name);
		result(what, best / (len / PAGE));
		munmap(p, len);
	}
}

/* What clock_ns() takes, at least. */
static double clock_cost(clockid_t id)
{
	double best = 0;
	int i;

	for (i = 0; i < 100; i++) {
		double start = clock_ns(id);

		start = clock_ns(id) - start;
		if (!i || start < best)
			best = start;
	}
	return best;
}

static void direct(const char *path, const char *device)
{
	/* The time that a disk takes is not the processor's. */
	clockid_t id = strstr(device, "null") ? CLOCK_MONOTONIC : CLOCK_PROCESS_CPUTIME_ID;
	int fd = open_path(path), disk = open(device, O_RDONLY | O_DIRECT), i, j;
	static const struct { const char *name; size_t len; int n; } io[] = {
		{ "4k", PAGE, 1024 }, { "1m", MIB, 32 },
	};
	double clock = clock_cost(id);
	size_t len = 32 * MIB;
	char *p;

	if (disk < 0)
		die(device);
	if (fd >= 0 && posix_fallocate(fd, 0, len))
		die("fallocate");
	p = map(fd, len, 0);
	touch(p, len, true);
	for (i = 0; i < 2; i++) {
		double best = 0;
		char what[64];

		/* Each call by itself, as a disk answers when it likes. */
		for (j = 0; j < RUNS * io[i].n; j++) {
			size_t off = j % io[i].n * io[i].len;
			double start = clock_ns(id);

			if (pread(disk, p + off, io[i].len, off) != (ssize_t)io[i].len)
				die("pread");
			start = clock_ns(id) - start;
			if (!j || start < best)
				best = start;
		}
		snprintf(what, sizeof(what), "read-%s", io[i].name);
		result(what, best - clock);
	}
}

static void reg(const char *path, const char *device)
{
	struct ibv_device **list = ibv_get_device_list(NULL);
	static const size_t mib[] = { 1, 64 };
	struct ibv_context *context = NULL;
	struct ibv_pd *pd;
	int fd = open_path(path), i, j;
	char *p;

	for (i = 0; list && list[i]; i++)
		if (!strcmp(ibv_get_device_name(list[i]), device))
			context = ibv_open_device(list[i]);
	pd = context ? ibv_alloc_pd(context) : NULL;
	if (!pd)
		die(device);
	if (fd >= 0 && strncmp(path, "/dev/", 5) && posix_fallocate(fd, 0, 64 * MIB))
		die("fallocate");
	p = map(fd, 64 * MIB, 0);
	touch(p, 64 * MIB, true);
	for (i = 0; i < 2; i++) {
		double best_reg = 0, best_dereg = 0;
		char what[64];

		snprintf(what, sizeof(what), "register-%zum", mib[i]);
		for (j = 0; j < RUNS; j++) {
			double start = now(), took;
			struct ibv_mr *mr = ibv_reg_mr(pd, p, mib[i] * MIB, IBV_ACCESS_LOCAL_WRITE |
						       IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ);

			took = now() - start;
			if (!mr) {
				refused(what);
				break;
			}
			if (!j || took < best_reg)
				best_reg = took;
			start = now();
			ibv_dereg_mr(mr);
			took = now() - start;
			if (!j || took < best_dereg)
				best_dereg = took;
		}
		if (j < RUNS)
			continue;
		result(what, best_reg / mib[i]);
		snprintf(what, sizeof(what), "deregister-%zum", mib[i]);
		result(what, best_dereg / mib[i]);
	}
}

/* Writes @text to @file, or unmounts it without. */
static void time_admin(const char *file, const char *text)
{
	int fd = text ? open(file, O_WRONLY) : -1;
	double start = now(), cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID);

	if (text ? fd < 0 || write(fd, text, strlen(text)) < 0 : umount(file))
		die(file);
	/* Without what it waits, as for a grace period, and with it. */
	result("cpu", clock_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu);
	result("elapsed", now() - start);
}

static void hold(const char *dir, int n)
{
	char path[256];
	int i;

	for (i = 0; i < n; i++) {
		int fd;

		snprintf(path, sizeof(path), "%s/file%d", dir, i);
		fd = open_path(path);
		if (posix_fallocate(fd, 0, PMD_SIZE))
			die("fallocate");
		touch(map(fd, PMD_SIZE, 0), PMD_SIZE, true);
		close(fd);
	}
	puts("holding");
	fflush(stdout);
	pause();
}

int main(int argc, char **argv)
{
	if (argc == 4 && !strcmp(argv[1], "hold")) {
		name = "hold.pte";
		hold(argv[2], atoi(argv[3]));
		return 0;
	}
	if (argc == 4 && !strcmp(argv[1], "umount")) {
		name = argv[2];
		time_admin(argv[3], NULL);
		return 0;
	}
	if (argc != 5) {
		fputs("usage: see the head of bench.c\n", stderr);
		return 2;
	}
	name = argv[2];
	if (!strcmp(argv[1], "gup"))
		gup(argv[3], atoi(argv[4]) * MIB);
	else if (!strcmp(argv[1], "fault"))
		fault(argv[3], atoi(argv[4]) * MIB, true);
	else if (!strcmp(argv[1], "refault"))
		fault(argv[3], atoi(argv[4]) * MIB, false);
	else if (!strcmp(argv[1], "profile"))
		profile(argv[3], atoi(argv[4]) * MIB);
	else if (!strcmp(argv[1], "fork"))
		time_fork(argv[3], atoi(argv[4]) * MIB);
	else if (!strcmp(argv[1], "direct"))
		direct(argv[3], argv[4]);
	else if (!strcmp(argv[1], "register"))
		reg(argv[3], argv[4]);
	else if (!strcmp(argv[1], "write"))
		time_admin(argv[3], argv[4]);
	else
		return 2;
	return 0;
}

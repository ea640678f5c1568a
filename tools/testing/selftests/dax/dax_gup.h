/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the tests of get_user_pages() on DAX mappings share: mappings whose
 * leaves are of the size they claim, data to compare, and the other end of I/O.
 *
 * The tests write to what they are given, so nothing is guessed:
 *
 *   DAX_GUP_EXT4, DAX_GUP_XFS   directory on that filesystem, -o dax=always. For
 *                               its files to get PMDs: 2 MiB stripes at mkfs
 *                               (ext4 -E stride=512,stripe_width=512,
 *                               xfs -d su=2m,sw=1,agcount=2), on a 2 MiB aligned namespace
 *   DAX_GUP_DAXDEV              device-dax of 2 MiB alignment
 *   DAX_GUP_DAXDEV_PTE          device-dax of 4 KiB alignment
 *   DAX_GUP_DISK                block device, at least 64 MiB, that does direct
 *                               I/O in units of 512 bytes
 */
#ifndef DAX_GUP_H
#define DAX_GUP_H

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "kselftest_harness.h"
#include "dax_data.h"

/* An emulator on a busy machine, with a debugging kernel, takes its time. */
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT 240

/* Of XFS, whose header is no part of the kernel's for programs. */
struct xfs_swapext {
	__s64 version, target, tmp, offset, length;
	char pad[16];
	__u64 stat[17];
};

struct xfs_resblks {
	__u64 resblks, resblks_avail;
};

#define XFS_IOC_SET_RESBLKS	_IOWR('X', 114, struct xfs_resblks)

#define XFS_IOC_SWAPEXT	_IOWR('X', 109, struct xfs_swapext)

/* Seeds of the patterns; a test takes FIRST_SEED and what follows for its own. */
enum { FILE_SEED = 1, PEER_SEED, VICTIM_SEED, FIRST_SEED = 16 };

/* What a variant says about its mapping. */
struct dax_kind {
	const char *env;	/* where it lives */
	const char *peer;	/* another filesystem with DAX */
	int flags;		/* of mmap() */
	bool pmd;		/* size of the leaves */
	bool device;		/* device-dax */
};

/* A mapping under test. */
struct dax_map {
	const struct dax_kind *kind;
	char path[PATH_MAX];
	int fd;
	int disk;
	size_t len;
	char *addr;
	bool private;
};

#define EXT4	.env = "DAX_GUP_EXT4", .peer = "DAX_GUP_XFS"
#define XFS	.env = "DAX_GUP_XFS", .peer = "DAX_GUP_EXT4"
#define RAW_EXT4 .env = "DAX_GUP_RAW_EXT4", .peer = "DAX_GUP_EXT4"
#define RAW_XFS	.env = "DAX_GUP_RAW_XFS", .peer = "DAX_GUP_XFS"
#define SYNC	(MAP_SHARED_VALIDATE | MAP_SYNC)

#ifndef DAX_OWN_FIXTURE
/* Each program has its own setup; the parent, which unlinks the file, shares this. */
FIXTURE(dax) {
	struct dax_map m;
	char *want;		/* what the mapping ought to hold */
	long before;		/* the counter of pins */
};

FIXTURE_VARIANT(dax) {
	struct dax_kind kind;
};

FIXTURE_VARIANT_ADD(dax, ext4_pmd_shared) {
	.kind = { EXT4, .flags = MAP_SHARED, .pmd = true },
};

FIXTURE_VARIANT_ADD(dax, ext4_pmd_private) {
	.kind = { EXT4, .flags = MAP_PRIVATE, .pmd = true },
};

FIXTURE_VARIANT_ADD(dax, ext4_pmd_sync) {
	.kind = { EXT4, .flags = SYNC, .pmd = true },
};

FIXTURE_VARIANT_ADD(dax, ext4_pte_shared) {
	.kind = { EXT4, .flags = MAP_SHARED },
};

FIXTURE_VARIANT_ADD(dax, ext4_pte_private) {
	.kind = { EXT4, .flags = MAP_PRIVATE },
};

FIXTURE_VARIANT_ADD(dax, ext4_pte_sync) {
	.kind = { EXT4, .flags = SYNC },
};

FIXTURE_VARIANT_ADD(dax, xfs_pmd_shared) {
	.kind = { XFS, .flags = MAP_SHARED, .pmd = true },
};

FIXTURE_VARIANT_ADD(dax, xfs_pmd_private) {
	.kind = { XFS, .flags = MAP_PRIVATE, .pmd = true },
};

FIXTURE_VARIANT_ADD(dax, xfs_pmd_sync) {
	.kind = { XFS, .flags = SYNC, .pmd = true },
};

FIXTURE_VARIANT_ADD(dax, xfs_pte_shared) {
	.kind = { XFS, .flags = MAP_SHARED },
};

FIXTURE_VARIANT_ADD(dax, xfs_pte_private) {
	.kind = { XFS, .flags = MAP_PRIVATE },
};

FIXTURE_VARIANT_ADD(dax, xfs_pte_sync) {
	.kind = { XFS, .flags = SYNC },
};

#ifndef DAX_FILES_ONLY
FIXTURE_VARIANT_ADD(dax, devdax_pmd) {
	.kind = {
		.env = "DAX_GUP_DAXDEV",
		.peer = "DAX_GUP_EXT4",
		.flags = MAP_SHARED,
		.pmd = true,
		.device = true,
	},
};

FIXTURE_VARIANT_ADD(dax, devdax_pte) {
	.kind = {
		.env = "DAX_GUP_DAXDEV_PTE",
		.peer = "DAX_GUP_EXT4",
		.flags = MAP_SHARED,
		.device = true,
	},
};
#endif

/* In the parent: the process that may have pinned pages of the file is gone. */
FIXTURE_TEARDOWN_PARENT(dax)
{
	if (self->m.kind && !self->m.kind->device)
		unlink(self->m.path);
}
#endif /* DAX_OWN_FIXTURE */

static inline void expect_same(struct __test_metadata *_metadata, const char *what,
			       const void *want, const void *got, size_t len)
{
	const unsigned char *w = want, *g = got;
	size_t i = 0;

	if (!memcmp(want, got, len))
		return;
	while (w[i] == g[i])
		i++;
	ASSERT_EQ(w[i], g[i]) {
		TH_LOG("%s: first difference at %#zx of %#zx bytes", what, i, len);
	}
}

static inline void expect_zero(struct __test_metadata *_metadata, const char *what,
			       const void *got, size_t len)
{
	void *zero = calloc(1, len);

	ASSERT_NE(NULL, zero);
	expect_same(_metadata, what, zero, got, len);
	free(zero);
}

/* Memory that is not DAX, as direct I/O wants it. */
static inline char *buffer(struct __test_metadata *_metadata, size_t len)
{
	char *buf = mmap(NULL, len, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	ASSERT_NE(MAP_FAILED, buf);
	return buf;
}

/* Returns -1 where there is no such counter. */
static inline long read_vmstat(const char *name)
{
	FILE *f = fopen("/proc/vmstat", "r");
	char key[64];
	long val, ret = -1;

	while (f && fscanf(f, "%63s %ld", key, &val) == 2)
		if (!strcmp(key, name))
			ret = val;
	if (f)
		fclose(f);
	return ret;
}

/* How many pages of a range are in all of the categories and in none of the others. */
static inline long scan(const void *addr, size_t len, __u64 in, __u64 out)
{
	struct page_region vec[64];
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.start = (uintptr_t)addr,
		.end = (uintptr_t)addr + len,
		.vec = (uintptr_t)vec,
		.vec_len = ARRAY_SIZE(vec),
		.category_inverted = out,
		.category_mask = in | out,
		.return_mask = in,
	};
	int fd = open("/proc/self/pagemap", O_RDONLY);
	long nr = 0;
	int i, n;

	do {
		n = ioctl(fd, PAGEMAP_SCAN, &arg);
		for (i = 0; i < n; i++)
			nr += (vec[i].end - vec[i].start) / PAGE;
		arg.start = arg.walk_end;
	} while (n > 0 && arg.walk_end < arg.end);
	close(fd);
	return n < 0 ? -errno : nr;
}

/* The page tables must map all of the range, in leaves of the size the variant says. */
static inline void expect_leaves(struct __test_metadata *_metadata, struct dax_map *m,
				 const void *addr, size_t len)
{
	__u64 huge = m->kind->pmd ? PAGE_IS_HUGE : 0;

	ASSERT_EQ((long)(len / PAGE),
		  scan(addr, len, PAGE_IS_PRESENT | huge, PAGE_IS_HUGE & ~huge)) {
		TH_LOG("%s: not mapped by %s alone", m->path, huge ? "PMDs" : "PTEs");
	}
}

/* Give every page a leaf. */
static inline void touch(struct dax_map *m)
{
	size_t off;

	for (off = 0; off < m->len; off += PAGE)
		asm volatile("" : : "r" (m->addr[off]));
}

/* A reserved range of addresses that starts where @kind gets its leaves from. */
static inline char *dax_reserve(struct __test_metadata *_metadata,
				const struct dax_kind *kind, size_t len)
{
	char *addr = mmap(NULL, len + 2 * PMD_SIZE, PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	ASSERT_NE(MAP_FAILED, addr);
	addr += -(uintptr_t)addr & (PMD_SIZE - 1);
	/* A PMD can only map what lies as far into 2 MiB in memory as in the file. */
	if (!kind->pmd)
		addr += PAGE;
	return addr;
}

static inline char *dax_mmap(struct __test_metadata *_metadata, struct dax_map *m,
			     const void *where, int flags)
{
	char *addr = mmap((void *)where, m->len, PROT_READ | PROT_WRITE,
			  flags | MAP_FIXED, m->fd, 0);

	ASSERT_NE(MAP_FAILED, addr) {
		TH_LOG("mmap %s: %s", m->path, strerror(errno));
	}
	return addr;
}

static inline int open_file(struct __test_metadata *_metadata, const char *dir,
			    const char *name, char *path)
{
	int fd;

	snprintf(path, PATH_MAX, "%s/dax_gup.%s", dir, name);
	unlink(path);
	fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
	ASSERT_LE(0, fd) {
		TH_LOG("%s: %s", path, strerror(errno));
	}
	set_extent_size(fd);
	return fd;
}

static inline void write_pattern(struct __test_metadata *_metadata, int fd,
				 size_t len, unsigned int seed)
{
	char *buf = buffer(_metadata, len);

	fill(buf, len, seed);
	ASSERT_EQ(0, fallocate(fd, 0, 0, len));
	ASSERT_EQ((ssize_t)len, pwrite(fd, buf, len, 0));
	munmap(buf, len);
}

static inline bool dax_env(struct __test_metadata *_metadata, const struct dax_kind *kind)
{
	const char *missing = NULL;

	if (!getenv(kind->env))
		missing = kind->env;
	else if (!getenv(kind->peer))
		missing = kind->peer;
	else if (!getenv("DAX_GUP_DISK"))
		missing = "DAX_GUP_DISK";
	if (missing)
		SKIP(return false, "%s is not set", missing);
	return true;
}

/* Open the file or device, and the disk. False: the test is skipped. */
static inline bool dax_open(struct __test_metadata *_metadata, struct dax_map *m,
			    const struct dax_kind *kind, size_t len)
{
	unsigned long pmd_size = 0;
	struct statx stx;
	FILE *f;

	if (!dax_env(_metadata, kind))
		return false;

	f = fopen("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", "r");
	if (!f || fscanf(f, "%lu", &pmd_size) != 1 || pmd_size != PMD_SIZE)
		SKIP(return false, "needs PMDs of 2 MiB, has %lu", pmd_size);
	fclose(f);

	m->kind = kind;
	m->len = len;
	m->private = (kind->flags & MAP_TYPE) == MAP_PRIVATE;
	m->disk = open(getenv("DAX_GUP_DISK"), O_RDWR | O_DIRECT);
	ASSERT_LE(0, m->disk) {
		TH_LOG("DAX_GUP_DISK: %s", strerror(errno));
	}

	if (kind->device) {
		snprintf(m->path, sizeof(m->path), "%s", getenv(kind->env));
		m->fd = open(m->path, O_RDWR);
		ASSERT_LE(0, m->fd) {
			TH_LOG("%s: %s", m->path, strerror(errno));
		}
	} else {
		m->fd = open_file(_metadata, getenv(kind->env), "file", m->path);
		ASSERT_EQ(0, statx(m->fd, "", AT_EMPTY_PATH, 0, &stx));
		ASSERT_TRUE(stx.stx_attributes & STATX_ATTR_DAX) {
			TH_LOG("%s: no DAX there", m->path);
		}
	}
	return true;
}

/*
 * Give the file its pattern, look that mapping it makes the leaves that the
 * variant is named for, then map it afresh: a test starts with no leaf at all.
 */
static inline void map_setup(struct __test_metadata *_metadata, struct dax_map *m,
			     const struct dax_kind *kind, size_t len)
{
	if (!dax_open(_metadata, m, kind, len))
		return;
	if (!kind->device)
		write_pattern(_metadata, m->fd, len, FILE_SEED);

	m->addr = dax_mmap(_metadata, m, dax_reserve(_metadata, kind, len), kind->flags);
	if (kind->device)
		fill(m->addr, len, FILE_SEED);
	touch(m);
	expect_leaves(_metadata, m, m->addr, len);
	m->addr = dax_mmap(_metadata, m, m->addr, kind->flags);
}

/* What the file or device holds, as seen from outside the mapping. */
static inline void expect_file(struct __test_metadata *_metadata, struct dax_map *m,
			       const char *want)
{
	char *got;

	if (m->kind->device) {
		got = mmap(NULL, m->len, PROT_READ, MAP_SHARED, m->fd, 0);
		ASSERT_NE(MAP_FAILED, got);
	} else {
		got = buffer(_metadata, m->len);
		ASSERT_EQ((ssize_t)m->len, pread(m->fd, got, m->len, 0));
	}
	expect_same(_metadata, "file", want, got, m->len);
	munmap(got, m->len);
}

/*
 * All of the mapping must hold @want, and so must what it maps. A private
 * mapping must have left that as it was.
 */
static inline void expect_all(struct __test_metadata *_metadata, struct dax_map *m,
			      char *want)
{
	expect_same(_metadata, "mapping", want, m->addr, m->len);
	if (m->private)
		fill(want, m->len, FILE_SEED);
	expect_file(_metadata, m, want);
}

static inline char *file_pattern(struct __test_metadata *_metadata, struct dax_map *m)
{
	char *buf = buffer(_metadata, m->len);

	fill(buf, m->len, FILE_SEED);
	return buf;
}

/* Put the pattern of @seed on the disk, and in @want. */
static inline void disk_put(struct __test_metadata *_metadata, int disk, size_t len,
			    unsigned int seed, void *want)
{
	char *buf = buffer(_metadata, len);

	fill(buf, len, seed);
	ASSERT_EQ((ssize_t)len, pwrite(disk, buf, len, 0));
	if (want)
		memcpy(want, buf, len);
	munmap(buf, len);
}

static inline void disk_expect(struct __test_metadata *_metadata, int disk,
			       const void *want, size_t len)
{
	char *buf = buffer(_metadata, len);

	ASSERT_EQ((ssize_t)len, pread(disk, buf, len, 0));
	expect_same(_metadata, "disk", want, buf, len);
	munmap(buf, len);
}

static inline void expect_exit(struct __test_metadata *_metadata, pid_t pid, int code)
{
	int status;

	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	ASSERT_TRUE(WIFEXITED(status));
	ASSERT_EQ(code, WEXITSTATUS(status));
}

static inline void kill_child(struct __test_metadata *_metadata, pid_t pid)
{
	ASSERT_EQ(0, kill(pid, SIGKILL));
	ASSERT_EQ(pid, waitpid(pid, NULL, 0));
}

static inline long futex(__u32 *addr, int op, __u32 val)
{
	struct timespec timeout = { .tv_sec = 10 };

	return syscall(SYS_futex, addr, op, val, op == FUTEX_WAIT ? &timeout : NULL,
		       NULL, 0);
}

/* A pipe that holds the pages of a range. Short enough to fit in one. */
static inline void pipe_fill(struct __test_metadata *_metadata, int pipefd[2],
			     void *addr, size_t len)
{
	struct iovec iov = { .iov_base = addr, .iov_len = len };

	ASSERT_EQ(0, pipe(pipefd));
	ASSERT_LE((int)(len + PAGE), fcntl(pipefd[1], F_SETPIPE_SZ, len + PAGE));
	ASSERT_EQ((ssize_t)len, vmsplice(pipefd[1], &iov, 1, 0)) {
		TH_LOG("vmsplice: %s", strerror(errno));
	}
}

static inline void pipe_expect(struct __test_metadata *_metadata, int pipefd[2],
			       const void *want, size_t len)
{
	char *buf = buffer(_metadata, len);
	size_t done = 0;
	ssize_t n;

	while (done < len) {
		n = read(pipefd[0], buf + done, len - done);
		ASSERT_LT(0, n);
		done += n;
	}
	expect_same(_metadata, "pipe", want, buf, len);
	munmap(buf, len);
	close(pipefd[0]);
	close(pipefd[1]);
}

/* The filesystem is not to hold back blocks: it could be those that a file lost. */
static inline void no_reserve(int fd)
{
	struct xfs_resblks none = {};
	char path[PATH_MAX], link[PATH_MAX];
	struct stat st;
	ssize_t len;
	int attr;

	if (!ioctl(fd, XFS_IOC_SET_RESBLKS, &none) || fstat(fd, &st))
		return;
	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u", major(st.st_dev), minor(st.st_dev));
	len = readlink(path, link, sizeof(link) - 1);
	if (len < 0)
		return;
	link[len] = 0;
	snprintf(path, sizeof(path), "/sys/fs/ext4/%.64s/reserved_clusters",
		 strrchr(link, '/') + 1);
	attr = open(path, O_WRONLY);
	if (attr >= 0) {
		write(attr, "0", 1);
		close(attr);
	}
}

#endif /* DAX_GUP_H */

// SPDX-License-Identifier: GPL-2.0
/*
 * As dax_gup, for what only a file has: holes, unwritten extents, and what watches
 * over writes to it.
 */
#include <linux/userfaultfd.h>

#define DAX_FILES_ONLY
#include "dax_gup.h"

#define SMALL_LEN	(4 * MB)

/* The file is one hole, and the mapping has not been looked at. */
FIXTURE_SETUP(dax)
{
	struct dax_map *m = &self->m;

	if (!dax_open(_metadata, m, &variant->kind, SMALL_LEN))
		return;
	ASSERT_EQ(0, ftruncate(m->fd, m->len));
	m->addr = dax_mmap(_metadata, m, dax_reserve(_metadata, m->kind, m->len),
			   m->kind->flags);
	self->want = buffer(_metadata, m->len);
}

static blkcnt_t blocks(struct dax_map *m)
{
	struct stat st;

	return fstat(m->fd, &st) ? -1 : st.st_blocks;
}

static void expect_file_or_hole(struct __test_metadata *_metadata, struct dax_map *m,
				char *want)
{
	expect_same(_metadata, "mapping", want, m->addr, m->len);
	if (m->private)
		memset(want, 0, m->len);
	expect_file(_metadata, m, want);
}

/* Everybody who reads a hole through its pages gets the zero page, big or small. */
TEST_F(dax, hole_reads_zero)
{
	size_t off = PMD_SIZE - 3 * SECTOR, len = 64 * KB;
	struct dax_map *m = &self->m;
	struct iovec local, remote = { .iov_base = m->addr + off, .iov_len = len };
	char *buf = buffer(_metadata, len);
	__u64 huge = m->kind->pmd ? PAGE_IS_HUGE : 0;
	int pipefd[2];

	fill(buf, len, FIRST_SEED);
	local = (struct iovec){ .iov_base = buf, .iov_len = len };
	ASSERT_EQ((ssize_t)len, process_vm_readv(getpid(), &local, 1, &remote, 1, 0));
	expect_zero(_metadata, "process_vm_readv", buf, len);
	ASSERT_LE((long)(len / PAGE),
		  scan(m->addr, m->len, PAGE_IS_PFNZERO | huge, PAGE_IS_HUGE & ~huge));

	pipe_fill(_metadata, pipefd, m->addr + off, len);
	pipe_expect(_metadata, pipefd, self->want + off, len);

	disk_put(_metadata, m->disk, m->len, FIRST_SEED, NULL);
	ASSERT_EQ((ssize_t)m->len, pwrite(m->disk, m->addr, m->len, 0));
	disk_expect(_metadata, m->disk, self->want, m->len);

	ASSERT_EQ(0, blocks(m));
	expect_file_or_hole(_metadata, m, self->want);
}

/* The zero page must give way before a device writes to it. */
static void hole_write(struct __test_metadata *_metadata, struct dax_map *m, char *want,
		       bool read_first)
{
	size_t off = PMD_SIZE - 3 * SECTOR, len = 64 * KB + SECTOR;

	if (read_first)
		expect_zero(_metadata, "hole", m->addr, m->len);
	disk_put(_metadata, m->disk, len, FIRST_SEED, want + off);
	ASSERT_EQ((ssize_t)len, pread(m->disk, m->addr + off, len, 0));
	ASSERT_EQ(m->private, !blocks(m));
	expect_file_or_hole(_metadata, m, want);
}

TEST_F(dax, hole_write)
{
	hole_write(_metadata, &self->m, self->want, false);
}

TEST_F(dax, hole_write_after_read)
{
	hole_write(_metadata, &self->m, self->want, true);
}

/* Not an error that only GUP knows, whatever it finds. */
TEST_F(dax, hole_futex)
{
	struct dax_map *m = &self->m;
	__u32 *word = (__u32 *)(m->addr + PMD_SIZE + 64);

	ASSERT_EQ(0, mprotect(m->addr, m->len, PROT_READ));
	ASSERT_EQ(0, *word);
	ASSERT_EQ(-1, futex(word, FUTEX_WAIT, 1));
	ASSERT_EQ(EFAULT, errno);
	ASSERT_EQ(-1, futex(word, FUTEX_WAKE, 1));
	ASSERT_EQ(EFAULT, errno);

	ASSERT_EQ(0, mprotect(m->addr, m->len, PROT_READ | PROT_WRITE));
	ASSERT_EQ(-1, futex(word, FUTEX_WAIT, 1));
	ASSERT_EQ(EAGAIN, errno);
	ASSERT_EQ(0, futex(word, FUTEX_WAKE, 1));
}

TEST_F(dax, unwritten)
{
	size_t off = PMD_SIZE - 3 * SECTOR, len = 64 * KB + SECTOR;
	struct dax_map *m = &self->m;
	int fd;

	ASSERT_EQ(0, fallocate(m->fd, 0, 0, m->len));
	disk_put(_metadata, m->disk, m->len, FIRST_SEED, NULL);
	ASSERT_EQ((ssize_t)MB, pwrite(m->disk, m->addr + SECTOR, MB, 0));
	disk_expect(_metadata, m->disk, self->want, MB);

	disk_put(_metadata, m->disk, len, FIRST_SEED, self->want + off);
	ASSERT_EQ((ssize_t)len, pread(m->disk, m->addr + off, len, 0));
	expect_file_or_hole(_metadata, m, self->want);

	/* And so it is on the medium. */
	ASSERT_EQ(0, munmap(m->addr, m->len));
	ASSERT_EQ(0, fsync(m->fd));
	ASSERT_EQ(0, posix_fadvise(m->fd, 0, 0, POSIX_FADV_DONTNEED));
	fd = open("/proc/sys/vm/drop_caches", O_WRONLY);
	ASSERT_EQ(1, write(fd, "3", 1));
	close(fd);
	expect_file(_metadata, m, self->want);
}

/* Write-protect all of the mapping, asynchronously. */
static bool uffd_protect(struct __test_metadata *_metadata, struct dax_map *m)
{
	struct uffdio_register reg = {
		.range = { .start = (uintptr_t)m->addr, .len = m->len },
		.mode = UFFDIO_REGISTER_MODE_WP,
	};
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED,
	};
	struct uffdio_writeprotect wp = {
		.range = reg.range,
		.mode = UFFDIO_WRITEPROTECT_MODE_WP,
	};
	int uffd = syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);

	ASSERT_LE(0, uffd);
	if (ioctl(uffd, UFFDIO_API, &api))
		SKIP(return false, "no UFFD_FEATURE_WP_ASYNC: needs CONFIG_PTE_MARKER_UFFD_WP");
	ASSERT_EQ(0, ioctl(uffd, UFFDIO_REGISTER, &reg));
	ASSERT_EQ(0, ioctl(uffd, UFFDIO_WRITEPROTECT, &wp));
	return true;
}

/* What was pinned for writing has been written, and nothing else. */
static void uffd_expect(struct __test_metadata *_metadata, struct dax_map *m, char *want)
{
	ASSERT_EQ(0, scan(m->addr, m->len, PAGE_IS_WRITTEN, 0));
	ASSERT_EQ((ssize_t)MB, pwrite(m->disk, m->addr, MB, 16 * MB));
	ASSERT_EQ(0, scan(m->addr, m->len, PAGE_IS_WRITTEN, 0));

	disk_put(_metadata, m->disk, PAGE, FIRST_SEED + 1, want);
	ASSERT_EQ((ssize_t)PAGE, pread(m->disk, m->addr, PAGE, 0));
	disk_put(_metadata, m->disk, PAGE, FIRST_SEED + 2, want + 2 * MB);
	ASSERT_EQ((ssize_t)PAGE, pread(m->disk, m->addr + 2 * MB, PAGE, 0));
	ASSERT_EQ(2, scan(m->addr, m->len, PAGE_IS_WRITTEN, 0));
	expect_file_or_hole(_metadata, m, want);
}

/* Protected PMDs are split, and that leaves markers behind. */
TEST_F_TIMEOUT(dax, uffd_wp, 30)
{
	struct dax_map *m = &self->m;

	disk_put(_metadata, m->disk, m->len, FIRST_SEED, self->want);
	ASSERT_EQ((ssize_t)m->len, pread(m->disk, m->addr, m->len, 0));
	if (uffd_protect(_metadata, m))
		uffd_expect(_metadata, m, self->want);
}

/* Markers in a hole that was never looked at. */
TEST_F_TIMEOUT(dax, uffd_wp_hole, 30)
{
	struct dax_map *m = &self->m;

	if (uffd_protect(_metadata, m))
		uffd_expect(_metadata, m, self->want);
}

TEST_HARNESS_MAIN

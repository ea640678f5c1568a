// SPDX-License-Identifier: GPL-2.0
/*
 * The proof that those who take pages of user memory know a device's page from any
 * other, by the devmap bit in the page table: the devmap_pinned counter must have
 * seen it. All of these cases fail where nothing counts.
 */
#include "dax_gup.h"

#define SMALL_LEN	(4 * MB)

static long count(struct __test_metadata *_metadata)
{
	long nr = read_vmstat("devmap_pinned");

	ASSERT_LE(0, nr) {
		TH_LOG("no devmap_pinned in /proc/vmstat");
	}
	return nr;
}

FIXTURE_SETUP(dax)
{
	map_setup(_metadata, &self->m, &variant->kind, SMALL_LEN);
	if (self->m.addr)
		self->before = count(_metadata);
}

/* Counted since the last call or the setup: at least @len, or nothing at all. */
static void expect_grown(struct __test_metadata *_metadata, long *before, size_t len)
{
	long pages = len / PAGE, now = count(_metadata), grown = now - *before;

	*before = now;
	ASSERT_TRUE(pages ? grown >= pages : !grown) {
		TH_LOG("pinned %ld pages of the device, counted %ld", pages, grown);
	}
}

#define expect_pinned(len) expect_grown(_metadata, &self->before, len)

TEST_F(dax, counts_odirect_write)
{
	struct dax_map *m = &self->m;

	/* The leaves come into being as they are pinned, then they are there. */
	ASSERT_EQ((ssize_t)m->len, pwrite(m->disk, m->addr, m->len, 0));
	expect_pinned(m->len);
	ASSERT_EQ((ssize_t)m->len, pwrite(m->disk, m->addr, m->len, 0));
	expect_pinned(m->len);
	/* Part of a page is a page. */
	ASSERT_EQ((ssize_t)SECTOR, pwrite(m->disk, m->addr + SECTOR, SECTOR, 0));
	expect_pinned(PAGE);
	expect_leaves(_metadata, m, m->addr, m->len);
}

TEST_F(dax, counts_odirect_read)
{
	struct dax_map *m = &self->m;
	unsigned int i;

	/* A private mapping gets other memory first, which must not be counted. */
	for (i = 0; i < 2; i++) {
		ASSERT_EQ((ssize_t)m->len, pread(m->disk, m->addr, m->len, 0));
		expect_pinned(m->private ? 0 : m->len);
	}
	if (!m->private)
		expect_leaves(_metadata, m, m->addr, m->len);
}

/* Copy-on-write drops the bit, and nobody else's. */
TEST_F(dax, counts_after_write)
{
	struct dax_map *m = &self->m;

	ASSERT_EQ((ssize_t)m->len, pwrite(m->disk, m->addr, m->len, 0));
	expect_pinned(m->len);
	m->addr[PMD_SIZE] = 1;
	ASSERT_EQ((ssize_t)PAGE, pwrite(m->disk, m->addr + PMD_SIZE, PAGE, 0));
	expect_pinned(m->private ? 0 : PAGE);
	ASSERT_EQ((ssize_t)(64 * KB),
		  pwrite(m->disk, m->addr + PMD_SIZE + PAGE, 64 * KB, 0));
	expect_pinned(64 * KB);
}

TEST_F(dax, counts_vmsplice)
{
	struct dax_map *m = &self->m;
	char *want = file_pattern(_metadata, m);
	int pipefd[2];

	pipe_fill(_metadata, pipefd, m->addr + PMD_SIZE - 32 * KB, 64 * KB);
	expect_pinned(64 * KB);
	pipe_expect(_metadata, pipefd, want + PMD_SIZE - 32 * KB, 64 * KB);
}

TEST_F(dax, counts_process_vm)
{
	struct dax_map *m = &self->m;
	char *buf = buffer(_metadata, MB);
	struct iovec local = { .iov_base = buf, .iov_len = MB };
	struct iovec remote = { .iov_base = m->addr + PMD_SIZE - MB / 2, .iov_len = MB };

	ASSERT_EQ((ssize_t)MB, process_vm_readv(getpid(), &local, 1, &remote, 1, 0));
	expect_pinned(MB);
	ASSERT_EQ((ssize_t)MB, process_vm_writev(getpid(), &local, 1, &remote, 1, 0));
	expect_pinned(m->private ? 0 : MB);
}

TEST_F(dax, counts_proc_mem)
{
	struct dax_map *m = &self->m;
	char buf[8 * KB];
	int fd = open("/proc/self/mem", O_RDWR);

	ASSERT_LE(0, fd);
	ASSERT_EQ((ssize_t)sizeof(buf), pread(fd, buf, sizeof(buf), (off_t)m->addr));
	expect_pinned(sizeof(buf));
	ASSERT_EQ((ssize_t)sizeof(buf), pwrite(fd, buf, sizeof(buf), (off_t)m->addr));
	expect_pinned(m->private ? 0 : sizeof(buf));
}

TEST_F(dax, counts_futex)
{
	struct dax_map *m = &self->m;

	/* A futex asks for a page to write to. */
	ASSERT_EQ(0, futex((__u32 *)m->addr, FUTEX_WAKE, 1));
	expect_pinned(m->private ? 0 : PAGE);
	ASSERT_EQ(0, mprotect(m->addr, m->len, PROT_READ));
	ASSERT_EQ(0, futex((__u32 *)(m->addr + PMD_SIZE), FUTEX_WAKE, 1));
	expect_pinned(PAGE);
}

/* What happens to a leaf in its life must not cost it the bit. */

static void pin_for_read(struct __test_metadata *_metadata, struct dax_map *m)
{
	ASSERT_EQ((ssize_t)m->len, pwrite(m->disk, m->addr, m->len, 0));
}

TEST_F(dax, counts_after_mprotect)
{
	struct dax_map *m = &self->m;

	touch(m);
	ASSERT_EQ(0, mprotect(m->addr, m->len, PROT_NONE));
	ASSERT_EQ(0, mprotect(m->addr, m->len, PROT_READ));
	expect_leaves(_metadata, m, m->addr, m->len);
	pin_for_read(_metadata, m);
	expect_pinned(m->len);
	ASSERT_EQ(0, mprotect(m->addr, m->len, PROT_READ | PROT_WRITE));
	pin_for_read(_metadata, m);
	expect_pinned(m->len);
}

TEST_F(dax, counts_after_mremap)
{
	struct dax_map *m = &self->m;
	char *to = dax_reserve(_metadata, m->kind, m->len);

	touch(m);
	ASSERT_EQ(to, mremap(m->addr, m->len, m->len, MREMAP_MAYMOVE | MREMAP_FIXED, to));
	m->addr = to;
	expect_leaves(_metadata, m, m->addr, m->len);
	pin_for_read(_metadata, m);
	expect_pinned(m->len);
}

/* Before the child touches it, if fork copied the leaves, and in the parent. */
TEST_F(dax, counts_after_fork)
{
	struct dax_map *m = &self->m;
	pid_t pid;

	touch(m);
	if (m->private)		/* has an anon_vma, or fork would copy nothing */
		m->addr[0] = 1;
	pid = fork_child();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(pwrite(m->disk, m->addr + MB, MB, 0) == MB ? 0 : 1);
	expect_exit(_metadata, pid, 0);
	expect_pinned(MB);
	ASSERT_EQ((ssize_t)MB, pwrite(m->disk, m->addr + MB, MB, 0));
	expect_pinned(MB);
}

/* Writeback write-protects and cleans. */
TEST_F(dax, counts_after_fsync)
{
	struct dax_map *m = &self->m;

	touch(m);
	if (!m->private)
		memset(m->addr, 1, m->len);
	if (!m->kind->device)
		ASSERT_EQ(0, fsync(m->fd));
	expect_leaves(_metadata, m, m->addr, m->len);
	pin_for_read(_metadata, m);
	expect_pinned(m->len);
	if (!m->private) {
		ASSERT_EQ((ssize_t)m->len, pread(m->disk, m->addr, m->len, 0));
		expect_pinned(m->len);
	}
}

TEST_F(dax, counts_after_soft_dirty)
{
	struct dax_map *m = &self->m;
	int fd = open("/proc/self/clear_refs", O_WRONLY);

	touch(m);
	ASSERT_EQ(1, write(fd, "4", 1));
	expect_leaves(_metadata, m, m->addr, m->len);
	pin_for_read(_metadata, m);
	expect_pinned(m->len);
}

/* Neither anonymous memory nor the zero page in a hole is a device's. */
TEST_F(dax, counts_not_others)
{
	struct dax_map *m = &self->m;
	char *buf = buffer(_metadata, MB);
	struct iovec local = { .iov_base = buf, .iov_len = MB / 2 };
	struct iovec remote = { .iov_base = buf + MB / 2, .iov_len = MB / 2 };
	int pipefd[2];

	disk_put(_metadata, m->disk, MB, FIRST_SEED, NULL);
	ASSERT_EQ((ssize_t)MB, pread(m->disk, buf, MB, 0));
	ASSERT_EQ((ssize_t)MB, pwrite(m->disk, buf, MB, 0));
	ASSERT_EQ((ssize_t)(MB / 2),
		  process_vm_readv(getpid(), &local, 1, &remote, 1, 0));
	pipe_fill(_metadata, pipefd, buf, 64 * KB);
	pipe_expect(_metadata, pipefd, buf, 64 * KB);
	ASSERT_EQ(0, futex((__u32 *)buf, FUTEX_WAKE, 1));
	expect_pinned(0);

	if (!m->kind->device) {
		ASSERT_EQ(0, ftruncate(m->fd, 0));
		ASSERT_EQ(0, ftruncate(m->fd, m->len));
		pin_for_read(_metadata, m);
		expect_pinned(0);
	}
}

TEST_HARNESS_MAIN

// SPDX-License-Identifier: GPL-2.0
/*
 * Long-term pins of files: buffers that are registered with io_uring, in a mapping
 * with MAP_SYNC. The file keeps its blocks, and what would take one away fails.
 *
 * Expected on stock: all pins are refused. Other mappings than MAP_SYNC have to be
 * refused still: these variants of "register" pass there.
 */
#define DAX_FILES_ONLY
#include <linux/fiemap.h>
#include <linux/io_uring.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/statvfs.h>

#include "../../../../mm/gup_test.h"
#include "dax_gup.h"

#define LEN		(4 * MB)
#define DISK_OFF	(16 * MB)
#define SYSCTL		"/proc/sys/vm/dax_longterm"

struct ring {
	int fd;
	char *sq;
	size_t sq_len, sqes_len;
	unsigned int *sq_tail, *sq_mask, *sq_array, *cq_head, *cq_tail, *cq_mask;
	struct io_uring_cqe *cqes;
	struct io_uring_sqe *sqes;
};

static void ring_open(struct __test_metadata *_metadata, struct ring *r)
{
	struct io_uring_params p = {};

	r->fd = syscall(SYS_io_uring_setup, 4, &p);
	ASSERT_LE(0, r->fd);
	ASSERT_TRUE(p.features & IORING_FEAT_SINGLE_MMAP);
	r->sq_len = p.cq_off.cqes + p.cq_entries * sizeof(*r->cqes);
	r->sq = mmap(NULL, r->sq_len, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd,
		     IORING_OFF_SQ_RING);
	ASSERT_NE(MAP_FAILED, r->sq);
	r->sqes_len = p.sq_entries * sizeof(*r->sqes);
	r->sqes = mmap(NULL, r->sqes_len, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd,
		       IORING_OFF_SQES);
	ASSERT_NE(MAP_FAILED, r->sqes);
	r->sq_tail = (void *)(r->sq + p.sq_off.tail);
	r->sq_mask = (void *)(r->sq + p.sq_off.ring_mask);
	r->sq_array = (void *)(r->sq + p.sq_off.array);
	r->cq_head = (void *)(r->sq + p.cq_off.head);
	r->cq_tail = (void *)(r->sq + p.cq_off.tail);
	r->cq_mask = (void *)(r->sq + p.cq_off.ring_mask);
	r->cqes = (void *)(r->sq + p.cq_off.cqes);
}

static void ring_close(struct ring *r)
{
	munmap(r->sq, r->sq_len);
	munmap(r->sqes, r->sqes_len);
	close(r->fd);
}

static int ring_register(struct ring *r, void *addr, size_t len)
{
	struct iovec iov = { addr, len };

	return syscall(SYS_io_uring_register, r->fd, IORING_REGISTER_BUFFERS,
		       &iov, 1) ? errno : 0;
}

static int ring_unregister(struct ring *r)
{
	return syscall(SYS_io_uring_register, r->fd, IORING_UNREGISTER_BUFFERS,
		       NULL, 0) ? errno : 0;
}

/* Between the disk and the registered buffer. */
static int ring_io(struct ring *r, int op, int disk, void *addr, size_t len, off_t off)
{
	unsigned int tail = *r->sq_tail, i = tail & *r->sq_mask;
	int res;

	r->sqes[i] = (struct io_uring_sqe) {
		.opcode = op,
		.fd = disk,
		.off = off,
		.addr = (uintptr_t)addr,
		.len = len,
	};
	r->sq_array[i] = i;
	__atomic_store_n(r->sq_tail, tail + 1, __ATOMIC_RELEASE);
	if (syscall(SYS_io_uring_enter, r->fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) != 1)
		return -errno;
	if (*r->cq_head == __atomic_load_n(r->cq_tail, __ATOMIC_ACQUIRE))
		return -EAGAIN;
	res = r->cqes[*r->cq_head & *r->cq_mask].res;
	__atomic_store_n(r->cq_head, *r->cq_head + 1, __ATOMIC_RELEASE);
	return res;
}

/* Have the device write a pattern to the buffer, and read it again. */
static void device_io(struct __test_metadata *_metadata, struct ring *r, int disk,
		      char *addr, size_t len, unsigned int seed)
{
	char *want = buffer(_metadata, len);

	disk_put(_metadata, disk, len, seed, want);
	ASSERT_EQ((int)len, ring_io(r, IORING_OP_READ_FIXED, disk, addr, len, 0));
	ASSERT_EQ((int)len, ring_io(r, IORING_OP_WRITE_FIXED, disk, addr, len, DISK_OFF));
	disk_put(_metadata, disk, len, seed + 1, NULL);
	ASSERT_EQ((ssize_t)len, pread(disk, want, len, DISK_OFF));
	munmap(want, len);
}

FIXTURE_SETUP(dax)
{
	map_setup(_metadata, &self->m, &variant->kind, LEN);
}

/* MAP_SYNC says that the application knows what it does; all others are refused. */
TEST_F(dax, register)
{
	bool sync = variant->kind.flags == SYNC;
	struct ring ring;

	ring_open(_metadata, &ring);
	ASSERT_EQ(sync ? 0 : EOPNOTSUPP, ring_register(&ring, self->m.addr, LEN));
}

FIXTURE(longterm) {
	struct dax_map m;
	struct ring ring;
	char *want;
	char other[PATH_MAX];
	bool xfs;
};

FIXTURE_VARIANT(longterm) {
	struct dax_kind kind;
};

FIXTURE_VARIANT_ADD(longterm, ext4_pte) {
	.kind = { EXT4, .flags = SYNC },
};

FIXTURE_VARIANT_ADD(longterm, ext4_pmd) {
	.kind = { EXT4, .flags = SYNC, .pmd = true },
};

FIXTURE_VARIANT_ADD(longterm, xfs_pte) {
	.kind = { XFS, .flags = SYNC },
};

FIXTURE_VARIANT_ADD(longterm, xfs_pmd) {
	.kind = { XFS, .flags = SYNC, .pmd = true },
};

FIXTURE_SETUP(longterm)
{
	struct dax_map *m = &self->m;

	map_setup(_metadata, m, &variant->kind, LEN);
	self->want = file_pattern(_metadata, m);
	self->xfs = !strcmp(m->kind->env, "DAX_GUP_XFS");
	ring_open(_metadata, &self->ring);
}

FIXTURE_TEARDOWN_PARENT(longterm)
{
	int fd = open(SYSCTL, O_WRONLY);

	if (fd >= 0) {
		write(fd, "1", 1);
		close(fd);
	}
	unlink(self->m.path);
	if (*self->other)
		unlink(self->other);
}

static int open_other(struct __test_metadata *_metadata, FIXTURE_DATA(longterm) *self)
{
	return open_file(_metadata, getenv(self->m.kind->env), "other", self->other);
}

/* The last long-term pin is gone: what had been refused succeeds, the first time. */
static void expect_free(struct __test_metadata *_metadata, struct dax_map *m)
{
	ASSERT_EQ(0, ftruncate(m->fd, PMD_SIZE)) {
		TH_LOG("ftruncate: %s", strerror(errno));
	}
	ASSERT_EQ(0, ftruncate(m->fd, 0));
}

#define ASSERT_BUSY(call) ASSERT_EQ(ETXTBSY, (call) == -1 ? errno : 0)

TEST_F(longterm, device_io)
{
	struct dax_map *m = &self->m;

	ASSERT_EQ(0, ring_register(&self->ring, m->addr, LEN));
	device_io(_metadata, &self->ring, m->disk, m->addr + PMD_SIZE - MB, 2 * MB, FIRST_SEED);
	fill(self->want + PMD_SIZE - MB, 2 * MB, FIRST_SEED);
	expect_all(_metadata, m, self->want);
	ASSERT_EQ(0, fsync(m->fd));
	expect_all(_metadata, m, self->want);
}

/* Small leaves of the entries that the variant makes, which end elsewhere than page tables. */
TEST_F(longterm, small_leaves)
{
	struct dax_map *m = &self->m;
	char *addr = dax_reserve(_metadata, m->kind, LEN) + 3 * PAGE;

	touch(m);
	dax_mmap(_metadata, m, addr, m->kind->flags);
	fill(addr, LEN, FILE_SEED);
	ASSERT_EQ(0, scan(addr, LEN, PAGE_IS_HUGE, 0));
	ASSERT_EQ(0, ring_register(&self->ring, addr, LEN));
	device_io(_metadata, &self->ring, m->disk, addr + PMD_SIZE - MB, 2 * MB, FIRST_SEED);
	fill(self->want + PMD_SIZE - MB, 2 * MB, FIRST_SEED);
	expect_all(_metadata, m, self->want);
	ASSERT_EQ(0, ring_unregister(&self->ring));
	expect_free(_metadata, m);
}

/* One page is enough, and it need not be among those that are to go. */
TEST_F(longterm, blocks_stay)
{
	static const int modes[] = {
		FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_ZERO_RANGE,
		FALLOC_FL_COLLAPSE_RANGE, FALLOC_FL_INSERT_RANGE,
	};
	struct dax_map *m = &self->m;
	size_t i;

	ASSERT_EQ(0, ring_register(&self->ring, m->addr + 5 * PAGE, PAGE));
	ASSERT_BUSY(ftruncate(m->fd, PMD_SIZE));
	ASSERT_BUSY(ftruncate(m->fd, LEN - 1));
	ASSERT_BUSY(open(m->path, O_RDWR | O_TRUNC));
	for (i = 0; i < ARRAY_SIZE(modes); i++) {
		ASSERT_BUSY(fallocate(m->fd, modes[i], 0, PMD_SIZE)) {
			TH_LOG("fallocate mode %#x", modes[i]);
		}
		ASSERT_BUSY(fallocate(m->fd, modes[i], PMD_SIZE, MB)) {
			TH_LOG("fallocate mode %#x", modes[i]);
		}
	}
	expect_all(_metadata, m, self->want);

	ASSERT_EQ(0, ring_unregister(&self->ring));
	expect_free(_metadata, m);
}

TEST_F(longterm, not_shared)
{
	struct xfs_swapext swap = { .length = LEN };
	struct {
		struct file_dedupe_range range;
		struct file_dedupe_range_info info;
	} dedupe = { .range = { .src_length = LEN, .dest_count = 1 } };
	struct dax_map *m = &self->m;
	int other;

	if (!self->xfs)
		SKIP(return, "ext4 has no shared blocks");
	other = open_other(_metadata, self);
	write_pattern(_metadata, other, LEN, FILE_SEED);

	ASSERT_EQ(0, ring_register(&self->ring, m->addr + LEN - PAGE, PAGE));
	ASSERT_BUSY(ioctl(m->fd, FICLONE, other));
	ASSERT_BUSY(ioctl(other, FICLONE, m->fd));
	dedupe.info.dest_fd = other;
	ASSERT_EQ(0, ioctl(m->fd, FIDEDUPERANGE, &dedupe));
	ASSERT_EQ(-ETXTBSY, dedupe.info.status);
	dedupe.info = (struct file_dedupe_range_info) { .dest_fd = m->fd };
	ASSERT_EQ(0, ioctl(other, FIDEDUPERANGE, &dedupe));
	ASSERT_EQ(-ETXTBSY, dedupe.info.status);
	swap.target = m->fd;
	swap.tmp = other;
	ASSERT_BUSY(ioctl(m->fd, XFS_IOC_SWAPEXT, &swap));
	swap.target = other;
	swap.tmp = m->fd;
	ASSERT_BUSY(ioctl(other, XFS_IOC_SWAPEXT, &swap));
	ASSERT_EQ(0, fallocate(other, 0, 0, LEN + MB));
	expect_all(_metadata, m, self->want);

	ASSERT_EQ(0, ring_unregister(&self->ring));
	ASSERT_EQ(0, ioctl(other, FICLONE, m->fd));
	expect_free(_metadata, m);
}

TEST_F(longterm, file_works)
{
	struct dax_map *m = &self->m;
	char buf[PAGE], *addr;
	struct stat st;
	int pipefd[2];

	ASSERT_EQ(0, ring_register(&self->ring, m->addr, LEN));
	fill(self->want + PAGE, PAGE, FIRST_SEED);
	ASSERT_EQ((ssize_t)PAGE, pwrite(m->fd, self->want + PAGE, PAGE, PAGE));
	ASSERT_EQ((ssize_t)PAGE, pread(m->fd, buf, PAGE, PAGE));
	expect_same(_metadata, "read", self->want + PAGE, buf, PAGE);
	ASSERT_EQ(0, fsync(m->fd));
	expect_all(_metadata, m, self->want);

	/* It grows. */
	ASSERT_EQ(0, ftruncate(m->fd, LEN));
	ASSERT_EQ(0, ftruncate(m->fd, LEN + MB + 1));
	ASSERT_EQ(0, fallocate(m->fd, 0, LEN, 2 * MB));
	ASSERT_EQ(0, fallocate(m->fd, FALLOC_FL_KEEP_SIZE, LEN + 2 * MB, MB));
	ASSERT_EQ((ssize_t)PAGE, pwrite(m->fd, buf, PAGE, LEN + 4 * MB));
	ASSERT_EQ(0, fstat(m->fd, &st));
	ASSERT_EQ(LEN + 4 * MB + PAGE, (size_t)st.st_size);
	expect_all(_metadata, m, self->want);

	/* Others pin it for short, in another mapping. */
	addr = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_SHARED, m->fd, 0);
	ASSERT_NE(MAP_FAILED, addr);
	pipe_fill(_metadata, pipefd, addr + PAGE, 2 * PAGE);
	disk_put(_metadata, m->disk, MB, FIRST_SEED + 1, self->want + MB);
	ASSERT_EQ((ssize_t)MB, pread(m->disk, addr + MB, MB, 0));
	pipe_expect(_metadata, pipefd, self->want + PAGE, 2 * PAGE);
	expect_all(_metadata, m, self->want);

	ASSERT_EQ(0, ring_unregister(&self->ring));
	expect_free(_metadata, m);
}

static unsigned long free_blocks(struct __test_metadata *_metadata, const char *dir)
{
	struct statvfs st;
	int fd = open(dir, O_RDONLY);

	ASSERT_LE(0, fd);
	ASSERT_EQ(0, syncfs(fd));
	close(fd);
	ASSERT_EQ(0, statvfs(dir, &st));
	return st.f_bfree;
}

/* Neither the mapping nor the file nor its name is left, and no block of it is free. */
TEST_F(longterm, file_stays)
{
	struct dax_map *m = &self->m;
	const char *dir = getenv(m->kind->env);
	unsigned long before, i;
	char *got;
	int other;

	ASSERT_EQ(0, ring_register(&self->ring, m->addr, LEN));
	before = free_blocks(_metadata, dir);
	ASSERT_EQ(0, unlink(m->path));
	ASSERT_EQ(0, munmap(m->addr, LEN));
	ASSERT_EQ(0, close(m->fd));
	ASSERT_GE(before + 64, free_blocks(_metadata, dir));

	other = open_other(_metadata, self);
	write_pattern(_metadata, other, 2 * LEN, VICTIM_SEED);
	device_io(_metadata, &self->ring, m->disk, m->addr, LEN, FIRST_SEED);
	ASSERT_EQ(0, fsync(other));
	fill(self->want, LEN, VICTIM_SEED);
	got = buffer(_metadata, LEN);
	ASSERT_EQ((ssize_t)LEN, pread(other, got, LEN, 0));
	expect_same(_metadata, "other file", self->want, got, LEN);
	ASSERT_EQ(0, ftruncate(other, 0));

	ASSERT_EQ(0, ring_unregister(&self->ring));
	for (i = 0; i < 100; i++) {
		if (free_blocks(_metadata, dir) >= before + LEN / PAGE)
			break;
		usleep(100000);
	}
	ASSERT_GT(100, i) {
		TH_LOG("the blocks of the file do not become free");
	}
}

/* What is refused may stay so for as long as the kernel takes to clean up. */
static void expect_free_soon(struct __test_metadata *_metadata, struct dax_map *m)
{
	int i;

	for (i = 0; i < 100 && ftruncate(m->fd, PMD_SIZE); i++) {
		ASSERT_EQ(ETXTBSY, errno);
		usleep(100000);
	}
	ASSERT_GT(100, i);
	expect_free(_metadata, m);
}

TEST_F(longterm, killed)
{
	struct dax_map *m = &self->m;
	int ready[2];
	pid_t pid;
	char c;

	ASSERT_EQ(0, pipe(ready));
	ring_close(&self->ring);
	pid = fork_child();
	if (!pid) {
		ring_open(_metadata, &self->ring);
		c = ring_register(&self->ring, m->addr, LEN);
		write(ready[1], &c, 1);
		pause();
	}
	ASSERT_EQ(1, read(ready[0], &c, 1));
	ASSERT_EQ(0, c);
	ASSERT_BUSY(ftruncate(m->fd, 0));
	kill_child(_metadata, pid);
	expect_free_soon(_metadata, m);
}

/* The pins are the ring's. Who has made them may be gone, or be another program. */
TEST_F(longterm, outlives_process)
{
	struct dax_map *m = &self->m;
	pid_t pid = fork_child();

	if (!pid)
		_exit(ring_register(&self->ring, m->addr, LEN));
	expect_exit(_metadata, pid, 0);
	ASSERT_BUSY(ftruncate(m->fd, 0));

	pid = fork_child();
	if (!pid) {
		fcntl(self->ring.fd, F_SETFD, 0);
		execlp("sleep", "sleep", "1000", NULL);
		_exit(1);
	}
	sleep(1);
	ring_close(&self->ring);
	ASSERT_BUSY(ftruncate(m->fd, 0));
	ASSERT_EQ(0, waitpid(pid, NULL, WNOHANG));
	kill_child(_metadata, pid);
	expect_free_soon(_metadata, m);
}

/* All of the file has blocks, and none is unwritten. */
static void expect_written(struct __test_metadata *_metadata, struct dax_map *m)
{
	struct {
		struct fiemap map;
		struct fiemap_extent extents[64];
	} f = { .map = { .fm_length = LEN, .fm_extent_count = 64 } };
	size_t len = 0;
	__u32 i;

	ASSERT_EQ(0, ioctl(m->fd, FS_IOC_FIEMAP, &f));
	for (i = 0; i < f.map.fm_mapped_extents; i++) {
		ASSERT_FALSE(f.extents[i].fe_flags & FIEMAP_EXTENT_UNWRITTEN);
		len += f.extents[i].fe_length;
	}
	ASSERT_LE(LEN, len);
}

static void pin_empty(struct __test_metadata *_metadata, FIXTURE_DATA(longterm) *self,
		      bool unwritten)
{
	struct dax_map *m = &self->m;

	ASSERT_EQ(0, ftruncate(m->fd, 0));
	ASSERT_EQ(0, ftruncate(m->fd, LEN));
	if (unwritten)
		ASSERT_EQ(0, fallocate(m->fd, 0, 0, LEN));
	touch(m);	/* maps what reads as zero */

	ASSERT_EQ(0, ring_register(&self->ring, m->addr, LEN));
	expect_written(_metadata, m);
	expect_zero(_metadata, "mapping", m->addr, LEN);
	device_io(_metadata, &self->ring, m->disk, m->addr, LEN, FIRST_SEED);
	fill(self->want, LEN, FIRST_SEED);
	expect_all(_metadata, m, self->want);
	ASSERT_EQ(0, ring_unregister(&self->ring));
	expect_all(_metadata, m, self->want);
	expect_free(_metadata, m);
}

TEST_F(longterm, hole)
{
	pin_empty(_metadata, self, false);
}

TEST_F(longterm, unwritten)
{
	pin_empty(_metadata, self, true);
}

/* Who reads only must not get the page of zeros either. */
TEST_F(longterm, read_of_hole)
{
	struct dax_map *m = &self->m;
	struct pin_longterm_test pin = { .size = LEN };
	char *got = buffer(_metadata, LEN);
	__u64 dest = (uintptr_t)got;
	int gup, fast;

	for (fast = 0; fast < 2; fast++) {
		gup = open("/sys/kernel/debug/gup_test", O_RDWR);
		if (gup < 0)
			SKIP(return, "the kernel has no gup_test");
		ASSERT_EQ(0, ftruncate(m->fd, 0));
		ASSERT_EQ(0, ftruncate(m->fd, LEN));
		touch(m);
		pin.addr = (uintptr_t)m->addr;
		pin.flags = fast ? PIN_LONGTERM_TEST_FLAG_USE_FAST : 0;
		ASSERT_EQ(0, ioctl(gup, PIN_LONGTERM_TEST_START, &pin)) {
			TH_LOG("pin: %s", strerror(errno));
		}
		expect_written(_metadata, m);
		ASSERT_EQ((ssize_t)LEN, pwrite(m->fd, self->want, LEN, 0));
		ASSERT_EQ(0, ioctl(gup, PIN_LONGTERM_TEST_READ, &dest));
		expect_same(_metadata, "pinned pages", self->want, got, LEN);
		ASSERT_BUSY(ftruncate(m->fd, 0));
		close(gup);
		expect_free(_metadata, m);
	}
}

/* What has been shared before becomes the file's own before it is pinned. */
TEST_F(longterm, shared_before)
{
	struct dax_map *m = &self->m, copy = *m;

	if (!self->xfs)
		SKIP(return, "ext4 has no shared blocks");
	copy.fd = open_other(_metadata, self);
	ASSERT_EQ(0, ioctl(copy.fd, FICLONE, m->fd));
	touch(m);

	ASSERT_EQ(0, ring_register(&self->ring, m->addr, LEN));
	expect_file(_metadata, m, self->want);
	device_io(_metadata, &self->ring, m->disk, m->addr, LEN, FIRST_SEED);
	expect_file(_metadata, &copy, self->want);
	fill(self->want, LEN, FIRST_SEED);
	expect_all(_metadata, m, self->want);
	/* The copy has no pins. */
	ASSERT_EQ(0, ftruncate(copy.fd, 0));
	ASSERT_BUSY(ftruncate(m->fd, 0));
	ASSERT_EQ(0, ring_unregister(&self->ring));
	expect_free(_metadata, m);
}

/*
 * Two files have all blocks in common but one, which the second has a copy of. Neither
 * that nor a copy of the block next to it, for which more may be reserved than is
 * asked for, moves the block of the first, or makes one wait for the other.
 */
TEST_F(longterm, shared_next_to_it)
{
	struct dax_map *m = &self->m, copy = *m;
	char *want_copy = file_pattern(_metadata, m);

	if (!self->xfs)
		SKIP(return, "ext4 has no shared blocks");
	copy.fd = open_other(_metadata, self);
	ASSERT_EQ(0, ioctl(copy.fd, FICLONE, m->fd));
	touch(m);
	fill(want_copy + 5 * PAGE, PAGE, FIRST_SEED);
	ASSERT_EQ((ssize_t)PAGE, pwrite(copy.fd, want_copy + 5 * PAGE, PAGE, 5 * PAGE));

	ASSERT_EQ(0, ring_register(&self->ring, m->addr + 5 * PAGE, PAGE));
	self->want[6 * PAGE] = 'x';
	m->addr[6 * PAGE] = 'x';
	ASSERT_EQ(0, fsync(m->fd));
	self->want[5 * PAGE] = 'y';
	m->addr[5 * PAGE] = 'y';
	ASSERT_EQ((ssize_t)PAGE, pwrite(m->fd, self->want + 5 * PAGE, PAGE, 5 * PAGE));
	ASSERT_EQ(0, fsync(m->fd));
	device_io(_metadata, &self->ring, m->disk, m->addr + 5 * PAGE, PAGE, FIRST_SEED + 1);
	fill(self->want + 5 * PAGE, PAGE, FIRST_SEED + 1);
	expect_all(_metadata, m, self->want);
	expect_file(_metadata, &copy, want_copy);

	copy.addr = mmap(NULL, LEN, PROT_READ, MAP_SHARED, copy.fd, 0);
	ASSERT_NE(MAP_FAILED, copy.addr);
	expect_same(_metadata, "copy", want_copy, copy.addr, LEN);
	ASSERT_EQ(0, ftruncate(copy.fd, 0));
	ASSERT_EQ(0, ring_unregister(&self->ring));
	expect_free(_metadata, m);
}

/* Truncation waits for pins of the other kind, before and after, on the same page. */
TEST_F(longterm, short_pins)
{
	struct dax_map *m = &self->m;
	int before[2], during[2];
	pid_t pid;

	pipe_fill(_metadata, before, m->addr, 2 * PAGE);
	ASSERT_EQ(0, ring_register(&self->ring, m->addr, LEN));
	pipe_fill(_metadata, during, m->addr, PAGE);
	ASSERT_BUSY(ftruncate(m->fd, 0));
	ASSERT_EQ(0, ring_unregister(&self->ring));

	pid = fork_child();
	if (!pid)
		_exit(ftruncate(m->fd, 0) ? errno : 0);
	usleep(300000);
	ASSERT_EQ(0, waitpid(pid, NULL, WNOHANG));
	pipe_expect(_metadata, before, self->want, 2 * PAGE);
	usleep(300000);
	ASSERT_EQ(0, waitpid(pid, NULL, WNOHANG));
	pipe_expect(_metadata, during, self->want, PAGE);
	expect_exit(_metadata, pid, 0);
}

/* Two rings have the same page: the first to go does not free the file. */
TEST_F(longterm, two_rings)
{
	struct dax_map *m = &self->m;
	struct ring ring;

	ring_open(_metadata, &ring);
	ASSERT_EQ(0, ring_register(&self->ring, m->addr, LEN));
	ASSERT_EQ(0, ring_register(&ring, m->addr, PAGE));
	ASSERT_EQ(0, ring_unregister(&self->ring));
	ASSERT_BUSY(ftruncate(m->fd, 0));
	ASSERT_EQ(0, ring_register(&self->ring, m->addr + LEN - PAGE, PAGE));
	ASSERT_EQ(0, ring_unregister(&ring));
	ASSERT_BUSY(ftruncate(m->fd, 0));
	ASSERT_EQ(0, ring_unregister(&self->ring));
	expect_free(_metadata, m);
}

/* Who may not write, or has a limit, cannot pin. */
TEST_F(longterm, limits)
{
	struct rlimit limit = { PMD_SIZE, PMD_SIZE };
	struct dax_map *m = &self->m;
	char *addr;
	int fd, status;
	pid_t pid;

	fd = open(m->path, O_RDONLY);
	ASSERT_LE(0, fd);
	addr = mmap(NULL, LEN, PROT_READ, SYNC, fd, 0);
	ASSERT_NE(MAP_FAILED, addr);
	status = ring_register(&self->ring, addr, PAGE);
	ASSERT_TRUE(status == EFAULT || status == EOPNOTSUPP);

	pid = fork_child();
	if (!pid) {
		struct ring ring;

		if (setrlimit(RLIMIT_MEMLOCK, &limit) || setuid(65534))
			_exit(1);
		ring_open(_metadata, &ring);
		status = ring_register(&ring, m->addr, LEN);
		if (status != ENOMEM)
			_exit(2);
		_exit(ring_register(&ring, m->addr, PAGE));
	}
	expect_exit(_metadata, pid, 0);
	expect_free_soon(_metadata, m);
}

TEST_F(longterm, sysctl)
{
	struct dax_map *m = &self->m;
	int fd = open(SYSCTL, O_RDWR);

	ASSERT_LE(0, fd) {
		TH_LOG(SYSCTL ": %s", strerror(errno));
	}
	ASSERT_EQ(1, write(fd, "0", 1));
	ASSERT_EQ(EOPNOTSUPP, ring_register(&self->ring, m->addr, LEN));
	ASSERT_EQ(-1, pwrite(fd, "2", 1, 0));
	ASSERT_EQ(1, pwrite(fd, "1", 1, 0));
	ASSERT_EQ(0, ring_register(&self->ring, m->addr, LEN));
}

/* Is there a line about the file in the list, or about any? */
static bool listed(struct __test_metadata *_metadata, struct dax_map *m)
{
	FILE *f = fopen("/sys/kernel/debug/dax_longterm", "r");
	char line[2 * PATH_MAX], who[64];
	bool found = false;

	ASSERT_NE(NULL, f);
	snprintf(who, sizeof(who), " dax_longterm[%d]\n", getpid());
	while (fgets(line, sizeof(line), f))
		found |= !m || (!strncmp(line, m->path, strlen(m->path)) &&
				strstr(line, who));
	fclose(f);
	return found;
}

TEST_F(longterm, shown)
{
	long begin = read_vmstat("dax_longterm_begin"), end;
	long busy = read_vmstat("dax_longterm_busy"), refuse = read_vmstat("dax_longterm_refuse");
	struct dax_map *m = &self->m;
	char *addr;
	int i;

	ASSERT_LE(0, begin);
	while (listed(_metadata, NULL))		/* of the test before */
		usleep(100000);
	end = read_vmstat("dax_longterm_end");
	addr = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_SHARED, m->fd, 0);
	ASSERT_NE(MAP_FAILED, addr);
	ASSERT_EQ(EOPNOTSUPP, ring_register(&self->ring, addr, LEN));
	ASSERT_EQ(refuse + 1, read_vmstat("dax_longterm_refuse"));
	ASSERT_FALSE(listed(_metadata, m));
	ASSERT_EQ(begin, read_vmstat("dax_longterm_begin"));

	ASSERT_EQ(0, ring_register(&self->ring, m->addr, LEN));
	ASSERT_EQ(begin + 1, read_vmstat("dax_longterm_begin"));
	ASSERT_TRUE(listed(_metadata, m));
	ASSERT_BUSY(ftruncate(m->fd, 0));
	ASSERT_EQ(busy + 1, read_vmstat("dax_longterm_busy"));
	ASSERT_EQ(end, read_vmstat("dax_longterm_end"));

	ASSERT_EQ(0, ring_unregister(&self->ring));
	for (i = 0; i < 100 && listed(_metadata, m); i++)
		usleep(100000);
	ASSERT_GT(100, i);
	ASSERT_EQ(end + 1, read_vmstat("dax_longterm_end"));
	expect_free(_metadata, m);
}

struct registrar {
	struct dax_map *m;
	struct ring ring;
	unsigned int rounds;
	bool stop;
	char what[100];		/* went wrong */
};

/* Registers a buffer, has the device write to it, and lets go. */
static void *registrar_thread(void *arg)
{
	struct registrar *r = arg;
	size_t off;
	int err;

	while (!__atomic_load_n(&r->stop, __ATOMIC_RELAXED)) {
		off = rand() % 3 * MB;
		err = ring_register(&r->ring, r->m->addr + off, MB);
		if (err == EFAULT)	/* beyond the end of the file just now */
			continue;
		if (!err) {
			err = ring_io(&r->ring, IORING_OP_READ_FIXED, r->m->disk,
				      r->m->addr + off, MB, 0);
			err = err == MB ? 0 : -err;
			if (!err)
				err = ring_unregister(&r->ring);
		}
		if (err) {
			snprintf(r->what, sizeof(r->what), "%s", strerror(err));
			break;
		}
		__atomic_add_fetch(&r->rounds, 1, __ATOMIC_RELAXED);
		usleep(rand() % 500);
	}
	return NULL;
}

/*
 * Free blocks of the file, give them to another one, and look that it keeps its data.
 * Returns 1 if it was refused.
 */
static int free_some(struct __test_metadata *_metadata, FIXTURE_DATA(longterm) *self,
		     int other, unsigned int how, char *want, char *got)
{
	struct dax_map *m = &self->m;
	int err;

	switch (how % 3) {
	case 0:
		err = ftruncate(m->fd, 0);
		break;
	case 1:
		err = fallocate(m->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, MB, 2 * MB);
		break;
	default:
		err = self->xfs ? ioctl(other, FICLONE, m->fd) :
				  fallocate(m->fd, FALLOC_FL_COLLAPSE_RANGE, MB, MB);
		if (!err && self->xfs)
			ASSERT_EQ(0, ftruncate(other, 0));
	}
	if (err) {
		ASSERT_EQ(ETXTBSY, errno) {
			TH_LOG("%u: %s", how % 3, strerror(errno));
		}
		return 1;
	}
	ASSERT_EQ((ssize_t)MB, pwrite(other, want, MB, 0));
	ASSERT_EQ(0, fsync(other));
	ASSERT_EQ(0, ftruncate(m->fd, LEN));
	usleep(2000);
	ASSERT_EQ((ssize_t)MB, pread(other, got, MB, 0));
	expect_same(_metadata, "other file", want, got, MB);
	ASSERT_EQ(0, ftruncate(other, 0));
	return 0;
}

TEST_F(longterm, race)
{
	struct registrar r = { .m = &self->m };
	unsigned int freed = 0, refused = 0, i;
	char *want = buffer(_metadata, MB), *got = buffer(_metadata, MB);
	int other = open_other(_metadata, self);
	pthread_t thread;
	long start = now_ms();

	fill(want, MB, VICTIM_SEED);
	disk_put(_metadata, self->m.disk, MB, FIRST_SEED, NULL);
	ring_open(_metadata, &r.ring);
	ASSERT_EQ(0, pthread_create(&thread, NULL, registrar_thread, &r));
	for (i = 0; !*r.what && (now_ms() - start < 1000 ||
				 (now_ms() - start < 30000 &&
				  (freed < 10 || refused < 10 || r.rounds < 10))); i++) {
		if (free_some(_metadata, self, other, i, want, got))
			refused++;
		else
			freed++;
	}
	__atomic_store_n(&r.stop, true, __ATOMIC_RELAXED);
	ASSERT_EQ(0, pthread_join(thread, NULL));
	ASSERT_EQ(0, *r.what) {
		TH_LOG("registering a buffer: %s", r.what);
	}
	TH_LOG("%u times registered, %u times freed, %u times refused", r.rounds, freed, refused);
	EXPECT_LT(0, r.rounds);
	EXPECT_LT(0, freed);
	EXPECT_LT(0, refused);
	expect_free(_metadata, &self->m);
}

TEST_HARNESS_MAIN

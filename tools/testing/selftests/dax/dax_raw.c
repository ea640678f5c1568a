// SPDX-License-Identifier: GPL-2.0
/*
 * Files on DAX where the memory has no pages. Who maps such a file must find there what
 * is in it and in no other, whatever is done to the file or the mapping; who wants to
 * have pages of the mapping gets EFAULT.
 *
 *   DAX_GUP_RAW_EXT4, DAX_GUP_RAW_XFS   directory as DAX_GUP_EXT4 and DAX_GUP_XFS, but on
 *                                       a raw namespace whose dax/pageless is 1
 *
 * Expected on stock: all fail, as no file has DAX there.
 */
#define DAX_OWN_FIXTURE
#include <elf.h>
#include <linux/fiemap.h>
#include <linux/io_uring.h>
#include <linux/iommufd.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <setjmp.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/statvfs.h>

#include "../../../../drivers/iommu/iommufd/iommufd_test.h"
#include "../../../../mm/gup_test.h"
#include "dax_gup.h"

/* Which libc may not have. */
#ifndef MADV_SOFT_OFFLINE
#define MADV_SOFT_OFFLINE 101
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

#define LEN	(4 * MB)
#define NR	(LEN / PAGE)
#define UNSHARE_ROUNDS 150
#define PUNCH	(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)

FIXTURE(raw) {
	struct dax_map m;
	char *want;		/* what the file ought to hold */
	char other[PATH_MAX];	/* another file there */
	bool xfs;
};

FIXTURE_VARIANT(raw) {
	struct dax_kind kind;
};

FIXTURE_VARIANT_ADD(raw, ext4_pte) {
	.kind = { RAW_EXT4, .flags = MAP_SHARED },
};

FIXTURE_VARIANT_ADD(raw, ext4_pmd) {
	.kind = { RAW_EXT4, .flags = MAP_SHARED, .pmd = true },
};

FIXTURE_VARIANT_ADD(raw, xfs_pte) {
	.kind = { RAW_XFS, .flags = MAP_SHARED },
};

FIXTURE_VARIANT_ADD(raw, xfs_pmd) {
	.kind = { RAW_XFS, .flags = MAP_SHARED, .pmd = true },
};

/* Of each thread: a signal for an access is for who accesses. */
static __thread sigjmp_buf no_page;
static __thread volatile sig_atomic_t touching;

/* Who has been told that memory has failed: each process has one of these. */
static struct lost {
	volatile unsigned int nr;
	int code, lsb;
	char *addr;
} *lost;

static void on_signal(int sig, siginfo_t *info, void *context)
{
	if (sig == SIGBUS && lost &&
	    (info->si_code == BUS_MCEERR_AR || info->si_code == BUS_MCEERR_AO)) {
		lost->code = info->si_code;
		lost->lsb = info->si_addr_lsb;
		lost->addr = info->si_addr;
		lost->nr++;
		return;
	}
	if (touching)
		siglongjmp(no_page, sig);
	_exit(100 + sig);
}

FIXTURE_SETUP(raw)
{
	struct sigaction sa = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO };
	struct dax_map *m = &self->m;

	sync();		/* what the test before has freed can be used */
	map_setup(_metadata, m, &variant->kind, LEN);
	if (!m->addr)
		return;
	self->want = file_pattern(_metadata, m);
	self->xfs = !strcmp(m->kind->env, "DAX_GUP_RAW_XFS");
	ASSERT_EQ(0, sigaction(SIGBUS, &sa, NULL));
	ASSERT_EQ(0, sigaction(SIGSEGV, &sa, NULL));
}

FIXTURE_TEARDOWN_PARENT(raw)
{
	unlink(self->m.path);
	if (*self->other)
		unlink(self->other);
}

static int open_other(struct __test_metadata *_metadata, FIXTURE_DATA(raw) *self)
{
	return open_file(_metadata, getenv(self->m.kind->env), "other", self->other);
}

/* A fresh mapping at the same place. */
static void remap(struct __test_metadata *_metadata, struct dax_map *m)
{
	m->addr = dax_mmap(_metadata, m, m->addr, m->kind->flags);
}

/* Another mapping of the file. */
static char *map_other(struct __test_metadata *_metadata, struct dax_map *m, int flags)
{
	return dax_mmap(_metadata, m, dax_reserve(_metadata, m->kind, m->len), flags);
}

/* Make it one hole, mapped afresh. */
static void make_hole(struct __test_metadata *_metadata, FIXTURE_DATA(raw) *self)
{
	ASSERT_EQ(0, ftruncate(self->m.fd, 0));
	ASSERT_EQ(0, ftruncate(self->m.fd, LEN));
	memset(self->want, 0, LEN);
	remap(_metadata, &self->m);
}

/* Returns the signal that reading, or writing, gives, or 0. */
static int try_read(const char *addr, void *to, size_t len)
{
	int sig = sigsetjmp(no_page, 1);

	if (!sig) {
		touching = 1;
		memcpy(to, addr, len);
	}
	touching = 0;
	return sig;
}

static int try_write(volatile char *addr, char val)
{
	int sig = sigsetjmp(no_page, 1);

	if (!sig) {
		touching = 1;
		*addr = val;
	}
	touching = 0;
	return sig;
}

/*
 * Another process with the mappings that this one has when it starts. It does what it
 * is told: look at one of them, page by page, or write a byte.
 */
struct viewer {
	pid_t pid;
	int ask[2], answer[2];
	char *data;	/* what it has seen, shared with it */
	int *sigs;	/* or which signal it got, for each page */
};

struct order {
	char *write;
	char val;
};

static void look(const char *addr, char *data, int *sigs)
{
	size_t i;

	for (i = 0; i < NR; i++)
		sigs[i] = try_read(addr + i * PAGE, data + i * PAGE, PAGE);
}

static void *share(struct __test_metadata *_metadata, size_t len)
{
	void *addr = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
			  -1, 0);

	ASSERT_NE(MAP_FAILED, addr);
	return addr;
}

static void viewer_start(struct __test_metadata *_metadata, struct viewer *v,
			 const char *addr)
{
	struct order order;
	char done = 0;

	v->data = share(_metadata, LEN);
	v->sigs = share(_metadata, NR * sizeof(*v->sigs));
	ASSERT_EQ(0, pipe(v->ask));
	ASSERT_EQ(0, pipe(v->answer));
	v->pid = fork_child();
	ASSERT_LE(0, v->pid);
	if (v->pid)
		return;
	while (read(v->ask[0], &order, sizeof(order)) == sizeof(order)) {
		if (order.write)
			v->sigs[0] = try_write(order.write, order.val);
		else
			look(addr, v->data, v->sigs);
		write(v->answer[1], &done, 1);
	}
	_exit(0);
}

static void viewer_do(struct __test_metadata *_metadata, struct viewer *v,
		      struct order order)
{
	char done;

	ASSERT_EQ((ssize_t)sizeof(order), write(v->ask[1], &order, sizeof(order)));
	ASSERT_EQ(1, read(v->answer[0], &done, 1));
}

static void viewer_write(struct __test_metadata *_metadata, struct viewer *v, char *addr,
			 char val)
{
	viewer_do(_metadata, v, (struct order) { addr, val });
	ASSERT_EQ(0, v->sigs[0]);
}

/* It sees @want up to @end, and gets @sig for all pages behind. */
static void viewer_sees(struct __test_metadata *_metadata, struct viewer *v,
			const char *want, size_t end, int sig)
{
	size_t i;

	viewer_do(_metadata, v, (struct order) {});
	for (i = 0; i < NR; i++)
		ASSERT_EQ(i < end / PAGE ? 0 : sig, v->sigs[i]) {
			TH_LOG("page %zu", i);
		}
	expect_same(_metadata, "another process", want, v->data, end);
}

struct extents {
	struct fiemap map;
	struct fiemap_extent extent[4000];
};

static struct extents *extents_of(struct __test_metadata *_metadata, int fd)
{
	struct extents *e = calloc(1, sizeof(*e));

	ASSERT_NE(NULL, e);
	e->map.fm_length = ~0ULL;
	e->map.fm_extent_count = ARRAY_SIZE(e->extent);
	ASSERT_EQ(0, ioctl(fd, FS_IOC_FIEMAP, &e->map));
	ASSERT_GT(ARRAY_SIZE(e->extent), e->map.fm_mapped_extents);
	return e;
}

/* Where a page of the file is on the device. */
static __u64 block_of(const struct extents *e, __u64 off)
{
	const struct fiemap_extent *x;
	__u32 i;

	for (i = 0; i < e->map.fm_mapped_extents; i++) {
		x = &e->extent[i];
		if (off >= x->fe_logical && off - x->fe_logical < x->fe_length)
			return x->fe_physical + off - x->fe_logical;
	}
	return ~0ULL;
}

static __u64 pagemap(struct __test_metadata *_metadata, const char *addr)
{
	int fd = open("/proc/self/pagemap", O_RDONLY);
	__u64 val;

	ASSERT_EQ((ssize_t)sizeof(val),
		  pread(fd, &val, sizeof(val), (uintptr_t)addr / PAGE * sizeof(val)));
	close(fd);
	return val;
}

#define PAGEMAP_PRESENT	(1ULL << 63)
#define PAGEMAP_PFN	((1ULL << 55) - 1)

/*
 * What the mapping maps are the blocks of the file, all of them from the same distance,
 * and huge leaves are of huge blocks.
 */
TEST_F(raw, blocks)
{
	struct dax_map *m = &self->m;
	struct extents *e = extents_of(_metadata, m->fd);
	__u64 val, base = 0;
	size_t off;

	touch(m);
	for (off = 0; off < LEN; off += PAGE) {
		val = pagemap(_metadata, m->addr + off);
		ASSERT_TRUE(val & PAGEMAP_PRESENT);
		val = (val & PAGEMAP_PFN) * PAGE;
		ASSERT_NE(0, val);
		if (!off)
			base = val - block_of(e, 0);
		ASSERT_EQ(base + block_of(e, off), val) {
			TH_LOG("page %zu", off / PAGE);
		}
		if (m->kind->pmd)
			ASSERT_EQ(off % PMD_SIZE, val % PMD_SIZE);
	}
}

static long faults(void)
{
	struct rusage r;

	getrusage(RUSAGE_THREAD, &r);
	return r.ru_minflt + r.ru_majflt;
}

/* To touch all of it takes so many faults. */
static void expect_faults(struct __test_metadata *_metadata, const char *what,
			  char *addr, const char *want, bool write, long nr)
{
	volatile char *p = addr;
	long before = faults();
	size_t off;

	for (off = 0; off < LEN; off += PAGE) {
		if (write)
			p[off] = want[off];
		else
			(void)p[off];
	}
	ASSERT_EQ(nr, faults() - before) {
		TH_LOG("%s", what);
	}
}

/* As many as there are leaves; and fsync() takes it back that they are writable. */
TEST_F(raw, faults)
{
	struct dax_map *m = &self->m;
	long nr = m->kind->pmd ? LEN / PMD_SIZE : NR;
	char *buf = file_pattern(_metadata, m);

	/* All else that this needs is there after that. */
	expect_faults(_metadata, "memory", buf, self->want, true, 0);
	expect_faults(_metadata, "memory", buf, self->want, false, 0);

	expect_faults(_metadata, "read", m->addr, self->want, false, nr);
	expect_leaves(_metadata, m, m->addr, LEN);
	expect_faults(_metadata, "read again", m->addr, self->want, false, 0);
	expect_faults(_metadata, "write after read", m->addr, self->want, true, nr);
	expect_leaves(_metadata, m, m->addr, LEN);
	expect_faults(_metadata, "write again", m->addr, self->want, true, 0);

	ASSERT_EQ(0, fsync(m->fd));
	expect_leaves(_metadata, m, m->addr, LEN);
	expect_faults(_metadata, "read after fsync", m->addr, self->want, false, 0);
	expect_faults(_metadata, "write after fsync", m->addr, self->want, true, nr);
	expect_leaves(_metadata, m, m->addr, LEN);

	remap(_metadata, m);
	expect_faults(_metadata, "write", m->addr, self->want, true, nr);
	expect_leaves(_metadata, m, m->addr, LEN);
	expect_all(_metadata, m, self->want);
}

/* Calls and mapping have the same data, whatever has been made durable between. */
TEST_F(raw, calls_and_mapping)
{
	size_t off = PMD_SIZE - MB / 2 + 24, len = MB;
	struct dax_map *m = &self->m;
	int round, direct = open(m->path, O_RDWR | O_DIRECT);
	char *buf = buffer(_metadata, MB);

	ASSERT_LE(0, direct);
	for (round = 0; round < 4; round++) {
		off += 5 * PAGE;
		fill(self->want + off, len, FIRST_SEED + 3 * round);
		memcpy(m->addr + off, self->want + off, len);
		expect_file(_metadata, m, self->want);
		if (round == 1)
			ASSERT_EQ(0, fsync(m->fd));
		if (round == 2)
			ASSERT_EQ(0, msync(m->addr, LEN, MS_SYNC));
		fill(self->want + off + PAGE, len, FIRST_SEED + 3 * round + 1);
		ASSERT_EQ((ssize_t)len, pwrite(m->fd, self->want + off + PAGE, len, off + PAGE));
		expect_all(_metadata, m, self->want);

		fill(buf, MB, FIRST_SEED + 3 * round + 2);
		ASSERT_EQ((ssize_t)MB, pwrite(direct, buf, MB, round * PAGE));
		memcpy(self->want + round * PAGE, buf, MB);
		memset(buf, 0, MB);
		ASSERT_EQ((ssize_t)MB, pread(direct, buf, MB, PMD_SIZE));
		expect_same(_metadata, "O_DIRECT", self->want + PMD_SIZE, buf, MB);
		expect_all(_metadata, m, self->want);
	}
	/* The source of a write, and where a read goes, are a mapping of the file itself. */
	ASSERT_EQ((ssize_t)MB, pwrite(m->fd, m->addr + 3 * PAGE, MB, PMD_SIZE + PAGE));
	memmove(self->want + PMD_SIZE + PAGE, self->want + 3 * PAGE, MB);
	ASSERT_EQ((ssize_t)MB, pread(direct, m->addr + 2 * PAGE, MB, PMD_SIZE + PAGE));
	memmove(self->want + 2 * PAGE, self->want + PMD_SIZE + PAGE, MB);
	expect_all(_metadata, m, self->want);
}

/* At the first write to each page the file has its blocks, and not as unwritten ones. */
TEST_F(raw, map_sync)
{
	struct dax_map *m = &self->m;
	struct extents *e;
	size_t i, len = 0;
	char *addr;

	make_hole(_metadata, self);
	ASSERT_EQ(0, fallocate(m->fd, 0, 0, LEN));
	addr = map_other(_metadata, m, SYNC);
	expect_zero(_metadata, "mapping", addr, LEN);
	for (i = 0; i < LEN; i += PAGE)
		addr[i] = self->want[i] = i / PAGE + 1;
	expect_leaves(_metadata, m, addr, LEN);

	e = extents_of(_metadata, m->fd);
	for (i = 0; i < e->map.fm_mapped_extents; i++) {
		ASSERT_FALSE(e->extent[i].fe_flags &
			     (FIEMAP_EXTENT_UNWRITTEN | FIEMAP_EXTENT_DELALLOC));
		len += e->extent[i].fe_length;
	}
	ASSERT_LE(LEN, len);
	expect_same(_metadata, "mapping", self->want, addr, LEN);
	expect_all(_metadata, m, self->want);
}

/* Others see it, too, when a hole, of which they have the page of zeros, gets a block. */
static void write_to_zeros(struct __test_metadata *_metadata, FIXTURE_DATA(raw) *self)
{
	static const size_t where[] = { 5 * KB, PMD_SIZE - 1, PMD_SIZE + 600 * KB };
	struct dax_map *m = &self->m;
	struct viewer v;
	size_t i;

	viewer_start(_metadata, &v, m->addr);
	viewer_sees(_metadata, &v, self->want, LEN, 0);
	expect_all(_metadata, m, self->want);
	for (i = 0; i < ARRAY_SIZE(where); i++) {
		m->addr[where[i]] = self->want[where[i]] = 'a' + i;
		expect_all(_metadata, m, self->want);
		viewer_sees(_metadata, &v, self->want, LEN, 0);
	}
	viewer_write(_metadata, &v, m->addr + MB, 'x');
	self->want[MB] = 'x';
	viewer_sees(_metadata, &v, self->want, LEN, 0);
	expect_all(_metadata, m, self->want);
}

TEST_F(raw, hole)
{
	struct dax_map *m = &self->m;
	__u64 huge = m->kind->pmd ? PAGE_IS_HUGE : 0;
	struct stat st;

	make_hole(_metadata, self);
	expect_zero(_metadata, "mapping", m->addr, LEN);
	ASSERT_EQ((long)NR, scan(m->addr, LEN, PAGE_IS_PFNZERO | huge, PAGE_IS_HUGE & ~huge));
	ASSERT_EQ(0, fstat(m->fd, &st));
	ASSERT_EQ(0, st.st_blocks);
	write_to_zeros(_metadata, self);
}

TEST_F(raw, unwritten)
{
	make_hole(_metadata, self);
	ASSERT_EQ(0, fallocate(self->m.fd, 0, 0, LEN));
	write_to_zeros(_metadata, self);
}

/* A copy has all of the page, is nobody else's, and the rest is still the file's. */
static void copy(struct __test_metadata *_metadata, FIXTURE_DATA(raw) *self, bool read_first)
{
	struct dax_map *m = &self->m;
	char *want = file_pattern(_metadata, m);
	char *addr = map_other(_metadata, m, MAP_PRIVATE);
	size_t off;

	if (read_first) {
		expect_same(_metadata, "private mapping", want, addr, LEN);
		expect_leaves(_metadata, m, addr, LEN);
	}
	for (off = PAGE; off < LEN; off += 2 * PAGE)
		addr[off + 100] = want[off + 100] = 'x';
	expect_same(_metadata, "private mapping", want, addr, LEN);
	expect_all(_metadata, m, self->want);

	fill(self->want, LEN, FIRST_SEED);
	memcpy(m->addr, self->want, PMD_SIZE);
	ASSERT_EQ((ssize_t)PMD_SIZE, pwrite(m->fd, self->want + PMD_SIZE, PMD_SIZE, PMD_SIZE));
	for (off = 0; off < LEN; off += 2 * PAGE)
		memcpy(want + off, self->want + off, PAGE);
	expect_same(_metadata, "private mapping", want, addr, LEN);
	expect_all(_metadata, m, self->want);
}

TEST_F(raw, private_write)
{
	copy(_metadata, self, false);
}

TEST_F(raw, private_write_after_read)
{
	copy(_metadata, self, true);
}

TEST_F(raw, private_hole)
{
	char *want = buffer(_metadata, LEN), *addr;
	struct dax_map *m = &self->m;

	make_hole(_metadata, self);
	addr = map_other(_metadata, m, MAP_PRIVATE);
	expect_zero(_metadata, "private mapping", addr, PMD_SIZE);
	addr[PAGE] = want[PAGE] = 'x';
	addr[PMD_SIZE + PAGE] = want[PMD_SIZE + PAGE] = 'y';
	expect_same(_metadata, "private mapping", want, addr, LEN);
	ASSERT_EQ(-1, lseek(m->fd, 0, SEEK_DATA)) {
		TH_LOG("the file is no hole any more");
	}
	/* The file gets its block: who has not made a copy sees it. */
	m->addr[5 * PAGE] = self->want[5 * PAGE] = want[5 * PAGE] = 'z';
	expect_same(_metadata, "private mapping", want, addr, LEN);
	expect_all(_metadata, m, self->want);
}

/* O_DIRECT into a private mapping goes to copies, which are ordinary memory. */
TEST_F(raw, private_direct)
{
	size_t off = PMD_SIZE - 3 * SECTOR, len = 64 * KB;
	struct dax_map *m = &self->m;
	char *want = file_pattern(_metadata, m), *addr;
	int read_first;

	for (read_first = 0; read_first < 2; read_first++) {
		addr = map_other(_metadata, m, MAP_PRIVATE);
		if (read_first)
			expect_same(_metadata, "private mapping", self->want, addr, LEN);
		disk_put(_metadata, m->disk, len, FIRST_SEED, want + off);
		ASSERT_EQ((ssize_t)len, pread(m->disk, addr + off, len, 0));
		expect_same(_metadata, "private mapping", want, addr, LEN);
		ASSERT_EQ((ssize_t)len, pwrite(m->disk, addr + off, len, 16 * MB));
		disk_expect(_metadata, m->disk, want + off, len);
		expect_all(_metadata, m, self->want);
	}
}

/* Another process, which has what this one has now. */
static pid_t fork_sleeper(void)
{
	pid_t pid = fork_child();

	while (!pid)
		pause();
	return pid;
}

TEST_F(raw, fork_shared)
{
	struct dax_map *m = &self->m;
	struct viewer v;
	size_t i;

	touch(m);
	viewer_start(_metadata, &v, m->addr);
	viewer_sees(_metadata, &v, self->want, LEN, 0);
	for (i = 0; i < LEN; i += 37 * PAGE) {
		m->addr[i] = self->want[i] = 'p';
		viewer_write(_metadata, &v, m->addr + i + 1, 'c');
		self->want[i + 1] = 'c';
	}
	viewer_sees(_metadata, &v, self->want, LEN, 0);
	expect_all(_metadata, m, self->want);
}

/* Neither copies nor what is not copied yet are the other's. */
TEST_F(raw, fork_private)
{
	struct dax_map *m = &self->m;
	char *want = file_pattern(_metadata, m), *want_child = file_pattern(_metadata, m);
	char *addr = map_other(_metadata, m, MAP_PRIVATE);
	struct viewer v;
	size_t i;

	expect_same(_metadata, "private mapping", want, addr, LEN);
	for (i = MB; i < LEN; i += 4 * PAGE)
		addr[i] = want[i] = want_child[i] = 'b';
	viewer_start(_metadata, &v, addr);
	viewer_sees(_metadata, &v, want_child, LEN, 0);
	for (i = 0; i < LEN; i += 16 * PAGE) {
		addr[i + 1] = want[i + 1] = 'p';
		addr[i + PAGE] = want[i + PAGE] = 'p';
		viewer_write(_metadata, &v, addr + i + 2, 'c');
		viewer_write(_metadata, &v, addr + i + 2 * PAGE, 'c');
		want_child[i + 2] = want_child[i + 2 * PAGE] = 'c';
	}
	viewer_sees(_metadata, &v, want_child, LEN, 0);
	expect_same(_metadata, "private mapping", want, addr, LEN);
	expect_all(_metadata, m, self->want);
}

struct dropper {
	char *addr;
	unsigned int go, done;	/* rounds */
};

static void *drop_copies(void *arg)
{
	struct dropper *d = arg;
	volatile unsigned int spin;
	unsigned int round;

	for (round = 1; round <= UNSHARE_ROUNDS; round++) {
		while (__atomic_load_n(&d->go, __ATOMIC_ACQUIRE) < round)
			sched_yield();
		/* At another moment each time. */
		for (spin = 0; spin < round % 100 * 32; spin++)
			;
		madvise(d->addr, PAGE, MADV_DONTNEED);
		(void)*(volatile char *)d->addr;
		__atomic_store_n(&d->done, round, __ATOMIC_RELEASE);
	}
	return NULL;
}

/*
 * O_DIRECT from a copy that a child has, too, first makes the copy the parent's
 * alone. If that is dropped meanwhile, there is the file's memory in its place.
 */
TEST_F(raw, private_unshare)
{
	struct dax_map *m = &self->m;
	struct dropper d = { .addr = map_other(_metadata, m, MAP_PRIVATE) };
	char *copy = buffer(_metadata, PAGE), *got = buffer(_metadata, PAGE);
	unsigned int round, written = 0;
	pthread_t thread;
	ssize_t n;
	pid_t pid;

	ASSERT_EQ(0, pthread_create(&thread, NULL, drop_copies, &d));
	for (round = 1; round <= UNSHARE_ROUNDS; round++) {
		fill(copy, PAGE, FIRST_SEED + round);
		memcpy(d.addr, copy, PAGE);
		pid = fork_sleeper();
		ASSERT_LE(0, pid);
		__atomic_store_n(&d.go, round, __ATOMIC_RELEASE);
		n = pwrite(m->disk, d.addr, PAGE, 0);
		if (n < 0) {
			ASSERT_EQ(EFAULT, errno);
		} else {
			ASSERT_EQ((ssize_t)PAGE, n);
			ASSERT_EQ((ssize_t)PAGE, pread(m->disk, got, PAGE, 0));
			expect_same(_metadata, "written", copy, got, PAGE);
			written++;
		}
		while (__atomic_load_n(&d.done, __ATOMIC_ACQUIRE) < round)
			sched_yield();
		ASSERT_EQ(0, kill(pid, SIGKILL));
		ASSERT_EQ(pid, waitpid(pid, NULL, 0));
	}
	ASSERT_EQ(0, pthread_join(thread, NULL));
	TH_LOG("%u of %u written", written, UNSHARE_ROUNDS);
	expect_all(_metadata, m, self->want);
}

/*
 * Have another file get blocks that were at @from to @from + @len on the device, which
 * are free. What it has there is a function of the place.
 */
struct theft {
	int fd;
	__u64 from, len;
};

static void check_stolen(struct __test_metadata *_metadata, struct theft *t, bool write)
{
	struct extents *e = extents_of(_metadata, t->fd);
	char *want = buffer(_metadata, PAGE), *got = buffer(_metadata, PAGE);
	__u64 off, nr = 0;
	__u32 i;

	for (i = 0; i < e->map.fm_mapped_extents; i++) {
		struct fiemap_extent *x = &e->extent[i];

		if (x->fe_physical >= t->from + t->len ||
		    x->fe_physical + x->fe_length <= t->from) {
			/* Or the filesystem is full. */
			if (write)
				ASSERT_EQ(0, fallocate(t->fd, PUNCH, x->fe_logical, x->fe_length));
			continue;
		}
		for (off = 0; off < x->fe_length; off += PAGE, nr++) {
			fill(want, PAGE, VICTIM_SEED + (x->fe_physical + off) / PAGE);
			if (write)
				ASSERT_EQ((ssize_t)PAGE,
					  pwrite(t->fd, want, PAGE, x->fe_logical + off));
			ASSERT_EQ((ssize_t)PAGE, pread(t->fd, got, PAGE, x->fe_logical + off));
			expect_same(_metadata, "another file", want, got, PAGE);
		}
	}
	ASSERT_LT(0, nr);
	ASSERT_EQ(0, fsync(t->fd));
	munmap(want, PAGE);
	munmap(got, PAGE);
	free(e);
}

static bool has_stolen(struct __test_metadata *_metadata, struct theft *t)
{
	struct extents *e = extents_of(_metadata, t->fd);
	bool found = false;
	__u32 i;

	for (i = 0; i < e->map.fm_mapped_extents; i++)
		found |= e->extent[i].fe_physical < t->from + t->len &&
			 e->extent[i].fe_physical + e->extent[i].fe_length > t->from;
	free(e);
	return found;
}

static struct theft open_thief(struct __test_metadata *_metadata, FIXTURE_DATA(raw) *self,
			       __u64 from, __u64 len)
{
	struct theft t = { .from = from, .len = len };

	snprintf(self->other, PATH_MAX, "%s/dax_gup.other", getenv(self->m.kind->env));
	unlink(self->other);
	t.fd = open(self->other, O_RDWR | O_CREAT | O_EXCL, 0600);
	ASSERT_LE(0, t.fd);
	no_reserve(t.fd);
	return t;
}

/*
 * Take all there is, in ever smaller pieces, once the filesystem gives it away. It never
 * gives all: what it keeps depends on what was asked for first.
 */
static void steal(struct __test_metadata *_metadata, struct theft *t)
{
	size_t first[] = { 16 * MB, t->len, 3 * MB }, piece, off;
	struct statvfs st;
	unsigned int i;

	for (i = 0; i < 100 && !has_stolen(_metadata, t); i++) {
		if (i)
			usleep(100000);
		ASSERT_EQ(0, ftruncate(t->fd, 0));
		ASSERT_EQ(0, syncfs(t->fd));
		ASSERT_EQ(0, fstatvfs(t->fd, &st));
		for (piece = first[i % 3], off = 0; piece >= PAGE; piece /= 4)
			for (; !has_stolen(_metadata, t) && !fallocate(t->fd, 0, off, piece);
			     off += piece)
				;
	}
	ASSERT_TRUE(has_stolen(_metadata, t)) {
		TH_LOG("no other file gets the blocks");
	}
	check_stolen(_metadata, t, true);
}

/*
 * This process and a child of it have mapped what goes. They get SIGBUS behind the end
 * of the file, and zeros where there is a hole, and not what is another file's now.
 * From within one 2 MiB to the end of the next.
 */
static void blocks_go(struct __test_metadata *_metadata, FIXTURE_DATA(raw) *self,
		      bool private, bool punch)
{
	size_t from = PMD_SIZE - 256 * KB, off;
	struct dax_map *m = &self->m;
	char *want = file_pattern(_metadata, m), *addr = m->addr;
	struct extents *e = extents_of(_metadata, m->fd);
	struct theft theft = open_thief(_metadata, self, block_of(e, PMD_SIZE), PMD_SIZE);
	struct viewer v;

	touch(m);
	if (private) {
		addr = map_other(_metadata, m, MAP_PRIVATE);
		expect_same(_metadata, "private mapping", want, addr, LEN);
		for (off = 0; off < LEN; off += 8 * PAGE)
			addr[off] = want[off] = 'c';
	}
	viewer_start(_metadata, &v, addr);
	viewer_sees(_metadata, &v, want, LEN, 0);

	if (punch) {
		ASSERT_EQ(0, fallocate(m->fd, PUNCH, from, LEN - from));
		for (off = from; off < LEN; off += PAGE)
			if (!private || off % (8 * PAGE))
				memset(want + off, 0, PAGE);
	} else {
		ASSERT_EQ(0, ftruncate(m->fd, from));
	}
	memset(self->want + from, 0, LEN - from);
	steal(_metadata, &theft);
	viewer_sees(_metadata, &v, want, punch ? LEN : from, punch ? 0 : SIGBUS);
	if (punch && !private) {
		viewer_write(_metadata, &v, addr + PMD_SIZE + MB, 'x');
		self->want[PMD_SIZE + MB] = want[PMD_SIZE + MB] = 'x';
	}
	if (!punch) {
		ASSERT_EQ(SIGBUS, try_write(addr + from, 'x'));
		ASSERT_EQ(0, ftruncate(m->fd, LEN));
		memset(want + from, 0, LEN - from);
	}
	viewer_sees(_metadata, &v, want, LEN, 0);
	expect_same(_metadata, "mapping", want, addr, LEN);
	expect_all(_metadata, m, self->want);
	check_stolen(_metadata, &theft, false);
}

TEST_F(raw, truncate)
{
	blocks_go(_metadata, self, false, false);
}

TEST_F(raw, truncate_private)
{
	blocks_go(_metadata, self, true, false);
}

TEST_F(raw, punch)
{
	blocks_go(_metadata, self, false, true);
}

TEST_F(raw, punch_private)
{
	blocks_go(_metadata, self, true, true);
}

/* The mapping follows blocks that move within the file. */
TEST_F(raw, blocks_move)
{
	struct dax_map *m = &self->m;
	struct extents *e = extents_of(_metadata, m->fd);
	struct theft theft = open_thief(_metadata, self, block_of(e, MB), MB);
	struct viewer v;

	touch(m);
	viewer_start(_metadata, &v, m->addr);
	viewer_sees(_metadata, &v, self->want, LEN, 0);
	ASSERT_EQ(0, fallocate(m->fd, FALLOC_FL_COLLAPSE_RANGE, MB, MB));
	memmove(self->want + MB, self->want + 2 * MB, 2 * MB);
	steal(_metadata, &theft);
	viewer_sees(_metadata, &v, self->want, 3 * MB, SIGBUS);
	ASSERT_EQ(SIGBUS, try_write(m->addr + 3 * MB, 'x'));
	expect_same(_metadata, "mapping", self->want, m->addr, 3 * MB);

	ASSERT_EQ(0, fallocate(m->fd, FALLOC_FL_INSERT_RANGE, MB, MB));
	memmove(self->want + 2 * MB, self->want + MB, 2 * MB);
	memset(self->want + MB, 0, MB);
	viewer_sees(_metadata, &v, self->want, LEN, 0);
	m->addr[MB] = self->want[MB] = 'x';
	m->addr[2 * MB] = self->want[2 * MB] = 'y';
	expect_all(_metadata, m, self->want);
	viewer_sees(_metadata, &v, self->want, LEN, 0);
	check_stolen(_metadata, &theft, false);
}

/* The file keeps its blocks as long as it is mapped, and then they are free. */
TEST_F(raw, unlinked)
{
	struct dax_map *m = &self->m;
	struct extents *e = extents_of(_metadata, m->fd);
	struct theft theft = open_thief(_metadata, self, block_of(e, 0), LEN);
	struct viewer v;
	unsigned int i;

	touch(m);
	ASSERT_EQ(0, unlink(m->path));
	viewer_start(_metadata, &v, m->addr);
	viewer_sees(_metadata, &v, self->want, LEN, 0);
	for (i = 0; i < NR; i += 100)
		m->addr[i * PAGE] = self->want[i * PAGE] = 'x';
	ASSERT_EQ(0, fsync(m->fd));
	ASSERT_EQ(0, fallocate(theft.fd, 0, 0, 64 * MB));
	ASSERT_FALSE(has_stolen(_metadata, &theft));
	viewer_sees(_metadata, &v, self->want, LEN, 0);
	expect_all(_metadata, m, self->want);

	kill_child(_metadata, v.pid);
	ASSERT_EQ(0, close(m->fd));
	expect_same(_metadata, "mapping", self->want, m->addr, LEN);
	ASSERT_EQ(0, munmap(m->addr, LEN));
	steal(_metadata, &theft);
}

TEST_F(raw, mprotect)
{
	struct dax_map *m = &self->m;
	char *page = m->addr + PMD_SIZE + 5 * PAGE, buf[PAGE];
	size_t off;

	memcpy(m->addr, self->want, LEN);
	ASSERT_EQ(0, mprotect(page, PAGE, PROT_READ));
	ASSERT_EQ(SIGSEGV, try_write(page, 'x'));
	ASSERT_EQ(0, try_write(page - 1, 'x'));
	ASSERT_EQ(0, try_write(page + PAGE, 'y'));
	self->want[page - 1 - m->addr] = 'x';
	self->want[page + PAGE - m->addr] = 'y';
	expect_all(_metadata, m, self->want);
	ASSERT_EQ(0, mprotect(page, PAGE, PROT_READ | PROT_WRITE));
	ASSERT_EQ(0, try_write(page, 'z'));
	self->want[page - m->addr] = 'z';
	expect_all(_metadata, m, self->want);

	remap(_metadata, m);
	memcpy(m->addr, self->want, LEN);
	ASSERT_EQ(0, mprotect(m->addr, LEN, PROT_READ));
	expect_leaves(_metadata, m, m->addr, LEN);
	ASSERT_EQ(SIGSEGV, try_write(m->addr, 'x'));
	expect_all(_metadata, m, self->want);
	ASSERT_EQ(0, mprotect(m->addr, LEN, PROT_NONE));
	for (off = 0; off < LEN; off += PAGE)
		ASSERT_EQ(SIGSEGV, try_read(m->addr + off, buf, PAGE));
	expect_file(_metadata, m, self->want);
	ASSERT_EQ(0, mprotect(m->addr, LEN, PROT_READ | PROT_WRITE));
	for (off = 0; off < LEN; off += 61 * PAGE) {
		ASSERT_EQ(0, try_write(m->addr + off, 'x'));
		self->want[off] = 'x';
	}
	expect_leaves(_metadata, m, m->addr, LEN);
	expect_all(_metadata, m, self->want);
}

TEST_F(raw, mremap)
{
	struct dax_map *m = &self->m;
	char *to;

	memcpy(m->addr, self->want, LEN);
	/* Moves as it is. */
	to = dax_reserve(_metadata, m->kind, LEN);
	ASSERT_EQ(to, mremap(m->addr, LEN, LEN, MREMAP_MAYMOVE | MREMAP_FIXED, to));
	m->addr = to;
	expect_leaves(_metadata, m, m->addr, LEN);
	m->addr[PAGE] = self->want[PAGE] = 'x';
	expect_all(_metadata, m, self->want);

	/* No longer fits a PMD. */
	to = dax_reserve(_metadata, m->kind, LEN) + 3 * PAGE;
	ASSERT_EQ(to, mremap(m->addr, LEN, LEN, MREMAP_MAYMOVE | MREMAP_FIXED, to));
	m->addr = to;
	m->addr[PMD_SIZE] = self->want[PMD_SIZE] = 'y';
	expect_all(_metadata, m, self->want);

	/* From the middle of a leaf, and the rest stays. */
	m->addr = map_other(_metadata, m, MAP_SHARED);
	memcpy(m->addr, self->want, LEN);
	to = dax_reserve(_metadata, m->kind, LEN);
	ASSERT_EQ(to, mremap(m->addr + MB, PMD_SIZE, PMD_SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, to));
	expect_same(_metadata, "what moved", self->want + MB, to, PMD_SIZE);
	expect_same(_metadata, "what stayed", self->want, m->addr, MB);
	expect_same(_metadata, "what stayed", self->want + 3 * MB, m->addr + 3 * MB, MB);
	ASSERT_EQ(SIGSEGV, try_write(m->addr + MB, 'x'));
	to[0] = self->want[MB] = 'z';
	expect_file(_metadata, m, self->want);

	/* Shrinks, and grows with the file. */
	m->addr = map_other(_metadata, m, MAP_SHARED);
	touch(m);
	ASSERT_EQ(m->addr, mremap(m->addr, LEN, MB, 0));
	expect_same(_metadata, "shrunk", self->want, m->addr, MB);
	ASSERT_EQ(0, fallocate(m->fd, 0, LEN, LEN));
	m->addr = mremap(m->addr, MB, 2 * LEN, MREMAP_MAYMOVE);
	ASSERT_NE(MAP_FAILED, m->addr);
	expect_same(_metadata, "grown", self->want, m->addr, LEN);
	expect_zero(_metadata, "what is new", m->addr + LEN, LEN);
	memcpy(m->addr + LEN, self->want, LEN);
	expect_all(_metadata, m, self->want);
	ASSERT_EQ((ssize_t)LEN, pread(m->fd, self->want, LEN, LEN));
	expect_same(_metadata, "what is new", m->addr, self->want, LEN);
}

/* Each succeeds, on all of the mapping, and on a page of it, and changes nothing. */
TEST_F(raw, madvise)
{
	static const int advice[] = {
		MADV_NORMAL, MADV_RANDOM, MADV_SEQUENTIAL, MADV_WILLNEED, MADV_DONTNEED,
		MADV_COLD, MADV_PAGEOUT, MADV_POPULATE_READ, MADV_POPULATE_WRITE,
		MADV_NOHUGEPAGE, MADV_DONTDUMP,
	};
	static const int maybe[] = {
		MADV_FREE, MADV_MERGEABLE, MADV_UNMERGEABLE, MADV_HUGEPAGE, MADV_COLLAPSE,
		MADV_DODUMP, MADV_WIPEONFORK, MADV_KEEPONFORK,
	};
	struct dax_map *m = &self->m;
	size_t i, part;
	char *addr;

	for (i = 0; i < ARRAY_SIZE(advice) + ARRAY_SIZE(maybe); i++) {
		for (part = 0; part < 3; part++) {
			remap(_metadata, m);
			if (part)
				memcpy(m->addr, self->want, LEN);
			addr = part == 2 ? m->addr + 5 * PAGE : m->addr;
			if (i >= ARRAY_SIZE(advice))
				madvise(addr, part == 2 ? PAGE : LEN,
					maybe[i - ARRAY_SIZE(advice)]);
			else
				ASSERT_EQ(0, madvise(addr, part == 2 ? PAGE : LEN, advice[i])) {
					TH_LOG("%d: %s", advice[i], strerror(errno));
				}
			addr[0] = self->want[addr - m->addr] = 'a' + i;
			expect_all(_metadata, m, self->want);
		}
	}
}

TEST_F(raw, populate)
{
	struct dax_map *m = &self->m;

	ASSERT_EQ(0, madvise(m->addr, LEN, MADV_POPULATE_READ));
	expect_leaves(_metadata, m, m->addr, LEN);
	expect_faults(_metadata, "read", m->addr, self->want, false, 0);
	ASSERT_EQ(0, madvise(m->addr, LEN, MADV_POPULATE_WRITE));
	expect_leaves(_metadata, m, m->addr, LEN);
	expect_faults(_metadata, "write", m->addr, self->want, true, 0);

	m->addr = map_other(_metadata, m, MAP_SHARED | MAP_POPULATE);
	expect_leaves(_metadata, m, m->addr, LEN);
	expect_all(_metadata, m, self->want);

	/* What cannot be mapped is an error, and not the one of what cannot be pinned. */
	ASSERT_EQ(0, ftruncate(m->fd, PMD_SIZE));
	ASSERT_EQ(-1, madvise(m->addr, LEN, MADV_POPULATE_READ));
	ASSERT_EQ(-1, madvise(m->addr, LEN, MADV_POPULATE_WRITE));
	expect_same(_metadata, "mapping", self->want, m->addr, PMD_SIZE);
}

TEST_F(raw, populate_private)
{
	struct dax_map *m = &self->m;
	char *addr = map_other(_metadata, m, MAP_PRIVATE);

	ASSERT_EQ(0, madvise(addr, LEN, MADV_POPULATE_READ));
	expect_leaves(_metadata, m, addr, LEN);
	ASSERT_EQ(0, madvise(addr, LEN, MADV_POPULATE_WRITE));
	expect_same(_metadata, "private mapping", self->want, addr, LEN);
	memset(addr, 'x', LEN);
	expect_all(_metadata, m, self->want);
}

TEST_F(raw, dontfork)
{
	struct dax_map *m = &self->m;
	struct viewer v;

	touch(m);
	ASSERT_EQ(0, madvise(m->addr + PMD_SIZE, PMD_SIZE, MADV_DONTFORK));
	viewer_start(_metadata, &v, m->addr);
	viewer_sees(_metadata, &v, self->want, PMD_SIZE, SIGSEGV);
	expect_all(_metadata, m, self->want);
}

TEST_F(raw, mlock)
{
	struct dax_map *m = &self->m;

	ASSERT_EQ(0, mlock(m->addr, LEN));
	expect_leaves(_metadata, m, m->addr, LEN);
	expect_all(_metadata, m, self->want);
	ASSERT_EQ(0, munlock(m->addr + PAGE, PMD_SIZE));
	ASSERT_EQ(0, munlock(m->addr, LEN));
	ASSERT_EQ(0, mlock2(m->addr, LEN, MLOCK_ONFAULT));
	m->addr[PAGE] = self->want[PAGE] = 'x';
	ASSERT_EQ(0, mlockall(MCL_CURRENT | MCL_FUTURE));
	ASSERT_EQ(0, munmap(m->addr, PMD_SIZE));
	m->addr = map_other(_metadata, m, MAP_SHARED);
	expect_leaves(_metadata, m, m->addr, LEN);
	ASSERT_EQ(0, munlockall());
	m->addr[2 * PAGE] = self->want[2 * PAGE] = 'y';
	expect_all(_metadata, m, self->want);
}

TEST_F(raw, mincore)
{
	struct dax_map *m = &self->m;
	unsigned char vec[NR];
	size_t i;

	memset(vec, 0, NR);
	touch(m);
	ASSERT_EQ(0, mincore(m->addr, LEN, vec));
	for (i = 0; i < NR; i++)
		ASSERT_TRUE(vec[i] & 1);
}

/* Read it all; returns whether there is a line that has both, if there is a line. */
static bool reads(struct __test_metadata *_metadata, const char *name, const char *one,
		  const char *two)
{
	char *line = NULL;
	size_t size = 0;
	bool found = false, in = !one;
	FILE *f = fopen(name, "r");

	ASSERT_NE(NULL, f) {
		TH_LOG("%s: %s", name, strerror(errno));
	}
	while (getline(&line, &size, f) > 0) {
		in |= one && strstr(line, one);
		found |= in && (!two || strstr(line, two));
	}
	ASSERT_FALSE(ferror(f));
	fclose(f);
	free(line);
	return found;
}

/* What shows a process' memory has no pages to look at. */
TEST_F(raw, proc)
{
	struct dax_map *m = &self->m;
	static const char *const refs[] = { "1", "2", "3", "4", "5" };
	char range[40], *addr;
	__u64 vec[NR];
	size_t i;
	int fd;

	addr = map_other(_metadata, m, MAP_PRIVATE);
	expect_same(_metadata, "private mapping", self->want, addr, LEN);
	addr[PAGE] = 'x';
	memcpy(m->addr, self->want, PMD_SIZE);
	touch(m);

	snprintf(range, sizeof(range), "%lx-%lx", (long)m->addr, (long)m->addr + LEN);
	ASSERT_TRUE(reads(_metadata, "/proc/self/smaps", range, "VmFlags:"));
	ASSERT_TRUE(reads(_metadata, "/proc/self/smaps", range, " mm ")) {
		TH_LOG("not mapped as memory without pages");
	}
	ASSERT_TRUE(reads(_metadata, "/proc/self/smaps_rollup", NULL, NULL));
	ASSERT_TRUE(reads(_metadata, "/proc/self/status", NULL, "RssFile"));
	if (!access("/proc/self/numa_maps", R_OK))
		ASSERT_TRUE(reads(_metadata, "/proc/self/numa_maps", NULL, m->path));

	fd = open("/proc/self/pagemap", O_RDONLY);
	ASSERT_EQ((ssize_t)sizeof(vec), pread(fd, vec, sizeof(vec), (uintptr_t)m->addr / PAGE * 8));
	for (i = 0; i < NR; i++)
		ASSERT_TRUE(vec[i] & PAGEMAP_PRESENT);
	close(fd);
	ASSERT_EQ((long)NR, scan(m->addr, LEN, PAGE_IS_PRESENT, 0));
	ASSERT_EQ(0, scan(m->addr, LEN, PAGE_IS_SWAPPED, 0));
	ASSERT_LE(0, scan(m->addr, LEN, PAGE_IS_FILE, 0));

	for (i = 0; i < ARRAY_SIZE(refs); i++) {
		fd = open("/proc/self/clear_refs", O_WRONLY);
		ASSERT_EQ(1, write(fd, refs[i], 1));
		close(fd);
		self->want[i * PAGE] = m->addr[i * PAGE] = 'r';
		expect_all(_metadata, m, self->want);
	}
}

/* A write is told by the bit of clear_refs, in leaves of the size of the mapping. */
TEST_F(raw, soft_dirty)
{
	struct dax_map *m = &self->m;
	size_t leaf = m->kind->pmd ? PMD_SIZE : PAGE;
	char *chunk = m->addr + PMD_SIZE;
	int fd;

	memcpy(m->addr, self->want, LEN);
	fd = open("/proc/self/clear_refs", O_WRONLY);
	ASSERT_LE(0, fd);
	ASSERT_EQ(1, write(fd, "4", 1));
	close(fd);
	ASSERT_EQ(0, scan(chunk, PMD_SIZE, PAGE_IS_SOFT_DIRTY, 0));
	*(volatile char *)chunk;
	ASSERT_EQ(0, scan(chunk, PMD_SIZE, PAGE_IS_SOFT_DIRTY, 0));
	*chunk = self->want[PMD_SIZE] = 'x';
	ASSERT_EQ((long)(leaf / PAGE), scan(chunk, PMD_SIZE, PAGE_IS_SOFT_DIRTY, 0));
	expect_all(_metadata, m, self->want);
}

/* userfaultfd does not watch over it, and says so. */
TEST_F(raw, refused_uffd)
{
	struct uffdio_register reg = {
		.range = { .start = (uintptr_t)self->want, .len = LEN },
		.mode = UFFDIO_REGISTER_MODE_WP,
	};
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED,
	};
	int uffd = syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);

	if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api))
		SKIP(return, "no UFFD_FEATURE_WP_ASYNC: needs CONFIG_PTE_MARKER_UFFD_WP");
	ASSERT_EQ(0, ioctl(uffd, UFFDIO_REGISTER, &reg));
	touch(&self->m);
	reg.range.start = (uintptr_t)self->m.addr;
	ASSERT_EQ(-1, ioctl(uffd, UFFDIO_REGISTER, &reg));
	ASSERT_EQ(EINVAL, errno);
	expect_all(_metadata, &self->m, self->want);
}

/* Who moves pages finds none, and does no harm. */
TEST_F(raw, move_pages)
{
	void *pages[] = { self->m.addr, self->m.addr + PMD_SIZE + PAGE };
	unsigned long nodes = 1;
	int status[] = { 0, 0 }, node[] = { 0, 0 };
	struct dax_map *m = &self->m;

	memcpy(m->addr, self->want, LEN);
	if (syscall(SYS_move_pages, 0, 2, pages, NULL, status, 0) && errno == ENOSYS)
		SKIP(return, "the kernel does not move pages");
	ASSERT_GT(0, status[0]);
	ASSERT_GT(0, status[1]);
	syscall(SYS_move_pages, 0, 2, pages, node, status, 2 /* MPOL_MF_MOVE */);
	ASSERT_GT(0, status[0]);
	ASSERT_GT(0, status[1]);
	/* MPOL_BIND, MPOL_MF_STRICT | MPOL_MF_MOVE */
	syscall(SYS_mbind, m->addr, LEN, 2, &nodes, 64, 3);
	syscall(SYS_migrate_pages, 0, 64, &nodes, &nodes);
	m->addr[PAGE] = self->want[PAGE] = 'x';
	expect_all(_metadata, m, self->want);
}

#define ERRNO(call)	((call) < 0 ? errno : 0)
#define ASSERT_FAULT(call) ASSERT_EQ(EFAULT, ERRNO(call)) { TH_LOG(#call); }

/*
 * For who wants pages: nothing is mapped yet, and then it is, to read and to write.
 * The third time it is by huge leaves, and then some small ones among them.
 */
#define STATES	4

static void set_state(struct __test_metadata *_metadata, FIXTURE_DATA(raw) *self, int state)
{
	struct dax_map *m = &self->m;

	remap(_metadata, m);
	if (state == 1)
		touch(m);
	if (state >= 2)
		memcpy(m->addr, self->want, LEN);
	if (state == 3) {
		ASSERT_EQ(0, mprotect(m->addr + PMD_SIZE, PAGE, PROT_READ));
		ASSERT_EQ(0, mprotect(m->addr + PMD_SIZE, PAGE, PROT_READ | PROT_WRITE));
	}
}

/*
 * A test of one who is refused: first that the call works at all, on plain memory, then
 * the mapping in each of the states, which holds the data of the file still.
 */
#define for_each_state(state)						\
	for (state = 0; state < STATES &&				\
	     (set_state(_metadata, self, state), true);			\
	     expect_all(_metadata, &self->m, self->want), state++)

TEST_F(raw, refused_direct)
{
	static const size_t offs[] = { 0, SECTOR, PMD_SIZE - SECTOR, PMD_SIZE };
	struct dax_map *m = &self->m;
	char *buf = buffer(_metadata, 64 * KB);
	char *got = buffer(_metadata, 2 * PAGE);
	struct iovec iov[2] = { { buf, PAGE } };
	ssize_t n;
	size_t i;
	int state;

	disk_put(_metadata, m->disk, MB, FIRST_SEED, NULL);
	ASSERT_EQ((ssize_t)(64 * KB), pread(m->disk, buf, 64 * KB, 0));
	ASSERT_EQ((ssize_t)(64 * KB), pwrite(m->disk, buf, 64 * KB, 0));
	for_each_state(state) {
		for (i = 0; i < ARRAY_SIZE(offs); i++) {
			ASSERT_FAULT(pread(m->disk, m->addr + offs[i], 64 * KB, 0));
			ASSERT_FAULT(pwrite(m->disk, m->addr + offs[i], 64 * KB, 0));
			ASSERT_FAULT(pread(m->disk, m->addr + offs[i], SECTOR, 0));
			ASSERT_FAULT(pwrite(m->disk, m->addr + offs[i], SECTOR, 0));
		}
		/* After other memory, what is left of the call may copy instead. */
		iov[1] = (struct iovec) { m->addr + PAGE, PAGE };
		fill(buf, 2 * PAGE, FIRST_SEED + state);
		ASSERT_EQ((ssize_t)(2 * PAGE), pwrite(m->disk, buf, 2 * PAGE, 0));
		memset(buf, 0, PAGE);
		n = preadv(m->disk, iov, 2, 0);
		ASSERT_TRUE(n == (ssize_t)PAGE || n == (ssize_t)(2 * PAGE));
		if (n == (ssize_t)(2 * PAGE))
			memcpy(self->want + PAGE, buf + PAGE, PAGE);
		n = pwritev(m->disk, iov, 2, MB);
		ASSERT_TRUE(n == (ssize_t)PAGE || n == (ssize_t)(2 * PAGE));
		memcpy(buf + PAGE, self->want + PAGE, PAGE);
		ASSERT_EQ(n, pread(m->disk, got, n, MB));
		expect_same(_metadata, "disk", buf, got, n);
	}
}

TEST_F(raw, refused_vmsplice)
{
	struct iovec iov = { buffer(_metadata, PAGE), PAGE };
	int state, pipefd[2];

	ASSERT_EQ(0, pipe(pipefd));
	ASSERT_EQ((ssize_t)PAGE, vmsplice(pipefd[1], &iov, 1, 0));
	for_each_state(state) {
		iov.iov_base = self->m.addr;
		ASSERT_FAULT(vmsplice(pipefd[1], &iov, 1, 0));
		iov.iov_base = self->m.addr + PMD_SIZE + 100;
		ASSERT_FAULT(vmsplice(pipefd[1], &iov, 1, SPLICE_F_GIFT));
	}
}

static int register_buffer(int ring, char *addr, size_t len)
{
	struct iovec iov = { addr, len };

	return syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &iov, 1);
}

/*
 * Pins for long: MAP_SYNC, which is what makes them possible where there are pages, does
 * not help. Without, they are refused as on all of DAX.
 */
static const struct {
	int flags, error;
} longterm[] = {
	{ MAP_SHARED, EOPNOTSUPP },
	{ SYNC, EFAULT },
	{ MAP_SHARED, EOPNOTSUPP },
	{ SYNC, EFAULT },
};

/* Mapped so, and then looked at: the errors are those of two ways to look up a page. */
static void set_longterm(struct __test_metadata *_metadata, FIXTURE_DATA(raw) *self, size_t i)
{
	struct dax_map *m = &self->m;

	m->addr = dax_mmap(_metadata, m, m->addr, longterm[i].flags);
	if (i >= 2)
		memcpy(m->addr, self->want, LEN);
}

#define for_each_longterm(i)						\
	for (i = 0; i < ARRAY_SIZE(longterm) &&				\
	     (set_longterm(_metadata, self, i), true);			\
	     expect_all(_metadata, &self->m, self->want), i++)
#define ASSERT_LONGTERM(i, call)					\
	ASSERT_EQ(longterm[i].error, ERRNO(call)) {			\
		TH_LOG("%s, case %zu", #call, i);			\
	}

TEST_F(raw, refused_ring)
{
	struct io_uring_params params = {};
	struct dax_map *m = &self->m;
	int ring = syscall(SYS_io_uring_setup, 1, &params);
	size_t i;

	ASSERT_LE(0, ring);
	ASSERT_EQ(0, register_buffer(ring, self->want, LEN));
	ASSERT_EQ(0, syscall(SYS_io_uring_register, ring, IORING_UNREGISTER_BUFFERS, NULL, 0));
	for_each_longterm(i) {
		ASSERT_LONGTERM(i, register_buffer(ring, m->addr, LEN));
		ASSERT_LONGTERM(i, register_buffer(ring, m->addr + PMD_SIZE, PAGE));
	}
}

TEST_F(raw, refused_process_vm)
{
	struct dax_map *m = &self->m;
	char *buf = buffer(_metadata, MB), *plain = buffer(_metadata, MB);
	struct iovec local = { buf, MB }, remote = { plain, MB };
	pid_t pid = fork_sleeper();
	int state;

	ASSERT_LT(0, pid);
	ASSERT_EQ((ssize_t)MB, process_vm_readv(pid, &local, 1, &remote, 1, 0));
	kill_child(_metadata, pid);
	for_each_state(state) {
		pid = fork_sleeper();
		remote = (struct iovec) { m->addr + PMD_SIZE - PAGE, MB };
		ASSERT_FAULT(process_vm_readv(pid, &local, 1, &remote, 1, 0));
		ASSERT_FAULT(process_vm_writev(pid, &local, 1, &remote, 1, 0));
		remote = (struct iovec) { m->addr + PMD_SIZE, 8 };
		ASSERT_FAULT(process_vm_readv(getpid(), &local, 1, &remote, 1, 0));
		ASSERT_FAULT(process_vm_writev(getpid(), &local, 1, &remote, 1, 0));

		/* This end is but copied from and to. */
		fill(plain, MB, FIRST_SEED + state);
		local.iov_base = m->addr + PAGE;
		remote = (struct iovec) { plain, MB };
		ASSERT_EQ((ssize_t)MB, process_vm_readv(getpid(), &local, 1, &remote, 1, 0));
		memcpy(self->want + PAGE, plain, MB);
		ASSERT_EQ((ssize_t)MB, process_vm_writev(pid, &local, 1, &remote, 1, 0));
		local.iov_base = buf;
		kill_child(_metadata, pid);
	}
}

/* iommufd, with the kernel's own test of it in place of a device. */
TEST_F(raw, refused_iommufd)
{
	struct iommu_ioas_alloc ioas = { .size = sizeof(ioas) };
	struct iommu_test_cmd domain = {
		.size = sizeof(domain),
		.op = IOMMU_TEST_OP_MOCK_DOMAIN,
	};
	struct iommu_ioas_map map = {
		.size = sizeof(map),
		.flags = IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE,
		.user_va = (uintptr_t)self->want,
		.length = MB,
	};
	int fd = open("/dev/iommu", O_RDWR);
	size_t i;

	if (fd < 0 || access("/sys/bus/iommufd_mock", F_OK))
		SKIP(return, "the kernel has no test of iommufd");
	ASSERT_EQ(0, ioctl(fd, IOMMU_IOAS_ALLOC, &ioas));
	domain.id = map.ioas_id = ioas.out_ioas_id;
	ASSERT_EQ(0, ioctl(fd, IOMMU_TEST_CMD, &domain));
	ASSERT_EQ(0, ioctl(fd, IOMMU_IOAS_MAP, &map));
	for_each_longterm(i) {
		map.user_va = (uintptr_t)self->m.addr + PMD_SIZE;
		ASSERT_LONGTERM(i, ioctl(fd, IOMMU_IOAS_MAP, &map));
		map.flags ^= IOMMU_IOAS_MAP_WRITEABLE;
		ASSERT_LONGTERM(i, ioctl(fd, IOMMU_IOAS_MAP, &map));
		map.flags ^= IOMMU_IOAS_MAP_WRITEABLE;
	}
}

/* The kernel's own callers. */
TEST_F(raw, refused_pin)
{
	struct pin_longterm_test pin = { .addr = (uintptr_t)self->want, .size = MB };
	int gup = open("/sys/kernel/debug/gup_test", O_RDWR);
	size_t i;

	if (gup < 0)
		SKIP(return, "the kernel has no gup_test");
	ASSERT_EQ(0, ioctl(gup, PIN_LONGTERM_TEST_START, &pin));
	ASSERT_EQ(0, ioctl(gup, PIN_LONGTERM_TEST_STOP));
	for_each_longterm(i) {
		pin.addr = (uintptr_t)self->m.addr + PMD_SIZE;
		for (pin.flags = 0; pin.flags < 4; pin.flags++)
			ASSERT_LONGTERM(i, ioctl(gup, PIN_LONGTERM_TEST_START, &pin));
	}
}

/* Nobody can say of a page that it is broken who has none. */
TEST_F(raw, refused_poison)
{
	int state;

	for_each_state(state) {
		ASSERT_FAULT(madvise(self->m.addr, PAGE, MADV_HWPOISON));
		ASSERT_FAULT(madvise(self->m.addr + PMD_SIZE, PAGE, MADV_SOFT_OFFLINE));
	}
}

TEST_F(raw, refused_futex)
{
	__u32 *plain = share(_metadata, PAGE), *word;
	int state;

	ASSERT_EQ(EAGAIN, ERRNO(futex(plain, FUTEX_WAIT, 1)));
	ASSERT_EQ(0, futex(plain, FUTEX_WAKE, 1));
	for_each_state(state) {
		word = (__u32 *)(self->m.addr + PMD_SIZE + 64);
		ASSERT_FAULT(futex(word, FUTEX_WAIT, *(__u32 *)(self->want + PMD_SIZE + 64) + 1));
		ASSERT_FAULT(futex(word, FUTEX_WAKE, 1));
	}
}

static void *futex_waiter(void *arg)
{
	struct timespec timeout = { .tv_sec = 10 };
	__u32 *word = arg;

	while (!__atomic_load_n(word, __ATOMIC_SEQ_CST))
		if (syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, 0, &timeout) &&
		    errno != EAGAIN)
			return strerror(errno);
	return NULL;
}

/* Those of one process need no page. */
TEST_F(raw, futex_private)
{
	__u32 *word = (__u32 *)(self->m.addr + PMD_SIZE + 64);
	pthread_t thread;
	unsigned int i;
	void *error;

	*word = 0;
	ASSERT_EQ(0, pthread_create(&thread, NULL, futex_waiter, word));
	for (i = 0; i < 5000 && syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1) != 1; i++)
		usleep(1000);
	ASSERT_GT(5000, i);
	__atomic_store_n(word, 1, __ATOMIC_SEQ_CST);
	syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1);
	ASSERT_EQ(0, pthread_join(thread, &error));
	ASSERT_EQ(NULL, error) {
		TH_LOG("%s", (char *)error);
	}
}

/*
 * What only copies works: read() and write() through the page cache, also of pages that
 * nobody has touched yet, and O_DIRECT where it is a file on DAX, of memory with pages.
 */
TEST_F(raw, copies_work)
{
	struct dax_map *m = &self->m;
	int state, i, fd[2];
	char path[PATH_MAX];
	size_t off, len = MB + 77;

	fd[0] = syscall(SYS_memfd_create, "dax_raw", 0);
	ASSERT_LE(0, fd[0]);
	fd[1] = open_file(_metadata, getenv(m->kind->peer), "peer", path);
	close(fd[1]);
	fd[1] = open(path, O_RDWR | O_DIRECT);
	ASSERT_LE(0, fd[1]);
	unlink(path);
	for (i = 0; i < 2; i++) {
		for_each_state(state) {
			off = PMD_SIZE - PAGE - (i ? 0 : 100);
			if (i)
				len = MB;
			ASSERT_EQ((ssize_t)len, pwrite(fd[i], m->addr + off, len, 0));
			set_state(_metadata, self, state);
			ASSERT_EQ((ssize_t)len, pread(fd[i], m->addr + PAGE, len, 0));
			memmove(self->want + PAGE, self->want + off, len);
			fill(self->want + off, MB, FIRST_SEED + state);
			ASSERT_EQ((ssize_t)MB, pwrite(m->fd, self->want + off, MB, off));
		}
	}
}

TEST_F(raw, sendfile)
{
	int fd = syscall(SYS_memfd_create, "dax_raw", 0), pipefd[2];
	struct dax_map *m = &self->m;
	char *buf = buffer(_metadata, LEN);
	size_t done = 0;
	ssize_t n;
	off_t off = 0;

	m->addr[5] = self->want[5] = 'x';
	while (done < LEN) {
		n = sendfile(fd, m->fd, &off, LEN - done);
		ASSERT_LT(0, n);
		done += n;
	}
	ASSERT_EQ((ssize_t)LEN, pread(fd, buf, LEN, 0));
	expect_same(_metadata, "sent", self->want, buf, LEN);

	/* And from a pipe to the file. */
	ASSERT_EQ(0, pipe(pipefd));
	fill(self->want + PMD_SIZE, PAGE, FIRST_SEED);
	ASSERT_EQ((ssize_t)PAGE, write(pipefd[1], self->want + PMD_SIZE, PAGE));
	off = PMD_SIZE;
	ASSERT_EQ((ssize_t)PAGE, splice(pipefd[0], NULL, m->fd, &off, PAGE, 0));
	expect_all(_metadata, m, self->want);
}

/* A program there is mapped to run, and where it has data, to copy. */
TEST_F(raw, exec)
{
	int other = open_other(_metadata, self), me = open("/proc/self/exe", O_RDONLY);
	struct stat st;
	pid_t pid;

	ASSERT_EQ(0, fstat(me, &st));
	while (st.st_size > lseek(other, 0, SEEK_CUR))
		ASSERT_LT(0, sendfile(other, me, NULL, st.st_size));
	ASSERT_EQ(0, fchmod(other, 0700));
	close(other);
	pid = fork_child();
	if (!pid) {
		dup2(open("/dev/null", O_WRONLY), 2);
		execl(self->other, self->other, "-l", NULL);
		_exit(77);
	}
	expect_exit(_metadata, pid, KSFT_SKIP);
}

/* A child that has stopped, and compares its mapping when it is let go on. */
static pid_t start_traced(struct __test_metadata *_metadata, const char *addr,
			  const char *want)
{
	pid_t pid = fork_child();
	int status;

	if (!pid) {
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		raise(SIGSTOP);
		_exit(memcmp(addr, want, LEN) ? 1 : 0);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	ASSERT_TRUE(WIFSTOPPED(status));
	return pid;
}

static void end_traced(struct __test_metadata *_metadata, pid_t pid)
{
	ASSERT_EQ(0, ptrace(PTRACE_CONT, pid, NULL, NULL));
	expect_exit(_metadata, pid, 0);
}

static int open_mem(struct __test_metadata *_metadata, pid_t pid)
{
	char path[32];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	fd = open(path, O_RDWR);
	ASSERT_LE(0, fd);
	return fd;
}

/* A debugger reads and writes where there is no page; over the border of two leaves. */
TEST_F(raw, ptrace)
{
	size_t off = PMD_SIZE - 4;
	struct dax_map *m = &self->m;
	long word, poke;
	char *want = share(_metadata, LEN);
	int state;
	pid_t pid;

	memcpy(want, self->want, LEN);
	for_each_state(state) {
		pid = start_traced(_metadata, m->addr, want);
		errno = 0;
		word = ptrace(PTRACE_PEEKDATA, pid, m->addr + off, NULL);
		ASSERT_EQ(0, errno);
		expect_same(_metadata, "peek", self->want + off, &word, sizeof(word));
		poke = 0x1122334455667788 + state;
		ASSERT_EQ(0, ptrace(PTRACE_POKEDATA, pid, m->addr + off, poke));
		ASSERT_EQ(poke, ptrace(PTRACE_PEEKDATA, pid, m->addr + off, NULL));
		memcpy(want + off, &poke, sizeof(poke));
		memcpy(self->want + off, &poke, sizeof(poke));
		end_traced(_metadata, pid);
	}
}

TEST_F(raw, proc_mem)
{
	size_t off = PMD_SIZE - 100, len = 64 * KB;
	struct dax_map *m = &self->m;
	char *buf = buffer(_metadata, LEN);
	int state, fd;
	long before;
	pid_t pid;

	for_each_state(state) {
		pid = fork_sleeper();
		fd = open_mem(_metadata, pid);
		ASSERT_EQ((ssize_t)LEN, pread(fd, buf, LEN, (off_t)m->addr));
		expect_same(_metadata, "read", self->want, buf, LEN);
		fill(self->want + off, len, FIRST_SEED + state);
		ASSERT_EQ((ssize_t)len, pwrite(fd, self->want + off, len, (off_t)(m->addr + off)));
		ASSERT_EQ((ssize_t)LEN, pread(fd, buf, LEN, (off_t)m->addr));
		expect_same(_metadata, "read of what was written", self->want, buf, LEN);
		close(fd);
		kill_child(_metadata, pid);
	}

	/* What it has written is dirty, and the next fsync() protects it again. */
	fd = open_mem(_metadata, getpid());
	set_state(_metadata, self, 2);
	ASSERT_EQ(0, fsync(m->fd));
	self->want[5] = 'x';
	ASSERT_EQ(1, pwrite(fd, self->want + 5, 1, (off_t)(m->addr + 5)));
	ASSERT_EQ(0, fsync(m->fd));
	self->want[6] = 'y';
	before = faults();
	m->addr[6] = 'y';
	ASSERT_LT(before, faults());
	expect_all(_metadata, m, self->want);

	/* Beyond the end of the file there is nothing. */
	ASSERT_EQ(0, ftruncate(m->fd, PMD_SIZE));
	ASSERT_EQ((ssize_t)PAGE, pread(fd, buf, 2 * PAGE, (off_t)(m->addr + PMD_SIZE - PAGE)));
	expect_same(_metadata, "read up to the end", self->want + PMD_SIZE - PAGE, buf, PAGE);
	ASSERT_EQ(-1, pread(fd, buf, PAGE, (off_t)(m->addr + PMD_SIZE)));
	ASSERT_EQ(-1, pwrite(fd, buf, PAGE, (off_t)(m->addr + PMD_SIZE)));
}

/* A debugger reads what the program may not, but does not write to the file then. */
TEST_F(raw, ptrace_protected)
{
	struct dax_map *m = &self->m;
	char *buf = buffer(_metadata, LEN);
	int state, prot, fd;
	pid_t pid;

	for (state = 0; state < 3; state++) {
		for (prot = PROT_READ; prot >= PROT_NONE; prot--) {
			set_state(_metadata, self, state);
			ASSERT_EQ(0, mprotect(m->addr, LEN, prot));
			pid = start_traced(_metadata, self->want, self->want);
			fd = open_mem(_metadata, pid);
			ASSERT_EQ((ssize_t)LEN, pread(fd, buf, LEN, (off_t)m->addr)) {
				TH_LOG("state %d, protection %d: %s", state, prot, strerror(errno));
			}
			expect_same(_metadata, "read", self->want, buf, LEN);
			memset(buf, 'x', PAGE);
			ASSERT_EQ(-1, pwrite(fd, buf, PAGE, (off_t)m->addr)) {
				TH_LOG("state %d, protection %d", state, prot);
			}
			ASSERT_EQ(-1, ptrace(PTRACE_POKEDATA, pid, m->addr, 0));
			close(fd);
			end_traced(_metadata, pid);
			expect_file(_metadata, m, self->want);
		}
	}
}

enum how { POKE, PROC_MEM, PROCESS_VM };

/*
 * Another process writes to a private mapping: that has a copy of its own then, with the
 * rest of the page as in the file, and not what the other has at the same address.
 */
static void poke_private(struct __test_metadata *_metadata, FIXTURE_DATA(raw) *self,
			 enum how how)
{
	static const char text[] = "poked, it";
	size_t off = PMD_SIZE + 5 * PAGE + 96, len = 8;
	struct iovec local = { (void *)text, len }, remote;
	struct dax_map *m = &self->m;
	char *want = share(_metadata, LEN), *addr, *page = buffer(_metadata, PAGE);
	int state, fd;
	pid_t pid;
	long word;

	memcpy(want, self->want, LEN);
	memcpy(want + off, text, len);
	memcpy(&word, text, sizeof(word));
	for (state = 0; state < 3; state++) {
		addr = map_other(_metadata, m, MAP_PRIVATE);
		if (state)
			expect_same(_metadata, "private mapping", self->want, addr, LEN);
		if (state == 2)
			ASSERT_EQ(0, mprotect(addr, LEN, PROT_READ));
		pid = start_traced(_metadata, addr, want);
		ASSERT_EQ(addr, mmap(addr, LEN, PROT_READ | PROT_WRITE,
				     MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
		memset(addr, 0xee, LEN);
		fd = open_mem(_metadata, pid);
		remote = (struct iovec) { addr + off, len };
		switch (how) {
		case POKE:
			ASSERT_EQ(0, ptrace(PTRACE_POKEDATA, pid, addr + off, word));
			break;
		case PROC_MEM:
			ASSERT_EQ((ssize_t)len, pwrite(fd, text, len, (off_t)(addr + off)));
			break;
		case PROCESS_VM:
			/* It does not override the protection. */
			if (state == 2)
				ASSERT_FAULT(process_vm_writev(pid, &local, 1, &remote, 1, 0));
			if (state == 2)
				ASSERT_EQ(0, ptrace(PTRACE_POKEDATA, pid, addr + off, word));
			if (state < 2)
				ASSERT_EQ((ssize_t)len,
					  process_vm_writev(pid, &local, 1, &remote, 1, 0));
		}
		ASSERT_EQ((ssize_t)PAGE, pread(fd, page, PAGE, (off_t)(addr + off - 96)));
		expect_same(_metadata, "page that was poked", want + off - 96, page, PAGE);
		close(fd);
		end_traced(_metadata, pid);
		ASSERT_EQ(0, munmap(addr, LEN));
		expect_all(_metadata, m, self->want);
	}
}

TEST_F(raw, private_ptrace)
{
	poke_private(_metadata, self, POKE);
}

TEST_F(raw, private_proc_mem)
{
	poke_private(_metadata, self, PROC_MEM);
}

TEST_F(raw, private_process_vm)
{
	poke_private(_metadata, self, PROCESS_VM);
}

#define CORE_PATTERN	"/proc/sys/kernel/core_pattern"

static void set_core_pattern(struct __test_metadata *_metadata, const char *pattern)
{
	int fd = open(CORE_PATTERN, O_WRONLY);

	ASSERT_EQ((ssize_t)strlen(pattern), write(fd, pattern, strlen(pattern)));
	close(fd);
}

/* What the core has of this range. */
static void core_has(struct __test_metadata *_metadata, const char *what, int core,
		     const char *addr, const char *want)
{
	char *got = buffer(_metadata, LEN);
	Elf64_Phdr ph;
	Elf64_Ehdr eh;
	unsigned int i;

	ASSERT_EQ((ssize_t)sizeof(eh), pread(core, &eh, sizeof(eh), 0));
	for (i = 0; i < eh.e_phnum; i++) {
		ASSERT_EQ((ssize_t)sizeof(ph),
			  pread(core, &ph, sizeof(ph), eh.e_phoff + i * sizeof(ph)));
		if (ph.p_type == PT_LOAD && (uintptr_t)addr - ph.p_vaddr < ph.p_filesz)
			break;
	}
	ASSERT_LT(i, eh.e_phnum) {
		TH_LOG("the core does not have the %s", what);
	}
	ASSERT_LE((uintptr_t)addr - ph.p_vaddr + LEN, ph.p_filesz);
	ASSERT_EQ((ssize_t)LEN, pread(core, got, LEN, ph.p_offset + (uintptr_t)addr - ph.p_vaddr));
	expect_same(_metadata, what, want, got, LEN);
	munmap(got, LEN);
}

TEST_F(raw, core_dump)
{
	struct rlimit limit = { RLIM_INFINITY, RLIM_INFINITY };
	struct dax_map *m = &self->m;
	char pattern[200] = "", path[100], *untouched, *private, *want;
	int fd, core, status;
	pid_t pid;

	fd = open(CORE_PATTERN, O_RDONLY);
	if (fd < 0 || read(fd, pattern, sizeof(pattern) - 1) <= 0)
		SKIP(return, "the kernel dumps no core");
	close(fd);
	touch(m);
	want = file_pattern(_metadata, m);
	untouched = map_other(_metadata, m, MAP_SHARED);
	private = map_other(_metadata, m, MAP_PRIVATE);
	private[PAGE] = want[PAGE] = 'x';

	set_core_pattern(_metadata, "/tmp/dax_raw.%p");
	pid = fork_child();
	if (!pid) {
		fd = open("/proc/self/coredump_filter", O_WRONLY);
		if (write(fd, "0x1ff", 5) != 5 || setrlimit(RLIMIT_CORE, &limit))
			_exit(1);
		prctl(PR_SET_DUMPABLE, 1);
		touch(m);
		signal(SIGABRT, SIG_DFL);
		abort();
	}
	waitpid(pid, &status, 0);
	set_core_pattern(_metadata, pattern);
	ASSERT_TRUE(WIFSIGNALED(status) && WCOREDUMP(status)) {
		TH_LOG("status %#x", status);
	}
	snprintf(path, sizeof(path), "/tmp/dax_raw.%d", pid);
	core = open(path, O_RDONLY);
	ASSERT_LE(0, core) {
		TH_LOG("%s: %s", path, strerror(errno));
	}
	unlink(path);
	core_has(_metadata, "mapping", core, m->addr, self->want);
	core_has(_metadata, "mapping that was not touched", core, untouched, self->want);
	core_has(_metadata, "private mapping", core, private, want);
	close(core);
	expect_all(_metadata, m, self->want);
}

/* Processes that have mapped the file, and whether they have touched the page that fails. */
static const struct {
	const char *what;
	int flags;
	bool touch, told;
} victims[] = {
	{ "shared mapping", MAP_SHARED, true, true },
	{ "private mapping", MAP_PRIVATE, true, true },
	{ "mapping not touched", MAP_SHARED, false, false },
};

static pid_t start_victim(struct __test_metadata *_metadata, struct dax_map *m, size_t i,
			  struct lost *its, int ready, size_t off)
{
	pid_t pid = fork_child();
	char *addr, c = 0;

	if (pid)
		return pid;
	lost = its;
	/* At once, and not when they touch it next. */
	prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0);
	munmap(m->addr, LEN);
	addr = map_other(_metadata, m, victims[i].flags);
	if (victims[i].touch)
		try_read(addr + off, &c, 1);
	its->addr = addr + off;		/* what it expects */
	write(ready, &c, 1);
	while (1)
		pause();
}

/* Memory fails: who has mapped it is told where, and nobody else is. */
TEST_F(raw, memory_failure)
{
	size_t off = PMD_SIZE + 5 * PAGE, i, n = ARRAY_SIZE(victims);
	struct dax_map *m = &self->m;
	struct lost *all = share(_metadata, PAGE);
	char text[30], c, *want[n + 1];
	__u64 pfn, mask;
	pid_t pid[n];
	int fd, t, ready[2], lsb = m->kind->pmd ? 21 : 12;

	fd = open("/sys/devices/system/memory/hard_offline_page", O_WRONLY);
	if (fd < 0)
		SKIP(return, "the kernel does not handle failures of memory");
	ASSERT_EQ(0, pipe(ready));
	for (i = 0; i < n; i++) {
		pid[i] = start_victim(_metadata, m, i, &all[i], ready[1], off);
		ASSERT_EQ(1, read(ready[0], &c, 1));
		want[i] = all[i].addr;
	}
	touch(m);
	want[n] = m->addr + off;
	pfn = pagemap(_metadata, m->addr + off) & PAGEMAP_PFN;
	ASSERT_NE(0, pfn);
	lost = &all[n];

	snprintf(text, sizeof(text), "%#llx", pfn * PAGE);
	ASSERT_EQ((ssize_t)strlen(text), write(fd, text, strlen(text))) {
		TH_LOG("%s: %s", text, strerror(errno));
	}
	for (i = 0; i <= n; i++)
		for (t = 0; t < 300 && (i == n || victims[i].told) && !all[i].nr; t++)
			usleep(100000);
	/* And those who are not to be told. */
	sleep(1);
	lost = NULL;
	for (i = 0; i <= n; i++) {
		ASSERT_EQ(i < n ? victims[i].told : true, all[i].nr) {
			TH_LOG("%s: told %u times", i < n ? victims[i].what : "this", all[i].nr);
		}
		if (!all[i].nr)
			continue;
		mask = ~((1ULL << lsb) - 1);
		ASSERT_EQ(lsb, all[i].lsb);
		ASSERT_EQ((uintptr_t)want[i] & mask, (uintptr_t)all[i].addr & mask) {
			TH_LOG("%s: %p", i < n ? victims[i].what : "this", all[i].addr);
		}
	}
	for (i = 0; i < n; i++)
		kill_child(_metadata, pid[i]);
	/* It has not really failed. */
	expect_all(_metadata, m, self->want);
}

/*
 * Nobody gets what a bad block has, by any way, and what is next to it is there. Such a
 * block does not become good again here: this is for a device of its own.
 */
TEST_F(raw, bad_block)
{
	const char *badblocks = getenv("DAX_GUP_RAW_BADBLOCKS");
	size_t off = PMD_SIZE + 5 * PAGE;
	struct dax_map *m = &self->m;
	char *buf = buffer(_metadata, PAGE), *addr, text[30];
	int fd, mem = open_mem(_metadata, getpid());

	if (!badblocks)
		SKIP(return, "DAX_GUP_RAW_BADBLOCKS is not set, see dax_raw.sh");
	fd = open(badblocks, O_WRONLY);
	ASSERT_LE(0, fd);
	snprintf(text, sizeof(text), "%llu 1",
		 block_of(extents_of(_metadata, m->fd), off) / SECTOR + 1);
	ASSERT_EQ((ssize_t)strlen(text), write(fd, text, strlen(text)));

	ASSERT_EQ(SIGBUS, try_read(m->addr + off, buf, 1));
	ASSERT_EQ(SIGBUS, try_write(m->addr + off, 'x'));
	ASSERT_EQ(EIO, ERRNO(pread(m->fd, buf, PAGE, off)));
	ASSERT_EQ(-1, pread(mem, buf, PAGE, (off_t)(m->addr + off)));
	ASSERT_EQ(-1, pwrite(mem, buf, PAGE, (off_t)(m->addr + off)));
	ASSERT_NE(0, madvise(m->addr, LEN, MADV_POPULATE_READ));
	expect_same(_metadata, "before it", self->want, m->addr, off);
	expect_same(_metadata, "behind it", self->want + off + PAGE, m->addr + off + PAGE,
		    LEN - off - PAGE);

	addr = map_other(_metadata, m, MAP_PRIVATE);
	ASSERT_EQ(SIGBUS, try_write(addr + off, 'x'));
	ASSERT_EQ(SIGBUS, try_read(addr + off, buf, 1));
	ASSERT_EQ(0, try_write(addr + off - 1, 'x'));
	ASSERT_EQ(0, try_write(addr + off + PAGE, 'x'));
	expect_same(_metadata, "before it", self->want, m->addr, off);
	self->want[off - 1] = self->want[off + PAGE] = 'x';
	expect_same(_metadata, "before it", self->want, addr, off);
	expect_same(_metadata, "behind it", self->want + off + PAGE, addr + off + PAGE,
		    LEN - off - PAGE);
	ASSERT_EQ(0, fsync(m->fd));
}

/* Files with the same blocks: each keeps its data when the other is written to. */
static void copy_shared_blocks(struct __test_metadata *_metadata, FIXTURE_DATA(raw) *self,
			       int fd)
{
	struct dax_map *m = &self->m, copy = *m;
	char *want = file_pattern(_metadata, m);
	struct viewer v;
	size_t off;

	copy.fd = fd;
	copy.addr = map_other(_metadata, &copy, MAP_SHARED);
	viewer_start(_metadata, &v, copy.addr);
	expect_all(_metadata, m, self->want);
	expect_all(_metadata, &copy, want);
	viewer_sees(_metadata, &v, want, LEN, 0);
	ASSERT_EQ(pagemap(_metadata, m->addr) & PAGEMAP_PFN,
		  pagemap(_metadata, copy.addr) & PAGEMAP_PFN) {
		TH_LOG("no block is shared");
	}

	for (off = 0; off < LEN; off += 97 * PAGE) {
		m->addr[off + 10] = self->want[off + 10] = 'a';
		copy.addr[off + 20] = want[off + 20] = 'b';
		viewer_write(_metadata, &v, copy.addr + off + PAGE, 'c');
		want[off + PAGE] = 'c';
	}
	ASSERT_NE(pagemap(_metadata, m->addr) & PAGEMAP_PFN,
		  pagemap(_metadata, copy.addr) & PAGEMAP_PFN);
	memset(self->want + PMD_SIZE + 100, 'd', 9 * PAGE);
	ASSERT_EQ((ssize_t)(9 * PAGE), pwrite(m->fd, self->want + PMD_SIZE + 100, 9 * PAGE,
					      PMD_SIZE + 100));
	expect_all(_metadata, m, self->want);
	expect_all(_metadata, &copy, want);
	viewer_sees(_metadata, &v, want, LEN, 0);
	ASSERT_EQ(0, fsync(m->fd));
	ASSERT_EQ(0, fsync(fd));

	/* Whoever goes first leaves the blocks to the other. */
	ASSERT_EQ(0, ftruncate(m->fd, 0));
	expect_all(_metadata, &copy, want);
	viewer_sees(_metadata, &v, want, LEN, 0);
}

TEST_F(raw, reflink)
{
	int fd;

	if (!self->xfs)
		SKIP(return, "ext4 has no shared blocks");
	fd = open_other(_metadata, self);
	touch(&self->m);
	ASSERT_EQ(0, ioctl(fd, FICLONE, self->m.fd)) {
		TH_LOG("FICLONE: %s", strerror(errno));
	}
	copy_shared_blocks(_metadata, self, fd);
}

TEST_F(raw, dedupe)
{
	struct {
		struct file_dedupe_range range;
		struct file_dedupe_range_info info;
	} dedupe = { .range = { .src_length = LEN, .dest_count = 1 } };
	struct dax_map *m = &self->m;
	char *addr;
	int fd;

	if (!self->xfs)
		SKIP(return, "ext4 has no shared blocks");
	fd = open_other(_metadata, self);
	write_pattern(_metadata, fd, LEN, FILE_SEED);
	addr = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, addr);
	addr[PAGE]++;
	touch(m);
	dedupe.info.dest_fd = fd;
	ASSERT_EQ(0, ioctl(m->fd, FIDEDUPERANGE, &dedupe));
	ASSERT_EQ(FILE_DEDUPE_RANGE_DIFFERS, dedupe.info.status);
	addr[PAGE]--;
	ASSERT_EQ(0, ioctl(m->fd, FIDEDUPERANGE, &dedupe));
	ASSERT_EQ(FILE_DEDUPE_RANGE_SAME, dedupe.info.status);
	ASSERT_EQ(LEN, dedupe.info.bytes_deduped);
	expect_same(_metadata, "mapping of the other", self->want, addr, LEN);
	copy_shared_blocks(_metadata, self, fd);
}

/* A private mapping of a file with shared blocks sees what the file has, old and new. */
TEST_F(raw, reflink_private)
{
	struct dax_map *m = &self->m;
	char *addr;
	int fd;

	if (!self->xfs)
		SKIP(return, "ext4 has no shared blocks");
	fd = open_other(_metadata, self);
	ASSERT_EQ(0, ioctl(fd, FICLONE, m->fd));
	addr = map_other(_metadata, m, MAP_PRIVATE);
	expect_same(_metadata, "private mapping", self->want, addr, LEN);
	m->addr[PMD_SIZE] = self->want[PMD_SIZE] = 'x';
	expect_same(_metadata, "private mapping", self->want, addr, LEN);
	addr[PMD_SIZE + PAGE] = 'y';
	expect_all(_metadata, m, self->want);
	self->want[PMD_SIZE + PAGE] = 'y';
	expect_same(_metadata, "private mapping", self->want, addr, LEN);
}

struct racer {
	FIXTURE_DATA(raw) *self;
	char *addr;
	unsigned int rounds;
	bool stop;
	char error[100];
};

static bool goes_on(struct racer *r)
{
	return !__atomic_load_n(&r->stop, __ATOMIC_RELAXED) && !*r->error;
}

/*
 * A page has the pattern of the file or zeros, byte by byte, and nothing of another. It
 * may have been 2 MiB farther on before.
 */
static bool is_ours(const char *got, const char *pattern, size_t off)
{
	const char *want = pattern + off, *before = pattern + (off + PMD_SIZE) % LEN;
	size_t i;

	for (i = 0; i < PAGE; i++)
		if (got[i] && got[i] != want[i] && got[i] != before[i])
			return false;
	return true;
}

/* Reads and writes the file by the mapping, and never anything but its pattern. */
static void touch_some(struct racer *r, const char *pattern, unsigned int *seed, char *buf)
{
	size_t off = rand_r(seed) % NR * PAGE, word = off + rand_r(seed) % PAGE / 8 * 8;

	if (rand_r(seed) % 2)
		try_read(pattern + word, r->addr + word, 8);
	if (!try_read(r->addr + off, buf, PAGE) && !is_ours(buf, pattern, off))
		snprintf(r->error, sizeof(r->error), "page %zu is another's: %#llx", off / PAGE,
			 *(__u64 *)buf);
}

static void *race_touch(void *arg)
{
	struct racer *r = arg;
	unsigned int seed = (uintptr_t)arg;
	char *pattern = malloc(LEN), *buf = malloc(PAGE);

	fill(pattern, LEN, FILE_SEED);
	for (; goes_on(r); r->rounds++)
		touch_some(r, pattern, &seed, buf);
	return NULL;
}

static void *race_fork(void *arg)
{
	struct racer *r = arg;
	unsigned int seed = (uintptr_t)arg, i;
	char *pattern = malloc(LEN), *buf = malloc(PAGE);
	int status;
	pid_t pid;

	fill(pattern, LEN, FILE_SEED);
	for (; goes_on(r); r->rounds++) {
		for (i = 0; i < 20; i++)
			touch_some(r, pattern, &seed, buf);
		pid = fork();
		if (!pid) {
			for (i = 0; i < 50 && !*r->error; i++)
				touch_some(r, pattern, &seed, buf);
			_exit(*r->error);
		}
		if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
			snprintf(r->error, sizeof(r->error), "a child: status %#x", status);
	}
	return NULL;
}

/* Files that lose their names, and then their mappings, with data in them. */
static void *race_unlink(void *arg)
{
	struct racer *r = arg;
	const char *error = NULL;
	char path[PATH_MAX], *want = malloc(MB), *got = malloc(MB), *addr;
	int fd;

	snprintf(path, sizeof(path), "%s/dax_gup.race", getenv(r->self->m.kind->env));
	for (; goes_on(r); r->rounds++) {
		fill(want, MB, PEER_SEED + r->rounds);
		fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
		if (fd < 0 || ftruncate(fd, MB))
			error = "create";
		addr = mmap(NULL, MB, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (unlink(path) || addr == MAP_FAILED)
			error = "unlink";
		if (!error) {
			memcpy(addr, want, MB);
			if (pread(fd, got, MB, 0) != (ssize_t)MB || memcmp(want, got, MB))
				error = "read";
			close(fd);
			if (memcmp(addr, want, MB))
				error = "the file without a name has others' data";
			munmap(addr, MB);
		}
		if (error)
			snprintf(r->error, sizeof(r->error), "%s", error);
	}
	return NULL;
}

/* Take blocks from the file, give them to another, and give it new ones. */
static const char *race_round(struct dax_map *m, int other, unsigned int round,
			      const char *want, char *got, const char *pattern)
{
	int err;

	switch (round % 3) {
	case 0:
		err = ftruncate(m->fd, round % 2 ? MB + PAGE : 0);
		break;
	case 1:
		err = fallocate(m->fd, PUNCH, MB, PMD_SIZE);
		break;
	default:
		err = fallocate(m->fd, FALLOC_FL_COLLAPSE_RANGE, 0, PMD_SIZE);
	}
	if (err || fsync(m->fd))
		return "taking blocks";
	if (pwrite(other, want, MB, 0) != (ssize_t)MB || fsync(other))
		return "write of another file";
	if (ftruncate(m->fd, LEN))
		return "growing the file";
	usleep(2000);
	if (pread(other, got, MB, 0) != (ssize_t)MB)
		return "read of another file";
	if (memcmp(want, got, MB))
		return "another file has lost its data";
	if (ftruncate(other, 0))
		return "truncating another file";
	/* Of which the next round has something to lose. */
	return pwrite(m->fd, pattern, LEN, 0) != (ssize_t)LEN ? "write" : NULL;
}

/* Blocks go and come back while all that is done. */
TEST_F(raw, race)
{
	void *(*const what[])(void *) = {
		race_touch, race_touch, race_fork, race_unlink, race_touch
	};
	char *want = buffer(_metadata, MB), *got = buffer(_metadata, MB);
	struct racer r[ARRAY_SIZE(what)] = {};
	struct dax_map *m = &self->m;
	int other = open_other(_metadata, self);
	pthread_t thread[ARRAY_SIZE(what)];
	const char *error = NULL;
	unsigned int i, rounds;
	long start, took = 0;
	bool all = false;

	fill(want, MB, VICTIM_SEED);
	for (i = 0; i < ARRAY_SIZE(what); i++) {
		r[i].self = self;
		r[i].addr = i < ARRAY_SIZE(what) - 1 ? m->addr :
				map_other(_metadata, m, MAP_PRIVATE);
		ASSERT_EQ(0, pthread_create(&thread[i], NULL, what[i], &r[i]));
	}
	start = now_ms();
	for (rounds = 0; !error && (took < 2000 || (took < 60000 && !(all && rounds > 2)));
	     rounds++) {
		error = race_round(m, other, rounds, want, got, self->want);
		for (all = true, i = 0; i < ARRAY_SIZE(what); i++) {
			all &= __atomic_load_n(&r[i].rounds, __ATOMIC_RELAXED) > 0;
			if (*r[i].error)
				error = r[i].error;
		}
		took = now_ms() - start;
	}
	for (i = 0; i < ARRAY_SIZE(what); i++)
		__atomic_store_n(&r[i].stop, true, __ATOMIC_RELAXED);
	for (i = 0; i < ARRAY_SIZE(what); i++)
		ASSERT_EQ(0, pthread_join(thread[i], NULL));
	TH_LOG("%u rounds against %u, %u and %u touches, %u forks, %u files", rounds,
	       r[0].rounds, r[1].rounds, r[4].rounds, r[2].rounds, r[3].rounds);
	ASSERT_EQ(NULL, error) {
		TH_LOG("%s: %s", error, strerror(errno));
	}
	EXPECT_TRUE(all);
	/* Each way to take blocks. */
	EXPECT_LT(2, rounds);
	expect_all(_metadata, m, self->want);
}

TEST_HARNESS_MAIN

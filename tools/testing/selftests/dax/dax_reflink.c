// SPDX-License-Identifier: GPL-2.0
/*
 * Two files on XFS that have the same blocks, both mapped, with PTEs or PMDs: none
 * gets at the other's data or loses its own, and copy on write leaves a page with its
 * file as long as somebody pins it there.
 *
 * Expected on stock: a pinned page loses its file, and the sizes of leaves are mixed
 * up. What has neither a pin nor leaves of two sizes may pass there: it is for the
 * locking.
 */
#include <pthread.h>

#define DAX_OWN_FIXTURE
#include "dax_gup.h"

#define LEN	(4 * MB)
#define NR	(LEN / PAGE)
#define PINNED	(PMD_SIZE + 16 * KB)	/* where a page is pinned */
#define ROUNDS	4

static const struct dax_kind xfs_kind = { XFS, .flags = MAP_SHARED };
static const struct dax_kind xfs_pmd_kind = { XFS, .flags = MAP_SHARED, .pmd = true };

FIXTURE(reflink) {
	struct dax_map a, b;
	char *want;
	int pipefd[2];
};

FIXTURE_VARIANT(reflink) {
	const struct dax_kind *a, *b;
};

FIXTURE_VARIANT_ADD(reflink, pte_pte) {
	.a = &xfs_kind, .b = &xfs_kind,
};

FIXTURE_VARIANT_ADD(reflink, pte_pmd) {
	.a = &xfs_kind, .b = &xfs_pmd_kind,
};

FIXTURE_VARIANT_ADD(reflink, pmd_pte) {
	.a = &xfs_pmd_kind, .b = &xfs_kind,
};

FIXTURE_VARIANT_ADD(reflink, pmd_pmd) {
	.a = &xfs_pmd_kind, .b = &xfs_pmd_kind,
};

FIXTURE_SETUP(reflink)
{
	struct dax_map *a = &self->a, *b = &self->b;

	if (!dax_open(_metadata, a, variant->a, LEN))
		return;
	write_pattern(_metadata, a->fd, LEN, FILE_SEED);
	self->want = file_pattern(_metadata, a);

	*b = *a;
	b->kind = variant->b;
	b->fd = open_file(_metadata, getenv(b->kind->env), "copy", b->path);
	ASSERT_EQ(0, ioctl(b->fd, FICLONE, a->fd)) {
		TH_LOG("FICLONE: %s", strerror(errno));
	}

	a->addr = dax_mmap(_metadata, a, dax_reserve(_metadata, a->kind, LEN), MAP_SHARED);
	b->addr = dax_mmap(_metadata, b, dax_reserve(_metadata, b->kind, LEN), MAP_SHARED);
	touch(a);
	expect_leaves(_metadata, a, a->addr, LEN);
}

FIXTURE_TEARDOWN_PARENT(reflink)
{
	unlink(self->a.path);
	unlink(self->b.path);
}

static void expect_both(struct __test_metadata *_metadata, FIXTURE_DATA(reflink) *self,
			const char *want_b)
{
	expect_same(_metadata, "mapping", self->want, self->a.addr, LEN);
	expect_same(_metadata, "mapping of the copy", want_b, self->b.addr, LEN);
	expect_file(_metadata, &self->a, self->want);
	expect_file(_metadata, &self->b, want_b);
}

/* Huge leaves need a folio that is huge for the other file, too. */
TEST_F(reflink, both_read)
{
	struct dax_map *b = &self->b;
	bool pmd = variant->a->pmd && variant->b->pmd;

	touch(b);
	b->kind = pmd ? &xfs_pmd_kind : &xfs_kind;
	expect_leaves(_metadata, b, b->addr, LEN);
	expect_both(_metadata, self, self->want);

	/* Whoever goes first leaves the pages to the other. */
	ASSERT_EQ(0, munmap(self->a.addr, LEN));
	ASSERT_EQ(0, ftruncate(self->a.fd, 0));
	expect_same(_metadata, "mapping of the copy", self->want, b->addr, LEN);
	expect_file(_metadata, b, self->want);
}

static pid_t write_in_child(char *addr, char val)
{
	pid_t pid = fork_child();

	if (!pid) {
		*addr = val;
		_exit(0);
	}
	return pid;
}

static void expect_waiting(struct __test_metadata *_metadata, pid_t pid)
{
	usleep(300000);
	ASSERT_EQ(0, waitpid(pid, NULL, WNOHANG)) {
		TH_LOG("the pinned page was taken from its file");
	}
}

/* Copy on write waits for the pin of a page that no other file has, and can be killed. */
static void copy_waits(struct __test_metadata *_metadata, FIXTURE_DATA(reflink) *self,
		       struct dax_map *m)
{
	pid_t pid = write_in_child(m->addr + PINNED, 'x');

	expect_waiting(_metadata, pid);
	kill_child(_metadata, pid);
	pid = write_in_child(m->addr + PINNED, 'x');
	expect_waiting(_metadata, pid);
	pipe_expect(_metadata, self->pipefd, self->want + PINNED, PAGE);
	expect_exit(_metadata, pid, 0);
	ASSERT_EQ('x', m->addr[PINNED]);
}

TEST_F(reflink, write_waits_for_pin)
{
	char *want_b = file_pattern(_metadata, &self->b);

	pipe_fill(_metadata, self->pipefd, self->a.addr + PINNED, PAGE);
	copy_waits(_metadata, self, &self->a);
	self->want[PINNED] = 'x';
	expect_both(_metadata, self, want_b);
}

/* Both have the same data, so that there is nothing to see when the blocks change. */
TEST_F(reflink, swap_waits_for_pin)
{
	struct xfs_swapext swap = {
		.target = self->a.fd,
		.tmp = self->b.fd,
		.length = LEN,
	};
	pid_t pid;

	pipe_fill(_metadata, self->pipefd, self->a.addr + PINNED, PAGE);
	pid = fork_child();
	if (!pid) {
		/* Fails in the end, as the file has changed since, if not before. */
		ioctl(self->a.fd, XFS_IOC_SWAPEXT, &swap);
		_exit(0);
	}
	expect_waiting(_metadata, pid);
	pipe_expect(_metadata, self->pipefd, self->want + PINNED, PAGE);
	expect_exit(_metadata, pid, 0);
	expect_both(_metadata, self, self->want);
}

/* With an entry of another file the page can lose this one, but not both. */
TEST_F(reflink, last_file_keeps_pinned)
{
	char path[PATH_MAX];
	int fd;

	/* A third file, so that the copy has to be copied, too. */
	fd = open_file(_metadata, getenv(xfs_kind.env), "third", path);
	unlink(path);
	ASSERT_EQ(0, ioctl(fd, FICLONE, self->a.fd));
	touch(&self->a);
	touch(&self->b);
	pipe_fill(_metadata, self->pipefd, self->a.addr + PINNED, PAGE);
	/* The small entries in a huge folio may be for other pages: all stay. */
	if (variant->a->pmd && !variant->b->pmd) {
		copy_waits(_metadata, self, &self->a);
		self->b.addr[PINNED] = 'x';
	} else {
		expect_exit(_metadata, write_in_child(self->a.addr + PINNED, 'x'), 0);
		copy_waits(_metadata, self, &self->b);
	}
	self->want[PINNED] = 'x';
	expect_both(_metadata, self, self->want);
}

/* write() holds locks, and does not wait for long. */
TEST_F(reflink, call_fails_on_pin)
{
	char *want_b = file_pattern(_metadata, &self->b);
	char *buf = buffer(_metadata, 64 * KB);

	memset(buf, 'y', 64 * KB);
	pipe_fill(_metadata, self->pipefd, self->a.addr + PINNED, PAGE);
	ASSERT_EQ(-1, pwrite(self->a.fd, buf, 64 * KB, PMD_SIZE));
	ASSERT_EQ(EBUSY, errno);
	expect_both(_metadata, self, want_b);

	pipe_expect(_metadata, self->pipefd, self->want + PINNED, PAGE);
	ASSERT_EQ((ssize_t)(64 * KB), pwrite(self->a.fd, buf, 64 * KB, PMD_SIZE));
	memset(self->want + PMD_SIZE, 'y', 64 * KB);
	ASSERT_EQ(0, fallocate(self->a.fd, FALLOC_FL_UNSHARE_RANGE, 0, LEN));
	expect_both(_metadata, self, want_b);
}

/* What a failed write has allocated does not get into the file where that has holes. */
TEST_F(reflink, holes_after_failed_call)
{
	struct dax_map *a = &self->a;
	char *want_b = file_pattern(_metadata, &self->b);
	char *buf = buffer(_metadata, 64 * KB);
	size_t off;

	pipe_fill(_metadata, self->pipefd, a->addr + PINNED, PAGE);
	ASSERT_EQ(-1, pwrite(a->fd, buf, 64 * KB, PMD_SIZE));
	ASSERT_EQ(EBUSY, errno);
	pipe_expect(_metadata, self->pipefd, self->want + PINNED, PAGE);

	for (off = PMD_SIZE; off < PMD_SIZE + 64 * KB; off += 2 * PAGE) {
		ASSERT_EQ(0, fallocate(a->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				       off, PAGE));
		ASSERT_EQ((off_t)off, lseek(a->fd, off, SEEK_HOLE));
		memset(self->want + off, 0, PAGE);
	}
	/* Where a PMD would fit, but for the data behind the hole. */
	a->addr[PMD_SIZE] = 'x';
	self->want[PMD_SIZE] = 'x';
	expect_both(_metadata, self, want_b);
}

/* A write whose source is a mapping of the very blocks that it replaces. */
TEST_F(reflink, write_from_itself)
{
	struct dax_map *a = &self->a;
	char *want_b = file_pattern(_metadata, &self->b);

	ASSERT_EQ((ssize_t)(64 * KB), pwrite(a->fd, a->addr + PINNED, 64 * KB, PINNED));
	expect_both(_metadata, self, want_b);
}

/* What a write did not get to is as it was, to the byte. */
TEST_F(reflink, short_write)
{
	struct dax_map *a = &self->a;
	char *want_b = file_pattern(_metadata, &self->b);
	char *buf = buffer(_metadata, 4 * PAGE);
	ssize_t len;

	memset(buf, 'z', 2 * PAGE);
	ASSERT_EQ(0, mprotect(buf + 2 * PAGE, 2 * PAGE, PROT_NONE));
	len = pwrite(a->fd, buf + PAGE - 100, 3 * PAGE, PINNED);
	ASSERT_LT(0, len);
	ASSERT_GE((ssize_t)(PAGE + 100), len);
	memset(self->want + PINNED, 'z', len);
	expect_both(_metadata, self, want_b);
}

struct writer {
	pthread_t thread;
	struct dax_map *m;
	char *want;
	unsigned int seed, part;	/* of four: which pages are its own */
	bool call;			/* pwrite(), or else the mapping */
	const char *error;
};

static void *writer(void *arg)
{
	struct writer *w = arg;
	char *page = malloc(PAGE);
	unsigned int i;

	for (i = w->part; i < NR; i += 4) {
		fill(page, PAGE, w->seed + i);
		if (!w->call)
			memcpy(w->m->addr + i * PAGE, page, PAGE);
		else if (pwrite(w->m->fd, page, PAGE, i * PAGE) != (ssize_t)PAGE)
			w->error = "pwrite";
		memcpy(w->want + i * PAGE, page, PAGE);
	}
	free(page);
	return NULL;
}

/* Mappings and calls, of both files, all copy on write at once. */
TEST_F_TIMEOUT(reflink, all_write, 800)
{
	char *want_b = file_pattern(_metadata, &self->b);
	unsigned int round, i;
	struct writer w[8];

	for (round = 0; round < ROUNDS; round++) {
		touch(&self->b);
		for (i = 0; i < ARRAY_SIZE(w); i++) {
			w[i] = (struct writer) {
				.m = i % 2 ? &self->b : &self->a,
				.want = i % 2 ? want_b : self->want,
				.seed = FIRST_SEED + (round * 8 + i) * NR,
				.part = i / 2,
				.call = i >= 4,
			};
			ASSERT_EQ(0, pthread_create(&w[i].thread, NULL, writer, &w[i]));
		}
		for (i = 0; i < ARRAY_SIZE(w); i++) {
			ASSERT_EQ(0, pthread_join(w[i].thread, NULL));
			ASSERT_EQ(NULL, w[i].error) {
				TH_LOG("%s", w[i].error);
			}
		}
		expect_both(_metadata, self, want_b);
		ASSERT_EQ(0, ioctl(self->b.fd, FICLONE, self->a.fd));
		memcpy(want_b, self->want, LEN);
	}
}

TEST_HARNESS_MAIN

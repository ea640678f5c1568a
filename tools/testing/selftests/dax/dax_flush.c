// SPDX-License-Identifier: GPL-2.0
/*
 * What fsync() and MAP_SYNC promise is on the media: the caches are flushed for what
 * was written. As nothing is lost in a guest, the calls of dax_flush() are counted,
 * which all flushes go through but for those of write().
 *
 * Expected on stock: no flush at all, in each test; a pin that is long-term is refused.
 */
#define DAX_OWN_FIXTURE
#include "../../../../mm/gup_test.h"
#include "dax_gup.h"

#define LEN	(4 * MB)
#define TRACING	"/sys/kernel/tracing/"

static void tracing_write(struct __test_metadata *_metadata, const char *file,
			  const char *text)
{
	int fd = open(file, O_WRONLY | O_APPEND);

	ASSERT_LE(0, fd) {
		TH_LOG("%s: %s", file, strerror(errno));
	}
	ASSERT_EQ((ssize_t)strlen(text), write(fd, text, strlen(text))) {
		TH_LOG("%s: %s", text, strerror(errno));
	}
	close(fd);
}

/* Count the calls of a function of the kernel's from here on. */
static void count_calls(struct __test_metadata *_metadata, const char *function)
{
	char text[100];

	snprintf(text, sizeof(text), "p:dax_gup/called %s", function);
	tracing_write(_metadata, TRACING "kprobe_events", text);
	close(open(TRACING "trace", O_WRONLY | O_TRUNC));
	tracing_write(_metadata, TRACING "events/dax_gup/called/enable", "1");
}

static unsigned int calls(struct __test_metadata *_metadata)
{
	unsigned int nr = 0;
	char line[1000];
	FILE *f;

	tracing_write(_metadata, TRACING "events/dax_gup/called/enable", "0");
	f = fopen(TRACING "trace", "r");
	ASSERT_NE(NULL, f);
	while (fgets(line, sizeof(line), f))
		nr += !!strstr(line, " called: ");
	fclose(f);
	tracing_write(_metadata, TRACING "kprobe_events", "-:dax_gup/called");
	return nr;
}

/* After a test that failed half-way. */
static void stop_counting(void)
{
	int fd = open(TRACING "events/dax_gup/called/enable", O_WRONLY);

	if (fd < 0)
		return;
	write(fd, "0", 1);
	close(fd);
	fd = open(TRACING "kprobe_events", O_WRONLY | O_APPEND);
	write(fd, "-:dax_gup/called", 16);
	close(fd);
}

FIXTURE(flush) {
	struct dax_map m;
};

FIXTURE_VARIANT(flush) {
	struct dax_kind kind;
};

FIXTURE_VARIANT_ADD(flush, ext4_pte) {
	.kind = { EXT4, .flags = MAP_SHARED },
};

FIXTURE_VARIANT_ADD(flush, ext4_pmd) {
	.kind = { EXT4, .flags = MAP_SHARED, .pmd = true },
};

FIXTURE_VARIANT_ADD(flush, xfs_pte) {
	.kind = { XFS, .flags = MAP_SHARED },
};

FIXTURE_VARIANT_ADD(flush, xfs_pmd) {
	.kind = { XFS, .flags = MAP_SHARED, .pmd = true },
};

FIXTURE_SETUP(flush)
{
	struct dax_map *m = &self->m;

	map_setup(_metadata, m, &variant->kind, LEN);
	ASSERT_EQ(0, fsync(m->fd));

	count_calls(_metadata, "dax_flush");
	m->addr[0]++;
	ASSERT_EQ(0, fsync(m->fd));
	ASSERT_LT(0, calls(_metadata)) {
		TH_LOG("the probe does not see an ordinary fsync()");
	}
	count_calls(_metadata, "dax_flush");
	m->addr[0]++;
}

FIXTURE_TEARDOWN_PARENT(flush)
{
	stop_counting();
	unlink(self->m.path);
}

/* What the file keeps must not be forgotten. */
TEST_F(flush, truncate)
{
	ASSERT_EQ(0, ftruncate(self->m.fd, PMD_SIZE));
	ASSERT_EQ(0, fsync(self->m.fd));
	ASSERT_LT(0, calls(_metadata));
}

TEST_F(flush, punch)
{
	ASSERT_EQ(0, fallocate(self->m.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			       PMD_SIZE, PMD_SIZE));
	ASSERT_EQ(0, fsync(self->m.fd));
	ASSERT_LT(0, calls(_metadata));
}

FIXTURE(sync) {
	struct dax_map m;
	char copy[PATH_MAX];
};

/* A file that has its blocks with another, all of it on the media. */
FIXTURE_SETUP(sync)
{
	static const struct dax_kind kind = { XFS, .flags = SYNC };
	struct dax_map *m = &self->m;
	int fd;

	map_setup(_metadata, m, &kind, LEN);
	fd = open_file(_metadata, getenv(kind.env), "copy", self->copy);
	ASSERT_EQ(0, ioctl(fd, FICLONE, m->fd)) {
		TH_LOG("FICLONE: %s", strerror(errno));
	}
	close(fd);
	m->addr[0]++;	/* has XFS reserve the blocks that follow for copies, too */
	sync();
}

FIXTURE_TEARDOWN_PARENT(sync)
{
	stop_counting();
	unlink(self->m.path);
	unlink(self->copy);
}

/* The user flushes what it writes, not the rest of the block that is copied. */
TEST_F(sync, flushes_copy)
{
	count_calls(_metadata, "dax_flush");
	self->m.addr[PAGE]++;
	ASSERT_LT(0, calls(_metadata));
}

/* The file has another block than before, and has to have it after a power failure. */
TEST_F(sync, makes_copy_durable)
{
	count_calls(_metadata, "vfs_fsync_range");
	self->m.addr[PAGE]++;
	ASSERT_LT(0, calls(_metadata));
}

static unsigned int calls_of_fsync(struct __test_metadata *_metadata, int fd)
{
	count_calls(_metadata, "dax_flush");
	ASSERT_EQ(0, fsync(fd));
	return calls(_metadata);
}

/* A device can write to what it has pinned at any time, and causes no fault. */
TEST_F(sync, longterm_stays_dirty)
{
	struct dax_map *m = &self->m;
	struct pin_longterm_test pin = {
		.addr = (uintptr_t)m->addr,
		.size = LEN,
		.flags = PIN_LONGTERM_TEST_FLAG_USE_WRITE,
	};
	int gup = open("/sys/kernel/debug/gup_test", O_RDWR);

	ASSERT_LE(0, gup);
	ASSERT_EQ(0, ioctl(gup, PIN_LONGTERM_TEST_START, &pin)) {
		TH_LOG("pin: %s", strerror(errno));
	}
	ASSERT_LT(0, calls_of_fsync(_metadata, m->fd));
	ASSERT_LT(0, calls_of_fsync(_metadata, m->fd));
	close(gup);
	/* What has been written last, and then no more. */
	ASSERT_LT(0, calls_of_fsync(_metadata, m->fd));
	ASSERT_EQ(0, calls_of_fsync(_metadata, m->fd));
}

TEST_HARNESS_MAIN

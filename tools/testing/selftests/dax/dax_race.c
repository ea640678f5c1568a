// SPDX-License-Identifier: GPL-2.0
/*
 * Direct I/O to and from a DAX mapping while its address space changes: the result
 * is the data, or EFAULT.
 */
#include <linux/aio_abi.h>

#include "dax_race.h"

/* Long enough to be in flight for a while. */
#define AIO_OFF		(PMD_SIZE - MB / 2 + SECTOR)
#define AIO_LEN		MB

/* How long a page comes and goes, and how often, at least. */
#define ZAP_MS		5000
#define ZAP_ROUNDS	1000

FIXTURE_SETUP(dax)
{
	map_setup(_metadata, &self->m, &variant->kind, RACE_LEN);
}

static const char *step_mprotect(struct race *race)
{
	static const int prots[] = {
		PROT_NONE, PROT_READ | PROT_WRITE, PROT_READ, PROT_READ | PROT_WRITE
	};
	int prot = prots[race->steps % ARRAY_SIZE(prots)];

	if (mprotect(race->m->addr + PMD_SIZE, PMD_SIZE, prot))
		return "mprotect";
	return NULL;
}

static const char *step_munmap(struct race *race)
{
	struct dax_map *m = race->m;

	if (munmap(m->addr + PMD_SIZE, PMD_SIZE))
		return "munmap";
	if (mmap(m->addr + PMD_SIZE, PMD_SIZE, PROT_READ | PROT_WRITE,
		 m->kind->flags | MAP_FIXED, m->fd, PMD_SIZE) == MAP_FAILED)
		return "mmap";
	return NULL;
}

static const char *step_mremap(struct race *race)
{
	char *addr = race->m->addr;

	if (mremap(addr, RACE_LEN, RACE_LEN, MREMAP_MAYMOVE | MREMAP_FIXED,
		   race->spare) != race->spare)
		return "mremap";
	if (mremap(race->spare, RACE_LEN, RACE_LEN, MREMAP_MAYMOVE | MREMAP_FIXED,
		   addr) != addr)
		return "mremap back";
	return NULL;
}

/* And then, undisturbed, all is as if nothing had been. */
static void after_race(struct __test_metadata *_metadata, struct dax_map *m)
{
	char *want = buffer(_metadata, IO_LEN);

	disk_put(_metadata, m->disk, IO_LEN, FIRST_SEED + 2, want);
	ASSERT_EQ((ssize_t)IO_LEN, pread(m->disk, m->addr + IO_OFF, IO_LEN, 0));
	expect_same(_metadata, "afterwards", want, m->addr + IO_OFF, IO_LEN);
}

TEST_F(dax, race_mprotect)
{
	struct race race = { .m = &self->m, .step = step_mprotect };

	race_run(_metadata, &race);
	ASSERT_EQ(0, mprotect(self->m.addr, RACE_LEN, PROT_READ | PROT_WRITE));
	after_race(_metadata, &self->m);
}

/* A private mapping loses what was written to it, and has the file's data again. */
TEST_F(dax, race_munmap)
{
	struct race race = { .m = &self->m, .step = step_munmap };

	race_run(_metadata, &race);
	after_race(_metadata, &self->m);
}

TEST_F(dax, race_mremap)
{
	struct race race = { .m = &self->m, .step = step_mremap };

	race.spare = dax_reserve(_metadata, &variant->kind, RACE_LEN);
	race_run(_metadata, &race);
	after_race(_metadata, &self->m);
}

struct zap {
	char *addr;
	bool stop;
	unsigned int steps;
};

static void *zap_thread(void *arg)
{
	struct zap *zap = arg;
	int error = 0;

	while (!error && !__atomic_load_n(&zap->stop, __ATOMIC_RELAXED)) {
		error = madvise(zap->addr, RACE_LEN, MADV_DONTNEED);
		__atomic_add_fetch(&zap->steps, 1, __ATOMIC_RELAXED);
	}
	return (void *)(intptr_t)error;
}

/*
 * A page table that is empty is freed with what it mapped. That is no want of memory
 * for who is about to map a page there. With PMDs there is no such table, and nothing
 * to see on any kernel.
 */
TEST_F(dax, race_populate)
{
	struct zap zap = { .addr = self->m.addr };
	long end = now_ms() + (variant->kind.pmd ? 0 : ZAP_MS);
	unsigned int rounds = 0;
	pthread_t thread;
	void *error;
	char *page;

	/* All of this page's table is in the mapping. */
	page = (char *)(((uintptr_t)zap.addr + PMD_SIZE - 1) & ~(PMD_SIZE - 1));
	ASSERT_EQ(0, pthread_create(&thread, NULL, zap_thread, &zap));
	while (now_ms() < end || rounds < ZAP_ROUNDS ||
	       __atomic_load_n(&zap.steps, __ATOMIC_RELAXED) < ZAP_ROUNDS) {
		ASSERT_EQ(0, madvise(page, PAGE, MADV_POPULATE_READ)) {
			TH_LOG("round %u: %s", rounds, strerror(errno));
		}
		rounds++;
	}
	__atomic_store_n(&zap.stop, true, __ATOMIC_RELAXED);
	ASSERT_EQ(0, pthread_join(thread, &error));
	EXPECT_EQ(NULL, error);
	TH_LOG("%u rounds against %u", rounds, zap.steps);
}

/* What is in flight while a process forks is the parent's, whatever the child does. */
TEST_F(dax, fork_during_aio)
{
	struct dax_map *m = &self->m;
	char *want = buffer(_metadata, AIO_LEN);
	struct iocb iocb = {
		.aio_lio_opcode = IOCB_CMD_PREAD,
		.aio_fildes = m->disk,
		.aio_buf = (uintptr_t)m->addr + AIO_OFF,
		.aio_nbytes = AIO_LEN,
	}, *iocbs = &iocb;
	struct io_event event;
	aio_context_t ctx = 0;
	unsigned int i;
	pid_t pid;

	ASSERT_EQ(0, syscall(SYS_io_setup, 1, &ctx));
	for (i = 0; i < 8; i++) {
		disk_put(_metadata, m->disk, AIO_LEN, FIRST_SEED + i, want);
		ASSERT_EQ(1, syscall(SYS_io_submit, ctx, 1, &iocbs));
		pid = fork_child();
		ASSERT_LE(0, pid);
		if (!pid) {
			/* Its own copy, or what the parent does not look at. */
			memset(m->private ? m->addr + AIO_OFF : m->addr, 0x5a, MB);
			_exit(0);
		}
		/* The parent's page must still be the one that is written to. */
		if (m->private)
			m->addr[AIO_OFF - 1] = i;
		expect_exit(_metadata, pid, 0);
		ASSERT_EQ(1, syscall(SYS_io_getevents, ctx, 1, 1, &event, NULL));
		ASSERT_EQ((__s64)AIO_LEN, event.res);
		expect_same(_metadata, "parent", want, m->addr + AIO_OFF, AIO_LEN);
	}
	syscall(SYS_io_destroy, ctx);
}

TEST_HARNESS_MAIN

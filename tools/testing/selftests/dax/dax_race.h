/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Direct I/O on a DAX mapping while a second thread pulls the rug from under it.
 */
#ifndef DAX_RACE_H
#define DAX_RACE_H

#include <pthread.h>

#include "dax_gup.h"

#define RACE_LEN	(4 * MB)
#define RACE_MS		400	/* at least, */
#define RACE_MAX_MS	15000	/* and until something has come through */

/* The range of the I/O: over a PMD's border, and not on a page's. */
#define IO_OFF		(PMD_SIZE - 128 * KB + SECTOR)
#define IO_LEN		(256 * KB)

struct race {
	struct dax_map *m;
	/* Disturbs the I/O. Returns what went wrong, or NULL. */
	const char *(*step)(struct race *race);
	bool destroys;		/* the data, and not just the mapping */
	bool stop;
	unsigned int steps;	/* of that thread */
	unsigned int rounds;	/* of I/O */
	char *spare;		/* a reserved range, as long as the mapping */
	int victim;		/* a file to give blocks to that were the mapping's */
	char *victim_want;
	char *victim_got;
};

static inline void *race_thread(void *arg)
{
	struct race *race = arg;
	const char *error = NULL;
	unsigned int rounds;

	while (!error && !__atomic_load_n(&race->stop, __ATOMIC_RELAXED)) {
		error = race->step(race);
		/* Every so often let some I/O through. */
		rounds = __atomic_load_n(&race->rounds, __ATOMIC_RELAXED);
		while (race->steps % 4 == 3 &&
		       __atomic_load_n(&race->rounds, __ATOMIC_RELAXED) - rounds < 2 &&
		       !__atomic_load_n(&race->stop, __ATOMIC_RELAXED))
			usleep(100);
		usleep(500);
		__atomic_add_fetch(&race->steps, 1, __ATOMIC_RELAXED);
	}
	return (void *)error;
}

/*
 * Each byte must be what one of the candidates, NULL at the end, has there. Not each
 * sector: what direct I/O could not pin, the block layer copies, and a copy may
 * stop at any byte.
 */
static inline void expect_one_of(struct __test_metadata *_metadata, const char *what,
				 const char *got, char *const *candidates, size_t len)
{
	char *const *c;
	size_t i;

	for (i = 0; i < len; i++) {
		for (c = candidates; *c; c++)
			if (got[i] == (*c)[i])
				break;
		ASSERT_NE(NULL, *c) {
			TH_LOG("%s: byte %#zx of %#zx is foreign: %02hhx", what, i, len, got[i]);
		}
	}
}

/*
 * Read from the disk and write to it until time is up. A transfer may be complete,
 * or fail, or end early for EFAULT. The data may be what has been read last, or
 * what was there before as far as the I/O did not come through, and zero if the
 * other thread destroys them; but never anything else.
 */
static inline void race_run(struct __test_metadata *_metadata, struct race *race)
{
	enum { OLD, NEW, FIRST, ZERO, NR };
	unsigned int reads = 0, writes = 0, faults = 0, steps = 0;
	char *cand[NR + 1] = {}, *got, *alias = NULL, *swap;
	struct dax_map *m = race->m;
	const char *error = NULL;
	pthread_t thread;
	bool odd = false;
	long start, t;
	ssize_t n;
	int i;

	for (i = 0; i < NR; i++)
		cand[i] = buffer(_metadata, IO_LEN);
	got = file_pattern(_metadata, m);
	memcpy(cand[FIRST], got + IO_OFF, IO_LEN);
	disk_put(_metadata, m->disk, IO_LEN, FIRST_SEED, cand[OLD]);
	disk_put(_metadata, m->disk, IO_LEN, FIRST_SEED, cand[NEW]);
	fill(got, IO_LEN, FIRST_SEED + 1);
	ASSERT_EQ((ssize_t)IO_LEN, pwrite(m->disk, got, IO_LEN, 16 * MB));
	if (m->kind->device) {
		alias = mmap(NULL, m->len, PROT_READ, MAP_SHARED, m->fd, 0);
		ASSERT_NE(MAP_FAILED, alias);
	}

	ASSERT_EQ(0, pthread_create(&thread, NULL, race_thread, race));
	for (start = now_ms(), t = 0;
	     t < RACE_MS || (t < RACE_MAX_MS && !(reads && writes && steps > 4));
	     t = now_ms() - start, odd = !odd) {
		steps = __atomic_load_n(&race->steps, __ATOMIC_RELAXED);
		/* What was new is old. */
		swap = cand[OLD];
		cand[OLD] = cand[NEW];
		cand[NEW] = swap;
		fill(cand[NEW], IO_LEN, FIRST_SEED + odd);
		n = pread(m->disk, m->addr + IO_OFF, IO_LEN, odd ? 16 * MB : 0);
		ASSERT_TRUE(n >= 0 || errno == EFAULT) {
			TH_LOG("read: %s", strerror(errno));
		}
		reads += n == IO_LEN;
		faults += n != IO_LEN;

		if (!m->private) {
			if (alias)
				memcpy(got, alias + IO_OFF, IO_LEN);
			else
				i = pread(m->fd, got, IO_LEN, IO_OFF);
			if (!alias && i < (int)IO_LEN)	/* truncated */
				memset(got + (i < 0 ? 0 : i), 0, IO_LEN - (i < 0 ? 0 : i));
			if (!race->destroys && n > 0)
				expect_same(_metadata, "read", cand[NEW], got, n);
			expect_one_of(_metadata, "file", got, cand, IO_LEN);
		}

		n = pwrite(m->disk, m->addr + IO_OFF, IO_LEN, 32 * MB);
		ASSERT_TRUE(n >= 0 || errno == EFAULT) {
			TH_LOG("write: %s", strerror(errno));
		}
		writes += n == IO_LEN;
		faults += n != IO_LEN;
		n -= n % (ssize_t)SECTOR;
		if (n > 0) {
			ASSERT_EQ(n, pread(m->disk, got, n, 32 * MB));
			expect_one_of(_metadata, "disk", got, cand, n);
		}
		__atomic_add_fetch(&race->rounds, 1, __ATOMIC_RELAXED);
		/* Or truncation waits long for a moment without a pin. */
		usleep(1000);
	}
	__atomic_store_n(&race->stop, true, __ATOMIC_RELAXED);
	ASSERT_EQ(0, pthread_join(thread, (void **)&error));
	ASSERT_EQ(NULL, error) {
		TH_LOG("%s: %s", error, strerror(errno));
	}

	TH_LOG("%u reads, %u writes, %u partial or EFAULT against %u steps",
	       reads, writes, faults, race->steps);
	EXPECT_LT(4, race->steps);
	EXPECT_LT(0, reads);
	EXPECT_LT(0, writes);
}

#endif /* DAX_RACE_H */

// SPDX-License-Identifier: GPL-2.0
/*
 * Direct I/O to and from a DAX mapping whose file is truncated or punched: blocks
 * must not go to another file while a device may use them.
 */
#define DAX_FILES_ONLY
#include "dax_race.h"

FIXTURE_SETUP(dax)
{
	map_setup(_metadata, &self->m, &variant->kind, RACE_LEN);
}

/*
 * Whom the file's blocks may go to, after the fsync() that lets the filesystem reuse
 * them, must find there what it wrote, only.
 */
static const char *check_victim(struct race *race)
{
	if (pwrite(race->victim, race->victim_want, IO_LEN, 0) != IO_LEN)
		return "write of another file";
	sched_yield();
	if (pread(race->victim, race->victim_got, IO_LEN, 0) != IO_LEN)
		return "read of another file";
	if (memcmp(race->victim_want, race->victim_got, IO_LEN))
		return "another file got the data";
	return NULL;
}

static const char *step_truncate(struct race *race)
{
	struct dax_map *m = race->m;
	const char *error;

	if (ftruncate(m->fd, race->steps % 2 ? IO_OFF + PAGE + SECTOR : 0) || fsync(m->fd))
		return "ftruncate";
	error = check_victim(race);
	if (error)
		return error;
	if (ftruncate(m->fd, m->len) || fallocate(m->fd, 0, 0, m->len))
		return "growing the file again";
	if (ftruncate(race->victim, 0))
		return "ftruncate of another file";
	return NULL;
}

static const char *step_punch(struct race *race)
{
	struct dax_map *m = race->m;
	const char *error;

	if (fallocate(m->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, IO_OFF, IO_LEN) ||
	    fsync(m->fd))
		return "punching a hole";
	error = check_victim(race);
	if (error)
		return error;
	if (ftruncate(race->victim, 0))
		return "ftruncate of another file";
	return NULL;
}

static void race_with_victim(struct __test_metadata *_metadata, struct race *race)
{
	char path[PATH_MAX];

	race->destroys = true;
	race->victim = open_file(_metadata, getenv(race->m->kind->env), "victim", path);
	race->victim_want = buffer(_metadata, IO_LEN);
	race->victim_got = buffer(_metadata, IO_LEN);
	fill(race->victim_want, IO_LEN, VICTIM_SEED);
	race_run(_metadata, race);
	close(race->victim);
	unlink(path);
}

/* Nothing of what was in flight may be found behind the end of the file. */
static void expect_zero_from(struct __test_metadata *_metadata, struct dax_map *m,
			     size_t off)
{
	char *buf = buffer(_metadata, m->len);

	ASSERT_EQ((ssize_t)m->len, pread(m->fd, buf, m->len, 0));
	expect_zero(_metadata, "file", buf + off, m->len - off);
	expect_same(_metadata, "mapping", buf + off, m->addr + off, m->len - off);
	munmap(buf, m->len);
}

TEST_F(dax, race_truncate)
{
	struct race race = { .m = &self->m, .step = step_truncate };
	size_t size = PMD_SIZE + 1234;

	race_with_victim(_metadata, &race);
	if (self->m.private)	/* what was copied outlives the file */
		self->m.addr = dax_mmap(_metadata, &self->m, self->m.addr, MAP_PRIVATE);
	ASSERT_EQ(0, ftruncate(self->m.fd, size));
	ASSERT_EQ(0, ftruncate(self->m.fd, RACE_LEN));
	expect_zero_from(_metadata, &self->m, size);
	ASSERT_EQ(0, fsync(self->m.fd));
}

TEST_F(dax, race_punch)
{
	struct race race = { .m = &self->m, .step = step_punch };

	race_with_victim(_metadata, &race);
	if (self->m.private)
		self->m.addr = dax_mmap(_metadata, &self->m, self->m.addr, MAP_PRIVATE);
	ASSERT_EQ(0, fallocate(self->m.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			       0, RACE_LEN));
	expect_zero_from(_metadata, &self->m, 0);
	ASSERT_EQ(0, fsync(self->m.fd));
}

/* The end of the file is the end of the transfer. */
TEST_F(dax, beyond_end)
{
	struct dax_map *m = &self->m;
	char *want = file_pattern(_metadata, m);

	ASSERT_EQ(0, ftruncate(m->fd, PMD_SIZE));
	ASSERT_EQ(-1, pwrite(m->disk, m->addr + PMD_SIZE, MB, 0));
	ASSERT_EQ(EFAULT, errno);
	ASSERT_EQ(-1, pread(m->disk, m->addr + PMD_SIZE, MB, 0));
	ASSERT_EQ(EFAULT, errno);
	ASSERT_EQ(0, ftruncate(m->fd, RACE_LEN));
	memset(want + PMD_SIZE, 0, RACE_LEN - PMD_SIZE);
	expect_same(_metadata, "mapping", want, m->addr, RACE_LEN);
	expect_file(_metadata, m, want);
}

/* Truncation waits for the pin, but lets itself be killed. */
static void wait_for_pin(struct __test_metadata *_metadata, struct dax_map *m, bool punch)
{
	char *want = file_pattern(_metadata, m);
	size_t off = PMD_SIZE - 32 * KB, len = 64 * KB;
	unsigned int round;
	int pipefd[2];
	pid_t pid;

	pipe_fill(_metadata, pipefd, m->addr + off, len);
	for (round = 0; round < 2; round++) {
		pid = fork_child();
		ASSERT_LE(0, pid);
		if (!pid) {
			close(pipefd[0]);
			close(pipefd[1]);
			if (punch)
				_exit(fallocate(m->fd, FALLOC_FL_PUNCH_HOLE |
						FALLOC_FL_KEEP_SIZE, 0, m->len) ? 1 : 0);
			_exit(ftruncate(m->fd, 0) ? 1 : 0);
		}
		usleep(200000);
		ASSERT_EQ(0, waitpid(pid, NULL, WNOHANG)) {
			TH_LOG("did not wait for the pinned page");
		}
		if (!round)
			kill_child(_metadata, pid);
	}
	pipe_expect(_metadata, pipefd, want + off, len);
	expect_exit(_metadata, pid, 0);
	ASSERT_EQ(0, ftruncate(m->fd, m->len));
	expect_zero_from(_metadata, m, 0);
}

TEST_F(dax, truncate_waits)
{
	wait_for_pin(_metadata, &self->m, false);
}

TEST_F(dax, punch_waits)
{
	wait_for_pin(_metadata, &self->m, true);
}

TEST_HARNESS_MAIN

// SPDX-License-Identifier: GPL-2.0
/*
 * DAX mappings as the memory of direct I/O, and of everybody else who takes pages
 * of user memory. Data are compared byte by byte. A kernel without a devmap bit in
 * the page table passes; these cases guard against the harm that the bit could do.
 */
#include <linux/fiemap.h>
#include <linux/loop.h>
#include <sys/ptrace.h>

#include "dax_gup.h"

#define DATA_LEN	(3 * PMD_SIZE)

/*
 * Transfers in order of size, all in units of a sector. Those that do not start at
 * a page boundary are what a device sees as an unaligned buffer.
 */
static const struct {
	size_t off;
	size_t len;
} spans[] = {
	{ 0,			SECTOR },
	{ 3 * SECTOR,		SECTOR },
	{ 4 * KB - SECTOR,	2 * SECTOR },		/* over a page's border */
	{ 64 * KB + SECTOR,	5 * KB },
	{ 128 * KB,		4 * KB },
	{ PMD_SIZE - SECTOR,	2 * SECTOR },		/* over a PMD's border */
	{ 2 * PMD_SIZE - 4 * KB, 8 * KB },
	{ 2 * PMD_SIZE - 33 * KB, 64 * KB + SECTOR },
	{ MB + SECTOR,		MB },
	{ PMD_SIZE,		PMD_SIZE },
};

/* A file on another filesystem with DAX. */
struct peer {
	char path[PATH_MAX];
	int fd;
};

static void peer_open(struct __test_metadata *_metadata, struct peer *peer,
		      const char *env, size_t len)
{
	peer->fd = open_file(_metadata, getenv(env), "peer", peer->path);
	write_pattern(_metadata, peer->fd, len, PEER_SEED);
	ASSERT_EQ(0, fsync(peer->fd));
}

static void peer_close(struct peer *peer)
{
	close(peer->fd);
	unlink(peer->path);
}

/*
 * The pmem block device below the file, and where on it the file is. Not to be
 * written to, not all kernels let that happen below a filesystem.
 */
static int open_below(struct __test_metadata *_metadata, int fd, size_t len, off_t *where)
{
	struct {
		struct fiemap map;
		struct fiemap_extent extent;
	} fm = {
		.map.fm_length = len,
		.map.fm_extent_count = 1,
	};
	char path[64], line[128], dev[58] = "";
	struct stat st;
	int bdev;
	FILE *f;

	ASSERT_EQ(0, ioctl(fd, FS_IOC_FIEMAP, &fm));
	ASSERT_EQ(1, fm.map.fm_mapped_extents);
	ASSERT_EQ(0, fm.extent.fe_logical);
	ASSERT_EQ(0, fm.extent.fe_flags & ~FIEMAP_EXTENT_LAST);
	ASSERT_LE(len, fm.extent.fe_length);
	*where = fm.extent.fe_physical;

	ASSERT_EQ(0, fstat(fd, &st));
	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/uevent",
		 major(st.st_dev), minor(st.st_dev));
	f = fopen(path, "r");
	ASSERT_NE(NULL, f);
	while (fgets(line, sizeof(line), f))
		sscanf(line, "DEVNAME=%57s", dev);
	fclose(f);
	snprintf(path, sizeof(path), "/dev/%s", dev);
	bdev = open(path, O_RDONLY | O_DIRECT);
	ASSERT_LE(0, bdev) {
		TH_LOG("%s: %s", path, strerror(errno));
	}
	return bdev;
}

/* A block device above the file, which goes when it is closed. */
static int open_above(struct __test_metadata *_metadata, int fd)
{
	struct loop_config config = {
		.fd = fd,
		.info.lo_flags = LO_FLAGS_AUTOCLEAR,
	};
	char path[32];
	int nr, loop;

	nr = open("/dev/loop-control", O_RDWR);
	ASSERT_LE(0, nr) {
		TH_LOG("/dev/loop-control: %s", strerror(errno));
	}
	snprintf(path, sizeof(path), "/dev/loop%d", ioctl(nr, LOOP_CTL_GET_FREE));
	close(nr);
	loop = open(path, O_RDWR | O_DIRECT);
	ASSERT_LE(0, loop) {
		TH_LOG("%s: %s", path, strerror(errno));
	}
	ASSERT_EQ(0, ioctl(loop, LOOP_CONFIGURE, &config));
	return loop;
}

FIXTURE_SETUP(dax)
{
	map_setup(_metadata, &self->m, &variant->kind, DATA_LEN);
	if (self->m.addr)
		self->want = file_pattern(_metadata, &self->m);
}

TEST_F(dax, odirect_read)
{
	struct dax_map *m = &self->m;
	size_t off, len;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(spans); i++) {
		off = spans[i].off;
		len = spans[i].len;
		disk_put(_metadata, m->disk, len, FIRST_SEED + i, self->want + off);
		ASSERT_EQ((ssize_t)len, pread(m->disk, m->addr + off, len, 0)) {
			TH_LOG("%zu bytes to %#zx: %s", len, off, strerror(errno));
		}
		expect_same(_metadata, "read", self->want + off, m->addr + off, len);
	}
	if (!m->private)
		expect_leaves(_metadata, m, m->addr + PMD_SIZE, PMD_SIZE);
	expect_all(_metadata, m, self->want);
}

TEST_F(dax, odirect_write)
{
	struct dax_map *m = &self->m;
	size_t off, len;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(spans); i++) {
		off = spans[i].off;
		len = spans[i].len;
		ASSERT_EQ((ssize_t)len, pwrite(m->disk, m->addr + off, len, 0)) {
			TH_LOG("%zu bytes from %#zx: %s", len, off, strerror(errno));
		}
		disk_expect(_metadata, m->disk, self->want + off, len);
	}
	expect_leaves(_metadata, m, m->addr + PMD_SIZE, PMD_SIZE);

	/* What the CPU wrote, which in a private mapping has moved to other memory. */
	fill(self->want + 4 * KB, 64 * KB, FIRST_SEED);
	memcpy(m->addr + 4 * KB, self->want + 4 * KB, 64 * KB);
	ASSERT_EQ((ssize_t)MB, pwrite(m->disk, m->addr + SECTOR, MB, 0));
	disk_expect(_metadata, m->disk, self->want + SECTOR, MB);
	expect_all(_metadata, m, self->want);
}

/* More than fits into a bio, and into what GUP does at a time. */
TEST_F(dax, odirect_large)
{
	struct dax_map *m = &self->m;
	size_t off = 3 * SECTOR, len = 8 * MB;

	map_setup(_metadata, m, &variant->kind, 5 * PMD_SIZE);
	self->want = file_pattern(_metadata, m);
	ASSERT_EQ((ssize_t)len, pwrite(m->disk, m->addr + off, len, 0));
	disk_expect(_metadata, m->disk, self->want + off, len);
	disk_put(_metadata, m->disk, len, FIRST_SEED, self->want + off);
	ASSERT_EQ((ssize_t)len, pread(m->disk, m->addr + off, len, 0));
	if (!m->private)
		expect_leaves(_metadata, m, m->addr, len);
	expect_all(_metadata, m, self->want);
}

/*
 * Block devices that end in pmem: bios, whose pages are pinned as for any disk, but
 * it is the CPU that copies, at once or in another thread.
 */
TEST_F(dax, odirect_pmem)
{
	struct dax_map *m = &self->m;
	char *buf = buffer(_metadata, PMD_SIZE);
	int below, above;
	struct peer peer;
	size_t off, len;
	unsigned int i;
	off_t where;

	peer_open(_metadata, &peer, variant->kind.peer, PMD_SIZE);
	below = open_below(_metadata, peer.fd, PMD_SIZE, &where);
	above = open_above(_metadata, peer.fd);
	for (i = 0; i < ARRAY_SIZE(spans); i++) {
		off = spans[i].off;
		len = spans[i].len;
		if (len > PMD_SIZE)
			continue;
		fill(self->want + off, len, PEER_SEED);
		ASSERT_EQ((ssize_t)len, pread(below, m->addr + off, len, where));
		expect_same(_metadata, "read", self->want + off, m->addr + off, len);
	}
	for (i = 0; i < ARRAY_SIZE(spans); i++) {
		off = spans[i].off;
		len = spans[i].len;
		if (len > PMD_SIZE)
			continue;
		ASSERT_EQ((ssize_t)len, pwrite(above, m->addr + off, len, 0));
		ASSERT_EQ((ssize_t)len, pread(peer.fd, buf, len, 0));
		expect_same(_metadata, "peer", self->want + off, buf, len);
		ASSERT_EQ((ssize_t)len, pread(above, m->addr + 3 * MB + SECTOR, len, 0));
		memmove(self->want + 3 * MB + SECTOR, self->want + off, len);
	}
	expect_all(_metadata, m, self->want);
	close(above);
	close(below);
	peer_close(&peer);
}

/*
 * O_DIRECT on a file with DAX is a copy that pins nothing. It must go on faulting
 * the mapping in, even where that is of the same file.
 */
TEST_F(dax, odirect_dax_file)
{
	struct dax_map *m = &self->m;
	struct peer peer;
	char *buf = buffer(_metadata, MB);
	int fd;

	peer_open(_metadata, &peer, variant->kind.peer, 2 * MB);
	fd = open(peer.path, O_RDWR | O_DIRECT);
	ASSERT_LE(0, fd);
	fill(self->want + PMD_SIZE - SECTOR, MB, PEER_SEED);
	ASSERT_EQ((ssize_t)MB, pread(fd, m->addr + PMD_SIZE - SECTOR, MB, 0));
	ASSERT_EQ((ssize_t)MB, pwrite(fd, m->addr + 3 * SECTOR, MB, 0));
	ASSERT_EQ((ssize_t)MB, pread(peer.fd, buf, MB, 0));
	expect_same(_metadata, "peer", self->want + 3 * SECTOR, buf, MB);
	close(fd);
	peer_close(&peer);

	if (!m->kind->device) {
		fd = open(m->path, O_RDWR | O_DIRECT);
		ASSERT_LE(0, fd);
		memcpy(self->want + 3 * MB + SECTOR, self->want, MB);
		ASSERT_EQ((ssize_t)MB, pread(fd, m->addr + 3 * MB + SECTOR, MB, 0));
		if (!m->private) {
			memcpy(self->want + 5 * MB, self->want + 3 * MB, MB);
			ASSERT_EQ((ssize_t)MB, pwrite(fd, m->addr + 3 * MB, MB, 5 * MB));
		}
		close(fd);
	}
	expect_all(_metadata, m, self->want);
}

/* One transfer over DAX, other memory, DAX, and over two devices' memory. */
TEST_F(dax, vma_border)
{
	size_t off = PMD_SIZE - 3 * SECTOR, len = PMD_SIZE + 6 * SECTOR;
	struct dax_map *m = &self->m;
	char *hole = m->addr + PMD_SIZE;
	struct peer peer;
	ssize_t got;
	char *buf;

	peer_open(_metadata, &peer, variant->kind.peer, PMD_SIZE);

	ASSERT_EQ(hole, mmap(hole, PMD_SIZE, PROT_READ | PROT_WRITE,
			     MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	disk_put(_metadata, m->disk, len, FIRST_SEED, self->want + off);
	ASSERT_EQ((ssize_t)len, pread(m->disk, m->addr + off, len, 0));
	expect_same(_metadata, "anonymous between", self->want, m->addr, 3 * PMD_SIZE);
	ASSERT_EQ((ssize_t)len, pwrite(m->disk, m->addr + off, len, 16 * MB));
	disk_expect(_metadata, m->disk, self->want + off, len);

	ASSERT_EQ(hole, mmap(hole, PMD_SIZE, PROT_READ | PROT_WRITE,
			     MAP_FIXED | MAP_SHARED, peer.fd, 0));
	disk_put(_metadata, m->disk, len, FIRST_SEED + 1, self->want + off);
	ASSERT_EQ((ssize_t)len, pread(m->disk, m->addr + off, len, 0));
	expect_same(_metadata, "peer between", self->want, m->addr, 3 * PMD_SIZE);
	ASSERT_EQ((ssize_t)len, pwrite(m->disk, m->addr + off, len, 16 * MB));
	disk_expect(_metadata, m->disk, self->want + off, len);
	buf = buffer(_metadata, PMD_SIZE);
	ASSERT_EQ((ssize_t)PMD_SIZE, pread(peer.fd, buf, PMD_SIZE, 0));
	expect_same(_metadata, "peer", self->want + PMD_SIZE, buf, PMD_SIZE);
	peer_close(&peer);

	/* Nothing there: up to the border, or an error; and nothing beyond. */
	ASSERT_EQ(0, munmap(hole, PMD_SIZE));
	disk_put(_metadata, m->disk, len, FIRST_SEED + 2, NULL);
	got = pread(m->disk, m->addr + off, len, 0);
	ASSERT_TRUE(got == 3 * SECTOR || (got < 0 && errno == EFAULT));
	expect_same(_metadata, "behind the gap", self->want + 2 * PMD_SIZE,
		    m->addr + 2 * PMD_SIZE, m->len - 2 * PMD_SIZE);
	expect_same(_metadata, "before the gap", self->want, m->addr, off);
}

TEST_F(dax, vmsplice)
{
	size_t off = PMD_SIZE - 4 * KB - 100, len = 64 * KB;
	struct dax_map *m = &self->m;
	int pipefd[2];

	pipe_fill(_metadata, pipefd, m->addr + off, len);
	pipe_expect(_metadata, pipefd, self->want + off, len);

	/* The pipe holds the page, not a copy; in a private one, the file's page. */
	pipe_fill(_metadata, pipefd, m->addr + off, len);
	memset(m->addr + off, 0x5a, len / 2);
	if (m->private) {
		pipe_expect(_metadata, pipefd, self->want + off, len);
		memset(self->want + off, 0x5a, len / 2);
	} else {
		memset(self->want + off, 0x5a, len / 2);
		pipe_expect(_metadata, pipefd, self->want + off, len);
	}
	expect_all(_metadata, m, self->want);
}

/* Another process, which maps what this one maps, but has not touched it. */
static pid_t fork_sleeper(void)
{
	pid_t pid = fork_child();

	while (!pid)
		pause();
	return pid;
}

TEST_F(dax, process_vm)
{
	size_t off = PMD_SIZE - MB / 2 - 100, len = MB + 77;
	struct dax_map *m = &self->m;
	struct iovec local, remote = { .iov_base = m->addr + off, .iov_len = len };
	char *buf = buffer(_metadata, 2 * MB);
	pid_t pid = fork_sleeper();

	ASSERT_LT(0, pid);
	local = (struct iovec){ .iov_base = buf, .iov_len = len };
	ASSERT_EQ((ssize_t)len, process_vm_readv(pid, &local, 1, &remote, 1, 0));
	expect_same(_metadata, "readv", self->want + off, buf, len);

	fill(buf, 2 * MB, FIRST_SEED);
	ASSERT_EQ((ssize_t)len, process_vm_writev(pid, &local, 1, &remote, 1, 0));
	if (!m->private)
		memcpy(self->want + off, buf, len);
	memset(buf, 0, len);
	ASSERT_EQ((ssize_t)len, process_vm_readv(pid, &local, 1, &remote, 1, 0));
	fill(self->want, 2 * MB, FIRST_SEED);
	expect_same(_metadata, "readv of what was written", self->want, buf, len);

	fill(self->want, m->len, FILE_SEED);
	if (!m->private)
		memcpy(self->want + off, buf, len);
	kill_child(_metadata, pid);
	expect_all(_metadata, m, self->want);
}

TEST_F(dax, proc_mem)
{
	size_t off = PMD_SIZE - 100, len = 9 * KB;
	struct dax_map *m = &self->m;
	pid_t pid = fork_sleeper();
	char path[32], buf[9 * KB];
	int fd;

	ASSERT_LT(0, pid);
	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	fd = open(path, O_RDWR);
	ASSERT_LE(0, fd);
	ASSERT_EQ((ssize_t)len, pread(fd, buf, len, (off_t)(m->addr + off)));
	expect_same(_metadata, "read", self->want + off, buf, len);

	memset(buf, 0x5a, len);
	ASSERT_EQ((ssize_t)len, pwrite(fd, buf, len, (off_t)(m->addr + off)));
	memset(buf, 0, len);
	ASSERT_EQ((ssize_t)len, pread(fd, buf, len, (off_t)(m->addr + off)));
	if (!m->private)
		memset(self->want + off, 0x5a, len);
	kill_child(_metadata, pid);
	expect_all(_metadata, m, self->want);
	memset(self->want, 0x5a, len);
	expect_same(_metadata, "read of what was written", self->want, buf, len);
}

TEST_F(dax, ptrace)
{
	size_t off = PMD_SIZE - 4;	/* half of the word is in the next leaf */
	struct dax_map *m = &self->m;
	long word, poke = 0x1122334455667788;
	int status;
	pid_t pid;

	pid = fork_child();
	ASSERT_LE(0, pid);
	if (!pid) {
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		raise(SIGSTOP);
		_exit(memcmp(m->addr + off, &poke, sizeof(poke)) ? 1 : 0);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	ASSERT_TRUE(WIFSTOPPED(status));
	errno = 0;
	word = ptrace(PTRACE_PEEKDATA, pid, m->addr + off, NULL);
	ASSERT_EQ(0, errno);
	expect_same(_metadata, "peek", self->want + off, &word, sizeof(word));
	ASSERT_EQ(0, ptrace(PTRACE_POKEDATA, pid, m->addr + off, poke));
	ASSERT_EQ(poke, ptrace(PTRACE_PEEKDATA, pid, m->addr + off, NULL));
	ASSERT_EQ(0, ptrace(PTRACE_CONT, pid, NULL, NULL));
	expect_exit(_metadata, pid, 0);
	if (!m->private)
		memcpy(self->want + off, &poke, sizeof(poke));
	expect_all(_metadata, m, self->want);
}

/* Two processes meet at a word of the file, which they map at different places. */
TEST_F(dax, futex)
{
	struct dax_map *m = &self->m;
	__u32 *word = (__u32 *)(m->addr + PMD_SIZE + 64);
	unsigned int i;
	pid_t pid;

	if (m->private) {
		/* The page that is waited on is this process' own. */
		*word = 1;
		ASSERT_EQ(-1, futex(word, FUTEX_WAIT, 0));
		ASSERT_EQ(EAGAIN, errno);
		ASSERT_EQ(0, futex(word, FUTEX_WAKE, 1));
		return;
	}

	*word = 0;
	pid = fork_child();
	ASSERT_LE(0, pid);
	if (!pid) {
		m->addr = dax_mmap(_metadata, m, dax_reserve(_metadata, m->kind, m->len),
				   variant->kind.flags);
		word = (__u32 *)(m->addr + PMD_SIZE + 64);
		while (!__atomic_load_n(word, __ATOMIC_SEQ_CST))
			if (futex(word, FUTEX_WAIT, 0) && errno != EAGAIN)
				_exit(errno);
		_exit(0);
	}
	/* Woken must be a sleeper, so give it time to get there. */
	for (i = 0; i < 5000 && !futex(word, FUTEX_WAKE, 1); i++)
		usleep(1000);
	EXPECT_GT(5000, i) {
		TH_LOG("the child was never found waiting");
	}
	__atomic_store_n(word, 1, __ATOMIC_SEQ_CST);
	futex(word, FUTEX_WAKE, 1);
	expect_exit(_metadata, pid, 0);
}

TEST_F(dax, mprotect)
{
	struct dax_map *m = &self->m;
	char *chunk = m->addr + PMD_SIZE;
	size_t len = 64 * KB;

	/* Mapped, so that it is the leaf that changes. */
	disk_put(_metadata, m->disk, len, FIRST_SEED, self->want + PMD_SIZE);
	ASSERT_EQ((ssize_t)len, pread(m->disk, chunk, len, 0));

	ASSERT_EQ(0, mprotect(chunk, PMD_SIZE, PROT_READ));
	ASSERT_EQ((ssize_t)len, pwrite(m->disk, chunk, len, 16 * MB));
	ASSERT_EQ(-1, pread(m->disk, chunk, len, 16 * MB));
	ASSERT_EQ(EFAULT, errno);

	ASSERT_EQ(0, mprotect(chunk, PMD_SIZE, PROT_NONE));
	ASSERT_EQ(-1, pwrite(m->disk, chunk, len, 16 * MB));
	ASSERT_EQ(EFAULT, errno);
	ASSERT_EQ(-1, pread(m->disk, chunk, len, 16 * MB));
	ASSERT_EQ(EFAULT, errno);

	ASSERT_EQ(0, mprotect(chunk, PMD_SIZE, PROT_READ | PROT_WRITE));
	disk_expect(_metadata, m->disk, self->want + PMD_SIZE, len);
	disk_put(_metadata, m->disk, len, FIRST_SEED + 1, self->want + PMD_SIZE + SECTOR);
	ASSERT_EQ((ssize_t)len, pread(m->disk, chunk + SECTOR, len, 0));
	if (!m->private)
		expect_leaves(_metadata, m, chunk, len);
	expect_all(_metadata, m, self->want);
}

TEST_F(dax, mremap)
{
	struct dax_map *m = &self->m;
	size_t len = PMD_SIZE + MB;
	char *to;

	disk_put(_metadata, m->disk, len, FIRST_SEED, self->want + SECTOR);
	ASSERT_EQ((ssize_t)len, pread(m->disk, m->addr + SECTOR, len, 0));

	/* Moves as it is. */
	to = dax_reserve(_metadata, m->kind, m->len);
	ASSERT_EQ(to, mremap(m->addr, m->len, m->len, MREMAP_MAYMOVE | MREMAP_FIXED, to));
	m->addr = to;
	expect_same(_metadata, "moved", self->want, m->addr, m->len);
	if (!m->private)
		expect_leaves(_metadata, m, m->addr, m->len);
	disk_put(_metadata, m->disk, len, FIRST_SEED + 1, self->want + 3 * MB);
	ASSERT_EQ((ssize_t)len, pread(m->disk, m->addr + 3 * MB, len, 0));

	/* No longer fits a PMD; device-dax does not give anything else. */
	if (!m->kind->device) {
		to = dax_reserve(_metadata, m->kind, m->len) + 3 * PAGE;
		ASSERT_EQ(to, mremap(m->addr, m->len, m->len,
				     MREMAP_MAYMOVE | MREMAP_FIXED, to));
		m->addr = to;
		disk_put(_metadata, m->disk, len, FIRST_SEED + 2, self->want + 2 * MB);
		ASSERT_EQ((ssize_t)len, pread(m->disk, m->addr + 2 * MB, len, 0));
	}
	expect_all(_metadata, m, self->want);
}

/* Direct I/O must dirty what fsync() has cleaned. */
TEST_F(dax, fsync)
{
	struct dax_map *m = &self->m;
	unsigned int i;

	for (i = 0; i < 3; i++) {
		disk_put(_metadata, m->disk, MB, FIRST_SEED + i, self->want + SECTOR);
		ASSERT_EQ((ssize_t)MB, pread(m->disk, m->addr + SECTOR, MB, 0));
		if (!m->kind->device)
			ASSERT_EQ(0, fsync(m->fd));
		ASSERT_EQ((ssize_t)MB, pwrite(m->disk, m->addr + SECTOR, MB, 16 * MB));
		disk_expect(_metadata, m->disk, self->want + SECTOR, MB);
	}
	expect_all(_metadata, m, self->want);
}

/* A pin is not a child's business. The pipe holds the pages across its life. */
TEST_F(dax, fork_with_pipe)
{
	size_t off = PMD_SIZE - 32 * KB, len = 64 * KB;
	struct dax_map *m = &self->m;
	int pipefd[2];
	pid_t pid;

	pipe_fill(_metadata, pipefd, m->addr + off, len);
	pid = fork_child();
	ASSERT_LE(0, pid);
	if (!pid) {
		memset(m->addr + 2 * PMD_SIZE, 0x5a, PAGE);
		if (m->private)
			memset(m->addr + off, 0x5a, len);
		_exit(0);
	}
	expect_exit(_metadata, pid, 0);
	if (!m->private)
		memset(self->want + 2 * PMD_SIZE, 0x5a, PAGE);
	pipe_expect(_metadata, pipefd, self->want + off, len);
	expect_all(_metadata, m, self->want);
}

TEST_F(dax, soft_dirty)
{
	struct dax_map *m = &self->m;
	size_t leaf = m->kind->pmd && !m->private ? PMD_SIZE : PAGE;
	char *chunk = m->addr + PMD_SIZE;
	int fd;

	disk_put(_metadata, m->disk, 2 * PMD_SIZE, FIRST_SEED, self->want + PMD_SIZE);
	ASSERT_EQ((ssize_t)(2 * PMD_SIZE), pread(m->disk, chunk, 2 * PMD_SIZE, 0));

	fd = open("/proc/self/clear_refs", O_WRONLY);
	ASSERT_LE(0, fd);
	ASSERT_EQ(1, write(fd, "4", 1));
	close(fd);
	ASSERT_EQ(0, scan(chunk, 2 * PMD_SIZE, PAGE_IS_SOFT_DIRTY, 0));

	ASSERT_EQ((ssize_t)MB, pwrite(m->disk, chunk, MB, 16 * MB));
	ASSERT_EQ(0, scan(chunk, 2 * PMD_SIZE, PAGE_IS_SOFT_DIRTY, 0));

	disk_put(_metadata, m->disk, PAGE, FIRST_SEED + 1, self->want + PMD_SIZE);
	ASSERT_EQ((ssize_t)PAGE, pread(m->disk, chunk, PAGE, 0));
	ASSERT_EQ((long)(leaf / PAGE), scan(chunk, 2 * PMD_SIZE, PAGE_IS_SOFT_DIRTY, 0));
	expect_all(_metadata, m, self->want);
}

TEST_HARNESS_MAIN

// SPDX-License-Identifier: GPL-2.0
/*
 * Faulters, pinners and truncators at work on devices that go and come back:
 *
 *	dax_soak SECONDS CYCLES DISK PLACE...
 *
 * until that time is over and there were that many cycles. A place is
 * FS:NAME:DEVICE:DIRECTORY, with FS ext4, xfs or devdax; NAME is what its driver
 * binds, DEVICE what is mounted, or for devdax mapped. Each place has its workers
 * and a binder, all of them processes, and goes through its cycles on its own:
 *
 *	UP	the workers are at work; an error is a failure
 *	GOING	the binder unbinds the device; the workers go on, and an error, or
 *		a SIGBUS, is what they expect
 *	LEFT	they close and unmap everything, and the file system is unmounted;
 *		the device is bound again before that, or after it
 *
 * Each worker has a file, or a slice of the device, that nobody else writes to, and
 * knows what must be in each page: what was there when fsync() or msync() last
 * said that it is durable, or what it has been about to write since. Each place has
 * another file that everybody writes to and truncates, where every page has a
 * pattern of its own or is zero. The patterns of any two files differ.
 *
 * Exits with 1 if something was wrong, with 2 if something does not end.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/falloc.h>
#include <linux/io_uring.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "kselftest.h"
#include "dax_data.h"

#define PAGES		1024		/* of a file: two PMDs */
#define LEN		(PAGES * PAGE)
#define RANGE		64		/* pages of a transfer, at most, */
#define HELD		16		/* and of what is held */
#define LIMIT_MS	180000		/* whatever it is, it has ended by then */
#define GENS		0x7fff
#define COPIED		127		/* as the file of a pattern: copies on write */

enum phase { UP, GOING, LEFT };

struct file {
	unsigned int id, gen;
	unsigned int slice;		/* of a device */
	bool shared;			/* by all workers of the place */
	struct {
		__u16 was, is;	/* generations; 0 is zeroes */
	} page[PAGES];
};

struct place {
	char *fs, *name, *dev, *dir;
	bool device;
	atomic_bool gone;
	atomic_uint phase;		/* an enum phase */
	atomic_uint cycle;	/* from 1 */
	atomic_long since;		/* the binder does what step says */
	const char *step;
	struct file shared;
};

struct kind {
	const char *name;
	int flags;			/* of the mapping */
	bool small;			/* its leaves are */
	struct {
		const char *name;
		void (*fn)(void);
	} ops[8];			/* one at random is a step */
};

struct worker {
	struct place *place;
	const struct kind *kind;
	struct file file;
	atomic_uint cycle;	/* for which it has opened its files, */
	atomic_uint worked;	/* and has done something with them */
	atomic_bool gone;
	atomic_long since;
	const char *step;
	unsigned long steps, pins, faults, sigbus, bytes;
};

#define MAX_PLACES	8
#define MAX_WORKERS	64

static struct soak {
	atomic_bool stop;
	atomic_flag told;		/* there is an error, */
	atomic_bool failed;		/* and it can be read */
	char error[256];
	unsigned int nr_places, nr_workers;
	struct place places[MAX_PLACES];
	struct worker workers[MAX_WORKERS];
} *soak;

/* A file that this process has open and mapped. */
struct view {
	struct file *file;
	char path[256];
	int fd;
	char *addr;
};

/* Of this process. A binder takes the workers' places in the end. */
static struct place *place;
static struct worker *me;
static struct view own = { .fd = -1 }, shared = { .fd = -1 }, *v = &own;
static int disk;
static off_t slot;			/* on the disk */
static char *buf, *page;

/* The first to find something wrong says so. */
static __noreturn __printf(1, 2) void wrong(const char *fmt, ...)
{
	va_list args;
	int n;

	if (!atomic_flag_test_and_set(&soak->told)) {
		n = snprintf(soak->error, sizeof(soak->error), "%s %s, cycle %u: ", place->fs,
			     place->name, place->cycle);
		va_start(args, fmt);
		vsnprintf(soak->error + n, sizeof(soak->error) - n, fmt, args);
		va_end(args);
		soak->failed = true;
	}
	while (!soak->failed)
		usleep(1000);
	_exit(1);
}

static bool is_away(void)
{
	return place->phase != UP || place->cycle != me->cycle;
}

/* Returns false. It is a failure if the device has been there since the files were opened. */
static bool failed(const char *what)
{
	int err = errno;

	if (is_away() || (v->file->shared && (err == EFAULT || err == EBUSY ||
					      err == ETXTBSY || err == EOPNOTSUPP)))
		return false;
	wrong("%s, %s: %s of %s: %s", me->kind->name, me->step, what, v->path, strerror(err));
}

static bool all_of(ssize_t n, size_t len)
{
	if (n >= 0)
		errno = EFAULT;
	return n == (ssize_t)len;
}

static unsigned int below(unsigned int n)
{
	return random() % n;
}

static void pause_ms(unsigned int ms)
{
	usleep(below(ms * 1000));
}

/* Memory that goes away. */

static sigjmp_buf no_page;
static volatile sig_atomic_t touching;

static void sigbus(int sig)
{
	if (touching)
		siglongjmp(no_page, 1);
}

static bool copy(char *to, const char *from, size_t len)
{
	bool done = false;

	if (!sigsetjmp(no_page, 0)) {
		touching = 1;
		asm volatile("" : : : "memory");
		memcpy(to, from, len);
		asm volatile("" : : : "memory");
		done = true;
	} else {
		me->sigbus++;
		errno = EFAULT;
	}
	touching = 0;
	return done;
}

/* What must be there. */

static void pattern(char *to, unsigned int id, unsigned int nr, unsigned int gen)
{
	if (gen)
		fill(to, PAGE, id << 25 | nr << 15 | gen);
	else
		memset(to, 0, PAGE);
}

/* What a page is that begins with these four bytes: fill() can be turned round. */
static const char *whose(const char *got)
{
	static char text[64];
	__u32 seed;

	memcpy(&seed, got, sizeof(seed));
	seed *= 0x9937733d;	/* times fill()'s factor is 1, modulo 2^32 */
	snprintf(text, sizeof(text), "file %u page %u (%u)", seed >> 25, seed >> 15 & (PAGES - 1),
		 seed & GENS);
	return text;
}

/* Each byte may be old or new if the device went in between. */
static void check(const struct file *f, const char *got, unsigned int first,
		  unsigned int nr)
{
	static char was[4096], is[4096];
	unsigned int i;
	size_t n;

	for (i = first; i < first + nr; i++, got += PAGE) {
		pattern(is, f->id, i, f->page[i].is);
		if (!memcmp(is, got, PAGE))
			continue;
		pattern(was, f->id, i, f->page[i].was);
		for (n = 0; n < PAGE && (got[n] == is[n] || got[n] == was[n]); n++)
			;
		if (n < PAGE)
			wrong("%s, %s: file %u page %u (%u or %u) byte %zu: begins as %s",
			      me->kind->name, me->step, f->id, i, f->page[i].was,
			      f->page[i].is, n, whose(got));
	}
	me->bytes += nr * PAGE;
}

static void set_pages(struct file *f, unsigned int first, unsigned int nr, unsigned int gen)
{
	for (; nr && !f->shared; nr--)
		f->page[first++].is = gen;
}

/*
 * What has been written to these pages is durable once this has returned true. With
 * MAP_SYNC, and without a file system, it is so already.
 */
static bool sync_pages(unsigned int first, unsigned int nr)
{
	if (!place->device && !(me->kind->flags & MAP_SYNC) &&
	    (below(2) ? fsync(v->fd) : msync(v->addr + first * PAGE, nr * PAGE, MS_SYNC)))
		return false;
	for (; nr && !v->file->shared; nr--, first++)
		v->file->page[first].was = v->file->page[first].is;
	return true;
}

/* Write again what was interrupted: nobody may change a page of which two things are true. */
static bool is_settled(void)
{
	struct file *f = v->file;
	bool again = false;
	unsigned int i;

	for (i = 0; i < PAGES && !f->shared; i++) {
		if (f->page[i].was == f->page[i].is)
			continue;
		again = true;
		pattern(page, f->id, i, f->page[i].is);
		if (!copy(v->addr + i * PAGE, page, PAGE))
			return failed("store");
	}
	return !again || sync_pages(0, PAGES) || failed("sync");
}

/* Pages that are pinned from one step to the next. */
static struct {
	const struct file *file;	/* NULL: none */
	unsigned int first, nr;
} held;
static int pipefd[2];

/* Ways to write to pages of the file, or to read them. */

static bool by_mapping(bool put, unsigned int first, unsigned int nr)
{
	char *addr = v->addr + first * PAGE;

	return put ? copy(addr, buf, nr * PAGE) : copy(buf, addr, nr * PAGE);
}

static bool by_call(bool put, unsigned int first, unsigned int nr)
{
	size_t len = nr * PAGE;
	ssize_t n;

	if (put)
		return all_of(pwrite(v->fd, buf, len, first * PAGE), len);
	n = pread(v->fd, buf, len, first * PAGE);
	if (n >= 0 && v->file->shared) {	/* truncated */
		memset(buf + n, 0, len - n);
		return true;
	}
	return all_of(n, len);
}

/* Direct I/O of a disk that has the mapping as its buffer. */
static bool by_disk(bool put, unsigned int first, unsigned int nr)
{
	char *addr = v->addr + first * PAGE;
	size_t len = nr * PAGE;

	if (!all_of(pwrite(disk, put ? buf : addr, len, slot), len) ||
	    !all_of(pread(disk, put ? addr : buf, len, slot), len))
		return false;
	me->pins += nr;
	return true;
}

static bool by_process_vm(bool put, unsigned int first, unsigned int nr)
{
	size_t len = nr * PAGE;
	struct iovec local = { buf, len }, remote = { v->addr + first * PAGE, len };

	if (!all_of(put ? process_vm_writev(getpid(), &local, 1, &remote, 1, 0) :
			  process_vm_readv(getpid(), &local, 1, &remote, 1, 0), len))
		return false;
	me->pins += nr;
	return true;
}

typedef bool (*way_fn)(bool put, unsigned int first, unsigned int nr);

static bool get(way_fn way, unsigned int first, unsigned int nr)
{
	if (!way(false, first, nr))
		return failed("read");
	check(v->file, buf, first, nr);
	return true;
}

static void put(way_fn way, unsigned int first, unsigned int nr)
{
	struct file *f = v->file;
	unsigned int i;

	if (!is_settled())
		return;
	if (!f->shared)
		f->gen = f->gen % GENS + 1;
	set_pages(f, first, nr, f->gen);
	for (i = 0; i < nr; i++)
		pattern(buf + i * PAGE, f->id, first + i, f->gen);
	if (!way(true, first, nr))
		failed("write");
	else if (!sync_pages(first, nr))
		failed("sync");
	else
		get(by_mapping, first, nr);
}

static void transfer(way_fn way)
{
	unsigned int nr = 1 + below(RANGE), first = below(PAGES - nr + 1);

	/* Copy on write, where files share blocks, would wait for our own pin. */
	if (below(2) && !(held.file && v->file->shared))
		put(way, first, nr);
	else
		get(way, first, nr);
}

static void op_access(void)
{
	transfer(by_mapping);
}

static void op_call(void)
{
	transfer(by_call);
}

static void op_disk(void)
{
	transfer(by_disk);
}

static void op_process_vm(void)
{
	transfer(by_process_vm);
}

/* Lose the page tables' entries. */
static void op_remap(void)
{
	if (madvise(v->addr, LEN, MADV_DONTNEED))
		failed("madvise");
}

/* Pages in a pipe are the file's all the time, if they are not the zero page of a hole. */

static void end_pipe(void)
{
	if (!all_of(read(pipefd[0], buf, held.nr * PAGE), held.nr * PAGE))
		wrong("%s: reading the pipe: %s", me->step, strerror(errno));
	check(held.file, buf, held.first, held.nr);
	held.file = NULL;
	/* Who waits for a moment without pins has a chance. */
	pause_ms(20);
}

static struct iovec range_to_hold(void)
{
	held.nr = 1 + below(HELD);
	held.first = below(PAGES - held.nr + 1);
	return (struct iovec){ v->addr + held.first * PAGE, held.nr * PAGE };
}

static void op_pipe(void)
{
	struct iovec iov;
	ssize_t n;

	if (held.file) {
		end_pipe();
		return;
	}
	iov = range_to_hold();
	if (madvise(iov.iov_base, iov.iov_len, MADV_POPULATE_WRITE)) {
		failed("populate");
		return;
	}
	n = vmsplice(pipefd[1], &iov, 1, 0);
	if (n < (ssize_t)PAGE) {
		all_of(n, PAGE);
		failed("vmsplice");
		return;
	}
	held.nr = n / PAGE;
	held.file = v->file;
	me->pins += held.nr;
	pause_ms(20);
}

/* Copies of every other page stay from one step to the next, whatever happens. */

static struct {
	char *addr;			/* NULL: none */
	unsigned int first;
	bool copied[HELD];
} private;

static void end_private(void)
{
	unsigned int i;

	v = &own;
	for (i = 0; i < HELD; i++) {
		if (!copy(buf, private.addr + i * PAGE, PAGE)) {
			if (private.copied[i])
				wrong("%s: a private copy is gone", me->step);
			failed("read of a private mapping");
		} else if (!private.copied[i]) {
			check(own.file, buf, private.first + i, 1);
		} else {
			pattern(page, COPIED, private.first + i, 1);
			if (memcmp(buf, page, PAGE))
				wrong("%s: a private copy has changed", me->step);
			me->bytes += PAGE;
		}
	}
	munmap(private.addr, HELD * PAGE);
	private.addr = NULL;
}

static void op_private(void)
{
	unsigned int i;
	char *addr;

	if (private.addr) {
		end_private();
		return;
	}
	v = &own;
	private.first = below(PAGES - HELD + 1);
	addr = mmap(NULL, HELD * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, v->fd,
		    private.first * PAGE);
	if (addr == MAP_FAILED) {
		failed("mmap");
		return;
	}
	private.addr = addr;
	memset(private.copied, 0, sizeof(private.copied));
	for (i = below(2); i < HELD; i += 2) {
		pattern(page, COPIED, private.first + i, 1);
		private.copied[i] = copy(addr + i * PAGE, page, PAGE);
		if (!private.copied[i])
			failed("copy on write");
	}
}

/* A registered buffer, and I/O on it. Of files, only MAP_SYNC is pinned for that. */

static struct {
	int fd;				/* 0: none */
	unsigned int *sq_tail, *cq_head;
	struct io_uring_sqe *sqe;
	struct io_uring_cqe *cqes;
	unsigned int mask;
} ring;

static void ring_setup(void)
{
	struct io_uring_params p = {};
	char *rings;

	ring.fd = syscall(SYS_io_uring_setup, 1, &p);
	if (ring.fd < 0)
		wrong("io_uring_setup: %s", strerror(errno));
	/* All of it is on one page. */
	rings = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, ring.fd,
		     IORING_OFF_SQ_RING);
	ring.sqe = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, ring.fd,
			IORING_OFF_SQES);
	if (rings == MAP_FAILED || ring.sqe == MAP_FAILED)
		wrong("mmap of a ring: %s", strerror(errno));
	ring.sq_tail = (unsigned int *)(rings + p.sq_off.tail);
	ring.cq_head = (unsigned int *)(rings + p.cq_off.head);
	ring.cqes = (struct io_uring_cqe *)(rings + p.cq_off.cqes);
	ring.mask = p.cq_entries - 1;
}

static bool ring_transfer(int opcode, unsigned int first, unsigned int nr)
{
	ssize_t n;

	*ring.sqe = (struct io_uring_sqe) {
		.opcode = opcode,
		.fd = disk,
		.off = slot,
		.addr = (uintptr_t)v->addr + first * PAGE,
		.len = nr * PAGE,
	};
	__atomic_add_fetch(ring.sq_tail, 1, __ATOMIC_RELEASE);
	if (syscall(SYS_io_uring_enter, ring.fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) != 1)
		return false;
	n = ring.cqes[*ring.cq_head & ring.mask].res;
	__atomic_add_fetch(ring.cq_head, 1, __ATOMIC_RELEASE);
	if (n < 0)
		errno = -n;
	return all_of(n, nr * PAGE);
}

static bool by_fixed(bool put, unsigned int first, unsigned int nr)
{
	size_t len = nr * PAGE;

	if (put)
		return all_of(pwrite(disk, buf, len, slot), len) &&
		       ring_transfer(IORING_OP_READ_FIXED, first, nr);
	return ring_transfer(IORING_OP_WRITE_FIXED, first, nr) &&
	       all_of(pread(disk, buf, len, slot), len);
}

static void end_fixed(void)
{
	if (syscall(SYS_io_uring_register, ring.fd, IORING_UNREGISTER_BUFFERS, NULL, 0))
		wrong("unregistering a buffer: %s", strerror(errno));
	held.file = NULL;
}

static void op_fixed(void)
{
	struct iovec iov;

	if (!ring.fd)
		ring_setup();
	if (held.file) {
		/* The pages are there, even if the device is about to go. */
		v = held.file == own.file ? &own : &shared;
		if (below(2))
			put(by_fixed, held.first, held.nr);
		else
			get(by_fixed, held.first, held.nr);
		if (!below(4))
			end_fixed();
		return;
	}
	iov = range_to_hold();
	if (syscall(SYS_io_uring_register, ring.fd, IORING_REGISTER_BUFFERS, &iov, 1)) {
		failed("registering a buffer");
		return;
	}
	held.file = v->file;
	me->pins += held.nr;
}

/* The file that we have pinned for long keeps its blocks: this has to be refused. */
static void stays(const char *what, int ret)
{
	if (!ret)
		wrong("%s of %s, which is pinned for long", what, v->path);
	if (errno != ETXTBSY)
		failed(what);
}

static bool is_held_for_long(void)
{
	return ring.fd && held.file == v->file;
}

/* Files come and go. */

static bool map_view(struct view *view)
{
	size_t off = 0;

	v = view;
	view->fd = open(view->path, O_RDWR | (place->device ? 0 : O_CREAT), 0600);
	if (view->fd < 0)
		return false;
	if (place->device) {
		off = view->file->slice * LEN;
	} else {
		set_extent_size(view->fd);
		if (ftruncate(view->fd, LEN))
			return false;
	}
	return mmap(view->addr, LEN, PROT_READ | PROT_WRITE, me->kind->flags | MAP_FIXED,
		    view->fd, off) != MAP_FAILED;
}

static void close_view(struct view *view)
{
	mmap(view->addr, LEN, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED,
	     -1, 0);
	close(view->fd);
	view->fd = -1;
}

static bool open_view(struct view *view)
{
	if (map_view(view))
		return true;
	failed("open");
	close_view(view);
	return false;
}

static void op_reopen(void)
{
	if (held.file)
		end_pipe();
	close_view(v);
	open_view(v);
}

/* After a call that returned 0 the pages are zero; after another they may be. */
static void zeroed(const char *what, int ret, unsigned int first, unsigned int nr)
{
	if (ret || fsync(v->fd)) {
		failed(what);
		return;
	}
	sync_pages(first, nr);
	nr = nr < RANGE ? nr : RANGE;
	get(by_mapping, first, nr);
}

static void op_punch(void)
{
	unsigned int nr = 1 + below(RANGE), first = below(PAGES - nr + 1);

	if (!is_settled())
		return;
	if (is_held_for_long()) {
		stays("punch", fallocate(v->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
					 first * PAGE, nr * PAGE));
		return;
	}
	set_pages(v->file, first, nr, 0);
	zeroed("punch", fallocate(v->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				  first * PAGE, nr * PAGE), first, nr);
}

static void op_truncate(void)
{
	unsigned int first = below(PAGES);

	if (!is_settled())
		return;
	if (is_held_for_long()) {
		/* Another may have truncated it, but not below that. */
		stays("truncate", ftruncate(v->fd, below(held.first + 1) * PAGE));
		return;
	}
	set_pages(v->file, first, PAGES - first, 0);
	zeroed("truncate", ftruncate(v->fd, first * PAGE) || ftruncate(v->fd, LEN),
	       first, PAGES - first);
}

static void op_recreate(void)
{
	if (!is_settled())
		return;
	set_pages(v->file, 0, PAGES, 0);
	if (unlink(v->path) && !(v->file->shared && errno == ENOENT)) {
		failed("unlink");
		return;
	}
	close_view(v);
	if (open_view(v))
		zeroed("creation", 0, 0, PAGES);
}

/* Two files with the same blocks, both mapped: only one changes. */
static void op_clone(void)
{
	static struct file before;
	char path[sizeof(v->path) + 16], *addr = MAP_FAILED;
	unsigned int nr = 1 + below(RANGE), first = below(PAGES - nr + 1);
	int fd;

	if (strcmp(place->fs, "xfs") || !is_settled())
		return;
	snprintf(path, sizeof(path), "%s.copy%u", v->path, me->file.id);
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	if (fd >= 0 && is_held_for_long()) {
		stays("clone", ioctl(fd, FICLONE, v->fd));
		unlink(path);
		close(fd);
		return;
	}
	if (fd >= 0 && !ioctl(fd, FICLONE, v->fd))
		addr = mmap(NULL, nr * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
			    first * PAGE);
	if (addr == MAP_FAILED) {
		failed("clone");
	} else if (v->file->shared) {
		/* From now on some have the one, and some the other. */
		if (rename(path, v->path))
			failed("rename");
		put(by_mapping, first, nr);
	} else {
		before = *v->file;
		if (!copy(buf, addr, nr * PAGE))
			failed("read of a clone");
		put(by_mapping, first, nr);
		if (copy(buf, addr, nr * PAGE))
			check(&before, buf, first, nr);
		else
			failed("read of a clone");
		if (unlink(path))
			failed("unlink");
	}
	if (addr != MAP_FAILED)
		munmap(addr, nr * PAGE);
	close(fd);
}

#define OP(name) { #name, op_##name }
#define SYNC (MAP_SHARED_VALIDATE | MAP_SYNC)

static const struct kind file_kinds[] = {
	{ "faulter, PMDs", MAP_SHARED, false,
	  { OP(access), OP(call), OP(remap), OP(reopen) } },
	{ "faulter, PTEs", MAP_SHARED, true,
	  { OP(access), OP(call), OP(remap), OP(reopen) } },
	{ "faulter, MAP_SYNC", SYNC, false,
	  { OP(access), OP(access), OP(punch), OP(remap) } },
	{ "faulter, private", MAP_SHARED, false,
	  { OP(private), OP(private), OP(call) } },
	{ "pinner, pipe", MAP_SHARED, false,
	  { OP(pipe), OP(pipe), OP(access), OP(reopen) } },
	{ "pinner, disk", MAP_SHARED, true,
	  { OP(disk), OP(process_vm), OP(remap), OP(reopen) } },
	{ "pinner, io_uring", SYNC, false,
	  { OP(fixed), OP(fixed), OP(fixed), OP(access), OP(truncate), OP(punch),
	    OP(clone) } },
	{ "truncator", MAP_SHARED, false,
	  { OP(truncate), OP(punch), OP(recreate), OP(clone), OP(access), OP(reopen) } },
}, device_kinds[] = {
	{ "faulter", MAP_SHARED, false,
	  { OP(access), OP(access), OP(remap), OP(reopen) } },
	{ "pinner, pipe", MAP_SHARED, false,
	  { OP(pipe), OP(pipe), OP(access), OP(reopen) } },
	{ "pinner, disk", MAP_SHARED, false,
	  { OP(disk), OP(process_vm), OP(remap), OP(reopen) } },
	{ "pinner, io_uring", MAP_SHARED, false,
	  { OP(fixed) } },
};

/* The workers. */

static void begin(const char *what)
{
	me->step = what;
	me->since = now_ms();
}

static char *anonymous(size_t len)
{
	char *addr = mmap(NULL, len, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (addr == MAP_FAILED)
		wrong("mmap: %s", strerror(errno));
	return addr;
}

static void init_view(struct view *view, struct file *f, const char *name)
{
	view->file = f;
	if (place->device)
		snprintf(view->path, sizeof(view->path), "%s", place->dev);
	else
		snprintf(view->path, sizeof(view->path), "%s/files/%s", place->dir, name);
	if (!view->addr) {
		view->addr = anonymous(LEN + 2 * PMD_SIZE);
		view->addr += -(uintptr_t)view->addr & (PMD_SIZE - 1);
		/* A PMD can only map what lies as far into 2 MiB in memory as in the file. */
		if (me->kind->small)
			view->addr += PAGE;
	}
}

static void become(struct worker *w)
{
	char name[16];

	me = w;
	place = w->place;
	snprintf(name, sizeof(name), "file%u", w->file.id);
	init_view(&own, &w->file, name);
	init_view(&shared, &place->shared, "shared");
}

static void init_process(const char *path)
{
	struct sigaction sa = { .sa_handler = sigbus, .sa_flags = SA_NODEFER };

	srandom(getpid());
	buf = anonymous(RANGE * PAGE);
	page = anonymous(PAGE);
	disk = open(path, O_RDWR | O_DIRECT);
	if (disk < 0 || pipe(pipefd) || sigaction(SIGBUS, &sa, NULL))
		wrong("%s: %s", path, strerror(errno));
}

/* All that had been made durable is there. */
static bool verify(struct view *view)
{
	way_fn way = place->device || place->cycle % 2 ? by_mapping : by_call;
	unsigned int first;

	begin("verify");
	v = view;
	for (first = 0; first < PAGES; first += RANGE)
		if (!get(way, first, RANGE))
			return false;
	return true;
}

static void leave(void)
{
	struct rusage usage;

	begin("leave");
	if (held.file && ring.fd)
		end_fixed();
	else if (held.file)
		end_pipe();
	if (private.addr)
		end_private();
	close_view(&own);
	close_view(&shared);
	getrusage(RUSAGE_SELF, &usage);
	me->faults = usage.ru_minflt + usage.ru_majflt;
}

static bool has_to_leave(void)
{
	return soak->stop || place->phase == LEFT || place->cycle != me->cycle;
}

static void do_step(void)
{
	unsigned int nr;

	for (nr = 0; nr < 8 && me->kind->ops[nr].fn; nr++)
		;
	v = below(3) ? &own : &shared;
	if (v->fd < 0 && !open_view(v))
		return;
	nr = below(nr);
	begin(me->kind->ops[nr].name);
	me->kind->ops[nr].fn();
	me->steps++;
	me->worked = me->cycle;
}

static void work(struct worker *w, const char *path)
{
	become(w);
	init_process(path);
	slot = (w - soak->workers) * RANGE * PAGE;
	while (!soak->stop) {
		begin("wait for the device");
		if (place->phase != UP || place->cycle == me->cycle) {
			usleep(1000);
			continue;
		}
		me->cycle = place->cycle;
		if (open_view(&own) && open_view(&shared) && verify(&own)) {
			while (!has_to_leave()) {
				do_step();
				usleep(is_away() ? 1000 : 100);
			}
		}
		leave();
	}
	w->gone = true;
}

/* The binders. */

static void next(const char *what)
{
	place->step = what;
	place->since = now_ms();
}

static void drive(const char *what)
{
	char path[64];
	int fd;

	next(what);
	snprintf(path, sizeof(path), "/sys/bus/%s/%s",
		 place->device ? "dax/drivers/device_dax" : "nd/drivers/nd_pmem", what);
	fd = open(path, O_WRONLY);
	if (fd < 0 || write(fd, place->name, strlen(place->name)) < 0)
		wrong("%s: %s", what, strerror(errno));
	close(fd);
}

static void do_mount(void)
{
	next("mount");
	if (!place->device && mount(place->dev, place->dir, place->fs, 0, "dax=always"))
		wrong("mount: %s", strerror(errno));
}

/*
 * As long as the workers have files it is busy. Another place's unbind, which looks
 * at all file systems, may keep it until that has ended.
 */
static void do_umount(void)
{
	char path[64];

	next("umount");
	while (!place->device && umount2(place->dir, 0)) {
		if (errno != EBUSY)
			wrong("umount: %s", strerror(errno));
		usleep(1000);
	}
	snprintf(path, sizeof(path), "/sys/fs/%s/%s", place->fs, strrchr(place->dev, '/') + 1);
	while (!place->device && !access(path, F_OK))
		usleep(1000);
}

static bool all(bool (*is)(const struct worker *w))
{
	unsigned int i;

	for (i = 0; i < soak->nr_workers; i++)
		if (soak->workers[i].place == place && !is(&soak->workers[i]))
			return false;
	return true;
}

static bool has_worked(const struct worker *w)
{
	return w->worked == place->cycle;
}

static bool is_gone(const struct worker *w)
{
	return w->gone;
}

static void go_and_come_back(void)
{
	bool first;

	place->phase = GOING;
	drive("unbind");
	next("pause");
	pause_ms(20);
	first = below(2);
	if (first)
		drive("bind");
	place->phase = LEFT;
	do_umount();
	if (!first)
		drive("bind");
	do_mount();
	place->cycle++;
}

/* Or nobody would know what is there. */
static void clear_device(void)
{
	int fd = open(place->dev, O_RDWR);
	size_t len = (sizeof(device_kinds) / sizeof(*device_kinds) + 1) * LEN;
	char *addr = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (addr == MAP_FAILED)
		wrong("%s: %s", place->dev, strerror(errno));
	memset(addr, 0, len);
	munmap(addr, len);
	close(fd);
}

/* Of the files: so that nobody finds one where nothing is mounted. */
static void make_directory(void)
{
	char path[sizeof(own.path)];
	int fd;

	snprintf(path, sizeof(path), "%s/files", place->dir);
	if (mkdir(path, 0700))
		wrong("%s: %s", path, strerror(errno));
	fd = open(path, O_RDONLY);
	if (fd < 0 || syncfs(fd))
		wrong("%s: %s", path, strerror(errno));
	close(fd);
}

static void bind_and_unbind(struct place *p, const char *path)
{
	unsigned int i;
	bool early;

	place = p;
	do_mount();
	if (place->device)
		clear_device();
	else
		make_directory();
	for (;;) {
		place->phase = UP;
		/* Mostly while all are at work, and at times while they come. */
		next("wait for the workers");
		early = !below(4);
		while (!soak->stop && !early && !all(has_worked))
			usleep(1000);
		pause_ms(100);
		if (soak->stop)
			break;
		go_and_come_back();
	}
	next("wait for the workers");
	while (!all(is_gone))
		usleep(1000);

	/* Nobody has anything: all goes at once, and all is there. */
	do_umount();
	drive("unbind");
	drive("bind");
	do_mount();
	init_process(path);
	for (i = 0; i < soak->nr_workers; i++) {
		if (soak->workers[i].place != place)
			continue;
		become(&soak->workers[i]);
		me->cycle = place->cycle;
		next("verify");
		if (open_view(&own) && open_view(&shared) && verify(&own))
			verify(&shared);
		close_view(&own);
		close_view(&shared);
	}
	do_umount();
	place->gone = true;
}

/* The parent. */

/* Returns a line that the kernel has logged, if it is one to stop at. */
static const char *look_at_log(int log)
{
	static const char *const reports[] = {
		"WARNING:", "BUG:", "Oops", "Call Trace", "blocked for more", "kmemleak:",
	};
	static char line[2048];
	unsigned int i;
	ssize_t n;

	for (;;) {
		n = read(log, line, sizeof(line) - 1);
		if (n < 0)
			return errno == EAGAIN ? NULL : "lost some of the kernel's log";
		line[n] = 0;
		line[strcspn(line, "\n")] = 0;
		for (i = 0; i < sizeof(reports) / sizeof(*reports); i++)
			if (strstr(line, reports[i]))
				return line;
	}
}

static bool is_late(const char *who, const struct place *p, const char *step, long since)
{
	if (now_ms() - since < LIMIT_MS)
		return false;
	ksft_print_msg("%s %s: %s: does not end: %s\n", p->fs, p->name, who, step);
	return true;
}

static bool anybody_late(void)
{
	unsigned int i, nr = 0;

	for (i = 0; i < soak->nr_places; i++) {
		struct place *p = &soak->places[i];

		nr += !p->gone && is_late("binder", p, p->step, p->since);
	}
	for (i = 0; i < soak->nr_workers; i++) {
		struct worker *w = &soak->workers[i];

		nr += !w->gone && is_late(w->kind->name, w->place, w->step, w->since);
	}
	return nr;
}

static unsigned int cycles(void)
{
	unsigned int i, sum = 0;

	for (i = 0; i < soak->nr_places; i++)
		sum += soak->places[i].cycle - 1;
	return sum;
}

/* What everybody who does not run waits for goes to the kernel's log. */
static void show_blocked(void)
{
	int fd = open("/proc/sysrq-trigger", O_WRONLY);

	if (fd < 0 || write(fd, "w", 1) != 1)
		ksft_perror("/proc/sysrq-trigger");
	close(fd);
}

/* Returns the exit status. */
static int watch(long end, unsigned int min_cycles)
{
	int log = open("/dev/kmsg", O_RDONLY | O_NONBLOCK), status, left;
	const char *line;
	pid_t pid;

	if (log < 0 || lseek(log, 0, SEEK_END) < 0) {
		ksft_perror("/dev/kmsg");
		return 1;
	}
	for (left = soak->nr_places + soak->nr_workers; left; ) {
		pid = waitpid(-1, &status, WNOHANG);
		if (pid > 0 && status && !soak->failed) {
			ksft_print_msg("a worker ended with status %#x\n", status);
			return 1;
		}
		left -= pid > 0;
		line = look_at_log(log);
		if (line) {
			ksft_print_msg("the kernel says: %s\n", line);
			show_blocked();
			return 1;
		}
		if (soak->failed) {
			ksft_print_msg("%s\n", soak->error);
			return 1;
		}
		if (anybody_late()) {
			show_blocked();
			return 2;
		}
		if (now_ms() >= end && cycles() >= min_cycles)
			soak->stop = true;
		if (pid <= 0)
			usleep(50000);
	}
	return 0;
}

static bool report(void)
{
	struct worker sum = {};
	bool idle = false;
	unsigned int i;

	ksft_print_msg("each worker's steps, pins, faults, SIGBUSes, bytes compared:\n");
	for (i = 0; i < soak->nr_workers; i++) {
		struct worker *w = &soak->workers[i];

		ksft_print_msg("%-6s %-7s %-17s %7lu steps, %8lu, %8lu, %6lu, %11lu\n",
			       w->place->fs, w->place->name, w->kind->name, w->steps, w->pins,
			       w->faults, w->sigbus, w->bytes);
		idle |= !w->steps;
		sum.pins += w->pins;
		sum.faults += w->faults;
		sum.sigbus += w->sigbus;
		sum.bytes += w->bytes;
	}
	for (i = 0; i < soak->nr_places; i++)
		ksft_print_msg("%-6s %-7s %u cycles\n", soak->places[i].fs,
			       soak->places[i].name, soak->places[i].cycle - 1);
	ksft_print_msg("%u cycles, %lu pins, %lu faults, %lu SIGBUSes, %lu bytes compared\n",
		       cycles(), sum.pins, sum.faults, sum.sigbus, sum.bytes);
	if (idle)
		ksft_print_msg("not all have worked\n");
	return !idle;
}

static void add_place(char *arg)
{
	struct place *p = &soak->places[soak->nr_places++];
	const struct kind *kinds = file_kinds;
	unsigned int i, nr = sizeof(file_kinds) / sizeof(*kinds);

	p->fs = strsep(&arg, ":");
	p->name = strsep(&arg, ":");
	p->dev = strsep(&arg, ":");
	p->dir = arg;
	p->device = !strcmp(p->fs, "devdax");
	p->phase = LEFT;
	p->cycle = 1;
	p->since = now_ms();
	if (p->device) {
		kinds = device_kinds;
		nr = sizeof(device_kinds) / sizeof(*kinds);
	}
	p->shared.id = COPIED - soak->nr_places;
	p->shared.shared = true;
	p->shared.gen = 1;
	for (i = 0; i < PAGES; i++)
		p->shared.page[i].is = 1;
	for (i = 0; i < nr && soak->nr_workers < MAX_WORKERS; i++) {
		struct worker *w = &soak->workers[soak->nr_workers++];

		w->place = p;
		w->kind = &kinds[i];
		w->file.id = soak->nr_workers;
		w->file.slice = i + 1;
		w->since = p->since;
		w->step = "start";
	}
}

int main(int argc, char **argv)
{
	unsigned int i;
	int status;
	long end;

	if (argc < 5 || argc > 4 + MAX_PLACES) {
		fputs("usage: dax_soak SECONDS CYCLES DISK FS:NAME:DEVICE:DIRECTORY...\n", stderr);
		return 2;
	}
	setlinebuf(stdout);
	soak = mmap(NULL, sizeof(*soak), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		    -1, 0);
	if (soak == MAP_FAILED) {
		ksft_perror("mmap");
		return 1;
	}
	for (i = 4; i < (unsigned int)argc; i++)
		add_place(argv[i]);
	end = now_ms() + 1000 * strtol(argv[1], NULL, 0);
	for (i = 0; i < soak->nr_workers; i++) {
		if (!fork_child()) {
			work(&soak->workers[i], argv[3]);
			_exit(0);
		}
	}
	for (i = 0; i < soak->nr_places; i++) {
		if (!fork_child()) {
			bind_and_unbind(&soak->places[i], argv[3]);
			_exit(0);
		}
	}
	status = watch(end, strtoul(argv[2], NULL, 0));
	if (!report() && !status)
		status = 1;
	return status;
}

// SPDX-License-Identifier: GPL-2.0
/*
 * A file on DAX as the memory of a KVM guest, above all on memory that has no pages:
 * KVM then cannot take references, and has to follow what is done to the file.
 *
 *   DAX_GUP_RAW_EXT4, DAX_GUP_RAW_XFS   directory as DAX_GUP_EXT4 and DAX_GUP_XFS, on a
 *                                       raw namespace whose dax/pageless is 1
 *
 * The tests fill these filesystems. The ones with pages must give the same results.
 *
 * Expected on stock: the variants "pages" pass, the others have nothing to run on.
 */
#define DAX_OWN_FIXTURE
#include <linux/fiemap.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <time.h>

#include "dax_gup.h"

#ifdef __x86_64__
#define LEN		(4 * MB)
#define PAGES		(LEN / PAGE)
#define HOLE		(MB + PAGE)	/* so many bytes at HOLE_OFF are taken from the file */
#define HOLE_OFF	(MB / 2)
#define LOST		(3 * MB + PAGE)	/* more than XFS holds back */

/* Addresses in the guest: its code, plain memory, and the file. */
#define CODE		0UL
#define GDT		0x100UL
#define IDT		0x200UL
#define HANDLERS	0x300UL	/* a byte each, which stops the guest */
#define VECTORS		32
#define VCPUS		4	/* at most, one after the other */
#define RAM		0x1000UL	/* and the end of the stack */
#define FILE_GPA	0x40000000UL
#define RAM_SLOT	0
#define FILE_SLOT	1

#define RACE_MS		1000	/* at least, */
#define RACE_MAX_MS	20000	/* and until both sides have done something */
#define RACE_SPACE	(24 * MB)

#define PUNCH		(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)

/* Copy ECX words from ESI on, EDX bytes apart, to EDI on, EBX bytes apart. */
static const unsigned char code[] = {
	0x8b, 0x06,	/* 1: mov (%esi),%eax */
	0x89, 0x07,	/* mov %eax,(%edi) */
	0x01, 0xd6,	/* add %edx,%esi */
	0x01, 0xdf,	/* add %ebx,%edi */
	0x49,		/* dec %ecx */
	0x75, 0xf5,	/* jnz 1b */
	0xf4,		/* hlt */
};

static const __u64 gdt[] = { 0, 0x00cf9b000000ffff, 0x00cf93000000ffff };

struct vm {
	int fd, vcpu, vcpus, run_size;
	struct kvm_run *run;
	struct kvm_regs start;
	timer_t kick;
	char *ram;
	unsigned long code;
};

struct guest {
	const char *dir;
	bool pmd;
	char path[PATH_MAX], victim_path[PATH_MAX], filler_path[PATH_MAX];
	int fd, victim;
	char *addr;
	char *want, *got;
	struct vm vm;
};

static void vm_slot(struct __test_metadata *_metadata, struct vm *vm, int slot,
		    unsigned int flags, unsigned long gpa, void *addr, size_t len)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot,
		.flags = flags,
		.guest_phys_addr = gpa,
		.memory_size = len,
		.userspace_addr = (uintptr_t)addr,
	};

	ASSERT_EQ(0, ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &region)) {
		TH_LOG("KVM_SET_USER_MEMORY_REGION: %s", strerror(errno));
	}
}

static void file_slot(struct __test_metadata *_metadata, struct guest *g,
		      unsigned int flags)
{
	vm_slot(_metadata, &g->vm, FILE_SLOT, flags, FILE_GPA, g->addr, LEN);
}

static void no_file_slot(struct __test_metadata *_metadata, struct guest *g)
{
	vm_slot(_metadata, &g->vm, FILE_SLOT, 0, FILE_GPA, g->addr, 0);
}

/* Another processor: 32 bits, flat, without page tables of its own. 0, or an errno. */
static int vm_vcpu(struct vm *vm)
{
	struct kvm_segment seg = {
		.limit = ~0U, .selector = 16, .type = 3, .present = 1,
		.db = 1, .s = 1, .g = 1,
	};
	struct kvm_sregs sregs;

	if (vm->vcpus) {
		munmap(vm->run, vm->run_size);
		close(vm->vcpu);
	}
	vm->vcpu = ioctl(vm->fd, KVM_CREATE_VCPU, vm->vcpus++);
	if (vm->vcpu < 0)
		return errno;
	vm->run = mmap(NULL, vm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vm->vcpu, 0);
	if (vm->run == MAP_FAILED || ioctl(vm->vcpu, KVM_GET_SREGS, &sregs))
		return errno;
	sregs.ds = seg;
	sregs.es = seg;
	sregs.fs = seg;
	sregs.gs = seg;
	sregs.ss = seg;
	seg.selector = 8;
	seg.type = 11;
	sregs.cs = seg;
	sregs.gdt = (struct kvm_dtable) { .base = GDT, .limit = sizeof(gdt) - 1 };
	sregs.idt = (struct kvm_dtable) { .base = IDT, .limit = VECTORS * 8 - 1 };
	sregs.cr0 = 0x11;
	return ioctl(vm->vcpu, KVM_SET_SREGS, &sregs) ? errno : 0;
}

static void on_kick(int sig)
{
}

static void vm_open(struct __test_metadata *_metadata, struct vm *vm)
{
	struct sigevent kick = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR1 };
	struct sigaction act = { .sa_handler = on_kick };
	int kvm, i;

	kvm = open("/dev/kvm", O_RDWR);
	if (kvm < 0)
		SKIP(return, "/dev/kvm: %s", strerror(errno));
	vm->fd = ioctl(kvm, KVM_CREATE_VM, 0);
	if (vm->fd < 0)
		SKIP(return, "KVM_CREATE_VM: %s", strerror(errno));
	vm->run_size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	ASSERT_LT(0, vm->run_size);

	/* No huge pages here, so that all that are counted are the file's. */
	vm->ram = buffer(_metadata, RAM + LEN);
	madvise(vm->ram, RAM + LEN, MADV_NOHUGEPAGE);
	memcpy(vm->ram + CODE, code, sizeof(code));
	vm->code = CODE;
	/* There are to be no exceptions: without this, KVM may run the guest for ever. */
	memcpy(vm->ram + GDT, gdt, sizeof(gdt));
	for (i = 0; i < VECTORS; i++) {
		((__u64 *)(vm->ram + IDT))[i] = 0x00008e0000080000 | (HANDLERS + i);
		vm->ram[HANDLERS + i] = 0xf4;	/* hlt */
	}
	vm_slot(_metadata, vm, RAM_SLOT, 0, 0, vm->ram, RAM + LEN);

	kick._sigev_un._tid = syscall(SYS_gettid);
	ASSERT_EQ(0, sigaction(SIGUSR1, &act, NULL));
	ASSERT_EQ(0, timer_create(CLOCK_MONOTONIC, &kick, &vm->kick));
	ASSERT_EQ(0, vm_vcpu(vm));
}

/*
 * Let the guest go on. 0: it is done; an errno; or an exit that it should not make, < 0.
 *
 * QEMU as a processor has been seen to leave a guest and to use its nested page table for
 * one instruction more, on which the host then exits as if it was the guest: what KVM finds
 * in the guest's registers is its own. It goes round with them until there is a signal.
 * A guest of 32 bits cannot have got there, so have it begin again on another processor.
 */
static int vm_run(struct vm *vm)
{
	const struct itimerspec second = { { 1 }, { 1 } }, never = {};
	struct kvm_regs regs;
	int ret;

	timer_settime(vm->kick, 0, &second, NULL);
	do {
		ret = ioctl(vm->vcpu, KVM_RUN, 0) ? errno : 0;
		if (ioctl(vm->vcpu, KVM_GET_REGS, &regs)) {
			ret = errno;
		} else if (regs.rip >> 32) {
			fprintf(stderr, "# the guest is at %#llx, where the host is\n",
				(unsigned long long)regs.rip);
			ret = vm->vcpus < VCPUS ? vm_vcpu(vm) : EIO;
			if (!ret)
				ret = ioctl(vm->vcpu, KVM_SET_REGS, &vm->start) ? errno : EAGAIN;
		}
	} while (ret == EINTR || ret == EAGAIN);
	timer_settime(vm->kick, 0, &never, NULL);
	if (ret)
		return ret;
	if (vm->run->exit_reason != KVM_EXIT_HLT)
		return -vm->run->exit_reason;
	return regs.rip > HANDLERS && regs.rip <= HANDLERS + VECTORS ?
		-KVM_EXIT_EXCEPTION : 0;
}

/* For the log: why the guest stopped. */
static const char *why(struct vm *vm, int ret)
{
	struct kvm_run *run = vm->run;
	static char buf[256];
	struct kvm_regs regs;
	__u32 *stack;

	if (ret > 0 && run->exit_reason == KVM_EXIT_MEMORY_FAULT) {
		snprintf(buf, sizeof(buf), "%s, at %#llx", strerror(ret),
			 (unsigned long long)run->memory_fault.gpa);
	} else if (ret > 0) {
		snprintf(buf, sizeof(buf), "%s", strerror(ret));
	} else if (ret == -KVM_EXIT_EXCEPTION && !ioctl(vm->vcpu, KVM_GET_REGS, &regs)) {
		stack = (__u32 *)(vm->ram + regs.rsp);
		snprintf(buf, sizeof(buf), "exception %llu, stack %#x %#x %#x %#x",
			 (unsigned long long)(regs.rip - HANDLERS - 1),
			 stack[0], stack[1], stack[2], stack[3]);
	} else if (run->exit_reason == KVM_EXIT_INTERNAL_ERROR) {
		snprintf(buf, sizeof(buf), "internal error %u, data %u: %#llx %#llx %#llx %#llx",
			 run->internal.suberror, run->internal.ndata,
			 (unsigned long long)run->internal.data[0],
			 (unsigned long long)run->internal.data[1],
			 (unsigned long long)run->internal.data[2],
			 (unsigned long long)run->internal.data[3]);
	} else {
		snprintf(buf, sizeof(buf), "exit %u, mmio at %#llx", run->exit_reason,
			 (unsigned long long)run->mmio.phys_addr);
	}
	return buf;
}

static int vm_copy(struct vm *vm, unsigned long dst, int dst_step, unsigned long src,
		   int src_step, size_t words)
{
	vm->start = (struct kvm_regs) {
		.rip = vm->code,
		.rflags = 2,
		.rsp = RAM,
		.rdi = dst,
		.rbx = dst_step,
		.rsi = src,
		.rdx = src_step,
		.rcx = words,
	};

	if (ioctl(vm->vcpu, KVM_SET_REGS, &vm->start))
		return errno;
	return vm_run(vm);
}

/* What the guest reads there. */
static int guest_read(struct guest *g, size_t off, void *buf, size_t len)
{
	int ret = vm_copy(&g->vm, RAM, 4, FILE_GPA + off, 4, len / 4);

	memcpy(buf, g->vm.ram + RAM, len);
	return ret;
}

/* Have the guest write. */
static int guest_write(struct guest *g, size_t off, const void *buf, size_t len)
{
	memcpy(g->vm.ram + RAM, buf, len);
	return vm_copy(&g->vm, FILE_GPA + off, 4, RAM, 4, len / 4);
}

/* The same for the first word of each page, which is fast and makes the most faults. */
static int guest_read_words(struct guest *g, size_t pages)
{
	return vm_copy(&g->vm, RAM, 4, FILE_GPA, PAGE, pages);
}

static int guest_write_words(struct guest *g, size_t pages)
{
	return vm_copy(&g->vm, FILE_GPA, PAGE, RAM, 4, pages);
}

static __u32 *words(struct guest *g)
{
	return (__u32 *)(g->vm.ram + RAM);
}

static void expect_guest(struct __test_metadata *_metadata, struct guest *g,
			 const char *what, size_t off, size_t len)
{
	ASSERT_EQ(0, guest_read(g, off, g->got, len));
	expect_same(_metadata, what, g->want + off, g->got, len);
}

/* read(2) and the mapping, which the host has. */
static void expect_host(struct __test_metadata *_metadata, struct guest *g, const char *what)
{
	ASSERT_EQ((ssize_t)LEN, pread(g->fd, g->got, LEN, 0));
	expect_same(_metadata, what, g->want, g->got, LEN);
}

static void expect_mapped(struct __test_metadata *_metadata, struct guest *g, const char *what)
{
	expect_same(_metadata, what, g->want, g->addr, LEN);
}

/* A statistic of the VM, or -1. */
static long vm_stat(struct __test_metadata *_metadata, struct vm *vm, const char *name)
{
	int fd = ioctl(vm->fd, KVM_GET_STATS_FD, NULL);
	struct kvm_stats_header head;
	struct kvm_stats_desc *desc;
	__u64 val = -1;
	size_t size;
	__u32 i;

	ASSERT_LE(0, fd);
	ASSERT_EQ((ssize_t)sizeof(head), pread(fd, &head, sizeof(head), 0));
	size = sizeof(*desc) + head.name_size;
	desc = malloc(size);
	ASSERT_NE(NULL, desc);
	for (i = 0; i < head.num_desc; i++) {
		ASSERT_EQ((ssize_t)size, pread(fd, desc, size, head.desc_offset + i * size));
		if (strcmp(desc->name, name))
			continue;
		ASSERT_EQ((ssize_t)sizeof(val),
			  pread(fd, &val, sizeof(val), head.data_offset + desc->offset));
	}
	free(desc);
	close(fd);
	return val;
}

/* How many huge pages map the file for the guest. */
static void expect_huge(struct __test_metadata *_metadata, struct guest *g, long nr)
{
	ASSERT_EQ(g->pmd ? nr : 0, vm_stat(_metadata, &g->vm, "pages_2m"));
}

static void guest_setup(struct __test_metadata *_metadata, struct guest *g, const char *env,
			bool pmd, int flags)
{
	struct dax_kind kind = { .pmd = pmd };
	struct statx stx;
	char *where;

	if (!getenv(env))
		SKIP(return, "%s is not set", env);
	g->dir = getenv(env);
	g->pmd = pmd;
	g->fd = open_file(_metadata, g->dir, "kvm", g->path);
	ASSERT_EQ(0, statx(g->fd, "", AT_EMPTY_PATH, 0, &stx));
	ASSERT_TRUE(stx.stx_attributes & STATX_ATTR_DAX) {
		TH_LOG("%s: no DAX there", g->path);
	}
	write_pattern(_metadata, g->fd, LEN, FILE_SEED);
	ASSERT_EQ(0, fsync(g->fd));
	g->want = buffer(_metadata, LEN);
	g->got = buffer(_metadata, LEN);
	fill(g->want, LEN, FILE_SEED);
	where = dax_reserve(_metadata, &kind, LEN);
	g->addr = mmap(where, LEN, PROT_READ | PROT_WRITE, flags | MAP_FIXED, g->fd, 0);
	ASSERT_NE(MAP_FAILED, g->addr) {
		TH_LOG("mmap: %s", strerror(errno));
	}
	vm_open(_metadata, &g->vm);
	if (g->vm.run)
		file_slot(_metadata, g, 0);
}

static void guest_unlink(struct guest *g)
{
	if (*g->path)
		unlink(g->path);
	if (*g->victim_path)
		unlink(g->victim_path);
	if (*g->filler_path)
		unlink(g->filler_path);
}

/* A file that takes small gaps, too, as it has no extent size. */
static int open_plain(struct __test_metadata *_metadata, const char *dir, const char *name,
		      char *path)
{
	int fd;

	snprintf(path, PATH_MAX, "%s/dax_gup.%s", dir, name);
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	ASSERT_LE(0, fd) {
		TH_LOG("%s: %s", path, strerror(errno));
	}
	return fd;
}

/* Leave little free, so that what the file loses is what the next one gets. */
static void fill_filesystem(struct __test_metadata *_metadata, struct guest *g, size_t left)
{
	size_t len = 0, step;
	int fd;

	fd = open_plain(_metadata, g->dir, "filler", g->filler_path);
	for (step = 512 * MB; step >= 64 * KB; step /= 2)
		while (!fallocate(fd, 0, len, step))
			len += step;
	ASSERT_LT(left, len);
	ASSERT_EQ(0, ftruncate(fd, len - left));
	ASSERT_EQ(0, syncfs(fd));
	close(fd);
}

/* Have the other file as large as there is space for, but not larger than this one. */
static ssize_t victim_fill(struct guest *g, const char *pattern)
{
	ssize_t len = 0, n;

	while (len < (ssize_t)LEN) {
		n = pwrite(g->victim, pattern + len, PAGE, len);
		if (n != (ssize_t)PAGE)
			break;
		len += n;
	}
	return len;
}

struct extents {
	struct fiemap map;
	struct fiemap_extent e[128];
};

static void get_extents(struct __test_metadata *_metadata, int fd, size_t off, size_t len,
			struct extents *x)
{
	x->map = (struct fiemap) {
		.fm_start = off,
		.fm_length = len,
		.fm_flags = FIEMAP_FLAG_SYNC,
		.fm_extent_count = ARRAY_SIZE(x->e),
	};
	ASSERT_EQ(0, ioctl(fd, FS_IOC_FIEMAP, &x->map));
}

/* Does one file have what was another's? */
static bool overlap(const struct extents *a, const struct extents *b)
{
	unsigned int i, j;

	for (i = 0; i < a->map.fm_mapped_extents; i++)
		for (j = 0; j < b->map.fm_mapped_extents; j++)
			if (a->e[i].fe_physical < b->e[j].fe_physical + b->e[j].fe_length &&
			    b->e[j].fe_physical < a->e[i].fe_physical + a->e[i].fe_length)
				return true;
	return false;
}

FIXTURE(shared) {
	struct guest g;
};

FIXTURE_VARIANT(shared) {
	const char *env;
	bool pmd;
};

FIXTURE_VARIANT_ADD(shared, raw_ext4_pmd) {
	.env = "DAX_GUP_RAW_EXT4", .pmd = true,
};

FIXTURE_VARIANT_ADD(shared, raw_ext4_pte) {
	.env = "DAX_GUP_RAW_EXT4",
};

FIXTURE_VARIANT_ADD(shared, raw_xfs_pmd) {
	.env = "DAX_GUP_RAW_XFS", .pmd = true,
};

FIXTURE_VARIANT_ADD(shared, raw_xfs_pte) {
	.env = "DAX_GUP_RAW_XFS",
};

FIXTURE_VARIANT_ADD(shared, pages_ext4_pmd) {
	.env = "DAX_GUP_EXT4", .pmd = true,
};

FIXTURE_SETUP(shared)
{
	guest_setup(_metadata, &self->g, variant->env, variant->pmd, MAP_SHARED);
}

FIXTURE_TEARDOWN_PARENT(shared)
{
	guest_unlink(&self->g);
}

TEST_F(shared, contents)
{
	struct guest *g = &self->g;

	expect_guest(_metadata, g, "guest", 0, LEN);

	/* By write(2), and by the mapping. */
	fill(g->want + PAGE, 3 * PAGE, FIRST_SEED);
	ASSERT_EQ((ssize_t)(3 * PAGE), pwrite(g->fd, g->want + PAGE, 3 * PAGE, PAGE));
	fill(g->want + PMD_SIZE, PAGE, FIRST_SEED + 1);
	memcpy(g->addr + PMD_SIZE, g->want + PMD_SIZE, PAGE);
	expect_guest(_metadata, g, "guest after write", 0, LEN);

	fill(g->want, LEN, FIRST_SEED + 2);
	ASSERT_EQ(0, guest_write(g, 0, g->want, LEN));
	expect_mapped(_metadata, g, "mapping");
	ASSERT_EQ(0, fsync(g->fd));
	expect_host(_metadata, g, "file");
	expect_guest(_metadata, g, "guest after fsync", 0, LEN);
}

TEST_F(shared, huge_pages)
{
	struct guest *g = &self->g;

	expect_huge(_metadata, g, 0);
	ASSERT_EQ(0, guest_read_words(g, PAGES));
	expect_huge(_metadata, g, 2);
	ASSERT_EQ(0, guest_write_words(g, PAGES));
	expect_huge(_metadata, g, 2);

	/* What is aligned in the host need not be so in the guest. */
	ASSERT_EQ((ssize_t)LEN, pwrite(g->fd, g->want, LEN, 0));
	no_file_slot(_metadata, g);
	vm_slot(_metadata, &g->vm, FILE_SLOT, 0, FILE_GPA + PAGE, g->addr, LEN);
	ASSERT_EQ(0, guest_read(g, PAGE, g->got, LEN));
	expect_same(_metadata, "guest", g->want, g->got, LEN);
	ASSERT_EQ(0, vm_stat(_metadata, &g->vm, "pages_2m"));
}

/* The guest's code is in the file, too. */
TEST_F(shared, code)
{
	struct guest *g = &self->g;

	memcpy(g->want, code, sizeof(code));
	ASSERT_EQ((ssize_t)PAGE, pwrite(g->fd, g->want, PAGE, 0));
	g->vm.code = FILE_GPA;
	memcpy(g->want + PMD_SIZE, g->want, MB);
	ASSERT_EQ(0, vm_copy(&g->vm, FILE_GPA + PMD_SIZE, 4, FILE_GPA, 4, MB / 4));
	ASSERT_EQ(0, fsync(g->fd));
	expect_host(_metadata, g, "file");
	g->vm.code = FILE_GPA + PMD_SIZE;
	expect_guest(_metadata, g, "guest", 0, LEN);
}

/* The guest may not write; KVM then reads its code to see what it wanted. */
TEST_F(shared, read_only)
{
	struct guest *g = &self->g;

	ASSERT_EQ(0, mprotect(g->addr, LEN, PROT_READ));
	expect_guest(_metadata, g, "guest", 0, PAGE);
	ASSERT_EQ(EFAULT, guest_write(g, 0, g->vm.ram, 4));

	memcpy(g->want + PAGE, code, sizeof(code));
	ASSERT_EQ((ssize_t)PAGE, pwrite(g->fd, g->want + PAGE, PAGE, PAGE));
	no_file_slot(_metadata, g);
	file_slot(_metadata, g, KVM_MEM_READONLY);
	g->vm.code = FILE_GPA + PAGE;
	expect_guest(_metadata, g, "guest", 0, LEN);
	ASSERT_EQ(-KVM_EXIT_MMIO, guest_write(g, 2 * PAGE, g->vm.ram, 4));
	ASSERT_EQ(FILE_GPA + 2 * PAGE, g->vm.run->mmio.phys_addr);
	ASSERT_EQ(1, g->vm.run->mmio.is_write);
	ASSERT_EQ(0, vm_run(&g->vm));
	expect_host(_metadata, g, "file");
}

TEST_F(shared, read_then_write)
{
	struct guest *g = &self->g;

	expect_guest(_metadata, g, "guest", 0, LEN);
	fill(g->want + PAGE, PAGE, FIRST_SEED);
	ASSERT_EQ(0, guest_write(g, PAGE, g->want + PAGE, PAGE));
	expect_mapped(_metadata, g, "mapping");
	fill(g->want, LEN, FIRST_SEED + 1);
	ASSERT_EQ(0, guest_write(g, 0, g->want, LEN));
	expect_mapped(_metadata, g, "mapping");
	expect_host(_metadata, g, "file");
}

/* Nothing is there that could be read, and then there is. */
TEST_F(shared, hole)
{
	struct guest *g = &self->g;

	ASSERT_EQ(0, fallocate(g->fd, PUNCH, 0, LEN));
	memset(g->want, 0, LEN);
	expect_guest(_metadata, g, "guest", 0, LEN);
	fill(g->want + PMD_SIZE + PAGE, PAGE, FIRST_SEED);
	ASSERT_EQ(0, guest_write(g, PMD_SIZE + PAGE, g->want + PMD_SIZE + PAGE, PAGE));
	fill(g->want + PAGE, PAGE, FIRST_SEED + 1);
	ASSERT_EQ((ssize_t)PAGE, pwrite(g->fd, g->want + PAGE, PAGE, PAGE));
	expect_guest(_metadata, g, "guest after write", 0, LEN);
	expect_host(_metadata, g, "file");
}

/*
 * fsync() takes the right to write away, from the guest as well: or the file would not
 * know of what is written after it.
 */
TEST_F(shared, fsync)
{
	struct guest *g = &self->g;
	int i;

	for (i = 0; i < 20; i++) {
		fill(g->want, PAGE, FIRST_SEED + i);
		fill(g->want + PMD_SIZE, PAGE, FIRST_SEED + i + 1);
		ASSERT_EQ(0, guest_write(g, 0, g->want, PAGE));
		ASSERT_EQ(0, guest_write(g, PMD_SIZE, g->want + PMD_SIZE, PAGE));
		expect_huge(_metadata, g, 2);
		expect_host(_metadata, g, "file");
		ASSERT_EQ(0, fsync(g->fd));
		expect_huge(_metadata, g, 0);
		expect_host(_metadata, g, "file after fsync");
		/* One is read before it is written. */
		if (i % 2)
			expect_guest(_metadata, g, "guest", 0, PAGE);
	}
}

/* What is taken from the file, and given to another one, is not the guest's any more. */
static void lose(struct __test_metadata *_metadata, struct guest *g, bool truncate)
{
	char *pattern = buffer(_metadata, LEN);
	struct extents lost, gained;
	ssize_t len;
	int ret;

	no_reserve(g->fd);
	fill_filesystem(_metadata, g, MB / 2);
	g->victim = open_plain(_metadata, g->dir, "victim", g->victim_path);
	fill(pattern, LEN, VICTIM_SEED);
	fill(g->want, LEN, FIRST_SEED);
	ASSERT_EQ(0, guest_write(g, 0, g->want, LEN));
	get_extents(_metadata, g->fd, HOLE_OFF, HOLE, &lost);
	ASSERT_LT(0, lost.map.fm_mapped_extents);

	ASSERT_EQ(0, truncate ? ftruncate(g->fd, HOLE_OFF) :
				fallocate(g->fd, PUNCH, HOLE_OFF, LOST));
	memset(g->want + HOLE_OFF, 0, truncate ? LEN - HOLE_OFF : LOST);
	ASSERT_EQ(0, syncfs(g->fd));
	len = victim_fill(g, pattern);
	ASSERT_EQ(0, fsync(g->victim));
	get_extents(_metadata, g->victim, 0, LEN, &gained);
	ASSERT_TRUE(overlap(&lost, &gained)) {
		TH_LOG("the other file, %zd bytes, did not get what was this one's", len);
	}

	/* Writing needs blocks, of which there are not many. */
	if (truncate) {
		ASSERT_EQ(EFAULT, guest_read(g, HOLE_OFF, g->got, 4));
		ASSERT_EQ(EFAULT, guest_write(g, HOLE_OFF, g->got, 4));
		expect_guest(_metadata, g, "guest", 0, HOLE_OFF);
	} else {
		expect_guest(_metadata, g, "guest", 0, LEN);
		ret = guest_write(g, HOLE_OFF, g->want + HOLE_OFF, LOST);
		ASSERT_TRUE(ret == 0 || ret == EFAULT);
		expect_guest(_metadata, g, "guest after write", 0, LEN);
	}
	ASSERT_EQ(len, pread(g->victim, g->got, LEN, 0));
	expect_same(_metadata, "other file", pattern, g->got, len);

	ASSERT_EQ(0, unlink(g->filler_path));
	ASSERT_EQ(0, ftruncate(g->victim, 0));
	ASSERT_EQ(0, ftruncate(g->fd, LEN));
	ASSERT_EQ(0, syncfs(g->fd));
	expect_guest(_metadata, g, "guest with space", 0, LEN);
	fill(g->want, LEN, FIRST_SEED + 1);
	ASSERT_EQ(0, guest_write(g, 0, g->want, LEN));
	ASSERT_EQ(0, fsync(g->fd));
	expect_host(_metadata, g, "file");
}

TEST_F(shared, punch)
{
	lose(_metadata, &self->g, false);
}

TEST_F(shared, truncate)
{
	lose(_metadata, &self->g, true);
}

/* The guest has memory as long as there is some at the address in the host. */
TEST_F(shared, munmap)
{
	struct guest *g = &self->g;

	ASSERT_EQ(0, guest_write(g, 0, g->want, LEN));
	ASSERT_EQ(0, munmap(g->addr + HOLE_OFF, HOLE));
	ASSERT_EQ(EFAULT, guest_read(g, HOLE_OFF, g->got, 4));
	ASSERT_EQ(EFAULT, guest_write(g, HOLE_OFF + HOLE - 4, g->got, 4));
	expect_guest(_metadata, g, "guest", 0, HOLE_OFF);
	expect_guest(_metadata, g, "guest", HOLE_OFF + HOLE, LEN - HOLE_OFF - HOLE);

	ASSERT_EQ(g->addr + HOLE_OFF,
		  mmap(g->addr + HOLE_OFF, HOLE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	ASSERT_EQ(0, guest_read(g, HOLE_OFF, g->got, HOLE));
	expect_zero(_metadata, "guest's anonymous memory", g->got, HOLE);
	ASSERT_EQ(0, guest_write(g, HOLE_OFF, g->got, HOLE));
	expect_host(_metadata, g, "file");
}

/* Fetch the log, which must have these two pages and no others. */
static void expect_dirty(struct __test_metadata *_metadata, struct guest *g, int a, int b)
{
	__u64 bits[LEN / 4096 / 64] = {}, want[LEN / 4096 / 64] = {};
	struct kvm_dirty_log log = { .slot = FILE_SLOT, .dirty_bitmap = bits };

	want[a / 64] |= 1ULL << a % 64;
	want[b / 64] |= 1ULL << b % 64;
	ASSERT_EQ(0, ioctl(g->vm.fd, KVM_GET_DIRTY_LOG, &log));
	expect_same(_metadata, "dirty log", want, bits, sizeof(want));
}

TEST_F(shared, dirty_log)
{
	struct guest *g = &self->g;
	int i;

	ASSERT_EQ(0, guest_write(g, 0, g->want, LEN));
	expect_huge(_metadata, g, 2);
	file_slot(_metadata, g, KVM_MEM_LOG_DIRTY_PAGES);
	for (i = 0; i < 4; i++) {
		fill(g->want + 5 * PAGE, PAGE, FIRST_SEED + i);
		fill(g->want + 513 * PAGE, PAGE, FIRST_SEED + i + 1);
		ASSERT_EQ(0, guest_read(g, 0, g->got, LEN));
		ASSERT_EQ(0, guest_write(g, 5 * PAGE, g->want + 5 * PAGE, PAGE));
		ASSERT_EQ(0, guest_write(g, 513 * PAGE, g->want + 513 * PAGE, PAGE));
		expect_dirty(_metadata, g, 5, 513);
		/* That the host has seen to it does not mean that KVM has. */
		if (i % 2) {
			ASSERT_EQ(0, fsync(g->fd));
		}
		expect_host(_metadata, g, "file");
	}
	file_slot(_metadata, g, 0);
	fill(g->want, LEN, FIRST_SEED);
	ASSERT_EQ(0, guest_write(g, 0, g->want, LEN));
	expect_huge(_metadata, g, 2);
	ASSERT_EQ(0, fsync(g->fd));
	expect_host(_metadata, g, "file");
}

/* What the first words of pages may be. */
enum { FILE_TAG = 0x11110000, GUEST_TAG = 0x22220000, VICTIM_TAG = 0x33330000 };

struct race {
	struct guest *g;
	const char *(*step)(struct race *race, unsigned int nr);
	bool stop;
	unsigned int steps, rounds;
	char *pattern, *victim_pattern, *victim_got;
};

static void tag(char *buf, __u32 tag)
{
	size_t i;

	for (i = 0; i < LEN / 4; i++)
		((__u32 *)buf)[i] = tag | i * 4 / PAGE;
}

/* Until the guest has read and written once more. */
static void wait_round(struct race *race)
{
	unsigned int rounds = __atomic_load_n(&race->rounds, __ATOMIC_RELAXED);

	while (__atomic_load_n(&race->rounds, __ATOMIC_RELAXED) - rounds < 2 &&
	       !__atomic_load_n(&race->stop, __ATOMIC_RELAXED))
		usleep(100);
}

static void *race_thread(void *arg)
{
	struct race *race = arg;
	const char *error = NULL;
	unsigned int nr = 0;

	while (!error && !__atomic_load_n(&race->stop, __ATOMIC_RELAXED)) {
		error = race->step(race, nr++);
		__atomic_store_n(&race->steps, nr, __ATOMIC_RELAXED);
	}
	/* Do not have the other wait for what does not come. */
	if (error)
		__atomic_store_n(&race->steps, ~0U, __ATOMIC_RELAXED);
	return (void *)error;
}

/* One page comes and goes, while the guest reads it and does nothing else. */
static const char *step_hole(struct race *race, unsigned int nr)
{
	struct guest *g = race->g;

	if (fallocate(g->fd, PUNCH, 0, PAGE))
		return "fallocate";
	return pwrite(g->fd, race->pattern, PAGE, 0) == (ssize_t)PAGE ? NULL : "write";
}

static void race_run(struct __test_metadata *_metadata, struct guest *g,
		     const char *(*step)(struct race *race, unsigned int nr), bool may_fault)
{
	struct race race = {
		.g = g,
		.step = step,
		.pattern = buffer(_metadata, LEN),
		.victim_pattern = buffer(_metadata, LEN),
		.victim_got = buffer(_metadata, LEN),
	};
	unsigned int faults = 0, i, kinds[3] = {};
	const char *error = NULL;
	pthread_t thread;
	size_t pages = step == step_hole ? 1 : PAGES;
	bool writes = false;
	long start, t;
	int ret;

	tag(race.pattern, FILE_TAG);
	tag(race.victim_pattern, VICTIM_TAG);
	fill_filesystem(_metadata, g, RACE_SPACE);
	g->victim = open_plain(_metadata, g->dir, "victim", g->victim_path);
	ASSERT_EQ((ssize_t)LEN, pwrite(g->fd, race.pattern, LEN, 0));
	ASSERT_EQ(0, pthread_create(&thread, NULL, race_thread, &race));
	for (start = now_ms(), t = 0;
	     t < RACE_MS || (t < RACE_MAX_MS && (race.rounds < 20 ||
			__atomic_load_n(&race.steps, __ATOMIC_RELAXED) < 20));
	     t = now_ms() - start, writes = !writes && step != step_hole) {
		for (i = 0; i < PAGES; i++)
			words(g)[i] = GUEST_TAG | i;
		ret = writes ? guest_write_words(g, pages) : guest_read_words(g, pages);
		while (ret) {
			ASSERT_TRUE(may_fault && ret == EFAULT) {
				TH_LOG("%s in round %u: %s", writes ? "write" : "read",
				       race.rounds, why(&g->vm, ret));
			}
			faults++;
			if (now_ms() - start > 2 * RACE_MAX_MS)
				break;
			usleep(200);
			ret = vm_run(&g->vm);
		}
		ASSERT_EQ(0, ret);
		for (i = 0; i < pages && !writes; i++) {
			__u32 got = words(g)[i];

			ASSERT_TRUE(!got || got == (FILE_TAG | i) || got == (GUEST_TAG | i)) {
				TH_LOG("page %u has %#x, round %u", i, got, race.rounds);
			}
			kinds[got >> 28]++;
		}
		__atomic_add_fetch(&race.rounds, 1, __ATOMIC_RELAXED);
	}
	__atomic_store_n(&race.stop, true, __ATOMIC_RELAXED);
	ASSERT_EQ(0, pthread_join(thread, (void **)&error));
	ASSERT_EQ(NULL, error) {
		TH_LOG("%s: %s", error, strerror(errno));
	}
	TH_LOG("%u rounds, %u steps, %u EFAULT; read %u zero, %u the host's, %u the guest's",
	       race.rounds, race.steps, faults, kinds[0], kinds[1], kinds[2]);
	EXPECT_LE(3, race.rounds);
	EXPECT_LE(3, race.steps);
}

/* Have another file for a while, with what the first one gave away. */
static const char *race_victim(struct race *race, bool truncated)
{
	struct guest *g = race->g;
	ssize_t len;

	len = victim_fill(g, race->victim_pattern);
	/* A guest that has lost its memory comes no further. */
	if (truncated)
		usleep(2000);
	else
		wait_round(race);
	if (pread(g->victim, race->victim_got, LEN, 0) != len)
		return "read of the other file";
	if (memcmp(race->victim_got, race->victim_pattern, len))
		return "the other file was written to";
	if (ftruncate(g->victim, 0))
		return "ftruncate of the other file";
	return NULL;
}

static const char *step_punch(struct race *race, unsigned int nr)
{
	struct guest *g = race->g;
	size_t off = 0, len = LEN;
	const char *error;

	if (nr % 3) {
		off = nr * 7 % (PAGES - 32) * PAGE;
		len = 32 * PAGE;
	}
	if (fallocate(g->fd, PUNCH, off, len))
		return "fallocate";
	/* That it reads as a hole for long is the exception. */
	if (nr % 2 && pwrite(g->fd, race->pattern + off, len, off) != (ssize_t)len)
		return "write";
	if (nr % 16)
		return NULL;
	if (syncfs(g->fd))
		return "syncfs";
	error = race_victim(race, false);
	if (error)
		return error;
	return pwrite(g->fd, race->pattern, LEN, 0) == (ssize_t)LEN ? NULL : "write";
}

static const char *step_truncate(struct race *race, unsigned int nr)
{
	struct guest *g = race->g;
	const char *error = NULL;

	if (ftruncate(g->fd, nr % 2 ? 0 : HOLE_OFF))
		return "ftruncate";
	if (nr % 8 == 1)
		error = race_victim(race, true);
	if (!error && ftruncate(g->fd, LEN))
		return "ftruncate";
	if (!error && nr % 4 && pwrite(g->fd, race->pattern, LEN, 0) != (ssize_t)LEN)
		return "write";
	wait_round(race);
	return error;
}

static const char *step_munmap(struct race *race, unsigned int nr)
{
	struct guest *g = race->g;

	if (munmap(g->addr + HOLE_OFF, HOLE))
		return "munmap";
	if (nr % 2)
		usleep(300);
	if (mmap(g->addr + HOLE_OFF, HOLE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
		 g->fd, HOLE_OFF) == MAP_FAILED)
		return "mmap";
	if (nr % 2)
		wait_round(race);
	return NULL;
}

/* Pages go from PTEs to PMDs and back. */
static const char *step_zap(struct race *race, unsigned int nr)
{
	struct guest *g = race->g;

	if (madvise(g->addr + (nr % 2 ? 0 : HOLE_OFF), nr % 2 ? LEN : HOLE, MADV_DONTNEED))
		return "madvise";
	asm volatile("" : : "r" (g->addr[HOLE_OFF]));
	return nr % 4 == 3 && fsync(g->fd) ? "fsync" : NULL;
}

TEST_F(shared, race_punch)
{
	race_run(_metadata, &self->g, step_punch, false);
}

TEST_F(shared, race_hole)
{
	race_run(_metadata, &self->g, step_hole, false);
}

TEST_F(shared, race_truncate)
{
	race_run(_metadata, &self->g, step_truncate, true);
}

TEST_F(shared, race_munmap)
{
	race_run(_metadata, &self->g, step_munmap, true);
}

TEST_F(shared, race_zap)
{
	race_run(_metadata, &self->g, step_zap, false);
}

static void *fsync_thread(void *arg)
{
	struct race *race = arg;

	while (!__atomic_load_n(&race->stop, __ATOMIC_RELAXED)) {
		if (fsync(race->g->fd))
			return "fsync";
		/* Each takes all from the guest, which gets it back page by page. */
		usleep(race->steps % 8 * 500);
		__atomic_add_fetch(&race->steps, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

/* No word that the guest wrote may get lost, and no write fail. */
static void race_fsync(struct __test_metadata *_metadata, struct guest *g, bool log)
{
	struct race race = { .g = g };
	const char *error = NULL;
	pthread_t thread;
	long start, t;
	__u32 n, i;
	int ret;

	if (log)
		file_slot(_metadata, g, KVM_MEM_LOG_DIRTY_PAGES);
	ASSERT_EQ(0, pthread_create(&thread, NULL, fsync_thread, &race));
	for (start = now_ms(), t = 0, n = 1;
	     t < RACE_MS || (t < RACE_MAX_MS && (n < 20 ||
			__atomic_load_n(&race.steps, __ATOMIC_RELAXED) < 20));
	     t = now_ms() - start, n++) {
		for (i = 0; i < PAGES; i++)
			words(g)[i] = n << 16 | i;
		/* With and without reading first. */
		if (n % 2) {
			ASSERT_EQ(0, vm_copy(&g->vm, RAM + MB, 4, FILE_GPA, PAGE, PAGES));
		}
		ret = guest_write_words(g, PAGES);
		ASSERT_EQ(0, ret) {
			TH_LOG("round %u: %s", n, why(&g->vm, ret));
		}
		for (i = 0; i < PAGES; i++) {
			ASSERT_EQ(n << 16 | i, *(__u32 *)(g->addr + i * PAGE));
		}
	}
	__atomic_store_n(&race.stop, true, __ATOMIC_RELAXED);
	ASSERT_EQ(0, pthread_join(thread, (void **)&error));
	ASSERT_EQ(NULL, error);
	TH_LOG("%u rounds, %u fsync", n, race.steps);
	EXPECT_LE(3, race.steps);
	for (i = 0; i < PAGES; i++)
		*(__u32 *)(g->want + i * PAGE) = (n - 1) << 16 | i;
	ASSERT_EQ(0, fsync(g->fd));
	expect_host(_metadata, g, "file");
}

TEST_F(shared, race_fsync)
{
	race_fsync(_metadata, &self->g, false);
}

TEST_F(shared, race_fsync_dirty_log)
{
	race_fsync(_metadata, &self->g, true);
}

FIXTURE(private) {
	struct guest g;
};

FIXTURE_VARIANT(private) {
	const char *env;
	bool pmd;
};

FIXTURE_VARIANT_ADD(private, raw_ext4_pmd) {
	.env = "DAX_GUP_RAW_EXT4", .pmd = true,
};

FIXTURE_VARIANT_ADD(private, raw_xfs_pte) {
	.env = "DAX_GUP_RAW_XFS",
};

FIXTURE_VARIANT_ADD(private, pages_ext4_pmd) {
	.env = "DAX_GUP_EXT4", .pmd = true,
};

FIXTURE_SETUP(private)
{
	guest_setup(_metadata, &self->g, variant->env, variant->pmd, MAP_PRIVATE);
}

FIXTURE_TEARDOWN_PARENT(private)
{
	guest_unlink(&self->g);
}

TEST_F(private, contents)
{
	struct guest *g = &self->g;
	char *file = buffer(_metadata, LEN);

	memcpy(file, g->want, LEN);
	expect_guest(_metadata, g, "guest", 0, LEN);

	/* A write of the host, where the guest has read, and of the guest. */
	fill(g->want + PAGE, PAGE, FIRST_SEED);
	memcpy(g->addr + PAGE, g->want + PAGE, PAGE);
	expect_guest(_metadata, g, "guest after the host's write", 0, LEN);
	fill(g->want + PMD_SIZE, 3 * PAGE, FIRST_SEED + 1);
	ASSERT_EQ(0, guest_write(g, PMD_SIZE, g->want + PMD_SIZE, 3 * PAGE));
	expect_guest(_metadata, g, "guest after its write", 0, LEN);
	expect_mapped(_metadata, g, "mapping");

	/* Elsewhere it is the file's yet. */
	fill(g->want + MB, PAGE, FIRST_SEED + 2);
	memcpy(file + MB, g->want + MB, PAGE);
	ASSERT_EQ((ssize_t)PAGE, pwrite(g->fd, file + MB, PAGE, MB));
	expect_guest(_metadata, g, "guest after the file's write", 0, LEN);

	ASSERT_EQ(0, fsync(g->fd));
	ASSERT_EQ((ssize_t)LEN, pread(g->fd, g->got, LEN, 0));
	expect_same(_metadata, "file", file, g->got, LEN);

	/* A guest that writes all is independent of the file. */
	fill(g->want, LEN, FIRST_SEED + 3);
	ASSERT_EQ(0, guest_write(g, 0, g->want, LEN));
	ASSERT_EQ(0, fallocate(g->fd, PUNCH, 0, LEN));
	expect_guest(_metadata, g, "guest after punch", 0, LEN);
	expect_mapped(_metadata, g, "mapping after punch");
	ASSERT_EQ((ssize_t)LEN, pread(g->fd, g->got, LEN, 0));
	expect_zero(_metadata, "file after punch", g->got, LEN);
}

TEST_F(private, race_punch)
{
	race_run(_metadata, &self->g, step_punch, false);
}

/* As if the guest had not written, again and again. */
TEST_F(private, race_zap)
{
	race_run(_metadata, &self->g, step_zap, false);
}
#endif /* __x86_64__ */

TEST_HARNESS_MAIN

// SPDX-License-Identifier: GPL-2.0
/*
 * Long-term pins of files for a device that a program drives: VFIO maps a file for it,
 * and it writes to the file and reads it. The device is "edu" of QEMU, on the bus, behind
 * an IOMMU (-device intel-iommu -device edu). It is bound to vfio-pci, and stays so. It
 * sends no interrupts; where these are not remapped VFIO wants to be told that this is
 * so: iommufd.allow_unsafe_interrupts=1 vfio_iommu_type1.allow_unsafe_interrupts=1.
 *
 * Expected on stock: all files are refused. "refused" passes there.
 */
#define DAX_OWN_FIXTURE
#include <dirent.h>
#include <linux/iommufd.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>

#include "dax_gup.h"

#define LEN		(4 * MB)
#define PCI		"/sys/bus/pci/devices"

/* Of the device, see docs/specs/edu in QEMU. It reaches 256 MiB of addresses. */
#define EDU_VENDOR	0x1234
#define EDU_DEVICE	0x11e8
#define EDU_SRC		0x80
#define EDU_DST		0x88
#define EDU_COUNT	0x90
#define EDU_CMD		0x98
#define EDU_RUN		1
#define EDU_TO_MEMORY	2
#define EDU_BUF		0x40000
#define EDU_UNIT	(2 * KB)	/* some versions do not take all of their 4 KiB */
#define FILE_IOVA	(16 * MB)
#define MEM_IOVA	(64 * MB)

/* Who maps: iommufd, or the container of VFIO. */
struct edu {
	char sysfs[PATH_MAX];
	int iommu, group, fd;
	__u32 ioas;
	bool container;
	char *regs;
};

static unsigned long read_hex(const char *dir, const char *name)
{
	char path[2 * PATH_MAX];
	unsigned long val = 0;
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "r");
	if (f) {
		if (fscanf(f, "%lx", &val) != 1)
			val = 0;
		fclose(f);
	}
	return val;
}

static void write_to(const char *dir, const char *name, const char *what)
{
	char path[2 * PATH_MAX];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_WRONLY);
	if (fd >= 0) {
		write(fd, what, strlen(what));
		close(fd);
	}
}

/* The name of an entry of a directory that starts so. */
static bool entry(const char *dir, const char *start, char *name)
{
	DIR *d = opendir(dir);
	struct dirent *e = NULL;

	while (d && (e = readdir(d)))
		if (!strncmp(e->d_name, start, strlen(start)))
			break;
	if (e)
		strcpy(name, e->d_name);
	if (d)
		closedir(d);
	return e;
}

/* Give the device to VFIO. Returns what is missing. */
static const char *edu_find(struct edu *edu)
{
	DIR *d = opendir(PCI);
	char path[2 * PATH_MAX];
	struct dirent *e = NULL;

	while (d && (e = readdir(d))) {
		snprintf(edu->sysfs, sizeof(edu->sysfs), PCI "/%s", e->d_name);
		if (read_hex(edu->sysfs, "vendor") == EDU_VENDOR &&
		    read_hex(edu->sysfs, "device") == EDU_DEVICE)
			break;
	}
	if (d)
		closedir(d);
	if (!e)
		return "there is no edu device";
	snprintf(path, sizeof(path), "%s/iommu_group", edu->sysfs);
	if (access(path, F_OK))
		return "the device has no IOMMU";
	if (system("modprobe -q vfio-pci"))
		return "the kernel has no vfio-pci";
	write_to(edu->sysfs, "driver_override", "vfio-pci");
	write_to("/sys/bus/pci", "drivers_probe", strrchr(edu->sysfs, '/') + 1);

	if (edu->container)
		return access("/dev/vfio/vfio", F_OK) ? "the kernel has no VFIO_CONTAINER" : NULL;
	snprintf(path, sizeof(path), "%s/vfio-dev", edu->sysfs);
	return access(path, F_OK) || access("/dev/iommu", F_OK) ?
		"the kernel has no VFIO_DEVICE_CDEV" : NULL;
}

static int open_path(struct __test_metadata *_metadata, const char *dir, const char *name)
{
	char path[2 * PATH_MAX];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_RDWR | O_CLOEXEC);
	ASSERT_LE(0, fd) {
		TH_LOG("%s: %s", path, strerror(errno));
	}
	return fd;
}

#define ASSERT_OK(call) ASSERT_EQ(0, (call) ? errno : 0)
#define ASSERT_BUSY(call) ASSERT_EQ(ETXTBSY, (call) == -1 ? errno : 0)

static void open_container(struct __test_metadata *_metadata, struct edu *edu)
{
	char path[PATH_MAX + 20], group[PATH_MAX] = "";

	snprintf(path, sizeof(path), "%s/iommu_group", edu->sysfs);
	ASSERT_LT(0, readlink(path, group, sizeof(group) - 1));
	edu->iommu = open_path(_metadata, "/dev/vfio", "vfio");
	edu->group = open_path(_metadata, "/dev/vfio", strrchr(group, '/') + 1);
	ASSERT_OK(ioctl(edu->group, VFIO_GROUP_SET_CONTAINER, &edu->iommu));
	ASSERT_OK(ioctl(edu->iommu, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU));
	edu->fd = ioctl(edu->group, VFIO_GROUP_GET_DEVICE_FD, strrchr(edu->sysfs, '/') + 1);
	ASSERT_LE(0, edu->fd);
}

static void open_iommufd(struct __test_metadata *_metadata, struct edu *edu)
{
	struct iommu_ioas_alloc alloc = { .size = sizeof(alloc) };
	struct vfio_device_bind_iommufd bind = { .argsz = sizeof(bind) };
	struct vfio_device_attach_iommufd_pt attach = { .argsz = sizeof(attach) };
	char path[PATH_MAX + 20], name[PATH_MAX];

	snprintf(path, sizeof(path), "%s/vfio-dev", edu->sysfs);
	ASSERT_TRUE(entry(path, "vfio", name));
	edu->group = -1;
	edu->iommu = open_path(_metadata, "/dev", "iommu");
	edu->fd = open_path(_metadata, "/dev/vfio/devices", name);
	bind.iommufd = edu->iommu;
	ASSERT_OK(ioctl(edu->fd, VFIO_DEVICE_BIND_IOMMUFD, &bind));
	ASSERT_OK(ioctl(edu->iommu, IOMMU_IOAS_ALLOC, &alloc));
	edu->ioas = alloc.out_ioas_id;
	attach.pt_id = edu->ioas;
	ASSERT_OK(ioctl(edu->fd, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &attach));
}

static struct vfio_region_info region(struct __test_metadata *_metadata, struct edu *edu,
				      __u32 index)
{
	struct vfio_region_info info = { .argsz = sizeof(info), .index = index };

	ASSERT_OK(ioctl(edu->fd, VFIO_DEVICE_GET_REGION_INFO, &info));
	return info;
}

static void edu_open(struct __test_metadata *_metadata, struct edu *edu)
{
	struct vfio_region_info info;
	__u16 cmd;

	if (edu->container)
		open_container(_metadata, edu);
	else
		open_iommufd(_metadata, edu);

	info = region(_metadata, edu, VFIO_PCI_CONFIG_REGION_INDEX);
	ASSERT_EQ(2, pread(edu->fd, &cmd, 2, info.offset + PCI_COMMAND));
	cmd |= PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
	ASSERT_EQ(2, pwrite(edu->fd, &cmd, 2, info.offset + PCI_COMMAND));
	info = region(_metadata, edu, VFIO_PCI_BAR0_REGION_INDEX);
	edu->regs = mmap(NULL, info.size, PROT_READ | PROT_WRITE, MAP_SHARED, edu->fd,
			 info.offset);
	ASSERT_NE(MAP_FAILED, edu->regs);
}

static void edu_close(struct __test_metadata *_metadata, struct edu *edu)
{
	struct vfio_region_info info = region(_metadata, edu, VFIO_PCI_BAR0_REGION_INDEX);

	munmap(edu->regs, info.size);
	close(edu->fd);
	if (edu->group >= 0)
		close(edu->group);
	close(edu->iommu);
}

static int edu_map(struct edu *edu, void *addr, size_t len, __u64 iova)
{
	struct vfio_iommu_type1_dma_map dma = {
		.argsz = sizeof(dma),
		.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
		.vaddr = (uintptr_t)addr,
		.iova = iova,
		.size = len,
	};
	struct iommu_ioas_map map = {
		.size = sizeof(map),
		.flags = IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_READABLE |
			 IOMMU_IOAS_MAP_WRITEABLE,
		.ioas_id = edu->ioas,
		.user_va = (uintptr_t)addr,
		.iova = iova,
		.length = len,
	};

	if (edu->container)
		return ioctl(edu->iommu, VFIO_IOMMU_MAP_DMA, &dma) ? errno : 0;
	return ioctl(edu->iommu, IOMMU_IOAS_MAP, &map) ? errno : 0;
}

static int edu_unmap(struct edu *edu, size_t len, __u64 iova)
{
	struct vfio_iommu_type1_dma_unmap dma = {
		.argsz = sizeof(dma),
		.iova = iova,
		.size = len,
	};
	struct iommu_ioas_unmap unmap = {
		.size = sizeof(unmap),
		.ioas_id = edu->ioas,
		.iova = iova,
		.length = len,
	};

	if (edu->container)
		return ioctl(edu->iommu, VFIO_IOMMU_UNMAP_DMA, &dma) ? errno : 0;
	return ioctl(edu->iommu, IOMMU_IOAS_UNMAP, &unmap) ? errno : 0;
}

static void edu_set(struct edu *edu, int reg, __u64 val)
{
	__atomic_store_n((__u64 *)(edu->regs + reg), val, __ATOMIC_RELEASE);
}

static bool edu_runs(struct edu *edu)
{
	return __atomic_load_n((__u64 *)(edu->regs + EDU_CMD), __ATOMIC_ACQUIRE) & EDU_RUN;
}

static void edu_dma(struct __test_metadata *_metadata, struct edu *edu, __u64 src, __u64 dst,
		    int cmd)
{
	int i;

	edu_set(edu, EDU_SRC, src);
	edu_set(edu, EDU_DST, dst);
	edu_set(edu, EDU_COUNT, EDU_UNIT);
	edu_set(edu, EDU_CMD, cmd | EDU_RUN);
	for (i = 0; i < 2000 && edu_runs(edu); i++)
		usleep(10000);
	ASSERT_GT(2000, i) {
		TH_LOG("the device does not end");
	}
}

/* Have the device read at one address and write what it got at another. */
static void edu_copy(struct __test_metadata *_metadata, struct edu *edu, __u64 to, __u64 from,
		     size_t len)
{
	size_t off;

	for (off = 0; off < len; off += EDU_UNIT) {
		edu_dma(_metadata, edu, from + off, EDU_BUF, 0);
		edu_dma(_metadata, edu, EDU_BUF, to + off, EDU_TO_MEMORY);
	}
}

FIXTURE(vfio) {
	struct dax_map m;
	struct edu edu;
	char *want, *mem;
};

FIXTURE_VARIANT(vfio) {
	struct dax_kind kind;
	bool container;
};

FIXTURE_VARIANT_ADD(vfio, ext4_pte) {
	.kind = { EXT4, .flags = SYNC },
};

FIXTURE_VARIANT_ADD(vfio, ext4_pmd) {
	.kind = { EXT4, .flags = SYNC, .pmd = true },
};

FIXTURE_VARIANT_ADD(vfio, xfs_pte) {
	.kind = { XFS, .flags = SYNC },
};

FIXTURE_VARIANT_ADD(vfio, xfs_pmd) {
	.kind = { XFS, .flags = SYNC, .pmd = true },
};

FIXTURE_VARIANT_ADD(vfio, ext4_pmd_container) {
	.kind = { EXT4, .flags = SYNC, .pmd = true },
	.container = true,
};

FIXTURE_VARIANT_ADD(vfio, xfs_pte_container) {
	.kind = { XFS, .flags = SYNC },
	.container = true,
};

FIXTURE_SETUP(vfio)
{
	const char *missing;

	self->edu.container = variant->container;
	missing = edu_find(&self->edu);
	if (missing)
		SKIP(return, "%s", missing);
	map_setup(_metadata, &self->m, &variant->kind, LEN);
	self->want = file_pattern(_metadata, &self->m);
	edu_open(_metadata, &self->edu);
	self->mem = buffer(_metadata, 2 * PAGE);
	ASSERT_EQ(0, edu_map(&self->edu, self->mem, 2 * PAGE, MEM_IOVA));
}

FIXTURE_TEARDOWN_PARENT(vfio)
{
	if (self->m.kind)
		unlink(self->m.path);
}

/* From memory to the file, and back. */
TEST_F(vfio, device_io)
{
	/* Where one PMD ends and another one begins. */
	size_t at = PMD_SIZE - PAGE, len = 2 * PAGE;
	struct dax_map *m = &self->m;
	struct edu *edu = &self->edu;

	ASSERT_EQ(0, edu_map(edu, m->addr, LEN, FILE_IOVA));
	fill(self->mem, len, FIRST_SEED);
	edu_copy(_metadata, edu, FILE_IOVA + at, MEM_IOVA, len);
	fill(self->want + at, len, FIRST_SEED);
	expect_all(_metadata, m, self->want);
	ASSERT_EQ(0, fsync(m->fd));
	expect_all(_metadata, m, self->want);

	memset(self->mem, 0, len);
	edu_copy(_metadata, edu, MEM_IOVA, FILE_IOVA + at - PAGE, len);
	expect_same(_metadata, "memory", self->want + at - PAGE, self->mem, len);
	ASSERT_EQ(0, edu_unmap(edu, LEN, FILE_IOVA));
	expect_all(_metadata, m, self->want);
}

/* The device has one page, and the file keeps its blocks. */
TEST_F(vfio, blocks_stay)
{
	struct dax_map *m = &self->m;

	ASSERT_EQ(0, edu_map(&self->edu, m->addr + PAGE, PAGE, FILE_IOVA));
	ASSERT_BUSY(ftruncate(m->fd, 0));
	ASSERT_BUSY(ftruncate(m->fd, PMD_SIZE));
	ASSERT_BUSY(open(m->path, O_RDWR | O_TRUNC));
	ASSERT_BUSY(fallocate(m->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PMD_SIZE));
	expect_all(_metadata, m, self->want);

	ASSERT_EQ(0, edu_unmap(&self->edu, PAGE, FILE_IOVA));
	ASSERT_OK(ftruncate(m->fd, 0));
}

/* It has blocks for the device that it had not before. */
TEST_F(vfio, hole)
{
	struct dax_map *m = &self->m;

	ASSERT_EQ(0, ftruncate(m->fd, 0));
	ASSERT_EQ(0, ftruncate(m->fd, LEN));
	touch(m);	/* maps what reads as zero */
	ASSERT_EQ(0, edu_map(&self->edu, m->addr, LEN, FILE_IOVA));
	memset(self->want, 0, LEN);
	fill(self->want + MB, PAGE, FIRST_SEED);
	fill(self->mem, PAGE, FIRST_SEED);
	edu_copy(_metadata, &self->edu, FILE_IOVA + MB, MEM_IOVA, PAGE);
	expect_all(_metadata, m, self->want);
}

/* The device has the file still that the program has closed and unmapped. */
TEST_F(vfio, closed)
{
	struct dax_map *m = &self->m;

	ASSERT_EQ(0, edu_map(&self->edu, m->addr, LEN, FILE_IOVA));
	ASSERT_EQ(0, munmap(m->addr, LEN));
	ASSERT_EQ(0, close(m->fd));
	fill(self->mem, PAGE, FIRST_SEED);
	edu_copy(_metadata, &self->edu, FILE_IOVA, MEM_IOVA, PAGE);
	fill(self->want, PAGE, FIRST_SEED);

	m->fd = open(m->path, O_RDWR);
	ASSERT_LE(0, m->fd);
	expect_file(_metadata, m, self->want);
	ASSERT_BUSY(ftruncate(m->fd, 0));
	edu_close(_metadata, &self->edu);
	ASSERT_OK(ftruncate(m->fd, 0));
}

TEST_F(vfio, killed)
{
	struct dax_map *m = &self->m;
	int ready[2], i;
	pid_t pid;
	char c;

	ASSERT_EQ(0, pipe(ready));
	edu_close(_metadata, &self->edu);
	pid = fork_child();
	if (!pid) {
		edu_open(_metadata, &self->edu);
		c = edu_map(&self->edu, m->addr, LEN, FILE_IOVA);
		write(ready[1], &c, 1);
		pause();
	}
	close(ready[1]);
	ASSERT_EQ(1, read(ready[0], &c, 1));
	ASSERT_EQ(0, c);
	ASSERT_BUSY(ftruncate(m->fd, 0));
	kill_child(_metadata, pid);
	for (i = 0; i < 100 && ftruncate(m->fd, 0); i++) {
		ASSERT_EQ(ETXTBSY, errno);
		usleep(100000);
	}
	ASSERT_GT(100, i);
}

/* Mappings without MAP_SYNC. */
TEST_F(vfio, refused)
{
	static const int flags[] = { MAP_SHARED, MAP_PRIVATE };
	struct dax_map *m = &self->m;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(flags); i++) {
		m->addr = dax_mmap(_metadata, m, m->addr, flags[i]);
		ASSERT_EQ(EOPNOTSUPP, edu_map(&self->edu, m->addr, LEN, FILE_IOVA));
		touch(m);
		ASSERT_EQ(EOPNOTSUPP, edu_map(&self->edu, m->addr, LEN, FILE_IOVA));
	}
	ASSERT_OK(ftruncate(m->fd, 0));
}

TEST_HARNESS_MAIN

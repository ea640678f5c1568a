// SPDX-License-Identifier: GPL-2.0
/*
 * Copy between a block device and the mapping of a file by direct I/O:
 *
 *	dax_copy --to-map|--from-map FILE BLOCKDEV OFFSET LENGTH CHUNK
 *
 * No buffer in between: the device is given the pages of the mapping, which are
 * the file itself if it is on a filesystem with DAX. --to-map makes the file.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static void die(const char *fmt, ...)
{
	int err = errno;
	va_list ap;

	fputs("dax_copy: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, err ? ": %s\n" : "\n", strerror(err));
	exit(1);
}

/* Sizes are plain numbers, or K, M, G. */
static size_t size_arg(const char *name, const char *arg)
{
	const char *units = "KMG", *unit;
	unsigned long long val;
	char *end;

	errno = 0;
	val = strtoull(arg, &end, 0);
	unit = *end ? strchr(units, *end) : NULL;
	if (unit) {
		val <<= 10 * (unit - units + 1);
		end++;
	}
	if (errno || end == arg || *end || *arg == '-')
		die("%s: not a size: %s", name, arg);
	return val;
}

int main(int argc, char **argv)
{
	size_t offset, length, chunk, done, want;
	const char *path, *disk;
	bool to_map;
	char *map;
	int fd, bd;
	ssize_t n;

	if (argc != 7 || (strcmp(argv[1], "--to-map") && strcmp(argv[1], "--from-map"))) {
		fputs("usage: dax_copy --to-map|--from-map FILE BLOCKDEV OFFSET LENGTH CHUNK\n",
		      stderr);
		return 2;
	}
	to_map = !strcmp(argv[1], "--to-map");
	path = argv[2];
	disk = argv[3];
	offset = size_arg("OFFSET", argv[4]);
	length = size_arg("LENGTH", argv[5]);
	chunk = size_arg("CHUNK", argv[6]);
	errno = 0;
	if (!length || !chunk)
		die("LENGTH and CHUNK must not be 0");

	bd = open(disk, (to_map ? O_RDONLY : O_WRONLY) | O_DIRECT);
	if (bd < 0)
		die("%s", disk);

	fd = open(path, to_map ? O_RDWR | O_CREAT | O_TRUNC : O_RDWR, 0600);
	if (fd < 0)
		die("%s", path);
	if (to_map) {
		errno = posix_fallocate(fd, 0, length);
		if (errno)
			die("%s: cannot allocate %zu bytes", path, length);
	} else {
		struct stat st;

		if (fstat(fd, &st))
			die("%s", path);
		if ((size_t)st.st_size < length)
			die("%s: shorter than %zu bytes", path, length);
	}
	map = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		die("%s: cannot map it", path);

	for (done = 0; done < length; done += n) {
		want = length - done < chunk ? length - done : chunk;
		if (to_map)
			n = pread(bd, map + done, want, offset + done);
		else
			n = pwrite(bd, map + done, want, offset + done);
		if (n < 0)
			die("%s: direct I/O of %zu bytes at %zu", disk, want, offset + done);
		if (!n) {
			errno = 0;
			die("%s: ends at %zu", disk, offset + done);
		}
	}

	if (to_map ? msync(map, length, MS_SYNC) : fsync(bd))
		die("%s: cannot write it back", to_map ? path : disk);
	return 0;
}

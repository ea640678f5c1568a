// SPDX-License-Identifier: GPL-2.0
/*
 * Hold pages of a file on DAX, or of device-dax, until SIGTERM:
 *
 *	dax_hold FILE LENGTH HOW
 *
 * Maps the file, fills it with "dax_hold" and says "holding". HOW says what it
 * keeps:
 *
 *	map	the mapping; at SIGUSR1 it reads a page of it, and says "SIGBUS" or
 *		"read"
 *	private	a private mapping, of which every other page is a copy; at SIGUSR1
 *		it reads one of the others, and then a copy
 *	open	the file, no longer mapped
 *	closed	nothing: the kernel alone remembers the pages
 *	unlinked the mapping, of a file without a name
 *	pin	a page in a pipe, and neither the mapping nor the file
 *	check	nothing at all: it compares instead, and exits
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#define PAGE	4096

static sigjmp_buf no_page;
static volatile sig_atomic_t reading;

/* A signal that comes without an access is the kernel's way to tell of the loss. */
static void sigbus(int sig)
{
	if (reading)
		siglongjmp(no_page, 1);
}

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void say(const char *what)
{
	puts(what);
	fflush(stdout);
}

static const char *try_to_read(char *addr)
{
	const char *found = "SIGBUS";

	if (!sigsetjmp(no_page, 1)) {
		reading = 1;
		found = *(volatile char *)addr == 'd' ? "read" : "read nonsense";
	}
	reading = 0;
	return found;
}

int main(int argc, char **argv)
{
	struct sigaction sa = { .sa_handler = sigbus };
	const char *how, *found;
	int fd, sig, pipefd[2];
	struct iovec iov;
	size_t len, i;
	sigset_t set;
	char *map;

	if (argc != 4) {
		fputs("usage: dax_hold FILE LENGTH HOW\n", stderr);
		return 2;
	}
	len = strtoul(argv[2], NULL, 0);
	how = argv[3];

	fd = open(argv[1], O_RDWR);
	if (fd < 0)
		die(argv[1]);
	map = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		die("mmap");
	if (!strcmp(how, "check")) {
		for (i = 0; i < len; i++)
			if (map[i] != "dax_hold"[i % 8])
				return 1;
		return 0;
	}
	for (i = 0; i < len; i++)
		map[i] = "dax_hold"[i % 8];

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGTERM);
	if (sigaction(SIGBUS, &sa, NULL) || sigprocmask(SIG_BLOCK, &set, NULL))
		die("signals");

	if (!strcmp(how, "pin")) {
		iov.iov_base = map;
		iov.iov_len = PAGE;
		if (pipe(pipefd) || vmsplice(pipefd[1], &iov, 1, 0) != PAGE)
			die("vmsplice");
	} else if (!strcmp(how, "unlinked")) {
		if (unlink(argv[1]))
			die("unlink");
	} else if (!strcmp(how, "private")) {
		munmap(map, len);
		map = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
		if (map == MAP_FAILED)
			die("mmap");
		for (i = 0; i < len; i += PAGE) {
			if (i / PAGE % 2)
				map[i] = 'd';
			else if (map[i] != 'd')
				return 1;
		}
	}
	if (!strcmp(how, "open") || !strcmp(how, "closed") || !strcmp(how, "pin"))
		munmap(map, len);
	if (strcmp(how, "open"))
		close(fd);
	say("holding");

	while (!sigwait(&set, &sig) && sig == SIGUSR1) {
		found = try_to_read(map);
		if (!strcmp(how, "private")) {
			printf("%s, copy ", found);
			found = try_to_read(map + PAGE);
		}
		say(found);
	}
	return 0;
}

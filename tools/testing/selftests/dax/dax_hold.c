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
 *	pin	a page in a pipe, and neither the mapping nor the file; at SIGUSR1 it
 *		reads it, and says "read"
 *	last	the same, of a file without a name, so that it has been the last to
 *		close it
 *	readpin	the same, without having filled or written to the file
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

static const char pattern[] = "dax_hold";

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

static void pin(int *pipefd, char *page)
{
	struct iovec iov = { page, PAGE };

	if (pipe(pipefd) || vmsplice(pipefd[1], &iov, 1, 0) != PAGE)
		die("vmsplice");
}

/* Read it, and keep the pin. */
static const char *read_pinned(int *pipefd)
{
	char buf[PAGE];
	int copy[2], i;

	if (pipe(copy) || tee(pipefd[0], copy[1], PAGE, 0) != PAGE ||
	    read(copy[0], buf, PAGE) != PAGE)
		die("tee");
	close(copy[0]);
	close(copy[1]);
	for (i = 0; i < PAGE; i++)
		if (buf[i] != pattern[i % 8])
			return "read nonsense";
	return "read";
}

int main(int argc, char **argv)
{
	struct sigaction sa = { .sa_handler = sigbus };
	int fd, sig, prot, pipefd[2] = { -1, -1 };
	const char *how, *found;
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
	prot = strcmp(how, "check") && strcmp(how, "readpin") ? PROT_WRITE : 0;
	map = mmap(NULL, len, PROT_READ | prot, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		die("mmap");
	for (i = 0; i < len; i++) {
		if (prot)
			map[i] = pattern[i % 8];
		else if (map[i] != pattern[i % 8])
			return 1;
	}
	if (!strcmp(how, "check"))
		return 0;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGTERM);
	if (sigaction(SIGBUS, &sa, NULL) || sigprocmask(SIG_BLOCK, &set, NULL))
		die("signals");

	if (!strcmp(how, "pin") || !strcmp(how, "last") || !strcmp(how, "readpin"))
		pin(pipefd, map);
	if (!strcmp(how, "unlinked") || !strcmp(how, "last")) {
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
	if (!strcmp(how, "open") || !strcmp(how, "closed") || pipefd[0] >= 0)
		munmap(map, len);
	if (strcmp(how, "open"))
		close(fd);
	say("holding");

	while (!sigwait(&set, &sig) && sig == SIGUSR1) {
		found = pipefd[0] >= 0 ? read_pinned(pipefd) : try_to_read(map);
		if (!strcmp(how, "private")) {
			printf("%s, copy ", found);
			found = try_to_read(map + PAGE);
		}
		say(found);
	}
	return 0;
}

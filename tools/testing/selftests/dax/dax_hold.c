// SPDX-License-Identifier: GPL-2.0
/*
 * Hold a mapping of a file on DAX, until SIGTERM:
 *
 *	dax_hold FILE LENGTH
 *
 * Maps the file, fills it with "dax_hold" and says "mapped"; says "SIGBUS" when
 * that signal comes to tell that the mapping was taken away. Touches nothing
 * after that, nor before: a fault could map it again.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

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

int main(int argc, char **argv)
{
	size_t len, i;
	sigset_t set;
	char *map;
	int fd;

	if (argc != 3) {
		fputs("usage: dax_hold FILE LENGTH\n", stderr);
		return 2;
	}
	len = strtoul(argv[2], NULL, 0);

	fd = open(argv[1], O_RDWR);
	if (fd < 0)
		die(argv[1]);
	map = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		die("mmap");
	for (i = 0; i < len; i++)
		map[i] = "dax_hold"[i % 8];

	sigemptyset(&set);
	sigaddset(&set, SIGBUS);
	sigaddset(&set, SIGTERM);
	if (sigprocmask(SIG_BLOCK, &set, NULL))
		die("sigprocmask");
	say("mapped");

	while (sigwaitinfo(&set, NULL) == SIGBUS)
		say("SIGBUS");
	return 0;
}

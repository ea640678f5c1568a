// SPDX-License-Identifier: GPL-2.0
/*
 * Hold a mapping of a file on DAX until it is taken away:
 *
 *	dax_hold FILE LENGTH SECONDS
 *
 * Maps the file, fills it with "dax_hold", says "mapped", and reads it over and
 * over. Exits with 0 on SIGBUS, with 3 if none came in that time.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void on_sigbus(int sig)
{
	static const char msg[] = "SIGBUS\n";

	(void)!write(STDOUT_FILENO, msg, sizeof(msg) - 1);
	_exit(0);
}

int main(int argc, char **argv)
{
	size_t len, i;
	time_t end;
	char *map;
	int fd;

	if (argc != 4) {
		fputs("usage: dax_hold FILE LENGTH SECONDS\n", stderr);
		return 2;
	}
	len = strtoul(argv[2], NULL, 0);
	end = time(NULL) + strtoul(argv[3], NULL, 0);

	fd = open(argv[1], O_RDWR);
	if (fd < 0)
		die(argv[1]);
	map = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		die("mmap");
	for (i = 0; i < len; i++)
		map[i] = "dax_hold"[i % 8];
	if (signal(SIGBUS, on_sigbus) == SIG_ERR)
		die("signal");
	puts("mapped");
	fflush(stdout);

	while (time(NULL) < end) {
		for (i = 0; i < len; i += 4096)
			(void)*(volatile char *)(map + i);
		usleep(10000);
	}
	return 3;
}

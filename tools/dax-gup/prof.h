/* SPDX-License-Identifier: GPL-2.0 */
/* prof_begin(name) ... prof_end(): a window for tools/dax-gup/profile. Without that, they do nothing. */
#ifndef PROF_H
#define PROF_H
#include <fcntl.h>
#include <stdio.h>
#include <termios.h>
#include <unistd.h>

static int prof_fd = -1;

/* The counting starts and ends where this is executed: none of the talking is counted. */
static __attribute__((noinline, noclone, unused)) void prof_mark(void)
{
	__asm__ volatile("nop" ::: "memory");
}

static void prof_go(void)
{
	char c;

	while (read(prof_fd, &c, 1) == 1 && c != '\n')
		;
}

static __attribute__((unused)) void prof_begin(const char *name)
{
	struct termios raw;

	if (prof_fd < 0) {
		prof_fd = open("/dev/ttyS1", O_RDWR | O_NOCTTY);
		if (prof_fd < 0)
			return;
		if (tcgetattr(prof_fd, &raw)) {
			close(prof_fd);
			prof_fd = -1;
			return;
		}
		cfmakeraw(&raw);
		tcsetattr(prof_fd, TCSANOW, &raw);
	}
	prof_mark();	/* mapped now, before it matters */
	dprintf(prof_fd, "begin %s %lx\n", name, (unsigned long)prof_mark);
	prof_go();
	prof_mark();
}

static __attribute__((unused)) void prof_end(void)
{
	prof_mark();
	if (prof_fd < 0)
		return;
	dprintf(prof_fd, "end\n");
	prof_go();
}
#endif

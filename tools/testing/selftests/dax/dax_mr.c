// SPDX-License-Identifier: GPL-2.0
/*
 * Register a mapping of a file on DAX, or of device-dax, with MAP_SYNC, for RDMA:
 *
 *	dax_mr DEVICE FILE LENGTH
 *
 * Says "holding" when DEVICE, of RDMA, has the memory region, or what did not work,
 * and exits at SIGTERM.
 */
#include <errno.h>
#include <fcntl.h>
#include <infiniband/verbs.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "dax_data.h"

static struct ibv_context *open_device(const char *name)
{
	struct ibv_device **list = ibv_get_device_list(NULL);
	int i;

	for (i = 0; list && list[i]; i++)
		if (!strcmp(ibv_get_device_name(list[i]), name))
			return ibv_open_device(list[i]);
	errno = ENODEV;
	return NULL;
}

int main(int argc, char **argv)
{
	struct ibv_context *context;
	struct ibv_pd *pd;
	sigset_t set;
	size_t len;
	char *map;
	int fd, sig;

	if (argc != 4) {
		fputs("usage: dax_mr DEVICE FILE LENGTH\n", stderr);
		return 2;
	}
	len = strtoul(argv[3], NULL, 0);

	fd = open(argv[2], O_RDWR);
	if (fd < 0)
		die(argv[2]);
	map = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED_VALIDATE | MAP_SYNC,
		   fd, 0);
	if (map == MAP_FAILED)
		die("mmap");
	context = open_device(argv[1]);
	if (!context)
		die(argv[1]);
	pd = ibv_alloc_pd(context);
	if (!pd)
		die("ibv_alloc_pd");
	if (!ibv_reg_mr(pd, map, len, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE))
		die("ibv_reg_mr");

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	say("holding");
	return sigwait(&set, &sig);
}

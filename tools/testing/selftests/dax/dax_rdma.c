// SPDX-License-Identifier: GPL-2.0
/*
 * A file on DAX, or memory, that a remote peer writes and reads by RDMA:
 *
 *	dax_rdma serve ADDRESS LENGTH HOW [FILE]
 *	dax_rdma put ADDRESS SIZE...
 *	dax_rdma check FILE LENGTH
 *
 * serve	maps FILE with MAP_SYNC, or anonymous memory, registers that, HOW being
 *		"pin" or "odp", on demand, and says "holding" when a peer can come. When
 *		the peer has gone, compares what is there with what the peer had to
 *		write, fsync()s, says "equal", and keeps all of it until a signal.
 * put		is the peer: fills the region from memory of its own, by an RDMA write
 *		of each SIZE, the last one again and again, and compares what an RDMA
 *		read of the same gives.
 * check	compares the same of the file, without a peer.
 *
 * The connection is by the RDMA CM, which is how iWARP has them.
 */
#include <errno.h>
#include <fcntl.h>
#include <rdma/rdma_verbs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "dax_data.h"

#define PORT	"7471"
#define SEED	7

/* What the peer is told as it connects. */
struct region {
	__u64 addr, len;
	__u32 rkey;
};

static char *memory(size_t len)
{
	char *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		die("memory");
	return p;
}

static void compare(const char *what, const char *got, const char *want, size_t len)
{
	size_t i = 0;

	if (!memcmp(got, want, len))
		return;
	while (got[i] == want[i])
		i++;
	fprintf(stderr, "%s differs at byte %zu of %zu\n", what, i, len);
	exit(1);
}

/* By read(), so that it does not matter what a mapping shows. */
static void check_file(int fd, size_t len, const char *want)
{
	char *got = memory(len);
	ssize_t n;
	size_t i;

	for (i = 0; i < len; i += n) {
		n = pread(fd, got + i, len - i, i);
		if (n <= 0)
			die("pread");
	}
	compare("the file", got, want, len);
	munmap(got, len);
}

static char *pattern(size_t len)
{
	char *p = memory(len);

	fill(p, len, SEED);
	return p;
}

static struct rdma_cm_id *endpoint(char *addr, int flags)
{
	struct ibv_qp_init_attr attr = {
		.cap = {
			.max_send_wr = 2,
			.max_recv_wr = 2,
			.max_send_sge = 1,
			.max_recv_sge = 1,
		},
		.sq_sig_all = 1,
		.qp_type = IBV_QPT_RC,
	};
	struct rdma_addrinfo hints = {
		.ai_flags = flags | RAI_NUMERICHOST,
		.ai_port_space = RDMA_PS_TCP,
	}, *info;
	struct rdma_cm_id *id;

	if (rdma_getaddrinfo(addr, PORT, &hints, &info))
		die("rdma_getaddrinfo");
	if (rdma_create_ep(&id, info, NULL, &attr))
		die("rdma_create_ep");
	return id;
}

static void serve(char *addr, size_t len, const char *how, const char *file)
{
	int access = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE;
	struct rdma_cm_id *listener = endpoint(addr, RAI_PASSIVE), *id;
	char *map, *want = pattern(len);
	struct region region = { .len = len };
	struct rdma_conn_param param = {
		.private_data = &region,
		.private_data_len = sizeof(region),
		.responder_resources = 1,
	};
	struct rdma_cm_event *event;
	struct ibv_mr *mr;
	int fd = -1;

	if (file) {
		fd = open(file, O_RDWR);
		if (fd < 0)
			die(file);
		map = mmap(NULL, len, PROT_READ | PROT_WRITE,
			   MAP_SHARED_VALIDATE | MAP_SYNC, fd, 0);
		if (map == MAP_FAILED)
			die("mmap");
	} else {
		map = memory(len);
	}
	if (!strcmp(how, "odp"))
		access |= IBV_ACCESS_ON_DEMAND;
	mr = ibv_reg_mr(listener->pd, map, len, access);
	if (!mr)
		die("ibv_reg_mr");
	region.addr = (unsigned long)map;
	region.rkey = mr->rkey;

	if (rdma_listen(listener, 0))
		die("rdma_listen");
	say("holding");
	if (rdma_get_request(listener, &id))
		die("rdma_get_request");
	if (rdma_accept(id, &param))
		die("rdma_accept");
	do {
		if (rdma_get_cm_event(id->channel, &event))
			die("rdma_get_cm_event");
	} while (event->event != RDMA_CM_EVENT_DISCONNECTED);
	/* The peer waits for the answer, which this sends. */
	rdma_ack_cm_event(event);
	rdma_destroy_ep(id);

	if (file) {
		check_file(fd, len, want);
		if (fsync(fd))
			die("fsync");
	} else {
		compare("the memory", map, want, len);
	}
	say("equal");
	pause();
}

static void wait_for(const char *what, struct rdma_cm_id *id)
{
	struct ibv_wc wc;

	if (rdma_get_send_comp(id, &wc) != 1)
		die(what);
	if (wc.status) {
		fprintf(stderr, "%s: %s\n", what, ibv_wc_status_str(wc.status));
		exit(1);
	}
}

static void put(char *addr, char **sizes)
{
	/* iWARP has what a read gives written by the peer. */
	int access = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE;
	struct rdma_cm_id *id = endpoint(addr, 0);
	struct rdma_conn_param param = { .initiator_depth = 1, .retry_count = 7 };
	struct ibv_mr *want_mr, *got_mr;
	struct region region;
	char *want, *got;
	size_t off, n;

	if (rdma_connect(id, &param))
		die("rdma_connect");
	memcpy(&region, id->event->param.conn.private_data, sizeof(region));
	want = pattern(region.len);
	got = memory(region.len);
	want_mr = ibv_reg_mr(id->pd, want, region.len, access);
	got_mr = ibv_reg_mr(id->pd, got, region.len, access);
	if (!want_mr || !got_mr)
		die("ibv_reg_mr");

	for (off = 0; off < region.len; off += n) {
		n = strtoul(*sizes, NULL, 0);
		if (!n || n > region.len - off)
			n = region.len - off;
		if (sizes[1])
			sizes++;
		if (rdma_post_write(id, NULL, want + off, n, want_mr, 0,
				    region.addr + off, region.rkey))
			die("rdma_post_write");
		wait_for("RDMA write", id);
		if (rdma_post_read(id, NULL, got + off, n, got_mr, 0,
				   region.addr + off, region.rkey))
			die("rdma_post_read");
		wait_for("RDMA read", id);
	}
	rdma_disconnect(id);
	compare("what is read back", got, want, region.len);
}

int main(int argc, char **argv)
{
	const char *what = argc > 3 ? argv[1] : "";
	size_t len;
	int fd;

	if (!strcmp(what, "serve") && (argc == 5 || argc == 6)) {
		serve(argv[2], strtoul(argv[3], NULL, 0), argv[4], argv[5]);
	} else if (!strcmp(what, "put")) {
		put(argv[2], argv + 3);
	} else if (!strcmp(what, "check") && argc == 4) {
		len = strtoul(argv[3], NULL, 0);
		fd = open(argv[2], O_RDONLY);
		if (fd < 0)
			die(argv[2]);
		check_file(fd, len, pattern(len));
	} else {
		fputs("usage: dax_rdma serve ADDRESS LENGTH pin|odp [FILE]\n"
		      "       dax_rdma put ADDRESS SIZE...\n"
		      "       dax_rdma check FILE LENGTH\n", stderr);
		return 2;
	}
	return 0;
}

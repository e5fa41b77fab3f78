/* A load generator for one iSCSI disk, on libiscsi's asynchronous API.
 *
 *   load URL randread|randwrite|seqread|seqwrite BLOCK_BYTES DEPTH SECONDS RANGE_BYTES [OPERATIONS]
 *
 * One session, DEPTH commands outstanding, all within the first RANGE_BYTES of the disk. OPERATIONS, if given and not 0, ends the
 * run after so many; sequential modes begin anew at the end of the range. Data written is incompressible and differs from
 * block to block. Prints one JSON line: operations per second, MB/s (10^6 bytes), latency percentiles in microseconds, the
 * client's own CPU seconds. Any failed command ends the run with status 1.
 *
 *   cc -O2 -o load load.c -liscsi
 */
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <time.h>

#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>

enum { MAX_DEPTH = 256, POOL = 8 << 20, SAMPLES = 1 << 22 };

struct slot {
	struct run *run;
	unsigned char *buf;
	struct scsi_iovec iov;
	double began;
};

struct run {
	struct iscsi_context *iscsi;
	int lun, writes, sequential, depth, in_flight;
	uint32_t block, sector;
	uint64_t blocks, next, done, limit;
	double until;
	uint64_t state;
	unsigned char *pool;
	uint32_t *samples;
	struct slot slots[MAX_DEPTH];
};

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void fail(struct run *run, const char *what)
{
	fprintf(stderr, "load: %s: %s\n", what, run->iscsi ? iscsi_get_error(run->iscsi) : strerror(errno));
	exit(1);
}

static uint64_t draw(struct run *run)
{
	uint64_t z = (run->state += 0x9e3779b97f4a7c15ULL);
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
	return z ^ (z >> 31);
}

static void start(struct slot *slot);

static void ended(struct iscsi_context *iscsi, int status, void *data, void *private)
{
	struct slot *slot = private;
	struct run *run = slot->run;
	(void)iscsi;
	if (status != SCSI_STATUS_GOOD)
		fail(run, "a command failed");
	run->samples[run->done++ % SAMPLES] = (uint32_t)((now() - slot->began) * 1e6);
	run->in_flight--;
	scsi_free_scsi_task(data);
	start(slot);
}

static void start(struct slot *slot)
{
	struct run *run = slot->run;
	struct scsi_task *task;
	uint64_t block, lba;

	slot->began = now();
	if (slot->began >= run->until || (run->limit && run->done + run->in_flight >= run->limit))
		return;
	block = run->sequential ? run->next++ % run->blocks : draw(run) % run->blocks;
	lba = block * (run->block / run->sector);
	if (run->writes) {
		/* Every block begins elsewhere in a pool of noise and bears a number of its own. */
		uint64_t at = draw(run) % (POOL - run->block) & ~4095ULL, number = draw(run);
		memcpy(run->pool + at, &number, sizeof number);
		slot->iov.iov_base = run->pool + at;
		slot->iov.iov_len = run->block;
		task = iscsi_write16_iov_task(run->iscsi, run->lun, lba, NULL, run->block, run->sector, 0, 0, 0, 0, 0,
					      ended, slot, &slot->iov, 1);
	} else {
		slot->iov.iov_base = slot->buf;
		slot->iov.iov_len = run->block;
		task = iscsi_read16_iov_task(run->iscsi, run->lun, lba, run->block, run->sector, 0, 0, 0, 0, 0, ended,
					     slot, &slot->iov, 1);
	}
	if (!task)
		fail(run, "cannot send a command");
	run->in_flight++;
}

static void connect_to(struct run *run, const char *url)
{
	struct iscsi_url *parsed;
	struct scsi_task *task;
	struct scsi_readcapacity16 *capacity;

	run->iscsi = iscsi_create_context("iqn.2026-01.example.tidegate:load");
	if (!run->iscsi)
		fail(run, "no context");
	parsed = iscsi_parse_full_url(run->iscsi, url);
	if (!parsed)
		fail(run, "cannot read the URL");
	iscsi_set_targetname(run->iscsi, parsed->target);
	iscsi_set_session_type(run->iscsi, ISCSI_SESSION_NORMAL);
	iscsi_set_header_digest(run->iscsi, ISCSI_HEADER_DIGEST_NONE);
	run->lun = parsed->lun;
	if (iscsi_full_connect_sync(run->iscsi, parsed->portal, run->lun))
		fail(run, "cannot connect");
	task = iscsi_readcapacity16_sync(run->iscsi, run->lun);
	if (!task || task->status != SCSI_STATUS_GOOD || !(capacity = scsi_datain_unmarshall(task)))
		fail(run, "cannot read the capacity");
	run->sector = capacity->block_length;
	if (capacity->returned_lba + 1 < run->blocks * (run->block / run->sector)) {
		fprintf(stderr, "load: the disk is smaller than the range asked for\n");
		exit(2);
	}
	scsi_free_scsi_task(task);
	iscsi_destroy_url(parsed);
}

static void serve(struct run *run)
{
	int i;
	for (i = 0; i < run->depth; i++)
		start(&run->slots[i]);
	while (run->in_flight > 0) {
		struct pollfd fd = { .fd = iscsi_get_fd(run->iscsi), .events = iscsi_which_events(run->iscsi) };
		if (poll(&fd, 1, 10000) == 0)
			fail(run, "no answer for ten seconds");
		if (iscsi_service(run->iscsi, fd.revents) < 0)
			fail(run, "the connection broke");
	}
}

static int by_value(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return (x > y) - (x < y);
}

static void report(struct run *run, double seconds)
{
	struct rusage u;
	uint64_t n = run->done < SAMPLES ? run->done : SAMPLES;
	double cpu;

	getrusage(RUSAGE_SELF, &u);
	cpu = u.ru_utime.tv_sec + u.ru_stime.tv_sec + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
	qsort(run->samples, n, sizeof *run->samples, by_value);
	printf("{\"operations\": %llu, \"seconds\": %.3f, \"iops\": %.1f, \"mb_s\": %.2f, \"p50_us\": %u, \"p99_us\": %u, "
	       "\"max_us\": %u, \"client_cpu\": %.2f}\n",
	       (unsigned long long)run->done, seconds, run->done / seconds, run->done / seconds * run->block / 1e6,
	       n ? run->samples[n / 2] : 0, n ? run->samples[n * 99 / 100] : 0, n ? run->samples[n - 1] : 0, cpu);
}

int main(int argc, char **argv)
{
	static struct run run;
	double began;
	size_t i;

	if (argc < 7) {
		fprintf(stderr, "usage: load URL randread|randwrite|seqread|seqwrite BLOCK_BYTES DEPTH SECONDS RANGE_BYTES "
				"[OPERATIONS]\n");
		return 2;
	}
	run.writes = strstr(argv[2], "write") != NULL;
	run.sequential = strncmp(argv[2], "seq", 3) == 0;
	run.block = strtoul(argv[3], NULL, 10);
	run.depth = atoi(argv[4]);
	run.blocks = run.block ? strtoull(argv[6], NULL, 10) / run.block : 0;
	run.limit = argc > 7 ? strtoull(argv[7], NULL, 10) : 0;
	if (run.block < 512 || run.block > POOL / 2 || run.depth < 1 || run.depth > MAX_DEPTH || run.blocks == 0) {
		fprintf(stderr, "load: block, depth or range out of bounds\n");
		return 2;
	}
	run.state = (uint64_t)(now() * 1e9);
	run.samples = calloc(SAMPLES, sizeof *run.samples);
	run.pool = aligned_alloc(4096, POOL);
	if (!run.samples || !run.pool)
		fail(&run, "no memory");
	for (i = 0; i < POOL / 8; i++)
		((uint64_t *)run.pool)[i] = draw(&run);
	for (i = 0; i < (size_t)run.depth; i++) {
		run.slots[i].run = &run;
		if (!(run.slots[i].buf = aligned_alloc(4096, (run.block + 4095) & ~4095u)))
			fail(&run, "no memory");
	}
	connect_to(&run, argv[1]);
	began = now();
	run.until = began + atof(argv[5]);
	serve(&run);
	report(&run, now() - began);
	iscsi_logout_sync(run.iscsi);
	iscsi_destroy_context(run.iscsi);
	return 0;
}

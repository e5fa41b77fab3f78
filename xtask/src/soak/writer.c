/*
 * A checking writer and a load generator on libiscsi's C API.
 *
 *   writer write  URL DIR SEED SECONDS          tagged writes; SECONDS 0: until the connection is lost
 *   writer insist URL DIR SEED SECONDS RATE     the same at RATE bytes per second (0: as fast as it goes); writes that are
 *                                               refused for want of room are counted, and must never be on the disk
 *   writer verify URL DIR SEED                  every block is what was acknowledged, or was on its way
 *   writer prefix URL DIR SEED [STATE]          the disk is a prefix of the order of writes, and holds all that the
 *                                               older copy STATE of the state says is acknowledged
 *   writer load   URL MODE BYTES DEPTH SECONDS SPAN   MODE: randread randwrite seqread seqwrite; SECONDS 0: SPAN once
 *   writer raw   FILE MODE BYTES DEPTH SECONDS SPAN   the same on a file, O_DIRECT; MODE with suffix -sync: O_DSYNC
 *
 * Status: 0 well, 1 the disk is wrong, 2 the call or the machine is wrong, 3 the connection was lost.
 *
 * DIR holds two files. `state`: for each block the number of its last acknowledged write and of the one on its way.
 * Writes in flight never overlap, so a block has at most one on its way, and may hold nothing but these two.
 * `history`: every issue and acknowledgement in its order. Both survive this program, which nobody kills.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>

enum { WRONG = 1, BROKEN = 2, LOST = 3 };
enum { BLOCK = 4096, BLOCKS = 16384, EXTENT = 16, DEPTH = 16 };
#define MAGIC UINT64_C(0x7469646567617465)

static void die(int status, const char *what, const char *why)
{
	fprintf(stderr, "writer: %s: %s\n", what, why);
	exit(status);
}

static uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* SplitMix64: chance from a seed. */
static uint64_t mix(uint64_t *state)
{
	uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

static void *allocate(size_t bytes)
{
	void *p = NULL;
	if (posix_memalign(&p, 4096, bytes) != 0)
		die(BROKEN, "memory", "there is not enough");
	return p;
}

/* ---------------------------------------------------------------- sessions */

struct session {
	struct iscsi_context *iscsi;
	int lun;
	uint32_t sector;
	uint64_t bytes;
};

static struct session connect_to(const char *text)
{
	struct session s = {0};
	s.iscsi = iscsi_create_context("iqn.2026-11.org.tidegate:writer");
	if (!s.iscsi)
		die(BROKEN, "libiscsi", "no context");
	struct iscsi_url *url = iscsi_parse_full_url(s.iscsi, text);
	if (!url)
		die(BROKEN, text, iscsi_get_error(s.iscsi));
	iscsi_set_targetname(s.iscsi, url->target);
	iscsi_set_session_type(s.iscsi, ISCSI_SESSION_NORMAL);
	iscsi_set_header_digest(s.iscsi, ISCSI_HEADER_DIGEST_NONE);
	/* A lost session must be seen, not mended behind our back. */
	iscsi_set_noautoreconnect(s.iscsi, 1);
	s.lun = url->lun;
	if (iscsi_full_connect_sync(s.iscsi, url->portal, url->lun) != 0)
		die(LOST, text, iscsi_get_error(s.iscsi));
	iscsi_destroy_url(url);
	struct scsi_task *task = iscsi_readcapacity16_sync(s.iscsi, s.lun);
	if (!task || task->status != SCSI_STATUS_GOOD)
		die(LOST, "READ CAPACITY(16)", iscsi_get_error(s.iscsi));
	struct scsi_readcapacity16 *capacity = scsi_datain_unmarshall(task);
	if (!capacity)
		die(WRONG, "READ CAPACITY(16)", "the answer is malformed");
	s.sector = capacity->block_length;
	s.bytes = (capacity->returned_lba + 1) * capacity->block_length;
	scsi_free_scsi_task(task);
	return s;
}

/* Waits for the socket and lets libiscsi work; false when the connection is gone. */
static bool turn(struct session *s, int timeout_ms)
{
	struct pollfd p = {.fd = iscsi_get_fd(s->iscsi), .events = (short)iscsi_which_events(s->iscsi)};
	int n = poll(&p, 1, timeout_ms);
	if (n < 0 && errno != EINTR)
		die(BROKEN, "poll", strerror(errno));
	return n <= 0 || iscsi_service(s->iscsi, p.revents) == 0;
}

/* ---------------------------------------------------------- checked blocks */

struct entry {
	uint64_t acked, pending;
};

struct state {
	uint64_t next;
	struct entry blocks[BLOCKS];
};

enum kind { ISSUED = 1, ACKED = 2, DEAD = 3 };

struct record {
	uint64_t seq;
	uint32_t block;
	uint16_t count, kind;
};

static struct state *state;
static FILE *history;

static void open_state(const char *dir)
{
	char path[4096];
	snprintf(path, sizeof path, "%s/state", dir);
	int fd = open(path, O_RDWR | O_CREAT, 0600);
	if (fd < 0 || ftruncate(fd, sizeof *state) != 0)
		die(BROKEN, path, strerror(errno));
	state = mmap(NULL, sizeof *state, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (state == MAP_FAILED)
		die(BROKEN, path, strerror(errno));
	close(fd);
	snprintf(path, sizeof path, "%s/history", dir);
	history = fopen(path, "a+b");
	if (!history)
		die(BROKEN, path, strerror(errno));
}

static void note(enum kind kind, uint64_t seq, uint32_t block, unsigned count)
{
	struct record r = {seq, block, (uint16_t)count, (uint16_t)kind};
	if (fwrite(&r, sizeof r, 1, history) != 1)
		die(BROKEN, "history", strerror(errno));
}

/* A block's bytes are a function of who it is: nothing torn, misplaced or older can look like it. */
static void fill(uint64_t *words, uint64_t seed, uint64_t block, uint64_t seq)
{
	uint64_t chance = seed ^ (block << 40) ^ (seq * UINT64_C(0xd6e8feb86659fd93));
	words[0] = MAGIC ^ seed;
	words[1] = block;
	words[2] = seq;
	for (size_t i = 3; i < BLOCK / 8; i++)
		words[i] = mix(&chance);
}

/* Which write a block holds: 0 never written, UINT64_MAX not one of ours or torn. */
static uint64_t identify(const uint64_t *words, uint64_t seed, uint64_t block)
{
	static const uint64_t zeros[BLOCK / 8];
	uint64_t expected[BLOCK / 8];
	if (memcmp(words, zeros, BLOCK) == 0)
		return 0;
	fill(expected, seed, block, words[2]);
	return memcmp(words, expected, BLOCK) == 0 ? words[2] : UINT64_MAX;
}

/* Reads all blocks and tells of each which write it holds. */
static void read_blocks(struct session *s, uint64_t seed, uint64_t *seen)
{
	enum { AT_ONCE = 64 };
	for (uint32_t b = 0; b < BLOCKS; b += AT_ONCE) {
		uint64_t lba = (uint64_t)b * BLOCK / s->sector;
		struct scsi_task *task =
			iscsi_read16_sync(s->iscsi, s->lun, lba, AT_ONCE * BLOCK, (int)s->sector, 0, 0, 0, 0, 0);
		if (!task || task->status != SCSI_STATUS_GOOD)
			die(task && task->status != SCSI_STATUS_CANCELLED ? WRONG : LOST, "READ(16)",
			    iscsi_get_error(s->iscsi));
		if (task->datain.size != AT_ONCE * BLOCK)
			die(WRONG, "READ(16)", "the answer is short");
		for (uint32_t i = 0; i < AT_ONCE; i++) {
			uint64_t words[BLOCK / 8];
			memcpy(words, task->datain.data + (size_t)i * BLOCK, BLOCK);
			seen[b + i] = identify(words, seed, b + i);
		}
		scsi_free_scsi_task(task);
	}
}

struct flight {
	uint64_t seq;
	uint32_t block;
	unsigned count;
	bool busy;
	uint64_t start;
	unsigned char *data;
};

static struct flight flights[DEPTH];
static unsigned in_flight;
static bool lost;
static uint64_t acknowledged, acknowledged_bytes;

/* How an insisting writer fared: answers TASK SET FULL, and answers that there is no space, with the moments of the first. */
static struct {
	bool on;
	uint64_t start, longest, full, no_space, first_full, first_no_space;
} insist;

static bool is_no_space(int status, const struct scsi_task *task)
{
	return status == SCSI_STATUS_CHECK_CONDITION && task->sense.key == SCSI_SENSE_DATA_PROTECTION &&
	       task->sense.ascq == 0x2707;
}

/* A write that was refused was not done: nothing but its predecessor may be found in its place, now and later. */
static void refused(const struct flight *f, bool for_good)
{
	uint64_t *n = for_good ? &insist.no_space : &insist.full;
	uint64_t *first = for_good ? &insist.first_no_space : &insist.first_full;
	if ((*n)++ == 0)
		*first = now_ns();
	for (uint32_t b = f->block; b < f->block + f->count; b++) {
		state->blocks[b].pending = 0;
		note(DEAD, f->seq, b, 1);
	}
}

static void written(struct iscsi_context *iscsi, int status, void *command, void *own)
{
	struct flight *f = own;
	uint64_t took = now_ns() - f->start;
	bool no_space = is_no_space(status, command);
	f->busy = false;
	in_flight--;
	if (took > insist.longest)
		insist.longest = took;
	if (status == SCSI_STATUS_CANCELLED || status == SCSI_STATUS_TIMEOUT || status == SCSI_STATUS_ERROR) {
		lost = true;
	} else if (insist.on && (status == SCSI_STATUS_TASK_SET_FULL || no_space)) {
		refused(f, no_space);
	} else if (status != SCSI_STATUS_GOOD) {
		die(WRONG, "WRITE(16)", iscsi_get_error(iscsi));
	} else {
		for (uint32_t b = f->block; b < f->block + f->count; b++)
			state->blocks[b] = (struct entry){.acked = f->seq};
		note(ACKED, f->seq, f->block, f->count);
		acknowledged++;
		acknowledged_bytes += (uint64_t)f->count * BLOCK;
	}
	scsi_free_scsi_task(command);
}

static void issue(struct session *s, struct flight *f, uint64_t seed, uint64_t *chance)
{
	f->count = 1 + (mix(chance) & 1 ? 0 : (unsigned)(mix(chance) % EXTENT));
	f->block = (uint32_t)(mix(chance) % (BLOCKS - f->count + 1));
	for (unsigned i = 0; i < DEPTH; i++)
		if (flights[i].busy && flights[i].block < f->block + f->count &&
		    f->block < flights[i].block + flights[i].count)
			return; /* it would overlap: the next call rolls the dice again */
	f->seq = ++state->next;
	f->start = now_ns();
	for (unsigned i = 0; i < f->count; i++) {
		state->blocks[f->block + i].pending = f->seq;
		fill((uint64_t *)(f->data + (size_t)i * BLOCK), seed, f->block + i, f->seq);
	}
	note(ISSUED, f->seq, f->block, f->count);
	f->busy = true;
	in_flight++;
	uint64_t lba = (uint64_t)f->block * BLOCK / s->sector;
	if (!iscsi_write16_task(s->iscsi, s->lun, lba, f->data, f->count * BLOCK, (int)s->sector, 0, 0, 0, 0, 0,
				written, f))
		lost = true;
}

/* Whether as much was issued as the rate allows by now. */
static bool is_ahead(uint64_t issued, double rate)
{
	return rate > 0 && (double)issued > (double)(now_ns() - insist.start) / 1e9 * rate;
}

static int write_tagged(const char *url, const char *dir, uint64_t seed, double seconds, double rate)
{
	uint64_t issued = 0;
	open_state(dir);
	struct session s = connect_to(url);
	if (s.bytes < (uint64_t)BLOCKS * BLOCK)
		die(BROKEN, url, "the disk is smaller than 64 MiB");
	for (unsigned i = 0; i < DEPTH; i++)
		flights[i].data = allocate((size_t)EXTENT * BLOCK);
	insist.start = now_ns();
	uint64_t chance = seed ^ state->next, end = insist.start + (uint64_t)(seconds * 1e9);
	while (!lost) {
		bool more = seconds == 0 || now_ns() < end;
		if (!more && in_flight == 0)
			break;
		for (unsigned i = 0; more && i < DEPTH && !lost; i++)
			if (!flights[i].busy && !is_ahead(issued, rate)) {
				issue(&s, &flights[i], seed, &chance);
				if (flights[i].busy)
					issued += (uint64_t)flights[i].count * BLOCK;
			}
		if (!turn(&s, rate > 0 ? 5 : 100))
			lost = true;
	}
	if (fclose(history) != 0)
		die(BROKEN, "history", strerror(errno));
	printf("{\"acknowledged\": %" PRIu64 ", \"bytes\": %" PRIu64 ", \"unanswered\": %u, \"longest_ms\": %" PRIu64
	       ", \"full\": %" PRIu64 ", \"no_space\": %" PRIu64 ", \"first_full_ms\": %" PRIu64
	       ", \"first_no_space_ms\": %" PRIu64 "}\n",
	       acknowledged, acknowledged_bytes, in_flight, insist.longest / 1000000, insist.full, insist.no_space,
	       insist.full ? (insist.first_full - insist.start) / 1000000 : 0,
	       insist.no_space ? (insist.first_no_space - insist.start) / 1000000 : 0);
	return lost ? LOST : 0;
}

static int verify(const char *url, const char *dir, uint64_t seed)
{
	static uint64_t seen[BLOCKS];
	unsigned wrong = 0, arrived = 0, written_blocks = 0;
	open_state(dir);
	struct session s = connect_to(url);
	read_blocks(&s, seed, seen);
	for (uint32_t b = 0; b < BLOCKS; b++) {
		struct entry *e = &state->blocks[b];
		if (seen[b] != e->acked && (e->pending == 0 || seen[b] != e->pending)) {
			if (wrong++ < 10)
				fprintf(stderr, "block %u: acknowledged %" PRIu64 ", on its way %" PRIu64 ", found %s%" PRIu64 "\n", b,
					e->acked, e->pending, seen[b] == UINT64_MAX ? "torn or foreign " : "", seen[b]);
			continue;
		}
		if (e->pending && seen[b] == e->pending) {
			arrived++;
			note(ACKED, e->pending, b, 1);
		} else if (e->pending) {
			/* It was not there after a restart, so it must never come up again. */
			note(DEAD, e->pending, b, 1);
		}
		*e = (struct entry){.acked = seen[b]};
		written_blocks += seen[b] != 0;
	}
	if (fclose(history) != 0)
		die(BROKEN, "history", strerror(errno));
	printf("{\"written\": %u, \"arrived\": %u, \"wrong\": %u}\n", written_blocks, arrived, wrong);
	return wrong ? WRONG : 0;
}

/*
 * A prefix: if a write is there, so is every write that was acknowledged before that one was issued. (Writes that were in
 * flight together have no order.) Dead writes are not there.
 */
static int prefix(const char *url, const char *dir, uint64_t seed, const char *floor_path)
{
	static struct state floor;
	static uint64_t seen[BLOCKS];
	unsigned wrong = 0;
	size_t last = 0, at = 0;
	uint64_t newest = 0, kept = 0;
	struct record r;
	open_state(dir);
	struct session s = connect_to(url);
	read_blocks(&s, seed, seen);
	for (uint32_t b = 0; b < BLOCKS; b++) {
		if (seen[b] == UINT64_MAX && wrong++ < 10)
			fprintf(stderr, "block %u is torn or foreign\n", b);
		else if (seen[b] != UINT64_MAX && seen[b] > newest)
			newest = seen[b];
	}
	FILE *f = floor_path ? fopen(floor_path, "rb") : NULL;
	if (floor_path && (!f || fread(&floor, sizeof floor, 1, f) != 1))
		die(BROKEN, floor_path, "cannot be read");
	for (uint32_t b = 0; b < BLOCKS; b++)
		if (seen[b] < floor.blocks[b].acked && wrong++ < 10)
			fprintf(stderr, "block %u: acknowledged write %" PRIu64 " is lost (found %" PRIu64 ")\n", b,
				floor.blocks[b].acked, seen[b]);
	rewind(history);
	for (at = 0; fread(&r, sizeof r, 1, history) == 1; at++)
		for (uint32_t b = r.block; b < r.block + r.count; b++) {
			if (seen[b] != r.seq)
				continue;
			if (r.kind == ISSUED)
				last = at;
			if (r.kind == DEAD && wrong++ < 10)
				fprintf(stderr, "block %u: write %" PRIu64 " rose from the dead\n", b, r.seq);
		}
	rewind(history);
	for (at = 0; at < last && fread(&r, sizeof r, 1, history) == 1; at++) {
		if (r.kind != ACKED)
			continue;
		kept++;
		for (uint32_t b = r.block; b < r.block + r.count; b++)
			if (seen[b] < r.seq && wrong++ < 10)
				fprintf(stderr, "block %u: write %" PRIu64 " is missing, a later one is there (found %" PRIu64 ")\n", b,
					r.seq, seen[b]);
	}
	printf("{\"newest\": %" PRIu64 ", \"issued\": %" PRIu64 ", \"kept\": %" PRIu64 ", \"wrong\": %u}\n", newest,
	       state->next, kept, wrong);
	return wrong ? WRONG : 0;
}

/* -------------------------------------------------------------------- load */

/* Latencies: 32 steps to each power of two, so within 3 %. */
enum { STEPS = 32, LEVELS = 40 };

struct tally {
	uint64_t latency[STEPS * LEVELS];
	uint64_t ios;
};

static void count(struct tally *t, uint64_t ns)
{
	unsigned level = 0;
	while ((ns >> level) >= 2 * STEPS)
		level++;
	size_t at = level * STEPS + (ns >> level);
	t->latency[at < STEPS * LEVELS ? at : STEPS * LEVELS - 1]++;
	t->ios++;
}

static double percentile_us(const struct tally *t, double part)
{
	uint64_t rest = (uint64_t)((double)t->ios * part);
	for (size_t at = 0; at < STEPS * LEVELS; at++) {
		if (t->latency[at] > rest) {
			size_t level = at < 2 * STEPS ? 0 : at / STEPS - 1;
			return (double)((uint64_t)(at - level * STEPS) << level) / 1e3;
		}
		rest -= t->latency[at];
	}
	return 0;
}

static struct load {
	struct session s;
	struct tally tally;
	uint64_t span, next, end, chance;
	uint32_t bytes;
	unsigned flying;
	bool random, writes, once;
	unsigned char *noise; /* incompressible */
} load;

enum { NOISE = 32 << 20 };

struct slot {
	uint64_t start;
	unsigned char *data;
	struct scsi_iovec iov;
};

static bool next_offset(uint64_t *offset)
{
	uint64_t places = load.span / load.bytes;
	if (load.once ? load.next >= places : now_ns() >= load.end)
		return false;
	*offset = (load.random ? mix(&load.chance) % places : load.next++ % places) * load.bytes;
	return true;
}

static void send_one(struct slot *slot);

static void answered(struct iscsi_context *iscsi, int status, void *command, void *own)
{
	struct slot *slot = own;
	if (status != SCSI_STATUS_GOOD)
		die(status == SCSI_STATUS_CANCELLED ? LOST : WRONG, "the load", iscsi_get_error(iscsi));
	count(&load.tally, now_ns() - slot->start);
	scsi_free_scsi_task(command);
	load.flying--;
	send_one(slot);
}

static void send_one(struct slot *slot)
{
	uint64_t offset;
	struct session *s = &load.s;
	if (!next_offset(&offset))
		return;
	slot->start = now_ns();
	struct scsi_task *task;
	if (load.writes) {
		uint64_t at = mix(&load.chance) % (NOISE - load.bytes) & ~UINT64_C(511);
		task = iscsi_write16_task(s->iscsi, s->lun, offset / s->sector, load.noise + at, load.bytes,
					  (int)s->sector, 0, 0, 0, 0, 0, answered, slot);
	} else {
		slot->iov = (struct scsi_iovec){.iov_base = slot->data, .iov_len = load.bytes};
		task = iscsi_read16_iov_task(s->iscsi, s->lun, offset / s->sector, load.bytes, (int)s->sector, 0, 0, 0, 0,
					     0, answered, slot, &slot->iov, 1);
	}
	if (!task)
		die(LOST, "the load", iscsi_get_error(s->iscsi));
	load.flying++;
}

static void report(const struct tally *t, double seconds, uint32_t bytes)
{
	double iops = (double)t->ios / seconds;
	printf("{\"ios\": %" PRIu64 ", \"seconds\": %.3f, \"iops\": %.1f, \"mb_per_s\": %.2f, \"p50_us\": %.1f, "
	       "\"p99_us\": %.1f}\n",
	       t->ios, seconds, iops, iops * bytes / 1e6, percentile_us(t, 0.50), percentile_us(t, 0.99));
}

static void make_noise(void)
{
	load.noise = allocate(NOISE);
	load.chance = now_ns();
	for (size_t i = 0; i < NOISE / 8; i++)
		((uint64_t *)load.noise)[i] = mix(&load.chance);
}

static void parse_load(char **words)
{
	load.random = strncmp(words[0], "rand", 4) == 0;
	load.writes = strstr(words[0], "write") != NULL;
	load.bytes = (uint32_t)strtoul(words[1], NULL, 10);
	load.span = strtoull(words[4], NULL, 10);
	load.once = strtod(words[3], NULL) == 0;
	if (load.bytes < 512 || load.bytes > NOISE / 2 || load.span < load.bytes)
		die(BROKEN, words[1], "no usable size");
	make_noise();
	load.end = now_ns() + (uint64_t)(strtod(words[3], NULL) * 1e9);
}

static int run_load(char **words)
{
	load.s = connect_to(words[0]);
	unsigned depth = (unsigned)strtoul(words[3], NULL, 10);
	parse_load(words + 1);
	if (load.span > load.s.bytes)
		die(BROKEN, words[5], "the disk is smaller");
	struct slot *slots = calloc(depth, sizeof *slots);
	if (!slots)
		die(BROKEN, "memory", strerror(errno));
	uint64_t start = now_ns();
	for (unsigned i = 0; i < depth; i++) {
		slots[i].data = allocate(load.bytes);
		send_one(&slots[i]);
	}
	while (load.flying)
		if (!turn(&load.s, 1000))
			die(LOST, "the load", iscsi_get_error(load.s.iscsi));
	report(&load.tally, (double)(now_ns() - start) / 1e9, load.bytes);
	iscsi_logout_sync(load.s.iscsi);
	return 0;
}

/* ------------------------------------------------------- the disk underneath */

static int raw_fd;
static pthread_mutex_t raw_lock = PTHREAD_MUTEX_INITIALIZER;

static void *raw_worker(void *unused)
{
	unsigned char *data = allocate(load.bytes);
	uint64_t offset;
	(void)unused;
	memcpy(data, load.noise, load.bytes);
	for (;;) {
		pthread_mutex_lock(&raw_lock);
		bool more = next_offset(&offset);
		pthread_mutex_unlock(&raw_lock);
		if (!more)
			return NULL;
		uint64_t start = now_ns();
		ssize_t n = load.writes ? pwrite(raw_fd, data, load.bytes, (off_t)offset)
					: pread(raw_fd, data, load.bytes, (off_t)offset);
		if (n != (ssize_t)load.bytes)
			die(BROKEN, "the raw disk", n < 0 ? strerror(errno) : "short");
		pthread_mutex_lock(&raw_lock);
		count(&load.tally, now_ns() - start);
		pthread_mutex_unlock(&raw_lock);
	}
}

static int run_raw(char **words)
{
	unsigned depth = (unsigned)strtoul(words[3], NULL, 10);
	pthread_t threads[256];
	if (depth == 0 || depth > 256)
		die(BROKEN, words[3], "1 to 256 at a time");
	int sync = strstr(words[1], "-sync") ? O_DSYNC : 0;
	parse_load(words + 1);
	raw_fd = open(words[0], O_RDWR | O_CREAT | O_DIRECT | sync, 0600);
	if (raw_fd < 0)
		die(BROKEN, words[0], strerror(errno));
	uint64_t start = now_ns();
	for (unsigned i = 0; i < depth; i++)
		if (pthread_create(&threads[i], NULL, raw_worker, NULL) != 0)
			die(BROKEN, "threads", "there are not enough");
	for (unsigned i = 0; i < depth; i++)
		pthread_join(threads[i], NULL);
	report(&load.tally, (double)(now_ns() - start) / 1e9, load.bytes);
	return 0;
}

int main(int argc, char **argv)
{
	const char *verb = argc > 1 ? argv[1] : "";
	if (strcmp(verb, "write") == 0 && argc == 6)
		return write_tagged(argv[2], argv[3], strtoull(argv[4], NULL, 10), strtod(argv[5], NULL), 0);
	if (strcmp(verb, "insist") == 0 && argc == 7) {
		insist.on = true;
		return write_tagged(argv[2], argv[3], strtoull(argv[4], NULL, 10), strtod(argv[5], NULL),
				    strtod(argv[6], NULL));
	}
	if (strcmp(verb, "verify") == 0 && argc == 5)
		return verify(argv[2], argv[3], strtoull(argv[4], NULL, 10));
	if (strcmp(verb, "prefix") == 0 && (argc == 5 || argc == 6))
		return prefix(argv[2], argv[3], strtoull(argv[4], NULL, 10), argv[5]);
	if (strcmp(verb, "load") == 0 && argc == 8)
		return run_load(argv + 2);
	if (strcmp(verb, "raw") == 0 && argc == 8)
		return run_raw(argv + 2);
	fprintf(stderr, "writer: see the head of writer.c for its words\n");
	return BROKEN;
}

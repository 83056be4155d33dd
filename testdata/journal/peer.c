/*
 * A program in C that sends or receives beside those in Go that die:
 *
 *   peer send MSQID TEXTS SIZE FIRST STEP
 *   peer receive MSQID TEXTS SIZE LOG NUMBER
 *
 * It ends with SIGTERM. TEXTS is the file that texts are pieces of, SIZE the length of the
 * longest. A message's type is its number plus 1. A receiver appends the records of
 * fault_journal_victim_test.go to LOG, as the process with the NUMBER; a sender prints how
 * many messages it has sent.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/time.h>
#include <unistd.h>

enum { READ = 3, TORN = 6 };

static volatile sig_atomic_t stopped;

static void stop(int sig) { (void)sig; stopped = 1; }
static void wake(int sig) { (void)sig; }

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static unsigned char *texts;
static uint32_t size;

static unsigned char *piece(uint32_t id, uint32_t *n)
{
	uint32_t h = id * 2654435761u;
	uint32_t limits[] = {16, 64, 1024, size};

	*n = (h >> 3) % (limits[id % 4] + 1);
	if (*n > size || id % 97 == 0)
		*n = size;
	return texts + (h >> 16);
}

static void load(const char *path)
{
	FILE *f = fopen(path, "rb");
	size_t all = (1 << 16) + size;

	texts = malloc(all);
	if (!f || !texts || fread(texts, 1, all, f) != all)
		fail(path);
	fclose(f);
}

struct message {
	long mtype;
	unsigned char text[];
};

static void send_all(int msqid, uint32_t first, uint32_t step)
{
	struct message *m = malloc(sizeof *m + size);
	unsigned long sent = 0;

	for (uint32_t id = first; !stopped; id += step) {
		uint32_t n;
		unsigned char *text = piece(id, &n);

		m->mtype = (long)id + 1;
		memcpy(m->text, text, n);
		while (msgsnd(msqid, m, n, IPC_NOWAIT) < 0) {
			if (errno != EAGAIN && errno != EINTR)
				fail("msgsnd");
			if (stopped)
				goto done;
			usleep(100);
		}
		sent++;
	}
done:
	printf("%lu\n", sent);
}

static void record(int log, uint32_t what, uint32_t id, uint32_t number)
{
	uint32_t record[4] = {what, id, 0, number};

	if (write(log, record, sizeof record) != sizeof record)
		fail("write");
}

static void receive_all(int msqid, const char *path, uint32_t number)
{
	struct message *m = malloc(sizeof *m + size);
	struct itimerval often = {{0, 5000}, {0, 5000}};
	int log = open(path, O_WRONLY | O_APPEND);

	if (log < 0)
		fail(path);
	setitimer(ITIMER_REAL, &often, NULL); /* SIGTERM may come just before msgrcv */
	while (!stopped) {
		ssize_t got = msgrcv(msqid, m, size, 0, 0);
		uint32_t id, n;
		unsigned char *text;

		if (got < 0) {
			if (errno == EINTR)
				continue;
			fail("msgrcv");
		}
		id = m->mtype - 1;
		record(log, READ, id, number);
		text = piece(id, &n);
		if ((uint32_t)got != n || memcmp(m->text, text, n)) {
			fprintf(stderr, "message %u: %zd bytes, want %u\n", id, got, n);
			record(log, TORN, id, number);
		}
		usleep(300); /* the others are to get something, too */
	}
}

int main(int argc, char **argv)
{
	struct sigaction act = {.sa_handler = stop}; /* without SA_RESTART */

	if (argc != 7)
		return 2;
	sigaction(SIGTERM, &act, NULL);
	act.sa_handler = wake;
	sigaction(SIGALRM, &act, NULL);
	size = strtoul(argv[4], NULL, 10);
	load(argv[3]);
	printf("begins\n");
	fflush(stdout);
	if (!strcmp(argv[1], "send"))
		send_all(atoi(argv[2]), strtoul(argv[5], NULL, 10), strtoul(argv[6], NULL, 10));
	else
		receive_all(atoi(argv[2]), argv[5], strtoul(argv[6], NULL, 10));
	return 0;
}

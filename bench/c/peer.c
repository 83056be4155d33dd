/*
 * The C baseline: the roles that a peer of a benchmark plays, over System V
 * message queues, by the calls that every C program uses. The Go peers play the
 * same roles (internal/peer) and speak the same protocol with the harness:
 *
 *   peer ROLE key=value...
 *
 * writes "ready", waits for a line on standard input, plays its role, and writes
 * "figure NAME VALUE" and "sample NAME VALUE..." lines, "done" at the end.
 * hot=1 polls with IPC_NOWAIT; without it msgsnd and msgrcv block.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>

enum { MAX_TEXT = 8192, SECOND = 1000000000, WARM_UP = 200, BATCH = 64 };

/* What stands at the start of each text, of 16 bytes or more. */
struct head {
	long stamp; /* CLOCK_MONOTONIC in ns, or a number that counts up */
	long sender;
};

struct message {
	long mtype;
	union {
		struct head head;
		char text[MAX_TEXT];
	};
};

static struct message message = {.mtype = 1};
static char **args;
static int flags; /* 0, or IPC_NOWAIT: poll hot */

static void fail(const char *what)
{
	/* A queue that is gone is how the harness ends a peer. */
	if (errno == EIDRM || errno == EINVAL)
		exit(0);
	perror(what);
	exit(1);
}

static long arg(const char *name, long otherwise)
{
	size_t n = strlen(name);
	for (char **a = args; *a; a++)
		if (strncmp(*a, name, n) == 0 && (*a)[n] == '=')
			return atol(*a + n + 1);
	return otherwise;
}

static long now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * SECOND + t.tv_nsec;
}

static void sleep_until(long when)
{
	struct timespec t = {when / SECOND, when % SECOND};
	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
		;
}

/* User and system time of this process, in ns. */
static long cpu(void)
{
	struct rusage u;
	getrusage(RUSAGE_SELF, &u);
	return (u.ru_utime.tv_sec + u.ru_stime.tv_sec) * SECOND +
	       (u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1000;
}

/* How often this process has left a core, to wait or because another had its turn. */
static long switches(void)
{
	struct rusage u;
	getrusage(RUSAGE_SELF, &u);
	return u.ru_nvcsw + u.ru_nivcsw;
}

static void send(int id, size_t size)
{
	while (msgsnd(id, &message, size, flags) < 0)
		if (errno != EAGAIN && errno != EINTR)
			fail("msgsnd");
}

static ssize_t receive(int id)
{
	ssize_t n;
	while ((n = msgrcv(id, &message, MAX_TEXT, 0, flags)) < 0)
		if (errno != ENOMSG && errno != EINTR)
			fail("msgrcv");
	return n;
}

static void ready(void)
{
	char line[16];
	puts("ready");
	fflush(stdout);
	if (!fgets(line, sizeof line, stdin))
		exit(1);
}

static void print_samples(const char *name, const long *v, long n)
{
	printf("sample %s", name);
	for (long i = 0; i < n; i++)
		printf(" %ld", v[i]);
	puts("");
}

static long *new_samples(long n)
{
	long *v = calloc(n, sizeof *v);
	if (!v)
		fail("calloc");
	memset(v, 1, n * sizeof *v); /* no page faults while measuring */
	return v;
}

/* Sends back whatever comes. */
static void echo(void)
{
	int in = arg("in", -1), out = arg("out", -1);
	ready();
	for (;;) {
		ssize_t n = receive(in);
		message.mtype = 1;
		send(out, n);
	}
}

/* Times requests and their replies, one at a time. */
static void ping(void)
{
	int in = arg("in", -1), out = arg("out", -1);
	long size = arg("size", 64), max = arg("samples", 20000);
	long *rtt = new_samples(max), n = 0, number = 0;
	ready();
	long window = arg("window", SECOND / 2), warm = now() + window / 4, end = 0;
	while (n < max) {
		long start = now();
		/* The window starts when all is warm: two that poll on one core are slow at that. */
		if (!end && (number == WARM_UP || start > warm))
			end = start + window;
		else if (end && start > end)
			break;
		message.head.stamp = ++number;
		send(out, size);
		ssize_t got = receive(in);
		if (end)
			rtt[n++] = now() - start;
		if (got != size || message.head.stamp != number) {
			fprintf(stderr, "ping %ld answered by %ld of %zd bytes\n", number, message.head.stamp, got);
			exit(1);
		}
	}
	print_samples("rtt", rtt, n);
}

/* Sends for ever, as fast as it goes or at an even rate (messages/s). */
static void source(void)
{
	int out = arg("out", -1);
	long size = arg("size", 64), rate = arg("rate", 0), number = 0;
	message.head.sender = arg("sender", 0);
	ready();
	prctl(PR_SET_TIMERSLACK, 1L);
	long start = now();
	for (long i = 1;; i++) {
		if (rate) {
			sleep_until(start + i * SECOND / rate);
			message.head.stamp = now();
		} else {
			message.head.stamp = number++;
		}
		send(out, size);
	}
}

/* Times what sources send at full speed; none may be missing. */
static void sink(void)
{
	int in = arg("in", -1);
	long senders = arg("senders", 1), size = arg("size", 64);
	long *next = new_samples(senders);
	memset(next, 0, senders * sizeof *next);
	ready();
	long n = 0, t = 0, start = 0, start_cpu = 0, end = 0;
	for (;;) {
		for (int i = 0; i < BATCH; i++) {
			ssize_t got = receive(in);
			struct head *h = &message.head;
			if (got != size || h->sender < 0 || h->sender >= senders || h->stamp != next[h->sender]++) {
				fprintf(stderr, "sink: message %ld of sender %ld out of order\n", h->stamp, h->sender);
				exit(1);
			}
		}
		t = now();
		if (!start) {
			/* The first batch is followed by a tenth of the window to warm up. */
			start = t + arg("window", SECOND / 2) / 10;
		} else if (!end) {
			if (t < start)
				continue;
			start = t;
			start_cpu = cpu();
			end = start + arg("window", SECOND / 2);
		} else {
			n += BATCH;
			if (t >= end)
				break;
		}
	}
	long used = cpu() - start_cpu;
	printf("figure ns_per_message %.2f\n", (double)(t - start) / n);
	printf("figure cpu_ns_per_message %.2f\n", (double)used / n);
}

/* Takes the messages of a source with a rate: their latency, and the CPU they cost. */
static void meter(void)
{
	int in = arg("in", -1);
	long skip = arg("skip", 100), count = arg("count", 1000);
	long *latency = new_samples(count);
	ready();
	for (long i = 0; i < skip; i++)
		receive(in);
	long start = now(), start_cpu = cpu(), start_switches = switches();
	for (long i = 0; i < count; i++) {
		receive(in);
		latency[i] = now() - message.head.stamp;
	}
	long used = cpu() - start_cpu, elapsed = now() - start;
	printf("figure cpu_ns_per_s %.1f\n", (double)used / elapsed * SECOND);
	printf("figure cpu_ns_per_message %.1f\n", (double)used / count);
	printf("figure switches_per_message %.3f\n", (double)(switches() - start_switches) / count);
	print_samples("latency", latency, count);
}

/*
 * Sends count messages, each when the queue has been empty for idle ns. The
 * end of a long pause is spent on the CPU, so that this side is awake; while
 * the message is under way the CPU is left to the receiver.
 */
static void delayed(void)
{
	int out = arg("out", -1);
	long size = arg("size", 64), idle = arg("idle", 0), count = arg("count", 100);
	long nap = 200000;
	struct msqid_ds ds;
	ready();
	for (long i = 0; i < count; i++) {
		for (;;) {
			if (msgctl(out, IPC_STAT, &ds) < 0)
				fail("msgctl");
			if (ds.msg_qnum == 0)
				break;
			if (idle > nap)
				sleep_until(now() + nap / 4);
			else
				sched_yield();
		}
		long when = now() + idle;
		if (idle > nap)
			sleep_until(when - nap);
		while (now() < when)
			;
		message.head.stamp = now();
		send(out, size);
	}
	for (;;) /* the receiver ends the run */
		sleep_until(now() + SECOND);
}

/* Takes the messages of a delayed source: their latency. */
static void latency(void)
{
	int in = arg("in", -1);
	long count = arg("count", 100);
	long *v = new_samples(count);
	ready();
	for (long i = 0; i < count; i++) {
		receive(in);
		v[i] = now() - message.head.stamp;
	}
	print_samples("latency", v, count);
}

/*
 * Sends count messages of random types 1 to types, one per gap ns: how long
 * each send takes, since it walks the receivers that wait.
 */
static void scatter(void)
{
	int out = arg("out", -1);
	long size = arg("size", 64), types = arg("types", 1), count = arg("count", 100), gap = arg("gap", 5000000);
	long *took = new_samples(count);
	srandom(arg("seed", 1));
	ready();
	long start = now();
	for (long i = 0; i < count; i++) {
		sleep_until(start + i * gap);
		message.mtype = 1 + random() % types;
		message.head.stamp = now();
		send(out, size);
		took[i] = now() - message.head.stamp;
	}
	print_samples("send", took, count);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*play)(void);
	} roles[] = {
		{"echo", echo},       {"ping", ping},       {"source", source},   {"sink", sink},
		{"meter", meter},     {"delayed", delayed}, {"latency", latency}, {"scatter", scatter},
	};
	if (argc < 2)
		return 2;
	args = argv + 2;
	flags = arg("hot", 0) ? IPC_NOWAIT : 0;
	for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
		if (strcmp(argv[1], roles[i].name) == 0) {
			roles[i].play();
			puts("done");
			return 0;
		}
	fprintf(stderr, "no role %s\n", argv[1]);
	return 2;
}

/*
 * A program in C that receives through a library in Go, and that treats SIGURG
 * in its own way. Arguments: the library, and what the program does:
 *
 *   nothing
 *   ignore-before, ignore-after, ignore-waiting: ignores the signal, before or
 *     after the library is loaded, or while a receive waits
 *   default-after: leaves the signal to its default action, which is to ignore it
 *   handle-before, handle-after: has a handler for the signal
 *   block, block-no-preemption: blocks the signal in its own thread, from which
 *     the library's inherit that; with GODEBUG=asyncpreemptoff=1 the Go runtime
 *     leaves it so, otherwise it unblocks the signal in the threads that call it
 *
 * It prints the msqid, and then "ok". It ends itself if anything hangs.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <unistd.h>

#define CHECK(condition) \
	do { \
		if (!(condition)) { \
			fprintf(stderr, "%s:%d: not true: %s (%s)\n", __FILE__, __LINE__, #condition, strerror(errno)); \
			exit(1); \
		} \
	} while (0)

enum { ROUNDS = 20 };

struct message {
	long type;
	char text[32];
};

static int queue;
static volatile sig_atomic_t handled;

static void handler(int sig)
{
	(void)sig;
	handled = 1;
}

static void set(void (*action)(int))
{
	struct sigaction act;
	memset(&act, 0, sizeof act);
	act.sa_handler = action;
	/* Go asks for SA_ONSTACK of every handler in a process that it is part of. */
	act.sa_flags = SA_ONSTACK | SA_RESTART;
	CHECK(sigaction(SIGURG, &act, NULL) == 0);
}

static void send_message(void)
{
	struct message m = { 1, "message" };
	CHECK(msgsnd(queue, &m, strlen(m.text), 0) == 0);
}

static void *send_later(void *unused)
{
	usleep(5000);
	send_message();
	return unused;
}

static int blocked(void)
{
	sigset_t mask;
	CHECK(pthread_sigmask(SIG_BLOCK, NULL, &mask) == 0);
	return sigismember(&mask, SIGURG);
}

/* The functions of the library: waits.go. */
static int (*waits_open)(void);
static void (*waits_start)(int);
static int (*waits_sleeps)(void);
static char *(*waits_result)(void);
static void (*waits_cancel)(void);
static char *(*waits_receive)(void);
static int (*waits_close)(void);

static void *load(void *library, const char *name)
{
	void *function = dlsym(library, name);
	CHECK(function != NULL);
	return function;
}

static void want(char *text, const char *wanted)
{
	if (strcmp(text, wanted) != 0) {
		fprintf(stderr, "a receive returned \"%s\", not \"%s\"\n", text, wanted);
		exit(1);
	}
	free(text);
}

int main(int argc, char **argv)
{
	CHECK(argc == 3);
	const char *state = argv[2];
	alarm(60); /* kills */

	if (strcmp(state, "ignore-before") == 0)
		set(SIG_IGN);
	if (strcmp(state, "handle-before") == 0)
		set(handler);
	if (strncmp(state, "block", 5) == 0) {
		sigset_t mask;
		sigemptyset(&mask);
		sigaddset(&mask, SIGURG);
		CHECK(pthread_sigmask(SIG_BLOCK, &mask, NULL) == 0);
	}

	void *library = dlopen(argv[1], RTLD_NOW);
	if (library == NULL) {
		fprintf(stderr, "%s\n", dlerror());
		return 1;
	}
	waits_open = load(library, "waits_open");
	waits_start = load(library, "waits_start");
	waits_sleeps = load(library, "waits_sleeps");
	waits_result = load(library, "waits_result");
	waits_cancel = load(library, "waits_cancel");
	waits_receive = load(library, "waits_receive");
	waits_close = load(library, "waits_close");

	queue = waits_open(); /* and the Go runtime has started by its return */
	CHECK(queue >= 0);
	printf("%d\n", queue);
	fflush(stdout);

	int sleeps = 1;
	if (strcmp(state, "ignore-after") == 0) {
		set(SIG_IGN);
		sleeps = 0;
	}
	if (strcmp(state, "default-after") == 0) {
		set(SIG_DFL);
		sleeps = 0;
	}
	if (strcmp(state, "handle-after") == 0)
		set(handler);

	for (int i = 0; i < ROUNDS; i++) {
		waits_start(sleeps);
		CHECK(waits_sleeps() == sleeps);
		send_message();
		want(waits_result(), "message");

		waits_start(sleeps);
		CHECK(waits_sleeps() == sleeps);
		if (strcmp(state, "ignore-waiting") == 0)
			set(SIG_IGN);
		waits_cancel();
		want(waits_result(), "context canceled");

		/* Nothing in the library waits any more, to take the next message. */
		struct message m;
		send_message();
		CHECK(msgrcv(queue, &m, sizeof m.text, 1, IPC_NOWAIT) == strlen("message"));

		/* A wait on a thread of the program's own. */
		pthread_t sender;
		CHECK(pthread_create(&sender, NULL, send_later, NULL) == 0);
		int before = blocked();
		if (strcmp(state, "block-no-preemption") == 0)
			CHECK(before);
		want(waits_receive(), "message");
		CHECK(blocked() == before);
		CHECK(pthread_join(sender, NULL) == 0);
	}
	if (strcmp(state, "handle-after") == 0)
		CHECK(handled);

	CHECK(waits_close() == 0);
	struct msqid_ds ds;
	CHECK(msgctl(queue, IPC_STAT, &ds) == -1 && (errno == EINVAL || errno == EIDRM));
	printf("ok\n");
	return 0;
}

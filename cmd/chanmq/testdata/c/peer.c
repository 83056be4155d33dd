/* The other side of the scripts: a C program that knows nothing of chanmq. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <unistd.h>

struct order {
	long mtype;
	int32_t id;
	double price;
	char name[16];
};

struct text {
	long mtype;
	char text[65536];
};

static void check(int ok, const char *what)
{
	if (!ok) {
		perror(what);
		exit(1);
	}
}

static int queue(const char *key)
{
	int id = msgget((key_t)strtoul(key, NULL, 0), 0);
	check(id >= 0, "msgget");
	return id;
}

int main(int argc, char **argv)
{
	const char *role = argc > 1 ? argv[1] : "";
	static struct text t;

	if (!strcmp(role, "ftok") && argc == 4) {
		printf("0x%08x\n", (unsigned)ftok(argv[2], atoi(argv[3])));
	} else if (!strcmp(role, "order") && argc == 6) { /* key id price name */
		struct order o = {.mtype = 1, .id = atoi(argv[3]), .price = atof(argv[4])};
		strncpy(o.name, argv[5], sizeof o.name);
		check(msgsnd(queue(argv[2]), &o, sizeof o - sizeof o.mtype, 0) == 0, "msgsnd");
	} else if (!strcmp(role, "print") && argc == 3) { /* key */
		struct order o;
		ssize_t n = msgrcv(queue(argv[2]), &o, sizeof o - sizeof o.mtype, 0, IPC_NOWAIT);
		check(n == (ssize_t)(sizeof o - sizeof o.mtype), "msgrcv");
		printf("%ld %d %g %.16s\n", o.mtype, o.id, o.price, o.name);
	} else if (!strcmp(role, "send") && argc == 5) { /* key type text */
		t.mtype = atol(argv[3]);
		strcpy(t.text, argv[4]);
		check(msgsnd(queue(argv[2]), &t, strlen(t.text), 0) == 0, "msgsnd");
	} else if (!strcmp(role, "offer") && argc == 4) { /* key text: sends one, and stays */
		t.mtype = 1;
		strcpy(t.text, argv[3]);
		check(msgsnd(queue(argv[2]), &t, strlen(t.text), 0) == 0, "msgsnd");
		pause();
	} else if (!strcmp(role, "recv") && argc == 4) { /* key type */
		ssize_t n = msgrcv(queue(argv[2]), &t, sizeof t.text, atol(argv[3]), IPC_NOWAIT);
		check(n >= 0, "msgrcv");
		printf("%ld %.*s\n", t.mtype, (int)n, t.text);
	} else if (!strcmp(role, "serve") && argc == 3) { /* key: takes one, and stays */
		check(msgrcv(queue(argv[2]), &t, sizeof t.text, 0, 0) >= 0, "msgrcv");
		puts("took one");
		fflush(stdout);
		pause();
	} else {
		fprintf(stderr, "usage: peer ROLE ARGS\n");
		return 2;
	}
	return 0;
}

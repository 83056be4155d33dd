/* A C program that knows only msgsnd and msgrcv: it sends N orders, of type 1, and waits for as many
 * answers, of type 2, which come in order. Whoever answers may be on another machine. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/msg.h>

struct message {
	long mtype;
	char text[256];
};

int main(int argc, char **argv)
{
	int n = argc > 1 ? atoi(argv[1]) : 10;
	int q = msgget(0x4d51, 0600 | IPC_CREAT);
	if (q < 0) {
		perror("msgget");
		return 1;
	}
	for (int i = 0; i < n; i++) {
		struct message m = {.mtype = 1};
		snprintf(m.text, sizeof m.text, "order %d", i);
		if (msgsnd(q, &m, strlen(m.text), 0) != 0) {
			perror("msgsnd");
			return 1;
		}
	}
	for (int i = 0; i < n; i++) {
		struct message m;
		char want[256];
		ssize_t size = msgrcv(q, &m, sizeof m.text - 1, 2, 0);
		if (size < 0) {
			perror("msgrcv");
			return 1;
		}
		m.text[size] = 0;
		snprintf(want, sizeof want, "done: order %d", i);
		if (strcmp(m.text, want) != 0) {
			fprintf(stderr, "got \"%s\", want \"%s\"\n", m.text, want);
			return 1;
		}
	}
	printf("%d orders were answered, in order\n", n);
	return 0;
}

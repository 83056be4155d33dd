/*
 * errors MSQID CASE: makes a call that fails or truncates, and prints errno or the
 * number of bytes.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/msg.h>

int main(int argc, char **argv)
{
	struct {
		long mtype;
		char mtext[100];
	} m = { .mtype = 1 };

	if (argc != 3)
		return 2;
	int id = atoi(argv[1]);
	const char *which = argv[2];
	ssize_t n;

	if (!strcmp(which, "empty")) {
		n = msgrcv(id, &m, sizeof m.mtext, 0, IPC_NOWAIT);
	} else if (!strcmp(which, "too-large")) {
		n = msgrcv(id, &m, 10, 0, 0);
	} else if (!strcmp(which, "truncate")) {
		n = msgrcv(id, &m, 10, 0, MSG_NOERROR);
	} else if (!strcmp(which, "full")) {
		n = msgsnd(id, &m, sizeof m.mtext, IPC_NOWAIT);
	} else if (!strcmp(which, "removed")) {
		n = msgsnd(id, &m, sizeof m.mtext, 0);
	} else {
		fprintf(stderr, "unknown case %s\n", which);
		return 2;
	}
	if (n == -1)
		printf("errno %d\n", errno);
	else
		printf("bytes %zd\n", n);
	return 0;
}

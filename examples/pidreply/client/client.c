/*
 * client REQUESTS REPLIES N: asks the servers for the squares of 1 to N. They
 * answer with our pid as mtype, so each client takes its own answers only.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/msg.h>
#include <unistd.h>

struct question {
	long mtype;
	int pid;
	int number;
};

struct answer {
	long mtype;
	int number;
	int square;
};

int main(int argc, char **argv)
{
	if (argc != 4)
		return 2;
	int requests = atoi(argv[1]), replies = atoi(argv[2]), n = atoi(argv[3]);
	struct question q = { .mtype = 1, .pid = getpid() };
	struct answer a;

	/* An earlier process with our pid may have left answers unread. */
	while (msgrcv(replies, &a, sizeof a - sizeof a.mtype, getpid(), IPC_NOWAIT) != -1)
		;

	for (q.number = 1; q.number <= n; q.number++) {
		if (msgsnd(requests, &q, sizeof q - sizeof q.mtype, 0) == -1) {
			perror("msgsnd");
			return 1;
		}
		if (msgrcv(replies, &a, sizeof a - sizeof a.mtype, getpid(), 0) == -1) {
			perror("msgrcv");
			return 1;
		}
		printf("client %d: %d squared is %d\n", getpid(), a.number, a.square);
		fflush(stdout);
	}
	return 0;
}

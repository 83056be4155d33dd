/*
 * client REQUESTS REPLIES N: asks for the squares of 1 to N, and receives the
 * answers, whose mtype is its pid. Prints their sum.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/msg.h>
#include <unistd.h>

#include "records.h"

int main(int argc, char **argv)
{
	struct {
		long mtype;
		struct question data;
	} question = { .mtype = 1 };
	struct {
		long mtype;
		struct answer data;
	} answer;

	if (argc != 4)
		return 2;
	int requests = atoi(argv[1]), replies = atoi(argv[2]), n = atoi(argv[3]);
	long sum = 0;

	question.data.pid = getpid();
	/* Discard what an earlier process with this pid has not received. */
	while (msgrcv(replies, &answer, sizeof answer.data, getpid(),
		      MSG_NOERROR | IPC_NOWAIT) != -1)
		;

	for (int i = 1; i <= n; i++) {
		question.data.number = i;
		if (msgsnd(requests, &question, sizeof question.data, 0) == -1) {
			perror("msgsnd");
			return 1;
		}
		if (msgrcv(replies, &answer, sizeof answer.data, getpid(), 0) == -1) {
			perror("msgrcv");
			return 1;
		}
		if (answer.data.number != i) {
			fprintf(stderr, "asked for %d, got %d\n", i, answer.data.number);
			return 1;
		}
		sum += answer.data.square;
	}
	printf("sum %ld\n", sum);
	return 0;
}

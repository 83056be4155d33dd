/*
 * client REQUESTS REPLIES: reads sums such as "2 + 3", one a line, and prints what the
 * server makes of them. It names the type of the reply in the request: its pid.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/msg.h>
#include <unistd.h>

struct request {
	long mtype;
	int reply_to;
	int a, b;
	char op;
};

struct reply {
	long mtype;
	int result;
	char error[60]; /* "": there is none */
};

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	int requests = atoi(argv[1]), replies = atoi(argv[2]);
	struct request q = { .mtype = 1, .reply_to = getpid() };
	struct reply r;

	/* An earlier process with our pid may have left replies unread. */
	while (msgrcv(replies, &r, sizeof r - sizeof r.mtype, getpid(), IPC_NOWAIT) != -1)
		;

	while (scanf("%d %c %d", &q.a, &q.op, &q.b) == 3) {
		if (msgsnd(requests, &q, sizeof q - sizeof q.mtype, 0) == -1 ||
		    msgrcv(replies, &r, sizeof r - sizeof r.mtype, getpid(), 0) == -1) {
			perror("client");
			return 1;
		}
		if (r.error[0])
			printf("C: %d %c %d: %s\n", q.a, q.op, q.b, r.error);
		else
			printf("C: %d %c %d = %d\n", q.a, q.op, q.b, r.result);
		fflush(stdout);
	}
	return 0;
}

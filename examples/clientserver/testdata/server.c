/* A server as C programs write it: server FILE PROJ COUNT. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/ipc.h>
#include <sys/msg.h>

struct message { long mtype; int data; };

int main(int argc, char **argv)
{
	struct message m;
	key_t key;
	int q, left;

	if (argc != 4 || (key = ftok(argv[1], atoi(argv[2]))) == -1 || (q = msgget(key, IPC_CREAT | 0600)) == -1) {
		perror("server");
		return 1;
	}
	puts("ready");
	fflush(stdout);
	for (left = atoi(argv[3]); left > 0; left--) {
		if (msgrcv(q, &m, sizeof m.data, -3, 0) == -1) {
			perror("server");
			break;
		}
		m.mtype += 3;
		m.data += 8;
		if (msgsnd(q, &m, sizeof m.data, 0) == -1) {
			perror("server");
			break;
		}
	}
	/* The client must take the last answer before the queue is removed. */
	getchar();
	msgctl(q, IPC_RMID, NULL);
	return left > 0;
}

/* A client as C programs write it: client ID FILE PROJ, integers on standard input. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/ipc.h>
#include <sys/msg.h>

struct message { long mtype; int data; };

int main(int argc, char **argv)
{
	struct message m;
	long id = argc == 4 ? atol(argv[1]) : 0;
	key_t key;
	int q, n;

	if (id < 1 || id > 3 || (key = ftok(argv[2], atoi(argv[3]))) == -1 || (q = msgget(key, 0)) == -1) {
		perror("client");
		return 1;
	}
	while (scanf("%d", &n) == 1) {
		m.mtype = id;
		m.data = n;
		/* The size that most programs compute: it includes the padding. */
		if (msgsnd(q, &m, sizeof m - sizeof m.mtype, 0) == -1 ||
		    msgrcv(q, &m, sizeof m - sizeof m.mtype, id + 3, 0) == -1) {
			perror("client");
			return 1;
		}
		printf("client %ld sent %d, got %d\n", id, n, m.data);
	}
	return 0;
}

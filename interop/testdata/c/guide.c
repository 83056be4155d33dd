/* guide KEY: the C program of docs/interop.md. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/msg.h>

struct order {
	long mtype; /* 1 */
	int id;
	char name[32];
	double price;
};

struct answer {
	long mtype; /* 2 */
	int id;
	double total;
};

int main(int argc, char **argv)
{
	if (argc != 2)
		return 2;
	key_t key = atoi(argv[1]);

	int queue = msgget(key, 0);
	struct order o = { .mtype = 1, .id = 7, .name = "tea", .price = 4.5 };
	if (msgsnd(queue, &o, sizeof o - sizeof o.mtype, 0) == -1)
		perror("msgsnd");

	struct answer a;
	if (msgrcv(queue, &a, sizeof a - sizeof a.mtype, 2, 0) == -1)
		perror("msgrcv");
	printf("order %d: %.2f\n", a.id, a.total);
	return 0;
}

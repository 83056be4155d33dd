/*
 * queue create PATH PROJ: creates a queue with the ftok key, prints key and msqid.
 * queue find PATH PROJ:   the same for a queue that exists.
 * queue stat MSQID:       prints the result of IPC_STAT.
 * queue remove MSQID:     removes the queue.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/msg.h>

static int lookup(const char *path, const char *proj, int flags)
{
	key_t key = ftok(path, proj[0]);
	int id;

	if (key == -1) {
		perror("ftok");
		return 1;
	}
	if ((id = msgget(key, flags)) == -1) {
		perror("msgget");
		return 1;
	}
	printf("%d %d\n", (int)key, id);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 4 && !strcmp(argv[1], "create"))
		return lookup(argv[2], argv[3], IPC_CREAT | IPC_EXCL | 0640);
	if (argc == 4 && !strcmp(argv[1], "find"))
		return lookup(argv[2], argv[3], 0);
	if (argc == 3 && !strcmp(argv[1], "stat")) {
		struct msqid_ds ds;

		if (msgctl(atoi(argv[2]), IPC_STAT, &ds) == -1) {
			perror("msgctl");
			return 1;
		}
		printf("perm=%o uid=%d gid=%d messages=%lu max=%lu sender=%d receiver=%d\n",
		       ds.msg_perm.mode & 0777, (int)ds.msg_perm.uid,
		       (int)ds.msg_perm.gid, (unsigned long)ds.msg_qnum,
		       (unsigned long)ds.msg_qbytes, (int)ds.msg_lspid,
		       (int)ds.msg_lrpid);
		return 0;
	}
	if (argc == 3 && !strcmp(argv[1], "remove")) {
		if (msgctl(atoi(argv[2]), IPC_RMID, NULL) == -1) {
			perror("msgctl");
			return 1;
		}
		return 0;
	}
	return 2;
}

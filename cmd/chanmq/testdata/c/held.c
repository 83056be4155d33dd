/* A C program that sends N texts of 1,000 bytes and type 1 by a msgsnd that blocks. It notes in a file
 * that it has mapped who it is, and how many the kernel has taken. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <unistd.h>

struct message {
	long mtype;
	char text[1000];
};

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	int n = atoi(argv[1]);
	int fd = open(argv[2], O_RDWR | O_CREAT, 0600);
	if (fd < 0 || ftruncate(fd, 16) != 0) {
		perror(argv[2]);
		return 1;
	}
	volatile long *note = mmap(NULL, 16, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	int q = msgget(0x4d51, 0600);
	if (note == MAP_FAILED || q < 0) {
		perror("mmap or msgget");
		return 1;
	}
	note[0] = getpid();
	for (int i = 0; i < n; i++) {
		struct message m = {.mtype = 1};
		snprintf(m.text, sizeof m.text, "order %d", i);
		if (msgsnd(q, &m, sizeof m.text, 0) != 0) {
			perror("msgsnd");
			return 1;
		}
		note[1] = i + 1;
	}
	printf("sent %d\n", n);
	return 0;
}

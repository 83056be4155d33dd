/*
 * receive MSQID KIND: prints "waiting", waits for one message of the kind, and
 * prints its mtype and content. The kinds up-to and except receive all matching
 * messages, without waiting.
 */
#define _GNU_SOURCE /* MSG_EXCEPT */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/msg.h>

#include "records.h"

static int id;

static ssize_t take(void *msg, size_t size, long msgtyp, int flags)
{
	ssize_t n = msgrcv(id, msg, size, msgtyp, flags);

	if (n == -1) {
		if (errno == ENOMSG && flags & IPC_NOWAIT)
			exit(0);
		/* The tests compare the number. */
		printf("errno %d\n", errno);
		perror("msgrcv");
		exit(1);
	}
	return n;
}

/* Declares m, which contains the struct, and receives a message of exactly its size. */
#define TAKE_STRUCT(name)                                             \
	struct {                                                      \
		long mtype;                                           \
		struct name data;                                     \
	} m;                                                          \
	if (take(&m, sizeof m.data, 0, 0) != sizeof m.data) {         \
		fprintf(stderr, "not of %zu bytes\n", sizeof m.data); \
		return 1;                                             \
	}                                                             \
	printf("%ld ", m.mtype)

int main(int argc, char **argv)
{
	struct {
		long mtype;
		char mtext[8192];
	} any;

	if (argc != 3)
		return 2;
	id = atoi(argv[1]);
	const char *kind = argv[2];

	puts("waiting");
	fflush(stdout);

	if (!strcmp(kind, "hex")) {
		ssize_t n = take(&any, sizeof any.mtext, 0, 0);
		printf("%ld ", any.mtype);
		for (ssize_t i = 0; i < n; i++)
			printf("%02x", (unsigned char)any.mtext[i]);
		putchar('\n');
	} else if (!strcmp(kind, "text")) {
		ssize_t n = take(&any, sizeof any.mtext, 0, 0);
		printf("%ld %.*s\n", any.mtype, (int)n, any.mtext);
	} else if (!strcmp(kind, "cstring")) {
		/* Trusts the terminating NUL, as many programs do. */
		take(&any, sizeof any.mtext, 0, 0);
		printf("%ld %s\n", any.mtype, any.mtext);
	} else if (!strcmp(kind, "up-to")) {
		for (;;) {
			ssize_t n = take(&any, sizeof any.mtext, -3, IPC_NOWAIT);
			printf("%ld %.*s\n", any.mtype, (int)n, any.mtext);
		}
	} else if (!strcmp(kind, "except")) {
		for (;;) {
			ssize_t n = take(&any, sizeof any.mtext, 3, MSG_EXCEPT | IPC_NOWAIT);
			printf("%ld %.*s\n", any.mtype, (int)n, any.mtext);
		}
	} else if (!strcmp(kind, "int")) {
		TAKE_STRUCT(single);
		printf("%d\n", m.data.data);
	} else if (!strcmp(kind, "padding")) {
		TAKE_STRUCT(padding);
		printf("%c %d %d %g %d\n", m.data.tag, m.data.id, m.data.flag,
		       m.data.ratio, m.data.tail);
	} else if (!strcmp(kind, "arrays")) {
		TAKE_STRUCT(arrays);
		for (int i = 0; i < 4; i++)
			printf("%d ", m.data.counts[i]);
		for (int i = 0; i < 2; i++)
			for (int j = 0; j < 3; j++)
				printf("%g ", m.data.grid[i][j]);
		for (int i = 0; i < 5; i++)
			printf("%02x", m.data.raw[i]);
		putchar('\n');
	} else if (!strcmp(kind, "nested")) {
		TAKE_STRUCT(nested);
		printf("%c %ld %d %d %d %d\n", m.data.head.kind, m.data.head.stamp,
		       m.data.points[0].x, m.data.points[0].y,
		       m.data.points[1].x, m.data.points[1].y);
	} else if (!strcmp(kind, "strings")) {
		TAKE_STRUCT(strings);
		printf("%s %.8s\n", m.data.name, m.data.path);
	} else if (!strcmp(kind, "sizeof")) {
		struct sizeof_msg m;
		take(&m, sizeof m - sizeof m.mtype, 0, 0);
		printf("%ld %d\n", m.mtype, m.data);
	} else if (!strcmp(kind, "sizeof-checked")) {
		struct sizeof_msg m;
		if (take(&m, sizeof m - sizeof m.mtype, 0, 0) != sizeof m - sizeof m.mtype) {
			fprintf(stderr, "not of %zu bytes\n", sizeof m - sizeof m.mtype);
			return 1;
		}
		printf("%ld %d\n", m.mtype, m.data);
	} else if (!strcmp(kind, "whole")) {
		struct sizeof_msg m[2];
		if (take(&m[0], sizeof m[0], 0, 0) != sizeof m[0]) {
			fprintf(stderr, "not of %zu bytes\n", sizeof m[0]);
			return 1;
		}
		printf("%ld %d\n", m[0].mtype, m[0].data);
	} else if (!strcmp(kind, "flat")) {
		struct flat m;
		take(&m, sizeof m - sizeof m.mtype, 0, 0);
		printf("%ld %d %d %s %g %c\n", m.mtype, m.id, m.qty, m.name,
		       m.price, m.tag);
	} else if (!strcmp(kind, "numbers")) {
		TAKE_STRUCT(numbers);
		printf("%d %u %d %u %d %u %ld %lu %lld %g %g\n", m.data.c,
		       m.data.uc, m.data.s, m.data.us, m.data.i, m.data.ui,
		       m.data.l, m.data.ul, m.data.ll, m.data.f, m.data.d);
	} else {
		fprintf(stderr, "unknown kind %s\n", kind);
		return 2;
	}
	return 0;
}

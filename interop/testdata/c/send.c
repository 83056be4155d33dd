/*
 * send MSQID KIND: sends one message of the kind, or three of types 3, 1, 2.
 * Prints "waiting" before it sends, which blocks while the queue is full, and
 * "sent" afterwards.
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/msg.h>

#include "records.h"

static int id;

static void put(const void *msg, size_t size)
{
	puts("waiting");
	fflush(stdout);
	if (msgsnd(id, msg, size, 0) == -1) {
		perror("msgsnd");
		exit(1);
	}
	puts("sent");
}

static void put_bytes(long type, const void *bytes, size_t size)
{
	struct {
		long mtype;
		char mtext[8192];
	} m = { .mtype = type };

	memcpy(m.mtext, bytes, size);
	put(&m, size);
}

/* The usual way: the struct right after the mtype. */
#define PUT_STRUCT(name, ...)                        \
	do {                                         \
		struct {                             \
			long mtype;                  \
			struct name data;            \
		} m = { TYPE, { __VA_ARGS__ } };     \
		put(&m, sizeof m.data);              \
	} while (0)

int main(int argc, char **argv)
{
	unsigned char bytes[8192];

	if (argc != 3)
		return 2;
	id = atoi(argv[1]);
	const char *kind = argv[2];

	if (!strcmp(kind, "text")) {
		put_bytes(TYPE, "Gr\xc3\xbc\xc3\x9f" "e", 7);
	} else if (!strcmp(kind, "cstring")) {
		put_bytes(TYPE, "hello", sizeof "hello");
	} else if (!strcmp(kind, "empty")) {
		put_bytes(TYPE, "", 0);
	} else if (!strcmp(kind, "bytes")) {
		for (int i = 0; i < 256; i++)
			bytes[i] = i;
		put_bytes(TYPE, bytes, 256);
	} else if (!strcmp(kind, "largest")) {
		for (int i = 0; i < 8192; i++)
			bytes[i] = i % 251;
		put_bytes(TYPE, bytes, 8192);
	} else if (!strcmp(kind, "type-max")) {
		put_bytes(LONG_MAX, "max", 3);
	} else if (!strcmp(kind, "types")) {
		put_bytes(3, "c", 1);
		put_bytes(1, "a", 1);
		put_bytes(2, "b", 1);
	} else if (!strcmp(kind, "int")) {
		PUT_STRUCT(single, .data = -70000);
	} else if (!strcmp(kind, "padding")) {
		PUT_STRUCT(padding, .tag = 'a', .id = -70000, .flag = 1,
			   .ratio = 0.1, .tail = -2);
	} else if (!strcmp(kind, "arrays")) {
		PUT_STRUCT(arrays, .counts = { 1, -2, 3, 70000 },
			   .grid = { { 0.5, 1.5, 2.5 }, { -0.5, -1.5, -2.5 } },
			   .raw = { 1, 2, 253, 254, 255 });
	} else if (!strcmp(kind, "nested")) {
		PUT_STRUCT(nested, .head = { .kind = 'n', .stamp = -2000000000 },
			   .points = { { -1, 70000 }, { 2, -70000 } });
	} else if (!strcmp(kind, "strings")) {
		PUT_STRUCT(strings, .name = "resize",
			   .path = { '/', 's', 'r', 'v', '/', 'a', 'p', 'p' });
	} else if (!strcmp(kind, "sizeof")) {
		/* The other usual way: the members after the mtype. The size
		   is that of the struct without the mtype. */
		struct sizeof_msg m = { .mtype = TYPE, .data = -70000 };
		put(&m, sizeof m - sizeof m.mtype);
	} else if (!strcmp(kind, "whole")) {
		/* A mistake: the size includes the mtype, so the message
		   extends beyond the struct. */
		struct sizeof_msg m[2] = { { .mtype = TYPE, .data = -70000 } };
		put(&m[0], sizeof m[0]);
	} else if (!strcmp(kind, "flat")) {
		struct flat m = { .mtype = TYPE, .id = -70000, .qty = -300,
				  .name = "resize", .price = 19.5, .tag = 'f' };
		put(&m, sizeof m - sizeof m.mtype);
	} else if (!strcmp(kind, "numbers")) {
		PUT_STRUCT(numbers, .c = SCHAR_MIN, .uc = UCHAR_MAX,
			   .s = SHRT_MIN, .us = USHRT_MAX, .i = INT_MIN,
			   .ui = UINT_MAX, .l = LONG_MIN, .ul = ULONG_MAX,
			   .ll = LLONG_MIN, .f = 0.25, .d = -1e300);
	} else {
		fprintf(stderr, "unknown kind %s\n", kind);
		return 2;
	}
	return 0;
}

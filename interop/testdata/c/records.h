/*
 * The structs that the tests send through a queue. Their Go counterparts are in
 * interop/c_test.go.
 */
#ifndef RECORDS_H
#define RECORDS_H

#define TYPE 7 /* the mtype of every message that a test sends */

struct single {
	int data;
};

struct padding { /* padding after tag, after flag and at the end */
	char tag;
	int id;
	char flag;
	double ratio;
	short tail;
};

struct arrays {
	int counts[4];
	double grid[2][3];
	unsigned char raw[5];
};

struct nested {
	struct {
		char kind;
		long stamp;
	} head;
	struct {
		short x;
		int y;
	} points[2];
};

struct strings { /* name ends with NULs; path fills its array, without a NUL */
	char name[16];
	char path[8];
};

struct numbers { /* one of each, to test widths, signs and byte order */
	signed char c;
	unsigned char uc;
	short s;
	unsigned short us;
	int i;
	unsigned int ui;
	long l;
	unsigned long ul;
	long long ll;
	float f;
	double d;
};

struct sizeof_msg { /* with a long of 8 bytes it has trailing padding */
	long mtype;
	int data;
};

struct flat {
	long mtype;
	int id;
	short qty;
	char name[16];
	double price;
	char tag;
};

struct question { /* of client.c: the mtype of the answer is pid */
	int pid;
	int number;
};

struct answer {
	int number;
	long square;
};

#endif

/*
 * The structs that the tests send through a queue, each the text of a message.
 * Their Go counterparts stand in interop/c_test.go.
 */
#ifndef RECORDS_H
#define RECORDS_H

#define TYPE 7 /* the mtype of every message that a test sends */

struct single {
	int data;
};

struct padding { /* holes behind tag, behind flag and at the end */
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

struct strings { /* padded with NULs; path fills its array, and has none */
	char name[16];
	char path[8];
};

struct numbers { /* one of each, to show widths, signs and byte order */
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

struct sizeof_msg { /* with a long of 8 bytes there is a hole at the end */
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

struct question { /* of client.c: the answer goes to the mtype pid */
	int pid;
	int number;
};

struct answer {
	int number;
	long square;
};

#endif

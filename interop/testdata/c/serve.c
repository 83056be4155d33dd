/*
 * serve client REQUESTS REPLIES N: asks a Go server for the squares of 1 to N, and for that
 * of 0, which is refused, in the envelopes of docs/envelope.md. Prints their sum and the
 * error.
 *
 * serve server REQUESTS REPLIES N: answers N requests of Go clients with squares, and refuses
 * that of 0.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/msg.h>
#include <unistd.h>

#include "envelope.h"

static struct {
	long mtype;
	unsigned char text[512];
} msg;

static void send_it(int id, const struct envelope *e, long mtype, const char *text)
{
	size_t size = write_envelope(msg.text, e);

	msg.mtype = mtype;
	memcpy(msg.text + size, text, strlen(text));
	if (msgsnd(id, &msg, size + strlen(text), 0) == -1) {
		perror("msgsnd");
		exit(1);
	}
}

/* Returns the text behind the header, terminated. */
static char *receive_it(int id, struct envelope *e, long msgtyp)
{
	ssize_t len = msgrcv(id, &msg, sizeof msg.text - 1, msgtyp, 0);
	long size;

	if (len == -1) {
		perror("msgrcv");
		exit(1);
	}
	msg.text[len] = 0;
	size = read_envelope(e, msg.text, len);
	if (size <= 0) {
		fprintf(stderr, "not an envelope: %ld\n", size);
		exit(1);
	}
	return (char *)msg.text + size;
}

static void client(int requests, int replies, int n)
{
	struct envelope request = { .kind = REQUEST, .reply_type = getpid() }, reply;
	char text[32];
	long sum = 0;

	for (int i = n; i >= 0; i--) {
		request.call_id++;
		snprintf(text, sizeof text, "%d", i);
		send_it(requests, &request, 1, text);
		char *answer = receive_it(replies, &reply, getpid());
		if (reply.call_id != request.call_id) {
			fprintf(stderr, "not the reply to %d\n", i);
			exit(1);
		}
		if (reply.kind == ERROR_REPLY)
			printf("%d: error %u: %s\n", i, reply.code, answer);
		else
			sum += atol(answer);
	}
	printf("sum %ld\n", sum);
}

static void server(int requests, int replies, int n)
{
	while (n--) {
		struct envelope request, reply;
		char text[32];
		long number = atol(receive_it(requests, &request, 1));

		if (request.kind != REQUEST) {
			fprintf(stderr, "not a request: %d\n", request.kind);
			exit(1);
		}
		reply = request;
		reply.kind = number ? REPLY : ERROR_REPLY;
		reply.expiry = request.waits_until;
		reply.code = number ? 0 : 1001;
		snprintf(text, sizeof text, "%ld", number * number);
		send_it(replies, &reply, (long)request.reply_type, number ? text : "not of 0");
	}
	puts("answered");
}

int main(int argc, char **argv)
{
	if (argc != 5)
		return 2;
	int requests = atoi(argv[2]), replies = atoi(argv[3]), n = atoi(argv[4]);

	if (!strcmp(argv[1], "client"))
		client(requests, replies, n);
	else
		server(requests, replies, n);
	return 0;
}

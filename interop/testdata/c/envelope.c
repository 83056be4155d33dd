/*
 * envelope: reads texts in hexadecimal, one a line, and prints what is in the header of
 * each, the text behind it, and the whole as it would write it.
 */
#include <inttypes.h>
#include <stdio.h>

#include "envelope.h"

static void print_hex(const unsigned char *b, size_t len)
{
	putchar(' ');
	for (size_t i = 0; i < len; i++)
		printf("%02x", b[i]);
}

/* Writes the values of a pack, which are behind its header, to again, as many as there
   are. */
static size_t write_values(unsigned char *again, size_t size, const unsigned char *p, const unsigned char *end, uint32_t *n)
{
	const unsigned char *value;
	size_t len;

	for (*n = 0; (value = next_value(&p, end, &len)); ++*n)
		size = append_value(again, size, value, len);
	return p == end ? size : 0;
}

int main(void)
{
	static char line[8192];
	static unsigned char text[4096], again[4096];

	while (fgets(line, sizeof line, stdin)) {
		struct envelope e;
		size_t len = 0, written = 0;
		uint32_t values;
		unsigned byte;
		long size;

		for (char *p = line; sscanf(p, "%2x", &byte) == 1; p += 2)
			text[len++] = (unsigned char)byte;
		size = read_envelope(&e, text, len);
		if (size > 0 && e.kind == PACK &&
		    (!(written = write_values(again, 14, text + size, text + len, &values)) || values != e.values))
			size = -1;
		if (size <= 0) {
			puts(size ? "damaged" : "none");
			continue;
		}
		printf("%d %" PRIu64 " %" PRId64 " %" PRId64 " %" PRId64 " %u %u %u %" PRIu64 " %u %" PRId64 " %u %u %u",
		       e.kind, e.call_id, e.reply_type, e.expiry, e.waits_until,
		       e.pid, e.pid_namespace, e.time_namespace, e.start, e.code, e.type, e.attempts, e.values, e.size);
		print_hex((const unsigned char *)e.reason, e.reason_len);
		print_hex(text + size, len - size);
		if (e.kind == PACK) {
			write_envelope(again, &e); /* behind it are the values */
		} else {
			written = write_envelope(again, &e);
			memcpy(again + written, text + size, len - size);
			written += len - size;
		}
		print_hex(again, written);
		putchar('\n');
	}
	return 0;
}

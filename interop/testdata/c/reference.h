/* Reads texts of kind reference: docs/envelope.md. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "envelope.h"

static uint32_t crc32c(const unsigned char *b, size_t len)
{
	uint32_t sum = ~0u;

	while (len-- > 0) {
		sum ^= *b++;
		for (int bit = 0; bit < 8; bit++)
			sum = sum >> 1 ^ (0x82F63B78 & -(sum & 1));
	}
	return ~sum;
}

/* Reads the text that the message of len bytes refers to, in a file in the open directory root,
   and removes the file. Returns the text, for free(), and its size; NULL if there is none that
   is right. */
static unsigned char *read_reference(int root, const unsigned char *b, size_t len, size_t *size)
{
	char path[66];
	unsigned char *text = NULL;
	struct stat st;
	int fd;

	if (len != 56 || memcmp(b, "\xFE" "cmq\1\7\x38", 8))
		return NULL;
	for (int i = 0; i < 32; i++)
		sprintf(path + 2 * i + (i >= 16), "%02x", b[8 + i]);
	path[32] = '/';
	fd = openat(root, path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return NULL;
	*size = get_number(b + 40, 8);
	if (!fstat(fd, &st) && S_ISREG(st.st_mode) && (uint64_t)st.st_size == *size)
		text = malloc(*size + 1);
	for (size_t n = 0; text && n < *size;) {
		ssize_t got = pread(fd, text + n, *size - n, (off_t)n);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0) {
			free(text);
			text = NULL;
			break;
		}
		n += (size_t)got;
	}
	if (text && crc32c(text, *size) != get_number(b + 48, 4)) {
		free(text);
		text = NULL;
	}
	if (text)
		unlinkat(root, path, 0);
	close(fd);
	return text;
}

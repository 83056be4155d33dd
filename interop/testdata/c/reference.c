/* Prints the text that a message refers to: reference DIR, and the message in hexadecimal on
   the standard input. */
#include "reference.h"

int main(int argc, char **argv)
{
	unsigned char message[256];
	unsigned byte;
	size_t len = 0, size;
	unsigned char *text;
	int root = argc == 2 ? open(argv[1], O_RDONLY | O_DIRECTORY) : -1;

	while (len < sizeof message && scanf("%2x", &byte) == 1)
		message[len++] = (unsigned char)byte;
	(void)read_envelope;
	(void)write_envelope;
	(void)next_value;
	(void)append_value;
	if (root < 0 || !(text = read_reference(root, message, len, &size)))
		return 1;
	fwrite(text, 1, size, stdout);
	free(text);
	return fflush(stdout) != 0;
}

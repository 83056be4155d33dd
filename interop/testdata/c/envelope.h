/* Reads and writes the header of chanmq's envelopes: docs/envelope.md. */
#include <stdint.h>
#include <string.h>

enum { PLAIN = 1, REQUEST, REPLY, ERROR_REPLY, DEAD_LETTER, PACK };

struct envelope {
	int kind;
	uint64_t call_id;    /* REQUEST, REPLY, ERROR_REPLY */
	int64_t reply_type;  /* REQUEST */
	int64_t expiry;      /* REQUEST, REPLY, ERROR_REPLY */
	int64_t waits_until; /* REQUEST */
	uint32_t pid, pid_namespace, time_namespace; /* REQUEST, REPLY, ERROR_REPLY */
	uint64_t start;      /* REQUEST, REPLY, ERROR_REPLY */
	uint32_t code;       /* ERROR_REPLY */
	int64_t type;        /* DEAD_LETTER */
	uint32_t attempts;   /* DEAD_LETTER */
	uint32_t reason_len; /* DEAD_LETTER */
	const char *reason;  /* DEAD_LETTER, not terminated */
	uint32_t values;     /* PACK: how many */
	uint32_t size;       /* PACK: bytes behind the header */
};

static uint64_t get_number(const unsigned char *b, int bytes)
{
	uint64_t n = 0;

	while (bytes-- > 0)
		n = n << 8 | b[bytes];
	return n;
}

static void put_number(unsigned char *b, int bytes, uint64_t n)
{
	for (int i = 0; i < bytes; i++, n >>= 8)
		b[i] = (unsigned char)n;
}

/* Returns the size of the header, behind which the text begins; 0 if the text of len
   bytes has none, -1 if it is damaged, or of a version or kind that is not known. */
static inline long read_envelope(struct envelope *e, const unsigned char *b, size_t len)
{
	static const size_t least[] = {0, 8, 64, 48, 48, 24, 14};
	size_t size;

	memset(e, 0, sizeof *e);
	if (len < 4 || memcmp(b, "\xFE" "cmq", 4))
		return 0;
	if (len < 8 || b[4] != 1 || b[5] < PLAIN || b[5] > PACK)
		return -1;
	e->kind = b[5];
	size = get_number(b + 6, 2);
	if (size < least[e->kind] || size > len)
		return -1;
	switch (e->kind) {
	case REQUEST:
		e->call_id = get_number(b + 8, 8);
		e->reply_type = (int64_t)get_number(b + 16, 8);
		e->expiry = (int64_t)get_number(b + 24, 8);
		e->waits_until = (int64_t)get_number(b + 32, 8);
		b += 40;
		break;
	case REPLY:
	case ERROR_REPLY:
		e->call_id = get_number(b + 8, 8);
		e->expiry = (int64_t)get_number(b + 16, 8);
		b += 24;
		break;
	case DEAD_LETTER:
		e->type = (int64_t)get_number(b + 8, 8);
		e->attempts = get_number(b + 16, 4);
		e->reason_len = get_number(b + 20, 4);
		e->reason = (const char *)b + 24;
		return e->type < 0 || e->reason_len > size - 24 ? -1 : (long)size;
	case PACK:
		e->values = get_number(b + 8, 2);
		e->size = get_number(b + 10, 4);
		return e->values == 0 || e->size != len - size ? -1 : (long)size;
	default:
		return (long)size;
	}
	e->pid = get_number(b, 4);
	e->pid_namespace = get_number(b + 4, 4);
	e->time_namespace = get_number(b + 8, 4);
	e->code = get_number(b + 12, 4);
	e->start = get_number(b + 16, 8);
	return e->reply_type < 0 ? -1 : (long)size;
}

/* Returns the next value of a pack, which ends at end, and puts its length into *len. *p is
   where the last value ended, at first behind the header. NULL if there is none any more:
   then the pack is damaged unless *p is end and there were e->values. */
static inline const unsigned char *next_value(const unsigned char **p, const unsigned char *end, size_t *len)
{
	const unsigned char *value = *p + 2;

	if (end - *p < 2 || (size_t)(end - value) < (*len = get_number(*p, 2)))
		return NULL;
	*p = value + *len;
	return value;
}

/* Appends a value to a pack, of which the first size bytes are written, and returns how many
   are then. The first value goes behind the header, at 14. */
static inline size_t append_value(unsigned char *pack, size_t size, const void *value, size_t len)
{
	put_number(pack + size, 2, len);
	memcpy(pack + size + 2, value, len);
	return size + 2 + len;
}

/* Writes the header to b, which has room for it, and returns its size. */
static inline size_t write_envelope(unsigned char *b, const struct envelope *e)
{
	unsigned char *life = b;
	size_t size = 8;

	memcpy(b, "\xFE" "cmq", 4);
	b[4] = 1;
	b[5] = (unsigned char)e->kind;
	switch (e->kind) {
	case REQUEST:
		put_number(b + 8, 8, e->call_id);
		put_number(b + 16, 8, (uint64_t)e->reply_type);
		put_number(b + 24, 8, (uint64_t)e->expiry);
		put_number(b + 32, 8, (uint64_t)e->waits_until);
		life = b + 40;
		size = 64;
		break;
	case REPLY:
	case ERROR_REPLY:
		put_number(b + 8, 8, e->call_id);
		put_number(b + 16, 8, (uint64_t)e->expiry);
		life = b + 24;
		size = 48;
		break;
	case DEAD_LETTER:
		put_number(b + 8, 8, (uint64_t)e->type);
		put_number(b + 16, 4, e->attempts);
		put_number(b + 20, 4, e->reason_len);
		memcpy(b + 24, e->reason, e->reason_len);
		size = 24 + e->reason_len;
		break;
	case PACK:
		put_number(b + 8, 2, e->values);
		put_number(b + 10, 4, e->size);
		size = 14;
		break;
	}
	if (life != b) {
		put_number(life, 4, e->pid);
		put_number(life + 4, 4, e->pid_namespace);
		put_number(life + 8, 4, e->time_namespace);
		put_number(life + 12, 4, e->code);
		put_number(life + 16, 8, e->start);
	}
	put_number(b + 6, 2, size);
	return size;
}

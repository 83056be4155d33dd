#!/usr/bin/env python3
"""Reads and writes the header of chanmq's envelopes: docs/envelope.md.

As a program it reads texts in hexadecimal, one a line, and prints what is in the header
of each, the text behind it, and the whole as it would write it.
"""
import struct
import sys

MAGIC = b"\xFEcmq"
PLAIN, REQUEST, REPLY, ERROR_REPLY, DEAD_LETTER, PACK = range(1, 7)

# The fields behind the first 8 bytes. "reserved" is 0.
LIFE = ("pid", "pid_namespace", "time_namespace", "code", "start")
FIELDS = {
    PLAIN: ("", ()),
    REQUEST: ("QqqqIIIIQ", ("call_id", "reply_type", "expiry", "waits_until") + LIFE),
    REPLY: ("QqIIIIQ", ("call_id", "expiry") + LIFE),
    ERROR_REPLY: ("QqIIIIQ", ("call_id", "expiry") + LIFE),
    DEAD_LETTER: ("qII", ("type", "attempts", "reason_len")),
    PACK: ("HI", ("values", "size")),
}


def read_envelope(text):
    """Returns the header as a dict, and the text behind it; None if there is no header."""
    if text[:4] != MAGIC:
        return None, text
    if len(text) < 8 or text[4] != 1 or text[5] not in FIELDS:
        raise ValueError("damaged, or of an unknown version or kind")
    kind, (size,) = text[5], struct.unpack("<H", text[6:8])
    layout, names = FIELDS[kind]
    least = 8 + struct.calcsize("<" + layout)
    if not least <= size <= len(text):
        raise ValueError("damaged")
    e = dict(zip(names, struct.unpack("<" + layout, text[8:least])), kind=kind)
    if e.get("reply_type", 0) < 0 or e.get("type", 0) < 0:
        raise ValueError("damaged")
    if kind == DEAD_LETTER:
        n = e.pop("reason_len")
        if n > size - least:
            raise ValueError("damaged")
        e["reason"] = text[least : least + n]
    if kind == PACK and (e["values"] == 0 or e["size"] != len(text) - size):
        raise ValueError("damaged")
    return e, text[size:]


def write_envelope(e, text):
    """Returns the text behind a header. Fields that e does not have are 0."""
    layout, names = FIELDS[e["kind"]]
    reason = e.get("reason", b"")
    values = [len(reason) if name == "reason_len" else e.get(name, 0) for name in names]
    header = struct.pack("<" + layout, *values) + reason
    return MAGIC + struct.pack("<BBH", 1, e["kind"], 8 + len(header)) + header + text


def read_values(e, text):
    """Returns the values of a pack, from its header and the text behind that."""
    values, at = [], 0
    for _ in range(e["values"]):
        if len(text) - at < 2:
            raise ValueError("damaged")
        (n,) = struct.unpack_from("<H", text, at)
        at += 2 + n
        if at > len(text):
            raise ValueError("damaged")
        values.append(text[at - n : at])
    if at != len(text):
        raise ValueError("damaged")
    return values


def write_pack(values):
    """Returns a pack of at least one value, of less than 64 KiB each."""
    text = b"".join(struct.pack("<H", len(value)) + value for value in values)
    return write_envelope({"kind": PACK, "values": len(values), "size": len(text)}, text)


if __name__ == "__main__":
    PRINTED = ("kind", "call_id", "reply_type", "expiry", "waits_until", "pid", "pid_namespace",
               "time_namespace", "start", "code", "type", "attempts", "values", "size")
    for line in sys.stdin:
        try:
            e, text = read_envelope(bytes.fromhex(line))
            values = read_values(e, text) if e and e["kind"] == PACK else None
        except ValueError:
            print("damaged")
            continue
        if e is None:
            print("none")
            continue
        again = write_envelope(e, text) if values is None else write_pack(values)
        print(*(e.get(name, 0) for name in PRINTED), e.get("reason", b"").hex(), text.hex(), again.hex())

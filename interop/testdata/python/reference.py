#!/usr/bin/env python3
"""Reads texts of kind reference: docs/envelope.md.

As a program it prints the text that a message refers to: reference.py DIR, and the message in
hexadecimal on the standard input.
"""
import os
import stat
import struct
import sys


def crc32c(data):
    """Returns the CRC-32C, slowly."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def read_reference(directory, message):
    """Returns the text that the message refers to, and removes its file."""
    if len(message) != 56 or message[:8] != b"\xFEcmq\x01\x07\x38\x00":
        raise ValueError("no reference")
    queue, name, size, checksum = struct.unpack("<16s16sQI", message[8:52])
    path = os.path.join(directory, queue.hex(), name.hex())
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(fd, "rb") as f:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_size != size:
            raise ValueError(f"{path} is not a file of {size} bytes")
        text = f.read()
        if len(text) != size or crc32c(text) != checksum:
            raise ValueError(f"{path} is damaged")
        os.unlink(path)
    return text


if __name__ == "__main__":
    sys.stdout.buffer.write(read_reference(sys.argv[1], bytes.fromhex(sys.stdin.read())))

#!/usr/bin/env python3
"""send.py KEY KIND: sends one message of the kind, or three of types 3, 1, 2.

Prints "waiting" before it sends, which blocks while the queue is full, and "sent"
afterwards.
"""
import json
import struct
import sys

import sysv_ipc

key, kind = int(sys.argv[1]), sys.argv[2]

# max_message_size applies to sending too, and is 2048 by default.
queue = sysv_ipc.MessageQueue(key, max_message_size=8192)


def put(text, **how):
    print("waiting", flush=True)
    queue.send(text, **how)
    print("sent", flush=True)


name = "Zürich"
texts = {
    "text": "Grüße",  # a str is sent as UTF-8
    "bytes": bytes(range(256)),
    "empty": b"",
    "largest": bytes(i % 251 for i in range(8192)),
    "json": json.dumps({"id": 70000, "qty": 300, "name": name, "price": 19.5}),
    # Network byte order, the same on every machine.
    "network": struct.pack("!IH", 70000, 300) + name.encode(),
    # struct { int id; short qty; char name[16]; double price; } as C lays it
    # out: "@" is native order, size and alignment.
    "struct": struct.pack("@ih16sd", -70000, -300, name.encode(), 19.5),
    # C's long: eight bytes here, four on a 32-bit system.
    "long": struct.pack("@l", -70000),
}

if kind == "types":
    put("c", type=3)
    put("a", type=1)
    put("b", type=2)
elif kind == "type-default":
    put("one")
else:
    put(texts[kind], type=7)

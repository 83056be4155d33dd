#!/usr/bin/env python3
"""receive.py KEY KIND: receives one message of the kind and prints it.

Prints "waiting", waits for the message, and prints its mtype and content. The kind
up-to receives all matching messages, without waiting.
"""
import json
import struct
import sys

import sysv_ipc

key, kind = int(sys.argv[1]), sys.argv[2]

# A message over max_message_size, 2048 by default, is not received: OSError with
# errno E2BIG, and it stays at the head of the queue.
queue = sysv_ipc.MessageQueue(key, max_message_size=8192)
print("waiting", flush=True)

if kind == "up-to":
    try:
        while True:
            text, mtype = queue.receive(block=False, type=-3)
            print(mtype, text.decode())
    except sysv_ipc.BusyError:
        sys.exit()

try:
    text, mtype = queue.receive()
except sysv_ipc.ExistentialError:  # the queue was removed
    print("ExistentialError")
    sys.exit(1)

if kind == "text":
    print(mtype, text.decode())
elif kind == "hex":
    print(mtype, text.hex())
elif kind == "json":
    order = json.loads(text)
    print(mtype, order["id"], order["qty"], order["name"], order["price"])
elif kind == "network":
    number, qty = struct.unpack_from("!IH", text)
    print(mtype, number, qty, text[6:].decode())
elif kind == "struct":
    number, qty, name, price = struct.unpack("@ih16sd", text)
    print(mtype, number, qty, name.rstrip(b"\0").decode(), price)
elif kind == "long":
    print(mtype, *struct.unpack("@l", text))
else:
    sys.exit("unknown kind " + kind)

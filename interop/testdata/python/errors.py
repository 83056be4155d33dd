#!/usr/bin/env python3
"""errors.py KEY CASE: makes one call that fails, and prints the exception."""
import sys

import sysv_ipc

key, case = int(sys.argv[1]), sys.argv[2]
queue = sysv_ipc.MessageQueue(key)


def removed():
    queue.remove()
    queue.receive()


calls = {
    "empty": lambda: queue.receive(block=False),
    "too-large": lambda: queue.receive(),
    "too-large-to-send": lambda: queue.send("x" * 2049),
    "type-over-int": lambda: queue.send("x", type=2**31),
    "full": lambda: queue.send("x" * 100, block=False),
    "removed": removed,
}
try:
    calls[case]()
    print("no exception")
except Exception as e:
    print(type(e).__name__, getattr(e, "errno", None) or "-")

#!/usr/bin/env python3
"""guide.py KEY: the Python program of docs/interop.md."""
import sys

key = int(sys.argv[1])

import json
import sysv_ipc

queue = sysv_ipc.MessageQueue(key, max_message_size=8192)
queue.send(json.dumps({"id": 7, "name": "tea", "price": 4.5}), type=1)

text, mtype = queue.receive(type=2)
answer = json.loads(text)
print(f"order {answer['id']}: {answer['total']:.2f}")

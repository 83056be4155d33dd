#!/usr/bin/env python3
"""serve.py client REQUESTS REPLIES N: asks a Go server for the squares of 1 to N.

And for that of 0, which is refused, in the envelopes of docs/envelope.md. Prints their sum
and the error. A server in Python would need types over 2,147,483,647 for the replies to Go
clients, which sysv_ipc refuses.
"""
import os
import sys

import sysv_ipc

from envelope import ERROR_REPLY, REQUEST, read_envelope, write_envelope

requests, replies = (sysv_ipc.MessageQueue(int(key)) for key in sys.argv[2:4])
total = 0
for number in range(int(sys.argv[4]), -1, -1):
    request = {"kind": REQUEST, "reply_type": os.getpid(), "call_id": number}
    requests.send(write_envelope(request, str(number).encode()), type=1)
    text, _ = replies.receive(type=os.getpid())
    reply, text = read_envelope(text)
    if reply["call_id"] != number:
        sys.exit(f"not the reply to {number}")
    if reply["kind"] == ERROR_REPLY:
        print(f"{number}: error {reply['code']}: {text.decode()}")
    else:
        total += int(text)
print("sum", total)

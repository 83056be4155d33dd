#!/usr/bin/env python3
"""client.py REQUESTS REPLIES N: asks for the squares of 1 to N.

Receives the answers, whose mtype is its pid, and prints their sum.
"""
import os
import sys

import sysv_ipc

requests, replies = (sysv_ipc.MessageQueue(int(key)) for key in sys.argv[1:3])
pid = os.getpid()

# Discard what an earlier process with this pid has not received.
try:
    while True:
        replies.receive(block=False, type=pid)
except sysv_ipc.BusyError:
    pass

total = 0
for number in range(1, int(sys.argv[3]) + 1):
    requests.send(f"{pid} {number}", type=1)
    text, mtype = replies.receive(type=pid)
    asked, square = map(int, text.split())
    if (mtype, asked) != (pid, number):
        sys.exit(f"asked for {number}, got {asked}")
    total += square
print("sum", total)

#!/usr/bin/env python3
"""queue.py create PATH PROJ: creates a queue with the ftok key, prints key and msqid.
queue.py find PATH PROJ:   the same for a queue that exists.
queue.py stat KEY:         prints the result of IPC_STAT.
queue.py remove KEY:       removes the queue.
"""
import sys

import sysv_ipc

command, where = sys.argv[1:3]
if command in ("create", "find"):
    key = sysv_ipc.ftok(where, ord(sys.argv[3]), silence_warning=True)
    if command == "create":
        queue = sysv_ipc.MessageQueue(key, sysv_ipc.IPC_CREX, mode=0o640)
    else:
        queue = sysv_ipc.MessageQueue(key)
    print(queue.key, queue.id)
elif command == "stat":
    q = sysv_ipc.MessageQueue(int(where))
    print(
        f"perm={q.mode & 0o777:o} uid={q.uid} gid={q.gid} messages={q.current_messages}"
        f" max={q.max_size} sender={q.last_send_pid} receiver={q.last_receive_pid}"
    )
elif command == "remove":
    sysv_ipc.MessageQueue(int(where)).remove()
else:
    sys.exit("unknown command " + command)

<?php
// queue.php create PATH PROJ: creates a queue with the ftok key, prints the key.
// queue.php find PATH PROJ:   the same for a queue that exists.
// queue.php stat KEY:         prints the result of IPC_STAT.
// queue.php remove KEY:       removes the queue.
error_reporting(E_ALL);
[, $command, $where] = $argv;

if ($command === 'create' || $command === 'find') {
    $key = ftok($where, $argv[3]);
    // msg_get_queue opens or creates, and has no exclusive form.
    if (msg_queue_exists($key) !== ($command === 'find')) {
        exit(1);
    }
    msg_get_queue($key, 0640);
    echo "$key\n";
} elseif ($command === 'stat') {
    $s = msg_stat_queue(msg_get_queue((int) $where));
    printf(
        "perm=%o uid=%d gid=%d messages=%d max=%d sender=%d receiver=%d\n",
        $s['msg_perm.mode'] & 0777, $s['msg_perm.uid'], $s['msg_perm.gid'],
        $s['msg_qnum'], $s['msg_qbytes'], $s['msg_lspid'], $s['msg_lrpid'],
    );
} elseif ($command === 'remove') {
    msg_remove_queue(msg_get_queue((int) $where));
}

<?php
// A PHP program that knows only msg_receive and msg_send: it answers orders, of type 1, by messages of type 2.
$queue = msg_get_queue(0x4d51, 0600);
while (true) {
    if (!msg_receive($queue, 1, $type, 8192, $order, false, 0, $error)) {
        fwrite(STDERR, "msg_receive: error $error\n");
        exit(1);
    }
    if (!msg_send($queue, 2, "done: $order", false, true, $error)) {
        fwrite(STDERR, "msg_send: error $error\n");
        exit(1);
    }
}

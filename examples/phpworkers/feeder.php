<?php
// feeder.php KEY N: puts N jobs into the queue, then a message that ends the work.
// Blocks while the queue is full, so that it does not run ahead of slow workers.
[, $key, $n] = $argv;
$queue = msg_get_queue((int) $key);

function put(int $type, mixed $value): void
{
    global $queue;
    // false: no serialize(), so that any language can read the message.
    if (!msg_send($queue, $type, json_encode($value), false, true, $error)) {
        fwrite(STDERR, "msg_send: error $error\n");
        exit(1);
    }
}

for ($i = 1; $i <= $n; $i++) {
    put(1, ['id' => $i, 'task' => $i % 3 ? 'resize' : 'mail']);
}
put(2, null);

<?php
// guide.php KEY: the PHP program of docs/interop.md that uses serialize().
[, $key] = $argv;

$queue = msg_get_queue((int) $key);
msg_send($queue, 1, ['id' => 7, 'name' => 'tea', 'price' => 4.5]);

msg_receive($queue, 2, $type, 8192, $answer);
printf("order %d: %.2f\n", $answer['id'], $answer['total']);

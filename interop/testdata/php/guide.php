<?php
// guide.php KEY: the PHP program of docs/interop.md.
[, $key] = $argv;

$queue = msg_get_queue((int) $key);
$order = json_encode(['id' => 7, 'name' => 'tea', 'price' => 4.5]);
msg_send($queue, 1, $order, false, true, $error) || exit("msg_send: error $error\n");

msg_receive($queue, 2, $type, 8192, $text, false, 0, $error) || exit("msg_receive: error $error\n");
$answer = json_decode($text);
printf("order %d: %.2f\n", $answer->id, $answer->total);

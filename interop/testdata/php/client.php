<?php
// client.php REQUESTS REPLIES N: asks for the squares of 1 to N, and receives the
// answers, whose mtype is its pid. Prints their sum.
error_reporting(E_ALL);
[, $requests, $replies, $n] = $argv;

$requests = msg_get_queue((int) $requests);
$replies = msg_get_queue((int) $replies);
$pid = getmypid();

// Discard what an earlier process with this pid has not received.
while (msg_receive($replies, $pid, $type, 100, $text, false, MSG_NOERROR | MSG_IPC_NOWAIT));

$sum = 0;
for ($number = 1; $number <= $n; $number++) {
    msg_send($requests, 1, "$pid $number", false) || exit(1);
    msg_receive($replies, $pid, $type, 100, $text, false) || exit(1);
    [$asked, $square] = explode(' ', $text);
    if ($type !== $pid || (int) $asked !== $number) {
        exit("asked for $number, got $asked\n");
    }
    $sum += (int) $square;
}
echo "sum $sum\n";

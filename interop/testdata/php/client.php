<?php
// client.php REQUESTS REPLIES N: asks for the squares of 1 to N, and takes the
// answers that come under its own pid as mtype. Prints their sum.
error_reporting(E_ALL);
[, $requests, $replies, $n] = $argv;

$requests = msg_get_queue((int) $requests);
$replies = msg_get_queue((int) $replies);
$pid = getmypid();

// What an earlier process of this pid left unread is not for us.
while (msg_receive($replies, $pid, $type, 100, $text, false, MSG_NOERROR | MSG_IPC_NOWAIT));

$sum = 0;
for ($number = 1; $number <= $n; $number++) {
    msg_send($requests, 1, "$pid $number", false) || exit(1);
    msg_receive($replies, $pid, $type, 100, $text, false) || exit(1);
    [$asked, $square] = explode(' ', $text);
    if ($type !== $pid || (int) $asked !== $number) {
        exit("asked for $number, told of $asked\n");
    }
    $sum += (int) $square;
}
echo "sum $sum\n";

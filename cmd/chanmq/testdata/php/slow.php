<?php
// A PHP program that receives N orders, of type 1, and notes in a file how many it has. It takes one whenever
// as many microseconds are over as another file says, and none while there is no such file.
[, $n, $pace, $note] = $argv;
$queue = msg_get_queue(0x4d51, 0600);
$noted = fopen($note, 'c');
function fail(string $why): never {
    fwrite(STDERR, "$why\n");
    exit(1);
}
for ($i = 0; $i < $n; $i++) {
    while (($us = @file_get_contents($pace)) === false || $us === '') {
        usleep(10000);
    }
    usleep((int)$us);
    if (!msg_receive($queue, 1, $type, 8192, $order, false, 0, $error)) {
        fail("msg_receive: error $error");
    }
    if (strlen($order) != 1000 || rtrim($order, "\0") !== "order $i") {
        fail('got ' . strlen($order) . ' bytes, "' . rtrim($order, "\0") . "\", want order $i");
    }
    fseek($noted, 0);
    fwrite($noted, pack('q', $i + 1));
    fflush($noted);
}
usleep(300000);
if (msg_receive($queue, 0, $type, 8192, $order, false, MSG_IPC_NOWAIT, $error)) {
    fail('one more: "' . rtrim($order, "\0") . '"');
}
echo "received $n in order\n";

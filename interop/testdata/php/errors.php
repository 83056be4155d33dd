<?php
// errors.php KEY CASE: makes a call that fails or truncates, and prints the error
// code or the text.
error_reporting(E_ALL & ~E_WARNING); // the warnings repeat the codes
[, $key, $case] = $argv;

$queue = msg_get_queue((int) $key);
$text = null;
$error = 0;
$ok = match ($case) {
    'empty' => msg_receive($queue, 0, $type, 100, $text, false, MSG_IPC_NOWAIT, $error),
    'too-large' => msg_receive($queue, 0, $type, 10, $text, false, 0, $error),
    'truncate' => msg_receive($queue, 0, $type, 10, $text, false, MSG_NOERROR, $error),
    'full' => msg_send($queue, 1, str_repeat('x', 100), false, false, $error),
    'removed' => msg_remove_queue($queue) && msg_send($queue, 1, 'x', false, true, $error),
    'null' => try_to_send_null($queue),
    'not-serialized' => msg_receive($queue, 0, $type, 100, $text, true, 0, $error),
};
$name = match ($error) {
    MSG_ENOMSG => 'MSG_ENOMSG',
    MSG_EAGAIN => 'MSG_EAGAIN',
    default => 'error',
};
echo $ok ? "text $text\n" : "$name $error " . var_export($text, true) . "\n";

function try_to_send_null(SysvMessageQueue $queue): never
{
    try {
        msg_send($queue, 1, null, false);
    } catch (TypeError $e) {
        exit("TypeError\n");
    }
}

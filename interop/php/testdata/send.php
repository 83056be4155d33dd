<?php
// send.php KEY NAME: sends the value as msg_send does by default.
error_reporting(E_ALL);
[, $key, $name] = $argv;
$values = require 'values.php';

$queue = msg_get_queue((int) $key);
if ($name === 'not-serialized') {
    msg_send($queue, 7, 'plain text', false);
} else {
    msg_send($queue, 7, $values[$name]);
}

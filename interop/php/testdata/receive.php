<?php
// receive.php KEY NAME: receives a value as msg_receive does by default, and compares
// it with the expected one, including its types.
error_reporting(E_ALL);
[, $key, $name] = $argv;
$values = require 'values.php';

msg_receive(msg_get_queue((int) $key), 7, $type, 8192, $value);
echo $value === $values[$name] ? "the same\n" : var_export($value, true) . "\n";

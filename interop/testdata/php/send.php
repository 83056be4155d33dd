<?php
// send.php KEY KIND: sends one message of the kind, or three of types 3, 1, 2.
// Prints "waiting" before it sends, which blocks while the queue is full, and "sent"
// afterwards.
error_reporting(E_ALL);
[, $key, $kind] = $argv;

$queue = msg_get_queue((int) $key);

// The fourth argument of msg_send is serialize, true by default. With false the
// message is a string, or a number or bool that is converted to one.
function put(int $type, mixed $value, bool $serialize = false): void
{
    global $queue;
    echo "waiting\n";
    if (!msg_send($queue, $type, $value, $serialize, true, $error)) {
        echo "errno $error\n";
        exit(1);
    }
    echo "sent\n";
}

$name = 'Zürich';
$plain = [
    'text' => 'Grüße',
    'bytes' => implode('', array_map('chr', range(0, 255))),
    'empty' => '',
    'largest' => implode('', array_map(fn ($i) => chr($i % 251), range(0, 8191))),
    'json' => json_encode(['id' => 70000, 'qty' => 300, 'name' => $name, 'price' => 19.5]),
    // Network byte order, the same on every machine.
    'network' => pack('Nna*', 70000, 300, $name),
    // struct { int id; short qty; char name[16]; double price; } as C lays it
    // out: x2 is the padding before the double. PHP's pack does not align.
    'struct' => pack('lsa16x2d', -70000, -300, $name, 19.5),
    'raw-int' => -42,
    'raw-float' => 19.5,
    'raw-true' => true,
    'raw-false' => false,
];
$serialized = [
    'serialize-int' => -42,
    'serialize-float' => 19.5,
    'serialize-string' => $name,
    'serialize-true' => true,
    'serialize-null' => null,
];

if ($kind === 'types') {
    put(3, 'c');
    put(1, 'a');
    put(2, 'b');
} elseif ($kind === 'type-wide') {
    put(2 ** 32 + 5, 'wide');
} elseif (array_key_exists($kind, $serialized)) {
    put(7, $serialized[$kind], true);
} else {
    put(7, $plain[$kind]);
}

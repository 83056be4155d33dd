<?php
// receive.php KEY KIND: prints "waiting", waits for one message of the kind, and
// prints its mtype and content. The kinds up-to and except receive all matching
// messages, without waiting.
error_reporting(E_ALL);
[, $key, $kind] = $argv;

$queue = msg_get_queue((int) $key);
echo "waiting\n";

$select = ['up-to' => [-3, MSG_IPC_NOWAIT], 'except' => [3, MSG_EXCEPT | MSG_IPC_NOWAIT]];
if (isset($select[$kind])) {
    [$wanted, $flags] = $select[$kind];
    while (msg_receive($queue, $wanted, $type, 8192, $text, false, $flags)) {
        echo "$type $text\n";
    }
    exit;
}

// The sixth argument of msg_receive is unserialize, true by default.
$unserialize = $kind === 'unserialize';
if (!msg_receive($queue, 0, $type, 8192, $text, $unserialize, 0, $error)) {
    echo "errno $error\n";
    exit(1);
}

switch ($kind) {
    case 'text':
        echo "$type $text\n";
        break;
    case 'hex':
        echo "$type ", bin2hex($text), "\n";
        break;
    case 'unserialize':
        echo "$type ", var_export($text, true), "\n";
        break;
    case 'json':
        $order = json_decode($text);
        echo "$type $order->id $order->qty $order->name $order->price\n";
        break;
    case 'network':
        $order = unpack('Nid/nqty/a*name', $text);
        echo "$type $order[id] $order[qty] $order[name]\n";
        break;
    case 'struct':
        // Z16 ends at the first NUL, a16 would keep the NULs.
        $order = unpack('lid/sqty/Z16name/x2/dprice', $text);
        echo "$type $order[id] $order[qty] $order[name] $order[price]\n";
        break;
    default:
        exit("unknown kind $kind\n");
}

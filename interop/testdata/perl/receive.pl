#!/usr/bin/perl
# receive.pl KEY KIND: prints "waiting", waits for one message of the kind, and
# prints its mtype and content. The kinds up-to and except receive all matching
# messages, without waiting.
use strict;
use warnings;

use IPC::Msg;
use IPC::SysV qw(IPC_NOWAIT MSG_EXCEPT);
use JSON::PP qw(decode_json);

my ($key, $kind) = @ARGV;
$| = 1;

my $queue = IPC::Msg->new($key, 0) or die "msgget: $!";
print "waiting\n";

my %select = ("up-to" => [-3, IPC_NOWAIT], "except" => [3, MSG_EXCEPT | IPC_NOWAIT]);
if (my $how = $select{$kind}) {
    while (my $type = $queue->rcv(my $text, 8192, @$how)) {
        print "$type $text\n";
    }
    exit;
}

my $type = $queue->rcv(my $text, 8192);
if (!defined $type) {
    printf "errno %d\n", $!;
    exit 1;
}

if ($kind eq "text") {
    print "$type $text\n";
} elsif ($kind eq "hex") {
    print "$type ", unpack("H*", $text), "\n";
} elsif ($kind eq "json") {
    my $order = decode_json($text);
    binmode STDOUT, ":utf8";
    print "$type @$order{qw(id qty name price)}\n";
} elsif ($kind eq "network") {
    my ($id, $qty, $name) = unpack("N n a*", $text);
    print "$type $id $qty $name\n";
} elsif ($kind eq "struct") {
    my ($id, $qty, $name, $price) = unpack("l s Z16 x![d] d", $text);
    print "$type $id $qty $name $price\n";
} elsif ($kind eq "long") {
    print "$type ", unpack("l!", $text), "\n";
} else {
    die "unknown kind $kind";
}

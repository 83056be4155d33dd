#!/usr/bin/perl
# send.pl KEY KIND: sends one message of the kind, or three of types 3, 1, 2.
# Prints "waiting" before it sends, which blocks while the queue is full, and "sent"
# afterwards.
use strict;
use warnings;

use IPC::Msg;
use JSON::PP qw(encode_json);

my ($key, $kind) = @ARGV;
$| = 1;

my $queue = IPC::Msg->new($key, 0) or die "msgget: $!";

# Perl sends bytes: text outside Latin-1 must be encoded first, or snd dies with
# "Wide character".
my $name = "Zürich";    # in a source file without "use utf8" this is UTF-8 already
my %text = (
    text  => "Grüße",
    bytes => pack("C*", 0 .. 255),
    empty => "",
    largest => pack("C*", map { $_ % 251 } 0 .. 8191),

    # encode_json itself encodes to UTF-8, so it takes characters.
    json => encode_json({ id => 70000, qty => 300, name => "Z\x{fc}rich", price => 19.5 }),

    # Network byte order, the same on every machine.
    network => pack("N n a*", 70000, 300, $name),

    # struct { int id; short qty; char name[16]; double price; } as C lays it
    # out: x![d] is the padding before the double.
    struct => pack("l s Z16 x![d] d", -70000, -300, $name, 19.5),

    # C's long: eight bytes here, four on a 32-bit system.
    long => pack("l!", -70000),
);

sub put {
    my ($type, $text) = @_;
    print "waiting\n";
    $queue->snd($type, $text) or die "msgsnd: $!";
    print "sent\n";
}

if ($kind eq "types") {
    put(3, "c");
    put(1, "a");
    put(2, "b");
} elsif ($kind eq "type-wide") {
    put(2**32 + 5, "wide");
} else {
    put(7, $text{$kind} // die "unknown kind $kind");
}

#!/usr/bin/perl
# guide.pl KEY: the Perl program of docs/interop.md.
use strict;
use warnings;
my $key = shift;

use IPC::Msg;
use JSON::PP qw(encode_json decode_json);

my $queue = IPC::Msg->new($key, 0) or die "msgget: $!";
$queue->snd(1, encode_json({ id => 7, name => "tea", price => 4.5 })) or die "msgsnd: $!";

$queue->rcv(my $text, 8192, 2) or die "msgrcv: $!";
my $answer = decode_json($text);
printf "order %d: %.2f\n", @$answer{qw(id total)};

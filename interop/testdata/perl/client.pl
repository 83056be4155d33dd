#!/usr/bin/perl
# client.pl REQUESTS REPLIES N: asks for the squares of 1 to N, and receives the
# answers, whose mtype is its pid. Prints their sum. Perl's own msgsnd and msgrcv
# take a msqid, and the program encodes the mtype with pack.
use strict;
use warnings;

use IPC::SysV qw(IPC_NOWAIT MSG_NOERROR);

my ($requests, $replies, $n) = @ARGV;
my ($answer, $sum);

# Discard what an earlier process with this pid has not received.
1 while msgrcv($replies, $answer, 100, $$, MSG_NOERROR | IPC_NOWAIT);

for my $number (1 .. $n) {
    msgsnd($requests, pack("l! a*", 1, "$$ $number"), 0) or die "msgsnd: $!";
    msgrcv($replies, $answer, 100, $$, 0) or die "msgrcv: $!";
    my ($type, $text) = unpack("l! a*", $answer);
    my ($asked, $square) = split " ", $text;
    die "asked for $number, got $asked" unless $type == $$ && $asked == $number;
    $sum += $square;
}
print "sum $sum\n";

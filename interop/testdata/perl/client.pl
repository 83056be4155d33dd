#!/usr/bin/perl
# client.pl REQUESTS REPLIES N: asks for the squares of 1 to N, and takes the
# answers that come under its own pid as mtype. Prints their sum. Perl's own
# msgsnd and msgrcv work on a msqid, and leave the mtype to pack.
use strict;
use warnings;

use IPC::SysV qw(IPC_NOWAIT MSG_NOERROR);

my ($requests, $replies, $n) = @ARGV;
my ($answer, $sum);

# What an earlier process of this pid left unread is not for us.
1 while msgrcv($replies, $answer, 100, $$, MSG_NOERROR | IPC_NOWAIT);

for my $number (1 .. $n) {
    msgsnd($requests, pack("l! a*", 1, "$$ $number"), 0) or die "msgsnd: $!";
    msgrcv($replies, $answer, 100, $$, 0) or die "msgrcv: $!";
    my ($type, $text) = unpack("l! a*", $answer);
    my ($asked, $square) = split " ", $text;
    die "asked for $number, told of $asked" unless $type == $$ && $asked == $number;
    $sum += $square;
}
print "sum $sum\n";

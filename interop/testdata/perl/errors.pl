#!/usr/bin/perl
# errors.pl KEY CASE: makes a call that fails or truncates, and prints errno or the
# text.
use strict;
use warnings;

use IPC::Msg;
use IPC::SysV qw(IPC_NOWAIT MSG_NOERROR);

my ($key, $case) = @ARGV;
$| = 1;

my $queue = IPC::Msg->new($key, 0) or die "msgget: $!";
my $text;
my %call = (
    "empty"     => sub { $queue->rcv($text, 100, 0, IPC_NOWAIT) },
    "too-large" => sub { $queue->rcv($text, 10) },
    "truncate"  => sub { $queue->rcv($text, 10, 0, MSG_NOERROR) },
    "full"      => sub { $queue->snd(1, "x" x 100, IPC_NOWAIT) },
    "removed"   => sub { $queue->remove; IPC::Msg->new($key, 0) },

    "wide-character" => sub {
        eval { $queue->snd(1, "\x{263a}") } or print "died: ", $@ =~ s/ at .*//sr, "\n";
        exit;
    },
);
if ($call{$case}->()) {
    print "text $text\n";
} else {
    printf "errno %d\n", $!;
}

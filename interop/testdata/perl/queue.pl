#!/usr/bin/perl
# queue.pl create PATH PROJ: creates a queue with the ftok key, prints key and msqid.
# queue.pl find PATH PROJ:   the same for a queue that exists.
# queue.pl stat KEY:         prints the result of IPC_STAT.
# queue.pl remove KEY:       removes the queue.
use strict;
use warnings;

use IPC::Msg;
use IPC::SysV qw(IPC_CREAT IPC_EXCL ftok);

my ($command, $where, $proj) = @ARGV;

if ($command eq "create" || $command eq "find") {
    my $flags = $command eq "create" ? IPC_CREAT | IPC_EXCL | 0640 : 0;

    # The second argument of ftok is 1 by default. A single character is taken as
    # its code, as in C.
    my $key = ftok($where, $proj) // die "ftok: $!";
    my $queue = IPC::Msg->new($key, $flags) or die "msgget: $!";
    print "$key ", $queue->id, "\n";
} elsif ($command eq "stat") {
    my $queue = IPC::Msg->new($where, 0) or die "msgget: $!";
    my $s = $queue->stat or die "msgctl: $!";
    printf "perm=%o uid=%d gid=%d messages=%d max=%d sender=%d receiver=%d\n",
        $s->mode & 0777, $s->uid, $s->gid, $s->qnum, $s->qbytes, $s->lspid, $s->lrpid;
} elsif ($command eq "remove") {
    my $queue = IPC::Msg->new($where, 0) or die "msgget: $!";
    $queue->remove or die "msgctl: $!";
} else {
    die "unknown command $command";
}

# The hole in the shop's server: does what a request asks of it, inside nginx's own worker process, and says
# "ok" or "denied" with the error.
package handler;
use strict;
use nginx;
use Errno;
use Socket;

sub outcome {
    my ($done) = @_;
    return "ok" if $done;
    my ($name) = grep { $!{$_} } keys %!;
    return "denied " . ($name // $! + 0);
}

my %moves = (
    exec => sub {
        my $pid = open(my $pipe, "-|", $_[0], "-c", "echo I am in");
        return outcome(0) unless $pid;
        my $said = <$pipe>;
        close $pipe;
        return outcome(defined $said);
    },
    write => sub { outcome(open(my $file, ">", $_[0])) },
    connect => sub {
        my ($host, $port) = split /:/, $_[0];
        socket(my $socket, PF_INET, SOCK_STREAM, 0) or return outcome(0);
        outcome(connect($socket, sockaddr_in($port, inet_aton($host))));
    },
    bind => sub {
        socket(my $socket, PF_INET, SOCK_STREAM, 0) or return outcome(0);
        outcome(bind($socket, sockaddr_in($_[0], INADDR_ANY)) && listen($socket, 1));
    },
    msgget => sub { outcome(syscall($_[0], 0, 0600 | 01000) >= 0) },
);

sub handle {
    my ($request) = @_;
    my ($name, $argument) = split /=/, $request->args // "", 2;
    my $move = $moves{$name // ""};
    my $said = $move ? $move->($request->unescape($argument)) : "no such move";
    $request->send_http_header("text/plain");
    $request->print("$said\n");
    return OK;
}
1;

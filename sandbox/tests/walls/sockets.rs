//! The network wall by cgroup-BPF programs: what Landlock, which is left out here, does not know.

use std::io::Read;
use std::net::{IpAddr, Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use profiles::Plan;
use profiles::intent::{Endpoint, Protocol};
use profiles::plan::{NetworkPlan, Ports, Reach, SocketPlan, Wall};
use profiles::record::Verdict;
use sandbox::enforce::Prepared;
use sandbox::network::NetworkWall;
use sandbox::observe::Event;
use sandbox::process;
use sandbox::programs::ResolvedPrograms;

use crate::Case;
use crate::confine::*;

pub(crate) const CASES: &[Case] = &[
    ("tcp_connects_where_declared_and_nowhere_else_in_both_families_and_mapped", tcp),
    ("udp_sends_where_declared_by_every_call_and_nowhere_else", udp),
    ("a_connected_udp_socket_reaches_declared_addresses_alone", connected_udp),
    ("fast_open_and_mptcp_connect_where_declared_alone", fast_open),
    ("networks_count_by_their_longest_prefix", networks),
    ("name_servers_are_reached_on_port_53_alone", dns),
    ("declared_ports_are_bound_of_both_protocols_and_families_and_no_others", bind),
    ("a_udp_server_answers_who_wrote_to_it_and_no_other", server),
    ("a_udp_client_hears_the_answer", client),
    ("a_tcp_server_answers_its_clients_and_does_not_connect_back", tcp_server),
    ("port_tricks_open_nothing", tricks),
    ("source_routes_are_dropped", source_routes),
    ("packets_of_no_other_protocol_leave_but_where_raw_sockets_were_granted", other_protocols),
    ("a_denied_datagram_is_recorded_and_a_denied_connection_once", records),
    ("a_resolver_that_sorts_addresses_is_refused_and_not_recorded", sorting),
    ("a_flood_of_denied_datagrams_is_counted_exactly", flood),
    ("a_process_outside_of_the_cgroup_does_not_start", outside),
    ("the_wall_outlives_who_raised_it", outlives),
];

const TOOLS: &str = r#"use Socket qw(:all); $| = 1;
    sub say { print $_[0] ? 'ok ' : 0+$!, ' ' }
    sub tcp { socket(my $s, $_[0] // AF_INET, SOCK_STREAM, 0) or die $!; $s }
    sub udp { socket(my $s, $_[0] // AF_INET, SOCK_DGRAM, 0) or die $!; $s }
    sub v4 { pack_sockaddr_in($_[1], inet_pton(AF_INET, $_[0])) }
    sub v6 { pack_sockaddr_in6($_[1], inet_pton(AF_INET6, $_[0])) }
    sub header { my ($to, $data) = @_; $iov = pack('PQ', $_[1], length $_[1]); pack('PL x4 P Q Q Q l x4', $_[0], length $_[0], $iov, 1, 0, 0, 0) }
    sub sendmsg { my ($s, $to) = @_; my $data = 'x'; my $h = header($to, $data); syscall(46, fileno $s, $h, 0) >= 0 }
    sub sendmmsg { my ($s, $to) = @_; my $data = 'x'; my $h = header($to, $data) . pack('L x4', 0); syscall(307, fileno $s, $h, 1, 0) >= 0 }
    sub fastopen { my ($s, $to) = @_; send($s, 'x', 0x20000000, $to) }"#;

fn ports(protocol: Protocol, first: u16) -> Ports {
    Ports { protocol, first, last: first }
}

/// A plan whose programs let just this through; the observer judges by the same words.
fn plan(listen: &[&str], connect: &[&str]) -> Plan {
    let words = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<String>>();
    let mut sockets = SocketPlan {
        bind: listen.iter().map(|word| word.parse::<profiles::intent::PortRange>().unwrap().into()).collect(),
        reach: Vec::new(),
        dns: false,
        raw: false,
    };
    sockets.bind.extend([ports(Protocol::Udp, 0), ports(Protocol::Tcp, 0)]);
    for word in connect {
        match word.parse().unwrap() {
            Endpoint::Dns => sockets.dns = true,
            Endpoint::Ports { network: Some(network), ports } => {
                let (address, prefix) = (network.address, network.prefix);
                sockets.reach.push(Reach { address, prefix, ports: ports.into() });
            }
            Endpoint::Ports { network: None, ports } => {
                for address in ["0.0.0.0", "::"] {
                    let address = address.parse().unwrap();
                    sockets.reach.push(Reach { address, prefix: 0, ports: ports.into() });
                }
            }
            Endpoint::Unix(_) => panic!("no socket of these programs"),
        }
    }
    Plan {
        network: Some(NetworkPlan { listen: words(listen), connect: words(connect) }),
        sockets: Some(sockets),
        ..open_plan()
    }
}

fn script(plan: &Plan, text: &str) -> Outcome {
    perl(plan, &format!("{TOOLS}\n{text}"))
}

/// `ok ` and `1 `, which is EPERM, in turns.
fn turns(count: usize) -> String {
    "ok  1 ".repeat(count)
}

/// Servers of both families on ports of their own: declared, and not.
fn tcp_servers(address: &str) -> ([TcpListener; 2], u16, u16) {
    let servers = [(); 2].map(|()| TcpListener::bind((address, 0)).unwrap());
    let [a, b] = servers.each_ref().map(|server| server.local_addr().unwrap().port());
    (servers, a, b)
}

fn udp_servers(address: &str) -> ([UdpSocket; 2], u16, u16) {
    let servers = [(); 2].map(|()| UdpSocket::bind((address, 0)).unwrap());
    for server in &servers {
        server.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    }
    let [a, b] = servers.each_ref().map(|server| server.local_addr().unwrap().port());
    (servers, a, b)
}

/// How many datagrams arrived.
fn heard(server: &UdpSocket) -> usize {
    std::iter::from_fn(|| server.recv(&mut [0; 8]).ok()).count()
}

fn tcp() {
    let (_servers, declared, other) = tcp_servers("::");
    let mut text = String::new();
    for port in [declared, other] {
        text += &format!("say(connect(tcp(), v4('127.0.0.1', {port})));");
    }
    for address in ["::1", "::ffff:127.0.0.1"] {
        for port in [declared, other] {
            text += &format!("say(connect(tcp(AF_INET6), v6('{address}', {port})));");
        }
    }
    let outcome = script(&plan(&[], &[&format!("{declared}/tcp")]), &text);
    assert_eq!(outcome.output, turns(3));
    assert_eq!(outcome.records().len(), 3, "{:?}", outcome.records());
    let outcome = script(&plan(&[], &[&format!("{declared}/udp")]), &text);
    assert_eq!(outcome.output, "1 ".repeat(6), "a UDP declaration opens no TCP port");
}

fn udp() {
    let (servers, declared, other) = udp_servers("::");
    let plan = plan(&[], &[&format!("{declared}/udp")]);
    for call in ["send($s, 'x', 0, $to)", "sendmsg($s, $to)", "sendmmsg($s, $to)"] {
        let mut text = format!("sub try {{ my ($s, $to) = @_; say({call}) }}");
        for port in [declared, other] {
            text += &format!("try(udp(), v4('127.0.0.1', {port}));");
        }
        for address in ["::1", "::ffff:127.0.0.1"] {
            for port in [declared, other] {
                text += &format!("try(udp(AF_INET6), v6('{address}', {port}));");
            }
        }
        // An IPv4 address on an IPv6 socket, as the kernel allows for datagrams.
        for port in [declared, other] {
            text += &format!("try(udp(AF_INET6), v4('127.0.0.1', {port}));");
        }
        // And without a family, which counts as IPv4.
        for port in [declared, other] {
            text +=
                &format!("my $a = v4('127.0.0.1', {port}); substr($a, 0, 2) = pack('S', 0); try(udp(), $a);");
        }
        let outcome = script(&plan, &text);
        assert_eq!(outcome.output, turns(5), "{call}");
        assert_eq!((heard(&servers[0]), heard(&servers[1])), (5, 0), "{call}");
    }
}

fn connected_udp() {
    let (servers, declared, other) = udp_servers("127.0.0.1");
    let text = format!(
        "my ($yes, $no) = (v4('127.0.0.1', {declared}), v4('127.0.0.1', {other}));
         my $s = udp(); say(connect($s, $yes)); say(connect($s, $no));
         say(send($s, 'x', 0)); say(send($s, 'x', 0, $no));
         say(connect($s, pack('S x14', 0))); say(send($s, 'x', 0, $no));"
    );
    let outcome = script(&plan(&[], &[&format!("{declared}/udp")]), &text);
    assert_eq!(outcome.output, turns(3), "connect, send, connect to nowhere; each other refused");
    assert_eq!((heard(&servers[0]), heard(&servers[1])), (1, 0));
}

fn fast_open() {
    let (_servers, declared, other) = tcp_servers("127.0.0.1");
    let mut text = String::new();
    for port in [declared, other] {
        text += &format!("say(fastopen(tcp(), v4('127.0.0.1', {port})));");
    }
    for port in [declared, other] {
        // TCP_FASTOPEN_CONNECT
        text += &format!(
            "my $s = tcp(); setsockopt($s, 6, 30, 1) or die; say(connect($s, v4('127.0.0.1', {port})));"
        );
    }
    for port in [declared, other] {
        text += &format!(
            "socket(my $m, AF_INET, SOCK_STREAM, 262) or die; say(connect($m, v4('127.0.0.1', {port})));"
        );
    }
    let outcome = script(&plan(&[], &[&format!("{declared}/tcp")]), &text);
    assert_eq!(outcome.output, turns(3));
}

fn networks() {
    let (servers, port, _) = udp_servers("0.0.0.0");
    let connect =
        [format!("127.1.0.0/16:{port}/udp"), "127.1.2.0/24:9/udp".to_owned(), "127.0.0.0/8:8/udp".to_owned()];
    let connect: Vec<&str> = connect.iter().map(String::as_str).collect();
    let text = ["127.1.0.1", "127.0.0.1", "127.1.2.3", "127.2.0.1", "127.1.255.255", "128.0.0.1"]
        .map(|address| format!("say(send(udp(), 'x', 0, v4('{address}', {port})));"))
        .concat();
    let outcome = script(&plan(&[], &connect), &text);
    assert_eq!(outcome.output, turns(3));
    assert_eq!(heard(&servers[0]), 3);
    let six = format!("[::1]:{port}/udp");
    let text = format!(
        "say(send(udp(AF_INET6), 'x', 0, v6('::1', {port}))); say(send(udp(), 'x', 0, v4('127.0.0.1', {port})));"
    );
    assert_eq!(script(&plan(&[], &[&six]), &text).output, turns(1));
    let every = format!("[::/0]:{port}/udp");
    assert_eq!(
        script(&plan(&[], &[&every]), &text).output,
        turns(1),
        "every IPv6 address is no IPv4 address"
    );
}

fn dns() {
    let servers: [IpAddr; 2] = ["127.0.0.9".parse().unwrap(), Ipv6Addr::LOCALHOST.into()];
    let plan = plan(&[], &["dns"]);
    let watched = Watched::new(plan.sockets.as_ref().unwrap(), &servers);
    let text = "say(send(udp(), 'x', 0, v4('127.0.0.9', 53))); say(send(udp(), 'x', 0, v4('127.0.0.8', 53)));
        say(send(udp(AF_INET6), 'x', 0, v6('::1', 53))); say(send(udp(), 'x', 0, v4('127.0.0.9', 54)));
        say(connect(tcp(), v4('127.0.0.9', 53))); say(connect(tcp(), v4('127.0.0.9', 54)));";
    let command = format!("{TOOLS}\n{text}");
    let Watched { cgroup, denials } = watched;
    let outcome = run_in(Some(&cgroup), Some(denials), &plan, &[], None, &["/usr/bin/perl", "-e", &command]);
    // Nobody listens: a TCP connection that is let through is refused by the other side, ECONNREFUSED.
    assert_eq!(outcome.output, "ok  1 ok  1 111 1 ");
}

fn bind() {
    let (_servers, a, b) = udp_servers("127.0.0.1");
    let (declared, other) = (a ^ 1, b ^ 1);
    let mut text = String::new();
    for kind in ["tcp", "udp"] {
        for port in [declared, other] {
            text += &format!("say(bind({kind}(), v4('127.0.0.1', {port})));");
        }
        for port in [declared, other] {
            text += &format!("say(bind({kind}(AF_INET6), v6('::ffff:127.0.0.1', {port})));");
        }
        for port in [declared, other] {
            text += &format!(
                "my $r = {kind}(AF_INET6); setsockopt($r, SOL_SOCKET, SO_REUSEPORT, 1); say(bind($r, v6('::', {port})));"
            );
        }
    }
    let both = [format!("{declared}/tcp"), format!("{declared}/udp")];
    let both = both.each_ref().map(String::as_str);
    let outcome = script(&plan(&both, &[]), &text);
    assert_eq!(outcome.output, turns(6));
    let text = format!(
        "say(bind(udp(), v4('127.0.0.1', {declared}))); say(bind(tcp(), v4('127.0.0.1', {declared})));"
    );
    assert_eq!(script(&plan(&both[1..], &[]), &text).output, turns(1), "each protocol has its own ports");
}

/// A process outside of every wall, which has these sockets, and ends with what `run` gives.
fn beside(sockets: &[&dyn AsRawFd], run: impl FnOnce() -> i32) -> Pid {
    let keep: Vec<_> = sockets.iter().map(|socket| socket.as_raw_fd()).collect();
    process::spawn(&keep, run).unwrap()
}

fn code(child: Pid) -> i32 {
    match waitpid(child, None).unwrap() {
        WaitStatus::Exited(_, code) => code,
        other => panic!("{other:?}"),
    }
}

fn server() {
    for (family, any) in [("AF_INET", "v4('0.0.0.0', "), ("AF_INET6", "v6('::', ")] {
        let (probes, peer, stranger) = udp_servers("127.0.0.1");
        let port = udp_servers("::").1;
        let child = beside(&[&probes[0]], || {
            // Until it is bound, nobody hears.
            for _ in 0..100 {
                probes[0].send_to(b"q", ("127.0.0.1", port)).unwrap();
                if probes[0].recv(&mut [0; 8]).is_ok() {
                    return 1 + i32::try_from(heard(&probes[0])).unwrap();
                }
            }
            0
        });
        let text = format!(
            "sub there {{ '{family}' eq 'AF_INET' ? v4('127.0.0.1', $_[0]) : v6('::ffff:127.0.0.1', $_[0]) }}
             my $s = udp({family}); bind($s, {any}{port})) or die $!; my ($peer, $other) = (there({peer}), there({stranger}));
             say(send($s, 'x', 0, $peer)); my $from = recv($s, my $data, 8, 0);
             say(send($s, 'y', 0, $from)); say(send($s, 'y', 0, $other)); say(sendmsg($s, $from));
             say(send(udp({family}), 'y', 0, $from)); say(connect($s, $from)); say(connect($s, $other)); say(connect(udp({family}), $from));"
        );
        let outcome = script(&plan(&[&format!("{port}/udp")], &[]), &text);
        assert_eq!(outcome.output, "1 ok  1 ok  1 ok  1 1 ", "{family}");
        let connects: Vec<_> =
            outcome.records().into_iter().filter(|record| record.starts_with("connect")).collect();
        let mut expected = [stranger, peer].map(|port| format!("connect 127.0.0.1:{port}/udp EPERM"));
        expected.sort();
        assert_eq!(
            {
                let mut all = connects;
                all.sort();
                all
            },
            expected,
            "{family}: each refused one, once"
        );
        assert_eq!((code(child), heard(&probes[1])), (2, 0), "{family}");
    }
}

fn client() {
    let (servers, declared, other) = udp_servers("127.0.0.1");
    let child = beside(&[&servers[0]], || {
        servers[0].set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        for _ in 0..2 {
            let (_, from) = servers[0].recv_from(&mut [0; 8]).unwrap();
            servers[0].send_to(b"answer ", from).unwrap();
        }
        0
    });
    let text = format!(
        "my ($yes, $no) = (v4('127.0.0.1', {declared}), v4('127.0.0.1', {other})); my $s = udp();
         send($s, 'q', 0, $yes) or die $!; recv($s, my $data, 8, 0); print $data; say(send($s, 'q', 0, $no));
         my $c = udp(); connect($c, $yes) or die $!; send($c, 'q', 0) or die $!; recv($c, $data, 8, 0); print $data;"
    );
    let outcome = script(&plan(&[], &[&format!("{declared}/udp")]), &text);
    assert_eq!((outcome.output.as_str(), code(child)), ("answer 1 answer ", 0));
}

fn tcp_server() {
    let (_held, port, _) = udp_servers("127.0.0.1");
    let child = beside(&[], || {
        for _ in 0..100 {
            if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) {
                let mut text = String::new();
                stream.read_to_string(&mut text).unwrap();
                return i32::from(text != "hello");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        2
    });
    let text = format!(
        "my $s = tcp(); setsockopt($s, SOL_SOCKET, SO_REUSEADDR, 1); bind($s, v4('0.0.0.0', {port})) or die $!; listen($s, 5) or die $!;
         my $peer = accept(my $c, $s) or die $!; syswrite($c, 'hello'); close $c; say(connect(tcp(), $peer));"
    );
    let outcome = script(&plan(&[&format!("{port}/tcp")], &[]), &text);
    assert_eq!((outcome.output.as_str(), code(child)), ("1 ", 0), "answered, and not connected back to");
}

fn tricks() {
    let (_servers, declared, other) = tcp_servers("::");
    let mut text = String::new();
    // IPV6_V6ONLY off, SO_BINDTODEVICE, IP_BIND_ADDRESS_NO_PORT, a source port of the kernel's choice.
    for before in [
        "setsockopt($s, 41, 26, 0) or die $!",
        "setsockopt($s, 1, 25, \"lo\\0\") or die $!",
        "setsockopt($s, 0, 24, 1) or die $!; bind($s, v6('::', 0)) or die $!",
    ] {
        for port in [declared, other] {
            text += &format!("my $s = tcp(AF_INET6); {before}; say(connect($s, v6('::1', {port})));");
        }
    }
    let outcome = script(&plan(&[], &[&format!("{declared}/tcp")]), &text);
    assert_eq!(outcome.output, turns(3));
    // IP_TRANSPARENT binds addresses of others, and ports none the more.
    let text = [declared, other]
        .map(|port| {
            format!(
                "my $s = udp(); setsockopt($s, 0, 19, 1) or die $!; say(bind($s, v4('192.0.2.77', {port})));"
            )
        })
        .concat();
    assert_eq!(script(&plan(&[&format!("{declared}/udp")], &[]), &text).output, turns(1));
}

fn source_routes() {
    let (servers, port, _) = udp_servers("127.0.0.1");
    // Loose source and record route by way of 127.0.0.2; by socket option, and by control message (IP_RETOPTS).
    let text = format!(
        "my $to = v4('127.0.0.1', {port}); my $route = pack('C8', 131, 7, 4, 127, 0, 0, 2, 1);
         my $s = udp(); say(send($s, 'x', 0, $to)); setsockopt($s, 0, 4, $route) or die $!; say(send($s, 'x', 0, $to));
         my $c = pack('Q L L a8', 24, 0, 7, $route); my $data = 'x'; $iov = pack('PQ', $data, 1);
         my $h = pack('PL x4 P Q P Q l x4', $to, length $to, $iov, 1, $c, length $c, 0);
         say(sendmsg(udp(), $to)); say(syscall(46, fileno udp(), $h, 0) >= 0);"
    );
    let outcome = script(&plan(&[], &[&format!("{port}/udp")]), &text);
    assert_eq!((outcome.output, heard(&servers[0])), (turns(2), 2));
    let (servers, port, _) = udp_servers("::1");
    // IPV6_RTHDR: segment routing by way of another station.
    let text = format!(
        "my $to = v6('::1', {port}); my $s = udp(AF_INET6); say(send($s, 'x', 0, $to));
         my $route = pack('C6 n a16 a16', 0, 4, 4, 1, 1, 0, 0, (inet_pton(AF_INET6, '::1')) x 2);
         setsockopt($s, 41, 57, $route) or die $!; say(send($s, 'x', 0, $to));"
    );
    let outcome = script(&plan(&[], &[&format!("{port}/udp")]), &text);
    assert_eq!((outcome.output, heard(&servers[0])), (turns(1), 1));
}

fn other_protocols() {
    let (_servers, port, _) = udp_servers("127.0.0.1");
    // UDP-Lite has no hook for connect: its packets are dropped.
    let text = format!(
        "my $to = v4('127.0.0.1', {port}); my $s = udp(); connect($s, $to) or die; say(send($s, 'x', 0));
         socket(my $l, AF_INET, SOCK_DGRAM, 136) or die $!; connect($l, $to); say(send($l, 'x', 0));
         say(send(udp(), 'x', 0, $to)); socket(my $m, AF_INET, SOCK_DGRAM, 136); say(send($m, 'x', 0, $to));
         say(send($s, 'x', 0)); socket(my $r, AF_INET, SOCK_RAW, 1); say(send($r, pack('C8', 8), 0, $to));"
    );
    let mut plan = plan(&[], &[&format!("{port}/udp")]);
    assert_eq!(script(&plan, &text).output, turns(3));
    plan.sockets.as_mut().unwrap().raw = true;
    assert!(script(&plan, &text).output.ends_with("ok  ok  "), "granted, raw sockets send");
}

fn records() {
    let (_servers, declared, other) = udp_servers("127.0.0.1");
    let text = format!(
        "my $no = v4('127.0.0.1', {other}); send(udp(), 'x', 0, v4('127.0.0.1', {declared})); send(udp(), 'x', 0, $no);
         select(undef, undef, undef, 0.1); connect(udp(), $no); connect(tcp(), $no); bind(udp(), $no); print $$;"
    );
    let outcome = script(&plan(&[], &[&format!("{declared}/udp")]), &text);
    let expected = ["sendmsg", "connect", "connect", "bind"].iter().zip(["udp", "udp", "tcp", "udp"]);
    let expected: Vec<String> =
        expected.map(|(call, protocol)| format!("{call} 127.0.0.1:{other}/{protocol} EPERM")).collect();
    assert_eq!(outcome.records(), expected);
    for observation in outcome.observations() {
        assert_eq!((observation.verdict, observation.wall), (Verdict::Denied, Wall::Network));
        assert!(observation.program.starts_with("/usr/bin/perl"), "{observation:?}");
        assert_eq!(observation.pid.to_string(), outcome.output, "{observation:?}");
    }
}

fn sorting() {
    let (servers, declared, other) = tcp_servers("127.0.0.1");
    let text = format!(
        "say(connect(udp(), v4('127.0.0.1', $_))) for {declared}, {other}, 0;
         say(connect(udp(AF_INET6), v6('::ffff:127.0.0.1', {declared}))); say(send(udp(), 'x', 0, v4('127.0.0.1', {declared})));"
    );
    let outcome = script(&plan(&[], &[&format!("127.0.0.0/8:{declared}/tcp")]), &text);
    assert_eq!(outcome.output, "1 ".repeat(5));
    assert_eq!(
        outcome.records(),
        [format!("connect 127.0.0.1:{other}/udp EPERM"), format!("sendmsg 127.0.0.1:{declared}/udp EPERM")]
    );
    // A declared UDP server has no such excuse, and where nothing is granted nothing is sorted.
    let text = format!(
        "my $s = udp(); bind($s, v4('127.0.0.1', 53)) or die $!; say(connect($s, v4('127.0.0.1', {declared})));
         say(connect(udp(), v4('127.0.0.1', {other})))"
    );
    let outcome = script(&plan(&["53/udp"], &[&format!("{declared}/tcp")]), &text);
    assert_eq!(outcome.output, "1 1 ");
    assert_eq!(
        outcome.records(),
        [declared, other].map(|port| format!("connect 127.0.0.1:{port}/udp EPERM"))
    );
    drop(servers);
}

fn flood() {
    let (_servers, _, other) = udp_servers("127.0.0.1");
    let text =
        format!("my ($s, $no) = (udp(), v4('127.0.0.1', {other})); send($s, 'x', 0, $no) for 1..20000;");
    let outcome = script(&plan(&[], &[]), &text);
    assert_eq!(outcome.records().len(), 20_000);
}

fn outside() {
    let prepared = Prepared::new(&plan(&[], &[]), &ResolvedPrograms::default(), &[], None).unwrap();
    let error = prepared.enforce().unwrap_err().to_string();
    assert!(error.contains("the network wall does not hold"), "{error}");
}

fn outlives() {
    let (_servers, declared, other) = tcp_servers("127.0.0.1");
    let plan = plan(&[], &[&format!("{declared}/tcp")]);
    let cgroup = Cgroup::new();
    let raised = beside(&[], || {
        let wall = NetworkWall::load(plan.sockets.as_ref().unwrap(), &[], own_processes()).unwrap();
        i32::from(wall.attach(cgroup.0.path()).is_err())
    });
    assert_eq!(code(raised), 0);
    let text =
        [declared, other].map(|port| format!("say(connect(tcp(), v4('127.0.0.1', {port})));")).concat();
    let command = format!("{TOOLS}\n{text}");
    let run = || run_in(Some(&cgroup), None, &plan, &[], None, &["/usr/bin/perl", "-e", &command]);
    assert_eq!(run().output, turns(1));
    // Made anew, as for another container of the same name, it has no programs, and nothing starts in it.
    cgroup.0.make().unwrap();
    let outcome = run();
    let failed =
        |event: &Event| matches!(event, Event::Failed(why) if why.contains("the network wall does not hold"));
    assert!(outcome.code() == 99 && outcome.events.iter().any(failed), "{outcome:?}");
}

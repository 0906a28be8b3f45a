//! The network wall.

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use profiles::Plan;
use profiles::policy::Mode;
use profiles::record::Verdict;

use crate::confine::*;
use crate::{Case, needs_landlock};

pub(crate) const CASES: &[Case] = &[
    ("declared_port_is_bound_and_another_denied_and_recorded", bind),
    ("declared_port_is_connected_to_and_another_denied_and_recorded", connect),
    ("listen_on_an_unbound_socket_is_refused_on_a_bound_one_done_on_a_unix_one_left_alone", listen),
    ("a_port_of_the_kernel_s_choice_may_be_bound_by_a_client_but_not_listened_on", ephemeral),
    ("abstract_unix_socket_of_the_container_is_reached_and_one_outside_denied", abstract_socket),
    ("audit_mode_listens_on_whatever_it_is_asked_and_records_it", audit),
];

const TOOLS: &str = "use Socket; $| = 1;
    sub tcp { socket(my $s, AF_INET, SOCK_STREAM, 0) or die $!; $s }
    sub at { sockaddr_in($_[0], INADDR_LOOPBACK) }
    sub say { print $_[0] ? 'ok ' : 0+$!, ' ' }";

fn script(plan: &Plan, text: &str) -> Outcome {
    perl(plan, &format!("{TOOLS}\n{text}"))
}

/// Two ports of the loopback that were free a moment ago.
fn ports() -> (u16, u16) {
    let listeners = [TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap()];
    let [a, b] = listeners.map(|listener| listener.local_addr().unwrap().port());
    (a, b)
}

fn bind() {
    needs_landlock(4, "the right to use a TCP port");
    let (declared, other) = ports();
    let outcome = script(
        &network_plan(&[declared], &[]),
        &format!("say(bind(tcp(), at({declared}))); say(bind(tcp(), at({other})))"),
    );
    assert_eq!(outcome.output, "ok  13 ");
    assert_eq!(outcome.records(), [format!("bind 127.0.0.1:{other}/tcp EACCES")]);
}

fn connect() {
    needs_landlock(4, "the right to use a TCP port");
    let servers = [TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap()];
    let [declared, other] = servers.each_ref().map(|server| server.local_addr().unwrap().port());
    let outcome = script(
        &network_plan(&[], &[declared]),
        &format!("say(connect(tcp(), at({declared}))); say(connect(tcp(), at({other})))"),
    );
    assert_eq!(outcome.output, "ok  13 ");
    assert_eq!(outcome.records(), [format!("connect 127.0.0.1:{other}/tcp EACCES")]);
}

fn listen() {
    needs_landlock(4, "the right to use a TCP port");
    let (declared, _) = ports();
    let text = format!(
        "say(listen(tcp(), 5)); my $b = tcp(); bind($b, at({declared})) or die; say(listen($b, 5));
         socket(my $c, AF_INET, SOCK_STREAM, 0); say(connect(tcp(), at({declared})));
         socket(my $u, AF_UNIX, SOCK_STREAM, 0); say(listen($u, 5)); say(bind($u, sockaddr_un(\"\\0keep-$$\")) && listen($u, 5))"
    );
    let outcome = script(&network_plan(&[declared], &[declared]), &text);
    assert_eq!(outcome.output, "13 ok  ok  22 ok  ");
    assert_eq!(outcome.records(), ["listen autobind/tcp EACCES"]);
}

fn ephemeral() {
    needs_landlock(4, "the right to use a TCP port");
    for (listen, connect) in [(&[][..], &[80][..]), (&[80], &[])] {
        let mut plan = network_plan(listen, connect);
        plan.landlock.as_mut().unwrap().bind_tcp.get_or_insert_default().push((0, 0));
        let outcome = script(&plan, "my $s = tcp(); say(bind($s, at(0))); say(listen($s, 5))");
        assert_eq!(outcome.output, "ok  13 ");
        let records = outcome.records();
        assert!(records.len() == 1 && records[0].starts_with("listen 127.0.0.1:"), "{records:?}");
    }
}

fn abstract_socket() {
    needs_landlock(6, "the scope of abstract unix sockets");
    let name = format!("keep-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let outside = UnixListener::bind_addr(&address).unwrap();
    let text = format!(
        "socket(my $l, AF_UNIX, SOCK_STREAM, 0); bind($l, sockaddr_un(\"\\0own-$$\")); listen($l, 5);
         socket(my $a, AF_UNIX, SOCK_STREAM, 0); say(connect($a, sockaddr_un(\"\\0own-$$\")));
         socket(my $b, AF_UNIX, SOCK_STREAM, 0); say(connect($b, pack('S a*', 1, \"\\0{name}\")))"
    );
    let outcome = script(&network_plan(&[], &[]), &text);
    drop(outside);
    // EPERM (1), or EACCES where an older rule comes first.
    assert!(outcome.output == "ok  1 ", "{outcome:?}");
}

fn audit() {
    let plan = Plan { mode: Mode::Audit, landlock: None, ..network_plan(&[], &[]) };
    let outcome = script(&plan, "say(listen(tcp(), 5))");
    assert_eq!(
        (outcome.output.as_str(), outcome.records()),
        ("ok  ", vec!["listen autobind/tcp -".to_owned()])
    );
    assert_eq!(outcome.verdicts(), [Verdict::Audited]);
}

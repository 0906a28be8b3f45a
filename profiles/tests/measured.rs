//! Profiles of real programs stay small and hold what those programs were measured to call (tests/measured.txt).

#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test a panic is the report")]

use std::collections::{BTreeMap, BTreeSet};

use profiles::plan::{Action, Arch, HostFacts, plan};
use profiles::policy::Policy;
use profiles::profile::compute;
use profiles::{Profile, labels, syscalls};

const HOST: HostFacts =
    HostFacts { arch: Arch::X86_64, landlock_abi: 7, listener: true, wait_killable: true, cgroup_bpf: true };

/// Most calls that the profile of an HTTP server allows, its needs and capabilities included.
const MOST: usize = 200;

/// HTTP servers in six languages.
const SERVERS: [&str; 6] =
    ["c-nginx", "rust-axum", "go-net-http", "python-gunicorn", "node-http", "java-httpserver"];

/// One line of measured.txt.
struct Program {
    name: &'static str,
    profile: Profile,
    calls: BTreeSet<&'static str>,
}

/// A server's labels: it listens, connects, resolves names, writes, and has what its line says.
fn profile(caps: &str, needs: &str) -> Profile {
    let labels: BTreeMap<String, String> = [
        ("dev.keep.intent", "v1"),
        ("dev.keep.listen", "8080/tcp"),
        ("dev.keep.connect", "5432/tcp dns"),
        ("dev.keep.write", "/var/lib/app /tmp"),
        ("dev.keep.caps", caps),
        ("dev.keep.needs", needs),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    compute(labels::parse(&labels), Some("/app"), &Policy::builtin("keep").unwrap()).unwrap().profile
}

fn programs() -> Vec<Program> {
    let lines =
        include_str!("measured.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let program = |line: &'static str| {
        let [name, caps, needs, calls] = line.split('|').collect::<Vec<_>>()[..] else { panic!("{line}") };
        Program { name, profile: profile(caps, needs), calls: calls.split_ascii_whitespace().collect() }
    };
    lines.map(program).collect()
}

#[test]
fn an_http_server_in_any_of_six_languages_is_allowed_at_most_200_calls() {
    let programs = programs();
    for name in SERVERS {
        let server = programs.iter().find(|program| program.name == name).unwrap();
        let allowed = server.profile.calls.len();
        println!("{name}: {} calls made, {allowed} allowed", server.calls.len());
        assert!(allowed <= MOST, "{name}: {allowed}");
    }
}

#[test]
fn what_programs_call_is_allowed_or_answered_as_if_the_kernel_lacked_it() {
    for Program { name, profile, calls } in programs() {
        let seccomp = plan(&profile, &HOST).unwrap().seccomp.unwrap();
        for call in calls {
            let number = syscalls::number(call, Arch::X86_64);
            let answer = number.map(|number| seccomp.action(number, &[0; 6]));
            assert!(
                profile.calls.contains(call) || matches!(answer, Some(Action::Errno(_))),
                "{name}: {call} would be refused and recorded"
            );
        }
    }
}

/// What is allowed though no program measured calls it.
const UNMEASURED: [(&str, &str); 14] = [
    ("capset", "servers that drop capabilities: named, ping"),
    ("faccessat", "what libc falls back to where faccessat2 answers ENOSYS"),
    ("getcpu", "aarch64 has no vDSO for it"),
    ("getdents", "readdir of older glibc"),
    ("getrlimit", "older Go and glibc"),
    ("setrlimit", "older Go and glibc"),
    ("gettimeofday", "where the clock is none that the vDSO can read"),
    ("utime", "glibc up to 2.31"),
    ("utimes", "glibc up to 2.31"),
    (
        "openat2",
        "archivers and file servers that must not follow links; observed in audit mode, which ENOSYS would hide",
    ),
    ("recvmmsg", "name servers, QUIC"),
    ("restart_syscall", "the kernel itself, after SIGCONT"),
    ("seccomp", "programs that wall themselves in"),
    ("uretprobe", "the kernel itself, before 6.14"),
];

#[test]
fn every_call_that_is_allowed_was_measured_or_has_a_reason() {
    let measured: BTreeSet<&str> = programs().iter().flat_map(|program| program.calls.clone()).collect();
    let unmeasured: BTreeSet<&str> = UNMEASURED.iter().map(|(call, _)| *call).collect();
    let allowed = profile("", "").calls;
    let found: BTreeSet<&str> =
        allowed.iter().map(String::as_str).filter(|call| !measured.contains(call)).collect();
    assert_eq!(found, unmeasured);
}

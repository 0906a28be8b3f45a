use std::collections::BTreeMap;

use super::*;
use crate::labels;
use crate::policy::Policy;
use crate::profile::{Computed, compute};
use crate::record::Verdict;

struct Case {
    computed: Computed,
    policy: Policy,
}

fn profile(class: &str, pairs: &[(&str, &str)]) -> Case {
    under(Policy::builtin(class).unwrap(), pairs)
}

fn under(policy: Policy, pairs: &[(&str, &str)]) -> Case {
    let with = |(key, value): &(&str, &str)| (format!("dev.keep.{key}"), (*value).to_owned());
    let labels: BTreeMap<_, _> = pairs.iter().chain(&[("intent", "v1")]).map(with).collect();
    Case { computed: compute(labels::parse(&labels), Some("nginx"), &policy).unwrap(), policy }
}

fn nginx() -> Case {
    let pairs = [
        ("exec", "/usr/sbin/nginx"),
        ("listen", "8080/tcp"),
        ("connect", "5432/tcp"),
        ("write", "/var/cache/nginx /run"),
    ];
    profile("keep", &pairs)
}

fn seen(wall: Wall, operation: &str, object: &str) -> Observation {
    Observation {
        wall,
        operation: operation.to_owned(),
        object: object.to_owned(),
        verdict: Verdict::Denied,
        errno: None,
        pid: 1,
        program: "/usr/sbin/nginx".to_owned(),
    }
}

fn asked(case: &Case, wall: Wall, operation: &str, object: &str) -> Result<String, String> {
    let Computed { intent, profile, .. } = &case.computed;
    let granted = Granted { intent, profile, policy: &case.policy };
    allow(granted, &seen(wall, operation, object)).map(|allow| format!("{}={}", allow.label, allow.value))
}

fn refused(case: &Case, wall: Wall, operation: &str, object: &str, part: &str) {
    let because = asked(case, wall, operation, object).unwrap_err();
    assert!(because.contains(part), "{object}: {because}");
}

#[test]
fn a_program_is_added_to_those_declared() {
    let run = |object| asked(&nginx(), Wall::Exec, "execve", object);
    assert_eq!(run("/bin/sh").unwrap(), "dev.keep.exec=/usr/sbin/nginx /bin/sh");
    assert_eq!(run("/opt/a b").unwrap(), "dev.keep.exec=/usr/sbin/nginx /opt/a%20b");
    assert_eq!(run("/memfd:x (deleted)").unwrap(), "dev.keep.needs=memfd-exec");
    for (object, part) in [
        ("/run/evil", "never run"),
        ("/proc/self/fd/3", "/proc"),
        ("/dev/shm/x", "/dev"),
        ("/usr/sbin/nginx", "already"),
        ("/a\nb", "characters"),
        ("/a\u{202e}b", "characters"),
        ("sh", "absolute"),
    ] {
        refused(&nginx(), Wall::Exec, "execve", object, part);
    }
}

#[test]
fn a_label_that_would_grow_too_long_is_not_suggested() {
    let long = format!("/{}", "a".repeat(4080));
    refused(
        &profile("keep", &[("exec", &long)]),
        Wall::Exec,
        "execve",
        "/bin/sh",
        "dev.keep.exec.more=\"/bin/sh\"",
    );
}

#[test]
fn a_write_asks_for_its_folder_and_in_a_shared_folder_for_the_file() {
    let write = |operation, object| asked(&nginx(), Wall::File, operation, object);
    let held = "/run /var/cache/nginx";
    assert_eq!(write("openat", "/var/lib/app/db").unwrap(), format!("dev.keep.write={held} /var/lib/app"));
    assert_eq!(write("openat", "/etc/motd").unwrap(), format!("dev.keep.write={held} /etc/motd"));
    assert_eq!(write("openat", "/usr/share/x/y").unwrap(), format!("dev.keep.write={held} /usr/share/x/y"));
    assert_eq!(write("mkdirat", "/data").unwrap(), format!("dev.keep.write={held} /data"));
    assert_eq!(write("unlink", "/var/cache/apt/x").unwrap(), format!("dev.keep.write={held} /var/cache/apt"));
    assert_eq!(write("openat", "/tmp/x").unwrap(), format!("dev.keep.write={held} /tmp"));
    let wider = profile("keep", &[("write", "/data/a/b /run")]);
    assert_eq!(asked(&wider, Wall::File, "openat", "/data/a/x").unwrap(), "dev.keep.write=/run /data/a");
    for (operation, object, part) in [
        ("openat", "/proc/sys/kernel/core_pattern", "nothing under /proc"),
        ("openat", "/sys/x", "nothing under /sys"),
        ("renameat2", "/etc/passwd", "too much"),
        ("unlink", "/usr/bin/sh", "too much"),
        ("openat", "/run/nginx.pid", "already"),
    ] {
        refused(&nginx(), Wall::File, operation, object, part);
    }
}

#[test]
fn ports_and_addresses_are_added_to_those_declared() {
    let net = |operation, object| asked(&nginx(), Wall::Network, operation, object);
    assert_eq!(net("bind", "0.0.0.0:9090/tcp").unwrap(), "dev.keep.listen=8080/tcp 9090/tcp");
    assert_eq!(net("bind", "[::]:53/udp").unwrap(), "dev.keep.listen=8080/tcp 53/udp");
    assert_eq!(net("connect", "10.0.0.1:443/tcp").unwrap(), "dev.keep.connect=5432/tcp 10.0.0.1:443/tcp");
    assert_eq!(net("connect", "[::1]:53/udp").unwrap(), "dev.keep.connect=5432/tcp [::1]:53/udp");
    assert_eq!(net("connect", "unix:/mnt/a b").unwrap(), "dev.keep.connect=5432/tcp unix:/mnt/a%20b");
    assert!(net("bind", "unix:/srv/app/x.sock").unwrap().ends_with("/srv/app"));
    assert!(net("connect", "[::ffff:10.0.0.1]:443/tcp").unwrap().ends_with(" 10.0.0.1:443/tcp"));
    refused(&nginx(), Wall::Network, "connect", "unix:@abstract", "within the container");
    refused(&nginx(), Wall::Network, "bind", "0.0.0.0:0/tcp", "port 0");
    refused(&nginx(), Wall::Network, "bind", "0.0.0.0:8080/tcp", "dev.keep.listen names it already");
    refused(&nginx(), Wall::Network, "connect", "10.0.0.1:5432/tcp", "dev.keep.connect names it already");
    refused(&nginx(), Wall::Network, "connect", "10.0.0.1:80/sctp", "no label names");
}

#[test]
fn a_call_asks_for_the_need_that_opens_it_with_these_arguments() {
    let call = |object: &str| asked(&nginx(), Wall::Syscall, "x", object);
    for (object, need) in [
        ("msgget(0x4b, 950)", "ipc"),
        ("msgget", "ipc"),
        ("ptrace(16, 1, 0, 0)", "ptrace"),
        ("socket(17, 3, 768)", "raw-sockets"),
        ("socket(2, 3, 1)", "raw-sockets"),
        ("mmap(0, 4096, 7, 34, -1, 0)", "jit"),
        ("mprotect(0x7f0000000000, 4096, 5)", "jit"),
        ("io_uring_setup(8, 0x7ffc)", "io-uring"),
        ("execveat(3, 0x7f, 0, 0, 0x1000)", "memfd-exec"),
        ("io_setup(1, 0)", "aio"),
        ("mbind(0, 0, 0, 0, 0, 0)", "numa"),
        ("unshare(0x200)", "rare-calls"),
        ("syncfs(3)", "rare-calls"),
        ("personality(0x40000)", "ptrace"),
        ("setxattr(0x7f, 0x7f, 0x7f, 4, 0)", "xattr"),
    ] {
        assert_eq!(call(object).unwrap(), format!("dev.keep.needs={need}"), "{object}");
    }
    let ipc = profile("keep", &[("needs", "ipc")]);
    assert_eq!(asked(&ipc, Wall::Syscall, "x", "ptrace(0)").unwrap(), "dev.keep.needs=ipc ptrace");
    assert_eq!(asked(&ipc, Wall::Syscall, "x", "shmat(1, 0, 0x8000)").unwrap(), "dev.keep.needs=ipc jit");
}

#[test]
fn a_call_that_takes_a_capability_asks_for_it() {
    let call = |object: &str| asked(&nginx(), Wall::Syscall, "x", object);
    assert_eq!(call("chroot(0x7f)").unwrap(), "dev.keep.caps=SYS_CHROOT");
    assert_eq!(call("socket(16, 3, 9)").unwrap(), "dev.keep.caps=AUDIT_WRITE");
    assert_eq!(call("setgroups(1, 0x7f)").unwrap(), "dev.keep.caps=SETGID");
    assert_eq!(call("setresuid(0, 33, 0)").unwrap(), "dev.keep.caps=SETUID");
    assert_eq!(call("mlockall(3)").unwrap(), "dev.keep.caps=IPC_LOCK");
    let net = asked(&nginx(), Wall::Capability, "capable", "NET_BIND_SERVICE").unwrap();
    assert_eq!(net, "dev.keep.caps=NET_BIND_SERVICE");
}

#[test]
fn what_the_class_forbids_or_nothing_opens_says_so() {
    for (object, part) in [
        ("mount(0, 0, 0, 0, 0)", "dev.keep.needs=\"mount\", which class keep does not leave"),
        ("unshare(0x10000000)", "userns"),
        ("clone(0x10000011, 0, 0, 0, 0)", "userns"),
        ("settimeofday(0, 0)", "capability SYS_TIME, which class keep"),
        ("kexec_load(0, 0, 0, 0)", "no declaration opens it"),
        ("socket(38, 5, 0)", "no declaration opens it"),
        ("socket(2, 2, 0)", "udp port or dns"),
        ("ioctl(0, 0x5412, 0)", "no declaration opens it"),
        ("getpid()", "the profile allows it"),
        ("nonsense(1)", "does not know"),
        ("", "does not know"),
    ] {
        refused(&nginx(), Wall::Syscall, "x", object, part);
    }
    refused(&profile("keep", &[]), Wall::Syscall, "x", "socket(2, 1, 0)", "TCP sockets");
    let permissive = profile("keep-permissive", &[]);
    assert_eq!(asked(&permissive, Wall::Syscall, "x", "mount(0)").unwrap(), "dev.keep.needs=mount");
}

#[test]
fn what_a_policy_took_or_would_take_is_not_suggested() {
    let text = r#"
apiVersion: keep.dev/v1alpha1
kind: RuntimePolicy
metadata: { name: narrow }
spec:
  ceiling: { exec: [/usr], write: [/var], listen: [8000-8999/tcp], connect: [10.0.0.0/8:1-65535/tcp] }
  deny: { exec: [/usr/bin/curl], connect: [10.9.0.0/16:1-65535/tcp] }
"#;
    let policies = crate::policy::Policies::parse([("narrow.yaml", text)]).unwrap();
    let policy = policies.select(&crate::policy::Subject::of_class("keep")).unwrap();
    let pairs = [("connect", "5432/tcp"), ("write", "/var/cache /srv"), ("listen", "8080/tcp")];
    let case = under(policy, &pairs);
    for (wall, operation, object, part) in [
        (Wall::Exec, "execve", "/bin/sh", "policy narrow does not leave /bin/sh"),
        (Wall::Exec, "execve", "/usr/bin/curl", "policy narrow does not leave /usr/bin/curl"),
        (Wall::File, "openat", "/srv/x", "policy narrow does not leave writing /srv"),
        (Wall::Network, "bind", "0.0.0.0:80/tcp", "policy narrow does not leave listening on 80/tcp"),
        (
            Wall::Network,
            "connect",
            "11.0.0.1:80/tcp",
            "policy narrow does not leave connecting to 11.0.0.1:80/tcp",
        ),
        (Wall::Network, "connect", "10.9.0.1:80/tcp", "policy narrow"),
    ] {
        refused(&case, wall, operation, object, part);
    }
    // What is suggested holds what the image says, not what was left of it.
    let connect = asked(&case, Wall::Network, "connect", "10.1.0.1:80/tcp").unwrap();
    assert_eq!(connect, "dev.keep.connect=5432/tcp 10.1.0.1:80/tcp");
    assert_eq!(asked(&case, Wall::Exec, "execve", "/usr/bin/tar").unwrap(), "dev.keep.exec=/usr/bin/tar");
}

use std::collections::BTreeMap;

use super::*;
use crate::labels::{self, Declaration};
use crate::policy::Policy;
use crate::profile::compute;
use crate::syscalls::{name, number};

const HOST: HostFacts =
    HostFacts { arch: Arch::X86_64, landlock_abi: 7, listener: true, wait_killable: true, cgroup_bpf: true };

const NO_BPF: HostFacts = HostFacts { cgroup_bpf: false, ..HOST };

fn profile(class: &str, pairs: &[(&str, &str)]) -> Profile {
    let with = |(key, value): &(&str, &str)| (format!("dev.keep.{key}"), (*value).to_owned());
    let labels: BTreeMap<_, _> = pairs.iter().chain(&[("intent", "v1")]).map(with).collect();
    compute(labels::parse(&labels), Some("app"), &Policy::builtin(class).unwrap()).unwrap().profile
}

fn undeclared(class: &str) -> Profile {
    compute(Ok(Declaration::Nothing(vec![])), None, &Policy::builtin(class).unwrap()).unwrap().profile
}

fn planned(pairs: &[(&str, &str)]) -> Plan {
    plan(&profile("keep", pairs), &HOST).unwrap()
}

fn answer(plan: &Plan, call: &str, args: &[u64]) -> Action {
    let mut all = [0; 6];
    all[..args.len()].copy_from_slice(args);
    let seccomp = plan.seccomp.as_ref().unwrap();
    seccomp.action(number(call, seccomp.arch).unwrap(), &all)
}

const REFUSED: Action = Action::Refuse(1);

#[test]
fn plain_calls_have_one_rule_without_condition_so_that_the_kernel_caches_them() {
    let plan = planned(&[("listen", "80/tcp")]);
    let calls = plan.seccomp.as_ref().unwrap();
    for call in ["read", "write", "close", "futex", "epoll_wait", "accept4", "fork", "munmap", "recvfrom"] {
        let rules = &calls.calls[&number(call, Arch::X86_64).unwrap()];
        assert_eq!(rules, &[CallRule { when: vec![], action: Action::Allow }], "{call}");
    }
}

#[test]
fn dangerous_calls_are_refused_and_seen_and_unknown_ones_answer_enosys() {
    let plan = planned(&[]);
    for call in [
        "ptrace",
        "mount",
        "bpf",
        "io_uring_setup",
        "keyctl",
        "kexec_load",
        "msgget",
        "memfd_create",
        "chroot",
    ] {
        assert_eq!(answer(&plan, call, &[]), REFUSED, "{call}");
    }
    assert_eq!(answer(&plan, "clone3", &[]), Action::Errno(38));
    assert_eq!(plan.seccomp.unwrap().action(4000, &[0; 6]), Action::Errno(38));
}

#[test]
fn a_need_opens_its_calls_and_no_others() {
    for (need, call) in
        [("ptrace", "ptrace"), ("io-uring", "io_uring_setup"), ("ipc", "msgget"), ("aio", "io_submit")]
    {
        let plan = planned(&[("needs", need)]);
        assert_eq!(answer(&plan, call, &[]), Action::Allow, "{call}");
        assert_eq!(answer(&plan, "bpf", &[]), REFUSED);
    }
}

#[test]
fn programs_and_writes_are_observed_and_reading_is_not() {
    let plan = planned(&[]);
    for (call, args, expected) in [
        ("execve", &[][..], Action::Observe),
        ("execveat", &[3, 0, 0, 0, 0], REFUSED),
        ("execveat", &[3, 0, 0, 0, 0x1000], REFUSED),
        ("open", &[0, 0], Action::Allow),
        ("openat", &[0, 0, 0x8_0000], Action::Allow),
        ("openat", &[0, 0, 1], Action::Observe),
        ("openat", &[0, 0, 0o102], Action::Observe),
        ("openat", &[0, 0, 0x41_0002], Action::Observe),
        ("open", &[0, 0o1000], Action::Observe),
        ("openat2", &[], Action::Observe),
        ("unlink", &[], Action::Observe),
        ("fchmod", &[], Action::Allow),
        ("bind", &[], Action::Observe),
        ("connect", &[], Action::Observe),
        ("listen", &[], Action::Observe),
    ] {
        assert_eq!(answer(&plan, call, args), expected, "{call} {args:?}");
    }
}

#[test]
fn without_jit_no_memory_becomes_executable_and_with_it_all_may() {
    let (plain, jit) = (planned(&[]), planned(&[("needs", "jit")]));
    for (call, args, expected) in [
        ("mmap", &[0, 4096, 3, 0x22][..], Action::Allow),
        ("mmap", &[0, 4096, 5, 0x2], Action::Allow),
        ("mmap", &[0, 4096, 7, 0x2], REFUSED),
        ("mmap", &[0, 4096, 5, 0x22], REFUSED),
        ("mprotect", &[0, 4096, 1], Action::Allow),
        ("mprotect", &[0, 4096, 5], REFUSED),
        ("pkey_mprotect", &[0, 4096, 1], REFUSED),
        ("memfd_create", &[], REFUSED),
    ] {
        assert_eq!(answer(&plain, call, args), expected, "{call} {args:?}");
        assert_eq!(answer(&jit, call, args), Action::Allow, "{call} {args:?}");
    }
    assert_eq!(answer(&jit, "shmat", &[]), REFUSED);
    let shm = planned(&[("needs", "ipc")]);
    assert_eq!(answer(&shm, "shmat", &[0, 0, 0x8000]), REFUSED);
    assert_eq!(answer(&shm, "shmat", &[0, 0, 0]), Action::Allow);
}

#[test]
fn sockets_are_those_that_the_declaration_asks_for() {
    let plans = [
        planned(&[]),
        planned(&[("listen", "80/tcp")]),
        planned(&[("connect", "dns")]),
        planned(&[("needs", "raw-sockets")]),
        planned(&[("connect", "unix:/run/x")]),
    ];
    for (args, open) in [
        ([1, 1, 0], [true, true, true, true, true]),
        ([1, 0x80801, 0], [true, true, true, true, true]),
        ([16, 3, 0], [true, true, true, true, true]),
        ([16, 3, 12], [false, false, false, false, false]),
        ([2, 1, 0], [false, true, true, false, false]),
        ([10, 0x801, 6], [false, true, true, false, false]),
        ([2, 1, 132], [false, false, false, false, false]),
        ([2, 2, 0], [false, true, true, false, false]),
        ([10, 2, 17], [false, true, true, false, false]),
        ([2, 2, 136], [false, false, false, false, false]),
        ([2, 2, 1], [false, false, false, true, false]),
        ([2, 3, 1], [false, false, false, true, false]),
        ([17, 3, 0x300], [false, false, false, true, false]),
        ([40, 1, 0], [false, false, false, false, false]),
        ([38, 5, 0], [false, false, false, false, false]),
    ] {
        for (plan, open) in plans.iter().zip(open) {
            assert_eq!(answer(plan, "socket", &args), if open { Action::Allow } else { REFUSED }, "{args:?}");
        }
    }
    for (call, args) in [("sendto", &[0, 0, 0, 0x2000_0000][..]), ("sendmsg", &[0, 0, 0x2000_4000])] {
        assert_eq!(answer(&plans[2], call, args), REFUSED, "{call}");
        assert_eq!(answer(&plans[2], call, &[0, 0, 0x4000, 0x4000]), Action::Allow, "{call}");
    }
    assert_eq!(answer(&plans[2], "socketpair", &[30, 1, 0]), REFUSED);
    let without = |pairs| plan(&profile("keep", pairs), &NO_BPF).unwrap();
    assert_eq!(answer(&without(&[("listen", "80/tcp")]), "socket", &[2, 2, 0]), REFUSED);
    assert_eq!(answer(&without(&[("connect", "dns")]), "socket", &[2, 2, 0]), Action::Allow);
}

#[test]
fn connecting_is_left_to_programs_that_stand_and_to_nobody_else() {
    let left = |mut plan: Plan| {
        plan.leave_connect_to_programs();
        ["connect", "bind", "listen", "execve"].map(|call| answer(&plan, call, &[]))
    };
    let observed = [Action::Observe; 4];
    let mut but_connect = observed;
    but_connect[0] = Action::Allow;
    let labels = [("connect", "443/tcp unix:/run/x")];
    assert_eq!(left(planned(&labels)), but_connect);
    assert_eq!(left(plan(&profile("keep", &labels), &NO_BPF).unwrap()), observed);
    assert_eq!(left(planned(&[("connect", "unix:/run/x")])), observed, "no programs watch unix sockets");
    assert_eq!(
        left(plan(&profile("keep-permissive", &labels), &HOST).unwrap()),
        observed,
        "audit mode has no programs"
    );
}

#[test]
fn the_programs_get_ports_of_both_protocols_and_networks_of_both_families() {
    let sockets = |pairs| planned(pairs).sockets;
    let plan =
        sockets(&[("listen", "80/tcp 53/udp"), ("connect", "10.0.0.0/8:443/tcp 9/udp dns unix:/x")]).unwrap();
    let ports = |protocol, first, last| Ports { protocol, first, last };
    let mut bind = plan.bind.clone();
    bind.sort();
    let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
    assert_eq!(bind, [ports(tcp, 0, 0), ports(tcp, 80, 80), ports(udp, 0, 0), ports(udp, 53, 53)]);
    let mut reach: Vec<String> = plan
        .reach
        .iter()
        .map(|to| format!("{}/{} {:?} {}", to.address, to.prefix, to.ports.protocol, to.ports.first))
        .collect();
    reach.sort();
    assert_eq!(reach, ["0.0.0.0/0 Udp 9", "10.0.0.0/8 Tcp 443", "::/0 Udp 9"]);
    assert!(plan.dns && !plan.raw);
    let server = sockets(&[("listen", "80/tcp")]).unwrap();
    assert!(server.reach.is_empty() && !server.dns);
    assert!(sockets(&[("needs", "raw-sockets")]).unwrap().raw);
    assert!(sockets(&[("needs", "io-uring")]).is_some(), "its sockets pass the filter");
    for none in [&[][..], &[("connect", "unix:/x")]] {
        assert_eq!(sockets(none), None, "no internet socket can be opened");
    }
    assert_eq!(super::plan(&profile("keep", &[("connect", "dns")]), &NO_BPF).unwrap().sockets, None);
}

#[test]
fn namespaces_terminals_and_personalities_are_closed() {
    let plan = planned(&[]);
    for (call, args, expected) in [
        ("clone", &[0x003d_0f00][..], Action::Allow),
        ("clone", &[0x1000_0011], REFUSED),
        ("unshare", &[0x400], REFUSED),
        ("unshare", &[0x2_0000], REFUSED),
        ("ioctl", &[0, 0x5413], Action::Allow),
        ("ioctl", &[0, 0xffff_ffff_8004_5430], Action::Allow),
        ("ioctl", &[0, 0x5412], REFUSED),
        ("ioctl", &[0, 0x1_0000_5412], REFUSED),
        ("ioctl", &[0, 0x1234], Action::Errno(25)),
        ("prctl", &[15], Action::Allow),
        ("prctl", &[35], REFUSED),
        ("personality", &[0xffff_ffff], REFUSED),
        ("personality", &[0x40_0000], REFUSED),
    ] {
        assert_eq!(answer(&plan, call, args), expected, "{call} {args:?}");
    }
    let rare = planned(&[("needs", "rare-calls")]);
    for (call, args, expected) in [
        ("unshare", &[0x400][..], Action::Allow),
        ("unshare", &[0x2_0000], REFUSED),
        ("personality", &[u64::MAX], Action::Allow),
        ("personality", &[0x40_0000], REFUSED),
    ] {
        assert_eq!(answer(&rare, call, args), expected, "{call} {args:?}");
    }
    let debugger = planned(&[("needs", "ptrace")]);
    assert_eq!(answer(&debugger, "personality", &[0x4_0000]), Action::Allow);
    assert_eq!(answer(&debugger, "unshare", &[0x400]), REFUSED);
}

#[test]
fn what_programs_try_and_can_do_without_is_answered_unrecorded_and_opened_by_its_need() {
    let plain = planned(&[("listen", "80/tcp")]);
    for (need, call, errno, then) in [
        ("newer-calls", "landlock_create_ruleset", 38, Action::Allow),
        ("newer-calls", "faccessat2", 38, Action::Allow),
        ("newer-calls", "fchmodat2", 38, Action::Observe),
        ("rare-calls", "mincore", 38, Action::Allow),
        ("rare-calls", "splice", 22, Action::Allow),
        ("xattr", "lgetxattr", 95, Action::Allow),
        ("xattr", "fsetxattr", 95, Action::Allow),
        ("xattr", "setxattrat", 95, Action::Observe),
        ("jit", "pkey_alloc", 38, Action::Allow),
        ("aio", "io_setup", 38, Action::Allow),
        ("numa", "get_mempolicy", 38, Action::Allow),
        ("userns", "clone3", 38, Action::Allow),
    ] {
        assert_eq!(answer(&plain, call, &[]), Action::Errno(errno), "{call}");
        // No class but the permissive one leaves userns.
        let open = Profile { mode: Mode::Enforce, ..profile("keep-permissive", &[("needs", need)]) };
        assert_eq!(answer(&plan(&open, &HOST).unwrap(), call, &[]), then, "{call}");
    }
    assert_eq!(answer(&plain, "socket", &[2, 1, 262]), Action::Errno(93));
}

#[test]
fn on_aarch64_the_same_calls_have_that_architectures_numbers() {
    let host = HostFacts { arch: Arch::Aarch64, ..HOST };
    let plan = plan(&profile("keep", &[]), &host).unwrap();
    let calls = plan.seccomp.as_ref().unwrap();
    assert_eq!(calls.action(221, &[0; 6]), Action::Observe);
    assert_eq!(calls.action(117, &[0; 6]), REFUSED);
    assert!(calls.calls.keys().all(|number| name(*number, Arch::Aarch64).is_some()));
}

#[test]
fn landlock_gets_the_tcp_ports_and_whoever_declares_one_may_bind_to_port_0() {
    let without = |pairs| super::plan(&profile("keep", pairs), &NO_BPF).unwrap().landlock.unwrap();
    let labels = [("listen", "80/tcp 53/udp"), ("connect", "10.0.0.0/8:443/tcp 440-442/tcp dns")];
    let landlock = without(&labels);
    assert_eq!(landlock.abi, 7);
    assert_eq!(landlock.bind_tcp, Some(vec![(0, 0), (80, 80)]));
    assert_eq!(landlock.connect_tcp, Some(vec![(53, 53), (440, 443)]));
    let beside_programs = planned(&labels).landlock.unwrap();
    assert_eq!((beside_programs.bind_tcp, beside_programs.connect_tcp), (landlock.bind_tcp, None));
    let no_sockets = planned(&[]).landlock.unwrap();
    assert_eq!((no_sockets.bind_tcp, no_sockets.connect_tcp), (Some(vec![]), Some(vec![])));
    let quiet = without(&[("listen", "80/tcp")]);
    assert_eq!((quiet.bind_tcp, quiet.connect_tcp), (Some(vec![(0, 0), (80, 80)]), Some(vec![])));
    let silent = without(&[("listen", "53/udp")]);
    assert_eq!((silent.bind_tcp, silent.connect_tcp), (Some(vec![]), Some(vec![])));
    let newer = super::plan(&profile("keep", &[]), &HostFacts { landlock_abi: 9, ..HOST }).unwrap();
    assert_eq!(newer.landlock.unwrap().abi, 7);
}

fn gaps(pairs: &[(&str, &str)], host: &HostFacts) -> Vec<Wall> {
    let profile = Profile { require: BTreeSet::new(), ..profile("keep", pairs) };
    plan(&profile, host).unwrap().gaps.into_iter().map(|gap| gap.wall).collect()
}

#[test]
fn what_this_host_cannot_give_is_a_gap() {
    assert_eq!(gaps(&[], &HOST), []);
    assert_eq!(gaps(&[("listen", "80/tcp"), ("connect", "443/tcp unix:/x")], &HOST), []);
    for (key, value) in [("connect", "dns"), ("connect", "10.0.0.0/8:1/tcp"), ("listen", "53/udp")] {
        assert_eq!(gaps(&[(key, value)], &HOST), [], "{value}");
        let gaps = gaps(&[(key, value)], &NO_BPF);
        assert!(!gaps.is_empty() && gaps.iter().all(|wall| *wall == Wall::Network), "{value}");
    }
    assert_eq!(gaps(&[("needs", "io-uring")], &HOST), [Wall::Network]);
    let old = |landlock_abi| HostFacts { landlock_abi, ..HOST };
    let abstract_alone = [Wall::Network];
    assert_eq!(gaps(&[("listen", "80/tcp")], &old(3)), abstract_alone, "the programs know TCP ports too");
    let older = HostFacts { cgroup_bpf: false, ..old(3) };
    assert_eq!(gaps(&[("listen", "80/tcp")], &older), [Wall::Network, Wall::Network]);
    assert_eq!(gaps(&[], &old(0)), [Wall::Exec, Wall::File, Wall::Network]);
    assert_eq!(gaps(&[], &HostFacts { listener: false, ..HOST }), [Wall::Policy]);
}

#[test]
fn a_required_wall_with_a_gap_makes_no_plan() {
    let no_landlock = HostFacts { landlock_abi: 0, ..HOST };
    let error = plan(&profile("keep", &[]), &no_landlock).unwrap_err().to_string();
    let expected = "the policy requires the exec wall, and this kernel has no Landlock";
    assert!(error.starts_with(expected), "{error}");
    assert!(plan(&profile("keep", &[("connect", "dns")]), &HOST).is_ok());
    let strict = profile("keep-strict", &[("connect", "dns")]);
    assert!(plan(&strict, &HOST).is_ok());
    let error = plan(&strict, &NO_BPF).unwrap_err().to_string();
    assert!(error.contains("requires the network wall, and no cgroup-BPF programs"), "{error}");
    assert!(plan(&undeclared("keep"), &no_landlock).is_ok());
}

#[test]
fn without_a_listener_refusals_stand_and_only_their_records_are_missing() {
    let plan = plan(&profile("keep", &[]), &HostFacts { listener: false, ..HOST }).unwrap();
    assert_eq!(answer(&plan, "ptrace", &[]), Action::Errno(1));
    assert_eq!(answer(&plan, "execve", &[]), Action::Allow);
    let open = &plan.seccomp.as_ref().unwrap().calls[&number("open", Arch::X86_64).unwrap()];
    assert_eq!(open.len(), 1);
}

#[test]
fn audit_mode_refuses_nothing_hardens_nothing_and_knows_what_to_judge() {
    let plan = plan(&profile("keep-permissive", &[("write", "/run")]), &HOST).unwrap();
    assert!(!plan.hardens() && !plan.no_new_privileges && plan.hidden.is_empty());
    assert!(plan.landlock.is_none() && plan.capabilities.is_none());
    assert!(
        plan.programs.is_some() && plan.network.is_some() && plan.write.is_some_and(|write| write.len() == 1)
    );
    let seccomp = plan.seccomp.unwrap();
    let allows = |action| matches!(action, Action::Allow | Action::Observe);
    assert!(allows(seccomp.unknown));
    assert!(seccomp.calls.values().flatten().all(|rule| allows(rule.action)));
    assert_eq!(seccomp.action(number("ptrace", Arch::X86_64).unwrap(), &[0; 6]), Action::Observe);
    assert_eq!(seccomp.action(number("clone3", Arch::X86_64).unwrap(), &[0; 6]), Action::Allow);
}

#[test]
fn an_undeclared_image_gets_containerds_list_from_the_kernel_alone_or_nothing() {
    let baseline = plan(&undeclared("keep"), &HOST).unwrap();
    assert!(!baseline.hardens() && !baseline.no_new_privileges && baseline.landlock.is_none());
    for (call, args, expected) in [
        ("ptrace", &[][..], Action::Allow),
        ("chroot", &[], Action::Allow),
        ("mount", &[], Action::Errno(1)),
        ("keyctl", &[], Action::Errno(1)),
        ("clone3", &[], Action::Errno(38)),
        ("clone", &[17], Action::Allow),
        ("clone", &[0x1000_0000], Action::Errno(1)),
        ("socket", &[38], Action::Errno(1)),
        ("socket", &[40], Action::Errno(1)),
        ("socket", &[17], Action::Allow),
        ("personality", &[8], Action::Allow),
        ("personality", &[0x40_0000], Action::Errno(1)),
    ] {
        assert_eq!(answer(&baseline, call, args), expected, "{call} {args:?}");
    }
    let seccomp = baseline.seccomp.unwrap();
    let seen = |action| matches!(action, Action::Observe | Action::Refuse(_));
    assert!(!seccomp.calls.values().flatten().any(|rule| seen(rule.action)));

    let admin = [Capability::new("SYS_ADMIN").unwrap()].into();
    let admin = baseline_seccomp(&admin, Arch::X86_64);
    for call in ["mount", "clone3", "setns", "bpf"] {
        assert_eq!(admin.action(number(call, Arch::X86_64).unwrap(), &[0; 6]), Action::Allow, "{call}");
    }
    let free = plan(&undeclared("keep-permissive"), &HOST).unwrap();
    assert!(free.seccomp.is_none() && free.programs.is_none() && free.gaps.is_empty());
}

#[test]
fn password_files_are_hidden_unless_declared() {
    let shown = |read: &str| 5 - planned(&[("read", read)]).hidden.len();
    assert_eq!((shown(""), shown("/etc/shadow"), shown("/etc"), shown("/etc/sha")), (0, 1, 5, 0));
}

#[test]
fn a_profile_that_was_tampered_with_makes_no_plan() {
    let profile = Profile { listen: vec!["all".to_owned()], ..profile("keep", &[]) };
    assert!(matches!(plan(&profile, &HOST), Err(PlanError::Entry { .. })));
}

#[test]
fn a_plan_survives_being_written_as_json_and_read_back() {
    let plan = planned(&[("listen", "80/tcp"), ("connect", "443/tcp"), ("write", "/run")]);
    let text = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
}

#[test]
fn a_listener_s_filter_says_of_what_it_is_asked_about_what_the_filter_does() {
    let permissive = plan(&profile("keep-permissive", &[("exec", "/bin/app")]), &HOST).unwrap();
    let mut asked = 0;
    for plan in
        [planned(&[]), planned(&[("listen", "80/tcp"), ("connect", "53/udp"), ("needs", "jit")]), permissive]
    {
        let seccomp = plan.seccomp.unwrap();
        let listener = seccomp.of_listener();
        for number in 0..600 {
            for args in [[0; 6], [1; 6], [2; 6], [0x241; 6], [u64::MAX; 6]] {
                let action = seccomp.action(number, &args);
                if matches!(action, Action::Observe | Action::Refuse(_)) {
                    assert_eq!(listener.action(number, &args), action, "{number} {args:?}");
                    asked += 1;
                }
            }
        }
    }
    assert!(asked > 500, "{asked}");
}

//! The system-call wall.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use profiles::Plan;
use profiles::plan::{Action, Arch, Wall};
use profiles::policy::Mode;
use profiles::record::Verdict;
use profiles::syscalls::number;
use sandbox::facts::NATIVE;

use crate::Case;
use crate::confine::*;

pub(crate) const CASES: &[Case] = &[
    ("refused_call_fails_with_its_errno_and_is_recorded_and_an_allowed_one_works", refused),
    ("errno_action_fails_unrecorded_and_unknown_calls_are_enosys", unrecorded),
    ("x32_and_32_bit_entry_kill_and_the_native_one_does_not", entries),
    ("the_pod_s_own_filter_holds_too_even_if_it_forbids_loading_filters", extra),
    ("program_sees_a_filter_and_no_new_privileges_from_its_first_instruction", status),
    ("audit_mode_lets_a_refused_call_through_and_records_it", audit),
];

fn plan(others: &[(&str, Action)]) -> Plan {
    let observed = ("execve", Action::Observe);
    Plan { seccomp: Some(filter(&[&[observed], others].concat())), ..open_plan() }
}

/// Calls `name` with some arguments from perl, and prints its errno or `ok`.
fn call(name: &str, arguments: &str) -> String {
    let number = number(name, NATIVE).unwrap();
    format!("$r = syscall({number}, {arguments}); print $r == -1 ? 0+$! : 'ok', ' ';")
}

fn refused() {
    let plan = plan(&[("sethostname", Action::Refuse(1)), ("keyctl", Action::Refuse(13))]);
    let script = call("keyctl", "0, -3, 0, 0, 0") + &call("sethostname", "0, 7") + &call("getpid", "0");
    let outcome = perl(&plan, &script);
    assert_eq!(outcome.output, "13 1 ok ");
    assert_eq!(
        outcome.records(),
        ["keyctl keyctl(0, -3, 0, 0, 0) EACCES", "sethostname sethostname(0, 7) EPERM"]
    );
    assert!(outcome.observations().all(|o| o.wall == Wall::Syscall && o.verdict == Verdict::Denied));
}

fn unrecorded() {
    let outcome = perl(
        &plan(&[("sethostname", Action::Errno(11))]),
        &(call("sethostname", "0, 7") + "print syscall(999) == -1 ? 0+$! : 'ok'"),
    );
    assert_eq!((outcome.output.as_str(), outcome.records()), ("11 38", vec![]));
}

fn entries() {
    if NATIVE != Arch::X86_64 {
        return println!("(only x86_64 has other entries)");
    }
    // mov eax, NUMBER; ENTER; mov eax, 60; mov edi, 7; syscall
    let program = |call: u32, enter: &[u8]| {
        let exit = [0xb8, 60, 0, 0, 0, 0xbf, 7, 0, 0, 0, 0x0f, 0x05];
        [&[0xb8][..], &call.to_le_bytes(), enter, &exit].concat()
    };
    let (syscall, int80) = ([0x0f, 0x05], [0xcd, 0x80]);
    assert_eq!(run_code(&program(39, &syscall)).code(), 7, "native getpid");
    for (name, code) in [("x32", program(0x4000_0027, &syscall)), ("i386", program(20, &int80))] {
        let outcome = run_code(&code);
        assert!(matches!(outcome.status, WaitStatus::Signaled(_, Signal::SIGSYS, _)), "{name}: {outcome:?}");
    }
}

/// Runs machine code as a static program.
fn run_code(code: &[u8]) -> Outcome {
    let (folder, _) = folders();
    let path = folder.path().join("program");
    let mut file = Vec::from(*b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0");
    file.extend([0x40_0078u64, 64, 0].iter().flat_map(|word| word.to_le_bytes()));
    file.extend([0u8; 4]);
    file.extend([64u16, 56, 1, 0, 0, 0].iter().flat_map(|half| half.to_le_bytes()));
    file.extend([1u32, 5].iter().flat_map(|word| word.to_le_bytes()));
    let length = 120 + code.len() as u64;
    file.extend(
        [0u64, 0x40_0000, 0x40_0000, length, length, 4096].iter().flat_map(|word| word.to_le_bytes()),
    );
    file.extend(code);
    fs::write(&path, file).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    run(&plan(&[]), &[path.to_str().unwrap()])
}

fn extra() {
    for more in [&[][..], &[("seccomp", Action::Errno(1))]] {
        let pod = filter(&[&[("sethostname", Action::Errno(25))], more].concat());
        let script = call("sethostname", "0, 7") + &call("setdomainname", "0, 7") + &call("getpid", "0");
        let plan = plan(&[("setdomainname", Action::Refuse(1))]);
        let outcome = run_with(&plan, &[], Some(&pod), &["/usr/bin/perl", "-e", &script]);
        assert_eq!(outcome.output, "25 1 ok ", "{outcome:?}");
        assert_eq!(outcome.records().len(), 1);
    }
}

fn status() {
    let outcome = perl(&plan(&[]), "open F, '/proc/self/status'; print grep /^(Seccomp|NoNewPrivs):/, <F>");
    assert_eq!(outcome.output, "NoNewPrivs:\t1\nSeccomp:\t2\n");
}

fn audit() {
    let plan =
        Plan { mode: Mode::Audit, ..plan(&[("getppid", Action::Refuse(1)), ("getpgrp", Action::Observe)]) };
    let outcome = perl(&plan, &(call("getppid", "0") + &call("getpgrp", "0")));
    assert_eq!(outcome.output, "ok ok ");
    assert_eq!(outcome.verdicts(), [Verdict::Audited; 2]);
}

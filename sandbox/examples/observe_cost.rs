//! Prints what an observed and permitted open for writing costs over an unobserved one, in nanoseconds.
//!
//! `cargo run -p sandbox --example observe_cost --release`
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Instant;

use nix::sys::wait::waitpid;
use nix::unistd::{dup2_stdout, execv, pipe};
use profiles::intent::AbsPath;
use profiles::plan::{Action, CallRule, Compare, Condition, SeccompPlan};
use profiles::policy::Mode;
use profiles::profile::Bounds;
use profiles::{Plan, syscalls};
use sandbox::enforce::{Enforced, Prepared};
use sandbox::facts::NATIVE;
use sandbox::programs::ResolvedPrograms;
use sandbox::{handover, observe, process};

const OPENS: u32 = 20_000;
const ROUNDS: usize = 9;

/// `O_WRONLY | O_RDWR | O_CREAT | O_TRUNC | __O_TMPFILE`.
const WRITE_INTENT: u64 = 0x40_0243;

/// A filter that lets calls be; opens for writing are observed if `observed`, and looked at in any case.
fn plan(observed: bool) -> Plan {
    let rule = |when, action| CallRule { when, action };
    let number = |name: &str| syscalls::number(name, NATIVE);
    let all = syscalls::names().filter_map(number);
    let mut calls: BTreeMap<_, _> = all.map(|number| (number, vec![rule(vec![], Action::Allow)])).collect();
    if observed {
        let reads = Condition { arg: 2, op: Compare::MaskedEq { mask: WRITE_INTENT }, value: 0 };
        let rules = vec![rule(vec![reads], Action::Allow), rule(vec![], Action::Observe)];
        calls.insert(number("openat").unwrap(), rules);
    }
    Plan {
        profile: String::new(),
        mode: Mode::Enforce,
        programs: None,
        without_interpreter: BTreeSet::new(),
        program_bounds: Bounds::default(),
        entrypoint: None,
        write: Some([AbsPath::new("/var/cache/nginx").unwrap(), AbsPath::new("/dev/null").unwrap()].into()),
        write_bounds: Bounds::default(),
        hidden: Default::default(),
        no_new_privileges: true,
        capabilities: None,
        landlock: None,
        seccomp: Some(SeccompPlan { arch: NATIVE, calls, unknown: Action::Errno(38) }),
        network: None,
        sockets: None,
        gaps: Vec::new(),
    }
}

/// Nanoseconds for one open and close of `path`, in this program started anew under `plan`.
fn measure(plan: &Plan, path: &str) -> u64 {
    let (giver, taker) = handover::pair().unwrap();
    let (read, write) = pipe().unwrap();
    let path = CString::new(path).unwrap();
    let child = process::spawn(&[giver.as_fd().as_raw_fd(), write.as_fd().as_raw_fd()], || {
        dup2_stdout(&write).unwrap();
        let prepared = Prepared::new(plan, &ResolvedPrograms::default(), &[], None).unwrap();
        let Ok(Enforced::Fully(listener)) = prepared.enforce() else { panic!("not enforced") };
        giver.give(listener).unwrap();
        execv(c"/proc/self/exe", &[c"observe_cost", &path]).unwrap_err() as i32
    })
    .unwrap();
    drop((giver, write));
    let mut observed = |event| assert_eq!(event, observe::Event::Started);
    observe::serve(
        &taker,
        plan.clone(),
        &ResolvedPrograms::default(),
        &[],
        None,
        observe::Until::Gone,
        &mut observed,
    )
    .unwrap();
    waitpid(child, None).unwrap();
    let mut text = String::new();
    File::from(read).read_to_string(&mut text).unwrap();
    text.trim().parse().unwrap()
}

fn round(path: &str) -> u64 {
    let begin = Instant::now();
    for _ in 0..OPENS {
        OpenOptions::new().write(true).open(path).unwrap();
    }
    u64::try_from(begin.elapsed().as_nanos()).unwrap() / u64::from(OPENS)
}

fn main() {
    if let Some(path) = std::env::args().nth(1) {
        let mut rounds: Vec<_> = (0..ROUNDS).map(|_| round(&path)).collect();
        rounds.sort_unstable();
        return println!("{}", rounds[ROUNDS / 2]);
    }
    let (plain, observed) = (measure(&plan(false), "/dev/null"), measure(&plan(true), "/dev/null"));
    println!("open for writing, not observed: {plain} ns");
    println!("observed, beneath a write path: {observed} ns");
    println!("over:                           {} ns", observed.saturating_sub(plain));
    let link = "/etc/../dev/null";
    let looked = measure(&plan(true), link).saturating_sub(measure(&plan(false), link));
    println!("over, path that must be resolved: {looked} ns");
}

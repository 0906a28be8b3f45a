//! Runs a command of this machine behind the walls of labels, and prints what tries to cross them. Mounts stay as they
//! are: what only a mount would stop is not stopped here.
//!
//! `cargo run -p sandbox --example confine -- listen=8080/tcp needs=jit write=/tmp/x -- /usr/bin/node app.js`
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::execv;
use profiles::plan::{HostFacts, plan};
use profiles::policy::Policy;
use profiles::profile::compute;
use profiles::record::{Granted, allow};
use profiles::{Plan, labels};
use sandbox::enforce::{Enforced, Prepared};
use sandbox::facts::probe;
use sandbox::network::Denial;
use sandbox::observe::{Event, Until, serve};
use sandbox::programs::{ResolvedPrograms, resolve};
use sandbox::{handover, process};

const USAGE: &str = "usage: confine KEY=VALUE... -- /PROGRAM ARGUMENT... (KEY as in dev.keep.KEY)";

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let split = words.iter().position(|word| word == "--").expect(USAGE);
    let (given, command) = (&words[..split], &words[split + 1..]);
    let label = |word: &String| {
        let (key, value) = word.split_once('=').expect(USAGE);
        (format!("dev.keep.{key}"), value.to_owned())
    };
    let mut given: BTreeMap<_, _> = given.iter().map(label).collect();
    given.insert("dev.keep.intent".to_owned(), "v1".to_owned());
    let declaration = labels::parse(&given);
    let entrypoint = command.first().expect(USAGE);
    let policy = Policy::builtin("keep").unwrap();
    let computed = compute(declaration, Some(entrypoint), &policy).unwrap();
    // The program runs in the caller's cgroup, which is not this example's to put programs on.
    let host = HostFacts { cgroup_bpf: false, ..probe() };
    let plan = plan(&computed.profile, &host).unwrap();
    println!("confine: {} calls", plan.seccomp_calls_allowed());
    let programs =
        resolve(Path::new("/"), &plan, None, "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "/").unwrap();

    let (giver, taker) = handover::pair().unwrap();
    let child =
        process::spawn(&[0, 1, 2, giver.as_fd().as_raw_fd()], || start(&plan, &programs, &giver, command));
    let child = child.unwrap();
    drop(giver);
    let granted = Granted { intent: &computed.intent, profile: &computed.profile, policy: &policy };
    let mut on = |event| match event {
        Event::Observed(seen) | Event::Denied(Denial { observation: seen, .. }) => {
            println!(
                "confine: {} {} {:?}: {:?}",
                seen.program,
                seen.object,
                seen.errno,
                allow(granted, &seen)
            );
        }
        Event::Failed(why) => println!("confine: not started: {why}"),
        Event::Started | Event::Settled | Event::Executes { .. } => {}
    };
    let collecting = std::thread::spawn(move || waitpid(child, None));
    serve(&taker, plan, &programs, &[], None, Until::Gone, &mut on).unwrap();
    match collecting.join().unwrap().unwrap() {
        WaitStatus::Exited(_, code) => std::process::exit(code),
        other => println!("confine: {other:?}"),
    }
}

/// What the confined process does, until it is the program.
fn start(plan: &Plan, programs: &ResolvedPrograms, giver: &handover::Giver, command: &[String]) -> i32 {
    let prepared = Prepared::new(plan, programs, &[], None).unwrap();
    let Ok(Enforced::Fully(listener)) = prepared.enforce() else { panic!("not enforced") };
    giver.give(listener).unwrap();
    let words: Vec<_> = command.iter().map(|word| CString::new(word.as_str()).unwrap()).collect();
    execv(&words[0], &words).unwrap_err() as i32
}

//! The observer's own life and death.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, dup2_stdin, dup2_stdout, pipe};
use profiles::Plan;
use profiles::plan::{Action, SeccompPlan};
use sandbox::enforce::{Enforced, Prepared};
use sandbox::observe::{Event, Until, serve};
use sandbox::programs::ResolvedPrograms;
use sandbox::{handover, process};

use crate::confine::*;
use crate::{Case, needs_landlock};

pub(crate) const CASES: &[Case] = &[
    ("calls_are_refused_and_never_passed_once_the_observer_is_killed", killed),
    ("program_that_is_signalled_a_thousand_times_a_second_finishes_its_observed_calls", signalled),
    ("observing_ends_with_the_last_process_and_not_with_the_first", ends),
    ("start_is_told_where_execve_is_not_observed_and_where_nothing_is", unseen_start),
    ("spawn_refuses_a_process_with_threads_and_closes_what_is_not_kept", spawning),
    ("who_rests_gives_memory_back_and_goes_on", resting),
];

fn killed() {
    let plan = {
        let mut plan = open_plan();
        let refused = [
            ("execve", Action::Observe),
            ("mkdir", Action::Observe),
            ("mkdirat", Action::Observe),
            ("sethostname", Action::Refuse(1)),
        ];
        plan.seccomp = Some(filter(&refused));
        plan
    };
    let (folder, _) = folders();
    let (to_read, to) = pipe().unwrap();
    let (from, from_write) = pipe().unwrap();
    let (giver, taker) = handover::pair().unwrap();
    let script = format!(
        "$| = 1; sub try {{ print mkdir('{0}/'.$_[0]) ? 'made' : 0+$!, \"\\n\" }} try('a'); <STDIN>; try('b'); print syscall(170, 0, 7) == -1 ? 0+$! : 'ok', \"\\n\"",
        folder.path().display()
    );
    let program = process::spawn(
        &[giver.as_fd().as_raw_fd(), to_read.as_fd().as_raw_fd(), from_write.as_fd().as_raw_fd()],
        || {
            dup2_stdin(&to_read).unwrap();
            dup2_stdout(&from_write).unwrap();
            let prepared = Prepared::new(&plan, &ResolvedPrograms::default(), &[], None).unwrap();
            let Ok(Enforced::Fully(listener)) = prepared.enforce() else { return 98 };
            giver.give(listener).unwrap();
            exec(&["/usr/bin/perl", "-e", &script])
        },
    )
    .unwrap();
    drop((giver, from_write, to_read));
    let programs = ResolvedPrograms::default();
    let observer = process::spawn(&[taker.as_fd().as_raw_fd()], || {
        serve(&taker, plan.clone(), &programs, &[], None, Until::Gone, &mut |_| {}).map_or(1, |_| 0)
    })
    .unwrap();
    let mut answers = Lines(File::from(from));
    assert_eq!(answers.next(), "made");
    end(observer);
    File::from(to).write_all(b"go\n").unwrap();
    let enosys = nix::libc::ENOSYS.to_string();
    assert_eq!((answers.next(), answers.next()), (enosys.clone(), enosys));
    assert!(folder.path().join("a").exists() && !folder.path().join("b").exists());
    assert!(matches!(waitpid(program, None).unwrap(), WaitStatus::Exited(_, 0)));
}

fn end(pid: Pid) {
    kill(pid, Signal::SIGKILL).unwrap();
    waitpid(pid, None).unwrap();
}

struct Lines(File);

impl Lines {
    fn next(&mut self) -> String {
        let (mut line, mut byte) = (String::new(), [0]);
        while self.0.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
            line.push(char::from(byte[0]));
        }
        line
    }
}

fn signalled() {
    needs_landlock(1, "the file wall");
    let (folder, other) = folders();
    let script = format!(
        "use POSIX; use Time::HiRes qw(setitimer ITIMER_REAL); my $n = 0;
         my $count = POSIX::SigAction->new(sub {{ $n++ }}, POSIX::SigSet->new, 0);
         # Between two operations of perl: in the midst of one, such as malloc, the handler would break it.
         $count->safe(1); POSIX::sigaction(SIGALRM, $count); setitimer(ITIMER_REAL, 0.001, 0.001);
         my $i = 0;
         while ($i < 1000 || $n < 500) {{ my $f;
           until (sysopen($f, '{0}/file', O_RDWR|O_CREAT)) {{ $! == EINTR or die $! }} $i++;
           until (mkdir('{0}/d')) {{ $! == EINTR or die $! }} until (rmdir('{0}/d')) {{ $! == EINTR or die $! }}
           do {{ sysopen($f, '{1}/file', O_RDWR|O_CREAT) and die }} while $! == EINTR; }}
         print 'finished'",
        folder.path().display(),
        other.path().display()
    );
    let begin = Instant::now();
    let outcome = perl(&write_plan(&[folder.path()]), &script);
    assert_eq!(outcome.output, "finished", "{:?}", outcome.status);
    assert!(begin.elapsed() < Duration::from_secs(60));
    // A call that a signal ends before the observer has it is tried again, so that each is recorded at least once.
    assert!(outcome.records().len() >= 1000);
}

fn ends() {
    needs_landlock(1, "the file wall");
    let (folder, _) = folders();
    let script =
        format!("(sleep 0.3; mkdir {0}/late; echo x >/etc/keep-test) & exit 3", folder.path().display());
    let outcome = shell(&write_plan(&[folder.path()]), &script);
    assert_eq!(outcome.code(), 3);
    assert_eq!(outcome.records(), ["openat /etc/keep-test EACCES"]);
    assert!(folder.path().join("late").exists() && !Path::new("/etc/keep-test").exists());
    assert_eq!(outcome.events.iter().filter(|event| **event == Event::Started).count(), 1);
}

fn unseen_start() {
    let silent = Plan { seccomp: Some(filter(&[("sethostname", Action::Refuse(1))])), ..open_plan() };
    let others = SeccompPlan { unknown: Action::Observe, ..filter(&[]) };
    let others = Plan { seccomp: Some(others), ..open_plan() };
    for plan in [silent, others, Plan { seccomp: None, ..open_plan() }] {
        let outcome = run(&plan, &["/bin/true"]);
        assert_eq!((outcome.code(), &outcome.events[..]), (0, &[Event::Started][..]));
    }
}

fn resting() {
    let mapped = || {
        let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap().trim();
        line.trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    let kept: Vec<u64> = (0..100_000).collect();
    let before = mapped();
    process::rest().unwrap();
    let after = mapped();
    assert!(after + 500 < before, "{before} kB, then {after} kB");
    assert!(kept.iter().copied().eq(0..100_000));
}

fn spawning() {
    let (read, write) = pipe().unwrap();
    let (other, _kept_open) = pipe().unwrap();
    let child = process::spawn(&[write.as_fd().as_raw_fd()], || {
        let gone = nix::fcntl::fcntl(&other, nix::fcntl::FcntlArg::F_GETFD) == Err(nix::errno::Errno::EBADF);
        nix::unistd::write(&write, if gone { b"closed" } else { b"open!!" }).map_or(1, |_| 5)
    })
    .unwrap();
    drop(write);
    let mut text = String::new();
    File::from(read).read_to_string(&mut text).unwrap();
    assert_eq!(text, "closed");
    assert!(matches!(waitpid(child, None).unwrap(), WaitStatus::Exited(_, 5)));
    let panicking = process::spawn(&[], || panic!("meant to be seen in this test's output")).unwrap();
    assert!(matches!(waitpid(panicking, None).unwrap(), WaitStatus::Signaled(_, Signal::SIGABRT, _)));
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || receiver.recv());
    assert!(process::spawn(&[], || 0).is_err());
    drop(sender);
    assert!(thread.join().unwrap().is_err());
}

//! Faults at exact places, from outside: strace attaches to a process, follows its children, and kills whichever of them is
//! about to make its Nth call of a kind. Nothing in the programs under test knows of it.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::command;

/// Where a process is killed: before its `number`th call of a kind, counted for each process of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The system call's name.
    pub call: &'static str,
    /// Which of them, from 1.
    pub number: usize,
}

/// A strace that waits for its place.
#[derive(Debug)]
pub struct Tracer {
    strace: Child,
    log: PathBuf,
    place: Place,
}

impl Tracer {
    /// Attaches to a process, by the machine's count.
    ///
    /// # Errors
    /// When strace cannot be started, or does not attach.
    pub fn attach(pid: i32, place: Place, folder: &Path) -> Result<Self> {
        let log = folder.join("strace.log");
        let mut command = Command::new("strace");
        command.args(["-f", "-p", &pid.to_string(), "-o"]).arg(&log);
        let Place { call, number } = place;
        command.args([
            "-e",
            &format!("trace=?{call}"),
            "-e",
            &format!("inject=?{call}:signal=KILL:when={number}"),
        ]);
        let strace = command
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start strace: install it with `cargo xtask setup`")?;
        let mut tracer = Self { strace, log, place };
        let mut said = String::new();
        if let Some(stderr) = tracer.strace.stderr.as_mut() {
            BufReader::new(stderr).read_line(&mut said).context("cannot read what strace says")?;
        }
        ensure!(said.contains("attached"), "strace does not attach: {said}");
        Ok(tracer)
    }

    /// Detaches. Whether its place was reached.
    ///
    /// # Errors
    /// When strace does not end, or its log cannot be read.
    pub fn detach(mut self) -> Result<bool> {
        let pid = i32::try_from(self.strace.id()).context("no process id")?;
        // It ends by itself with the last process that it follows.
        if self.strace.try_wait().context("cannot wait for strace")?.is_none() {
            kill(Pid::from_raw(pid), Signal::SIGTERM).context("cannot end strace")?;
        }
        let ended = command::wait(&mut self.strace, Duration::from_secs(10))?;
        ensure!(ended.is_some(), "strace does not end");
        let log = std::fs::read_to_string(&self.log).context("cannot read strace's log")?;
        Ok(most_of_one(&log, self.place.call) >= self.place.number)
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        if matches!(self.strace.try_wait(), Ok(None))
            && let Err(error) = self.strace.kill().and_then(|()| self.strace.wait())
        {
            eprintln!("cannot end strace: {error}");
        }
    }
}

/// The largest number of calls of a kind that one process made.
fn most_of_one(log: &str, call: &str) -> usize {
    let start = format!("{call}(");
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for line in log.lines() {
        if let Some((pid, rest)) = line.split_once(' ')
            && rest.trim_start().starts_with(&start)
        {
            *counts.entry(pid).or_default() += 1;
        }
    }
    counts.into_values().max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_for_each_process_and_resumed_ones_once() {
        let log = "7 mount(\"a\"...\n8  mount(\"b\" <unfinished ...>\n7 mount(\"c\") = 0\n8 <... mount resumed>) = 0\n\
                   7 umount2(\"c\") = 0\n";
        assert_eq!(most_of_one(log, "mount"), 2);
        assert_eq!(most_of_one(log, "umount2"), 1);
        assert_eq!(most_of_one(log, "pivot_root"), 0);
    }
}

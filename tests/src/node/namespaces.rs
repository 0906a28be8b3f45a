//! The node's namespaces and its first process.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Options;
use crate::command;

/// The namespaces, for as long as their first process lives.
#[derive(Debug)]
pub(super) struct Namespaces {
    unshare: Child,
    /// The first process, by the machine's count.
    pub(super) init: i32,
}

impl Namespaces {
    pub(super) fn start(folder: &Path, options: &Options) -> Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            bail!("only root can make the namespaces of a node");
        }
        let script = folder.join("init.sh");
        std::fs::write(&script, include_str!("init.sh")).context("cannot write the node's init script")?;
        let log = std::fs::File::create(folder.join("log/init.log")).context("cannot make the init log")?;
        let both = log.try_clone().context("cannot share a log")?;
        let mut command = Command::new("setsid");
        command.args([
            "unshare",
            "--mount",
            "--net",
            "--pid",
            "--uts",
            "--fork",
            "--propagation",
            "private",
            "bash",
        ]);
        command.arg(&script).arg(folder);
        command.arg(if options.stay { "stay" } else { "tied" }).arg(if options.unified {
            "hybrid"
        } else {
            "pure"
        });
        command.stdin(if options.stay { Stdio::null() } else { Stdio::piped() });
        // A child of this process's own group would get the terminal's Ctrl-C; setsid forks no more for a group leader.
        let mut unshare = command
            .stdout(Stdio::from(log))
            .stderr(Stdio::from(both))
            .spawn()
            .context("cannot start unshare")?;
        let ready = command::until("the node's namespaces", Duration::from_secs(20), || {
            let over = !matches!(unshare.try_wait(), Ok(None));
            (over || folder.join("state/ready").exists()).then_some(!over)
        });
        let children = format!("/proc/{0}/task/{0}/children", unshare.id());
        let init = std::fs::read_to_string(&children).ok().and_then(|text| text.trim().parse().ok());
        match (ready, init) {
            (Ok(true), Some(init)) => {
                std::fs::write(folder.join("state/init.pid"), format!("{init}"))
                    .context("cannot note the node's pid")?;
                Ok(Self { unshare, init })
            }
            _ => {
                let said = std::fs::read_to_string(folder.join("log/init.log")).unwrap_or_default();
                drop(unshare.stdin.take());
                bail!("cannot make the node's namespaces: {said}")
            }
        }
    }

    pub(super) fn command(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.init.to_string(), "-m", "-n", "-p", "-u", "--wdns=/", "--"]);
        command
    }

    /// Ends the first process, and with it everything inside.
    pub(super) fn end(&mut self) {
        if let Err(error) = kill(Pid::from_raw(self.init), Signal::SIGKILL) {
            eprintln!("cannot end the node's first process {}: {error}", self.init);
        }
        match command::wait(&mut self.unshare, Duration::from_secs(20)) {
            Ok(Some(_)) => {}
            Ok(None) => eprintln!("the node's first process {} does not end", self.init),
            Err(error) => eprintln!("{error:#}"),
        }
    }
}

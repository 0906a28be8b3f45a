//! Sessions with a terminal: refused, behind the container's walls, or behind a debug profile of their own.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tests::command::Output;

use crate::case::Case;
use crate::{Test, declaring};

pub(crate) const TESTS: &[(&str, &str, Test)] = &[
    ("exec-session", "interactiveExec: deny keeps terminals out of a running container", refused),
    ("debug", "interactiveExec: debug grants sessions more, and the container nothing", debug),
    ("debug-user", "so it does where the container's user is not root", debug_of_a_user),
    ("debug-ceiling", "what debug grants is never above a ceiling or a hard deny", debug_under_a_ceiling),
    ("debug-reach", "the container's processes do not reach a session's mounts", debug_out_of_reach),
];

const DEBUG: &str =
    "interactiveExec: debug\ndebug: { exec: [/bin/other, /srv], caps: [CHOWN], needs: [ipc] }";
/// What [`DEBUG`] grants.
const GRANTED: [&str; 3] = ["exec:/bin/other", "exec:/srv/third", "syscall:msgget"];
/// What it does not.
const OTHERS: [&str; 3] = ["write:/data/file", "syscall:wx", "bind:8080"];

/// A container that sleeps, for as long as this lives.
struct Sleeping<'a> {
    case: &'a Case<'a>,
    id: &'static str,
}

impl<'a> Sleeping<'a> {
    fn start(case: &'a Case<'a>, id: &'static str, flags: &[&str]) -> Result<Self> {
        let image = case.image(&declaring(&[])?)?;
        let flags: Vec<&str> = ["-d"].iter().chain(flags).copied().collect();
        let sleeping = Self { case, id };
        case.ctr(id, &flags, &image, &["/bin/keep-probe", "sleep", "600"])?.success()?;
        Ok(sleeping)
    }

    fn line(&self, words: &[&str]) -> String {
        format!("ctr task exec -t --exec-id terminal {} {}", self.id, words.join(" "))
    }

    /// An exec with a terminal.
    fn session(&self, words: &[&str]) -> Result<Output> {
        self.case.node.run("script", &["-q", "-e", "-c", &self.line(words), "/dev/null"])
    }

    /// An exec without.
    fn plain(&self, words: &[&str]) -> Result<Output> {
        self.case.node.exec(self.id, words)
    }

    /// The digest that the record of a refused call names, of an exec of which `exec` is true.
    fn digest(&self, operation: &str, exec: impl Fn(&str) -> bool) -> Result<String> {
        let limit = Instant::now() + Duration::from_secs(10);
        while Instant::now() < limit {
            let records = self.case.records(self.id)?;
            let of_exec = |record: &&Value| {
                record["operation"] == operation && record["container"]["exec"].as_str().is_some_and(&exec)
            };
            if let Some(record) = records.iter().find(of_exec) {
                return Ok(record["profile"].as_str().unwrap_or_default().to_owned());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("there is no record of {operation}")
    }

    fn end(self) -> Result<()> {
        self.case.node.remove(self.id)
    }
}

/// Makes sure of the outcome of each move.
fn outcomes(output: &Output, allowed: &[&str], refused: &[&str]) -> Result<()> {
    for what in allowed {
        ensure!(output.stdout.contains(&format!("{what}: ok")), "{what} is not ok: {output}");
    }
    for what in refused {
        ensure!(output.stdout.contains(&format!("{what}: denied E")), "{what} is not denied: {output}");
    }
    Ok(())
}

fn many<'a>(program: &'a str, moves: &[&[&'a str]]) -> Vec<&'a str> {
    [program, "many"].into_iter().chain(moves.concat()).collect()
}

fn refused(case: &Case<'_>) -> Result<()> {
    for (spec, id, refused) in
        [("{}", "session-confined", false), ("interactiveExec: deny", "session-denied", true)]
    {
        case.handler.policy("sessions", spec)?;
        let container = Sleeping::start(case, id, &[])?;
        let session = container.session(&["/bin/keep-probe", "tty"])?;
        container.plain(&["/bin/keep-probe", "ok"])?.success()?;
        container.end()?;
        ensure!(session.stdout.contains("true true") != refused, "{session}");
        let records = case.records(id)?;
        let recorded = records.iter().any(|record| record["operation"] == "exec-session");
        ensure!(recorded == refused, "{records:?}");
    }
    Ok(())
}

fn debug(case: &Case<'_>) -> Result<()> {
    debug_as(case, "session-debug", &[])
}

fn debug_of_a_user(case: &Case<'_>) -> Result<()> {
    debug_as(case, "session-debug-user", &["--user", "1000:1000"])
}

fn debug_as(case: &Case<'_>, id: &'static str, flags: &[&str]) -> Result<()> {
    case.handler.policy("sessions", DEBUG)?;
    let container = Sleeping::start(case, id, flags)?;
    let probe = "/bin/keep-probe";
    let mounts = container.plain(&[probe, "show", "/proc/self/mountinfo"])?.success()?;
    let words = many(probe, &[&GRANTED, &OTHERS]);
    outcomes(&container.plain(&words)?, &[], &[&GRANTED[..], &OTHERS].concat())?;
    outcomes(&container.session(&words)?, &GRANTED, &OTHERS)?;
    // Its own program may be one that only sessions may run.
    let tty = container.session(&["/bin/other", "tty"])?;
    ensure!(tty.stdout.contains("true true"), "{tty}");
    let plain = container.plain(&["/bin/other", "ok"])?;
    ensure!(!plain.status.success() && plain.stderr.contains("does not declare the program"), "{plain}");
    // CAP_CHOWN is number 0; nothing is left of what its mounts took.
    let sets = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];
    let (session, plain) = (container.session(&[probe, "status"])?, container.plain(&[probe, "status"])?);
    for set in sets {
        ensure!(session.stdout.contains(&format!("{set}:\t{:016x}", 1)), "{set}: {session}");
        ensure!(plain.stdout.contains(&format!("{set}:\t{:016x}", 0)), "{set}: {plain}");
    }
    // The container is as it was.
    outcomes(&container.plain(&words)?, &[], &[&GRANTED[..], &OTHERS].concat())?;
    let after = container.plain(&[probe, "show", "/proc/self/mountinfo"])?.success()?;
    ensure!(after.stdout == mounts.stdout, "{mounts}\nand then\n{after}");
    let (of_session, of_plain) = (
        container.digest("openat", |exec| exec == "terminal")?,
        container.digest("openat", |exec| exec != "terminal")?,
    );
    container.end()?;
    let is_digest = |text: &str| text.len() == 71 && text.starts_with("sha256:");
    ensure!(
        is_digest(&of_session) && is_digest(&of_plain) && of_session != of_plain,
        "{of_session} {of_plain}"
    );
    Ok(())
}

fn debug_under_a_ceiling(case: &Case<'_>) -> Result<()> {
    case.handler.policy("sessions", DEBUG)?;
    case.handler.policy(
        "narrow",
        "selector: { images: ['*'] }\nceiling: { exec: [/bin], needs: [jit] }\ndeny: { caps: [CHOWN] }",
    )?;
    let container = Sleeping::start(case, "session-ceiling", &[])?;
    let session = container.session(&many("/bin/keep-probe", &[&GRANTED]))?;
    let status = container.session(&["/bin/keep-probe", "status"])?;
    container.end()?;
    outcomes(&session, &GRANTED[..1], &GRANTED[1..])?;
    ensure!(status.stdout.contains(&format!("CapBnd:\t{:016x}", 0)), "{status}");
    case.handler.policy("narrow", "selector: { images: ['*'] }\ndeny: { exec: [/bin/other] }")?;
    let container = Sleeping::start(case, "session-deny", &[])?;
    let session = container.session(&many("/bin/keep-probe", &[&GRANTED]))?;
    container.end()?;
    outcomes(&session, &GRANTED[1..], &GRANTED[..1])
}

fn debug_out_of_reach(case: &Case<'_>) -> Result<()> {
    case.handler.policy("sessions", DEBUG)?;
    let container = Sleeping::start(case, "session-reach", &[])?;
    let line = container.line(&["/bin/other", "sleep", "60"]);
    let mut script = case.node.command("script");
    script.args(["-q", "-e", "-c", &line, "/dev/null"]).stdin(Stdio::null()).stdout(Stdio::null());
    let mut session = script.spawn().context("cannot start script")?;
    let reached = reach(&container, &mut session);
    let ended = session.kill().and_then(|()| session.wait());
    container.end()?;
    ended.context("cannot end the session")?;
    reached
}

/// The session by the container's own names: its number is the first whose command line is that of the session.
fn reach(container: &Sleeping<'_>, session: &mut Child) -> Result<()> {
    let limit = Instant::now() + Duration::from_secs(10);
    let mut found = None;
    while found.is_none() && Instant::now() < limit {
        ensure!(session.try_wait()?.is_none(), "the session ended");
        for number in 2..40 {
            let line = format!("/proc/{number}/cmdline");
            let said = container.plain(&["/bin/keep-probe", "show", &line])?;
            if said.stdout.starts_with("/bin/other\0sleep") {
                found = Some(number);
                break;
            }
        }
    }
    let number = found.context("the session is not among the container's processes")?;
    let root = format!("read:/proc/{number}/root/bin/other");
    let program = format!("read:/proc/{number}/exe");
    let run = format!("exec:/proc/{number}/root/bin/other");
    let moves = [root.as_str(), program.as_str(), run.as_str(), "exec:/bin/other"];
    let said = container.plain(&many("/bin/keep-probe", &[&moves, &["read:/bin/other"]]))?;
    outcomes(&said, &["read:/bin/other"], &moves)
}

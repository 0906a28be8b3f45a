//! Readers of a container's output that go away, or are slow.

use std::io::Read as _;
use std::process::{ChildStdout, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tests::census::Census;
use tests::command::{self, until};
use tests::node::{Node, Runtime};
use tests::under_test;

use super::{DECLARED, HANG, in_time};

const ID: &str = "flood";

/// Slow readers: the megabytes that each is sent, and how many bytes it takes at a time, between two rests: about 16 MB/s and
/// 1 MB/s.
const SLOW: [(usize, usize); 2] = [(64, 512 << 10), (8, 32 << 10)];

/// Megabytes that a quick reader is sent.
const MUCH: usize = 1024;

/// How long a slow reader rests.
const REST: Duration = Duration::from_millis(32);

/// What ctr may leave unread: it closes its fifos when it hears of the exit, under runc's shim too. As much as they, and the
/// pipes behind them, hold.
const UNREAD: usize = 256 * 1024;

/// `ctr run -d` opens the fifos and goes away: the container fills them, waits, and ends when told to.
pub(super) fn reader_gone(node: &mut Node) -> Result<()> {
    let before = Census::take(node);
    let words = ["/bin/keep-probe", "flood", "8"];
    node.start_container(Runtime::Keep, &["-d"], DECLARED, ID, &words)?.success()?;
    std::thread::sleep(Duration::from_millis(300));
    let lives = node.pid_of(ID);
    in_time("the clean-up", || node.remove(ID))?;
    lives.context("it ended without its reader")?;
    let left = before.wait_until_back(node, HANG);
    ensure!(left.is_empty(), "left: {left:#?}");
    Ok(())
}

/// A log file where nothing can be written, and fifos that nobody made, fail the start or the exec with a sentence.
pub(super) fn reader_never_there(node: &mut Node) -> Result<()> {
    let before = Census::take(node);
    for log in ["file:///proc/keep.log", "file:///nowhere/keep.log", "binary:///nowhere/logger"] {
        let words = ["/bin/keep-probe", "sleep", "600"];
        let flags = ["-d", "--log-uri", log];
        let said = in_time("ctr run", || node.start_container(Runtime::Keep, &flags, DECLARED, ID, &words));
        in_time("the clean-up", || node.remove(ID))?;
        let said = said?;
        ensure!(said.code() != 0, "{log}: it started: {said}");
        let left = before.wait_until_back(node, HANG);
        ensure!(left.is_empty(), "{log}: left: {left:#?}");
    }
    Ok(())
}

/// A gigabyte arrives whole.
pub(super) fn much_output(node: &mut Node) -> Result<()> {
    flood(node, MUCH, |_, output| {
        let got = std::io::copy(output, &mut std::io::sink()).context("cannot read the output")?;
        Ok(usize::try_from(got)?)
    })
}

/// Nothing is lost through a slow reader while it reads, and the shim holds none of it in memory.
pub(super) fn slow_reader(node: &mut Node) -> Result<()> {
    SLOW.into_iter().try_for_each(|(megabytes, sip)| slowly(node, megabytes, sip))
}

fn slowly(node: &Node, megabytes: usize, sip: usize) -> Result<()> {
    flood(node, megabytes, |node, output| {
        let server = until("the shim", HANG, || {
            node.shims(ID).iter().filter(|process| process.line.ends_with(" serve")).map(|p| p.pid).min()
        })?;
        let (mut chunk, mut got, mut most) = (vec![0; sip], 0, 0);
        let begin = Instant::now();
        loop {
            let length = output.read(&mut chunk).context("cannot read the output")?;
            if length == 0 {
                break;
            }
            got += length;
            std::thread::sleep(REST * u32::try_from(length)? / u32::try_from(sip)?);
            most = most.max(own_memory(server));
        }
        let slow = begin.elapsed();
        let least = REST * u32::try_from((megabytes << 20) / sip)? / 2;
        ensure!(slow > least, "the reader was not slow: {slow:?}");
        ensure!((1..4096).contains(&most), "the shim took {most} kB");
        Ok(got)
    })
}

/// Runs a container that writes so many megabytes to a reader, which says how many bytes arrived: all but what ctr leaves, and
/// nothing stays behind.
fn flood(
    node: &Node,
    megabytes: usize,
    read: impl FnOnce(&Node, &mut ChildStdout) -> Result<usize>,
) -> Result<()> {
    let before = Census::take(node);
    let mut ctr = node.command("ctr");
    ctr.args(["run", "--rm", "--runtime", under_test::RUNTIME, DECLARED, ID, "/bin/keep-probe", "flood"]);
    ctr.arg(megabytes.to_string()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut ctr = ctr.spawn().context("cannot start ctr")?;
    let mut output = ctr.stdout.take().context("no pipe")?;
    let got = read(node, &mut output);
    // Whose reader gave up may still write.
    drop(output);
    let ended = command::wait(&mut ctr, HANG)?;
    node.remove(ID)?;
    let got = got?;
    ensure!(ended.is_some_and(|status| status.success()), "ctr: {ended:?}");
    let lost = (megabytes << 20).checked_sub(got).context("more arrived than was sent")?;
    ensure!(lost <= UNREAD, "{lost} bytes of {megabytes} MB did not arrive");
    let left = before.wait_until_back(node, HANG);
    ensure!(left.is_empty(), "left: {left:#?}");
    Ok(())
}

/// Memory of a process that it shares with none, in kB; 0 once it is gone.
fn own_memory(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Private_Dirty:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

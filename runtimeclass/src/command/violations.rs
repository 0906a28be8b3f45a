//! `keep violations`: what was stopped on this node, in words or as the records themselves.

use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use profiles::record::{Record, Verdict};

use super::{Format, Outcome, colours};
use crate::spool::{self, Entry, Item, Tail, Watch};
use crate::words::printable;

/// Items between two flushes of standard output.
const BATCH: usize = 1024;
/// How often to look all the same where there is a watch.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// What tried to cross a wall on this node, and the label that would allow it.
///
/// Reads the records that the pods' shims wrote, in time order; those of a pod are deleted some time after its end.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  keep violations -f
  keep violations --pod shop/web-7d4 --since 10m
  keep violations --format json | jq -r .object

Exit codes:
  0  done, whether or not there were any
  2  bad usage, or the records cannot be read")]
pub(crate) struct Violations {
    /// Go on with new records as they come.
    #[arg(short, long)]
    follow: bool,
    /// Output format; json prints the records as they are, one a line.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Where Keep stores its data.
    #[arg(long, value_name = "DIR", default_value = spool::DATA_DIR)]
    data_dir: PathBuf,
    #[command(flatten)]
    filter: Filter,
}

#[derive(Debug, Default, clap::Args)]
struct Filter {
    /// Only this pod: NAMESPACE/NAME.
    #[arg(long, value_name = "NS/NAME", value_parser = pod)]
    pod: Option<(String, String)>,
    /// Only this container: its id, the beginning of its id (8 characters or more), or its name.
    #[arg(long, value_name = "ID")]
    container: Option<String>,
    /// Only records from then on: a time (RFC 3339) or how long ago (10m, 2h).
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<Timestamp>,
}

fn pod(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
            Ok((namespace.to_owned(), name.to_owned()))
        }
        _ => Err("write NAMESPACE/NAME".to_owned()),
    }
}

fn since(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    let ago: SignedDuration = text
        .parse()
        .map_err(|_| "write a time such as 2026-11-21T08:00:00Z, or how long ago such as 10m".to_owned())?;
    Timestamp::now().checked_sub(ago).map_err(|_| "that is before all time".to_owned())
}

impl Filter {
    fn lets(&self, record: &Record, time: Timestamp) -> bool {
        let container = |wanted: &String| {
            record.container.name == *wanted
                || record.container.id == *wanted
                || (wanted.len() >= 8 && record.container.id.starts_with(wanted.as_str()))
        };
        let pod = |(namespace, name): &(String, String)| {
            record.pod.as_ref().is_some_and(|pod| pod.namespace == *namespace && pod.name == *name)
        };
        self.pod.as_ref().is_none_or(pod)
            && self.container.as_ref().is_none_or(container)
            && self.since.is_none_or(|since| time >= since)
    }
}

/// Runs the command.
///
/// # Errors
/// When the spool cannot be read, or standard output is closed.
pub(crate) fn run(args: &Violations) -> anyhow::Result<Outcome> {
    let folder = spool::folder(&args.data_dir);
    if !folder.is_dir() {
        let absent = std::fs::read_dir(&folder).err().filter(|e| e.kind() != io::ErrorKind::NotFound);
        if let Some(error) = absent {
            return Err(error).with_context(|| format!("cannot read {}", folder.display()));
        }
        eprintln!("keep: no records yet: {} does not exist", folder.display());
    }
    let mut tail = Tail::new(&folder, &[]);
    let mut watch = None;
    let colours = colours();
    loop {
        // The watch stands before the spool is read, so that nothing falls between.
        watch = if args.follow { watch.or_else(|| Watch::new(&folder).ok()) } else { None };
        let mut out = io::stdout().lock();
        while tail
            .poll(BATCH, &mut |item| show(&mut out, args, colours, item))
            .with_context(|| format!("cannot read {}", folder.display()))?
        {
            out.flush()?;
        }
        out.flush()?;
        drop(out);
        if !args.follow {
            return Ok(Outcome::Fine);
        }
        if !wait(&mut watch)? {
            return Ok(Outcome::Fine);
        }
    }
}

/// Waits for a change; `false` when nobody reads standard output any more.
fn wait(watch: &mut Option<Watch>) -> io::Result<bool> {
    let stdout = io::stdout();
    // No event is asked for: POLLERR alone is reported, and means that the reader has gone.
    let mut waits = vec![PollFd::new(stdout.as_fd(), PollFlags::empty())];
    waits.extend(watch.as_ref().map(|watch| PollFd::new(watch.as_fd(), PollFlags::POLLIN)));
    let timeout = if watch.is_some() { HEARTBEAT } else { spool::POLL };
    let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
    match poll(&mut waits, timeout) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => {}
        Err(error) => return Err(error.into()),
    }
    let closed =
        waits[0].revents().is_some_and(|events| events.intersects(PollFlags::POLLERR | PollFlags::POLLNVAL));
    drop(waits);
    if watch.as_ref().is_some_and(|watch| !watch.drain().unwrap_or(false)) {
        *watch = None;
    }
    Ok(!closed)
}

fn show(out: &mut impl Write, args: &Violations, colours: bool, item: Item) -> io::Result<()> {
    match item {
        Item::Fault(fault) => {
            let problem = printable(&fault.problem);
            eprintln!("keep: {}, line {}: no record: {problem}", printable(&fault.file), fault.line);
            Ok(())
        }
        Item::Entry(entry) if !args.filter.lets(&entry.record, entry.time) => Ok(()),
        Item::Entry(entry) => match args.format {
            Format::Json => writeln!(out, "{}", entry.line),
            Format::Text => writeln!(out, "{}", line(&entry, colours)),
        },
    }
}

/// `time  pod/container  sentence`
fn line(entry: &Entry, colours: bool) -> String {
    let record = &entry.record;
    let time = entry.time.strftime("%Y-%m-%dT%H:%M:%SZ");
    let place = match &record.pod {
        Some(pod) => format!("{}/{}/{}", pod.namespace, pod.name, record.container.name),
        None => record.container.name.clone(),
    };
    let (place, sentence) = (printable(&place), printable(&record.sentence()));
    let times = if record.count > 1 { format!(" ({} times)", record.count) } else { String::new() };
    if !colours {
        return format!("{time}  {place}  {sentence}{times}");
    }
    let colour = match record.verdict {
        Verdict::Denied => "31",
        Verdict::Audited => "33",
    };
    format!("\u{1b}[2m{time}\u{1b}[0m  \u{1b}[1m{place}\u{1b}[0m  \u{1b}[{colour}m{sentence}\u{1b}[0m{times}")
}

/// Arguments as the command line would give them.
#[cfg(test)]
fn parse(args: &[&str]) -> Result<Violations, clap::Error> {
    use clap::{Args as _, FromArgMatches as _};
    let command = Violations::augment_args(clap::Command::new("violations").no_binary_name(true));
    Violations::from_arg_matches(&command.try_get_matches_from(args)?)
}

#[cfg(test)]
mod tests;

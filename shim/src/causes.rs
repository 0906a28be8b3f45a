//! Why libcontainer failed. The processes that it forks hand their parent one sentence, without its cause ("failed to prepare rootfs"); the
//! cause is in what they log, which this brings to who calls libcontainer.

use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::sync::OnceLock;

use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Longest line that is kept, in bytes, and how many lines are told: with the first, libcontainer names what it was doing; with the next,
/// often, what the kernel answered. An Event of Kubernetes has 1024 bytes.
const MAX_LINE: usize = 300;
const TOLD: usize = 2;

/// What stands in libcontainer's answer before the reason of a process that it forked.
const FORKED: &str = "executing process : ";

/// Where this process, and those that it forks, write what libcontainer logs as errors.
static SAID: OnceLock<File> = OnceLock::new();

/// What libcontainer says while it works for this process.
#[derive(Debug)]
pub(crate) struct Causes(Option<File>);

impl Causes {
    /// Begins to listen, in a process that calls libcontainer once. Where it cannot, nothing more is told than what libcontainer answers.
    pub(crate) fn listen() -> Self {
        let pipe = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).ok();
        Self(pipe.and_then(|(read, write)| SAID.set(File::from(write)).ok().map(|()| File::from(read))))
    }

    /// What was said first, on one line; none where nothing was, or where that is the reason that libcontainer's `answer` ends with: it is
    /// whole where the walls or the program are the reason.
    pub(crate) fn beyond(&self, answer: &str) -> Option<String> {
        let mut bytes = vec![0; TOLD * MAX_LINE];
        let length = self.0.as_ref()?.read(&mut bytes).ok()?;
        let text = String::from_utf8_lossy(bytes.get(..length)?).into_owned();
        // A field of an event is quoted, as Rust shows it.
        let unquoted = |text: &str| text.replace('\\', "");
        let reason = answer.rsplit(FORKED).next().unwrap_or(answer);
        let first = text.lines().next()?;
        let more = !unquoted(first).contains(&unquoted(reason));
        more.then(|| text.lines().take(TOLD).collect::<Vec<_>>().join("; "))
    }
}

/// Hears what libcontainer logs as errors.
#[derive(Debug)]
pub(crate) struct Listener;

impl<S: Subscriber> Layer<S> for Listener {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        if *metadata.level() != Level::ERROR || !metadata.target().starts_with("libcontainer") {
            return;
        }
        if let Some(mut file) = SAID.get() {
            let mut line = Line::default();
            event.record(&mut line);
            // Where it is full, or nobody reads: what was said first is what counts.
            let (Ok(()) | Err(_)) = file.write_all(line.text().as_bytes());
        }
    }
}

/// An event's message and fields, as they are in a log.
#[derive(Default)]
struct Line(String);

impl Line {
    fn text(self) -> String {
        let mut text = plain(&self.0.replace('\n', " "));
        let end = (0..MAX_LINE).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or_default());
        text.push('\n');
        text
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let said = match field.name() {
            "message" => format!("{value:?}"),
            name => format!("{name}={value:?}"),
        };
        if !self.0.is_empty() {
            self.0.push(' ');
        }
        self.0.push_str(&said);
    }
}

/// A line without the mount of the runtime spec as libcontainer logs it, which is as Rust shows it: what, and where, instead.
fn plain(line: &str) -> String {
    let mount = line.split_once("Mount { destination: ").and_then(|(before, rest)| {
        let (fields, after) = rest.rsplit_once(" }")?;
        let (destination, others) = fields.split_once(", typ: ")?;
        let source = others.split_once("source: Some(").and_then(|(_, rest)| rest.split_once("), options: "));
        let source = source.map(|(source, _)| format!("{source} "));
        Some(format!("{before}{}at {destination}{after}", source.unwrap_or_default()))
    });
    mount.unwrap_or_else(|| line.to_owned())
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn what_libcontainer_says_first_is_told_where_its_answer_does_not() {
        let causes = Causes::listen();
        let said =
            |log: fn()| tracing::subscriber::with_default(tracing_subscriber::registry().with(Listener), log);
        said(|| {
            tracing::error!(target: "another", "not this");
            tracing::info!(target: "libcontainer::rootfs", "nor this");
            tracing::error!(target: "libcontainer::rootfs", "failed to mount {:?}", "/mnt\n/x");
            tracing::error!(target: "libcontainer::process", err = ?fmt::Error, "failed to prepare rootfs");
        });
        let told = causes.beyond("failed to create: error in executing process : failed to prepare rootfs");
        let expected = "failed to mount \"/mnt\\n/x\"; failed to prepare rootfs err=Error";
        assert_eq!(told.as_deref(), Some(expected));

        said(|| tracing::error!(target: "libcontainer", err = ?"exec \"/x\": refused", "failed to execute"));
        assert_eq!(
            causes.beyond("failed to create: error in executing process : exec \"/x\": refused"),
            None
        );
        said(|| tracing::error!(target: "libcontainer", "failed to initialize: exec \"/x\": refused"));
        assert_eq!(causes.beyond("exec \"/x\": refused"), None);
        assert_eq!(causes.beyond("nothing was said"), None);
    }

    #[test]
    fn a_mount_is_told_as_what_and_where() {
        let mut mount = oci_spec::runtime::Mount::default();
        mount
            .set_destination("/data".into())
            .set_source(Some("/srv/gone".into()))
            .set_typ(Some("bind".into()));
        mount.set_options(Some(vec!["rbind".into()]));
        assert_eq!(
            plain(&format!("failed to mount {mount:?}: io error")),
            r#"failed to mount "/srv/gone" at "/data": io error"#
        );
        mount.set_source(None);
        assert_eq!(plain(&format!("failed to mount {mount:?}: x")), r#"failed to mount at "/data": x"#);
        assert_eq!(plain("Mount { destination: half"), "Mount { destination: half");
    }

    #[test]
    fn a_long_line_is_cut_between_letters() {
        let text = Line("ä".repeat(MAX_LINE)).text();
        assert!(text.len() <= MAX_LINE && text.ends_with("ä\n"), "{text}");
    }
}

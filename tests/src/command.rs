//! Running other programs: with a time limit, and errors that show what they said.

use std::fmt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// What a program did.
#[derive(Debug, Clone)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output, as text.
    pub stdout: String,
    /// Its standard error, as text.
    pub stderr: String,
    /// The command line, for messages.
    pub line: String,
}

impl Output {
    /// The exit code; 128 + signal where it was killed.
    #[must_use]
    pub fn code(&self) -> i32 {
        use std::os::unix::process::ExitStatusExt as _;
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }

    /// Itself if it succeeded.
    ///
    /// # Errors
    /// With everything that it printed, otherwise.
    pub fn success(self) -> Result<Self> {
        if self.status.success() { Ok(self) } else { bail!("{self}") }
    }

    /// Standard output without white space at its ends.
    #[must_use]
    pub fn text(&self) -> &str {
        self.stdout.trim()
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` ended with {}", self.line, self.code())?;
        for (name, text) in [("stdout", self.stdout.trim()), ("stderr", self.stderr.trim())] {
            if !text.is_empty() {
                write!(f, "\n{name}: {text}")?;
            }
        }
        Ok(())
    }
}

/// Runs a command to its end, standard input empty, and gives what it printed.
///
/// # Errors
/// When it cannot be started, or is not done within `limit`: then it is killed.
pub fn run(command: &mut Command, limit: Duration) -> Result<Output> {
    let line = line(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{line}`"))?;
    let stdout = reader(child.stdout.take());
    let stderr = reader(child.stderr.take());
    let ended = wait(&mut child, limit);
    let output = |status| -> Output {
        // The readers end when the last holder of the pipes does; a left-over daemon must not hold us up.
        let patience = Instant::now() + Duration::from_secs(2);
        Output { status, stdout: stdout.text(patience), stderr: stderr.text(patience), line: line.clone() }
    };
    match ended? {
        Some(status) => Ok(output(status)),
        None => {
            child.kill().with_context(|| format!("cannot kill `{line}`"))?;
            let status = child.wait().with_context(|| format!("cannot wait for `{line}`"))?;
            bail!("not done within {} s: {}", limit.as_secs(), output(status))
        }
    }
}

/// Waits until a child ends, at most `limit`.
///
/// # Errors
/// When waiting fails.
pub fn wait(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let end = Instant::now() + limit;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait().context("cannot wait for a child")? {
            return Ok(Some(status));
        }
        if Instant::now() >= end {
            return Ok(None);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Asks `check` again and again until it gives something.
///
/// # Errors
/// When it gives nothing within `limit`; `what` says what was waited for.
pub fn until<T>(what: &str, limit: Duration, mut check: impl FnMut() -> Option<T>) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = check() {
            return Ok(found);
        }
        if Instant::now() >= end {
            bail!("waited {} s in vain for {what}", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

struct Reader {
    received: std::sync::mpsc::Receiver<Vec<u8>>,
}

fn reader(pipe: Option<impl std::io::Read + Send + 'static>) -> Reader {
    let (sender, received) = std::sync::mpsc::channel();
    if let Some(mut pipe) = pipe {
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(length) = pipe.read(&mut buffer) {
                let Some(part) = buffer.get(..length).filter(|part| !part.is_empty()) else { break };
                if sender.send(part.to_vec()).is_err() {
                    break;
                }
            }
        });
    }
    Reader { received }
}

impl Reader {
    fn text(&self, until: Instant) -> String {
        let mut bytes = Vec::new();
        while let Ok(part) = self.received.recv_timeout(until.saturating_duration_since(Instant::now())) {
            bytes.extend(part);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

//! Repeated work: opens under a timer signal, costs, and what changes with time.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn number<T: std::str::FromStr>(text: &str) -> io::Result<T> {
    text.parse().map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

fn open(path: &str) -> io::Result<()> {
    OpenOptions::new().write(true).create(true).truncate(false).open(path).map(drop)
}

/// Writes so many megabytes to standard output.
pub(crate) fn flood(megabytes: &str) -> io::Result<()> {
    let chunk = vec![b'x'; 64 * 1024];
    let mut output = io::stdout().lock();
    for _ in 0..number::<usize>(megabytes)? * 16 {
        output.write_all(&chunk)?;
    }
    output.flush()
}

/// Takes so many megabytes of memory, and writes to each page.
pub(crate) fn fill(megabytes: &str) -> io::Result<String> {
    let memory = std::hint::black_box(vec![1u8; number::<usize>(megabytes)? << 20]);
    Ok(format!("{} bytes", memory.len()))
}

/// Opens `path` for writing at least `count` times, for at least one second, with a signal every millisecond.
pub(crate) fn opens(count: &str, path: &str) -> io::Result<String> {
    let count: u64 = number(count)?;
    crate::raw::start_timer(1000)?;
    let begin = Instant::now();
    let (mut done, mut failed, mut first) = (0u64, 0u64, String::new());
    while done < count || begin.elapsed() < Duration::from_secs(1) {
        done += 1;
        // std's own open retries EINTR, as most language runtimes do.
        if let Err(error) = open(path) {
            failed += 1;
            if first.is_empty() {
                first = format!(" first {}", crate::errno(&error));
            }
        }
    }
    Ok(format!("opens {done} failed {failed} signals {}{first}", crate::raw::ticks()))
}

/// Nanoseconds of one piece of work, the median of batches: to open `object` for writing or to read it, and close; a plain
/// system call; a connection to the address `object`, accepted and reset.
pub(crate) fn bench(how: &str, seconds: &str, object: &str) -> io::Result<String> {
    match how {
        "write" => batches(seconds, 1000, || open(object)),
        "read" => {
            File::open(object).map(drop).or_else(|_| open(object))?;
            batches(seconds, 1000, || File::open(object).map(drop))
        }
        "call" => batches(seconds, 100_000, || {
            std::hint::black_box(std::os::unix::process::parent_id());
            Ok(())
        }),
        _ => {
            let listener = TcpListener::bind(object)?;
            batches(seconds, 1000, || {
                let stream = TcpStream::connect(object)?;
                // A connection that is reset leaves no port behind that would have to wait.
                crate::raw::reset_on_close(&stream)?;
                listener.accept().map(drop)
            })
        }
    }
}

fn batches(seconds: &str, size: u32, mut work: impl FnMut() -> io::Result<()>) -> io::Result<String> {
    let limit = Duration::from_secs_f64(number(seconds)?);
    let begin = Instant::now();
    let mut batches = Vec::new();
    while begin.elapsed() < limit {
        let start = Instant::now();
        for _ in 0..size {
            work()?;
        }
        batches.push(start.elapsed().as_nanos() / u128::from(size));
    }
    batches.sort_unstable();
    Ok(batches.get(batches.len() / 2).copied().unwrap_or(0).to_string())
}

/// Wall nanoseconds of each of `count` runs of a command, whose output goes nowhere.
pub(crate) fn time(count: &str, program: &str, rest: &[&str]) -> io::Result<String> {
    let count: u32 = number(count)?;
    let mut lines = Vec::new();
    for turn in 0..count {
        let arguments = rest.iter().map(|word| word.replace("%N", &turn.to_string()));
        let start = Instant::now();
        let status =
            Command::new(program).args(arguments).stdout(Stdio::null()).stdin(Stdio::null()).status()?;
        let took = start.elapsed().as_nanos();
        if !status.success() {
            return Err(io::Error::other(format!("{program} ended with {status}")));
        }
        lines.push(took.to_string());
    }
    Ok(lines.join("\n"))
}

/// Tries a move every 50 ms until its outcome changes or the time is over: `first FIRST last LAST`.
pub(crate) fn keep_trying(seconds: &str, what: &str) -> io::Result<String> {
    let limit = Duration::from_secs(number(seconds)?);
    let begin = Instant::now();
    let first = crate::outcome(what);
    println!("first {first}");
    loop {
        std::thread::sleep(Duration::from_millis(50));
        let now = crate::outcome(what);
        if now != first || begin.elapsed() > limit {
            return Ok(format!("last {now}"));
        }
    }
}

//! One small static program, used in images as init and through exec: tries one thing and says what came of it.
//!
//! It prints `ok`, or `denied ERRNO`, and exits with 0 or 1; 2 is a wrong use of it.

#![deny(unsafe_code)]

mod load;
#[allow(unsafe_code)]
mod raw;
mod serve;

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream, ToSocketAddrs as _, UdpSocket};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};
use std::time::Duration;

const USAGE: &str = "usage: keep-probe COMMAND
  status                 Seccomp, NoNewPrivs and Cap lines of /proc/self/status
  exec PATH [ARG]...     start a program and wait for it
  replace PATH [ARG]...  become a program
  memory-exec            run a copy of this program from memory
  read PATH | write PATH | create PATH | remove PATH | chmod PATH | rename FROM:TO
  connect ADDR:PORT | bind PORT | udp ADDR:PORT | bind-udp PORT
  syscall NAME           msgget io_uring_setup ptrace bpf keyctl mount unshare packet raw wx ...
  many NAME:ARG...       several of the above, one line each
  sleep SECONDS          ends at SIGTERM with 143
  serve PORT             answers every HTTP request with 200; /many?NAME:ARG does it and shows the result
  opens N PATH           opens PATH for writing N times under a 1 kHz timer signal
  bench HOW SECONDS WHAT nanoseconds to open WHAT for write or for read; of a plain call; to connect to WHAT
  time N CMD [ARG]...    wall nanoseconds of each of N runs
  keep-trying SECONDS NAME:ARG   tries every 50 ms until the result changes, shows first and last
  show PATH              the file's text
    flood MEGABYTES        writes them to standard output
    fill MEGABYTES         takes that much memory, and uses it
    exit N | echo TEXT | warn TEXT | cat | tty | env NAME | pwd | id | effective-uid | ok";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["status"] => show(status()),
        ["ok"] => ExitCode::SUCCESS,
        ["exit", code] => ExitCode::from(code.parse::<u8>().unwrap_or(2)),
        ["echo", text] => show(Ok((*text).to_owned())),
        ["warn", text] => {
            eprintln!("{text}");
            ExitCode::SUCCESS
        }
        ["cat"] => finish(io::copy(&mut io::stdin(), &mut io::stdout()).map(drop), false),
        ["tty"] => show(Ok(format!("{} {}", raw::is_terminal(0), raw::is_terminal(1)))),
        ["show", path] => show(std::fs::read_to_string(path)),
        ["env", name] => show(std::env::var(name).map_err(io::Error::other)),
        ["pwd"] => show(std::env::current_dir().map(|path| path.display().to_string())),
        ["id"] => show(identity()),
        ["effective-uid"] => show(effective_uid()),
        ["sleep", seconds] => {
            raw::exit_on_term();
            std::thread::sleep(Duration::from_secs(seconds.parse().unwrap_or(3600)));
            ExitCode::SUCCESS
        }
        ["replace", path, rest @ ..] => finish(Err(Command::new(path).args(rest).exec()), true),
        ["exec", path, rest @ ..] if !rest.is_empty() => finish(run(path, rest), true),
        ["serve", port] => finish(serve::forever(port), true),
        ["opens", count, path] => show(load::opens(count, path)),
        ["bench", how @ ("write" | "read" | "call" | "connect"), seconds, what] => {
            show(load::bench(how, seconds, what))
        }
        ["time", count, program, rest @ ..] => show(load::time(count, program, rest)),
        ["keep-trying", seconds, what] => show(load::keep_trying(seconds, what)),
        ["flood", megabytes] => finish(load::flood(megabytes), false),
        ["fill", megabytes] => show(load::fill(megabytes)),
        ["many", moves @ ..] if !moves.is_empty() => {
            for what in moves {
                println!("{what}: {}", outcome(what));
            }
            ExitCode::SUCCESS
        }
        [name, argument] => match attempt(name, argument) {
            Some(result) => finish(result, true),
            None => usage(),
        },
        ["memory-exec"] => finish(Err(become_copy_in_memory()), true),
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}

/// One word for what came of the move `NAME:ARG`.
pub(crate) fn outcome(what: &str) -> String {
    let (name, argument) = what.split_once(':').unwrap_or((what, ""));
    match attempt(name, argument) {
        Some(Ok(())) => "ok".to_owned(),
        Some(Err(error)) => format!("denied {}", errno(&error)),
        None => format!("unknown move {name}"),
    }
}

fn attempt(name: &str, argument: &str) -> Option<io::Result<()>> {
    Some(match name {
        "exec" => run(argument, &["ok"]),
        "memory-exec" => memory_exec(),
        "read" => read(argument),
        "write" => {
            OpenOptions::new().create(true).append(true).open(argument).and_then(|mut f| f.write_all(b"x"))
        }
        "create" => OpenOptions::new().create_new(true).write(true).open(argument).map(drop),
        "remove" => std::fs::remove_file(argument),
        "truncate" => nix::unistd::truncate(argument, 0).map_err(io::Error::from),
        "mkdir" => std::fs::create_dir(argument),
        "chmod" => {
            std::fs::metadata(argument).and_then(|m| std::fs::set_permissions(argument, m.permissions()))
        }
        "rename" => argument.split_once(':').map_or_else(
            || Err(io::Error::from_raw_os_error(libc::EINVAL)),
            |(from, to)| std::fs::rename(from, to),
        ),
        "connect" => connect(argument),
        "connect-unix" => std::os::unix::net::UnixStream::connect(argument).map(drop),
        "bind" => argument
            .parse()
            .map_err(io::Error::other)
            .and_then(|port: u16| TcpListener::bind(("0.0.0.0", port)).map(drop)),
        "bind-udp" => argument
            .parse()
            .map_err(io::Error::other)
            .and_then(|port: u16| UdpSocket::bind(("::", port)).map(drop)),
        "udp" => {
            let any = if argument.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
            UdpSocket::bind(any).and_then(|socket| socket.send_to(b"x", argument).map(drop))
        }
        "syscall" => raw::call(argument)?.map(drop),
        _ => return None,
    })
}

/// An empty file is refused as `ENODATA`: that is how a hidden file looks.
fn read(path: &str) -> io::Result<()> {
    match File::open(path)?.read(&mut [0])? {
        0 => Err(io::Error::from_raw_os_error(libc::ENODATA)),
        _ => Ok(()),
    }
}

fn run(path: &str, rest: &[&str]) -> io::Result<()> {
    Command::new(path).args(rest).status().map(drop)
}

/// Becomes a copy of this program that lies in memory only.
fn become_copy_in_memory() -> io::Error {
    match std::fs::read("/proc/self/exe") {
        Ok(me) => raw::exec_from_memory(&me),
        Err(error) => error,
    }
}

/// The same in a child, so that what comes of it can be told.
fn memory_exec() -> io::Result<()> {
    let output = Command::new("/proc/self/exe").arg("memory-exec").output()?;
    if output.status.success() { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EACCES)) }
}

fn connect(address: &str) -> io::Result<()> {
    let address = address.to_socket_addrs()?.next().ok_or(io::ErrorKind::InvalidInput)?;
    TcpStream::connect_timeout(&address, Duration::from_secs(3)).map(drop)
}

fn status() -> io::Result<String> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let wanted = ["Seccomp:", "NoNewPrivs:", "Cap"];
    let lines: Vec<&str> =
        text.lines().filter(|line| wanted.iter().any(|start| line.starts_with(start))).collect();
    Ok(lines.join("\n"))
}

fn identity() -> io::Result<String> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let first = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or("");
        line.split_whitespace().next().unwrap_or("?").to_owned()
    };
    Ok(format!("{} {}", first("Uid:"), first("Gid:")))
}

/// In the words that critest expects of its image for `no_new_privs`.
fn effective_uid() -> io::Result<String> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
    Ok(format!("Effective uid: {}", line.split_whitespace().nth(1).unwrap_or("?")))
}

fn show(result: io::Result<String>) -> ExitCode {
    match result {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => finish(Err(error), true),
    }
}

fn finish(result: io::Result<()>, tell: bool) -> ExitCode {
    match result {
        Ok(()) => {
            if tell {
                println!("ok");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("denied {}", errno(&error));
            ExitCode::FAILURE
        }
    }
}

/// The error number's symbolic name, else the error in words.
pub(crate) fn errno(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => format!("{:?}", nix::errno::Errno::from_raw(number)),
        None => format!("({error})"),
    }
}

//! What several probes are made of.

use std::ffi::{CStr, CString};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, RawFd};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::probe::{Failure, Try, allowed, broken, stopped};
use crate::raw::{self, memory};

/// With this code ends what ran though nobody declared it, and a probe that crossed.
pub(crate) const CROSSED: i32 = 42;
/// A static program that nobody declared.
pub(crate) const OTHER: &CStr = c"/bin/other";
/// A dynamic program that nobody declared.
pub(crate) const BUSYBOX: &str = "/bin/busybox";
/// A declared shell, dynamic.
pub(crate) const SHELL: &str = "/bin/sh";
/// The declared write path, owned by the container's user.
pub(crate) const DATA: &str = "/data";
/// The ELF loader, allowed because the shell needs it.
pub(crate) const LOADER: &str =
    if cfg!(target_arch = "x86_64") { "/lib64/ld-linux-x86-64.so.2" } else { "/lib/ld-linux-aarch64.so.1" };

/// Shorthand for a system call with arguments of any kind.
macro_rules! sys {
    ($number:expr $(, $argument:expr)* $(,)?) => {
        $crate::raw::call($number, [$($crate::raw::Arg::from($argument)),*])
    };
}
/// The same for calls that give a descriptor.
macro_rules! open {
    ($number:expr $(, $argument:expr)* $(,)?) => {
        $crate::raw::descriptor($number, [$($crate::raw::Arg::from($argument)),*])
    };
}
pub(crate) use {open, sys};

/// A folder outside the write paths, owned by whoever runs this, with a `file` and an empty `folder` in it.
pub(crate) fn own(name: &str) -> String {
    format!("/opt/own-{}/{name}", nix::unistd::getuid())
}

/// As a C string.
pub(crate) fn text(path: &str) -> CString {
    CString::new(path).unwrap_or_default()
}

/// Little-endian bytes of words, as structures hold them.
pub(crate) fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// Opens for writing what is there already.
pub(crate) fn writable(path: &str) -> Try {
    OpenOptions::new().write(true).open(path)?;
    Ok(())
}

/// A copy of a program, executable. In the write path that is no more than a beginning.
pub(crate) fn dropped(from: &str, to: &str) -> Result<String, Failure> {
    let content = allowed(std::fs::read(from))?;
    put(to, &content)
}

/// An executable script.
pub(crate) fn script(to: &str, content: &str) -> Result<String, Failure> {
    put(to, content.as_bytes())
}

fn put(to: &str, content: &[u8]) -> Result<String, Failure> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = OpenOptions::new();
    let opened = options.write(true).create(true).truncate(true).mode(0o755).open(to);
    let written = opened.and_then(|mut file| file.write_all(content));
    if Path::new(to).starts_with(DATA) { allowed(written) } else { Ok(written?) }?;
    Ok(to.to_owned())
}

/// Runs a program to its end; crossed where it ends as undeclared programs do.
pub(crate) fn runs(command: &mut Command) -> Try {
    match command.stderr(std::process::Stdio::null()).status()?.code() {
        Some(CROSSED) => Ok(()),
        _ => Err(stopped("the program did not run")),
    }
}

/// The same for a program that takes `ok`.
pub(crate) fn runs_ok(program: impl AsRef<Path>) -> Try {
    runs(Command::new(program.as_ref()).arg("ok"))
}

/// Runs the code in a page that was just made.
pub(crate) fn runs_code(region: memory::Region) -> Try {
    if region.run() == CROSSED { Ok(()) } else { Err(stopped("the code did not run")) }
}

/// The descriptor's own path.
pub(crate) fn by_descriptor(fd: RawFd) -> String {
    format!("/proc/self/fd/{fd}")
}

/// A child that sleeps while `work` looks at it.
pub(crate) fn beside_child<T>(work: impl FnOnce(i32) -> Result<T, Failure>) -> Result<T, Failure> {
    let child = raw::forked(|| {
        std::thread::sleep(Duration::from_secs(3));
        0
    })?;
    let result = work(child);
    raw::wait(child, Duration::ZERO)?;
    result
}

/// A memory file with a whole undeclared program in it.
pub(crate) fn memory_file(flags: u32) -> io::Result<File> {
    let mut file = File::from(open!(libc::SYS_memfd_create, c"keep", flags)?);
    file.write_all(&std::fs::read("/bin/other")?)?;
    Ok(file)
}

/// Lets `attempt` run again and again in children while another process changes the bytes that it reads between two
/// of the same length. What the first of them asks for is allowed, and ends with 0.
pub(crate) fn race(one: &[u8], other: &[u8], attempt: impl Fn(&memory::Region) -> i32) -> Try {
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    let page = memory::map(libc::PROT_READ | libc::PROT_WRITE, flags, -1)?;
    page.put(one);
    let change = || {
        page.put(other);
        page.put(one);
        true
    };
    turns(change, || attempt(&page))
}

/// Lets `attempt` run in up to 300 children beside a process that does `change` as long as that succeeds.
pub(crate) fn turns(change: impl Fn() -> bool, attempt: impl Fn() -> i32) -> Try {
    let changer = raw::forked(|| {
        while change() {}
        1
    })?;
    let (mut crossed, mut as_allowed) = (false, false);
    for _ in 0..300 {
        let child = raw::forked(&attempt)?;
        match raw::wait(child, Duration::from_secs(2))? {
            raw::Ended::With(CROSSED) => crossed = true,
            raw::Ended::With(0) => as_allowed = true,
            _ => {}
        }
        if crossed {
            break;
        }
    }
    raw::wait(changer, Duration::ZERO)?;
    match (crossed, as_allowed) {
        (true, _) => Ok(()),
        (false, true) => Err(stopped("not in 300 turns")),
        (false, false) => Err(broken("what is allowed did not happen in 300 turns")),
    }
}

/// Maps a page of a file executable, and nothing more.
pub(crate) fn maps_executable(path: &str) -> Try {
    let file = File::open(path)?;
    memory::map(libc::PROT_READ | libc::PROT_EXEC, libc::MAP_PRIVATE, file.as_raw_fd())?;
    Ok(())
}

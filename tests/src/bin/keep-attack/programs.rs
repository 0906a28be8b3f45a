//! Running what was not declared, or code that a program brought along.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::FileExt as _;
use std::process::Command;

use crate::probe::Wall::{Landlock, Mounts, Seccomp};
use crate::probe::{Failure, Probe, Try, allowed, broken, probe, stopped};
use crate::raw::{self, memory};
use crate::tools::{
    BUSYBOX, DATA, LOADER, OTHER, SHELL, beside_child, by_descriptor, dropped, maps_executable, memory_file,
    open, race, runs, runs_code, runs_ok, script, sys, turns,
};

pub(crate) const PROBES: &[Probe] = &[
    probe("execve", "execve of a program that was not declared", Landlock, || runs_ok("/bin/other")),
    probe("exec-thread", "the same from another thread", Landlock, thread),
    probe("exec-proc-root", "another name of it: /proc/self/root/bin/other", Landlock, || {
        runs_ok("/proc/self/root/bin/other")
    }),
    probe("exec-hard-link", "another name of it: a hard link in the image", Landlock, || {
        runs_ok("/srv/links/other")
    }),
    probe("execveat-path", "execveat with a path", Seccomp, || become_at(libc::AT_FDCWD, c"/bin/other", 0)),
    probe("execveat-folder", "execveat beneath a folder's descriptor", Seccomp, || {
        become_at(File::open("/bin")?.as_raw_fd(), c"other", 0)
    }),
    probe("execveat-descriptor", "execveat of a descriptor, AT_EMPTY_PATH", Seccomp, || {
        become_at(File::open("/bin/other")?.as_raw_fd(), c"", libc::AT_EMPTY_PATH)
    }),
    probe("exec-proc-fd", "execve of /proc/self/fd/N", Landlock, || {
        runs_ok(by_descriptor(kept_open(File::open("/bin/other")?)?))
    }),
    probe("memfd-fexecve", "a program in memory: memfd_create, fexecve", Seccomp, || {
        become_at(memory_file(0)?.as_raw_fd(), c"", libc::AT_EMPTY_PATH)
    }),
    probe("memfd-proc-fd", "a program in memory by its path in /proc", Seccomp, || {
        runs_ok(by_descriptor(kept_open(memory_file(0)?)?))
    }),
    probe("memfd-sealed", "a sealed memory file mapped executable", Seccomp, sealed),
    probe("script-interpreter", "a declared script whose interpreter is not", Landlock, || {
        runs_ok("/srv/scripts/by-other")
    }),
    probe("script-dropped", "a dropped script for a declared shell", Landlock, || {
        runs(&mut Command::new(script("/data/script", "#!/bin/sh\nexit 42\n")?))
    }),
    probe("script-self-exe", "a dropped script for /proc/self/exe (CVE-2019-5736)", Landlock, || {
        runs(&mut Command::new(script("/data/self", "#!/proc/self/exe ok\n")?))
    }),
    probe("exec-dropped", "a program dropped in a write path", Landlock, || {
        runs_ok(dropped("/bin/other", "/data/dropped")?)
    }),
    probe("exec-dropped-shm", "a program dropped in /dev/shm", Landlock, || {
        runs_ok(dropped("/bin/other", "/dev/shm/dropped")?)
    })
    .root(),
    probe("loader", "the ELF loader called by hand", Mounts, || loader(&[BUSYBOX])),
    probe("loader-hard-link", "the loader, for a hard link in a folder of no programs", Mounts, || {
        loader(&["/srv/links/busybox"])
    }),
    probe("loader-linked-folder", "the loader, by way of a folder that is a symlink", Mounts, || {
        loader(&["/srv/linked/busybox"])
    }),
    probe("loader-plain-file", "the loader, for a program without an execute bit", Mounts, || {
        loader(&["/srv/plain/busybox"])
    }),
    probe("loader-beside-libraries", "the loader, for a program beside shared libraries", Mounts, || {
        loader(&["/opt/kit/busybox"])
    }),
    probe("loader-library-name", "the loader, for a program that is named as a library", Mounts, || {
        loader(&["--argv0", "busybox", "/opt/kit/libbusybox.so.1"])
    }),
    probe("loader-renamed", "the loader, for a program renamed into a folder of libraries", Mounts, || {
        std::fs::rename("/srv/links/renamed", "/opt/kit/renamed")?;
        loader(&["--argv0", "busybox", "/opt/kit/renamed"])
    })
    .root(),
    probe("loader-proc-root", "the loader, by /proc/self/root", Mounts, || {
        loader(&["/proc/self/root/bin/busybox"])
    }),
    probe("loader-proc-fd", "the loader, by a descriptor", Mounts, || {
        loader(&["--argv0", "busybox", &by_descriptor(kept_open(File::open(BUSYBOX)?)?)])
    }),
    probe("loader-dropped", "the loader, on a dropped program", Mounts, || {
        loader(&[&dropped(BUSYBOX, "/data/busybox")?])
    }),
    probe("loader-copy", "a dropped copy of the loader itself", Landlock, || {
        let copy = dropped(LOADER, "/data/loader")?;
        runs(Command::new(copy).args([SHELL, "-c", "exit 42"]))
    }),
    probe("loader-preload", "the loader, preloading a dropped library", Mounts, || {
        loads(Command::new(LOADER).args(["--preload", &library("preload.so")?, SHELL]))
    }),
    probe("loader-library-path", "the loader, with dropped libraries first", Mounts, || {
        libc_copy()?;
        loads(Command::new(LOADER).args(["--library-path", "/data/lib", SHELL]))
    }),
    probe("ld-preload", "LD_PRELOAD of a dropped library", Mounts, || {
        loads(Command::new(SHELL).env("LD_PRELOAD", library("preloaded.so")?))
    }),
    probe("ld-library-path", "LD_LIBRARY_PATH with a dropped C library", Mounts, || {
        libc_copy()?;
        loads(Command::new(SHELL).env("LD_LIBRARY_PATH", "/data/lib"))
    }),
    probe("overwrite-declared", "a declared program overwritten in place", Mounts, || {
        dropped("/bin/other", "/srv/tools/overwritten")?;
        runs_ok("/srv/tools/overwritten")
    })
    .root(),
    probe("replace-declared", "a declared program replaced by rename", Mounts, || {
        std::fs::rename(dropped("/bin/other", "/data/new")?, "/srv/tools/replaced")?;
        runs_ok("/srv/tools/replaced")
    })
    .root(),
    probe("add-declared", "a program linked into a declared folder", Mounts, || {
        std::fs::hard_link("/bin/other", "/srv/tools/added")?;
        runs_ok("/srv/tools/added")
    })
    .root(),
    probe("bind-declared", "another program bound over a declared one", Seccomp, || {
        sys!(libc::SYS_mount, OTHER, c"/srv/tools/bound", c"", libc::MS_BIND, 0)?;
        runs_ok("/srv/tools/bound")
    })
    .root(),
    probe("remount-exec", "a write path mounted again without noexec", Seccomp, remount).root(),
    probe("mount-exec", "a new file system that may execute", Seccomp, || {
        sys!(libc::SYS_mount, c"x", c"/data/mounted", c"tmpfs", 0, 0)?;
        runs_ok(dropped("/bin/other", "/data/mounted/other")?)
    })
    .root(),
    probe("chroot-exec", "chroot, then exec", Seccomp, || {
        std::os::unix::fs::chroot("/srv/links")?;
        Err(become_at_once("/other").into())
    })
    .root(),
    probe("binfmt-misc", "an interpreter registered in binfmt_misc", Seccomp, binfmt).root(),
    probe("exec-symlink-swapped", "a symlink swapped between look and use", Landlock, swapped),
    probe("exec-path-rewritten", "a path rewritten between look and use", Landlock, || {
        race(b"/bin/first\0", b"/bin/other\0", |path| {
            raw::become_path(path);
            1
        })
    }),
    probe("map-undeclared", "an undeclared program mapped executable", Mounts, || {
        maps_executable("/bin/other")
    }),
    probe("map-undeclared-elsewhere", "the same, a hard link in a folder of no programs", Mounts, || {
        maps_executable("/srv/links/other")
    }),
    probe("map-beside-libraries", "the same, beside shared libraries", Mounts, || {
        maps_executable("/opt/kit/other")
    }),
    probe("map-dropped", "a dropped file mapped executable", Mounts, || maps_code("/data/code")),
    probe("map-dropped-shm", "a file in /dev/shm mapped executable", Mounts, || maps_code("/dev/shm/code"))
        .root(),
    probe("map-writable-file", "a file mapped writable and executable", Seccomp, || {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open("/data/wx")?;
        file.set_len(4096)?;
        let all = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        let page = memory::map(all, libc::MAP_SHARED, file.as_raw_fd())?;
        page.put(&memory::CODE);
        runs_code(page)
    }),
    probe("map-memfd", "a memory file mapped executable", Seccomp, || {
        let mut file = File::from(open!(libc::SYS_memfd_create, c"keep", 0)?);
        file.write_all(&memory::CODE)?;
        runs_code(memory::map(libc::PROT_READ | libc::PROT_EXEC, libc::MAP_PRIVATE, file.as_raw_fd())?)
    }),
    probe("map-anonymous", "memory writable and executable", Seccomp, || {
        let page = memory::map(
            libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
        )?;
        page.put(&memory::CODE);
        runs_code(page)
    }),
    probe("map-device-zero", "/dev/zero mapped executable, then written by /proc/self/mem", Mounts, || {
        patched(&File::open("/dev/zero")?)
    }),
    probe("patch-text", "a declared program's code overwritten by /proc/self/mem", Landlock, || {
        patched(&File::open(SHELL)?)
    }),
    probe("mprotect", "memory made executable later", Seccomp, || later(false)),
    probe("pkey-mprotect", "memory made executable later, by key", Seccomp, || later(true)),
    probe("mprotect-file", "a file's mapping made executable later", Seccomp, || {
        let page = memory::map(libc::PROT_READ, libc::MAP_PRIVATE, File::open("/bin/other")?.as_raw_fd())?;
        Ok(page.protect(libc::PROT_READ | libc::PROT_EXEC, false)?)
    }),
    probe("shmat-exec", "System V memory attached executable", Seccomp, || {
        runs_code(memory::attach_shared_code()?)
    }),
    probe("read-implies-exec", "personality READ_IMPLIES_EXEC", Seccomp, || {
        sys!(libc::SYS_personality, 0x0040_0000)?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let page = memory::map(libc::PROT_READ | libc::PROT_WRITE, flags, -1)?;
        page.put(&memory::CODE);
        runs_code(page)
    }),
    probe("ptrace-poke", "another process's code overwritten by ptrace", Seccomp, || {
        beside_child(|child| {
            sys!(libc::SYS_ptrace, libc::PTRACE_ATTACH, child, 0, 0)?;
            nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(child), None).map_err(io::Error::from)?;
            let at = crate::main as *const () as u64;
            sys!(libc::SYS_ptrace, libc::PTRACE_POKETEXT, child, at, 0)?;
            Ok(())
        })
    }),
    probe("proc-mem-other", "another process's code overwritten by /proc/PID/mem", Landlock, || {
        beside_child(|child| {
            let file = OpenOptions::new().write(true).open(format!("/proc/{child}/mem"))?;
            file.write_at(&[0; 8], crate::main as *const () as u64)?;
            Ok(())
        })
    }),
];

fn thread() -> Try {
    let thread = std::thread::spawn(|| become_at_once("/bin/other"));
    let error = thread.join().map_err(|_| stopped("the thread ended"))?;
    Err(error.into())
}

fn become_at_once(path: &str) -> io::Error {
    use std::os::unix::process::CommandExt as _;
    Command::new(path).arg("ok").exec()
}

fn become_at(folder: i32, path: &std::ffi::CStr, flags: i32) -> Try {
    Err(raw::become_at(folder, path, flags).into())
}

/// A descriptor that a program started from here inherits.
fn kept_open(file: File) -> io::Result<i32> {
    use std::os::fd::IntoRawFd as _;
    nix::fcntl::fcntl(file.as_fd(), nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()))?;
    Ok(file.into_raw_fd())
}

fn sealed() -> Try {
    let mut file = File::from(open!(libc::SYS_memfd_create, c"keep", libc::MFD_ALLOW_SEALING)?);
    file.write_all(&memory::CODE)?;
    sys!(libc::SYS_fcntl, file.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_WRITE | libc::F_SEAL_SHRINK)?;
    runs_code(memory::map(libc::PROT_READ | libc::PROT_EXEC, libc::MAP_PRIVATE, file.as_raw_fd())?)
}

fn loader(program: &[&str]) -> Try {
    runs(Command::new(LOADER).args(program).args(["sh", "-c", "exit 42"]))
}

/// Whether a shell, started so, finds a file of the write path among what it has mapped.
fn loads(command: &mut Command) -> Try {
    let look = "while read line; do case $line in *r-x*/data/*) exit 42;; esac; done < /proc/self/maps";
    runs(command.args(["-c", look]))
}

fn any_library() -> Result<std::path::PathBuf, Failure> {
    let folders =
        ["/lib/x86_64-linux-gnu", "/lib/aarch64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/lib"];
    let files = folders.iter().flat_map(|folder| std::fs::read_dir(folder).into_iter().flatten().flatten());
    let mut names = files.map(|file| file.path());
    let found = names.find(|path| path.file_name().is_some_and(|name| name == "libc.so.6"));
    found.ok_or_else(|| broken("there is no C library"))
}

fn library(name: &str) -> Result<String, Failure> {
    dropped(&any_library()?.to_string_lossy(), &format!("{DATA}/{name}"))
}

fn libc_copy() -> Result<String, Failure> {
    allowed(std::fs::create_dir_all("/data/lib"))?;
    library("lib/libc.so.6")
}

fn remount() -> Try {
    sys!(libc::SYS_mount, c"/data/bound", c"/data/bound", c"", libc::MS_BIND, 0)?;
    sys!(libc::SYS_mount, c"", c"/data/bound", c"", libc::MS_REMOUNT | libc::MS_BIND, 0)?;
    runs_ok(dropped("/bin/other", "/data/bound/other")?)
}

fn binfmt() -> Try {
    let point = c"/data/binfmt";
    let mounted = sys!(libc::SYS_mount, c"x", point, c"binfmt_misc", 0, 0);
    crate::probe::unless_absent(mounted, &[libc::ENODEV], "binfmt_misc (CONFIG_BINFMT_MISC)")?;
    crate::tools::writable("/data/binfmt/register")
}

fn swapped() -> Try {
    let (link, next) = (format!("{DATA}/swapped"), format!("{DATA}/swapped-next"));
    let point = |target: &str| {
        std::os::unix::fs::symlink(target, &next).is_ok() && std::fs::rename(&next, &link).is_ok()
    };
    if !point("/bin/first") {
        return Err(broken("the link could not be made"));
    }
    turns(
        || point("/bin/other") && point("/bin/first"),
        || {
            become_at_once(&link);
            1
        },
    )
}

fn maps_code(path: &str) -> Try {
    let options = || {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        options
    };
    let mut file = options().open(path)?;
    file.write_all(&memory::CODE)?;
    file.rewind()?;
    runs_code(memory::map(libc::PROT_READ | libc::PROT_EXEC, libc::MAP_PRIVATE, file.as_raw_fd())?)
}

/// Maps a file readable and executable, puts code there through /proc/self/mem and runs it.
fn patched(file: &File) -> Try {
    let page = memory::map(libc::PROT_READ | libc::PROT_EXEC, libc::MAP_PRIVATE, file.as_raw_fd())?;
    let memory = OpenOptions::new().write(true).open("/proc/self/mem")?;
    memory.write_at(&memory::CODE, page.address())?;
    runs_code(page)
}

fn later(by_key: bool) -> Try {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let page = memory::map(libc::PROT_READ | libc::PROT_WRITE, flags, -1)?;
    page.put(&memory::CODE);
    page.protect(libc::PROT_READ | libc::PROT_EXEC, by_key)?;
    runs_code(page)
}

//! System calls that widen what of the kernel can be reached.

use std::os::fd::{AsRawFd as _, RawFd};

use crate::probe::Wall::{Mounts, Seccomp};
use crate::probe::{Failure, Probe, Try, probe, reaches, unless_absent};
use crate::raw::{self, x86_only};
use crate::tools::{open, own, sys, text, words};

/// Structures of which zeroes are a valid beginning.
const ZERO: &[u8] = &[0; 256];

pub(crate) const PROBES: &[Probe] = &[
    probe("bpf-map", "a BPF map", Seccomp, || {
        // BPF_MAP_TYPE_ARRAY, four-byte key and value, one entry.
        let attributes: Vec<u8> = [2u32, 4, 4, 1].iter().flat_map(|word| word.to_ne_bytes()).collect();
        open!(libc::SYS_bpf, 0, attributes.as_slice(), 16)?;
        Ok(())
    })
    .root(),
    probe("bpf-program", "a BPF program", Seccomp, || {
        // r0 = 0; exit
        let code = words(&[0x0000_0000_0000_00b7, 0x95]);
        let license = c"GPL".to_bytes_with_nul();
        let attributes = words(&[2 << 32 | 1, raw::address(&code), raw::address(license), 0, 0, 0]);
        open!(libc::SYS_bpf, 5, attributes.as_slice(), 48)?;
        Ok(())
    })
    .root(),
    probe("perf-event", "perf_event_open", Seccomp, || {
        // PERF_TYPE_SOFTWARE, PERF_COUNT_SW_DUMMY
        let mut attributes = words(&[112 << 32 | 1, 9]);
        attributes.resize(112, 0);
        open!(libc::SYS_perf_event_open, attributes.as_slice(), 0, -1, -1, 0)?;
        Ok(())
    })
    .root(),
    probe("keyctl", "keyctl", Seccomp, || {
        sys!(libc::SYS_keyctl, 0, -3, 1)?;
        Ok(())
    }),
    probe("add-key", "add_key", Seccomp, || {
        sys!(libc::SYS_add_key, c"user", c"keep", b"x".as_slice(), 1, -2)?;
        Ok(())
    }),
    probe("request-key", "request_key", Seccomp, || {
        reaches(sys!(libc::SYS_request_key, c"user", c"none", 0, 0), &[libc::ENOKEY])
    }),
    probe("io-uring", "io_uring", Seccomp, || {
        let mut parameters = [0; 120];
        open!(libc::SYS_io_uring_setup, 1, parameters.as_mut_slice())?;
        Ok(())
    }),
    probe("io-setup", "asynchronous input and output", Seccomp, || {
        let mut context = [0; 8];
        sys!(libc::SYS_io_setup, 1, context.as_mut_slice())?;
        Ok(())
    }),
    probe("userfaultfd", "userfaultfd", Seccomp, || {
        open!(libc::SYS_userfaultfd, 1)?; // UFFD_USER_MODE_ONLY
        Ok(())
    }),
    probe("memfd", "files in memory", Seccomp, || {
        open!(libc::SYS_memfd_create, c"keep", 0)?;
        Ok(())
    }),
    probe("memfd-secret", "memory that the kernel itself does not see: memfd_secret", Seccomp, || {
        let made = open!(libc::SYS_memfd_secret, 0);
        unless_absent(made, &[libc::ENOSYS], "secret memory (CONFIG_SECRETMEM)").map(drop)
    }),
    probe("fanotify", "watching and holding others' opens: fanotify", Seccomp, || {
        open!(libc::SYS_fanotify_init, 4, 0)?;
        Ok(())
    })
    .root(),
    probe("kexec", "another kernel: kexec_load", Seccomp, || {
        // EINVAL: flags that no kernel has.
        let loaded = sys!(libc::SYS_kexec_load, 0, 0, 0, 0x00ff_0000_u32);
        built(loaded, &[libc::EINVAL], "kexec (CONFIG_KEXEC)")
    })
    .root(),
    probe("init-module", "a kernel module: init_module", Seccomp, || {
        let loaded = sys!(libc::SYS_init_module, ZERO, 256, c"");
        built(loaded, &[libc::ENOEXEC, libc::EINVAL], "modules (CONFIG_MODULES)")
    })
    .root(),
    probe("delete-module", "a kernel module removed", Seccomp, || {
        let gone = sys!(libc::SYS_delete_module, c"keep-none", libc::O_NONBLOCK);
        built(gone, &[libc::ENOENT], "modules (CONFIG_MODULES)")
    })
    .root(),
    probe("iopl", "the processor's ports: iopl", Seccomp, || {
        built(sys!(x86_only(172), 3), &[], "iopl (x86_64, CONFIG_X86_IOPL_IOPERM)")
    })
    .root(),
    probe("modify-ldt", "the local descriptor table: modify_ldt", Seccomp, || {
        let mut table = [0; 64];
        built(sys!(x86_only(154), 0, table.as_mut_slice(), 64), &[], "modify_ldt (x86_64)")
    }),
    probe("personality", "personality", Seccomp, || {
        sys!(libc::SYS_personality, 0x0004_0000)?; // ADDR_NO_RANDOMIZE
        Ok(())
    }),
    probe("prctl-set-mm", "where a process says that it lies: prctl PR_SET_MM", Seccomp, || {
        let mut size = [0; 4];
        // PR_SET_MM_MAP_SIZE, the one question that takes no capability.
        sys!(libc::SYS_prctl, libc::PR_SET_MM, 15, size.as_mut_slice(), 0, 0)?;
        Ok(())
    }),
    probe(
        "own-listener",
        "a seccomp listener of one's own, which could answer for Keep's",
        Seccomp,
        own_listener,
    ),
    probe("32-bit-entry", "int 0x80", Seccomp, || match raw::getpid_by_32_bit_entry() {
        None => Err(Failure::Absent("int 0x80 (x86_64)")),
        Some(pid) if pid > 0 => Ok(()),
        Some(_) => Err(Failure::Absent("int 0x80 (CONFIG_IA32_EMULATION)")),
    }),
    probe("x32", "the calls of x32", Seccomp, || {
        built(sys!(x86_only(0x4000_0000 + 39)), &[], "x32 (CONFIG_X86_X32_ABI)")
    }),
    probe("terminal-input", "putting words into a terminal's mouth: TIOCSTI", Seccomp, || {
        let slave = terminal()?;
        let stuffed = sys!(libc::SYS_ioctl, slave, 0x5412, b"x".as_slice());
        unless_absent(stuffed, &[libc::EIO], "TIOCSTI (dev.tty.legacy_tiocsti)")?;
        Ok(())
    }),
    probe("terminal-discipline", "a terminal's line discipline: TIOCSETD", Seccomp, || {
        let slave = terminal()?;
        sys!(libc::SYS_ioctl, slave, 0x5423, 0i32.to_ne_bytes().as_slice())?;
        Ok(())
    }),
    probe("message-queue", "a System V message queue", Seccomp, || {
        let id = sys!(libc::SYS_msgget, 0, 0o1600)?;
        sys!(libc::SYS_msgctl, id, 0, 0)?;
        Ok(())
    }),
    probe("semaphores", "System V semaphores", Seccomp, || {
        let id = sys!(libc::SYS_semget, 0, 1, 0o1600)?;
        sys!(libc::SYS_semctl, id, 0, 0, 0)?;
        Ok(())
    }),
    probe("shared-memory", "System V shared memory", Seccomp, || {
        let id = sys!(libc::SYS_shmget, 0, 4096, 0o1600)?;
        sys!(libc::SYS_shmctl, id, 0, 0)?;
        Ok(())
    }),
    probe("posix-queue", "a POSIX message queue", Seccomp, || {
        open!(libc::SYS_mq_open, c"keep-attack", libc::O_CREAT | libc::O_RDWR, 0o600, 0)?;
        sys!(libc::SYS_mq_unlink, c"keep-attack")?;
        Ok(())
    }),
    probe("splice", "pages handed from a file to a pipe (Dirty Pipe, CVE-2022-0847)", Seccomp, || {
        let file = std::fs::File::open("/etc/motd")?;
        let (_reader, writer) = std::io::pipe()?;
        sys!(libc::SYS_splice, file.as_raw_fd(), 0, writer.as_raw_fd(), 0, 1, 0)?;
        Ok(())
    }),
    probe("vmsplice", "pages handed from memory to a pipe", Seccomp, || {
        let (_reader, writer) = std::io::pipe()?;
        let part = words(&[raw::address(ZERO), 256]);
        sys!(libc::SYS_vmsplice, writer.as_raw_fd(), part.as_slice(), 1, 0)?;
        Ok(())
    }),
    probe("tee", "pages handed from pipe to pipe", Seccomp, || {
        let ((from, mut filled), (_reader, to)) = (std::io::pipe()?, std::io::pipe()?);
        std::io::Write::write_all(&mut filled, b"x")?;
        sys!(libc::SYS_tee, from.as_raw_fd(), to.as_raw_fd(), 1, 0)?;
        Ok(())
    }),
    probe("cachestat", "others' reads seen in the page cache: cachestat", Seccomp, || {
        let file = std::fs::File::open(own("file"))?;
        let (range, mut found) = (words(&[0, 4096]), [0; 40]);
        let looked = sys!(451, file.as_raw_fd(), range.as_slice(), found.as_mut_slice(), 0);
        built(looked, &[], "cachestat (Linux 6.5)")
    }),
    probe("syncfs", "a whole file system flushed: syncfs", Seccomp, || {
        sys!(libc::SYS_syncfs, std::fs::File::open("/etc/motd")?.as_raw_fd())?;
        Ok(())
    }),
    probe("set-mempolicy", "placing memory: set_mempolicy", Seccomp, || {
        built(sys!(libc::SYS_set_mempolicy, 0, 0, 0), &[], "NUMA (CONFIG_NUMA)")
    }),
    probe("move-pages", "moving memory: move_pages", Seccomp, || {
        built(sys!(libc::SYS_move_pages, 0, 0, 0, 0, 0, 0), &[], "CONFIG_MIGRATION")
    }),
    probe("remap-file-pages", "remap_file_pages", Seccomp, || {
        // EINVAL: nothing is mapped at page 0.
        reaches(sys!(libc::SYS_remap_file_pages, 0, 4096, 0, 0, 0), &[libc::EINVAL])
    }),
    probe("quotactl", "quotactl", Seccomp, || {
        // Q_SYNC of all file systems.
        built(sys!(libc::SYS_quotactl, 0x8000_0100_u32, 0, 0, 0), &[], "quotas (CONFIG_QUOTA)")
    }),
    probe("swapon", "swapon", Seccomp, || {
        reaches(sys!(libc::SYS_swapon, c"/etc/none", 0), &[libc::ENOENT, libc::EINVAL])
    })
    .root(),
    probe("acct", "accounting: acct", Seccomp, || {
        built(sys!(libc::SYS_acct, c"/etc/none"), &[libc::ENOENT], "accounting (CONFIG_BSD_PROCESS_ACCT)")
    })
    .root(),
    probe("reboot", "reboot", Seccomp, || {
        // EINVAL: wrong magic numbers; that is asked after who may.
        reaches(sys!(libc::SYS_reboot, 0, 0, 0, 0), &[libc::EINVAL])
    })
    .root(),
    probe("syslog", "the kernel's log: syslog", Seccomp, || {
        sys!(libc::SYS_syslog, 10, 0, 0)?;
        Ok(())
    })
    .root(),
    probe("settimeofday", "the clock: settimeofday", Seccomp, || {
        // The time zone that kernels begin with; the time stays.
        sys!(libc::SYS_settimeofday, 0, [0u8; 8].as_slice())?;
        Ok(())
    })
    .root(),
    probe("clock-settime", "the clock: clock_settime", Seccomp, || {
        // EINVAL: no process's own clock can be set.
        reaches(sys!(libc::SYS_clock_settime, 2, [0u8; 16].as_slice()), &[libc::EINVAL])
    }),
    probe("clock-adjtime", "the clock's pace: clock_adjtime", Seccomp, || {
        // struct timex: ADJ_FREQUENCY with the frequency that it has.
        let mut state = [0; 208];
        sys!(libc::SYS_clock_adjtime, 0, state.as_mut_slice())?;
        state.iter_mut().zip(2u32.to_ne_bytes()).for_each(|(to, from)| *to = from);
        sys!(libc::SYS_clock_adjtime, 0, state.as_mut_slice())?;
        Ok(())
    })
    .root(),
    probe("sethostname", "another host name", Seccomp, || {
        let name = nix::unistd::gethostname().map_err(std::io::Error::from)?;
        let name = name.to_string_lossy().into_owned();
        sys!(libc::SYS_sethostname, &*text(&name), name.len() as u64)?;
        Ok(())
    })
    .root(),
    probe("vhangup", "vhangup", Seccomp, || {
        sys!(libc::SYS_vhangup)?;
        Ok(())
    })
    .root(),
    probe("device-userfault", "userfaultfd by its device", Mounts, || {
        let opened = std::fs::File::open("/dev/userfaultfd");
        unless_absent(opened, &[libc::ENOENT, libc::ENXIO], "/dev/userfaultfd").map(drop)
    })
    .root(),
];

/// Crossed where it succeeds or reaches the kernel's own checks; absent where the kernel was built without it.
fn built(result: std::io::Result<i64>, past: &[i32], what: &'static str) -> Try {
    match result {
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => Err(Failure::Absent(what)),
        result => reaches(result, past),
    }
}

/// A new terminal as this process's own. Both ends stay open: its end would send this process SIGHUP.
fn terminal() -> Result<RawFd, Failure> {
    use std::os::fd::IntoRawFd as _;
    let keeper = std::fs::OpenOptions::new().read(true).write(true).open("/dev/ptmx")?;
    sys!(libc::SYS_ioctl, keeper.as_raw_fd(), 0x4004_5431_u32, 0i32.to_ne_bytes().as_slice())?;
    let mut number = [0; 4];
    sys!(libc::SYS_ioctl, keeper.as_raw_fd(), 0x8004_5430_u32, number.as_mut_slice())?;
    sys!(libc::SYS_setsid)?;
    let path = format!("/dev/pts/{}", u32::from_ne_bytes(number));
    let other = std::fs::OpenOptions::new().read(true).write(true).open(path)?;
    let _keeper = keeper.into_raw_fd();
    Ok(other.into_raw_fd())
}

/// A filter that hands getppid(2) to a listener.
fn own_listener() -> Try {
    let instruction = |code: u16, yes: u8, k: u32| {
        let [a, b] = code.to_ne_bytes();
        let [e, f, g, h] = k.to_ne_bytes();
        [a, b, yes, 0, e, f, g, h]
    };
    let code = [
        instruction(0x20, 0, 0),
        instruction(0x15, 1, libc::SYS_getppid as u32),
        instruction(0x06, 0, libc::SECCOMP_RET_ALLOW),
        instruction(0x06, 0, libc::SECCOMP_RET_USER_NOTIF),
    ]
    .concat();
    let program = words(&[4, raw::address(&code)]);
    sys!(libc::SYS_prctl, libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)?;
    open!(libc::SYS_seccomp, 1, 8, program.as_slice())?;
    Ok(())
}

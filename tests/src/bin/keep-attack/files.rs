//! Writing what was not declared, reading what is hidden, and changing what is mounted where.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};

use crate::probe::Wall::{Capabilities, Landlock, Mounts, Seccomp};
use crate::probe::{Probe, Try, allowed, probe, reaches, stopped, unless_absent, with_resource};
use crate::raw::{self, x86_only};
use crate::tools::{CROSSED, by_descriptor, open, own, race, sys, text, words, writable};

pub(crate) const PROBES: &[Probe] = &[
    probe("open-write", "open for writing", Mounts, || writable(&own("file"))),
    probe("open-truncate", "open for reading, truncating", Mounts, || {
        open!(libc::SYS_openat, -1, &*text(&own("truncated")), libc::O_RDONLY | libc::O_TRUNC, 0)?;
        Ok(())
    }),
    probe("open-create", "open that creates", Mounts, || {
        File::create_new(own("created"))?;
        Ok(())
    }),
    probe("open-tmpfile", "a file without a name, then linked", Mounts, || {
        let file = OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).open(own(""))?;
        let from = text(&by_descriptor(file.as_raw_fd()));
        sys!(libc::SYS_linkat, -1, &*from, -1, &*text(&own("linked-in")), libc::AT_SYMLINK_FOLLOW)?;
        Ok(())
    }),
    probe("openat2", "openat2, whose flags lie in memory", Mounts, || {
        let how = words(&[libc::O_RDWR as u64, 0, 0]);
        open!(libc::SYS_openat2, libc::AT_FDCWD, &*text(&own("file")), how.as_slice(), 24)?;
        Ok(())
    }),
    probe("creat", "creat", Mounts, || {
        let made = open!(x86_only(85), &*text(&own("by-creat")), 0o600);
        unless_absent(made, &[libc::ENOSYS], "creat, on this architecture")?;
        Ok(())
    }),
    probe("reopen", "a descriptor open for reading opened again by /proc", Mounts, || {
        let file = File::open(own("file"))?;
        writable(&by_descriptor(file.as_raw_fd()))
    }),
    probe("write-proc-root", "by /proc/self/root", Mounts, || {
        writable(&format!("/proc/self/root{}", own("file")))
    }),
    probe("write-symlink", "through a symlink out of a write path", Mounts, || {
        allowed(std::os::unix::fs::symlink(own("file"), "/data/out"))?;
        writable("/data/out")
    }),
    probe("write-path-rewritten", "a path rewritten between look and use", Mounts, || {
        let other = own("file");
        let one = format!("{:x<width$}", "/data/", width = other.len());
        allowed(File::create(&one))?;
        race(text(&one).to_bytes_with_nul(), text(&other).to_bytes_with_nul(), |path| {
            let flags = libc::O_WRONLY;
            // What was opened is told by its link, not by the path that was asked for.
            let Ok(file) = open!(libc::SYS_openat, -1, path.address(), flags, 0) else { return 1 };
            let opened = std::fs::read_link(by_descriptor(file.as_raw_fd())).unwrap_or_default();
            if opened == std::path::Path::new(&other) { CROSSED } else { 0 }
        })
    }),
    probe("truncate", "truncate by path", Mounts, || {
        sys!(libc::SYS_truncate, &*text(&own("file")), 0)?;
        Ok(())
    }),
    probe("rename", "rename", Mounts, || Ok(std::fs::rename(own("renamed"), own("renamed-to"))?)),
    probe("rename-exchange", "renameat2, exchanging two files", Mounts, || {
        let (one, other) = (text(&own("file")), text(&own("exchanged")));
        sys!(libc::SYS_renameat2, -1, &*one, -1, &*other, libc::RENAME_EXCHANGE)?;
        Ok(())
    }),
    probe("rename-into", "rename into a write path", Mounts, || {
        Ok(std::fs::rename(own("moved"), "/data/moved")?)
    }),
    probe("link-into", "a hard link in a write path, then written", Mounts, || {
        std::fs::hard_link(own("file"), "/data/linked")?;
        writable("/data/linked")
    }),
    probe("link", "link", Mounts, || Ok(std::fs::hard_link(own("file"), own("second"))?)),
    probe("symlink", "symlink", Mounts, || Ok(std::os::unix::fs::symlink("file", own("symlink"))?)),
    probe("mkdir", "mkdir", Mounts, || Ok(std::fs::create_dir(own("made"))?)),
    probe("rmdir", "rmdir", Mounts, || Ok(std::fs::remove_dir(own("empty"))?)),
    probe("unlink", "unlink", Mounts, || Ok(std::fs::remove_file(own("removed"))?)),
    probe("mkfifo", "mknod of a pipe", Mounts, || {
        sys!(libc::SYS_mknodat, -1, &*text(&own("pipe")), libc::S_IFIFO | 0o600, 0)?;
        Ok(())
    }),
    probe("bind-path", "bind of a unix socket", Mounts, || {
        std::os::unix::net::UnixListener::bind(own("socket"))?;
        Ok(())
    }),
    probe("chmod", "chmod", Mounts, || {
        Ok(std::fs::set_permissions(own("file"), Permissions::from_mode(0o600))?)
    }),
    probe("fchmod", "fchmod of a descriptor open for reading", Mounts, || {
        Ok(File::open(own("file"))?.set_permissions(Permissions::from_mode(0o600))?)
    }),
    probe("fchmodat2", "fchmodat2", Seccomp, || {
        sys!(libc::SYS_fchmodat2, -1, &*text(&own("file")), 0o600, 0)?;
        Ok(())
    }),
    probe("chown", "chown", Mounts, || {
        Ok(std::os::unix::fs::chown(own("file"), None, Some(nix::unistd::getgid().as_raw()))?)
    }),
    probe("fchown", "fchown of a descriptor open for reading", Mounts, || {
        let file = File::open(own("file"))?;
        Ok(std::os::unix::fs::fchown(file, None, Some(nix::unistd::getgid().as_raw()))?)
    }),
    probe("utimensat", "utimensat", Mounts, || {
        sys!(libc::SYS_utimensat, -1, &*text(&own("file")), 0, 0)?;
        Ok(())
    }),
    probe("futimens", "futimens of a descriptor open for reading", Mounts, || {
        sys!(libc::SYS_utimensat, File::open(own("file"))?.as_raw_fd(), 0, 0, 0)?;
        Ok(())
    }),
    probe("setxattr", "setxattr", Seccomp, || {
        sys!(libc::SYS_setxattr, &*text(&own("file")), c"user.keep", b"x".as_slice(), 1, 0)?;
        Ok(())
    }),
    probe("fsetxattr", "fsetxattr of a descriptor open for reading", Seccomp, || {
        let file = File::open(own("file"))?;
        sys!(libc::SYS_fsetxattr, file.as_raw_fd(), c"user.keep", b"x".as_slice(), 1, 0)?;
        Ok(())
    }),
    probe("setxattrat", "setxattrat (Linux 6.13)", Seccomp, || {
        let (value, path) = (b"x", text(&own("file")));
        let arguments = words(&[raw::address(value), 1]);
        let set = sys!(463, libc::AT_FDCWD, &*path, 0, c"user.keep", arguments.as_slice(), 16);
        unless_absent(set, &[libc::ENOSYS], "setxattrat (Linux 6.13)")?;
        Ok(())
    }),
    probe("set-flags", "FS_IOC_SETFLAGS", Seccomp, || {
        let file = File::open(own("file"))?;
        let mut flags = [0; 8];
        sys!(libc::SYS_ioctl, file.as_raw_fd(), 0x8008_6601_u32, flags.as_mut_slice())?;
        sys!(libc::SYS_ioctl, file.as_raw_fd(), 0x4008_6602_u32, flags.as_slice())?;
        Ok(())
    }),
    probe("shadow", "reading the password file", Mounts, || has_content("/etc/shadow")).root(),
    probe("shadow-proc-root", "the same by /proc/self/root", Mounts, || {
        has_content("/proc/self/root/etc/shadow")
    })
    .root(),
    probe("shadow-link", "the same by a hard link made in a write path", Mounts, || {
        std::fs::hard_link("/etc/shadow", "/data/shadow")?;
        has_content("/data/shadow")
    })
    .root(),
    probe("sysctl", "a kernel setting: /proc/sys", Mounts, || writable("/proc/sys/kernel/panic")).root(),
    probe("core-pattern", "a program for core dumps: core_pattern", Mounts, || {
        writable("/proc/sys/kernel/core_pattern")
    })
    .root(),
    probe("sysrq-trigger", "/proc/sysrq-trigger", Mounts, || {
        absent_file("/proc/sysrq-trigger", "sysrq (CONFIG_MAGIC_SYSRQ)")
    })
    .root(),
    probe("proc-irq", "interrupts: /proc/irq", Mounts, || writable("/proc/irq/default_smp_affinity")).root(),
    probe("oom-score-adj", "escaping the OOM killer", Landlock, || {
        with_resource(std::fs::write("/proc/self/oom_score_adj", "-1000"))
    })
    .root(),
    probe("sys-write", "a kernel setting in /sys", Mounts, || {
        writable("/sys/kernel/mm/transparent_hugepage/enabled")
    })
    .root(),
    probe("kcore", "the kernel's memory: /proc/kcore", Mounts, || {
        absent_file("/proc/kcore", "/proc/kcore (CONFIG_PROC_KCORE)")?;
        has_content("/proc/kcore")
    })
    .root(),
    probe("proc-keys", "all key rings: /proc/keys", Mounts, || has_content("/proc/keys")),
    probe("timer-list", "every timer: /proc/timer_list", Mounts, || has_content("/proc/timer_list")).root(),
    probe("firmware", "/sys/firmware", Mounts, || {
        let some = std::fs::read_dir("/sys/firmware")?.next();
        if some.is_some() { Ok(()) } else { Err(stopped("there is nothing in it")) }
    }),
    probe("device-kmsg", "the kernel's log by a device node of one's own", Capabilities, || {
        device("/data/kmsg", libc::S_IFCHR, libc::makedev(1, 11))
    })
    .root(),
    probe("device-disk", "a disk of the node by a device node of one's own", Capabilities, || {
        device("/data/disk", libc::S_IFBLK, DISK)
    })
    .root(),
    probe("open-by-handle", "open_by_handle_at (Shocker)", Seccomp, by_handle).root(),
    probe("name-to-handle", "name_to_handle_at", Seccomp, || handle("/dev/shm").map(drop)),
];

pub(crate) const MOUNTS: &[Probe] = &[
    probe("mount-tmpfs", "mount", Seccomp, || mount(c"x", c"/data/tmpfs", c"tmpfs", 0)).root(),
    probe("mount-proc", "a fresh /proc without masks", Seccomp, || {
        mount(c"x", c"/data/proc", c"proc", 0)?;
        has_content("/data/proc/kcore").or_else(|_| has_content("/data/proc/keys"))
    })
    .root(),
    probe("mount-sys", "a fresh /sys, writable", Seccomp, || mount(c"x", c"/data/sys", c"sysfs", 0)).root(),
    probe("mount-overlay", "an overlay that shows other files", Seccomp, || {
        let options = c"lowerdir=/srv/links:/srv/tools";
        sys!(libc::SYS_mount, c"x", c"/data/overlay", c"overlay", 0, options)?;
        Ok(())
    })
    .root(),
    probe("mount-bind", "a bind mount", Seccomp, || mount(c"/etc", c"/data/etc", c"", libc::MS_BIND)).root(),
    probe("mount-disk", "a disk of the node mounted", Seccomp, mount_disk).root(),
    probe("remount-sys", "/sys mounted again, writable", Seccomp, || {
        mount(c"", c"/sys", c"", libc::MS_REMOUNT | libc::MS_BIND)?;
        Ok(())
    })
    .root(),
    probe("mount-shared", "mounts made to spread", Seccomp, || {
        mount(c"", c"/", c"", libc::MS_SHARED)?;
        mount(c"", c"/", c"", libc::MS_PRIVATE)
    })
    .root(),
    probe("release-agent", "a cgroup's release_agent (CVE-2022-0492)", Seccomp, || {
        let point = c"/data/cgroup";
        let mounted = sys!(libc::SYS_mount, c"x", point, c"cgroup", 0, c"memory");
        let mounted = mounted.or_else(|_| sys!(libc::SYS_mount, c"x", point, c"cgroup", 0, c"pids"));
        unless_absent(mounted, &[libc::ENODEV, libc::EINVAL], "cgroup v1")?;
        writable("/data/cgroup/release_agent").or_else(|_| writable("/data/cgroup/cgroup.procs"))
    })
    .root(),
    probe("leave-cgroup", "leaving the container's cgroup", Seccomp, || {
        mount(c"x", c"/data/cgroup2", c"cgroup2", 0)?;
        writable("/data/cgroup2/cgroup.procs")
    })
    .root(),
    probe("fsopen", "fsopen", Seccomp, || {
        open!(libc::SYS_fsopen, c"tmpfs", 0)?;
        Ok(())
    })
    .root(),
    probe("fspick", "fspick", Seccomp, || {
        open!(libc::SYS_fspick, libc::AT_FDCWD, c"/dev/shm", 0)?;
        Ok(())
    })
    .root(),
    probe("open-tree", "open_tree, cloning", Seccomp, || {
        open!(libc::SYS_open_tree, libc::AT_FDCWD, c"/etc", 1)?;
        Ok(())
    })
    .root(),
    probe("move-mount", "move_mount", Seccomp, || {
        // EINVAL: /dev/shm lies there and is no mount of the caller's own; that is asked after who may move.
        let moved = sys!(libc::SYS_move_mount, -1, c"/srv", -1, c"/data", 0);
        reaches(moved, &[libc::EINVAL])
    })
    .root(),
    probe("mount-setattr", "mount_setattr", Seccomp, || {
        let attributes = words(&[0, 0, 0, 0]);
        sys!(libc::SYS_mount_setattr, -1, c"/proc", 0, attributes.as_slice(), 32)?;
        Ok(())
    })
    .root(),
    probe("umount", "umount", Seccomp, || {
        sys!(libc::SYS_umount2, c"/dev/mqueue", libc::MNT_DETACH)?;
        Ok(())
    })
    .root(),
    probe("pivot-root", "pivot_root", Seccomp, || {
        reaches(sys!(libc::SYS_pivot_root, c"/srv", c"/srv"), &[libc::EINVAL, libc::EBUSY])
    })
    .root(),
    probe("chroot-escape", "chroot, then out of it by ..", Seccomp, || {
        std::os::unix::fs::chroot("/srv")?;
        // From however deep a working folder.
        std::env::set_current_dir("../".repeat(32))?;
        if File::open("etc/motd").is_ok() { Ok(()) } else { Err(stopped("it did not lead out")) }
    })
    .root(),
];

/// What a hidden file lacks.
fn has_content(path: &str) -> Try {
    match File::open(path)?.read(&mut [0])? {
        0 => Err(io::Error::from_raw_os_error(libc::ENODATA).into()),
        _ => Ok(()),
    }
}

/// Opens for writing what some kernels do not have.
fn absent_file(path: &str, what: &'static str) -> Try {
    let opened = match path.ends_with("kcore") {
        true => File::open(path),
        false => OpenOptions::new().write(true).open(path),
    };
    unless_absent(opened, &[libc::ENOENT], what).map(drop)
}

fn device(path: &str, kind: u32, number: u64) -> Try {
    sys!(libc::SYS_mknodat, -1, &*text(path), kind | 0o600, number)?;
    File::open(path)?;
    Ok(())
}

/// The first loop device: a disk of the node, which many machines let nobody else open.
const DISK: u64 = libc::makedev(7, 0);

fn mount_disk() -> Try {
    let point = c"/data/disk-mount";
    sys!(libc::SYS_mknodat, -1, c"/data/disk-to-mount", libc::S_IFBLK | 0o600, DISK)?;
    let mounted = sys!(libc::SYS_mount, c"/data/disk-to-mount", point, c"ext4", libc::MS_RDONLY, 0);
    // The kernel looked at the disk: it holds no such file system, or is in use.
    reaches(mounted, &[libc::EINVAL, libc::EIO, libc::EBUSY])
}

fn mount(from: &std::ffi::CStr, to: &std::ffi::CStr, kind: &std::ffi::CStr, flags: u64) -> Try {
    sys!(libc::SYS_mount, from, to, kind, flags, 0)?;
    Ok(())
}

/// A file's handle: its length and kind, then its bytes.
fn handle(path: &str) -> Result<Vec<u8>, crate::probe::Failure> {
    let mut handle = vec![0; 136];
    handle.splice(0..4, 128u32.to_ne_bytes());
    let mut id = [0; 8];
    sys!(libc::SYS_name_to_handle_at, -1, &*text(path), handle.as_mut_slice(), id.as_mut_slice(), 0)?;
    Ok(handle)
}

fn by_handle() -> Try {
    let handle = handle("/dev/shm")?;
    let folder = File::open("/dev/shm")?;
    open!(libc::SYS_open_by_handle_at, folder.as_raw_fd(), handle.as_slice(), libc::O_RDONLY)?;
    Ok(())
}

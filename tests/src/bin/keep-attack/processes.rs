//! Namespaces of one's own, and the memory and descriptors of other processes.

use std::fs::File;
use std::os::fd::AsRawFd as _;

use crate::probe::Wall::Seccomp;
use crate::probe::{Probe, Try, probe};
use crate::raw;
use crate::tools::{beside_child, open, sys, words};

/// `CLONE_NEWTIME`, which libc lacks for some targets.
const NEW_TIME: i32 = 0x80;

pub(crate) const PROBES: &[Probe] = &[
    probe("unshare-user", "a user namespace, and root in it", Seccomp, || unshare(libc::CLONE_NEWUSER)),
    probe("unshare-mount", "a mount namespace", Seccomp, || unshare(libc::CLONE_NEWNS)).root(),
    probe("unshare-network", "a network namespace", Seccomp, || unshare(libc::CLONE_NEWNET)).root(),
    probe("unshare-pid", "a process namespace", Seccomp, || unshare(libc::CLONE_NEWPID)).root(),
    probe("unshare-ipc", "an IPC namespace", Seccomp, || unshare(libc::CLONE_NEWIPC)).root(),
    probe("unshare-uts", "a host name namespace", Seccomp, || unshare(libc::CLONE_NEWUTS)).root(),
    probe("unshare-cgroup", "a cgroup namespace", Seccomp, || unshare(libc::CLONE_NEWCGROUP)).root(),
    probe("unshare-time", "a time namespace", Seccomp, || unshare(NEW_TIME)).root(),
    probe("clone-user", "a user namespace by clone", Seccomp, || cloned(libc::CLONE_NEWUSER)),
    probe("clone-network", "a network namespace by clone", Seccomp, || cloned(libc::CLONE_NEWNET)).root(),
    probe("clone3-user", "a user namespace by clone3, whose flags lie in memory", Seccomp, || {
        let arguments = words(&[libc::CLONE_NEWUSER as u64, 0, 0, 0, libc::SIGCHLD as u64, 0, 0, 0]);
        ended(sys!(libc::SYS_clone3, arguments.as_slice(), 64)?)
    }),
    probe("setns", "setns by a file of /proc/PID/ns", Seccomp, || {
        let namespace = File::open("/proc/1/ns/uts")?;
        sys!(libc::SYS_setns, namespace.as_raw_fd(), 0)?;
        Ok(())
    })
    .root(),
    probe("setns-pidfd", "setns by a pidfd", Seccomp, || {
        let init = open!(libc::SYS_pidfd_open, 1, 0)?;
        sys!(libc::SYS_setns, init.as_raw_fd(), libc::CLONE_NEWUTS)?;
        Ok(())
    })
    .root(),
    probe("ptrace-attach", "ptrace of another process", Seccomp, || {
        beside_child(|child| {
            sys!(libc::SYS_ptrace, libc::PTRACE_SEIZE, child, 0, 0)?;
            Ok(())
        })
    }),
    probe("ptrace-traceme", "ptrace, asked for by the traced", Seccomp, || {
        sys!(libc::SYS_ptrace, libc::PTRACE_TRACEME, 0, 0, 0)?;
        Ok(())
    }),
    probe("process-vm-readv", "another process's memory read", Seccomp, || {
        vector(libc::SYS_process_vm_readv)
    }),
    probe("process-vm-writev", "another process's memory written", Seccomp, || {
        vector(libc::SYS_process_vm_writev)
    }),
    probe("process-madvise", "another process's memory advised", Seccomp, || {
        beside_child(|child| {
            let process = open!(libc::SYS_pidfd_open, child, 0)?;
            let part = words(&[crate::main as *const () as u64 & !4095, 4096]);
            let cold = 20;
            sys!(libc::SYS_process_madvise, process.as_raw_fd(), part.as_slice(), 1, cold, 0)?;
            Ok(())
        })
    })
    .root(),
    probe("pidfd-getfd", "another process's descriptor taken", Seccomp, || {
        beside_child(|child| {
            let process = open!(libc::SYS_pidfd_open, child, 0)?;
            open!(libc::SYS_pidfd_getfd, process.as_raw_fd(), 1, 0)?;
            Ok(())
        })
    }),
    probe("kcmp", "the kernel's addresses compared: kcmp", Seccomp, || {
        let me = std::process::id();
        sys!(libc::SYS_kcmp, me, me, 1, 0, 0)?;
        Ok(())
    }),
    probe("robust-list", "another process's robust futexes", Seccomp, || {
        beside_child(|child| {
            let (mut head, mut length) = ([0; 8], [0; 8]);
            sys!(libc::SYS_get_robust_list, child, head.as_mut_slice(), length.as_mut_slice())?;
            Ok(())
        })
    }),
];

fn unshare(flags: i32) -> Try {
    sys!(libc::SYS_unshare, flags)?;
    Ok(())
}

/// A child of clone(2) goes on here as well, on a copy of the stack: it ends at once.
fn cloned(flags: i32) -> Try {
    ended(sys!(libc::SYS_clone, flags | libc::SIGCHLD, 0, 0, 0, 0)?)
}

fn ended(child: i64) -> Try {
    if child == 0 {
        std::process::exit(0);
    }
    Ok(())
}

/// process_vm_readv or process_vm_writev of eight bytes of a child, at the same place as here.
fn vector(number: libc::c_long) -> Try {
    let mut bytes = vec![0; 8];
    let there = bytes.clone();
    beside_child(|child| {
        let (here, there) = (words(&[raw::address(&bytes), 8]), words(&[raw::address(&there), 8]));
        sys!(number, child, here.as_slice(), 1, there.as_slice(), 1, 0)?;
        Ok(())
    })?;
    bytes.clear();
    Ok(())
}

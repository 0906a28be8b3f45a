//! Refused calls in words, and error numbers by name.

use nix::errno::Errno;
use profiles::syscalls;

use crate::facts::NATIVE;

/// The name of call `number`, else its number.
pub(super) fn name(number: i32) -> String {
    let known = u32::try_from(number).ok().and_then(|number| syscalls::name(number, NATIVE));
    known.map_or_else(|| format!("syscall_{number}"), str::to_owned)
}

/// `name(argument, ...)`: as many arguments as the call takes; addresses, which differ from run to run, as `ptr`, so
/// that the same attempt gives the same text.
pub(super) fn call(number: i32, arguments: &[u64; 6]) -> String {
    let name = name(number);
    let words: Vec<_> = arguments.iter().take(count(&name)).map(|argument| word(*argument)).collect();
    format!("{name}({})", words.join(", "))
}

fn word(argument: u64) -> String {
    // An int that is negative arrives with its upper half zero or all ones.
    let int = argument as u32 as i32;
    match argument {
        _ if (-4096..0).contains(&argument.cast_signed()) => argument.cast_signed().to_string(),
        _ if argument >> 32 == 0 && (-4096..0).contains(&int) => int.to_string(),
        0..=0xffff => argument.to_string(),
        0x1_0000..=0xffff_ffff => format!("{argument:#x}"),
        _ => "ptr".to_owned(),
    }
}

/// How many arguments a call takes. Source: include/linux/syscalls.h, for the calls that plans refuse.
fn count(name: &str) -> usize {
    match name {
        "vhangup" | "fork" | "vfork" | "munlockall" => 0,
        "umount" | "unshare" | "personality" | "chroot" | "acct" | "swapoff" | "uselib" | "iopl"
        | "adjtimex" | "memfd_secret" | "userfaultfd" | "mq_unlink" | "msgctl_info" | "syncfs" | "shmdt"
        | "syslog_open" | "io_destroy" => 1,
        "umount2"
        | "pivot_root"
        | "swapon"
        | "setns"
        | "sethostname"
        | "setdomainname"
        | "settimeofday"
        | "clock_settime"
        | "clock_adjtime"
        | "memfd_create"
        | "delete_module"
        | "io_uring_setup"
        | "io_setup"
        | "fanotify_init"
        | "clone3"
        | "msgget"
        | "landlock_restrict_self" => 2,
        "socket" | "bpf" | "syslog" | "init_module" | "finit_module" | "seccomp" | "mprotect" | "ioctl"
        | "ioperm" | "name_to_handle_at" | "open_by_handle_at" | "quotactl_fd" | "set_mempolicy"
        | "mlock2" | "shmget" | "shmat" | "shmctl" | "semget" | "semop" | "msgctl" | "fsopen" | "fsmount"
        | "modify_ldt" | "pidfd_getfd" | "io_submit" | "open_tree" | "lookup_dcookie"
        | "request_key_auth" => 3,
        "ptrace" | "quotactl" | "reboot" | "request_key" | "socketpair" | "migrate_pages"
        | "io_uring_register" | "msgsnd" | "semctl" | "pkey_mprotect" | "mq_open" | "sendto_fastopen" => 4,
        "mount" | "prctl" | "keyctl" | "add_key" | "kcmp" | "kexec_load" | "kexec_file_load" | "clone"
        | "perf_event_open" | "move_mount" | "mount_setattr" | "fsconfig" | "execveat" | "fanotify_mark"
        | "msgrcv" | "process_madvise" | "get_mempolicy" => 5,
        "mmap" | "move_pages" | "mbind" | "process_vm_readv" | "process_vm_writev" | "io_uring_enter"
        | "sendto" | "futex" | "splice" | "remap_file_pages" => 6,
        _ => 3,
    }
}

/// `EPERM` for 1, and so on.
pub(super) fn errno(number: i32) -> String {
    format!("{:?}", Errno::from_raw(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_says_its_arguments_and_no_address() {
        let arguments = [16, 1, 0x7fff_dead_beef, 0, 0xdead_beef_dead, 0];
        assert_eq!(call(libc::SYS_ptrace as i32, &arguments), "ptrace(16, 1, ptr, 0)");
        let arguments = [u64::from(u32::MAX), u64::MAX, 0x1234_5678, 0, 0, 0];
        assert_eq!(call(libc::SYS_socket as i32, &arguments), "socket(-1, -1, 0x12345678)");
        assert_eq!(errno(libc::EPERM), "EPERM");
    }
}

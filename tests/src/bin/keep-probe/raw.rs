//! The probe's system calls that no safe wrapper makes. The only `unsafe` of tests and xtask.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};

/// Signals that the timer has delivered.
static TICKS: AtomicU64 = AtomicU64::new(0);

extern "C" fn on_tick(_: libc::c_int) {
    TICKS.fetch_add(1, Ordering::Relaxed);
}

extern "C" fn on_term(_: libc::c_int) {
    // SAFETY: _exit is async-signal-safe and takes no pointer.
    unsafe { libc::_exit(143) }
}

fn result(value: libc::c_long) -> io::Result<i64> {
    if value < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

/// Makes the named system call with arguments that succeed (or fail with the returned number) where nothing forbids it.
pub(crate) fn call(name: &str) -> Option<io::Result<i64>> {
    let zero = [0u8; 256];
    // SAFETY: every pointer handed over is null or points to `zero`, which outlives the call and is larger than
    // any structure read by these calls; none of them writes to memory of this process.
    let value = unsafe {
        match name {
            "msgget" => libc::syscall(libc::SYS_msgget, libc::IPC_PRIVATE, libc::IPC_CREAT | 0o600),
            "semget" => libc::syscall(libc::SYS_semget, libc::IPC_PRIVATE, 1, libc::IPC_CREAT | 0o600),
            "shmget" => libc::syscall(libc::SYS_shmget, libc::IPC_PRIVATE, 4096, libc::IPC_CREAT | 0o600),
            "io_uring_setup" => libc::syscall(libc::SYS_io_uring_setup, 1, std::ptr::null::<u8>()),
            "ptrace" => libc::syscall(libc::SYS_ptrace, libc::PTRACE_TRACEME, 0, 0, 0),
            "bpf" => libc::syscall(libc::SYS_bpf, 0, zero.as_ptr(), 16),
            "keyctl" => libc::syscall(libc::SYS_keyctl, 0, -4i64, 0, 0, 0),
            "add_key" => {
                libc::syscall(libc::SYS_add_key, c"user".as_ptr(), c"keep".as_ptr(), zero.as_ptr(), 1, -3i64)
            }
            "mount" => {
                libc::syscall(libc::SYS_mount, c"none".as_ptr(), c"/tmp".as_ptr(), c"tmpfs".as_ptr(), 0, 0)
            }
            "unshare" => libc::syscall(libc::SYS_unshare, libc::CLONE_NEWUSER),
            "perf_event_open" => libc::syscall(libc::SYS_perf_event_open, zero.as_ptr(), 0, -1, -1, 0),
            "userfaultfd" => libc::syscall(libc::SYS_userfaultfd, 0),
            "memfd_create" => libc::syscall(libc::SYS_memfd_create, c"keep".as_ptr(), 0),
            "setns" => libc::syscall(libc::SYS_setns, -1, 0),
            "reboot" => libc::syscall(libc::SYS_reboot, 0, 0, 0, 0),
            "unknown" => libc::syscall(0x3fff_0000),
            "packet" => libc::c_long::from(libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0)),
            "raw" => libc::c_long::from(libc::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP)),
            "vsock" => libc::c_long::from(libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0)),
            "mptcp" => {
                libc::c_long::from(libc::socket(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_MPTCP))
            }
            "getpid" => libc::syscall(libc::SYS_getpid),
            "wx" => writable_and_executable(),
            _ => return None,
        }
    };
    Some(result(value))
}

fn writable_and_executable() -> libc::c_long {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new anonymous mapping at an address of the kernel's choice; nothing refers to it.
    let page = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            4096,
            libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
            flags,
            -1,
            0,
        )
    };
    if page == libc::MAP_FAILED { -1 } else { 0 }
}

/// Runs a sealed-off copy of a program from memory (memfd_create, then fexecve). Returns only on failure.
pub(crate) fn exec_from_memory(program: &[u8]) -> io::Error {
    use std::io::Write as _;
    use std::os::fd::FromRawFd as _;
    // SAFETY: the name is a valid C string; the descriptor returned is owned by nobody else.
    let mut file = unsafe {
        let fd = libc::syscall(libc::SYS_memfd_create, c"keep".as_ptr(), 0);
        match result(fd) {
            Ok(fd) => std::fs::File::from_raw_fd(i32::try_from(fd).unwrap_or(-1)),
            Err(error) => return error,
        }
    };
    if let Err(error) = file.write_all(program) {
        return error;
    }
    let argv = [c"memory".as_ptr(), c"ok".as_ptr(), std::ptr::null()];
    let environment = [std::ptr::null()];
    // SAFETY: both arrays end in null and their strings are static.
    unsafe { libc::fexecve(file.as_raw_fd(), argv.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}

/// Sends this process SIGALRM `per_second` times a second; the handler has SA_RESTART, as language runtimes set it.
pub(crate) fn start_timer(per_second: i64) -> io::Result<()> {
    let every = libc::timeval { tv_sec: 0, tv_usec: 1_000_000 / per_second };
    let timer = libc::itimerval { it_interval: every, it_value: every };
    // SAFETY: sigaction and itimerval are plain data for which zeroes are valid; the handler touches one atomic.
    let done = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_tick as *const () as usize;
        action.sa_flags = libc::SA_RESTART;
        if libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut())
    };
    result(libc::c_long::from(done)).map(drop)
}

/// Signals received since [`start_timer`].
pub(crate) fn ticks() -> u64 {
    TICKS.load(Ordering::Relaxed)
}

/// Ends the program with 143 at SIGTERM, which the kernel would ignore for pid 1 otherwise.
pub(crate) fn exit_on_term() {
    // SAFETY: the handler only calls _exit.
    unsafe { libc::signal(libc::SIGTERM, on_term as *const () as usize) };
}

/// Whether descriptor `fd` is a terminal.
pub(crate) fn is_terminal(fd: i32) -> bool {
    // SAFETY: isatty takes any number.
    unsafe { libc::isatty(fd) == 1 }
}

/// Has a connection reset when it is closed.
pub(crate) fn reset_on_close(stream: &impl AsRawFd) -> io::Result<()> {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: the option's value is a `linger`, of which the size is given.
    let done = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of::<libc::linger>() as libc::socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

//! What every container may write to, whatever it declared: the project's own floor. Kept small.

use profiles::Plan;
use profiles::plan::Action;

/// Devices that libc and terminals need, and the file that Kubernetes reads a container's last words from.
const ALWAYS: [&str; 10] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
    "/dev/console",
    "/dev/ptmx",
    "/dev/pts",
    "/dev/termination-log",
];

/// Where POSIX shared memory and message queues live, for the need `ipc`.
const IPC: [&str; 2] = ["/dev/shm", "/dev/mqueue"];

/// Number of shmget(2), which stands for the need `ipc`: a plan does not name its needs.
#[cfg(target_arch = "x86_64")]
const SHMGET: u32 = 29;
/// Number of shmget(2), which stands for the need `ipc`: a plan does not name its needs.
#[cfg(target_arch = "aarch64")]
const SHMGET: u32 = 194;

/// The floor's paths under `plan`.
pub(crate) fn paths(plan: &Plan) -> impl Iterator<Item = &'static str> {
    let ipc = if has_ipc(plan) { &IPC[..] } else { &[] };
    ALWAYS.iter().chain(ipc).copied()
}

fn has_ipc(plan: &Plan) -> bool {
    let Some(seccomp) = &plan.seccomp else { return true };
    let rules = seccomp.calls.get(&SHMGET).into_iter().flatten();
    rules.into_iter().any(|rule| rule.action == Action::Allow)
}

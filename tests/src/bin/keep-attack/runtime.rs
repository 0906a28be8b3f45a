//! What the runtime could leave within reach: descriptors, variables, processes of the node.

use std::fs;

use crate::probe::Wall::{Namespaces, Runtime};
use crate::probe::{Failure, Probe, probe, stopped};
use crate::tools::sys;

/// A process of the node that every control sees, because it shares the node's process namespace.
const OUTSIDE: &str = "containerd";
/// Variables that containerd's own default, an image and `ctr` set.
const USUAL: &[&str] = &["PATH", "HOME", "HOSTNAME", "TERM", "PWD", "SHLVL", "OLDPWD", "_"];

pub(crate) const PROBES: &[Probe] = &[
    probe("descriptors", "descriptors that the runtime left open (CVE-2024-21626)", Runtime, || {
        let inherited = crate::inherited();
        if inherited.is_empty() { Err(stopped("none beyond 0, 1, 2")) } else { Ok(()) }
    }),
    probe("descriptor-outside", "a way out by /proc/self/fd/N/..", Runtime, || {
        let leads = |fd: &i32| fs::metadata(format!("/proc/self/fd/{fd}/..")).is_ok();
        let found = crate::inherited().iter().any(leads);
        if found { Ok(()) } else { Err(stopped("no descriptor of a folder")) }
    }),
    probe("working-folder", "a working folder outside the container (CVE-2024-21626)", Runtime, || {
        // The kernel's own word for a folder that the root does not lead to.
        let mut answer = [0; 4096];
        sys!(libc::SYS_getcwd, answer.as_mut_slice(), 4096)?;
        if answer.starts_with(b"(unreachable)") { Ok(()) } else { Err(stopped("it is within")) }
    })
    .root(),
    probe("environment", "variables of the runtime", Runtime, || {
        let mut foreign = std::env::vars().filter(|(name, _)| !USUAL.contains(&name.as_str()));
        if foreign.next().is_some() { Ok(()) } else { Err(stopped("none")) }
    }),
    probe("see-outside", "seeing the node's processes", Namespaces, || outside().map(drop)),
    probe("signal-outside", "a signal to a process of the node", Namespaces, || {
        sys!(libc::SYS_kill, outside()?, 0)?;
        Ok(())
    })
    .root(),
    probe("root-outside", "the node's files by /proc/PID/root", Namespaces, || {
        let pid = outside()?;
        fs::read_dir(format!("/proc/{pid}/root"))?;
        Ok(())
    })
    .root(),
    probe("exe-outside", "the runtime's own program by /proc/PID/exe", Namespaces, || {
        fs::File::open(format!("/proc/{}/exe", outside()?))?;
        Ok(())
    })
    .root(),
    probe("environ-outside", "the node's secrets by /proc/PID/environ", Namespaces, || {
        fs::read(format!("/proc/{}/environ", outside()?))?;
        Ok(())
    })
    .root(),
    probe("limits-outside", "the limits of a process of the node", Namespaces, || {
        let mut limit = [0; 16];
        sys!(libc::SYS_prlimit64, outside()?, libc::RLIMIT_NOFILE as i32, 0, limit.as_mut_slice())?;
        Ok(())
    })
    .root(),
    probe("schedule-outside", "the priority of a process of the node", Namespaces, || {
        let pid = outside()?;
        let nice = sys!(libc::SYS_getpriority, 0, pid)?;
        sys!(libc::SYS_setpriority, 0, pid, 20 - nice)?;
        Ok(())
    })
    .root(),
    probe("init-is-own", "init of the node as process 1", Namespaces, || {
        let first = fs::read_to_string("/proc/1/comm")?;
        if first.trim() == "bash" { Ok(()) } else { Err(stopped("it is the container's own")) }
    }),
];

fn outside() -> Result<i32, Failure> {
    let processes = fs::read_dir("/proc")?.flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let named =
        |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == OUTSIDE);
    pids.find(named).ok_or_else(|| stopped("there is none"))
}

//! What a probe is, and what can come of it.

use std::io;

/// What stops a probe in a container whose labels do not ask for what it tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wall {
    /// The generated filter.
    Seccomp,
    /// The ruleset of paths, ports and scopes.
    Landlock,
    /// Programs on the container's cgroup.
    Bpf,
    /// Read-only root, `noexec` binds, hidden files, and what is not mounted at all.
    Mounts,
    /// No capability, and none to be gained.
    Capabilities,
    /// Namespaces of the container's own.
    Namespaces,
    /// The shim, which listens on the caller's behalf.
    Observer,
    /// What the runtime leaves to a program: descriptors, variables.
    Runtime,
}

impl Wall {
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Seccomp => "seccomp",
            Self::Landlock => "Landlock",
            Self::Bpf => "cgroup-BPF",
            Self::Mounts => "mounts",
            Self::Capabilities => "capabilities",
            Self::Namespaces => "namespaces",
            Self::Observer => "observer",
            Self::Runtime => "runtime",
        }
    }
}

/// Who crosses where no wall stands: in the other's hands the probe fails anyway, and has no control.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    Anyone,
    Root,
    User,
}

impl Who {
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Anyone => "anyone",
            Self::Root => "root",
            Self::User => "user",
        }
    }
}

/// One way around a wall.
pub(crate) struct Probe {
    pub(crate) name: &'static str,
    /// For the table in docs/escapes.md.
    pub(crate) words: &'static str,
    pub(crate) wall: Wall,
    pub(crate) who: Who,
    pub(crate) go: fn() -> Try,
}

/// A probe that crosses for anyone where no wall stands.
pub(crate) const fn probe(name: &'static str, words: &'static str, wall: Wall, go: fn() -> Try) -> Probe {
    Probe { name, words, wall, who: Who::Anyone, go }
}

impl Probe {
    /// Only root crosses, even unconfined.
    pub(crate) const fn root(mut self) -> Self {
        self.who = Who::Root;
        self
    }

    /// Only somebody else than root has something to gain.
    pub(crate) const fn user(mut self) -> Self {
        self.who = Who::User;
        self
    }
}

/// Why a probe did not cross.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The call or the program failed.
    Stopped(io::Error),
    /// This kernel does not have what is tried.
    Absent(&'static str),
    /// What no wall forbids and the probe begins with failed, so that it shows nothing.
    Broken(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Stopped(error)
    }
}

/// `Ok` is crossed.
pub(crate) type Try = Result<(), Failure>;

/// A refusal that no system call answered with a number.
pub(crate) fn stopped(words: &'static str) -> Failure {
    Failure::Stopped(io::Error::other(words))
}

/// The beginning of a probe, which labels allow.
pub(crate) fn allowed<T>(result: io::Result<T>) -> Result<T, Failure> {
    result.map_err(Failure::Broken)
}

/// A beginning that failed without a number.
pub(crate) fn broken(words: &'static str) -> Failure {
    Failure::Broken(io::Error::other(words))
}

/// Crossed where the call succeeds, or fails only after the kernel's own checks of who asks.
pub(crate) fn reaches<T>(result: io::Result<T>, past_the_checks: &[i32]) -> Try {
    match result {
        Ok(_) => Ok(()),
        Err(error) if error.raw_os_error().is_some_and(|number| past_the_checks.contains(&number)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// As it is, but for what takes CAP_SYS_RESOURCE, which some machines keep back from everybody, where root lacks it.
pub(crate) fn with_resource<T>(result: io::Result<T>) -> Result<T, Failure> {
    const ADMIN: u64 = 1 << 21;
    const RESOURCE: u64 = 1 << 24;
    let status = std::fs::read_to_string("/proc/self/status")?;
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let held = set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or(0);
    match result {
        Err(_) if held & (ADMIN | RESOURCE) == ADMIN => Err(Failure::Absent("CAP_SYS_RESOURCE")),
        result => Ok(result?),
    }
}

/// As it is, but for error numbers by which the kernel says that it was built without the thing.
pub(crate) fn unless_absent<T>(
    result: io::Result<T>,
    numbers: &[i32],
    what: &'static str,
) -> Result<T, Failure> {
    result.map_err(|error| match error.raw_os_error() {
        Some(number) if numbers.contains(&number) => Failure::Absent(what),
        _ => error.into(),
    })
}

//! The Landlock ruleset: what may be executed, what written beneath, which TCP ports.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use landlock::{
    ABI, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, Scope,
};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{SFlag, fstat};
use profiles::Plan;
use profiles::plan::{Gap, LandlockPlan, Wall};

use super::EnforceError;
use crate::floor;
use crate::paths::is_absent;
use crate::programs::ResolvedPrograms;

/// The last ABI whose rights are handled. ABI 9 adds connecting to pathname unix sockets, which no kernel that Keep is
/// tested on has yet.
const LAST_TESTED: ABI = ABI::V8;

/// Whether symlinks in a rule's path are followed.
#[derive(Clone, Copy)]
enum Symlinks {
    Follow,
    /// A program's path is final. A symlink in it was put there since, perhaps by the container itself on a volume.
    Refuse,
}

/// Builds the ruleset of `plan`; `None` where the plan has none, or nothing to restrict.
pub(super) fn build(
    plan: &Plan,
    programs: &ResolvedPrograms,
    writable: &[PathBuf],
) -> Result<Option<RulesetCreated>, EnforceError> {
    let Some(landlock) = &plan.landlock else { return Ok(None) };
    let abi = i32::try_from(landlock.abi).map_or(LAST_TESTED, ABI::from).min(LAST_TESTED);
    let mut handled = BitFlags::EMPTY;
    if plan.programs.is_some() {
        handled |= AccessFs::Execute;
    }
    if plan.write.is_some() {
        handled |= write_rights(abi);
    }
    if abi == ABI::Unsupported || (handled.is_empty() && !restricts_network(landlock)) {
        return Ok(None);
    }
    let mut rules = Rules { ruleset: create(landlock, handled, abi)?, abi };
    if plan.programs.is_some() {
        for path in programs.paths() {
            rules.allow(Path::new(path.as_str()), AccessFs::Execute.into(), Symlinks::Refuse)?;
        }
    }
    if let Some(write) = &plan.write {
        let rights = write_rights(abi);
        let declared = write.iter().map(|path| Path::new(path.as_str()));
        for path in declared.chain(writable.iter().map(PathBuf::as_path)) {
            rules.allow(path, rights, Symlinks::Follow)?;
        }
        for path in floor::paths(plan) {
            rules.allow(Path::new(path), rights, Symlinks::Follow)?;
        }
    }
    rules.ports(landlock.bind_tcp.as_deref(), AccessNet::BindTcp)?;
    rules.ports(landlock.connect_tcp.as_deref(), AccessNet::ConnectTcp)?;
    Ok(Some(rules.ruleset.no_new_privs(false)))
}

/// What is reported when the kernel says that it did not enforce all of a ruleset.
pub(super) fn not_enforced() -> Vec<Gap> {
    let gap =
        |wall| Gap { wall, sentence: "the kernel did not enforce all of the Landlock ruleset".to_owned() };
    vec![gap(Wall::Exec), gap(Wall::File), gap(Wall::Network)]
}

/// All rights to write but `Truncate`. Were it handled, the kernel would look for it at each open, of reading too, and walk
/// up to the root, where no rule grants it: 1.2 µs of an nginx's 22 µs for a request. What is not granted is mounted
/// read-only, which refuses truncation too; kernels before 6.2 have no such right anyway.
fn write_rights(abi: ABI) -> BitFlags<AccessFs> {
    AccessFs::from_write(abi) & !AccessFs::Truncate
}

fn restricts_network(landlock: &LandlockPlan) -> bool {
    restricting(landlock.bind_tcp.as_deref()).is_some()
        || restricting(landlock.connect_tcp.as_deref()).is_some()
}

/// The ranges, if they leave any port out. Where all are granted, leaving the right alone grants the same, and spares
/// 65,535 rules: each costs about half a microsecond to add, and as much again to enforce.
fn restricting(ranges: Option<&[(u16, u16)]>) -> Option<&[(u16, u16)]> {
    let ranges = ranges?;
    let all = |port| ranges.iter().any(|(first, last)| (*first..=*last).contains(&port));
    if (1..=u16::MAX).all(all) { None } else { Some(ranges) }
}

fn create(
    landlock: &LandlockPlan,
    handled: BitFlags<AccessFs>,
    abi: ABI,
) -> Result<RulesetCreated, EnforceError> {
    let build = || {
        let mut ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        if !handled.is_empty() {
            ruleset = ruleset.handle_access(handled)?;
        }
        if restricting(landlock.bind_tcp.as_deref()).is_some() {
            ruleset = ruleset.handle_access(AccessNet::BindTcp)?;
        }
        if restricting(landlock.connect_tcp.as_deref()).is_some() {
            ruleset = ruleset.handle_access(AccessNet::ConnectTcp)?;
        }
        if abi >= ABI::V6 {
            ruleset = ruleset.scope(Scope::AbstractUnixSocket)?;
        }
        ruleset.create()
    };
    build().map_err(EnforceError::Ruleset)
}

struct Rules {
    ruleset: RulesetCreated,
    abi: ABI,
}

impl Rules {
    fn allow(
        &mut self,
        path: &Path,
        rights: BitFlags<AccessFs>,
        symlinks: Symlinks,
    ) -> Result<(), EnforceError> {
        let failed = |errno: Errno| EnforceError::OpenPath { path: path.to_owned(), source: errno.into() };
        let fd = match open(path, symlinks) {
            // EACCES: the container's user cannot reach it, so needs no right to it.
            Err(errno) if is_absent(errno) || errno == Errno::EACCES => return Ok(()),
            opened => opened.map_err(failed)?,
        };
        let rights = if is_directory(fd.as_fd()).map_err(failed)? {
            rights
        } else {
            rights & AccessFs::from_file(self.abi)
        };
        let rule = PathBeneath::new(fd, rights);
        (&mut self.ruleset).add_rule(rule).map(drop).map_err(EnforceError::Ruleset)
    }

    fn ports(&mut self, ranges: Option<&[(u16, u16)]>, right: AccessNet) -> Result<(), EnforceError> {
        for &(first, last) in restricting(ranges).unwrap_or_default() {
            for port in first..=last {
                let rule = NetPort::new(port, right);
                (&mut self.ruleset).add_rule(rule).map(drop).map_err(EnforceError::Ruleset)?;
            }
        }
        Ok(())
    }
}

fn open(path: &Path, symlinks: Symlinks) -> nix::Result<OwnedFd> {
    let resolve = match symlinks {
        Symlinks::Follow => ResolveFlag::empty(),
        Symlinks::Refuse => ResolveFlag::RESOLVE_NO_SYMLINKS,
    };
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(resolve);
    openat2(AT_FDCWD, path, how)
}

fn is_directory(fd: impl AsFd) -> nix::Result<bool> {
    let kind = fstat(fd)?.st_mode & SFlag::S_IFMT.bits();
    Ok(kind == SFlag::S_IFDIR.bits())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_left_alone_only_where_every_one_is_granted() {
        assert_eq!(restricting(Some(&[(1, 1000), (1001, u16::MAX)])), None);
        assert_eq!(restricting(Some(&[(0, u16::MAX)])), None);
        assert!(restricting(Some(&[(1, u16::MAX - 1)])).is_some());
        assert!(restricting(Some(&[])).is_some(), "none granted: all refused");
    }
}

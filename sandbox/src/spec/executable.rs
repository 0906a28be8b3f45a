//! The image is mounted `noexec`, and what may be mapped executable is bound over itself without: its libraries and the
//! declared programs. Landlock refuses only execve: the ELF loader called by hand would map every other program, and
//! run it.
//!
//! The image's files are a tree, in which every library and declared program must be executable, no other program may
//! be, and the rest does not matter. The fewest mounts that make it so are counted from the leaves to the root.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;
use profiles::intent::AbsPath;
use profiles::plan::{Gap, Wall};

use super::mounts::{is_bind, mount, set};
use super::write_paths::{make_place, real};
use crate::executables::Executables;
use crate::paths::{Root, is_beneath};
use crate::programs::ResolvedPrograms;

/// Most mounts that an image gets for its programs. Each costs a start 0.15 to 0.2 ms.
const MAX_MOUNTS: usize = 100;

/// Whether what lies on a mount can be executed, and mapped executable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exec {
    Yes,
    No,
}

/// A mount's place that cannot be made.
pub(super) type Unmade = (PathBuf, io::Error);

/// Adds the mounts, before all of `mounts`: what the spec mounts in the image must be mounted over them. What lies
/// at or beneath one of `mounts` is none of the image's. Says so, and adds nothing, where there would be too many.
///
/// # Errors
/// With the place of one of `mounts` that cannot be made.
pub(super) fn add(
    mounts: &mut Vec<Mount>,
    programs: &ResolvedPrograms,
    executables: &Executables,
    root: &Root,
    readonly: bool,
) -> Result<Option<Gap>, Unmade> {
    if programs.paths().any(|path| path.as_str() == "/") {
        return Ok(None);
    }
    let mounted: Vec<PathBuf> = mounts.iter().map(|mount| real(root, mount.destination())).collect();
    let found = places(programs, executables, root, &mounted);
    if found.len() > MAX_MOUNTS {
        return Ok(Some(too_many(&found)));
    }
    for (mount, place) in mounts.iter_mut().zip(&mounted) {
        if found.iter().any(|(above, _)| is_beneath(place, above)) {
            keep_apart(mount, place, root).map_err(|error| (place.clone(), error))?;
        }
    }
    // The runtime makes it read-only, once every place in it is made.
    let image =
        mount(Path::new("/"), "bind", root.path().to_owned(), ["bind", "noexec"].map(str::to_owned).to_vec());
    let binds = found.iter().map(|(path, exec)| bind(root, path, *exec, readonly));
    mounts.splice(0..0, std::iter::once(image).chain(binds));
    Ok(None)
}

/// What is to be mounted on an image that is not executable; containing folders first.
fn places(
    programs: &ResolvedPrograms,
    executables: &Executables,
    root: &Root,
    mounted: &[PathBuf],
) -> Vec<(PathBuf, Exec)> {
    let is_free = |path: &AbsPath| !mounted.iter().any(|above| is_beneath(Path::new(path.as_str()), above));
    let is_there = |path: &AbsPath| {
        root.look(path.as_str()).is_ok_and(|found| found.is_regular() || found.is_directory())
    };
    let declared: Vec<&AbsPath> = programs.paths().filter(|path| is_free(path) && is_there(path)).collect();
    let others = |path: &&AbsPath| is_free(path) && !declared.iter().any(|above| path.is_beneath(above));
    let mut tree = Node::default();
    for path in executables.programs.iter().filter(others) {
        tree.insert(path, Exec::No);
    }
    for path in executables.libraries.iter().filter(others).chain(declared.iter().copied()) {
        tree.insert(path, Exec::Yes);
    }
    let mut found = Vec::new();
    tree.solve().collect(&mut PathBuf::from("/"), Exec::No, &mut found);
    found
}

/// A file or folder, with those beneath that matter.
#[derive(Debug, Default)]
struct Node {
    /// What it must be; a folder without may be either.
    must: Option<Exec>,
    below: BTreeMap<String, Node>,
}

impl Node {
    fn insert(&mut self, path: &AbsPath, exec: Exec) {
        let names = path.as_str().split('/').filter(|name| !name.is_empty());
        let node = names.fold(self, |node, name| node.below.entry(name.to_owned()).or_default());
        node.must = Some(exec);
    }

    fn solve(self) -> Solved {
        let below: Vec<(String, Solved)> =
            self.below.into_iter().map(|(name, node)| (name, node.solve())).collect();
        let sum = |exec| below.iter().map(|(_, node)| node.mounts(exec)).sum();
        Solved { must: self.must, within: [sum(Exec::Yes), sum(Exec::No)], below }
    }
}

/// A [`Node`], with the fewest mounts that its inside needs.
#[derive(Debug)]
struct Solved {
    must: Option<Exec>,
    /// Mounts beneath it if it is executable; if it is not.
    within: [usize; 2],
    below: Vec<(String, Solved)>,
}

impl Solved {
    fn within(&self, exec: Exec) -> usize {
        match exec {
            Exec::Yes => self.within[0],
            Exec::No => self.within[1],
        }
    }

    /// What it becomes on a mount that is `on`. Where that makes no difference, nothing is executable.
    fn becomes(&self, on: Exec) -> Exec {
        let cost = |exec| self.within(exec) + usize::from(exec != on);
        match self.must {
            Some(exec) => exec,
            None if cost(Exec::Yes) < cost(Exec::No) => Exec::Yes,
            None => Exec::No,
        }
    }

    /// Mounts that it needs, itself included, on a mount that is `on`.
    fn mounts(&self, on: Exec) -> usize {
        let exec = self.becomes(on);
        self.within(exec) + usize::from(exec != on)
    }

    fn collect(&self, path: &mut PathBuf, on: Exec, into: &mut Vec<(PathBuf, Exec)>) {
        // The root's own mount stands in any case.
        let exec = if path.parent().is_none() { on } else { self.becomes(on) };
        if exec != on {
            into.push((path.clone(), exec));
        }
        for (name, node) in &self.below {
            path.push(name);
            node.collect(path, exec, into);
            path.pop();
        }
    }
}

/// Names the folder that most of the mounts are in.
fn too_many(found: &[(PathBuf, Exec)]) -> Gap {
    let mut folders: BTreeMap<&Path, usize> = BTreeMap::new();
    for folder in found.iter().filter_map(|(path, _)| path.parent()) {
        *folders.entry(folder).or_default() += 1;
    }
    let most = folders.iter().max_by_key(|(_, count)| **count);
    let place = most.map(|(folder, count)| format!("; {count} of them are in {}", folder.display()));
    let sentence = format!(
        "the image needs {} mounts for its programs and libraries, more than {MAX_MOUNTS}{}: keep programs that are not \
         declared in folders without shared libraries, or declare such a folder as a whole",
        found.len(),
        place.unwrap_or_default()
    );
    Gap { wall: Wall::Exec, sentence }
}

/// Makes a mount independent of the read-only folder above it, in which no place for it could be made later.
fn keep_apart(mount: &mut Mount, place: &Path, root: &Root) -> io::Result<()> {
    let source = mount.source().clone().unwrap_or_default();
    make_place(root, place, is_bind(mount) && !source.is_dir())?;
    // A write path: its source is on the folder's mount by then, and takes over the flags.
    if source.starts_with(root.path()) {
        set(mount, "rrw", &[]);
    }
    Ok(())
}

fn bind(root: &Root, path: &Path, exec: Exec, readonly: bool) -> Mount {
    let exec = match exec {
        // Clears what is taken over from the folder's mount.
        Exec::Yes => "rexec",
        Exec::No => "noexec",
    };
    let options = ["bind", "nosuid", "nodev", exec].into_iter().chain(readonly.then_some("ro"));
    let source = root.path().join(path.strip_prefix("/").unwrap_or(path));
    mount(path, "bind", source, options.map(str::to_owned).collect())
}

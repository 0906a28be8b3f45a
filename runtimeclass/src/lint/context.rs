//! The entrypoint's script, read from the build context if a Dockerfile copies it from there.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path};

use profiles::dockerfile::{Built, Copy};
use profiles::intent::AbsPath;
use profiles::lint::{File, Kind, MAX_SCRIPT, Script};

/// Adds the program that the image starts to what is known of it, where that is a script in `folder`.
pub(super) fn add_entrypoint(built: &mut Built, folder: &Path) {
    let Some(command) = built.subject.facts.command() else { return };
    let program = command.program().to_owned();
    // The last copy stands.
    let found = built.copies.iter().rev().filter(|copy| copy.from_context && copy.text.is_none());
    let found = found.flat_map(|copy| copy.sources.iter().map(move |source| (copy, source)));
    for (copy, source) in found {
        let Some(path) = destination(built, copy, source, &program) else { continue };
        if let Some(file) = script(folder, source, copy.mode) {
            built.subject.facts.files.entries.insert(path, file);
            return;
        }
    }
}

/// Where `source` is copied to, if that is where `program` would be found.
fn destination(built: &Built, copy: &Copy, source: &str, program: &str) -> Option<AbsPath> {
    let facts = &built.subject.facts;
    let name = source.rsplit('/').next()?;
    let inside = AbsPath::new(&format!("{}/{name}", copy.destination)).ok()?;
    let itself = AbsPath::new(&copy.destination).ok().filter(|_| !copy.destination.ends_with('/'));
    let is_program = |path: &AbsPath| {
        if program.contains('/') {
            return facts.locate(program).as_ref() == Some(path);
        }
        let mut folders =
            facts.folders().filter_map(|folder| AbsPath::new(&format!("{folder}/{program}")).ok());
        folders.any(|wanted| wanted == *path)
    };
    itself.into_iter().chain([inside]).find(is_program)
}

/// Reads a regular file beneath `folder` that is a script.
fn script(folder: &Path, source: &str, mode: Option<u32>) -> Option<File> {
    let relative = Path::new(source.trim_start_matches('/'));
    if !relative.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        return None;
    }
    // What is linted may come from anyone: nothing outside its folder is read, and no pipe waited for.
    let path = fs::canonicalize(folder.join(relative)).ok()?;
    let root = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let metadata = fs::metadata(&path).ok().filter(fs::Metadata::is_file)?;
    if !path.starts_with(fs::canonicalize(root).ok()?) {
        return None;
    }
    let mut bytes = Vec::new();
    fs::File::open(&path).ok()?.take(MAX_SCRIPT as u64).read_to_end(&mut bytes).ok()?;
    let script = Script::read(&bytes)?;
    Some(File { kind: Kind::Script(script), mode: mode.unwrap_or(metadata.permissions().mode() & 0o7777) })
}

//! Which shared libraries a program needs: enough of ELF for putting one in an image.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// What a dynamic program or library needs.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// The loader's path; none for a library or a static program.
    pub interpreter: Option<String>,
    /// Names of libraries (`DT_NEEDED`).
    pub libraries: Vec<String>,
}

struct Segment {
    kind: u64,
    offset: usize,
    address: u64,
    size: usize,
}

/// Reads what the ELF file in `bytes` needs.
///
/// # Errors
/// When it is no 64-bit little-endian ELF file.
pub fn needs(bytes: &[u8]) -> Result<Needs> {
    if !bytes.starts_with(b"\x7fELF\x02\x01") {
        bail!("not a 64-bit little-endian ELF file");
    }
    let table = index(number(bytes, 32, 8)?)?;
    let (size, count) = (index(number(bytes, 54, 2)?)?, index(number(bytes, 56, 2)?)?);
    let mut segments = Vec::new();
    for at in (0..count).map(|n| table + n * size) {
        segments.push(Segment {
            kind: number(bytes, at, 4)?,
            offset: index(number(bytes, at + 8, 8)?)?,
            address: number(bytes, at + 16, 8)?,
            size: index(number(bytes, at + 32, 8)?)?,
        });
    }
    let mut needs = Needs::default();
    for segment in &segments {
        match segment.kind {
            2 => needs.libraries = libraries(bytes, segment, &segments)?,
            3 => needs.interpreter = Some(text(bytes, segment.offset)?),
            _ => {}
        }
    }
    Ok(needs)
}

fn libraries(bytes: &[u8], dynamic: &Segment, segments: &[Segment]) -> Result<Vec<String>> {
    let (mut names, mut strings) = (Vec::new(), None);
    for at in (dynamic.offset..dynamic.offset + dynamic.size).step_by(16) {
        let (tag, value) = (number(bytes, at, 8)?, number(bytes, at + 8, 8)?);
        match tag {
            0 => break,
            1 => names.push(value),
            5 => strings = Some(value),
            _ => {}
        }
    }
    let Some(strings) = strings else { return Ok(Vec::new()) };
    let loaded = segments
        .iter()
        .find(|s| s.kind == 1 && s.address <= strings && strings < s.address.saturating_add(s.size as u64));
    let loaded = loaded.context("the string table is in no segment")?;
    let base = index(strings - loaded.address)? + loaded.offset;
    names.into_iter().map(|name| text(bytes, base + index(name)?)).collect()
}

/// Every file that `program` needs at run time, itself excluded: `(path in the image, path here)`.
/// Libraries are sought beneath `roots`, in their order, in Debian's library folders.
///
/// # Errors
/// When a library is nowhere, or a file cannot be read.
pub fn closure(program: &Path, roots: &[&Path]) -> Result<Vec<(String, PathBuf)>> {
    let triple = format!("{}-linux-gnu", std::env::consts::ARCH);
    // The last is what systemd's programs say in their RUNPATH.
    let folders = [
        format!("lib/{triple}"),
        format!("usr/lib/{triple}"),
        "lib".to_owned(),
        "usr/lib".to_owned(),
        format!("usr/lib/{triple}/systemd"),
    ];
    let find = |name: &str| {
        let places = roots.iter().flat_map(|root| folders.iter().map(move |folder| (root, folder)));
        places
            .map(|(root, folder)| (format!("{folder}/{name}"), root.join(folder).join(name)))
            .find(|p| p.1.exists())
    };
    let (mut found, mut seen, mut queue) = (Vec::new(), BTreeSet::new(), vec![program.to_path_buf()]);
    while let Some(file) = queue.pop() {
        let bytes = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let needs = needs(&bytes).with_context(|| format!("cannot tell what {} needs", file.display()))?;
        if let Some(loader) = needs.interpreter.filter(|loader| seen.insert(loader.clone())) {
            let inside = loader.trim_start_matches('/').to_owned();
            let here = roots.iter().map(|root| root.join(&inside)).find(|path| path.exists());
            found.push((inside, here.with_context(|| format!("no loader {loader}"))?));
        }
        for name in needs.libraries {
            if seen.insert(name.clone()) && !name.starts_with("ld-linux") {
                let place =
                    find(&name).with_context(|| format!("{} needs {name}: not found", file.display()))?;
                queue.push(place.1.clone());
                found.push(place);
            }
        }
    }
    found.sort();
    Ok(found)
}

fn number(bytes: &[u8], at: usize, size: usize) -> Result<u64> {
    let part = bytes.get(at..at + size).context("the file ends too early")?;
    Ok(part.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}

fn text(bytes: &[u8], at: usize) -> Result<String> {
    let rest = bytes.get(at..).context("the file ends too early")?;
    Ok(String::from_utf8_lossy(rest.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned())
}

fn index(value: u64) -> Result<usize> {
    usize::try_from(value).context("an offset is too large")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shell_needs_a_loader_and_libc() {
        let found = closure(Path::new("/bin/sh"), &[Path::new("/")]).expect("closure");
        assert!(found.iter().any(|(inside, _)| inside.contains("libc.so.6")), "{found:?}");
        assert!(found.iter().any(|(inside, _)| inside.contains("ld-linux")), "{found:?}");
    }

    #[test]
    fn what_is_no_elf_file_is_an_error() {
        assert!(needs(b"#!/bin/sh\n").is_err());
        assert!(needs(b"\x7fELF\x02\x01").is_err());
    }
}

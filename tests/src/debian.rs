//! What Debian 12 leaves in an image when its packages are installed there, from packages that are only unpacked.

use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::elf;
use crate::image::Layer;

/// Packages of which every Debian image has files.
pub const PACKAGES: &[&str] = &[
    "base-passwd",
    "bash",
    "coreutils",
    "dash",
    "gzip",
    "libacl1",
    "libattr1",
    "libc-bin",
    "libc6",
    "libcrypt1",
    "libgcc-s1",
    "libgmp10",
    "liblzma5",
    "libpcre2-8-0",
    "libselinux1",
    "libssl3",
    "libstdc++6",
    "libsystemd0",
    "libtinfo6",
    "libzstd1",
    "tar",
    "tzdata",
    "zlib1g",
];
/// Programs of every Debian image that a script or an intruder would reach for.
const BASE: &[&str] = &[
    "bin/bash",
    "bin/cat",
    "bin/chmod",
    "bin/cp",
    "bin/date",
    "bin/gzip",
    "bin/ls",
    "bin/mkdir",
    "bin/mv",
    "bin/rm",
    "bin/sh",
    "bin/sleep",
    "bin/tar",
    "bin/touch",
    "usr/bin/env",
    "usr/bin/id",
    "usr/bin/locale",
    "usr/lib/locale",
    "usr/share/zoneinfo/Etc",
];
/// Users that packages make when they are installed, each with a group of the same name and number, and their home.
const USERS: &[(&str, u32, &str)] = &[
    ("redis", 101, "/var/lib/redis"),
    ("postgres", 102, "/var/lib/postgresql"),
    ("haproxy", 103, "/var/lib/haproxy"),
    ("memcache", 104, "/nonexistent"),
    ("dnsmasq", 105, "/var/lib/misc"),
];
/// Folders of the root that are symbolic links to those beneath `/usr`.
const MERGED: [&str; 4] = ["bin", "lib", "lib64", "sbin"];

/// The layer of `debian:12-slim`, as far as the images need it, with the users of their packages. `root` is a folder with
/// its unpacked packages.
///
/// # Errors
/// When a file is in none of the packages.
pub fn base(root: &Path) -> Result<Layer> {
    let master = |name: &str| {
        let path = root.join(format!("usr/share/base-passwd/{name}.master"));
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let (mut passwd, mut group) = (master("passwd")?, master("group")?);
    let mut homes = Layer::new();
    for (name, id, home) in USERS {
        passwd.push_str(&format!("{name}:x:{id}:{id}::{home}:/usr/sbin/nologin\n"));
        group.push_str(&format!("{name}:x:{id}:\n"));
        if home.starts_with("/var/") {
            homes = homes.folder(home, 0o755, u64::from(*id));
        }
    }
    let mut layer = homes
        .file("etc/passwd", passwd, 0o644)
        .file("etc/group", group, 0o644)
        .file("etc/shadow", "root:*:19000:0:99999:7:::\n", 0o640)
        .file("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n", 0o644)
        .folder("tmp", 0o1777, 0)
        .folder("root", 0o700, 0);
    for folder in ["dev", "proc", "run", "sys", "var/cache", "var/lib", "var/log"] {
        layer = layer.folder(folder, 0o755, 0);
    }
    for folder in MERGED {
        layer = layer.folder(&format!("usr/{folder}"), 0o755, 0).symlink(folder, &format!("usr/{folder}"));
    }
    add(layer, root, BASE)
}

/// Adds files and folders of the packages that are unpacked in `root`: a program with the libraries that it needs, a symbolic link with
/// what it names.
///
/// # Errors
/// When one of them, or a library, is in none of the packages.
pub fn add(layer: Layer, root: &Path, paths: &[&str]) -> Result<Layer> {
    let mut layer = layer;
    for path in paths {
        layer = add_one(layer, root, path).with_context(|| format!("cannot add {path} to an image"))?;
    }
    Ok(layer)
}

fn add_one(layer: Layer, root: &Path, path: &str) -> Result<Layer> {
    let here = root.join(path);
    let kind = std::fs::symlink_metadata(&here).with_context(|| format!("cannot find {}", here.display()))?;
    let inside = merged(path);
    if kind.is_symlink() {
        let target = std::fs::read_link(&here).with_context(|| format!("cannot read {}", here.display()))?;
        let named = resolve(Path::new(path), &target);
        return add_one(layer.symlink(&inside, &target.to_string_lossy()), root, &named.to_string_lossy());
    }
    if kind.is_dir() {
        return layer.tree(&here, &inside);
    }
    let mut layer = layer.copy(&here, &inside)?;
    let bytes = std::fs::read(&here).with_context(|| format!("cannot read {}", here.display()))?;
    if bytes.starts_with(b"\x7fELF") {
        for (library, here) in elf::closure(&here, &[root])? {
            layer = layer.copy(&here, &merged(&library))?;
        }
    }
    Ok(layer)
}

/// The command line that runs a program of the packages in `root` on this machine, with their own libraries.
///
/// # Errors
/// When it is in none of the packages, or is no dynamic program.
pub fn client(root: &Path, program: &str) -> Result<Vec<String>> {
    let here = root.join(program);
    let bytes = std::fs::read(&here).with_context(|| format!("cannot read {}", here.display()))?;
    let loader = elf::needs(&bytes)?.interpreter.with_context(|| format!("{program} has no loader"))?;
    let triple = format!("{}-linux-gnu", std::env::consts::ARCH);
    let folder = |name: &str| root.join(name).join(&triple).to_string_lossy().into_owned();
    Ok(vec![
        root.join(loader.trim_start_matches('/')).to_string_lossy().into_owned(),
        "--library-path".to_owned(),
        format!("{}:{}", folder("usr/lib"), folder("lib")),
        here.to_string_lossy().into_owned(),
    ])
}

/// Where a file of a package lies in a system whose `/bin` is `/usr/bin`.
fn merged(path: &str) -> String {
    let first = path.split('/').next().unwrap_or_default();
    if MERGED.contains(&first) { format!("usr/{path}") } else { path.to_owned() }
}

/// What a symbolic link at `path` names, beneath the root.
fn resolve(path: &Path, target: &Path) -> PathBuf {
    let mut result = if target.is_absolute() { PathBuf::new() } else { path.with_file_name("") };
    for part in target.components() {
        match part {
            Component::Normal(name) => result.push(name),
            Component::ParentDir => {
                result.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_symlink_names_its_target_beneath_the_root() {
        let resolve = |path: &str, target: &str| resolve(Path::new(path), Path::new(target));
        assert_eq!(resolve("bin/sh", "dash"), Path::new("bin/dash"));
        assert_eq!(resolve("usr/lib/x/y", "../../bin/z"), Path::new("usr/bin/z"));
        assert_eq!(resolve("usr/bin/x", "/etc/y"), Path::new("etc/y"));
    }

    #[test]
    fn bin_is_usr_bin() {
        assert_eq!(merged("bin/sh"), "usr/bin/sh");
        assert_eq!(merged("usr/bin/env"), "usr/bin/env");
        assert_eq!(merged("binary"), "binary");
    }
}

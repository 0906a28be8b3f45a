//! The folder where everything that took long to make is kept: built Go programs, unpacked Debian packages, nodes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// `$KEEP_CACHE`, else `/var/cache/keep`. Made with every parent open to all users, as containerd's user namespaces need it.
///
/// # Errors
/// When it cannot be made.
pub fn folder() -> Result<PathBuf> {
    let path = std::env::var_os("KEEP_CACHE").map_or_else(|| PathBuf::from("/var/cache/keep"), PathBuf::from);
    open_folder(&path)?;
    Ok(path)
}

/// Makes a folder beneath the cache.
///
/// # Errors
/// When it cannot be made.
pub fn subfolder(name: &str) -> Result<PathBuf> {
    let path = folder()?.join(name);
    open_folder(&path)?;
    Ok(path)
}

/// Makes `path` and its parents, mode 0755.
///
/// # Errors
/// When it cannot be made.
pub fn open_folder(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        open_folder(parent)?;
    }
    fs::create_dir(path)
        .or_else(|error| if path.is_dir() { Ok(()) } else { Err(error) })
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("cannot make the folder {}", path.display()))
}

/// Runs `make` once for this `version` of `name`, and again only when the version changes.
///
/// # Errors
/// Those of `make`, and when the marker cannot be written.
pub fn once(name: &str, version: &str, make: impl FnOnce() -> Result<()>) -> Result<()> {
    let marker = subfolder("done")?.join(name);
    if fs::read_to_string(&marker).is_ok_and(|found| found == version) {
        return Ok(());
    }
    make()?;
    fs::write(&marker, version).with_context(|| format!("cannot write {}", marker.display()))
}

//! A virtual machine for one run of the tests.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tests::command;

/// Longest that a machine may run.
const LIMIT: Duration = Duration::from_secs(900);

/// Boots `kernel` with the root file system `initramfs`; gives what came over the second serial line. The kernel's own messages are
/// left in `folder`, as `console`.
///
/// # Errors
/// When QEMU cannot be started, fails, or does not end within the time; it is then killed.
pub(super) fn run(kernel: &Path, initramfs: &Path, parameters: &str, folder: &Path) -> Result<String> {
    let serial = |name: &str| format!("file:{}", folder.join(name).display());
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-machine", "pc", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2048"]);
    qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    qemu.arg("-kernel").arg(kernel).arg("-initrd").arg(initramfs);
    qemu.arg("-append").arg(format!("console=ttyS0 panic=-1 cryptomgr.notests {parameters}"));
    qemu.arg("-serial").arg(serial("console")).arg("-serial").arg(serial("results"));
    let ended = command::run(&mut qemu, LIMIT).and_then(command::Output::success);
    ended.with_context(|| format!("the machine failed; {} says more", folder.join("console").display()))?;
    let results = folder.join("results");
    // What tests print need not be text.
    let bytes = std::fs::read(&results).with_context(|| format!("cannot read {}", results.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The kernel in the unpacked package `root`.
///
/// # Errors
/// When there is none.
pub(super) fn image(root: &Path) -> Result<PathBuf> {
    let boot = root.join("boot");
    let entries = std::fs::read_dir(&boot).with_context(|| format!("cannot read {}", boot.display()))?;
    let mut paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let is_kernel = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("vmlinuz-"))
    };
    paths.find(is_kernel).with_context(|| format!("no kernel in {}", boot.display()))
}

/// The version that a kernel's file name says.
pub(super) fn version(kernel: &Path) -> String {
    let name = kernel.file_name().unwrap_or_default().to_string_lossy().into_owned();
    name.trim_start_matches("vmlinuz-").to_owned()
}

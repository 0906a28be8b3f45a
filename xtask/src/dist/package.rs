//! What lies where in the tarball and in the Debian package.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use flate2::{Compression, GzBuilder};

use tests::under_test;

use super::PROGRAMS;

/// What is packed.
pub(super) struct Release<'a> {
    pub(super) sources: &'a Path,
    /// Folder of the built programs.
    pub(super) programs: &'a Path,
    pub(super) version: String,
    /// What every file's time is set to, in seconds since 1970.
    pub(super) time: u64,
}

/// One file: its path beneath `/usr`, its mode and content.
struct Packed {
    path: String,
    mode: u32,
    content: Vec<u8>,
}

/// Documents for people, beneath `share/doc/keep`.
const DOCUMENTS: [&str; 6] =
    ["README.md", "ARCHITECTURE.md", "SPECIFICATION.md", "CHANGELOG.md", "SECURITY.md", "LICENSE"];

/// Shells whose completion scripts are packed, and where each looks for them.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "share/bash-completion/completions/keep"),
    ("zsh", "share/zsh/vendor-completions/_keep"),
    ("fish", "share/fish/vendor_completions.d/keep.fish"),
];

impl Release<'_> {
    /// `keep-VERSION-linux-ARCH.tar.gz`: the files beneath one folder, to be copied to `/usr/local`.
    pub(super) fn tarball(&self) -> Result<(String, Vec<u8>)> {
        let name = format!("keep-{}-linux-{}", self.version, architecture()?);
        let compressed = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
        let mut archive = tar::Builder::new(compressed);
        for file in self.files("/usr/local")? {
            let mut header = tar::Header::new_gnu();
            header.set_size(file.content.len() as u64);
            header.set_mode(file.mode);
            header.set_mtime(self.time);
            let path = format!("{name}/{}", file.path);
            archive
                .append_data(&mut header, &path, &*file.content)
                .with_context(|| format!("cannot pack {path}"))?;
        }
        for link in under_test::SHIM_NAMES {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            header.set_mode(0o777);
            header.set_mtime(self.time);
            let path = format!("{name}/bin/{link}");
            archive
                .append_link(&mut header, &path, under_test::SHIM)
                .with_context(|| format!("cannot pack {path}"))?;
        }
        let bytes = archive.into_inner().and_then(|mut gzip| gzip.flush().and_then(|()| gzip.finish()));
        Ok((format!("{name}.tar.gz"), bytes.context("cannot pack the tarball")?))
    }

    /// `keep_VERSION_ARCH.deb`, packed in the empty folder `scratch`.
    pub(super) fn debian(&self, scratch: &Path) -> Result<(String, Vec<u8>)> {
        let root = scratch.join("root");
        let mut size = 0;
        for Packed { path, mode, content } in self.files("/usr")? {
            // Debian has its own name for this.
            let path = path.replace("share/doc/keep/LICENSE", "share/doc/keep/copyright");
            size += content.len() as u64;
            put(&root.join("usr").join(path), mode, &content)?;
        }
        for link in under_test::SHIM_NAMES {
            symlink(under_test::SHIM, root.join("usr/bin").join(link)).context("cannot link the shim")?;
        }
        let folder = root.join("etc/keep/policy.d");
        fs::create_dir_all(&folder).context("cannot make the folder of policies")?;
        for folder in [folder.as_path(), folder.parent().unwrap_or(&folder)] {
            set_mode(folder, 0o700)?;
        }
        let control = self.control(size.div_ceil(1024))?;
        put(&root.join("DEBIAN/control"), 0o644, control.as_bytes())?;
        let name = format!("keep_{}_{}.deb", self.version, architecture()?);
        let package = scratch.join(&name);
        let mut command = Command::new("dpkg-deb");
        command.args(["--root-owner-group", "-Zxz", "--threads-max=1", "--build"]).arg(&root).arg(&package);
        let output = command.env("SOURCE_DATE_EPOCH", self.time.to_string()).output();
        let output = output.context("cannot start dpkg-deb")?;
        ensure!(output.status.success(), "dpkg-deb: {}", String::from_utf8_lossy(&output.stderr));
        Ok((name, fs::read(&package).context("cannot read the package")?))
    }

    fn control(&self, kibibytes: u64) -> Result<String> {
        Ok(format!(
            "Package: keep\nVersion: {}\nArchitecture: {}\nMaintainer: The Keep authors\nInstalled-Size: {kibibytes}\n\
             Section: admin\nPriority: optional\nRecommends: containerd (>= 1.6) | containerd.io\n\
             Homepage: https://github.com/keep-dev/keep\n\
             Description: containerd runtime that confines containers to what their images declare\n \
             A containerd shim that starts each container behind walls (seccomp, Landlock,\n \
             capabilities, a network filter) made from the labels of its image and clamped\n \
             by policies, and the keep command, which explains them and reports what tried\n \
             to cross them.\n",
            self.version,
            architecture()?
        ))
    }

    /// Every file, in the order of its path; `prefix` is where they will lie.
    fn files(&self, prefix: &str) -> Result<Vec<Packed>> {
        let mut files = Vec::new();
        let mut add = |path: String, mode: u32, content: Vec<u8>| files.push(Packed { path, mode, content });
        for program in PROGRAMS {
            add(format!("bin/{program}"), 0o755, read(&self.programs.join(program))?);
        }
        let keep = self.programs.join("keep");
        add("share/man/man1/keep.1.gz".to_owned(), 0o644, gzip(&said_by(&keep, &["man"])?)?);
        let page = read(&self.sources.join("shim/containerd-shim-keep-v2.8"))?;
        add("share/man/man8/containerd-shim-keep-v2.8.gz".to_owned(), 0o644, gzip(&page)?);
        for (shell, path) in COMPLETIONS {
            add(path.to_owned(), 0o644, said_by(&keep, &["completion", shell])?);
        }
        let unit = read(&self.sources.join("runtimeclass/systemd/keep-node.service"))?;
        let unit = String::from_utf8(unit).context("the unit is no text")?;
        let unit = unit.replace("=/usr/bin/", &format!("={prefix}/bin/"));
        add("lib/systemd/system/keep-node.service".to_owned(), 0o644, unit.into_bytes());
        for (folder, to) in
            [("runtimeclass/manifests", "share/keep/manifests"), ("docs", "share/doc/keep/docs")]
        {
            for path in beneath(&self.sources.join(folder))? {
                let name = path.strip_prefix(self.sources.join(folder)).unwrap_or(&path).display();
                add(format!("{to}/{name}"), 0o644, read(&path)?);
            }
        }
        for name in DOCUMENTS {
            add(format!("share/doc/keep/{name}"), 0o644, read(&self.sources.join(name))?);
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(files)
    }
}

/// As Debian and Kubernetes name it.
fn architecture() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => anyhow::bail!("there is no release for {other}"),
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// All files beneath a folder.
fn beneath(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() { files.extend(beneath(&path)?) } else { files.push(path) }
    }
    Ok(files)
}

fn said_by(program: &Path, arguments: &[&str]) -> Result<Vec<u8>> {
    let output = Command::new(program).args(arguments).output();
    let output = output.with_context(|| format!("cannot start {}", program.display()))?;
    ensure!(
        output.status.success(),
        "keep {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output.stdout)
}

fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    gzip.write_all(bytes).and_then(|()| gzip.finish()).context("cannot compress")
}

fn put(path: &Path, mode: u32, content: &[u8]) -> Result<()> {
    if let Some(folder) = path.parent() {
        make_folders(folder)?;
    }
    fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))?;
    set_mode(path, mode)
}

/// With the usual mode, whatever the umask is.
fn make_folders(folder: &Path) -> Result<()> {
    if folder.exists() {
        return Ok(());
    }
    if let Some(parent) = folder.parent() {
        make_folders(parent)?;
    }
    fs::create_dir(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    set_mode(folder, 0o755)
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("cannot set the mode of {}", path.display()))
}

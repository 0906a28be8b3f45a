//! Installs and builds what is missing: Debian packages, files for images, Go programs at fixed versions.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::cache;
use crate::command::{Output, run};

/// What the Rust build and a containerd of Debian's own need, beside what `xtask/bootstrap` installed.
pub const PACKAGES: &[&str] = &[
    "containerd",
    "runc",
    "crun",
    "iproute2",
    "util-linux",
    "curl",
    "gcc",
    "libc6-dev",
    "pkg-config",
    "libseccomp-dev",
    "libelf-dev",
    "zlib1g-dev",
    "make",
    "procps",
    "strace",
];
/// What a Kubernetes node needs beside it.
pub const KUBERNETES_PACKAGES: &[&str] =
    &["etcd-server", "containernetworking-plugins", "iptables", "openssl", "conntrack"];
/// What boots other kernels, and unpacks their modules.
pub const MACHINE_PACKAGES: &[&str] = &["qemu-system-x86", "xz-utils"];
/// Packages whose files go into images; they are unpacked, never installed.
const IMAGE_PACKAGES: &[&str] = &[
    "busybox",
    "dash",
    "libc6",
    "libcrypt1",
    "libpcre2-8-0",
    "libperl5.36",
    "libnginx-mod-http-perl",
    "libssl3",
    "nginx",
    "perl-base",
    "zlib1g",
];
const CONTAINERD: &str = "v2.3.4";
const RUNC: &str = "v1.5.1";
const CRICTL: &str = "v1.36.0";
const KUBERNETES: &str = "v1.36.2";
/// Oldest Go that can fetch the toolchain which the go.mod files name.
const OLDEST_GO: (u32, u32) = (1, 21);

/// Says one line of progress, with the seconds since the first one.
pub fn say(text: &str) {
    static BEGIN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    eprintln!("[{:>4} s] {text}", BEGIN.get_or_init(Instant::now).elapsed().as_secs());
}

/// Runs `work`, and says every 30 s that it goes on.
///
/// # Errors
/// Those of `work`.
pub fn patiently<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    say(what);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut said = Instant::now();
            while !done.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(50));
                if said.elapsed() > Duration::from_secs(30) {
                    said = Instant::now();
                    say(&format!("  … {what}"));
                }
            }
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        result
    })
}

fn alone() -> Result<impl Drop> {
    let path = cache::folder()?.join("lock");
    let file = std::fs::File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusive)
        .map_err(|(_, error)| anyhow::Error::new(error).context("cannot lock the cache"))
}

fn is_installed(package: &str) -> bool {
    let mut query = Command::new("dpkg-query");
    query.args(["-W", "-f=${Status}", package]);
    run(&mut query, Duration::from_secs(30)).is_ok_and(|found| found.stdout.starts_with("install ok"))
}

fn apt(arguments: &[&str], folder: &Path) -> Result<Output> {
    let mut command = Command::new("apt-get");
    command.arg("-qq").args(arguments).current_dir(folder).env("DEBIAN_FRONTEND", "noninteractive");
    run(&mut command, Duration::from_secs(900))?.success()
}

fn update() -> Result<()> {
    static DONE: AtomicBool = AtomicBool::new(false);
    if !DONE.swap(true, Ordering::Relaxed) {
        apt(&["update"], Path::new("/")).context("apt-get update failed: is a Debian mirror reachable?")?;
    }
    Ok(())
}

/// Installs those of `packages` that are missing, without starting their services.
///
/// # Errors
/// When not root, or apt cannot.
pub fn debian(packages: &[&str]) -> Result<()> {
    let missing: Vec<&str> = packages.iter().copied().filter(|package| !is_installed(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !nix::unistd::geteuid().is_root() {
        bail!("these Debian packages are missing, and only root can install them: {}", missing.join(" "));
    }
    let _lock = alone()?;
    patiently(&format!("installing Debian packages: {}", missing.join(" ")), || {
        update()?;
        let quiet = NoServices::new()?;
        let mut arguments = vec!["-y", "install", "--no-install-recommends"];
        arguments.extend(&missing);
        let result = apt(&arguments, Path::new("/"));
        drop(quiet);
        result.map(drop)
    })
}

/// While it lives, packages that are installed do not start their services.
struct NoServices(Option<PathBuf>);

impl NoServices {
    fn new() -> Result<Self> {
        use std::os::unix::fs::PermissionsExt as _;
        let path = PathBuf::from("/usr/sbin/policy-rc.d");
        if path.exists() {
            return Ok(Self(None));
        }
        std::fs::write(&path, "#!/bin/sh\nexit 101\n")
            .and_then(|()| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)))
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self(Some(path)))
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if let Some(path) = &self.0
            && let Err(error) = std::fs::remove_file(path)
        {
            eprintln!("cannot remove {}: {error}", path.display());
        }
    }
}

/// The folder into which the packages for images are unpacked.
///
/// # Errors
/// As [`debian_files`].
pub fn image_files() -> Result<PathBuf> {
    debian_files("debs", IMAGE_PACKAGES)
}

/// Fetches Debian's packages and unpacks them into one folder, once for each list of packages; gives the folder.
///
/// # Errors
/// When apt cannot fetch them or dpkg cannot unpack them.
pub fn debian_files(name: &str, packages: &[&str]) -> Result<PathBuf> {
    let folder = cache::subfolder(name)?;
    let root = folder.join("root");
    let _lock = alone()?;
    cache::once(name, &packages.join(" "), || {
        patiently("fetching Debian packages for images", || {
            update()?;
            unpack(&folder, packages, &root)
        })
    })?;
    Ok(root)
}

/// Fetches the kernel that one of Debian's packages stands for (`linux-image-cloud-amd64`), once, and gives the folder into which it
/// is unpacked.
///
/// # Errors
/// As [`debian_files`], and when the package stands for no kernel.
pub fn kernel(package: &str) -> Result<PathBuf> {
    let folder = cache::subfolder(package)?;
    let root = folder.join("root");
    let _lock = alone()?;
    cache::once(package, "", || {
        patiently(&format!("fetching {package}"), || {
            update()?;
            let mut query = Command::new("apt-cache");
            let found = run(query.args(["depends", package]), Duration::from_secs(60))?.success()?;
            let mut names = found.stdout.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
            let named = names.find(|name| name.starts_with("linux-image-"));
            unpack(&folder, &[named.with_context(|| format!("{package} stands for no kernel"))?], &root)
        })
    })?;
    Ok(root)
}

/// Fetches packages into `folder`, unpacks them into `root`, and removes them.
fn unpack(folder: &Path, packages: &[&str], root: &Path) -> Result<()> {
    // With nothing installed, apt takes the distribution's own packages, whatever else this machine has.
    let nothing = folder.join("nothing-installed");
    std::fs::write(&nothing, "").with_context(|| format!("cannot write {}", nothing.display()))?;
    let state = format!("Dir::State::status={}", nothing.display());
    let mut arguments = vec!["download", "-o", &state];
    arguments.extend(packages);
    apt(&arguments, folder)?;
    for entry in std::fs::read_dir(folder).context("cannot read the folder of packages")? {
        let path = entry.context("cannot read the folder of packages")?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            let mut dpkg = Command::new("dpkg");
            dpkg.arg("-x").arg(&path).arg(root);
            run(&mut dpkg, Duration::from_secs(120))?.success()?;
            std::fs::remove_file(&path).context("cannot remove an unpacked package")?;
        }
    }
    Ok(())
}

/// Where the Go programs lie that were built.
///
/// # Errors
/// When the cache cannot be made.
pub fn binaries() -> Result<PathBuf> {
    cache::subfolder("bin")
}

/// Go itself, or what to do where it is missing or too old.
///
/// # Errors
/// When there is none that can build what is needed.
pub fn go() -> Result<PathBuf> {
    let found = [PathBuf::from("go"), PathBuf::from("/usr/local/go/bin/go")].into_iter().find_map(|path| {
        let version = run(Command::new(&path).arg("version"), Duration::from_secs(30)).ok()?;
        Some((path, version.stdout))
    });
    let (path, version) = found.context(
        "Go is missing: containerd 2.3 and Kubernetes are built from their Go modules. Install Go 1.26 \
         (Debian 12's golang package, 1.19, is too old) and put it into PATH",
    )?;
    let number = version.split("go version go").nth(1).unwrap_or("");
    let mut parts = number.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    let found = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if found < OLDEST_GO {
        bail!("{} is too old: Go 1.26 is needed (1.21 or newer can fetch it by itself)", version.trim());
    }
    Ok(path)
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

/// Programs of Go packages.
const PROGRAMS: &[&str] = &["build"];
/// A program of the tests of one Go package.
const TESTS: &[&str] = &["test", "-c"];

struct GoBuild<'a> {
    /// What go is to do: build programs, or tests as a program.
    what: &'a [&'a str],
    folder: &'a str,
    cgo: bool,
    tags: &'a str,
    link: &'a str,
    packages: &'a [&'a str],
}

impl GoBuild<'_> {
    fn run(&self) -> Result<()> {
        let out = binaries()?;
        let out = match self.what {
            PROGRAMS => format!("{}/", out.display()),
            // go names it after the package, with an ending.
            _ => out
                .join(self.packages.first().and_then(|name| name.rsplit('/').next()).unwrap_or_default())
                .display()
                .to_string(),
        };
        let mut command = Command::new(go()?);
        command.current_dir(sources().join(self.folder));
        command
            .env("CGO_ENABLED", if self.cgo { "1" } else { "0" })
            .env("GOFLAGS", "-trimpath -mod=readonly");
        command.args(self.what).args([
            "-buildvcs=false",
            "-tags",
            self.tags,
            "-ldflags",
            self.link,
            "-o",
            &out,
        ]);
        run(command.args(self.packages), Duration::from_secs(2400))?.success()?;
        Ok(())
    }
}

/// Builds containerd 2.3, ctr, its runc shim and runc, once.
///
/// # Errors
/// When Go is missing or a build fails.
pub fn containerd() -> Result<()> {
    let _lock = alone()?;
    cache::once("containerd", &format!("{CONTAINERD} {RUNC}"), || {
        go()?;
        patiently("building containerd 2.3 and runc (2 minutes from nothing)", || {
            let containerd = "github.com/containerd/containerd/v2/cmd";
            let packages =
                ["containerd", "containerd-shim-runc-v2", "ctr"].map(|name| format!("{containerd}/{name}"));
            let packages: Vec<&str> = packages.iter().map(String::as_str).collect();
            let build = GoBuild {
                what: PROGRAMS,
                folder: "modules/containerd",
                cgo: false,
                tags: "",
                link: "-s -w",
                packages: &packages,
            };
            build.run()?;
            let tags = "seccomp urfave_cli_no_docs";
            let packages = ["github.com/opencontainers/runc"];
            GoBuild {
                what: PROGRAMS,
                folder: "modules/runc",
                cgo: true,
                tags,
                link: "-s -w",
                packages: &packages,
            }
            .run()
        })
    })
}

/// Builds Kubernetes and crictl, once.
///
/// # Errors
/// When Go is missing or a build fails.
pub fn kubernetes() -> Result<()> {
    let _lock = alone()?;
    cache::once("crictl", CRICTL, || patiently("building crictl", || cri_tools(PROGRAMS, "crictl")))?;
    cache::once("kubernetes", KUBERNETES, || {
        patiently("building Kubernetes (5 minutes from nothing)", || {
            let link = format!(
                "-s -w -X k8s.io/component-base/version.gitVersion={KUBERNETES} \
                 -X k8s.io/client-go/pkg/version.gitVersion={KUBERNETES}"
            );
            let names = ["kube-apiserver", "kubelet", "kube-scheduler", "kube-controller-manager", "kubectl"];
            let packages = names.map(|name| format!("k8s.io/kubernetes/cmd/{name}"));
            let packages: Vec<&str> = packages.iter().map(String::as_str).collect();
            GoBuild {
                what: PROGRAMS,
                folder: "modules/kubernetes",
                cgo: false,
                tags: "",
                link: &link,
                packages: &packages,
            }
            .run()
        })
    })
}

/// Builds a program, or a program of tests, of cri-tools.
fn cri_tools(what: &[&str], name: &str) -> Result<()> {
    let package = format!("sigs.k8s.io/cri-tools/cmd/{name}");
    let (folder, link) = ("modules/cri-tools", "-s -w");
    GoBuild { what, folder, cgo: false, tags: "", link, packages: &[&package] }.run()
}

/// Builds critest, the conformance tests of the Kubernetes runtime interface, once.
///
/// # Errors
/// When Go is missing or the build fails.
pub fn critest() -> Result<()> {
    let _lock = alone()?;
    cache::once("critest", CRICTL, || {
        patiently("building critest (1 minute from nothing)", || cri_tools(TESTS, "critest"))
    })
}

/// Builds a static Go program that needs no other module; `folder` is beneath that of this crate, `name` the last part
/// of its module's path.
///
/// # Errors
/// When Go is missing or the build fails.
pub fn go_program(folder: &str, name: &str) -> Result<PathBuf> {
    let _lock = alone()?;
    GoBuild { what: PROGRAMS, folder, cgo: false, tags: "", link: "-s -w", packages: &["."] }.run()?;
    Ok(binaries()?.join(name))
}

/// Builds a static program of one Rust file.
///
/// # Errors
/// When rustc is missing or the build fails.
pub fn rust_program(source: &Path, name: &str) -> Result<PathBuf> {
    let to = binaries()?.join(name);
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.args(["--edition=2024", "-O", "-C", "target-feature=+crt-static", "-C", "strip=symbols", "-o"]);
    run(rustc.arg(&to).arg(source), Duration::from_secs(300))?.success()?;
    Ok(to)
}

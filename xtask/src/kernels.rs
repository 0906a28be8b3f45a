//! `cargo xtask kernels`: the sandbox's tests on kernels that this machine does not run, in virtual machines.

mod containers;
mod machine;
mod results;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use results::Results;
use tests::image::Layer;
use tests::provision::{self, say};
use tests::task::STEPS;
use tests::{debian, suite, under_test};

use crate::build;

/// Which of them.
#[derive(Debug, Args)]
pub(crate) struct Kernels {
    /// Only tests whose name contains this
    filter: Option<String>,
    /// Only machines whose name in the summary has this word: 6.1, 6.12, disabled, or with --containers systemd
    #[arg(long)]
    only: Option<String>,
    /// The attack suite and what the task API says of memory too, in containers of containerd 2.3 (some minutes more for each kernel; `cargo xtask build` first)
    #[arg(long)]
    containers: bool,
}

/// A machine: a kernel and how it is booted.
struct Boot {
    name: &'static str,
    /// Debian's package that stands for the kernel.
    package: &'static str,
    /// Its command line.
    parameters: &'static str,
    /// What the tests must find there: were it less, tests would be left out that should run.
    kernel: &'static str,
    /// Which containers are started there.
    containers: Containers,
}

/// What is tried in containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Containers {
    /// Nothing.
    None,
    /// The attack suite, of which these probes get through there.
    Attack { open: &'static [&'static str] },
    /// The same in cgroups that systemd makes, and nothing else but what tells of the kernel.
    UnderSystemd,
}

const LTS_6_1: &str = "linux-image-cloud-amd64";
const LTS_6_12: &str = "linux-image-6.12-cloud-amd64";

const BOOTS: &[Boot] = &[
    Boot {
        name: "Linux 6.1",
        package: LTS_6_1,
        parameters: "KEEP_CGROUP=v2",
        kernel: "Landlock ABI 2, seccomp listener, calls that wait killable, cgroup-BPF",
        // No Landlock scope yet.
        containers: Containers::Attack { open: &["abstract", "abstract-datagram"] },
    },
    Boot {
        name: "Linux 6.12",
        package: LTS_6_12,
        parameters: "KEEP_CGROUP=v2",
        kernel: "Landlock ABI 6, seccomp listener, calls that wait killable, cgroup-BPF",
        containers: Containers::Attack { open: &[] },
    },
    Boot {
        name: "Linux 6.12 with systemd",
        package: LTS_6_12,
        parameters: "KEEP_CGROUP=v2 KEEP_PROGRAMS=walls KEEP_TESTS=rests",
        kernel: "Landlock ABI 6, seccomp listener, calls that wait killable, cgroup-BPF",
        containers: Containers::UnderSystemd,
    },
    Boot {
        name: "Linux 6.1 with Landlock disabled",
        package: LTS_6_1,
        parameters: "KEEP_CGROUP=v2 KEEP_PROGRAMS=walls lsm=lockdown,yama,apparmor,bpf",
        kernel: "no Landlock, seccomp listener, calls that wait killable, cgroup-BPF",
        containers: Containers::None,
    },
    Boot {
        name: "Linux 6.12 with Landlock disabled, no cgroup v2",
        package: LTS_6_12,
        parameters: "KEEP_CGROUP=none KEEP_PROGRAMS=walls lsm=lockdown,yama,apparmor,bpf",
        kernel: "no Landlock, seccomp listener, calls that wait killable, no cgroup-BPF",
        containers: Containers::None,
    },
];

/// What the tests run, beside the shell and its tools: perl with its modules, and Python's server.
const PROGRAMS: &[&str] = &[
    "bin/busybox",
    "bin/true",
    "bin/rmdir",
    "bin/ln",
    "usr/bin/basename",
    "usr/bin/perl",
    "usr/lib/x86_64-linux-gnu/perl-base",
    "usr/lib/x86_64-linux-gnu/perl",
    "usr/bin/python3",
    "usr/lib/python3.11",
    "usr/bin/crun",
    "usr/bin/dbus-daemon",
    "bin/systemctl",
    "lib/systemd/systemd",
];
const PACKAGES: &[&str] = &[
    "busybox-static",
    "crun",
    "dbus-daemon",
    "libapparmor1",
    "libargon2-1",
    "libaudit1",
    "libblkid1",
    "libcap-ng0",
    "libcap2",
    "libcryptsetup12",
    "libdbus-1-3",
    "libdevmapper1.02.1",
    "libexpat1",
    "libfdisk1",
    "libffi8",
    "libgcrypt20",
    "libgpg-error0",
    "libip4tc2",
    "libjson-c5",
    "libkmod2",
    "liblz4-1",
    "libmount1",
    "libp11-kit0",
    "libpam0g",
    "libperl5.36",
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
    "libseccomp2",
    "libsystemd-shared",
    "libudev1",
    "libuuid1",
    "libyajl2",
    "perl-base",
    "python3-minimal",
    "python3.11-minimal",
    "systemd",
];

/// Boots each, and says what came of the tests there.
///
/// # Errors
/// When something cannot be had, a machine does not come to its end, or a test fails.
pub(crate) fn run(kernels: &Kernels) -> Result<()> {
    ensure!(
        std::env::consts::ARCH == "x86_64",
        "the kernels are Debian's for x86_64: no other machine boots them"
    );
    provision::debian(provision::PACKAGES)?;
    provision::debian(provision::MACHINE_PACKAGES)?;
    let folder = tempfile::tempdir().context("cannot make a folder")?;
    let initramfs = folder.path().join("initramfs");
    let mut root = root(&tests_of_sandbox()?)?;
    if kernels.containers {
        root = containers::add(root, &[LTS_6_1, LTS_6_12])?;
    }
    std::fs::write(&initramfs, root.initramfs()?).context("cannot write the root file system")?;
    let (mut summary, mut good, mut any) = (Vec::new(), true, false);
    for boot in BOOTS {
        let has = |word: &String| boot.name.split([' ', ',']).any(|of_name| of_name == word);
        let skipped = boot.containers == Containers::UnderSystemd && !kernels.containers;
        if skipped || kernels.only.as_ref().is_some_and(|word| !has(word)) {
            continue;
        }
        any = true;
        say(&format!("booting {}", boot.name));
        match one(boot, kernels, &initramfs) {
            Ok((results, lines)) => {
                good &= results.failed.is_empty();
                summary.extend(lines);
            }
            Err(error) => {
                good = false;
                summary.push(format!("{}: {error:#}", boot.name));
            }
        }
    }
    ensure!(any, "there is no such machine{}", if kernels.containers { "" } else { " without --containers" });
    println!();
    summary.iter().for_each(|line| println!("{line}"));
    ensure!(good, "tests failed");
    Ok(())
}

/// Measures the steps of a task's life under Keep and under crun on pure cgroup v2, `runs` times each, in a virtual machine; prints
/// medians and the ratio of the whole.
///
/// # Errors
/// When something cannot be had, or a container does not run.
pub(crate) fn bench(runs: usize) -> Result<()> {
    build::run()?;
    provision::debian(provision::MACHINE_PACKAGES)?;
    let folder = tempfile::tempdir().context("cannot make a folder")?;
    let initramfs = folder.path().join("initramfs");
    let root = containers::add(root(&[])?, &[LTS_6_12])?;
    std::fs::write(&initramfs, root.initramfs()?).context("cannot write the root file system")?;
    say("booting Linux 6.12");
    let kernel = machine::image(&provision::kernel(LTS_6_12)?)?;
    let parameters = format!("KEEP_CGROUP=v2 KEEP_CONTAINERS=bench KEEP_RUNS={runs}");
    let text = machine::run(&kernel, &initramfs, &parameters, folder.path())?;
    let unmeasured = || {
        let console = std::fs::read(folder.path().join("console")).unwrap_or_default();
        format!("{}\n{text}\nthe machine measured nothing", String::from_utf8_lossy(&console))
    };
    let lives = told(&text, "lives", "keep").zip(told(&text, "lives", "crun"));
    let execs = told(&text, "execs", "keep").zip(told(&text, "execs", "crun"));
    let (keep, crun) = lives.with_context(unmeasured)?;
    println!(
        "the steps of a task by containerd's API on cgroup v2, {runs} runs each, interleaved, in a virtual machine; medians:"
    );
    crate::bench::steps::print("keep", keep);
    crate::bench::steps::print("shim-runc-v2 + crun", crun);
    let whole = |steps: [Duration; STEPS.len()]| steps.iter().sum::<Duration>().as_secs_f64();
    println!("  created to deleted, keep / crun = {:.2} (aim: at most 1.00)", whole(keep) / whole(crun));
    let ([keep], [crun]) = execs.with_context(unmeasured)?;
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    println!(
        "an exec of /bin/true, the same: keep {:.0} ms, crun {:.0} ms, keep / crun = {:.2}",
        milliseconds(keep),
        milliseconds(crun),
        milliseconds(keep) / milliseconds(crun)
    );
    Ok(())
}

/// The times of `who`, in the line that tells `what`.
fn told<const N: usize>(text: &str, what: &str, who: &str) -> Option<[Duration; N]> {
    let prefix = format!("{what} {who} ");
    let line = text.lines().find_map(|line| line.trim_end().strip_prefix(prefix.as_str()))?;
    let times: Option<Vec<Duration>> =
        line.split(' ').map(|word| word.parse().ok().map(Duration::from_micros)).collect();
    times?.try_into().ok()
}

/// Boots one, and gives its lines of the summary.
fn one(boot: &Boot, kernels: &Kernels, initramfs: &Path) -> Result<(Results, Vec<String>)> {
    let begin = Instant::now();
    let kernel = machine::image(&provision::kernel(boot.package)?)?;
    let mut parameters = match &kernels.filter {
        Some(filter) => {
            ensure!(!filter.contains(char::is_whitespace), "a test's name has no white space");
            format!("{} KEEP_TESTS={filter}", boot.parameters)
        }
        None => boot.parameters.to_owned(),
    };
    let containers = if kernels.containers { boot.containers } else { Containers::None };
    parameters.push_str(match containers {
        Containers::None => "",
        Containers::Attack { .. } => " KEEP_CONTAINERS=yes",
        Containers::UnderSystemd => " KEEP_CONTAINERS=systemd",
    });
    let folder = tempfile::tempdir().context("cannot make a folder")?;
    let text = machine::run(&kernel, initramfs, &parameters, folder.path());
    let console = std::fs::read(folder.path().join("console")).unwrap_or_default();
    let console = || String::from_utf8_lossy(&console).into_owned();
    let mut text = text.inspect_err(|_| print!("{}", console()))?;
    match containers {
        Containers::None => {}
        Containers::Attack { open } => text.insert_str(0, &containers::judged(&text, open)?),
        Containers::UnderSystemd => {
            text.insert_str(0, &containers::judged(&text, &[])?);
            text.insert_str(0, &containers::judged_of_systemd(&text));
        }
    }
    let results = Results::read(&text).inspect_err(|_| print!("{}\n{text}", console()))?;
    if !results.failed.is_empty() {
        print!("{}\n{text}", console());
    }
    ensure!(
        results.kernel == boot.kernel,
        "the machine was to have {}, and the tests found {}",
        boot.kernel,
        results.kernel
    );
    let mut lines = vec![format!(
        "{} ({}; {}): {} passed, {} failed, {} could not run; {} s",
        boot.name,
        machine::version(&kernel),
        results.kernel,
        results.passed,
        results.failed.len(),
        results.left_out.len(),
        begin.elapsed().as_secs()
    )];
    lines.extend(results.failed.iter().map(|name| format!("  FAILED: {name}")));
    let left_out: Vec<String> = results.left_out.iter().map(|(name, why)| suite::line(name, why)).collect();
    lines.extend(suite::summary(&left_out).into_iter().map(|line| format!("  {line}")));
    Ok((results, lines))
}

/// Builds the sandbox's tests, static as the shim is, and gives their programs.
fn tests_of_sandbox() -> Result<Vec<PathBuf>> {
    say("building the sandbox's tests (some minutes from nothing)");
    let mut cargo = build::cargo();
    cargo
        .env("RUSTFLAGS", format!("{} -C strip=debuginfo", build::FLAGS))
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    cargo.args([
        "test",
        "--no-run",
        "--quiet",
        "--locked",
        "--package",
        "sandbox",
        "--lib",
        "--test",
        "walls",
    ]);
    cargo.args(["--target", &under_test::triple(), "--message-format", "json"]);
    let output =
        cargo.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("cannot start cargo")?;
    ensure!(output.status.success(), "the sandbox's tests do not build");
    let messages = String::from_utf8(output.stdout).context("cargo printed no text")?;
    let mut programs = Vec::new();
    for line in messages.lines() {
        let message: serde_json::Value = serde_json::from_str(line).context("cargo printed no JSON")?;
        let of_tests = message["profile"]["test"].as_bool().unwrap_or_default();
        programs.extend(message["executable"].as_str().filter(|_| of_tests).map(PathBuf::from));
    }
    ensure!(
        programs.len() == 2,
        "cargo built {} programs of tests, not the library's and walls",
        programs.len()
    );
    Ok(programs)
}

/// The machines' root file system.
fn root(programs: &[PathBuf]) -> Result<Layer> {
    let packages: Vec<&str> = debian::PACKAGES.iter().chain(PACKAGES).copied().collect();
    let unpacked = provision::debian_files("kernels", &packages)?;
    let mut layer = debian::add(debian::base(&unpacked)?, &unpacked, PROGRAMS)?
        .file("init", include_str!("kernels/init.sh"), 0o755)
        .folder("tests", 0o755, 0);
    for program in programs {
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        layer = layer.copy(program, &format!("tests/{name}"))?;
    }
    Ok(layer)
}

//! `keep doctor`: what this node can enforce, wall by wall.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use nix::sys::utsname::uname;
use nix::unistd::geteuid;
use profiles::plan::{Gap, HostFacts, Wall};
use profiles::policy::{Mode, Policies, Subject};
use sandbox::policy_folder;
use serde::Serialize;

use super::{Format, Outcome, policy_args};
use crate::words::printable;

/// What each of them is, in the order of the report. The last is no wall of the kernel: it stands for the records.
const WALLS: [(Wall, &str); 6] = [
    (Wall::Exec, "only declared programs run"),
    (Wall::File, "only declared folders are written"),
    (Wall::Network, "only declared ports and addresses are used"),
    (Wall::Syscall, "only the system calls of the declaration are answered"),
    (Wall::Capability, "only declared capabilities are left"),
    (Wall::Policy, "what is refused is recorded"),
];

/// What this node can enforce, wall by wall, and which classes run here.
///
/// Tries what the runtime itself would try: loads a program for sockets and forgets it, asks for Landlock's version.
/// Changes nothing.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  keep doctor
  keep doctor --format json | jq -r '.walls[] | select(.gaps != []) | .wall'

Exit codes:
  0  every wall stands here without a gap, and the policies are fine
  1  a wall has a gap, or the policies are not understood
  2  bad usage, or not started as root")]
pub(crate) struct Doctor {
    /// Where the node's policies are.
    #[arg(long, value_name = "DIR", default_value = policy_args::FOLDER)]
    policy_dir: PathBuf,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// The report.
#[derive(Debug, Serialize)]
struct Report {
    kernel: String,
    host: HostFacts,
    walls: Vec<WallReport>,
    policies: PoliciesReport,
    classes: Vec<ClassReport>,
}

#[derive(Debug, Serialize)]
struct WallReport {
    wall: Wall,
    means: &'static str,
    gaps: Vec<String>,
}

#[derive(Debug, Serialize)]
struct PoliciesReport {
    folder: PathBuf,
    count: usize,
    problem: Option<String>,
}

/// A class, and the walls that it requires and this node cannot give to every declaration.
#[derive(Debug, Serialize)]
struct ClassReport {
    class: String,
    mode: Mode,
    lacks: Vec<Wall>,
}

/// Runs the command.
///
/// # Errors
/// When it is not the superuser who asks, or standard output is closed.
pub(crate) fn run(args: &Doctor) -> anyhow::Result<Outcome> {
    anyhow::ensure!(
        geteuid().is_root(),
        "only root can try what the runtime does; run it with sudo, or in a privileged pod of the node"
    );
    let report = Report::new(sandbox::facts::probe(), &args.policy_dir)?;
    let mut out = io::stdout().lock();
    match args.format {
        Format::Text => report.print(&mut out)?,
        Format::Json => super::print_json(&mut out, &report)?,
    }
    out.flush()?;
    Ok(if report.is_fine() { Outcome::Fine } else { Outcome::Refused })
}

impl Report {
    fn new(host: HostFacts, folder: &Path) -> anyhow::Result<Self> {
        let mut gaps: BTreeMap<Wall, Vec<String>> = BTreeMap::new();
        for Gap { wall, sentence } in profiles::plan::gaps(&host) {
            gaps.entry(wall).or_default().push(sentence);
        }
        let (known, problem) = match read(folder) {
            Ok(policies) => (policies, None),
            Err(error) => (Policies::default(), Some(format!("{error:#}"))),
        };
        let class = |class: String| {
            let policy = known.select(&Subject::of_class(&class))?;
            let lacks = policy.require.into_iter().filter(|wall| gaps.contains_key(wall)).collect();
            Ok(ClassReport { class, mode: policy.mode, lacks })
        };
        let classes = known.class_names().into_iter().map(class).collect::<anyhow::Result<_>>()?;
        let walls = WALLS.map(|(wall, means)| WallReport {
            wall,
            means,
            gaps: gaps.get(&wall).cloned().unwrap_or_default(),
        });
        let kernel = uname()?;
        let [system, release, machine] =
            [kernel.sysname(), kernel.release(), kernel.machine()].map(|name| name.to_string_lossy());
        Ok(Self {
            kernel: format!("{system} {release} {machine}"),
            host,
            walls: walls.into(),
            policies: PoliciesReport { folder: folder.to_owned(), count: known.names().count(), problem },
            classes,
        })
    }

    fn is_fine(&self) -> bool {
        self.policies.problem.is_none() && self.walls.iter().all(|wall| wall.gaps.is_empty())
    }

    fn print(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "{:12}{}", "kernel", printable(&self.kernel))?;
        writeln!(out, "{:12}{}", "made of", self.parts())?;
        for WallReport { wall, means, gaps } in &self.walls {
            let name = if *wall == Wall::Policy { "records".to_owned() } else { wall.to_string() };
            if gaps.is_empty() {
                writeln!(out, "{name:12}whole: {means}")?;
            }
            for (index, gap) in gaps.iter().enumerate() {
                let name = if index == 0 { name.as_str() } else { "" };
                writeln!(out, "{name:12}gap: {gap}")?;
            }
        }
        for ClassReport { class, mode, lacks } in &self.classes {
            let lacks: Vec<String> = lacks.iter().map(Wall::to_string).collect();
            let means = match mode {
                Mode::Audit => "records, and enforces nothing".to_owned(),
                Mode::Enforce if lacks.is_empty() => "runs what images declare".to_owned(),
                Mode::Enforce => {
                    format!("refuses what meets a gap above: it requires the walls {}", lacks.join(", "))
                }
            };
            writeln!(out, "{:12}{}: {means}", "class", printable(class))?;
        }
        let PoliciesReport { folder, count, problem } = &self.policies;
        let folder = printable(&folder.display().to_string());
        match problem {
            Some(problem) => writeln!(
                out,
                "{:12}{}; the last that were understood stay in force, and without any no container starts",
                "policies",
                printable(problem)
            ),
            None => writeln!(out, "{:12}{count} in {folder}", "policies"),
        }
    }

    fn parts(&self) -> String {
        let HostFacts { landlock_abi, listener, cgroup_bpf, .. } = self.host;
        let part = |there, name: &str| if there { name.to_owned() } else { format!("no {name}") };
        [
            if landlock_abi == 0 { "no Landlock".to_owned() } else { format!("Landlock ABI {landlock_abi}") },
            part(listener, "seccomp listener"),
            part(cgroup_bpf, "cgroup-BPF on cgroup v2"),
        ]
        .join(", ")
    }
}

/// The node's policies as the runtime reads them; none where there is no folder.
fn read(folder: &Path) -> anyhow::Result<Policies> {
    if !folder.try_exists()? {
        return Ok(Policies::default());
    }
    if let Some(problem) = policy_folder::changeable(folder, &policy_folder::files(folder)?)? {
        return Err(problem.into());
    }
    policy_args::read(&[folder.to_owned()])
}

#[cfg(test)]
mod tests {
    use profiles::plan::Arch;

    use super::*;

    fn report(host: HostFacts, folder: &Path) -> (Report, String) {
        let report = Report::new(host, folder).unwrap();
        let mut text = Vec::new();
        report.print(&mut text).unwrap();
        (report, String::from_utf8(text).unwrap())
    }

    const NEW: HostFacts = HostFacts {
        arch: Arch::X86_64,
        landlock_abi: 7,
        listener: true,
        wait_killable: true,
        cgroup_bpf: true,
    };

    #[test]
    fn a_kernel_that_has_everything_has_no_gaps() {
        let (report, text) = report(NEW, Path::new("/nonexistent"));
        assert!(report.is_fine(), "{text}");
        assert!(
            text.contains("made of     Landlock ABI 7, seccomp listener, cgroup-BPF on cgroup v2\n"),
            "{text}"
        );
        assert!(text.contains("network     whole: only declared ports"), "{text}");
        assert!(text.contains("class       keep-strict: runs what images declare\n"), "{text}");
        assert!(text.ends_with("policies    0 in /nonexistent\n"), "{text}");
    }

    #[test]
    fn gaps_are_told_with_the_classes_that_then_refuse() {
        let (report, text) = report(HostFacts { cgroup_bpf: false, ..NEW }, Path::new("/nonexistent"));
        assert!(!report.is_fine());
        assert!(
            text.contains("network     gap: no cgroup-BPF programs can be loaded here, so UDP ports"),
            "{text}"
        );
        assert!(text.contains("class       keep: runs what images declare\n"), "{text}");
        assert!(text.contains(
            "class       keep-strict: refuses what meets a gap above: it requires the walls network\n"
        ));
        let (_, text) = self::report(HostFacts { landlock_abi: 0, ..NEW }, Path::new("/nonexistent"));
        assert!(text.contains("exec        gap: this kernel has no Landlock"), "{text}");
        assert!(text.contains(
            "class       keep: refuses what meets a gap above: it requires the walls exec, file\n"
        ));
    }

    #[test]
    fn policies_that_are_not_understood_are_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.yaml"), "spec: 1\n").unwrap();
        let (report, text) = report(NEW, folder.path());
        assert!(!report.is_fine() && text.contains("a.yaml:1:"), "{text}");
    }
}

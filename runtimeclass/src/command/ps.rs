//! `keep ps`: the containers under Keep on this node, and what stands around each.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use profiles::plan::{Gap, Wall};
use profiles::policy::Mode;
use profiles::profile::Origin;
use profiles::record;
use serde::{Deserialize, Serialize};

use super::{Format, Outcome};
use crate::words::printable;

/// Characters of a container's id and of a digest that tell them apart.
const SHORT: usize = 12;

/// Containers under Keep on this node: class, profile, and the walls that are missing around each.
///
/// Reads what the pods' shims noted when they created them.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  keep ps
  keep ps --format json | jq -r '.[] | select(.missing != []) | .id'

Columns:
  WALLS    enforced; audited: recorded, not refused; undeclared: containerd's default filter, or none under keep-permissive
  PROFILE  the digest's beginning; `keep explain` of the same image and policies prints the whole
  MISSING  walls that have a gap on this node; `keep doctor` says what is missing

Exit codes:
  0  done, whether or not there were any
  2  bad usage, not started as root, or what a shim noted cannot be read")]
pub(crate) struct Ps {
    /// Where Keep stores the state of running containers.
    #[arg(long, value_name = "DIR", default_value = "/run/keep")]
    state_dir: PathBuf,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// One container.
#[derive(Debug, Serialize)]
struct Row {
    /// containerd namespace.
    namespace: String,
    id: String,
    name: String,
    pod: Option<record::Pod>,
    /// Of its first process, as this process's namespace counts; none once it ended.
    pid: Option<i32>,
    image: record::Image,
    class: String,
    walls: Walls,
    /// Digest of the profile.
    profile: String,
    missing: Vec<Gap>,
}

/// What the walls do.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Walls {
    Enforced,
    Audited,
    Undeclared,
}

/// What a shim notes of a container, as far as it is shown.
#[derive(Deserialize)]
struct Noted {
    identity: Identity,
    image: record::Image,
    policy: Policy,
    profile: Profile,
    plan: Plan,
}

#[derive(Deserialize)]
struct Identity {
    namespace: String,
    id: String,
    name: String,
    pod: Option<record::Pod>,
}

#[derive(Deserialize)]
struct Policy {
    class: String,
}

#[derive(Deserialize)]
struct Profile {
    origin: Origin,
}

#[derive(Deserialize)]
struct Plan {
    profile: String,
    mode: Mode,
    gaps: Vec<Gap>,
}

/// libcontainer's state of a container, as far as it is shown.
#[derive(Deserialize)]
struct State {
    pid: Option<i32>,
}

/// Runs the command.
///
/// # Errors
/// When the state folder cannot be read, or standard output is closed.
pub(crate) fn run(args: &Ps) -> anyhow::Result<Outcome> {
    let rows = rows(&args.state_dir).with_context(|| {
        let hint = if nix::unistd::geteuid().is_root() { "" } else { " (only root may; run it with sudo)" };
        format!("cannot read {}{hint}", args.state_dir.display())
    })?;
    let mut out = io::stdout().lock();
    match args.format {
        Format::Text => print(&mut out, &rows)?,
        Format::Json => super::print_json(&mut out, &rows)?,
    }
    out.flush()?;
    Ok(Outcome::Fine)
}

/// All containers, by containerd namespace and pod.
fn rows(state: &Path) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for namespace in entries(state)? {
        for container in entries(&namespace)? {
            rows.extend(row(&container).with_context(|| format!("in {}", container.display()))?);
        }
    }
    let place = |pod: &Option<record::Pod>| pod.as_ref().map(|pod| (pod.namespace.clone(), pod.name.clone()));
    rows.sort_by_cached_key(|row| (row.namespace.clone(), place(&row.pod), row.name.clone(), row.id.clone()));
    Ok(rows)
}

/// Folders in a folder; one that is not there has none.
fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        read => read?,
    };
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    Ok(paths.into_iter().filter(|path| path.is_dir()).collect())
}

/// None for a container that is being created or removed.
fn row(container: &Path) -> anyhow::Result<Option<Row>> {
    let Some(text) = read(&container.join("walls.json"))? else { return Ok(None) };
    let noted: Noted = serde_json::from_str(&text).context("walls.json")?;
    let Identity { namespace, id, name, pod } = noted.identity;
    let state = read(&container.join("oci").join(&id).join("state.json"))?;
    let state: Option<State> =
        state.map(|text| serde_json::from_str(&text).context("state.json")).transpose()?;
    let pid = state.and_then(|state| state.pid).filter(|pid| Path::new(&format!("/proc/{pid}")).exists());
    let walls = match (noted.profile.origin, noted.plan.mode) {
        (Origin::Baseline | Origin::Unconfined, _) => Walls::Undeclared,
        (Origin::Declared | Origin::Default, Mode::Audit) => Walls::Audited,
        (Origin::Declared | Origin::Default, Mode::Enforce) => Walls::Enforced,
    };
    Ok(Some(Row {
        namespace,
        id,
        name,
        pod,
        pid,
        image: noted.image,
        class: noted.policy.class,
        walls,
        profile: noted.plan.profile,
        missing: noted.plan.gaps,
    }))
}

/// A file's text; none if it is not there (yet, or any more).
fn read(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}

impl Row {
    fn cells(&self) -> [String; 8] {
        let short = |text: &str| printable(text.get(..SHORT).unwrap_or(text));
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let mut missing: Vec<Wall> = self.missing.iter().map(|gap| gap.wall).collect();
        missing.dedup();
        let missing: Vec<String> = missing.iter().map(ToString::to_string).collect();
        // A generated id, not one that a person chose.
        let id = if self.id.len() == 64 { short(&self.id) } else { printable(&self.id) };
        [
            id,
            printable(&self.name),
            or_dash(self.pod.as_ref().map(|pod| printable(&format!("{}/{}", pod.namespace, pod.name)))),
            or_dash(self.pid.map(|pid| pid.to_string())),
            printable(&self.class),
            self.walls.word().to_owned(),
            short(self.profile.strip_prefix("sha256:").unwrap_or(&self.profile)),
            or_dash((!missing.is_empty()).then(|| missing.join(","))),
        ]
    }
}

impl Walls {
    fn word(self) -> &'static str {
        match self {
            Self::Enforced => "enforced",
            Self::Audited => "audited",
            Self::Undeclared => "undeclared",
        }
    }
}

fn print(out: &mut impl Write, rows: &[Row]) -> io::Result<()> {
    let head = ["CONTAINER", "NAME", "POD", "PID", "CLASS", "WALLS", "PROFILE", "MISSING"].map(str::to_owned);
    let lines: Vec<[String; 8]> = std::iter::once(head).chain(rows.iter().map(Row::cells)).collect();
    let mut widths = [0; 8];
    for (width, column) in widths.iter_mut().zip(0..) {
        *width = lines.iter().map(|line: &[String; 8]| line[column].chars().count()).max().unwrap_or(0);
    }
    for line in &lines {
        let cells: Vec<String> =
            line.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

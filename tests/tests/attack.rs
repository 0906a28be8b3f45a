//! The attack suite: over 150 ways around the walls, from init and from exec, as root and as a user. None that the labels
//! forbid succeeds under Keep, and each succeeds where no wall stands.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::sys::statvfs::{FsFlags, statvfs};
use tests::attack::{self, Actor, Probe, Setting, User, Walls};
use tests::node::{Containerd, Node, Options, Runtime};
use tests::shared::Shared;
use tests::{suite, under_test};

/// Fewest probes whose control must work.
const FEWEST: usize = 150;

/// What came of every probe of one run, or why there was none.
type Run = Result<BTreeMap<String, String>, String>;

/// What came of each setting's one run on a node: filled by the first test that asks.
#[derive(Default, Clone)]
struct Runs(Arc<Mutex<BTreeMap<Setting, Run>>>);

impl Runs {
    fn of(&self, setting: Setting, node: &Node, probe: &str) -> Result<String> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let run = all.entry(setting).or_insert_with(|| setting.run(node, &[]).map_err(|e| format!("{e:#}")));
        let outcomes = run.as_ref().map_err(|error| anyhow!("{setting}: the probes did not run: {error}"))?;
        outcomes.get(probe).cloned().with_context(|| format!("{setting}: {probe} printed nothing"))
    }

    /// Says how many controls worked, and which cannot work on this kernel.
    fn summarise(&self) {
        let crossed = self.controls(|said| said == "crossed");
        if crossed.is_empty() {
            return;
        }
        println!("{} probes have a control that works", crossed.len());
        let absent = self.controls(|said| said.starts_with("absent"));
        let absent: Vec<String> = absent.difference(&crossed).cloned().collect();
        if !absent.is_empty() {
            println!("no control on this machine, which lacks what they try: {}", absent.join(", "));
        }
    }

    /// Probes of which a control said this.
    fn controls(&self, wanted: impl Fn(&str) -> bool) -> BTreeSet<String> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let controls = all.iter().filter(|(setting, _)| setting.walls == Walls::None);
        let lines = controls.flat_map(|(_, run)| run.iter().flatten());
        lines.filter(|(_, said)| wanted(said)).map(|(name, _)| name.clone()).collect()
    }
}

fn main() -> ExitCode {
    let mut trials = Vec::new();
    let mut nodes = Vec::new();
    let mut all = Vec::new();
    for containerd in Containerd::ALL {
        let node = Shared::start(containerd, prepare);
        let runs = Runs::default();
        trials.extend(on_node(containerd, &node, &runs));
        nodes.push(node);
        all.push(runs);
    }
    match attack::probes() {
        Err(error) => trials.push(suite::trial("every probe is listed", move || Err(error))),
        Ok(probes) => trials
            .push(suite::trial("docs/escapes.md names every probe, and no other", move || {
                documented(&probes)
            })),
    }
    let code = suite::conclude(trials);
    for runs in all {
        runs.summarise();
    }
    drop(nodes);
    code
}

/// Everything that is tried on one node.
fn on_node(containerd: Containerd, node: &Shared, runs: &Runs) -> Vec<libtest_mimic::Trial> {
    let keep = node.with_shim();
    let mut trials = Vec::new();
    let probes = attack::probes().unwrap_or_default();
    for setting in Setting::all() {
        let of_probe = |probe| {
            trial(containerd, if setting.walls == Walls::Keep { &keep } else { node }, setting, probe, runs)
        };
        trials.extend(probes.iter().filter_map(of_probe));
    }
    let counted = runs.clone();
    let name = format!("{containerd}: {FEWEST} probes or more have a control that works");
    trials.push(node.trial(name, move |node| {
        for setting in Setting::all().filter(|setting| setting.walls == Walls::None) {
            counted.of(setting, node, "execve")?;
        }
        let crossed = counted.controls(|said| said == "crossed").len();
        ensure!(crossed >= FEWEST, "only {crossed}");
        Ok(())
    }));
    for (name, test) in OTHERS {
        trials.push(keep.trial(format!("{containerd}: {name}"), move |node| test(node)));
    }
    trials
}

/// A probe in a setting on a node; none where it would show nothing.
fn trial(
    containerd: Containerd,
    node: &Shared,
    setting: Setting,
    probe: &Probe,
    runs: &Runs,
) -> Option<libtest_mimic::Trial> {
    let (name, runs) = (probe.name.clone(), runs.clone());
    match setting.walls {
        Walls::None if probe.has_control(setting.user) => {
            Some(node.trial(format!("{containerd}, {setting}: {name} crosses"), move |node| {
                let said = runs.of(setting, node, &name)?;
                ensure!(said == "crossed" || said.starts_with("absent"), "{said}");
                Ok(())
            }))
        }
        // What root is already, it cannot gain.
        Walls::Keep if probe.who != "user" || setting.user == User::Other => {
            Some(node.trial(format!("{containerd}, {setting}: {name} is stopped"), move |node| {
                let said = runs.of(setting, node, &name)?;
                ensure!(said.starts_with("stopped ") || said.starts_with("absent "), "{said}");
                Ok(())
            }))
        }
        Walls::None | Walls::Keep => None,
    }
}

fn prepare(containerd: Containerd) -> Result<Node> {
    let mut node = Node::start(Options::new(containerd))?;
    node.import(&attack::image(User::Root)?, "keep.test/attack:root")?;
    node.import(&attack::image(User::Other)?, "keep.test/attack:user")?;
    let program = under_test::binary(attack::PROGRAM)?;
    node.daemon("listener", &program.to_string_lossy(), &["listen"])?;
    Ok(node)
}

type Test = fn(&Node) -> Result<()>;

const OTHERS: [(&str, Test); 6] = [
    ("the runtime's own program does not run as a script's interpreter", runtime_as_interpreter),
    ("the runtime's own program cannot be written by who comes by it", runtime_overwritten),
    ("a working folder among the runtime's descriptors leads nowhere, for init", |node| {
        descriptor_as_working_folder(node, Actor::Init)
    }),
    ("a working folder among the runtime's descriptors leads nowhere, for exec", |node| {
        descriptor_as_working_folder(node, Actor::Exec)
    }),
    ("an image whose /proc is a symlink starts no container without a real one", linked_proc),
    ("a volume over /dev that is full of links leads nowhere", linked_devices),
];

/// CVE-2024-21626: `/proc/self/fd/N` as the working folder. The container does not start, or starts within its root.
fn descriptor_as_working_folder(node: &Node, actor: Actor) -> Result<()> {
    let program = ["/bin/keep-attack", "run", "working-folder", "descriptors"];
    let image = "keep.test/attack:root";
    if actor == Actor::Exec {
        node.start_container(Runtime::Keep, &["-d"], image, "folder", &["/bin/keep-attack", "sleep"])?
            .success()?;
    }
    // The first shows that the probes run where the folder is a good one.
    let folders = (3..16).map(|number| format!("/proc/self/fd/{number}"));
    let result =
        ["/data".to_owned()].into_iter().chain(folders).enumerate().try_for_each(|(number, folder)| {
            let id = format!("folder-{number}");
            let said = match actor {
                Actor::Init => {
                    node.start_container(Runtime::Keep, &["--rm", "--cwd", &folder], image, &id, &program)?
                }
                Actor::Exec => {
                    let mut words = vec!["task", "exec", "--exec-id", &id, "--cwd", &folder, "folder"];
                    words.extend(program);
                    node.ctr(&words)?
                }
            };
            ensure!(!said.stdout.contains("crossed"), "{folder}: {said}");
            ensure!(number > 0 || said.stdout.contains("working-folder: stopped"), "{folder}: {said}");
            Ok(())
        });
    if actor == Actor::Exec {
        node.remove("folder")?;
    }
    result
}

/// CVE-2019-5736: a declared script whose interpreter is /proc/self/exe, which is the runtime's own program for whoever is
/// about to become the container's. It runs where nothing is enforced, and never behind the walls.
fn runtime_as_interpreter(node: &Node) -> Result<()> {
    let (image, script) = ("keep.test/attack:root", "/srv/scripts/by-runtime");
    let try_both = |class: Runtime, id: &str| -> Result<String> {
        let as_init = node.start_container(class, &[], image, &format!("{id}-init"), &[script])?;
        node.remove(&format!("{id}-init"))?;
        node.start_container(class, &["-d"], image, id, &["/bin/keep-attack", "sleep"])?.success()?;
        let as_exec = node.exec(id, &[script])?;
        node.remove(id)?;
        Ok(format!("init: {as_init}\nexec: {as_exec}"))
    };
    let free = try_both(Runtime::KeepClass("keep-permissive"), "free")?;
    ensure!(free.matches(&format!("{}:\n", under_test::SHIM)).count() == 2, "the control: {free}");
    let walled = try_both(Runtime::Keep, "walled")?;
    ensure!(walled.matches("Permission denied").count() == 2, "{walled}");
    ensure!(!walled.contains("Version"), "{walled}");
    Ok(())
}

/// CVE-2019-5736: whoever comes by the runtime's program through `/proc/PID/exe` waits until no process runs it any more, and
/// writes to it. Keep's runs from a read-only mount, which refuses that whether it is run or not; its own place is none.
fn runtime_overwritten(node: &Node) -> Result<()> {
    let (image, id) = ("keep.test/attack:root", "overwritten");
    node.start_container(Runtime::Keep, &["-d"], image, id, &["/bin/keep-attack", "sleep"])?.success()?;
    let refused = node.shims(id).iter().try_fold(0, |seen, shim| {
        let program = PathBuf::from(format!("/proc/{}/exe", shim.pid));
        // A running program is not truncated, whatever its mount says.
        let opened = std::fs::OpenOptions::new().write(true).truncate(true).open(program);
        let error = opened.err().with_context(|| format!("{} can be written", shim.line))?;
        ensure!(error.raw_os_error() == Some(libc::EROFS), "{}: {error}", shim.line);
        Ok(seen + 1)
    });
    node.remove(id)?;
    ensure!(refused? >= 2, "the shim and its observer were to be seen");
    let place = statvfs(&under_test::binary(under_test::SHIM)?).context("cannot look at the shim's place")?;
    ensure!(
        !place.flags().contains(FsFlags::ST_RDONLY),
        "the program lies on a read-only mount: this shows nothing"
    );
    Ok(())
}

/// CVE-2019-19921 and its like: what the runtime mounts must not follow the image's links. The container does not start,
/// or has a /proc of its own, which refuses what only that one can.
fn linked_proc(node: &Node) -> Result<()> {
    let links = tests::image::Layer::new().symlink("proc", "/data");
    node.import(&attack::image(User::Root)?.layer(links), "keep.test/attack:linked")?;
    let program = ["/bin/keep-attack", "run", "proc-keys", "sysctl", "see-outside"];
    let said =
        node.start_container(Runtime::Keep, &["--rm"], "keep.test/attack:linked", "linked", &program)?;
    let stopped = said.stdout.lines().filter(|line| line.contains(": stopped ")).count();
    let own = said.status.success() && stopped == 3 && !said.stdout.contains("ENOENT");
    let refused = !said.status.success() && said.stdout.is_empty() && said.stderr.contains("proc");
    ensure!(own || refused, "{said}");
    let left = node.wait_until_gone("linked", Duration::from_secs(5));
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}

/// CVE-2025-31133, CVE-2025-52565: the runtime masks files with /dev/null, binds the terminal over /dev/console and makes
/// devices, and a volume over /dev brings links by those names. They lead nowhere out of the container, nothing is bound
/// over what they name, and what is to be masked is, where the container starts at all.
fn linked_devices(node: &Node) -> Result<()> {
    let outside = node.folder.join("state/behind-the-links");
    let volume = node.folder.join("state/linked-dev");
    for class in [Runtime::Keep, Runtime::KeepClass("keep-permissive")] {
        for device in ["null", "console", "zero", "ptmx", "stdin", "kcore"] {
            std::fs::write(&outside, "precious").context("cannot write a file")?;
            std::fs::create_dir(&volume).context("cannot make the volume")?;
            std::os::unix::fs::symlink(&outside, volume.join(device)).context("cannot make a link")?;
            let mount = format!("type=bind,src={},dst=/dev,options=rbind:rw", volume.display());
            let (flags, sleep) = (["-d", "--mount", &mount], ["/bin/keep-attack", "sleep"]);
            let said = node.start_container(class, &flags, "keep.test/attack:root", "linked-dev", &sleep)?;
            if said.status.success() {
                let pid = node.pid_of("linked-dev")?;
                let masked = std::fs::read(format!("/proc/{pid}/root/proc/keys")).unwrap_or_default();
                ensure!(masked.is_empty(), "{class}: /proc/keys is not masked, /dev/{device} is a link");
                let table = std::fs::read_to_string(format!("/proc/{pid}/mountinfo"))?;
                let mut places = table.lines().filter_map(|line| line.split(' ').nth(4));
                let bound = places.any(|place| place.contains("behind-the-links"));
                ensure!(
                    !bound,
                    "{class}: something is bound through /dev/{device}:
{table}"
                );
            }
            node.remove("linked-dev")?;
            let kept = std::fs::read_to_string(&outside).context("the file outside is gone")?;
            ensure!(kept == "precious", "{class}: written through /dev/{device}: {kept:?}; {said}");
            std::fs::remove_dir_all(&volume).context("cannot remove the volume")?;
        }
    }
    Ok(())
}

/// Each probe's row stands in the document, and every name that looks like a probe's is one.
fn documented(probes: &[Probe]) -> Result<()> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/escapes.md");
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    let names: BTreeSet<&str> = probes.iter().map(|probe| probe.name.as_str()).collect();
    ensure!(names.len() == probes.len(), "two probes have the same name");
    let rows: BTreeSet<&str> = text.lines().filter(|line| line.starts_with("| ")).collect();
    let missing: Vec<String> =
        probes.iter().map(Probe::row).filter(|row| !rows.contains(row.as_str())).collect();
    ensure!(missing.is_empty(), "docs/escapes.md lacks:\n{}", missing.join("\n"));
    let tables =
        rows.iter().filter_map(|row| row.strip_suffix("` |")?.rsplit_once("| `").map(|(_, name)| name));
    let unknown: Vec<&str> = tables.filter(|name| !names.contains(name)).collect();
    if unknown.is_empty() { Ok(()) } else { bail!("docs/escapes.md names no probe: {unknown:?}") }
}

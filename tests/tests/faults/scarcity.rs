//! What a container or its shim lacks: room on a disk, inodes, a writable /run, processes, memory.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::census::Census;
use tests::command::Output;
use tests::node::{Node, Runtime, leaks};
use tests::under_test;

use super::{DECLARED, HANG, crossings, in_time, nothing_crossed};

const ID: &str = "scarce";

/// A shim that containerd started and then knows nothing of any more ends by itself within this.
const UNUSED: Duration = Duration::from_secs(30);

/// Runs the crossings with flags for `ctr run`, cleans up, and wants all as it was before.
fn run(node: &Node, before: &Census, flags: &[&str]) -> Result<Output> {
    let all = [&["--rm"], flags].concat();
    let said = in_time("ctr run", || node.start_container(Runtime::Keep, &all, DECLARED, ID, &crossings()));
    let cleaned = in_time("the clean-up", || node.remove(ID));
    let said = said?;
    nothing_crossed(&said)?;
    cleaned?;
    let left = before.wait_until_back(node, HANG);
    ensure!(left.is_empty(), "left: {left:#?}\n{said}");
    Ok(said)
}

/// A folder of the node with a small file system of its own.
struct Small<'a> {
    node: &'a Node,
    folder: PathBuf,
}

impl<'a> Small<'a> {
    fn mount(node: &'a Node, options: &str) -> Result<Self> {
        let folder = node.folder.join("small");
        std::fs::create_dir_all(&folder).context("cannot make a folder")?;
        let words = ["-t", "tmpfs", "-o", options, "tmpfs", &folder.to_string_lossy()];
        node.run("mount", &words)?.success()?;
        Ok(Self { node, folder })
    }

    fn unmount(self) -> Result<()> {
        self.node.run("umount", &[&self.folder.to_string_lossy()])?.success().map(drop)
    }

    /// Number of files and folders in it beside its own and those of a namespace.
    fn files(&self) -> Result<usize> {
        let words = [&self.folder.to_string_lossy(), "-mindepth", "3", "-path", "*/state/*"];
        Ok(self.node.run("find", &words)?.success()?.stdout.lines().count())
    }
}

/// A runtime configuration with folders beneath `state` and `data`.
fn configuration(node: &Node, state: &Path, data: &Path) -> Result<String> {
    let file = node.folder.join("classes/scarce.toml");
    let text = format!("class = \"keep\"\nstate_dir = {state:?}\ndata_dir = {data:?}\n");
    std::fs::write(&file, text).context("cannot write the configuration")?;
    Ok(file.to_string_lossy().into_owned())
}

/// The state folder on a disk with room for less and less; each time either everything runs behind every wall or nothing.
pub(super) fn full_disk(node: &mut Node) -> Result<()> {
    let sizes = (1..=16).map(|pages| format!("size={}k", pages * 4));
    let inodes = (2..=16).map(|inodes| format!("size=8m,nr_inodes={inodes}"));
    let (mut worked, mut failed) = (0, 0);
    for options in sizes.chain(inodes) {
        let small = Small::mount(node, &options)?;
        let said = on_small(&small).with_context(|| format!("with {options}"));
        small.unmount()?;
        let count = if said?.status.success() { &mut worked } else { &mut failed };
        *count += 1;
    }
    ensure!(
        worked > 0 && failed > 0,
        "{worked} containers ran and {failed} did not: too few to prove anything"
    );
    Ok(())
}

fn on_small(small: &Small<'_>) -> Result<Output> {
    let folder = &small.folder;
    let file = configuration(small.node, &folder.join("state"), &folder.join("data"))?;
    let before = Census::take(small.node);
    let said = run(small.node, &before, &["--runtime-config-path", &file])?;
    let left = small.files()?;
    ensure!(left == 0, "{left} files are left in the state folder\n{said}");
    Ok(said)
}

/// With no room for records the walls stand all the same, and the container runs.
pub(super) fn full_spool(node: &mut Node) -> Result<()> {
    let small = Small::mount(node, "size=4k")?;
    let filled = std::fs::File::create(node.folder.join("state/fill")).map(drop);
    filled.context("cannot write in the node's folder")?;
    let script = "mkdir -p $0/data/spool; cat /dev/zero > $0/fill";
    node.run("sh", &["-c", script, &small.folder.to_string_lossy()])?;
    let file = configuration(node, Path::new("/run/keep"), &small.folder.join("data"))?;
    let before = Census::take(node);
    let said = run(node, &before, &["--runtime-config-path", &file]).and_then(Output::success);
    small.unmount()?;
    said.map(drop)
}

/// A container is refused while /run is read-only, and one that runs already takes no exec then; both end as usual later.
pub(super) fn read_only_run(node: &mut Node) -> Result<()> {
    let words = ["/bin/keep-probe", "sleep", "600"];
    let before = Census::take(node);
    node.start_container(Runtime::Keep, &["-d", "--null-io"], DECLARED, ID, &words)?.success()?;
    node.run("mount", &["-o", "remount,ro", "/run"])?.success()?;
    let started = in_time("ctr run", || {
        node.start_container(Runtime::Keep, &["-d", "--null-io"], DECLARED, "refused", &words)
    });
    let exec = in_time("ctr exec", || node.exec(ID, &crossings()));
    let removed = in_time("ctr task rm", || node.ctr(&["task", "rm", "-f", ID]));
    node.run("mount", &["-o", "remount,rw", "/run"])?.success()?;
    let cleaned = ["refused", ID].into_iter().try_for_each(|id| in_time("the clean-up", || node.remove(id)));
    let started = started?;
    ensure!(started.code() != 0, "it started: {started}");
    nothing_crossed(&exec?)?;
    removed?;
    cleaned?;
    let left = before.wait_until_back(node, HANG);
    ensure!(left.is_empty(), "left: {left:#?}");
    Ok(())
}

/// The container's cgroup may hold no further process: execs fail and leave nothing, and it goes on.
pub(super) fn process_limit(node: &mut Node) -> Result<()> {
    let words = ["/bin/keep-probe", "sleep", "600"];
    let before = Census::take(node);
    node.start_container(Runtime::Keep, &["-d"], DECLARED, ID, &words)?.success()?;
    node.exec(ID, &["/bin/keep-probe", "ok"])?.success()?;
    let running = Census::take(node);
    let own = format!("{}/{ID}/pids.max", node.cgroup());
    let limit = leaks::hierarchies().into_iter().map(|path| path.join(&own)).find(|path| path.exists());
    let limit = limit.context("the container has no pids cgroup")?;
    let mut failed = 0;
    for most in 1..=4 {
        std::fs::write(&limit, most.to_string()).context("cannot set the limit")?;
        let said = in_time("ctr exec", || node.exec(ID, &crossings()))?;
        // The probe makes a thread or process for none of its moves but one.
        ensure!(!said.stdout.contains(": ok"), "a wall was down: {said}");
        failed += usize::from(!said.status.success());
        let left = running.wait_until_back(node, HANG);
        ensure!(left.is_empty(), "at {most} processes, left: {left:#?}\n{said}");
    }
    ensure!(failed > 0, "the limit stopped no exec");
    std::fs::write(&limit, "max").context("cannot lift the limit")?;
    nothing_crossed(&node.exec(ID, &crossings())?.success()?)?;
    in_time("the clean-up", || node.remove(ID))?;
    let left = before.wait_until_back(node, HANG);
    ensure!(left.is_empty(), "left: {left:#?}");
    Ok(())
}

/// 16 MB are enough for a container and its exec; less fails or works; a program that takes more is killed, and said to be.
pub(super) fn memory_limit(node: &mut Node) -> Result<()> {
    let before = Census::take(node);
    let limit = |megabytes: u64| (megabytes << 20).to_string();
    for megabytes in [1, 2, 4, 8] {
        run(node, &before, &["--memory-limit", &limit(megabytes)])
            .with_context(|| format!("with {megabytes} MB"))?;
    }
    run(node, &before, &["--memory-limit", &limit(16)])?.success()?;
    let words = ["/bin/keep-probe", "sleep", "600"];
    let flags = ["-d", "--memory-limit", &limit(16)];
    node.start_container(Runtime::Keep, &flags, DECLARED, ID, &words)?.success()?;
    let fine = node.exec(ID, &crossings()).and_then(Output::success);
    let killed = in_time("ctr exec", || node.exec(ID, &["/bin/keep-probe", "fill", "64"]));
    in_time("the clean-up", || node.remove(ID))?;
    nothing_crossed(&fine?)?;
    let killed = killed?;
    ensure!(killed.code() == 137, "it was not killed: {killed}");
    let left = before.wait_until_back(node, HANG);
    ensure!(left.is_empty(), "left: {left:#?}");
    Ok(())
}

/// containerd and its client killed at some moment of a container's start, of an exec and of the end: a new containerd finds
/// what there is, or removes it.
pub(super) fn killed_containerd(node: &mut Node) -> Result<()> {
    let before = Census::take(node);
    let script = "ctr run -d --runtime $0 $1 $2 /bin/keep-probe sleep 600; \
                  ctr task exec --exec-id x $2 /bin/keep-probe ok; ctr task rm -f $2";
    for turn in 0..12 {
        let delay = Duration::from_millis(turn * 25);
        node.daemon("client", "sh", &["-c", script, under_test::RUNTIME, DECLARED, ID])?;
        std::thread::sleep(delay);
        node.stop_daemon("containerd", "KILL")?;
        node.stop_daemon("client", "KILL")?;
        node.start_containerd()?;
        let said = in_time("the clean-up", || node.discard(ID))?;
        // A client that dies before its container is known leaves a snapshot, which containerd keeps for a day.
        node.ctr(&["snapshots", "rm", ID])?;
        let left = before.wait_until_back(node, UNUSED);
        let said: Vec<String> = said.iter().map(ToString::to_string).collect();
        ensure!(left.is_empty(), "killed {delay:?} after the start, left: {left:#?}\n{}", said.join("\n"));
    }
    Ok(())
}

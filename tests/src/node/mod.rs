//! A containerd in mount, network, process and host name namespaces of its own: ending its first process ends all.

mod containerd;
pub mod leaks;
mod namespaces;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::command::{self, Output, run};
use crate::image::Image;
use crate::{cache, images};

pub use containerd::{Containerd, Runtime};
use namespaces::Namespaces;

/// How long any one `ctr` command may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a node is to be.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which containerd.
    pub containerd: Containerd,
    /// Folder in front of containerd's PATH: where the shim under test lies.
    pub path: Option<PathBuf>,
    /// Whether the cgroup v2 tree beside v1 is to be seen (crun 1.8 refuses to run there).
    pub unified: bool,
    /// Whether it lives on when this process ends.
    pub stay: bool,
    /// Whether containerd serves the Kubernetes runtime interface.
    pub kubernetes: bool,
}

impl Options {
    /// A containerd alone, which ends with this process, with the shim under test in its PATH where there is one.
    #[must_use]
    pub fn new(containerd: Containerd) -> Self {
        let path = crate::under_test::folder().ok();
        Self { containerd, path, unified: true, stay: false, kubernetes: false }
    }
}

/// A running node. Dropping it ends everything in it and removes its folder and cgroups.
#[derive(Debug)]
pub struct Node {
    /// The node's folder on this machine; the same path inside.
    pub folder: PathBuf,
    /// containerd's namespace for the tests' containers, unique on this machine.
    pub namespace: String,
    /// What it was started with.
    pub options: Options,
    namespaces: Namespaces,
    daemons: Vec<Child>,
}

/// What `ctr images import` of containerd 1.6 says when an image of the same name is replaced, and its collector takes away a layer that
/// both have while the new one is unpacked. A second import unpacks it anew.
const COLLECTED: &str = "parent snapshot sha256:";

impl Node {
    /// Starts the namespaces and containerd in them.
    ///
    /// # Errors
    /// When not root, something is missing, or containerd does not answer.
    pub fn start(options: Options) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        leaks::sweep()?;
        let name = format!("keep-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = cache::subfolder("nodes")?.join(&name);
        for part in ["state", "images", "ctd", "cni", "log", "classes"] {
            cache::open_folder(&folder.join(part))?;
        }
        let namespaces = Namespaces::start(&folder, &options)?;
        let namespace = if options.kubernetes { "k8s.io".to_owned() } else { name };
        let mut node = Self { folder, namespace, options, namespaces, daemons: Vec::new() };
        node.start_containerd()?;
        Ok(node)
    }

    /// Process id, on this machine, of the node's first process.
    #[must_use]
    pub fn init(&self) -> i32 {
        self.namespaces.init
    }

    /// A command that runs inside the node.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = self.namespaces.command();
        command.arg(program);
        command.env("PATH", self.search_path()).env("CONTAINERD_NAMESPACE", &self.namespace);
        command
            .env("CONTAINERD_ADDRESS", self.socket())
            .env("KUBECONFIG", self.folder.join("kube/admin.conf"));
        command.env("CRI_CONFIG_FILE", self.folder.join("crictl.yaml"));
        command
    }

    /// The command line with which a person looks around inside.
    #[must_use]
    pub fn way_in(&self) -> String {
        format!(
            "nsenter -t {} -m -n -p -u --wdns=/ env PATH={} CONTAINERD_ADDRESS={} CONTAINERD_NAMESPACE={} bash",
            self.init(),
            self.search_path(),
            self.socket().display(),
            self.namespace
        )
    }

    /// The command line that ends a node that was left, and removes what is left of it.
    #[must_use]
    pub fn way_out(&self) -> String {
        let name = self.folder.file_name().unwrap_or_default().to_string_lossy();
        format!(
            "kill {}; sleep 1; find /sys/fs/cgroup -depth -type d -path '*/{name}*' -exec rmdir {{}} +; rm -r {}",
            self.init(),
            self.folder.display()
        )
    }

    fn search_path(&self) -> String {
        let front = self.options.path.iter().map(|path| format!("{}:", path.display())).collect::<String>();
        let built = match self.options.containerd {
            Containerd::Built => {
                cache::folder().map(|path| format!("{}/bin:", path.display())).unwrap_or_default()
            }
            Containerd::Debian => String::new(),
        };
        format!("{front}{built}/usr/sbin:/usr/bin:/sbin:/bin")
    }

    /// containerd's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.join("ctd/containerd.sock")
    }

    /// Runs a program inside the node to its end.
    ///
    /// # Errors
    /// When it cannot be started or takes too long; not when it fails.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<Output> {
        run(self.command(program).args(arguments), PATIENCE)
    }

    /// Runs `ctr` inside the node. containerd 2.3's own warnings about cgroup v1 are taken out of its standard error.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn ctr(&self, arguments: &[&str]) -> Result<Output> {
        self.run("ctr", arguments).map(without_deprecations)
    }

    /// Runs `ctr` with something on its standard input, which ends a second later: `ctr run` misses an end that comes
    /// while it still starts the container.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn ctr_with_input(&self, arguments: &[&str], input: &str) -> Result<Output> {
        let path = self.folder.join("state/input");
        std::fs::write(&path, input).context("cannot write the input")?;
        let script = "file=$1; shift; (cat \"$file\"; sleep 1) | ctr \"$@\"";
        let path = path.to_string_lossy();
        let words: Vec<&str> =
            ["-c", script, "sh", path.as_ref()].into_iter().chain(arguments.iter().copied()).collect();
        self.run("sh", &words).map(without_deprecations)
    }

    /// Makes an image and imports it. Gives the archive's path.
    ///
    /// # Errors
    /// When it cannot be made or imported.
    pub fn import(&self, image: &Image, reference: &str) -> Result<PathBuf> {
        let archive = images::write(image, reference, &self.folder.join("images"))?;
        let words = ["images", "import", &archive.to_string_lossy()];
        let mut imported = self.ctr(&words)?;
        if imported.stderr.contains(COLLECTED) {
            imported = self.ctr(&words)?;
        }
        imported.success()?;
        Ok(archive)
    }

    /// `ctr run`: to the container's end, or with `-d` among `flags` until it runs.
    ///
    /// # Errors
    /// As [`Self::run`]; that the container fails is no error.
    pub fn start_container(
        &self,
        runtime: Runtime,
        flags: &[&str],
        image: &str,
        id: &str,
        arguments: &[&str],
    ) -> Result<Output> {
        let mut command = self.container(runtime, flags, image, id, arguments)?;
        run(&mut command, PATIENCE).map(without_deprecations)
    }

    /// The `ctr run` of [`Self::start_container`], not yet started.
    ///
    /// # Errors
    /// When the class's file cannot be written.
    pub fn container(
        &self,
        runtime: Runtime,
        flags: &[&str],
        image: &str,
        id: &str,
        arguments: &[&str],
    ) -> Result<Command> {
        let mut command = self.command("ctr");
        command.arg("run").args(runtime.flags(&self.folder.join("classes"))?);
        command.args(flags).args([image, id]).args(arguments);
        Ok(command)
    }

    /// `ctr task exec` of a program in a running container.
    ///
    /// # Errors
    /// As [`Self::run`]; that the program fails is no error.
    pub fn exec(&self, id: &str, arguments: &[&str]) -> Result<Output> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let exec = format!("exec-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let mut words = vec!["task", "exec", "--exec-id", &exec, id];
        words.extend(arguments);
        self.ctr(&words)
    }

    /// Ends a container and removes it, whatever state it is in.
    ///
    /// # Errors
    /// When something of it is still there afterwards.
    pub fn remove(&self, id: &str) -> Result<()> {
        self.discard(id)?;
        let left = self.wait_until_gone(id, Duration::from_secs(10));
        anyhow::ensure!(left.is_empty(), "left of container {id}: {left:#?}");
        Ok(())
    }

    /// Has containerd end a container and remove it; what it says to that.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn discard(&self, id: &str) -> Result<Vec<Output>> {
        // Each may fail where there is nothing left for it to do; what counts is what is left.
        let commands = [
            vec!["task", "kill", "-s", "SIGKILL", id],
            vec!["task", "rm", "-f", id],
            vec!["containers", "rm", id],
        ];
        commands.iter().map(|words| self.ctr(words)).collect()
    }

    /// Process id, on this machine, of a container's first process.
    ///
    /// # Errors
    /// When there is no such task.
    pub fn pid_of(&self, id: &str) -> Result<i32> {
        let list = self.ctr(&["task", "ls"])?.success()?;
        let line = list.stdout.lines().find(|line| line.split_whitespace().next() == Some(id));
        let inside: i32 = line
            .and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
            .with_context(|| format!("no task {id} in {}", list.stdout))?;
        self.outside(inside)
    }

    /// The machine's process id of the process that the node knows by `inside`.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn outside(&self, inside: i32) -> Result<i32> {
        // While it executes its program it has no command line, and looks like a zombie.
        command::until(&format!("process {inside} in the node"), Duration::from_secs(2), || {
            self.processes().into_iter().find(|process| process.inside == inside).map(|process| process.pid)
        })
    }

    /// What the shim recorded of a container, from its spool.
    ///
    /// # Errors
    /// When a line is no JSON.
    pub fn records(&self, id: &str) -> Result<Vec<Value>> {
        self.records_in(&self.spool(), id)
    }

    /// The same from the spool of a runtime configuration with a `data_dir` of its own.
    ///
    /// # Errors
    /// As [`Self::records`].
    pub fn records_in(&self, spool: &Path, id: &str) -> Result<Vec<Value>> {
        let path = spool.join(format!("{}.{id}.jsonl", self.namespace));
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let lines =
            text.lines().map(|line| serde_json::from_str(line).with_context(|| format!("no JSON: {line}")));
        lines.collect()
    }

    /// Waits for a record of which `wanted` is true.
    ///
    /// # Errors
    /// When there is none within five seconds; shows those that there are.
    pub fn record(&self, id: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        self.record_in(&self.spool(), id, what, wanted)
    }

    /// The same in the spool of a runtime configuration with a `data_dir` of its own.
    ///
    /// # Errors
    /// As [`Self::record`].
    pub fn record_in(
        &self,
        spool: &Path,
        id: &str,
        what: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let mut last = Vec::new();
        let found = command::until(what, Duration::from_secs(5), || {
            last = self.records_in(spool, id).unwrap_or_default();
            last.iter().find(|record| wanted(record)).cloned()
        });
        found.with_context(|| {
            format!("records of {id}: {}", serde_json::to_string_pretty(&last).unwrap_or_default())
        })
    }

    /// Where the node's shims spool their records, as seen on this machine.
    #[must_use]
    pub fn spool(&self) -> PathBuf {
        self.folder.join("state/varlib/keep/spool")
    }

    /// The end of a log of the node, for messages.
    #[must_use]
    pub fn log_end(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.log(name)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(15)..).unwrap_or_default().join("\n")
    }

    /// The lines of a log of the node that hold `words`.
    #[must_use]
    pub fn log_lines(&self, name: &str, words: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.log(name)).unwrap_or_default();
        text.lines().filter(|line| line.contains(words)).map(str::to_owned).collect()
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.join("log").join(format!("{name}.log"))
    }

    /// Starts a daemon inside the node, its output in the folder's `log/NAME.log`, its pid in `state/NAME.pid`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn daemon(&mut self, name: &str, program: &str, arguments: &[&str]) -> Result<()> {
        let pid = self.folder.join("state").join(format!("{name}.pid"));
        let open = |path: &Path| std::fs::OpenOptions::new().create(true).append(true).open(path);
        let log = open(&self.log(name)).with_context(|| format!("cannot open the log of {name}"))?;
        let both = log.try_clone().context("cannot share a log")?;
        let mut command = self.command("setsid");
        command.args(["sh", "-c", "echo $$ > \"$0\"; exec \"$@\""]).arg(&pid).arg(program).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::from(log)).stderr(Stdio::from(both));
        self.daemons.push(command.spawn().with_context(|| format!("cannot start {name}"))?);
        Ok(())
    }

    /// A node with a program of its own that accepts TCP connections on `port`, for containers that share its network.
    ///
    /// # Errors
    /// When the node cannot start, or the probe is not built.
    pub fn with_listener(containerd: Containerd, port: u16) -> Result<Self> {
        let mut node = Self::start(Options::new(containerd))?;
        let probe = crate::under_test::binary("keep-probe")?;
        node.daemon("listener", &probe.to_string_lossy(), &["serve", &port.to_string()])?;
        Ok(node)
    }

    /// Sends a signal to a daemon that [`Self::daemon`] started, and waits until it is gone.
    ///
    /// # Errors
    /// When it is not gone within ten seconds.
    pub fn stop_daemon(&self, name: &str, signal: &str) -> Result<()> {
        let path = self.folder.join("state").join(format!("{name}.pid"));
        let pid = std::fs::read_to_string(&path).with_context(|| format!("{name} was never started"))?;
        self.run("kill", &["-s", signal, pid.trim()])?;
        let gone =
            || (!self.run("kill", &["-0", pid.trim()]).is_ok_and(|o| o.status.success())).then_some(());
        command::until(&format!("{name} to end"), Duration::from_secs(10), gone)
    }
}

fn without_deprecations(mut output: Output) -> Output {
    let kept = output.stderr.split_inclusive('\n').filter(|line| !line.contains("msg=\"DEPRECATION"));
    output.stderr = kept.collect();
    output
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.options.stay {
            return;
        }
        self.namespaces.end();
        for daemon in &mut self.daemons {
            if let Err(error) = daemon.wait() {
                eprintln!("cannot wait for a daemon of the node: {error}");
            }
        }
        for left in leaks::clean(&self.folder, &self.cgroup()) {
            eprintln!("left behind by the node: {left}");
        }
    }
}

//! A real shim, which is sent requests of the task API: each input over a connection of its own.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;
use tests::under_test;

/// Longest that an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most that the shim may grow by, in bytes, and after how many inputs that is looked at.
const MEMORY: u64 = 16 << 20;
const LOOK_EVERY: u64 = 10_000;
/// After so long another shim takes the place of the first: one that has got no container after 20 s ends by itself.
const REPLACE: Duration = Duration::from_secs(8);

/// Service that the requests are to.
const SERVICE: &str = "containerd.task.v2.Task";

/// Bytes of a frame before its content. Source: containerd, ttrpc/PROTOCOL.md.
const HEADER: usize = 10;
/// Type of a frame that is a request.
const REQUEST: u8 = 1;

/// The bundle that good requests name, in the shim's own mount namespace.
const BUNDLE: &str = "/run/bundle";

/// Starts the program of `$0` in mounts of its own, in which it can write nowhere but to its /run.
const CONFINED: &str = "mount -t tmpfs tmpfs /run && mkdir /run/bundle && cat > /run/bundle/config.json <&3 \
    && mount -o remount,bind,ro / && cd /run/bundle && exec \"$0\" \"$@\" 3<&-";

static SHIM: Mutex<Option<Shim>> = Mutex::new(None);

/// A running shim that has no containers.
struct Shim {
    namespaces: Child,
    folder: TempDir,
    since: Instant,
    sent: u64,
    /// Its memory before the first input, in bytes.
    memory: u64,
}

/// Requests of every method, as [`run`] takes them: the method's name, a line's end, the message.
pub(super) fn corpus() -> Vec<Vec<u8>> {
    let text = |number: u8, text: &str| field(number, text.as_bytes());
    let target = [text(1, "web"), text(2, "exec-1")].concat();
    let any = |kind: &str, value: &[u8]| [text(1, kind), field(2, value)].concat();
    let streams =
        |from: u8| [text(from, "/run/in"), text(from + 1, "/run/out"), text(from + 2, "/run/err")].concat();
    let mount =
        [text(1, "overlay"), text(2, "overlay"), text(4, "lowerdir=/a"), text(4, "upperdir=/b")].concat();
    let options = [text(2, "/etc/keep/strict.toml"), text(3, "class = \"keep-strict\"")].concat();
    let create = [
        text(1, "web"),
        text(2, BUNDLE),
        field(3, &mount),
        streams(5),
        field(10, &any("runtimeoptions.v1.Options", &options)),
    ];
    let process = r#"{"args":["/bin/true"],"cwd":"/","user":{"uid":0,"gid":0},"terminal":true}"#;
    let exec = [target.clone(), vec![0x18, 1], streams(4), field(7, &any("process", process.as_bytes()))];
    let limits = any(
        "resources",
        br#"{"memory":{"limit":1048576},"cpu":{"shares":2,"cpus":"0-1"},"pids":{"limit":5}}"#,
    );
    let messages: [(&str, Vec<u8>); 15] = [
        ("Create", create.concat()),
        ("Start", target.clone()),
        ("State", target.clone()),
        ("Delete", target.clone()),
        ("Pids", text(1, "web")),
        ("Pause", text(1, "web")),
        ("Resume", text(1, "web")),
        ("Kill", [target.clone(), vec![0x18, 9, 0x20, 1]].concat()),
        ("Exec", exec.concat()),
        ("ResizePty", [target.clone(), vec![0x18, 80, 0x20, 25]].concat()),
        ("CloseIO", [target.clone(), vec![0x18, 1]].concat()),
        ("Update", [text(1, "web"), field(2, &limits)].concat()),
        ("Wait", target),
        ("Stats", text(1, "web")),
        ("Connect", text(1, "web")),
    ];
    messages.map(|(method, message)| [method.as_bytes(), b"\n", &message].concat()).into()
}

/// A field of bytes, as protobuf has it.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    let mut length = content.len();
    while length >= 128 {
        bytes.push(length as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend(content);
    bytes
}

/// Sends an input; whether it was answered. What does not begin with a method's name is sent as it is.
///
/// # Panics
/// When the shim is gone, does not answer, or grows.
pub(super) fn run(input: &[u8]) -> bool {
    let mut running = SHIM.lock().unwrap_or_else(PoisonError::into_inner);
    let old = running.take_if(|shim| shim.since.elapsed() > REPLACE);
    if let Some(Err(error)) = old.map(Shim::end) {
        panic!("{error:#}");
    }
    let shim = match running.take().map_or_else(Shim::start, Ok) {
        Ok(shim) => running.insert(shim),
        Err(error) => panic!("cannot start the shim: {error:#}"),
    };
    let answered = shim.send(input);
    shim.sent += 1;
    let looked = if shim.sent % LOOK_EVERY == 0 { shim.check_memory() } else { Ok(()) };
    match answered.and_then(|answered| looked.map(|()| answered)) {
        Ok(answered) => answered,
        Err(error) => panic!("{error:#}; the shim: {:?}", shim.namespaces.try_wait()),
    }
}

impl Shim {
    fn start() -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "the shim's requests are tried as root alone");
        let folder = tempfile::tempdir().context("cannot make a folder")?;
        let listener = UnixListener::bind(folder.path().join("s")).context("cannot listen")?;
        let config = folder.path().join("config.json");
        std::fs::write(&config, super::targets::SPEC).context("cannot write config.json")?;
        let open = std::fs::File::open(&config).context("cannot open config.json")?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private", "--pid"]);
        command.args(["--fork", "--kill-child", "--mount-proc", "--net", "--ipc", "--uts", "--"]);
        // Descriptor 3 is standard output until the shell has it.
        command.args(["sh", "-c", "exec 3<&1 1>&2; exec sh -c \"$@\"", "sh", CONFINED]);
        command.arg(under_test::binary(under_test::SHIM)?);
        command.args(["-namespace", "k8s.io", "-id", "fuzz", "-address", "/run/no-containerd", "serve"]);
        let namespaces = command
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .stdout(Stdio::from(OwnedFd::from(open)))
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start unshare")?;
        let mut shim = Self { namespaces, folder, since: Instant::now(), sent: 0, memory: 0 };
        ensure!(shim.send(b"Connect\n")?, "the shim answers nothing");
        shim.memory = shim.resident()?;
        Ok(shim)
    }

    fn send(&self, input: &[u8]) -> Result<bool> {
        let mut stream = UnixStream::connect(self.folder.path().join("s")).context("cannot connect")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let request = input.iter().position(|byte| *byte == b'\n').filter(|_| input[0].is_ascii_alphabetic());
        let framed = request.map(|end| frame(&input[..end], &input[end + 1..]));
        let written = stream.write_all(framed.as_deref().unwrap_or(input));
        if framed.is_none() || written.is_err() {
            // It need not wait for the end of what makes no sense.
            return match stream.shutdown(Shutdown::Write).and_then(|()| stream.read_to_end(&mut Vec::new())) {
                Ok(length) => Ok(length > 0),
                Err(error) if error.kind() == ErrorKind::WouldBlock => Err(error).context("no answer"),
                Err(_) => Ok(false),
            };
        }
        let mut answer = [0; HEADER];
        match stream.read_exact(&mut answer) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Err(error).context("no answer"),
            // What it cannot decode it may refuse by hanging up.
            Err(_) => Ok(false),
        }
    }

    /// Ends it, unless its inputs had it end or grow before.
    fn end(mut self) -> Result<()> {
        self.check_memory()?;
        self.namespaces.kill().context("cannot end the shim")?;
        self.namespaces.wait().context("cannot wait for the shim's end")?;
        Ok(())
    }

    fn check_memory(&self) -> Result<()> {
        let memory = self.resident()?;
        ensure!(memory < self.memory + MEMORY, "the shim grew from {} to {memory} bytes", self.memory);
        Ok(())
    }

    /// Resident memory of the shim, in bytes.
    fn resident(&self) -> Result<u64> {
        let parent = self.namespaces.id();
        let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
        let shim = children.split_whitespace().next().context("the shim is gone")?;
        let status = PathBuf::from(format!("/proc/{shim}/status"));
        let text = std::fs::read_to_string(status).context("the shim is gone")?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        Ok(kibibytes.context("/proc says nothing of the shim's memory")? << 10)
    }
}

/// A request of [`SERVICE`], as ttrpc frames it.
fn frame(method: &[u8], message: &[u8]) -> Vec<u8> {
    let request = [field(1, SERVICE.as_bytes()), field(2, method), field(3, message)].concat();
    let mut frame = Vec::with_capacity(HEADER + request.len());
    frame.extend((request.len() as u32).to_be_bytes());
    frame.extend(1_u32.to_be_bytes());
    frame.extend([REQUEST, 0]);
    frame.extend(request);
    frame
}

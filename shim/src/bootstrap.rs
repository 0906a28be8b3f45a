//! What containerd runs: `start`, which leaves the pod's server behind and prints its address; `delete`, which cleans
//! up after a server that died; `-v` and `-info`.
//!
//! See docs/decisions/0001-thin-bootstrap.md for why this is not the `containerd-shim` crate's.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use containerd_shim::Flags;
use containerd_shim::cgroup::adjust_oom_score;
use containerd_shim_protos::api::DeleteResponse;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message, MessageField};
use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout};
use sandbox::process::OwnProgram;
use sandbox::spec::{COVER, cover_devices};

use crate::config::Config;
use crate::events::timestamp;
use crate::features;
use crate::identity::{Id, Role, group};
use crate::observer::{self, OBSERVE};
use crate::socket;
use crate::walls::Folders;

/// The runtime's name to containerd.
const RUNTIME: &str = "io.containerd.keep.v2";

/// Longest runtime options that are read, in bytes.
const MAX_OPTIONS: u64 = 1 << 20;

/// Does what the arguments say.
///
/// # Errors
/// When it cannot; containerd shows the text.
pub(crate) fn run(args: &[OsString], serve: impl FnOnce(&Flags) -> Result<()>) -> Result<()> {
    if let [action, rootfs, source, access] = args
        && action == COVER
    {
        return cover_devices(Path::new(rootfs), Path::new(source), access == "ro")
            .context("cannot put a volume over /dev");
    }
    let flags = containerd_shim::parse(args).context("cannot parse arguments")?;
    if flags.version {
        let name = env!("CARGO_BIN_NAME");
        return print(format!("{name}:\n  Version:  {}\n", env!("CARGO_PKG_VERSION")).as_bytes());
    }
    if flags.info {
        return print(&info(io::stdin())?.write_to_bytes()?);
    }
    match flags.action.as_str() {
        "start" => start(&flags),
        "delete" => delete(&flags),
        "serve" => serve(&flags),
        OBSERVE => observer::go_on(&flags),
        "" => bail!("this is a containerd shim: containerd runs it. See `keep --help` for people's command"),
        other => bail!("unknown action {other:?}"),
    }
}

fn print(bytes: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    Ok(out.flush()?)
}

/// What the runtime is and does; a handler's options, which containerd writes to standard input, are read as for a
/// container, and given back.
fn info(options: impl Read + IsTerminal) -> Result<RuntimeInfo> {
    let mut bytes = Vec::new();
    if !options.is_terminal() {
        options.take(MAX_OPTIONS).read_to_end(&mut bytes).context("cannot read the runtime options")?;
    }
    let options = match bytes.as_slice() {
        [] => None,
        bytes => Some(Any::parse_from_bytes(bytes).context("cannot parse the runtime options")?),
    };
    Config::from_options(options.as_ref())?;
    let features = features::encoded().context("cannot write the features")?;
    Ok(RuntimeInfo {
        name: RUNTIME.to_owned(),
        version: MessageField::some(RuntimeVersion {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..RuntimeVersion::default()
        }),
        options: options.into(),
        features: MessageField::some(features),
        ..RuntimeInfo::default()
    })
}

/// Starts the pod's server, or finds it, and prints its address.
fn start(flags: &Flags) -> Result<()> {
    let id = Id::parse(&flags.id)?;
    Id::parse(&flags.namespace)?;
    begin_moves();
    let bundle = std::env::current_dir().context("cannot find the bundle")?;
    let (pod, role) = place_of(&bundle, &id)?;
    let address = containerd_shim::socket_address(&flags.address, &flags.namespace, &pod);
    if let Some(listener) = socket::listen(&socket::path_of(&address)?)? {
        leave_server(flags, &bundle, role, listener)?;
    }
    std::fs::write("address", &address).context("cannot write the address file")?;
    print(address.as_bytes())
}

/// What the kernel waits for before libcontainer moves the new container's process into its cgroup on v2 begins now, in a helper
/// that nobody waits for; without it the container starts a little later. On v1 nobody waits.
fn begin_moves() {
    if crate::network::is_beside_v1().unwrap_or(true) {
        return;
    }
    let helper = || {
        // containerd reads this process's output to its end.
        let detached = File::options().read(true).write(true).open("/dev/null").and_then(|null| {
            dup2_stdin(&null)?;
            dup2_stdout(&null)?;
            Ok(dup2_stderr(&null)?)
        });
        i32::from(detached.and_then(|()| sandbox::cgroup::begin_moves()).is_err())
    };
    if let Err(err) = sandbox::process::spawn(&[], helper) {
        tracing::debug!(error = %err, "cannot fork a helper");
    }
}

/// The server is this program again, with the listening socket as its standard input and the mount of its program as its output: a
/// fresh process is smaller than a forked one, and holds nothing else of its parent's. It runs from a read-only mount of its own (CVE-2019-5736): a
/// container may come by the program of who is about to become its own, or joins it, and must not write to it.
fn leave_server(flags: &Flags, bundle: &Path, role: Role, listener: UnixListener) -> Result<()> {
    let log = File::options()
        .read(true)
        .write(true)
        .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits())
        .open(bundle.join("log"))
        .map_or_else(|_| Stdio::null(), Stdio::from);
    let program = OwnProgram::read_only().context("cannot mount this program read-only")?;
    let named = (role == Role::Workload).then_some([OsStr::new("-bundle"), bundle.as_os_str()]);
    let mut command = Command::new(program.path());
    command
        .arg0(std::env::args_os().next().unwrap_or_else(|| env!("CARGO_BIN_NAME").into()))
        .args(["-namespace", &flags.namespace, "-id", &flags.id, "-address", &flags.address])
        .args(flags.debug.then_some("-debug"))
        // Named where it is to look up the container's image at once.
        .args(named.iter().flatten())
        .arg("serve")
        // Not the bundle: that goes with its container, and the server may have others by then.
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(listener)))
        // Held by the server while it lives: who closes it last waits for the kernel, and containerd for this process.
        .stdout(Stdio::from(OwnedFd::from(program)))
        .stderr(log);
    let server = command.spawn().context("cannot start the shim's server")?;
    // Short of memory, the kernel should end the pod's server rather than containerd, which would take all pods with it.
    adjust_oom_score(server.id()).context("cannot adjust the server's OOM score")
}

/// The id by which the pod's containers share a server, and what the container is in its pod.
fn place_of(bundle: &Path, id: &Id) -> Result<(String, Role)> {
    #[derive(serde::Deserialize)]
    struct Annotated {
        #[serde(default)]
        annotations: HashMap<String, String>,
    }
    let config = std::fs::read(bundle.join("config.json")).context("cannot read config.json")?;
    let annotated: Annotated = serde_json::from_slice(&config).context("cannot parse config.json")?;
    Ok((group(&annotated.annotations, id), Role::of(&annotated.annotations)))
}

/// Cleans up after a server that died.
fn delete(flags: &Flags) -> Result<()> {
    let (namespace, id) = (Id::parse(&flags.namespace)?, Id::parse(&flags.id)?);
    let bundle =
        if flags.bundle.is_empty() { std::env::current_dir()? } else { PathBuf::from(&flags.bundle) };
    let folders = Folders::of_bundle(&bundle, &namespace, &id);
    crate::remove::remove(&folders, &bundle)?;
    if let Ok(address) = std::fs::read_to_string(bundle.join("address")) {
        socket::remove_dead(&socket::path_of(&address)?)?;
    }
    let response = DeleteResponse {
        exit_status: 137,
        exited_at: MessageField::some(timestamp(SystemTime::now())),
        ..DeleteResponse::default()
    };
    print(&response.write_to_bytes()?)
}

//! What was decided for a container when it was created, kept in its state folder for its execs and its end.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities, Process, Spec};
use profiles::plan::SeccompPlan;
use profiles::record::{self, Allow, Granted, Observation};
use profiles::{Intent, Plan, Policy, Profile};
use sandbox::programs::ResolvedPrograms;
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::identity::{Id, Identity};
use crate::records::{Context, Recorder, Spool};

/// The walls of one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Walls {
    /// Whose container.
    pub(crate) identity: Identity,
    /// Its image.
    pub(crate) image: record::Image,
    /// What the image declares.
    pub(crate) intent: Intent,
    /// What it is granted.
    pub(crate) profile: Profile,
    /// Who took the rest.
    pub(crate) policy: Policy,
    /// What each wall became on this host.
    pub(crate) plan: Plan,
    /// Its programs as they are in the image.
    pub(crate) programs: ResolvedPrograms,
    /// Those of a session with a terminal, where its policy grants it more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) session: Option<Session>,
    /// Whether the process gets mounts of its own, on which its programs are open; see [`Walls::of_session`].
    #[serde(skip)]
    pub(crate) own_mounts: bool,
    /// Volumes that the deployer mounted read-write.
    pub(crate) writable: Vec<PathBuf>,
    /// The pod's own seccomp profile, loaded beside ours.
    pub(crate) seccomp: Option<SeccompPlan>,
    /// Capability sets that the executor leaves the process with; see [`Walls::for_process`].
    pub(crate) late_capabilities: Option<LinuxCapabilities>,
}

/// In what the walls of a session differ from its container's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Session {
    pub(crate) profile: Profile,
    pub(crate) plan: Plan,
    pub(crate) programs: ResolvedPrograms,
}

impl Walls {
    /// The walls of a session with a terminal: the container's, or those that its policy has for sessions.
    pub(crate) fn of_session(mut self) -> Self {
        match self.session.take() {
            Some(Session { profile, plan, programs }) => {
                Self { profile, plan, programs, own_mounts: true, ..self }
            }
            None => self,
        }
    }

    /// Adapts the walls to one process.
    ///
    /// Without `no_new_privs` the kernel takes a filter only from a process that has CAP_SYS_ADMIN, and libcontainer
    /// calls the executor after it dropped what the spec does not name. So such a process (of an image that declares
    /// nothing) is given that capability until its filter is loaded, and the executor drops it then. So is one that gets
    /// mounts of its own, until it has them.
    pub(crate) fn for_process(mut self, process: &mut Process) -> Self {
        self.late_capabilities = None;
        let filtered = self.plan.seccomp.is_some() || self.seccomp.is_some();
        let loads = filtered && !process.no_new_privileges().unwrap_or(false);
        if !loads && !self.own_mounts {
            return self;
        }
        let sets = process.capabilities().clone().unwrap_or_default();
        let with = |set: &Option<Capabilities>| {
            let mut set = set.clone().unwrap_or_default();
            set.extend([Capability::SysAdmin, Capability::Setpcap]);
            Some(set)
        };
        let mut early = sets.clone();
        early.set_bounding(with(sets.bounding()));
        early.set_permitted(with(sets.permitted()));
        early.set_effective(with(sets.effective()));
        process.set_capabilities(Some(early));
        self.late_capabilities = Some(sets);
        self
    }

    /// The label that would allow what was seen.
    ///
    /// # Errors
    /// With the sentence that says why none can.
    pub(crate) fn allow(&self, seen: &Observation) -> Result<Allow, String> {
        record::allow(Granted { intent: &self.intent, profile: &self.profile, policy: &self.policy }, seen)
    }

    /// A recorder for the container's own process, or for one of its execs.
    pub(crate) fn recorder(&self, data_dir: &Path, exec: Option<&str>) -> Recorder {
        let context = Context {
            identity: self.identity.clone(),
            image: self.image.clone(),
            class: self.policy.class.clone(),
            profile: Some(self.plan.profile.clone()),
            exec: exec.map(str::to_owned),
        };
        Recorder::new(Spool::new(data_dir, &self.identity), context)
    }
}

/// In containerd's bundle: names the state folder.
const POINTER: &str = "keep-state";

/// Folders of one container: `<state_dir>/<namespace>/<id>/`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Folders {
    base: PathBuf,
    id: String,
}

impl Folders {
    /// The folders of a container; nothing is made yet.
    pub(crate) fn new(config: &Config, namespace: &Id, id: &Id) -> Self {
        Self { base: config.state_dir.join(namespace.as_str()).join(id.as_str()), id: id.as_str().to_owned() }
    }

    /// The folders of the container that a bundle is of, as [`Folders::point_from`] noted.
    pub(crate) fn of_bundle(bundle: &Path, namespace: &Id, id: &Id) -> Self {
        let state_dir = std::fs::read_to_string(bundle.join(POINTER)).map(PathBuf::from);
        let config = Config {
            state_dir: state_dir.unwrap_or_else(|_| Config::default().state_dir),
            ..Config::default()
        };
        Self::new(&config, namespace, id)
    }

    /// Notes in containerd's bundle where they are, for the clean-up after a dead shim: before they are made, and whole or
    /// not at all.
    ///
    /// # Errors
    /// When the bundle cannot be written into.
    pub(crate) fn point_from(&self, bundle: &Path) -> io::Result<()> {
        let state_dir = self.base.ancestors().nth(2).unwrap_or(&self.base);
        replace_private(&bundle.join(POINTER), state_dir.as_os_str().as_encoded_bytes())
    }

    /// Makes them, mode 0700.
    ///
    /// # Errors
    /// When they cannot be made, or exist already.
    pub(crate) fn make(&self) -> io::Result<()> {
        if let Some(parent) = self.base.parent() {
            make_private(parent)?;
        }
        let mut builder = DirBuilder::new();
        builder.mode(0o700).create(&self.base)?;
        builder.create(self.oci_root())?;
        builder.create(self.bundle())?;
        OpenOptions::new().write(true).create_new(true).mode(0o000).open(self.empty()).map(drop)
    }

    /// Removes them and all within.
    ///
    /// # Errors
    /// When something in them cannot be removed; nothing there is no error.
    pub(crate) fn remove(&self) -> io::Result<()> {
        remove_folder(&self.base)
    }

    /// The container's id.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Name of a cgroup of the container's own: no colon is in either part.
    pub(crate) fn cgroup_name(&self) -> String {
        let namespace = self.base.parent().and_then(Path::file_name).unwrap_or_default();
        format!("keep-{}:{}", namespace.to_string_lossy(), self.id)
    }

    /// Root of libcontainer's state.
    pub(crate) fn oci_root(&self) -> PathBuf {
        self.base.join("oci")
    }

    /// libcontainer's state of this container.
    pub(crate) fn oci_state(&self) -> PathBuf {
        self.oci_root().join(&self.id)
    }

    /// The bundle with the hardened runtime spec.
    pub(crate) fn bundle(&self) -> PathBuf {
        self.base.join("bundle")
    }

    /// An empty file that nobody may open, to hide others with.
    pub(crate) fn empty(&self) -> PathBuf {
        self.base.join("empty")
    }

    /// What an exec needs only while it is started; see [`Starting`].
    pub(crate) fn starting(&self, exec: &str) -> Starting {
        Starting { folder: self.base.join("starting").join(exec) }
    }

    /// Where execs' observers note what their processes run.
    pub(crate) fn execs(&self) -> PathBuf {
        self.base.join("execs")
    }

    fn walls(&self) -> PathBuf {
        self.base.join("walls.json")
    }

    /// Writes the hardened runtime spec, whole or not at all: who removes the container finds its cgroups by it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn save_spec(&self, spec: &Spec) -> io::Result<()> {
        replace_private(&self.bundle().join("config.json"), &serde_json::to_vec(spec)?)
    }

    /// Writes the walls, readable to root alone.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn save(&self, walls: &Walls) -> io::Result<()> {
        write_private(&self.walls(), &serde_json::to_vec(walls)?)
    }

    /// Reads the walls back.
    ///
    /// # Errors
    /// When the file is missing or damaged: without it no exec starts.
    pub(crate) fn load(&self) -> io::Result<Walls> {
        let mut bytes = Vec::new();
        File::open(self.walls())?.read_to_end(&mut bytes)?;
        Ok(serde_json::from_slice(&bytes)?)
    }
}

/// The files of one exec while it is started, in a folder of its own: libcontainer leaves a socket beside the state that it
/// reads, and whoever starts the exec may be killed.
#[derive(Debug)]
pub(crate) struct Starting {
    folder: PathBuf,
}

impl Starting {
    /// Makes the folder, with libcontainer's state of the container in it.
    ///
    /// # Errors
    /// When it cannot be made, or the container has no state.
    pub(crate) fn make(&self, of: &Folders) -> io::Result<()> {
        let state = self.oci_root().join(of.id());
        make_private(&state)?;
        for entry in std::fs::read_dir(of.oci_state())? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                std::fs::hard_link(entry.path(), state.join(entry.file_name()))?;
            }
        }
        Ok(())
    }

    /// Root of libcontainer's state, for this exec.
    pub(crate) fn oci_root(&self) -> PathBuf {
        self.folder.join("oci")
    }

    /// The process as the runtime spec describes it.
    pub(crate) fn process(&self) -> PathBuf {
        self.folder.join("process.json")
    }

    /// Removes the folder.
    ///
    /// # Errors
    /// When something in it cannot be removed; nothing there is no error.
    pub(crate) fn remove(&self) -> io::Result<()> {
        remove_folder(&self.folder)
    }
}

fn remove_folder(folder: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(err),
        _ => Ok(()),
    }
}

/// Makes a folder and those above it, mode 0700.
///
/// # Errors
/// When one of them cannot be made.
fn make_private(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Replaces a file of mode 0600 whole, so that a reader sees one version or the other, in a folder that is made where it is
/// missing.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn replace_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        make_private(folder)?;
    }
    let new = path.with_extension(format!("new-{}", std::process::id()));
    write_private(&new, bytes)?;
    std::fs::rename(&new, path)
}

/// Writes a file of mode 0600.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?.write_all(bytes)
}

//! Creates a container, in a child of its own: from the image's labels to walls, and to a process that waits to start.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::error::LibcontainerError;
use libcontainer::syscall::syscall::SyscallType;
use oci_spec::runtime::{Process, Root, Spec};
use profiles::intent::Capability;
use profiles::labels::{self, Notice};
use profiles::plan::{HostFacts, Wall, baseline_seccomp};
use profiles::policy::{Command, Mode, Subject};
use profiles::profile::{self, Computed, Origin, ProfileError};
use profiles::record::{self, Observation, Verdict};
use profiles::{Plan, Policy, Profile};
use sandbox::handover::Giver;
use sandbox::programs;
use sandbox::spec::ImagePrograms;

use crate::ahead::Ahead;
use crate::causes::Causes;
use crate::cgroup;
use crate::config::Config;
use crate::error::{Failure, Kind, chain};
use crate::executables;
use crate::executor::WallsExecutor;
use crate::identity::{Id, Identity, Role};
use crate::image::{Image, Question};
use crate::network;
use crate::policies::{self, InForce};
use crate::process;
use crate::records::{Context, Recorder, Spool};
use crate::rootfs::RootfsMount;
use crate::stdio::ProcessStdio;
use crate::walls::{Folders, Session, Walls};

/// Everything that creating a container takes.
#[derive(Debug)]
pub(crate) struct Creation {
    /// containerd namespace.
    pub(crate) namespace: Id,
    /// Container id.
    pub(crate) id: Id,
    /// containerd's bundle.
    pub(crate) bundle: PathBuf,
    /// containerd's gRPC socket.
    pub(crate) containerd: String,
    /// Mounts of the root filesystem.
    pub(crate) mounts: Vec<RootfsMount>,
    /// The handler's configuration.
    pub(crate) config: Config,
    /// Our folders.
    pub(crate) folders: Folders,
    /// The process's ends of its standard streams.
    pub(crate) stdio: ProcessStdio,
    /// Where it sends its terminal, if it has one.
    pub(crate) console: Option<PathBuf>,
    /// Where it hands over its listener.
    pub(crate) giver: Giver,
    /// The look-up of its image, where that was begun before.
    pub(crate) ahead: Option<Ahead>,
    /// Why the child that creates it is not born in the container's own cgroup, where it is to be.
    pub(crate) no_cgroup: Option<String>,
}

/// Creates the container; its process id in the shim's pid namespace. What a failure leaves behind, the shim removes:
/// this child may have been killed.
///
/// # Errors
/// When the labels are invalid, the policy refuses, a wall cannot be prepared, or libcontainer fails.
pub(crate) fn create(creation: Creation) -> Result<i32, Failure> {
    creation.mount()?;
    let mut spec = Spec::load(creation.bundle.join("config.json"))
        .map_err(|err| Failure::from_error(Kind::Invalid, &err))?;
    let identity = Identity::from_spec(creation.namespace.as_str(), &creation.id, &spec);
    let decision = Decision::make(&identity, &creation, &spec)?;
    let chain = decision.chain.clone();
    let rootfs = creation.rootfs(&spec);
    let walls = decision.walls(&mut spec, &rootfs, identity)?;
    creation.check_init(&walls, &spec)?;
    let walls = creation.harden(&mut spec, walls, chain.as_deref())?;
    network::check_birth(&creation.folders, &walls, creation.no_cgroup.as_deref())?;
    cgroup::enter(&spec, creation.is_systemd(&spec));
    creation.build(&spec, walls)
}

impl Creation {
    /// The root filesystem: where containerd's mounts of it go, or else the folder that the spec names.
    pub(crate) fn rootfs(&self, spec: &Spec) -> PathBuf {
        let named = spec.root().as_ref().map(Root::path);
        match named.filter(|path| self.mounts.is_empty() && !path.as_os_str().is_empty()) {
            Some(path) => self.bundle.join(path),
            None => self.mount_point(),
        }
    }

    fn mount_point(&self) -> PathBuf {
        self.bundle.join("rootfs")
    }

    fn mount(&self) -> Result<(), Failure> {
        self.mounts.iter().try_for_each(|mount| mount.mount(&self.mount_point(), &self.folders.bundle()))
    }

    /// The root filesystem where containerd has nothing mounted for it: what the container's client mounted.
    fn mounted_by_client(&self, spec: &Spec) -> Option<PathBuf> {
        self.mounts.is_empty().then(|| self.rootfs(spec))
    }

    /// The container's own program must be one that was declared: found out here, where containerd can be told.
    fn check_init(&self, walls: &Walls, spec: &Spec) -> Result<(), Failure> {
        let Some(name) = first_argument(spec) else {
            return Err(Failure::new(Kind::Invalid, "the runtime spec has no process arguments"));
        };
        let (path, cwd) = search_context(spec);
        check_program(walls, &self.rootfs(spec), &name, (&path, &cwd), &self.config.data_dir, None)
    }

    /// Narrows the spec to the walls, and writes both where libcontainer and later execs find them. `chain` is the
    /// chain id of the image's layers.
    fn harden(&self, spec: &mut Spec, mut walls: Walls, chain: Option<&str>) -> Result<Walls, Failure> {
        let (rootfs, empty) = (self.rootfs(spec), self.folders.empty());
        let all = executables::of_container(self, &rootfs, &walls.plan, chain)?;
        let programs = ImagePrograms { declared: &walls.programs, all: all.as_ref() };
        let gap = sandbox::spec::harden(spec, &walls.plan, programs, &rootfs, &empty)
            .map_err(|err| Failure::internal("cannot raise the walls in the runtime spec", &err))?;
        sandbox::spec::make_working_folder(spec, &rootfs)
            .map_err(|err| Failure::from_error(Kind::Invalid, &err))?;
        if let Some(gap) = gap {
            walls.recorder(&self.config.data_dir, None).gap(&gap);
            if walls.profile.require.contains(&gap.wall) {
                let class = &walls.policy.class;
                let because =
                    format!("the policy of class {class} requires the {} wall: {}", gap.wall, gap.sentence);
                return Err(Failure::new(Kind::Precondition, because));
            }
            walls.plan.gaps.push(gap);
        }
        let walls = match spec.process_mut() {
            Some(process) => walls.for_process(process),
            None => walls,
        };
        if let Some(root) = spec.root_mut() {
            root.set_path(rootfs.clone());
        }
        if walls.plan.mode == Mode::Audit {
            // Not behind walls: this program runs in the container's namespaces then, where others may look at it.
            sandbox::spec::defer_devices(spec, &rootfs);
        }
        sandbox::spec::translate(spec, &cgroup::v1_cgroups(spec)?)
            .map_err(|err| Failure::from_error(Kind::Invalid, &err))?;
        sandbox::spec::stage(spec, &self.bundle.join("keep-mounts"), &rootfs)
            .map_err(|err| Failure::from_error(Kind::Internal, &err))?;
        self.folders
            .save_spec(spec)
            .map_err(|err| Failure::internal("cannot write the hardened runtime spec", &err))?;
        self.folders
            .save(&walls)
            .map_err(|err| Failure::internal("cannot write the container's walls", &err))?;
        Ok(walls)
    }

    /// Whether systemd makes the container's cgroups.
    fn is_systemd(&self, spec: &Spec) -> bool {
        self.config.systemd_cgroup.unwrap_or_else(|| is_systemd_path(spec))
    }

    /// Has libcontainer build the container, up to a process that waits.
    fn build(self, spec: &Spec, walls: Walls) -> Result<i32, Failure> {
        let causes = Causes::listen();
        let failed =
            |err: LibcontainerError| Failure::of_libcontainer("cannot create container", &causes, &err);
        let systemd = self.is_systemd(spec);
        self.stdio
            .chown(sandbox::spec::owner(spec))
            .map_err(|err| Failure::internal("cannot give the streams to the container's user", &err))?;
        let mut builder = ContainerBuilder::new(self.id.as_str().to_owned(), SyscallType::default())
            .with_executor(WallsExecutor::new(walls, self.giver))
            .with_console_socket(self.console)
            .with_root_path(self.folders.oci_root())
            .map_err(failed)?;
        [builder.stdin, builder.stdout, builder.stderr] = self.stdio.into_descriptors();
        let container = builder
            .as_init(self.folders.bundle())
            .with_systemd(systemd)
            .as_sibling(true)
            .with_detach(true)
            .build()
            .map_err(failed)?;
        let pid = container.pid().map(|pid| pid.as_raw());
        pid.ok_or_else(|| {
            Failure::new(Kind::Internal, "libcontainer reports no process for the new container")
        })
    }
}

/// What was decided about a container before its root filesystem was looked at.
struct Decision {
    image: record::Image,
    /// Chain id of the image's layers.
    chain: Option<String>,
    policy: Policy,
    computed: Computed,
    plan: Plan,
    /// The profile of sessions with a terminal and its plan, where they are others.
    session: Option<(Profile, Plan)>,
}

impl Decision {
    fn make(identity: &Identity, creation: &Creation, spec: &Spec) -> Result<Self, Failure> {
        let config = &creation.config;
        // Before the image, for which containerd may still be asked.
        let host = sandbox::facts::probe();
        let node = policies::load(config);
        let image = match identity.role {
            Role::PodSandbox => Image { entrypoint: first_argument(spec), ..Image::default() },
            Role::Workload => {
                let mounted = creation.mounted_by_client(spec);
                // What its client mounted is looked at too, which nobody could before.
                let ahead = creation.ahead.as_ref().filter(|_| mounted.is_none());
                match ahead.and_then(Ahead::image) {
                    Some(image) => image,
                    None => {
                        let question = Question {
                            containerd: &creation.containerd,
                            namespace: &identity.namespace,
                            id: &identity.id,
                            mounted: mounted.as_deref(),
                        };
                        let answer = question.ask_apart();
                        answer.map_err(|err| Failure::from_error(Kind::Precondition, &err))?
                    }
                }
            }
        };
        let recorded = recorded_image(identity, &image);
        let context = Context {
            identity: identity.clone(),
            image: recorded.clone(),
            class: config.class.clone(),
            profile: None,
            exec: None,
        };
        let mut recorder = Recorder::new(Spool::new(&config.data_dir, identity), context);
        let node = node.map_err(|err| Refusal::new(Kind::Precondition, err));
        let decided = node.and_then(|node| {
            let (policy, notice) = in_force(identity, &recorded, &config.class, node)?;
            recorder.notices(notice.as_slice());
            Ok((decide(identity, &image, &policy, &host, spec)?, policy))
        });
        match decided {
            Ok(((computed, plan, session), policy)) => {
                recorder.profile(&plan.profile);
                recorder.notices(&computed.notices);
                for gap in &plan.gaps {
                    recorder.gap(gap);
                }
                Ok(Self { image: recorded, chain: image.chain, policy, computed, plan, session })
            }
            Err(refusal) => {
                recorder.observe(refusal.observation(&image.name), |_| Err(refusal.because.clone()));
                Err(Failure::new(refusal.kind, refusal.because))
            }
        }
    }

    fn walls(mut self, spec: &mut Spec, rootfs: &Path, identity: Identity) -> Result<Walls, Failure> {
        let internal = |doing: &str, err: &(dyn std::error::Error + 'static)| Failure::internal(doing, err);
        let (path, cwd) = search_context(spec);
        let command =
            (self.computed.profile.command == Command::Allow).then(|| first_argument(spec)).flatten();
        let resolve = |plan: &Plan| {
            programs::resolve(rootfs, plan, command.as_deref(), &path, &cwd)
                .map_err(|err| internal("cannot find the declared programs", &err))
        };
        if !sandbox::spec::may_hold_sockets(spec) {
            self.plan.leave_connect_to_programs();
        }
        let programs = resolve(&self.plan)?;
        let session = self
            .session
            .map(|(profile, plan)| Ok(Session { programs: resolve(&plan)?, profile, plan }))
            .transpose()?;
        let seccomp = sandbox::spec::take_seccomp(spec)
            .map_err(|err| internal("cannot take the pod's seccomp profile", &err))?
            .map(|json| profiles::plan::seccomp_from_oci(&json, sandbox::facts::NATIVE))
            .transpose()
            .map_err(|err| {
                Failure::new(Kind::Invalid, format!("the pod's seccomp profile: {}", chain(&err)))
            })?;
        let writable = sandbox::spec::writable_volumes(spec, &self.plan);
        Ok(Walls {
            identity,
            image: self.image,
            intent: self.computed.intent,
            profile: self.computed.profile,
            policy: self.policy,
            plan: self.plan,
            programs,
            session,
            own_mounts: false,
            writable,
            seccomp,
            late_capabilities: None,
        })
    }
}

/// What the container is granted and its plan, and those of sessions with a terminal where they are others.
type Decided = (Computed, Plan, Option<(Profile, Plan)>);

/// Why a container is not started: recorded, and told to containerd.
struct Refusal {
    kind: Kind,
    because: String,
}

impl Refusal {
    fn new(kind: Kind, because: impl ToString) -> Self {
        Self { kind, because: because.to_string() }
    }

    fn observation(&self, image: &str) -> Observation {
        Observation {
            wall: Wall::Policy,
            operation: "start".to_owned(),
            object: image.to_owned(),
            verdict: Verdict::Denied,
            errno: None,
            pid: 0,
            program: String::new(),
        }
    }
}

/// The policy in force for a container, and a notice where the policies that decide are not the folder's own.
fn in_force(
    identity: &Identity,
    image: &record::Image,
    class: &str,
    node: InForce,
) -> Result<(Policy, Option<Notice>), Refusal> {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let (name, digest) = (some(&image.name), some(&image.digest));
    let subject = Subject {
        class,
        namespace: identity.pod.as_ref().map(|pod| pod.namespace.as_str()),
        image: name.as_deref(),
        digest: digest.as_deref(),
        now: SystemTime::now(),
    };
    let policy = node.policies.select(&subject).map_err(|err| Refusal::new(Kind::Invalid, err))?;
    Ok((policy, node.broken.map(|problem| Notice::BrokenPolicies { problem })))
}

fn decide(
    identity: &Identity,
    image: &Image,
    policy: &Policy,
    host: &HostFacts,
    spec: &Spec,
) -> Result<Decided, Refusal> {
    if !policy.privileged && is_privileged(spec) {
        let because = format!(
            "class {} runs no privileged containers; remove privileged from the pod, or use a class that allows it",
            policy.class
        );
        return Err(Refusal::new(Kind::Denied, because));
    }
    let computed = match identity.role {
        Role::PodSandbox => profile::pod_sandbox(image.entrypoint.as_deref(), policy),
        Role::Workload => profile::compute(labels::parse(&image.labels), image.entrypoint.as_deref(), policy)
            .map_err(|err| {
                let kind = if matches!(err, ProfileError::Invalid(_)) { Kind::Invalid } else { Kind::Denied };
                Refusal::new(kind, err)
            })?,
    };
    let planned = |profile: &Profile| {
        profiles::plan(profile, host).map_err(|err| Refusal::new(Kind::Precondition, err))
    };
    let mut plan = planned(&computed.profile)?;
    let session = computed.profile.of_session();
    let session = session.map(|profile| Ok((profile.clone(), planned(&profile)?))).transpose()?;
    if computed.profile.origin == Origin::Baseline {
        // containerd's default filter depends on what the pod spec leaves the container.
        plan.seccomp = Some(baseline_seccomp(&bounding(spec), host.arch));
    }
    Ok((computed, plan, session))
}

/// The capabilities that the runtime spec leaves the container at most.
fn bounding(spec: &Spec) -> BTreeSet<Capability> {
    let sets = spec.process().as_ref().and_then(|process| process.capabilities().as_ref());
    let bounding = sets.and_then(|sets| sets.bounding().as_ref()).into_iter().flatten();
    bounding.filter_map(|capability| Capability::new(&capability.to_string()).ok()).collect()
}

/// Refuses and records a program that a container's own process or an exec names and that was not declared.
///
/// # Errors
/// When `name` is found under `root` and is not among the declared programs.
pub(crate) fn check_program(
    walls: &Walls,
    root: &Path,
    name: &str,
    (path, cwd): (&str, &str),
    data_dir: &Path,
    exec: Option<&str>,
) -> Result<(), Failure> {
    if walls.plan.programs.is_none() || walls.plan.mode == Mode::Audit {
        return Ok(());
    }
    // One that is not found there may lie on a volume; then Landlock decides, as for every other.
    let Some(found) = programs::find_program(root, name, path, cwd) else { return Ok(()) };
    if walls.programs.contains(&found) {
        return Ok(());
    }
    let observation = Observation {
        wall: Wall::Exec,
        operation: "execve".to_owned(),
        object: found.to_string(),
        verdict: Verdict::Denied,
        errno: Some("EACCES".to_owned()),
        pid: 0,
        program: if exec.is_some() { "exec".to_owned() } else { "init".to_owned() },
    };
    let allow = walls.allow(&observation);
    let hint = match &allow {
        Ok(allow) => format!("to allow it: {}={:?}", allow.label, allow.value),
        Err(because) => because.clone(),
    };
    walls.recorder(data_dir, exec).observe(observation, |_| allow);
    Err(Failure::new(Kind::Denied, format!("the image does not declare the program {found}; {hint}")))
}

fn recorded_image(identity: &Identity, image: &Image) -> record::Image {
    record::Image {
        name: identity.image_name.clone().unwrap_or_else(|| image.name.clone()),
        digest: image.digest.clone(),
    }
}

fn first_argument(spec: &Spec) -> Option<String> {
    spec.process().as_ref().and_then(process::program).map(str::to_owned)
}

/// `PATH` and working directory of the container's own process.
fn search_context(spec: &Spec) -> (String, String) {
    let of = |own: &Process| (process::search_path(own).to_owned(), own.cwd().to_string_lossy().into_owned());
    spec.process().as_ref().map_or_else(|| of(&Process::default()), of)
}

/// A container with every capability and the host's devices is what Kubernetes calls privileged.
fn is_privileged(spec: &Spec) -> bool {
    let process = spec.process().as_ref();
    let bounding = process.and_then(|p| p.capabilities().as_ref()).and_then(|c| c.bounding().as_ref());
    let all =
        bounding.is_some_and(|set| set.contains(&oci_spec::runtime::Capability::SysAdmin) && set.len() >= 38);
    let unmasked = spec.linux().as_ref().is_none_or(|l| l.masked_paths().as_ref().is_none_or(Vec::is_empty));
    all && unmasked
}

fn is_systemd_path(spec: &Spec) -> bool {
    let path = spec.linux().as_ref().and_then(|l| l.cgroups_path().as_ref());
    path.is_some_and(|path| process::is_systemd_cgroup(path))
}

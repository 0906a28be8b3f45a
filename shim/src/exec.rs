//! Starts a further process in a container, in a child of its own, behind the same walls as the container's init.

use std::path::{Path, PathBuf};

use libcontainer::container::Container;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::error::LibcontainerError;
use libcontainer::syscall::syscall::SyscallType;
use oci_spec::runtime::Process;
use profiles::plan::Wall;
use profiles::policy::InteractiveExec;
use profiles::record::{Observation, Verdict};
use sandbox::handover::Giver;

use crate::causes::Causes;
use crate::cgroup;
use crate::create::check_program;
use crate::error::{Failure, Kind, chain};
use crate::executor::WallsExecutor;
use crate::identity::Id;
use crate::network;
use crate::process::{program, search_path};
use crate::stdio::ProcessStdio;
use crate::walls::{Folders, Starting, Walls, write_private};

/// Everything that an exec takes.
#[derive(Debug)]
pub(crate) struct Exec {
    /// Container.
    pub(crate) id: Id,
    /// Exec id.
    pub(crate) exec_id: Id,
    /// The container's folders.
    pub(crate) folders: Folders,
    /// Where records go.
    pub(crate) data_dir: PathBuf,
    /// The process as containerd describes it, JSON of the runtime spec's `process`.
    pub(crate) spec: Vec<u8>,
    /// Its ends of the standard streams.
    pub(crate) stdio: ProcessStdio,
    /// Where it sends its terminal, if it has one.
    pub(crate) console: Option<PathBuf>,
    /// Where it hands over its listener.
    pub(crate) giver: Giver,
    /// Why the child that starts it is not born in the container's cgroup, where it is to be.
    pub(crate) no_cgroup: Option<String>,
}

/// Creates and starts the process; its id in the shim's pid namespace. Its [`Starting`] folder is the shim's to remove: this
/// child may have been killed.
///
/// # Errors
/// When the policy refuses the session, the program was not declared, or libcontainer fails.
pub(crate) fn start(exec: Exec) -> Result<i32, Failure> {
    let internal = |doing: &str, err: &(dyn std::error::Error + 'static)| Failure::internal(doing, err);
    let mut process = parse(&exec.exec_id, &exec.spec)?;
    // The request says it, as under runc: the streams were made for that.
    process.set_terminal(Some(exec.console.is_some()));
    let walls = exec.folders.load().map_err(|err| internal("cannot read the container's walls", &err))?;
    let walls = if exec.console.is_some() { session(&exec, walls, &process)? } else { walls };
    let container = Container::load(exec.folders.oci_state())
        .map_err(|err| Failure::new(Kind::Precondition, chain(&err)))?;
    let pid =
        container.pid().ok_or_else(|| Failure::new(Kind::Precondition, "the container has no process"))?;
    check(&exec, &walls, &process, Path::new(&format!("/proc/{pid}/root")))?;
    sandbox::spec::harden_process(&mut process, &walls.plan);
    let walls = walls.for_process(&mut process);
    let starting = exec.folders.starting(exec.exec_id.as_str());
    let json =
        serde_json::to_vec(&process).map_err(|err| internal("cannot write the exec's process", &err))?;
    starting
        .make(&exec.folders)
        .and_then(|()| write_private(&starting.process(), &json))
        .map_err(|err| internal("cannot write the exec's process", &err))?;
    let user = (process.user().uid(), process.user().gid());
    let owner = sandbox::idmap::owner_in(pid.as_raw(), user)
        .map_err(|err| internal("cannot tell whose the container's users are", &err))?;
    exec.stdio.chown(owner).map_err(|err| internal("cannot give the streams to the exec's user", &err))?;
    network::check_birth(&exec.folders, &walls, exec.no_cgroup.as_deref())?;
    cgroup::enter_again(&container)?;
    libcontainer(exec, walls, &starting)
}

/// The process that an exec's `spec` describes.
///
/// # Errors
/// When it is no JSON of a runtime spec's `process`.
fn parse(exec_id: &Id, spec: &[u8]) -> Result<Process, Failure> {
    serde_json::from_slice(spec).map_err(|err| {
        Failure::new(Kind::Invalid, format!("cannot parse the process of exec {}: {err}", exec_id.as_str()))
    })
}

/// Refuses what [`start`] could not parse.
///
/// # Errors
/// When it is no JSON of a runtime spec's `process`.
pub(crate) fn check_spec(exec_id: &Id, spec: &[u8]) -> Result<(), Failure> {
    parse(exec_id, spec).map(drop)
}

/// The walls of a session with a terminal, if its policy lets it in.
fn session(exec: &Exec, walls: Walls, process: &Process) -> Result<Walls, Failure> {
    let because = if walls.profile.interactive_exec == InteractiveExec::Deny {
        format!("class {} lets no terminal into a running container", walls.policy.class)
    } else {
        let walls = walls.of_session();
        if !walls.own_mounts || walls.plan.landlock.is_some() {
            return Ok(walls);
        }
        return Err(Failure::new(
            Kind::Precondition,
            "interactiveExec: debug takes Landlock, which this kernel lacks or has switched off: without it the \
             container's own processes would reach the session's programs",
        ));
    };
    let observation = Observation {
        wall: Wall::Policy,
        operation: "exec-session".to_owned(),
        object: program(process).unwrap_or_default().to_owned(),
        verdict: Verdict::Denied,
        errno: None,
        pid: 0,
        program: "exec".to_owned(),
    };
    walls
        .recorder(&exec.data_dir, Some(exec.exec_id.as_str()))
        .observe(observation, |_| Err(because.clone()));
    Err(Failure::new(Kind::Denied, because))
}

fn check(exec: &Exec, walls: &Walls, process: &Process, root: &Path) -> Result<(), Failure> {
    let name = program(process).ok_or_else(|| Failure::new(Kind::Invalid, "the exec has no arguments"))?;
    let cwd = process.cwd().to_string_lossy();
    check_program(
        walls,
        root,
        name,
        (search_path(process), &cwd),
        &exec.data_dir,
        Some(exec.exec_id.as_str()),
    )
}

fn libcontainer(exec: Exec, walls: Walls, starting: &Starting) -> Result<i32, Failure> {
    let causes = Causes::listen();
    let failed = |err: LibcontainerError| Failure::of_libcontainer("cannot exec in container", &causes, &err);
    let mut builder = ContainerBuilder::new(exec.id.as_str().to_owned(), SyscallType::default())
        .with_executor(WallsExecutor::new(walls, exec.giver))
        .with_console_socket(exec.console)
        .with_root_path(starting.oci_root())
        .map_err(failed)?;
    [builder.stdin, builder.stdout, builder.stderr] = exec.stdio.into_descriptors();
    let pid = builder
        .as_tenant()
        .with_process(Some(starting.process()))
        .as_sibling(true)
        .with_detach(true)
        .build()
        .map_err(failed)?;
    Ok(pid.as_raw())
}

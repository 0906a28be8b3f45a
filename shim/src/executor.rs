//! The last steps inside the container's process: prepare the walls, raise them, hand over the listener, `execve`.

use std::cell::RefCell;
use std::ffi::CString;
use std::path::Path;
use std::rc::Rc;

use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use nix::errno::Errno;
use nix::unistd::{AccessFlags, access, execv, getcwd};
use oci_spec::runtime::{LinuxCapabilities, Spec};
use profiles::policy::Mode;
use sandbox::enforce::{Enforced, Prepared};
use sandbox::handover::Giver;

use crate::error::chain;
use crate::process::search_path;
use crate::walls::Walls;

/// Raises one container's walls around the calling process.
///
/// libcontainer clones it by the memory copy of `clone`, never with a second owner in one process: `Rc` and `RefCell` are enough.
#[derive(Clone)]
pub(crate) struct WallsExecutor {
    walls: Rc<Walls>,
    giver: Rc<Giver>,
    ready: Rc<RefCell<Option<Ready>>>,
}

struct Ready {
    prepared: Prepared,
    program: CString,
    args: Vec<CString>,
    /// What is still to be dropped once the filter is loaded.
    capabilities: Option<LinuxCapabilities>,
}

impl WallsExecutor {
    /// For one process of the container that `walls` belong to.
    pub(crate) fn new(walls: Walls, giver: Giver) -> Self {
        Self { walls: Rc::new(walls), giver: Rc::new(giver), ready: Rc::new(RefCell::new(None)) }
    }

    fn prepare(&self, spec: &Spec) -> Result<Ready, String> {
        let process = spec.process().as_ref().ok_or("the runtime spec has no process")?;
        let args =
            process.args().as_ref().filter(|args| !args.is_empty()).ok_or("the process has no arguments")?;
        let capabilities = self.open_programs()?;
        let program = search(&args[0], search_path(process)).map_err(|errno| match errno {
            Errno::ENOENT => format!("exec: {:?}: executable file not found in $PATH", args[0]),
            other => format!("exec: {:?}: {}", args[0], other.desc()),
        })?;
        let args: Result<Vec<CString>, _> = args.iter().map(|arg| CString::new(arg.as_bytes())).collect();
        let args = args.map_err(|_| "an argument contains a NUL byte".to_owned())?;
        let walls = &self.walls;
        let prepared = Prepared::new(&walls.plan, &walls.programs, &walls.writable, walls.seccomp.as_ref())
            .map_err(|err| chain(&err))?;
        Ok(Ready { prepared, program, args, capabilities })
    }

    /// Gives a session its own mounts, and drops what only that took; else the capabilities to be dropped later.
    fn open_programs(&self) -> Result<Option<LinuxCapabilities>, String> {
        let late = &self.walls.late_capabilities;
        if !self.walls.own_mounts {
            return Ok(late.clone());
        }
        sandbox::session::open_programs(&self.walls.programs).map_err(|err| chain(&err))?;
        late.as_ref().map_or(Ok(()), sandbox::capabilities::keep_only).map_err(|err| chain(&err))?;
        Ok(None)
    }

    /// Everything from here on happens behind the walls; returns only the reason why the program was not started.
    fn enforce_and_execute(&self) -> String {
        let Some(ready) = self.ready.borrow_mut().take() else {
            return "the walls were not prepared".to_owned();
        };
        let listener = match ready.prepared.enforce() {
            Ok(Enforced::Fully(listener)) => listener,
            // Audit mode promises no wall; its gaps were recorded with the plan.
            Ok(Enforced::Partially(listener, _)) if self.walls.plan.mode == Mode::Audit => listener,
            Ok(Enforced::Partially(_, gaps)) => {
                let sentences: Vec<String> = gaps.into_iter().map(|gap| gap.sentence).collect();
                return format!("the walls could not be raised in full: {}", sentences.join("; "));
            }
            Err(err) => return chain(&err),
        };
        if let Some(sets) = &ready.capabilities
            && let Err(err) = sandbox::capabilities::keep_only(sets)
        {
            return chain(&err);
        }
        if let Err(err) = self.giver.give(listener) {
            return format!("cannot hand the filter's listener to the observer: {err}");
        }
        let Err(errno) = execv(&ready.program, &ready.args);
        format!("exec {:?}: {}", ready.program, errno.desc())
    }
}

impl Executor for WallsExecutor {
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let ready = self.prepare(spec).map_err(ExecutorValidationError::ArgValidationError)?;
        *self.ready.borrow_mut() = Some(ready);
        Ok(())
    }

    fn exec(&self, _spec: &Spec) -> Result<(), ExecutorError> {
        let why = self.enforce_and_execute();
        match self.giver.fail(&why) {
            Ok(()) => Err(ExecutorError::Other(why)),
            Err(err) => Err(ExecutorError::Other(format!("{why}; and the observer cannot be told: {err}"))),
        }
    }
}

/// Finds the program as `execvp` would, but once and before the walls stand, so that no search shows up as attempts.
fn search(name: &str, path: &str) -> Result<CString, Errno> {
    let candidates: Vec<String> = if name.contains('/') {
        vec![name.to_owned()]
    } else {
        path.split(':').filter(|folder| !folder.is_empty()).map(|folder| format!("{folder}/{name}")).collect()
    };
    let mut worst = Errno::ENOENT;
    for candidate in candidates {
        match access(Path::new(&candidate), AccessFlags::X_OK) {
            Ok(()) if Path::new(&candidate).is_dir() => worst = Errno::EACCES,
            Ok(()) => return absolute(&candidate),
            Err(Errno::ENOENT | Errno::ENOTDIR) => {}
            Err(errno) => worst = errno,
        }
    }
    Err(worst)
}

/// The observer is told absolute paths.
fn absolute(path: &str) -> Result<CString, Errno> {
    let path = getcwd()?.join(path).into_os_string().into_encoded_bytes();
    CString::new(path).map_err(|_| Errno::EINVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_name_is_searched_in_path_and_a_folder_is_no_program() {
        assert!(search("true", "/nonexistent:/usr/bin:/bin").is_ok());
        assert_eq!(search("true", "/nonexistent"), Err(Errno::ENOENT));
        assert_eq!(search("/usr", ""), Err(Errno::EACCES));
    }
}

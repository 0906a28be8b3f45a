//! The end of a container's own cgroups.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use nix::sys::signal::Signal;
use sandbox::cgroup::{OwnCgroup, v1_mounts};

use crate::Case;
use crate::confine::Cgroup;

pub(crate) const CASES: &[Case] =
    &[("a_cgroup_is_removed_with_those_beneath_it_and_what_runs_there_and_no_other", removed)];

fn removed() {
    let unified = Cgroup::new();
    check(&unified.0);
    if let Some(hierarchy) = v1_mounts(["pids"]).unwrap().first() {
        check(&OwnCgroup::new(hierarchy.join(unified.0.path().file_name().unwrap())));
    }
}

fn check(cgroup: &OwnCgroup) {
    // Another, whose name begins as this one's.
    let mut other = cgroup.path().as_os_str().to_owned();
    other.push("-other");
    let other = OwnCgroup::new(other.into());
    let beneath = cgroup.path().join("one/two");
    fs::create_dir_all(&beneath).unwrap();
    fs::create_dir_all(cgroup.path().join("three")).unwrap();
    other.make().unwrap();
    let mut inside = [beneath.as_path(), other.path()].map(|folder| {
        let child = Command::new("sleep").arg("60").spawn().unwrap();
        fs::write(folder.join("cgroup.procs"), child.id().to_string()).unwrap();
        child
    });
    cgroup.remove().unwrap();
    assert!(!cgroup.path().exists());
    assert_eq!(inside[0].wait().unwrap().signal(), Some(Signal::SIGKILL as i32));
    assert!(inside[1].try_wait().unwrap().is_none() && other.path().exists());
    other.remove().unwrap();
    inside[1].wait().unwrap();
    cgroup.remove().unwrap();
}

//! Where cgroups are, and the end of a container's own.

use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use nix::mount::{MsFlags, mount, umount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::getpid;
use sandbox::cgroup::{OwnCgroup, Unified, v1_mounts};
use sandbox::process;

use crate::Case;
use crate::confine::Cgroup;

pub(crate) const CASES: &[Case] = &[
    ("a_cgroup_is_removed_with_those_beneath_it_and_what_runs_there_and_no_other", removed),
    ("a_hierarchy_is_found_once_and_again_when_something_else_is_at_its_place", found_again),
];

fn found_again() {
    let cgroup = Cgroup::new();
    let part = cgroup.0.path();
    let place = part.parent().unwrap();
    let own = || Unified::find().unwrap().cgroup_of(getpid());
    let child = process::spawn(&[], || {
        let before = own().unwrap();
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        assert_eq!(own().unwrap(), before);
        // A part of the hierarchy that this process is not in.
        mount(Some(part), place, none, MsFlags::MS_BIND, none).unwrap();
        assert_eq!(own().unwrap_err().kind(), io::ErrorKind::NotFound);
        umount(place).unwrap();
        assert_eq!(own().unwrap(), before);
        0
    });
    let child = child.unwrap();
    assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)));
}

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

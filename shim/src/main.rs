//! `containerd-shim-keep-v2`: one process for each pod, between containerd and the pod's containers.
//!
//! The walk of one container start: [`service`] takes containerd's request, [`create`] (in a short-lived child)
//! asks [`image`] what was declared, has `profiles` compute what is granted and `sandbox` turn it into walls, and
//! has libcontainer build the container; [`observer`] (a small child that stays) starts it and answers its filter.
#![forbid(unsafe_code)]

mod ahead;
mod bootstrap;
mod causes;
mod cgroup;
mod child;
mod config;
mod console;
mod container;
mod create;
mod error;
mod events;
mod exec;
mod executables;
mod executor;
mod features;
mod identity;
mod idle;
mod image;
mod lifecycle;
mod logger;
mod logging;
mod network;
mod observer;
mod oom;
mod pod;
mod policies;
mod process;
mod reaper;
mod records;
mod remove;
mod rootfs;
mod running;
mod server;
mod service;
mod socket;
mod stats;
mod stdio;
mod walls;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<std::ffi::OsString> = std::env::args_os().skip(1).collect();
    match bootstrap::run(&args, server::serve) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            // containerd shows a shim's standard error in its own message.
            eprintln!("containerd-shim-keep-v2: {}", error::chain(err.as_ref()));
            ExitCode::FAILURE
        }
    }
}

//! Mechanism: turns a [`profiles::Plan`] into walls around the calling process, and observes what tries to cross them.
//!
//! In the order in which a container's life uses them: [`facts`] says what this kernel offers; [`programs`] finds
//! what the declared programs are in the image; [`spec`] hardens the OCI runtime spec; [`enforce`] restricts the
//! container's init just before its `execve`; [`network`] watches its sockets from its [`cgroup`]; [`handover`] brings the filter's listener out of it; [`observe`]
//! serves the listener in a process that [`process`] forked.
//!
//! Knows nothing of containerd, Kubernetes or annotations. All of the workspace's `unsafe` is in `sys/`.
#![deny(missing_docs)]
#![deny(unsafe_code)]

pub mod capabilities;
pub mod cgroup;
pub mod enforce;
pub mod executables;
pub mod facts;
pub mod filter;
mod floor;
pub mod handover;
mod header;
pub mod idmap;
pub mod mountinfo;
pub mod network;
pub mod observe;
mod paths;
pub mod policy_folder;
pub mod process;
pub mod programs;
pub mod session;
pub mod spec;
#[allow(unsafe_code)]
mod sys;
#[cfg(test)]
mod testing;

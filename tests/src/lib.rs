//! What the integration tests, the demo and the benchmarks stand on: what they need installed and built, images
//! made offline, a containerd or a whole Kubernetes node in namespaces of its own, and what must be gone afterwards.

#![forbid(unsafe_code)]

pub mod attack;
pub mod cache;
pub mod census;
pub mod cluster;
pub mod command;
pub mod conformance;
pub mod cookbook;
pub mod debian;
pub mod dockerfile;
pub mod elf;
pub mod handler;
pub mod image;
pub mod images;
pub mod intruder;
pub mod node;
pub mod provision;
pub mod registry;
pub mod shared;
pub mod suite;
pub mod task;
pub mod tracer;
pub mod under_test;

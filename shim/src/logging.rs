//! The shim's log: containerd's log fifo, on a descriptor of its own.
//!
//! Standard error will not do: in a container's process it is the container's long before its program runs.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::OnceLock;

use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::causes::Listener;

static LOG: OnceLock<File> = OnceLock::new();

/// Logs to a copy of standard error from now on; with `debug`, libcontainer's steps too.
///
/// # Errors
/// When the descriptor cannot be copied.
pub(crate) fn init(debug: bool) -> io::Result<()> {
    let copy = File::from(io::stderr().as_fd().try_clone_to_owned()?);
    let file: &'static File = LOG.get_or_init(|| copy);
    let (ours, libraries) = if debug { (Level::DEBUG, Level::DEBUG) } else { (Level::INFO, Level::ERROR) };
    let filter = Targets::new().with_default(libraries).with_target(env!("CARGO_CRATE_NAME"), ours);
    let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || file);
    tracing_subscriber::registry().with(filter).with(layer).with(Listener).init();
    Ok(())
}

/// The log's descriptor, which every child keeps: a line written to a number that means something else by then would
/// end up there.
pub(crate) fn descriptor() -> Option<RawFd> {
    LOG.get().map(AsRawFd::as_raw_fd)
}

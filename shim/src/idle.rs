//! What the shim, and each child of it that stays, does before it waits for long.

use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the runtime is to rest before it waits the next time.
static ASKED: AtomicBool = AtomicBool::new(false);

/// Gives memory back that the shim, or a child of it that stays, does not need while it waits.
pub(crate) fn rest() {
    if let Err(err) = sandbox::process::rest() {
        tracing::debug!(error = %err, "cannot give memory back");
    }
}

/// Has the asynchronous runtime rest right before it waits: what it runs until then is not mapped again.
pub(crate) fn rest_soon() {
    ASKED.store(true, Ordering::Relaxed);
}

/// The runtime is about to wait.
pub(crate) fn before_waiting() {
    if ASKED.swap(false, Ordering::Relaxed) {
        rest();
    }
}

//! What the shim, and each child of it that stays, does before it waits for long.

/// Gives memory back that the shim, or a child of it that stays, does not need while it waits.
pub(crate) fn rest() {
    if let Err(err) = sandbox::process::rest() {
        tracing::debug!(error = %err, "cannot give memory back");
    }
}

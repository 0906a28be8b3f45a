//! `keep node`: the agent that reports a node's violations to Kubernetes.

use std::path::PathBuf;

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

use super::Outcome;
use crate::{node, spool};

/// Report this node's violations as events on their pods, until SIGTERM.
///
/// Takes no part in starting or confining containers: walls stand with the agent stopped, and records wait on disk.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  keep node --kubeconfig /etc/kubernetes/keep.conf
  KEEP_LOG=debug keep node --node-name n1

The log goes to standard error; KEEP_LOG sets what is logged (error, warn, info, debug).

Exit codes:
  0  stopped by SIGTERM or SIGINT
  2  bad usage, or no way to the API server is configured")]
pub(crate) struct Node {
    /// How to reach the API server [default: $KUBECONFIG, ~/.kube/config, or the pod's service account].
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// This node's name [default: $NODE_NAME, else the host name].
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// Where Keep stores its data.
    #[arg(long, value_name = "DIR", default_value = spool::DATA_DIR)]
    data_dir: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// When the node's name or the way to the API server is not to be found.
pub(crate) fn run(args: &Node) -> anyhow::Result<Outcome> {
    let filter = EnvFilter::try_from_env("KEEP_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let settings = node::Settings {
        kubeconfig: args.kubeconfig.clone(),
        node: node_name(args.node_name.clone())?,
        data_dir: args.data_dir.clone(),
    };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(node::run(settings))?;
    Ok(Outcome::Fine)
}

fn node_name(given: Option<String>) -> anyhow::Result<String> {
    let named = given.or_else(|| std::env::var("NODE_NAME").ok()).filter(|name| !name.is_empty());
    if let Some(name) = named {
        return Ok(name);
    }
    let host = nix::unistd::gethostname().context("cannot read the host name; give --node-name")?;
    Ok(host.to_string_lossy().into_owned())
}

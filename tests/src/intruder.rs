//! The intruder of the demo: five moves from inside nginx's own worker process, through the hole in its handler.

use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::command::until;
use crate::images;
use crate::node::{Node, Runtime};

/// One thing that the intruder tries.
#[derive(Debug, Clone, Copy)]
pub struct Move {
    /// In words.
    pub words: &'static str,
    /// What to ask of the hole.
    pub query: &'static str,
    /// Key of the label that allows it.
    pub label: &'static str,
}

/// Port on which the demo's listener waits for the intruder's connection.
pub const LISTENER: u16 = 9000;

/// Number of msgget(2) on this architecture.
const MSGGET: &str = if cfg!(target_arch = "aarch64") { "msgget=186" } else { "msgget=68" };

/// The five.
pub const MOVES: [Move; 5] = [
    Move { words: "run /bin/sh", query: "exec=/bin/sh", label: "dev.keep.exec" },
    Move { words: "write to /etc", query: "write=/etc/nginx/conf.d/backdoor.conf", label: "dev.keep.write" },
    Move { words: "connect out to port 9000", query: "connect=127.0.0.1:9000", label: "dev.keep.connect" },
    Move { words: "listen on port 4444", query: "bind=4444", label: "dev.keep.listen" },
    Move { words: "make a message queue", query: MSGGET, label: "dev.keep.needs" },
];

/// Asks nginx, inside the node, for a page.
///
/// # Errors
/// When it does not answer with 200.
pub fn get(node: &Node, path: &str) -> Result<String> {
    let url = format!("http://127.0.0.1:{}{path}", images::NGINX_PORT);
    Ok(node.run("curl", &["-sSf", "-m", "10", &url])?.success()?.text().to_owned())
}

/// Makes a move; `ok`, or `denied ERRNO`.
///
/// # Errors
/// When nginx does not answer.
pub fn attempt(node: &Node, one: &Move) -> Result<String> {
    get(node, &format!("/hole?{}", one.query))
}

/// Starts nginx's image in the node's network and waits until it serves.
///
/// # Errors
/// When it does not; shows what `ctr` said.
pub fn serve(node: &Node, runtime: Runtime, image: &str, id: &str) -> Result<()> {
    let log = format!("file://{}", node.folder.join("log").join(format!("{id}.log")).display());
    let started =
        node.start_container(runtime, &["-d", "--net-host", "--log-uri", &log], image, id, &[])?.success()?;
    let served = until("nginx to serve", Duration::from_secs(10), || get(node, "/").ok());
    served.with_context(|| format!("{started}\nnginx said: {}", node.log_end(id))).map(drop)
}

/// Starts what the intruder would connect to.
///
/// # Errors
/// When the probe is not built.
pub fn listen(node: &mut Node) -> Result<()> {
    let probe = crate::under_test::binary("keep-probe")?;
    node.daemon("listener", &probe.to_string_lossy(), &["serve", &LISTENER.to_string()])
}

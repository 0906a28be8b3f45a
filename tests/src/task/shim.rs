//! A shim itself, over its own socket: what containerd does not hand on.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::shim_async::Client;
use containerd_shim_protos::ttrpc::{self, Code};
use tokio::runtime::Runtime;

use super::runtime;
use crate::node::{Containerd, Node};

/// Longest that one call may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection to the shim that serves a container.
pub struct Shim {
    runtime: Runtime,
    client: Client,
    service: &'static str,
}

impl Shim {
    /// Connects to the shim of a container that has a task.
    ///
    /// # Errors
    /// When there is none.
    pub fn connect(node: &Node, id: &str) -> Result<Self> {
        let address = Self::address(node, id)?;
        let path = address.strip_prefix("unix://").with_context(|| format!("{address} is no socket"))?;
        let runtime = runtime()?;
        let outside = format!("unix://{}", node.inside(Path::new(path)).display());
        let client = runtime.block_on(Client::connect(&outside));
        let client = client.with_context(|| format!("cannot connect to the shim at {outside}"))?;
        let service = match node.options.containerd {
            Containerd::Debian => "containerd.task.v2.Task",
            Containerd::Built => "containerd.task.v3.Task",
        };
        Ok(Self { runtime, client, service })
    }

    /// The address of the shim that serves a container, as containerd noted it.
    ///
    /// # Errors
    /// When there is none.
    pub fn address(node: &Node, id: &str) -> Result<String> {
        let bundle = node.bundle(id);
        if let Ok(text) = std::fs::read_to_string(bundle.join("bootstrap.json")) {
            let noted: serde_json::Value =
                serde_json::from_str(&text).context("bootstrap.json is no JSON")?;
            return noted["address"].as_str().map(str::to_owned).context("bootstrap.json has no address");
        }
        std::fs::read_to_string(bundle.join("address")).context("the bundle names no address")
    }

    /// Makes one call: the answer, or its status code.
    ///
    /// # Errors
    /// When the shim does not answer, or not with what is expected.
    pub fn call<M: Message, T: Message>(&self, method: &str, message: &M) -> Result<Result<T, Code>> {
        let mut request = ttrpc::Request::new();
        request.set_service(self.service.to_owned());
        request.set_method(method.to_owned());
        request.set_timeout_nano(i64::try_from(PATIENCE.as_nanos())?);
        request.set_payload(message.write_to_bytes()?);
        match self.runtime.block_on(self.client.request(request)) {
            Ok(response) => Ok(Ok(T::parse_from_bytes(&response.payload)?)),
            Err(ttrpc::Error::RpcStatus(status)) => Ok(Err(status.code())),
            Err(error) => Err(error).with_context(|| format!("cannot call {method} of the shim")),
        }
    }
}

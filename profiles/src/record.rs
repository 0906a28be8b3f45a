//! Records of what tried to cross a wall: one JSON line each, schema `keep.dev/violation/v1`.

use serde::{Deserialize, Serialize};

use crate::plan::Wall;

mod allow;
mod notice;
mod sentence;

pub use allow::{Granted, allow};
pub use notice::from_notice;
pub(crate) use notice::listed;
pub use sentence::readable;

/// `schema` of every record.
pub const SCHEMA: &str = "keep.dev/violation/v1";

/// Whether the attempt was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Stopped.
    Denied,
    /// Let through and recorded.
    Audited,
}

/// What the observer saw, before the shim adds whose container it was.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Observation {
    /// The wall.
    pub wall: Wall,
    /// The system call's name, or for wall `policy`: `labels`, `undeclared`, `clamped`, `policies`,
    /// `exec-session`, `start`, `gap`.
    pub operation: String,
    /// exec, file: absolute path in the container. network: `10.0.0.1:443/tcp`, `[::1]:53/udp`, `unix:/path`.
    /// syscall: the call with its arguments, `ptrace(16, 1, 0, 0)`.
    pub object: String,
    /// Stopped or let through.
    pub verdict: Verdict,
    /// Symbolic error number that the caller gets, such as `EACCES`; `None` where it gets none.
    pub errno: Option<String>,
    /// Process id in the container's pid namespace.
    pub pid: u32,
    /// Absolute path of the caller's program in the container.
    pub program: String,
}

/// One record, one line of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Record {
    /// [`SCHEMA`].
    #[cfg_attr(feature = "schema", schemars(extend("const" = SCHEMA)))]
    pub schema: String,
    /// UTC, RFC 3339 with microseconds.
    pub time: String,
    /// Node name (host name).
    pub node: String,
    /// Class.
    pub class: String,
    /// The pod; null outside Kubernetes.
    pub pod: Option<Pod>,
    /// The container.
    pub container: Container,
    /// The image.
    pub image: Image,
    /// Profile digest; null where none could be computed.
    pub profile: Option<String>,
    /// Who tried.
    pub process: Process,
    /// The wall.
    pub wall: Wall,
    /// See [`Observation::operation`].
    pub operation: String,
    /// See [`Observation::object`].
    pub object: String,
    /// Denied or audited.
    pub verdict: Verdict,
    /// Error number by name.
    pub errno: Option<String>,
    /// How often since the previous record of the same kind, at least 1.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub count: u64,
    /// The label that would allow it.
    pub allow: Option<Allow>,
    /// Why no label can allow it; present exactly when `allow` is null.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Pod {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
}

/// A container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Container {
    /// containerd's id.
    pub id: String,
    /// Name in the pod spec, else the id.
    pub name: String,
    /// Exec id, null for the container's own process.
    pub exec: Option<String>,
}

/// An image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Image {
    /// Reference as containerd has it.
    pub name: String,
    /// Digest of the image's manifest (or index).
    pub digest: String,
}

/// A process in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Process {
    /// Process id in the container's pid namespace; 0 where there is none yet.
    pub pid: u32,
    /// Its program's path.
    pub program: String,
}

/// A label, with the whole new value that would allow what was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Allow {
    /// Key.
    pub label: String,
    /// The whole new value, ready to paste.
    pub value: String,
}

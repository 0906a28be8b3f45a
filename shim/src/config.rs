//! The runtime's own configuration: which class a handler stands for, and where Keep's folders are.
//!
//! It comes from containerd's handler options alone, never from anything that a pod or an image says.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use prost::Message;
use serde::Deserialize;

/// Longest configuration that is read, in bytes.
const MAX_CONFIG: u64 = 64 * 1024;

/// One runtime handler's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// Class: `keep`, `keep-strict`, `keep-permissive`, or one that a policy defines. Absent: that of the program's name.
    #[serde(default = "default_class")]
    pub(crate) class: String,
    /// Folder of the platform team's policies.
    #[serde(default = "default_policy_dir")]
    pub(crate) policy_dir: PathBuf,
    /// Spool of records and last-known-good policies, beneath it `spool/` and `policy/`.
    #[serde(default = "default_data_dir")]
    pub(crate) data_dir: PathBuf,
    /// State of containers while they live.
    #[serde(default = "default_state_dir")]
    pub(crate) state_dir: PathBuf,
    /// Whether cgroup paths are systemd's (`slice:prefix:name`); found out from the path's form if absent.
    #[serde(default)]
    pub(crate) systemd_cgroup: Option<bool>,
}

/// That of the name by which containerd runs this program.
fn default_class() -> String {
    let class = std::env::args_os().next().and_then(|name| class_of_name(Path::new(&name)));
    class.unwrap_or_else(|| "keep".to_owned())
}

/// The class of which a name of this program tells: `containerd-shim-keep-strict-v2`, which is what containerd runs for
/// `runtime_type = "io.containerd.keep-strict.v2"`.
fn class_of_name(program: &Path) -> Option<String> {
    let name = program.file_name()?.to_str()?;
    let class = name.strip_prefix("containerd-shim-")?.strip_suffix("-v2")?;
    (class == "keep" || class.starts_with("keep-")).then(|| class.to_owned())
}

fn default_policy_dir() -> PathBuf {
    PathBuf::from("/etc/keep/policy.d")
}

fn default_data_dir() -> PathBuf {
    PathBuf::from("/var/lib/keep")
}

fn default_state_dir() -> PathBuf {
    PathBuf::from("/run/keep")
}

impl Default for Config {
    fn default() -> Self {
        Self {
            class: default_class(),
            policy_dir: default_policy_dir(),
            data_dir: default_data_dir(),
            state_dir: default_state_dir(),
            systemd_cgroup: None,
        }
    }
}

/// Why a handler's options cannot be used; the container does not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The options are not a `runtimeoptions.v1.Options` message.
    #[error("cannot decode the runtime options {type_url:?}")]
    Decode { type_url: String, source: prost::DecodeError },
    /// The file that they name cannot be read.
    #[error("cannot read the runtime configuration {path}")]
    Read { path: PathBuf, source: std::io::Error },
    /// The file is larger than [`MAX_CONFIG`].
    #[error("the runtime configuration {0} is larger than {MAX_CONFIG} bytes")]
    TooLarge(PathBuf),
    /// Not the TOML that is expected.
    #[error("cannot parse the runtime configuration {origin}: {problem}")]
    Parse { origin: String, problem: String },
}

/// `runtimeoptions.v1.Options`, what containerd passes for a handler that is not runc's.
/// Source: containerd, api/types/runtimeoptions/v1/api.proto.
#[derive(Clone, PartialEq, Message)]
struct RuntimeOptions {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(string, tag = "2")]
    config_path: String,
    #[prost(bytes = "vec", tag = "3")]
    config_body: Vec<u8>,
}

impl Config {
    /// Reads the configuration from a create request's options; none means the defaults.
    ///
    /// # Errors
    /// When there are options that cannot be read or understood: never a silent default.
    pub(crate) fn from_options(options: Option<&Any>) -> Result<Self, ConfigError> {
        let Some(any) = options.filter(|any| !any.value.is_empty()) else {
            return Ok(Self::default());
        };
        if !any.type_url.contains("runtimeoptions") {
            // Options of another runtime (`containerd.runc.v1.Options`) hold nothing that is Keep's.
            return Ok(Self::default());
        }
        let decoded = RuntimeOptions::decode(any.value.as_slice())
            .map_err(|source| ConfigError::Decode { type_url: any.type_url.clone(), source })?;
        if !decoded.config_path.is_empty() {
            let path = Path::new(&decoded.config_path);
            return Self::parse(&read_bounded(path)?, &decoded.config_path);
        }
        let body = String::from_utf8(decoded.config_body).map_err(|_| ConfigError::Parse {
            origin: "ConfigBody".to_owned(),
            problem: "it is not UTF-8".to_owned(),
        })?;
        Self::parse(&body, "ConfigBody")
    }

    fn parse(text: &str, origin: &str) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|err| ConfigError::Parse {
            origin: origin.to_owned(),
            problem: err.message().replace('\n', " "),
        })
    }
}

fn read_bounded(path: &Path) -> Result<String, ConfigError> {
    let fail = |source| ConfigError::Read { path: path.to_owned(), source };
    let mut text = String::new();
    File::open(path).map_err(fail)?.take(MAX_CONFIG + 1).read_to_string(&mut text).map_err(fail)?;
    if text.len() as u64 > MAX_CONFIG {
        return Err(ConfigError::TooLarge(path.to_owned()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_s_name_tells_the_class() {
        let class = |name: &str| class_of_name(Path::new(name));
        assert_eq!(class("/usr/local/bin/containerd-shim-keep-v2").as_deref(), Some("keep"));
        assert_eq!(class("containerd-shim-keep-strict-v2").as_deref(), Some("keep-strict"));
        for other in
            ["containerd-shim-runc-v2", "containerd-shim-keeper-v2", "containerd-shim-keep-strict", ""]
        {
            assert_eq!(class(other), None, "{other}");
        }
    }

    fn options(path: &str, body: &str) -> Any {
        let message = RuntimeOptions {
            type_url: String::new(),
            config_path: path.to_owned(),
            config_body: body.as_bytes().to_vec(),
        };
        Any {
            type_url: "runtimeoptions.v1.Options".to_owned(),
            value: message.encode_to_vec(),
            ..Any::default()
        }
    }

    #[test]
    fn without_options_the_class_is_keep() {
        assert_eq!(Config::from_options(None).unwrap().class, "keep");
    }

    #[test]
    fn a_body_names_the_class() {
        let config = Config::from_options(Some(&options("", "class = \"keep-strict\""))).unwrap();
        assert_eq!(config.class, "keep-strict");
        assert_eq!(config.data_dir, PathBuf::from("/var/lib/keep"));
    }

    #[test]
    fn an_unreadable_path_is_an_error_not_a_default() {
        assert!(matches!(
            Config::from_options(Some(&options("/nonexistent/x.toml", ""))),
            Err(ConfigError::Read { .. })
        ));
    }

    #[test]
    fn a_misspelt_key_is_an_error_not_a_default() {
        assert!(matches!(
            Config::from_options(Some(&options("", "clas = \"keep-strict\""))),
            Err(ConfigError::Parse { .. })
        ));
    }
}

//! The two containerds, their configuration, and the runtimes that they start containers with.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::Node;
use crate::{command, provision, under_test};

/// Which containerd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Containerd {
    /// Debian's own, 1.6.
    Debian,
    /// 2.3, built from its Go module.
    Built,
}

impl Containerd {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Debian, Self::Built];

    /// Installs or builds it.
    ///
    /// # Errors
    /// When it cannot be had; says what is missing.
    pub fn provide(self) -> Result<()> {
        provision::debian(provision::PACKAGES)?;
        match self {
            Self::Debian => Ok(()),
            Self::Built => provision::containerd(),
        }
    }
}

impl FromStr for Containerd {
    type Err = anyhow::Error;

    fn from_str(version: &str) -> Result<Self> {
        match version {
            "1.6" => Ok(Self::Debian),
            "2.3" => Ok(Self::Built),
            _ => bail!("there are 1.6, Debian's own, and 2.3"),
        }
    }
}

impl fmt::Display for Containerd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Debian => "containerd 1.6",
            Self::Built => "containerd 2.3",
        })
    }
}

/// What `ctr run` starts a container with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    /// containerd's shim with runc: the reference.
    Runc,
    /// Keep, class `keep`, without a configuration file.
    Keep,
    /// Keep with a configuration file that names this class.
    KeepClass(&'static str),
}

impl Runtime {
    pub(crate) fn flags(self, folder: &Path) -> Result<Vec<String>> {
        let words: Vec<String> = match self {
            Self::Runc => vec!["--runtime".into(), "io.containerd.runc.v2".into()],
            Self::Keep => vec!["--runtime".into(), under_test::RUNTIME.into()],
            Self::KeepClass(class) => {
                let file = folder.join(format!("{class}.toml"));
                std::fs::write(&file, format!("class = \"{class}\"\n"))
                    .context("cannot write the class's file")?;
                let file = file.to_string_lossy().into_owned();
                vec!["--runtime".into(), under_test::RUNTIME.into(), "--runtime-config-path".into(), file]
            }
        };
        Ok(words)
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Runc => "runc",
            Self::Keep => "keep",
            Self::KeepClass(class) => class,
        })
    }
}

impl Node {
    /// Starts containerd and waits until it answers.
    ///
    /// # Errors
    /// When it does not answer within 20 s; shows the end of its log.
    pub fn start_containerd(&mut self) -> Result<()> {
        self.start_containerd_with(&[])
    }

    /// The same, with further flags for containerd.
    ///
    /// # Errors
    /// As [`Self::start_containerd`].
    pub fn start_containerd_with(&mut self, flags: &[&str]) -> Result<()> {
        let text = match (self.options.containerd, self.options.kubernetes) {
            (Containerd::Debian, false) => include_str!("containerd-1.6.toml"),
            (Containerd::Debian, true) => {
                concat!(include_str!("containerd-1.6.toml"), include_str!("containerd-1.6-cri.toml"))
            }
            (Containerd::Built, false) => include_str!("containerd-2.3.toml"),
            (Containerd::Built, true) => {
                concat!(include_str!("containerd-2.3.toml"), include_str!("containerd-2.3-cri.toml"))
            }
        };
        let mut text = text.replace("@N@", &self.folder.to_string_lossy());
        text = text.replace("@BIN@", &provision::binaries()?.to_string_lossy());
        if !self.options.kubernetes {
            text = format!(
                "disabled_plugins = ['io.containerd.grpc.v1.cri', 'io.containerd.cri.v1.runtime', 'io.containerd.cri.v1.images']\n{text}"
            );
        }
        let path = self.folder.join("containerd.toml");
        std::fs::write(&path, text).context("cannot write containerd's configuration")?;
        let path = path.to_string_lossy();
        self.daemon("containerd", "containerd", &[&["-c", path.as_ref()], flags].concat())?;
        let answers = || self.ctr(&["version"]).ok().filter(|output| output.status.success());
        let answered = command::until("containerd to answer", Duration::from_secs(20), answers);
        answered.with_context(|| format!("containerd said:\n{}", self.log_end("containerd")))?;
        Ok(())
    }
}

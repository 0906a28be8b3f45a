//! Which image of an archive is meant: options that several commands share.

use std::io;
use std::path::Path;

use anyhow::Context as _;
use oci_spec::image::{Arch, Os};

use crate::image::{self, Choice, Image};

/// Which image of an archive.
#[derive(Debug, clap::Args)]
pub(crate) struct ImageArgs {
    /// Image to take from an archive that holds several: its name, the end of its name after a slash, or its digest.
    #[arg(long = "image", value_name = "NAME")]
    name: Option<String>,
    /// Platform to take from a multi-platform image [default: this machine's, linux].
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<String>,
}

impl ImageArgs {
    /// The image that is meant.
    ///
    /// # Errors
    /// When the platform is none.
    pub(crate) fn choice(&self) -> anyhow::Result<Choice> {
        Ok(Choice { name: self.name.clone(), ..platform(self.platform.as_deref())? })
    }

    /// Reads the image at `path`; `-` is a label file on standard input.
    ///
    /// # Errors
    /// When it cannot be read, or holds several images and none was chosen.
    pub(crate) fn open(&self, path: &Path) -> anyhow::Result<Image> {
        let choice = self.choice()?;
        let image = if path.as_os_str() == "-" {
            image::label_text(io::stdin().lock(), &file_name(path), &choice)
        } else {
            image::open(path, &choice)
        };
        image.with_context(|| crate::words::printable(&file_name(path)))
    }
}

/// The file in messages.
pub(crate) fn file_name(path: &Path) -> String {
    if path.as_os_str() == "-" { "standard input".to_owned() } else { path.display().to_string() }
}

fn platform(wanted: Option<&str>) -> anyhow::Result<Choice> {
    let Some(wanted) = wanted else { return Ok(Choice { name: None, os: Os::Linux, arch: Arch::default() }) };
    let parts = wanted.split_once('/').filter(|(os, arch)| !os.is_empty() && !arch.is_empty());
    let (os, arch) = parts.with_context(|| format!("platform {wanted:?} is not of the form linux/amd64"))?;
    Ok(Choice { name: None, os: Os::from(os), arch: Arch::from(arch) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_platform_is_an_operating_system_and_an_architecture() {
        let choice = platform(Some("linux/arm64")).unwrap();
        assert_eq!((choice.os, choice.arch), (Os::Linux, Arch::ARM64));
        assert!(platform(Some("arm64")).is_err() && platform(Some("/")).is_err());
        assert_eq!(platform(None).unwrap().os, Os::Linux);
    }
}

//! Files of an image layout, in a folder or in a tar file, and blobs verified by their digests.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use oci_spec::image::Descriptor;
use sha2::{Digest as _, Sha256};

use super::ImageError;
use super::archive::Archive;

/// Where an image's files lie.
#[derive(Debug)]
pub(crate) enum Store {
    Folder(PathBuf),
    Archive(Archive),
}

impl Store {
    pub(super) fn folder(path: &Path) -> Self {
        Self::Folder(path.to_owned())
    }

    pub(super) fn archive(file: File) -> Result<Self, ImageError> {
        Ok(Self::Archive(Archive::new(file)?))
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        match self {
            Self::Folder(folder) => folder.join(name).is_file(),
            Self::Archive(archive) => archive.contains(name),
        }
    }

    /// Reads the file `name`, a relative path without `..`; at most `max` bytes.
    ///
    /// # Errors
    /// When it is missing, larger, or cannot be read.
    pub(super) fn read(&mut self, name: &str, max: u64) -> Result<Vec<u8>, ImageError> {
        match self {
            Self::Archive(archive) => archive.read(name, max),
            Self::Folder(folder) => read_file(&folder.join(name), name, max),
        }
    }

    /// The bytes of the file `name`, a relative path without `..`, as they are asked for.
    ///
    /// # Errors
    /// When it is missing or cannot be read.
    pub(super) fn stream(&mut self, name: &str) -> Result<Box<dyn Read + '_>, ImageError> {
        match self {
            Self::Archive(archive) => Ok(Box::new(archive.stream(name)?)),
            Self::Folder(folder) => Ok(Box::new(open_file(&folder.join(name), name)?.0)),
        }
    }

    /// Reads the blob that `descriptor` names and verifies its size and digest.
    ///
    /// # Errors
    /// As [`Store::read`], and when the blob is not what the descriptor promised.
    pub(super) fn blob(&mut self, descriptor: &Descriptor, max: u64) -> Result<Vec<u8>, ImageError> {
        let promised = descriptor.digest().as_ref().to_owned();
        let Some(hex) = descriptor.as_digest_sha256() else {
            return Err(ImageError::UnsupportedDigest(promised));
        };
        let name = format!("blobs/sha256/{hex}");
        if descriptor.size() > max {
            return Err(ImageError::TooLarge { what: name, size: descriptor.size(), max });
        }
        let bytes = self.read(&name, max)?;
        if bytes.len() as u64 != descriptor.size() {
            return Err(ImageError::Size {
                what: name,
                expected: descriptor.size(),
                found: bytes.len() as u64,
            });
        }
        verify(&name, &bytes, hex)?;
        Ok(bytes)
    }
}

/// Compares the SHA-256 of `bytes` with `hex`.
///
/// # Errors
/// When they differ.
pub(super) fn verify(what: &str, bytes: &[u8], hex: &str) -> Result<(), ImageError> {
    let found = crate::words::hex(&Sha256::digest(bytes));
    if found == hex {
        return Ok(());
    }
    Err(ImageError::Digest {
        what: what.to_owned(),
        expected: format!("sha256:{hex}"),
        found: format!("sha256:{found}"),
    })
}

/// Opens a regular file, and nothing that would wait for a writer.
fn open_file(path: &Path, name: &str) -> Result<(File, u64), ImageError> {
    let failed = |source| ImageError::Read { what: name.to_owned(), source };
    let metadata = match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(ImageError::Missing { what: name.to_owned() });
        }
        other => other.map_err(failed)?,
    };
    if !metadata.is_file() {
        return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
    }
    Ok((File::open(path).map_err(failed)?, metadata.len()))
}

fn read_file(path: &Path, name: &str, max: u64) -> Result<Vec<u8>, ImageError> {
    let (file, size) = open_file(path, name)?;
    let mut bytes = Vec::new();
    file.take(max + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| ImageError::Read { what: name.to_owned(), source })?;
    if bytes.len() as u64 > max {
        return Err(ImageError::TooLarge { what: name.to_owned(), size: size.max(max + 1), max });
    }
    Ok(bytes)
}

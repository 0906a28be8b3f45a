//! The files of an image, read from its layers without unpacking them: names, kinds, modes, and the text of scripts.

use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use profiles::intent::AbsPath;
use profiles::lint::{File, Files, Kind, MAX_SCRIPT, Script};
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use sha2::{Digest as _, Sha256};

use super::ImageError;
use super::archive::{Extended, MAX_EXTENSION};
use super::store::Store;

/// Most files that an image may have here.
const MAX_FILES: usize = 500_000;
/// Most bytes that all layers may have, decompressed: what is larger is a bomb or no service's image.
const MAX_UNPACKED: u64 = 32 << 30;
/// So much of all scripts together is kept.
const MAX_SCRIPTS: usize = 16 << 20;
/// What is looked at to tell a script: the kernel reads as much. Source: `BINPRM_BUF_SIZE`, include/uapi/linux/binfmts.h.
const FIRST_LINE: usize = 256;
/// Longest path. Source: `PATH_MAX`, include/uapi/linux/limits.h.
const MAX_PATH: usize = 4096;

/// Reads the layers `layers` of `store`, lowest first, whose decompressed digests are `digests`.
///
/// # Errors
/// When a layer is missing, malformed, not what its digest says, or more than is read.
pub(super) fn scan(store: &mut Store, layers: &[String], digests: &[String]) -> Result<Files, ImageError> {
    if layers.len() != digests.len() {
        return Err(ImageError::Archive("its manifest and its config disagree on how many layers it has"));
    }
    let mut scan = Scan { left: MAX_UNPACKED, ..Scan::default() };
    for (name, digest) in layers.iter().zip(digests) {
        let failed = |source| ImageError::Read { what: format!("layer {name}"), source };
        let stream = decompressed(BufReader::new(store.stream(name)?)).map_err(failed)?;
        let mut stream = Measured { stream, hash: Sha256::new(), left: scan.left };
        scan.layer(&mut stream).map_err(failed)?;
        // What follows the end mark counts for the digest.
        io::copy(&mut stream, &mut io::sink()).map_err(failed)?;
        scan.left = stream.left;
        let found = format!("sha256:{}", crate::words::hex(&stream.hash.finalize()));
        if found != *digest {
            let what = format!("layer {name}, decompressed,");
            return Err(ImageError::Digest { what, expected: digest.clone(), found });
        }
    }
    scan.files.complete = true;
    Ok(scan.files)
}

fn decompressed<'a>(mut stream: BufReader<Box<dyn Read + 'a>>) -> io::Result<Box<dyn Read + 'a>> {
    let head = stream.fill_buf()?;
    Ok(if head.starts_with(&[0x1f, 0x8b]) {
        Box::new(MultiGzDecoder::new(stream))
    } else if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        Box::new(Zstd { source: stream, decoder: FrameDecoder::new(), in_frame: false })
    } else {
        Box::new(stream)
    })
}

/// Zstandard frames one after the other; what is between them (zstd:chunked keeps its index so) is passed over.
struct Zstd<R> {
    source: R,
    decoder: FrameDecoder,
    in_frame: bool,
}

impl<R: BufRead> Zstd<R> {
    /// Begins the next frame; `false` at the end.
    fn begin(&mut self) -> io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            match self.decoder.init(&mut self.source) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let length = u64::from(length);
                    if io::copy(&mut self.source.by_ref().take(length), &mut io::sink())? < length {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            }
        }
        Ok(false)
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !buffer.is_empty() {
            if !self.in_frame && !self.begin()? {
                break;
            }
            self.in_frame = true;
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let one = BlockDecodingStrategy::UptoBlocks(1);
                let decoded = self.decoder.decode_blocks(&mut self.source, one);
                decoded.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            }
            let read = self.decoder.read(buffer)?;
            if read > 0 {
                return Ok(read);
            }
            self.in_frame = false;
        }
        Ok(0)
    }
}

/// A stream that is hashed and may not go on for ever.
struct Measured<R> {
    stream: R,
    hash: Sha256,
    left: u64,
}

impl<R: Read> Read for Measured<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.stream.read(buffer)?;
        self.left = self.left.checked_sub(read as u64).ok_or_else(|| too_much("bytes"))?;
        self.hash.update(&buffer[..read]);
        Ok(read)
    }
}

fn too_much(of_what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the image has more {of_what} than are read"))
}

/// What the layers so far have made.
#[derive(Default)]
struct Scan {
    files: Files,
    /// What this layer brought: whiteouts speak of the layers beneath.
    added: BTreeSet<AbsPath>,
    left: u64,
    scripts: usize,
    /// The last folder that was asked for, and where it leads.
    folder: Option<(AbsPath, AbsPath)>,
}

impl Scan {
    fn layer(&mut self, stream: impl Read) -> io::Result<()> {
        self.added.clear();
        let mut extended = Extended::default();
        for entry in tar::Archive::new(stream).entries()?.raw(true) {
            let mut entry = entry?;
            let kind = entry.header().entry_type();
            if Extended::is_extension(kind) {
                if entry.size() > MAX_EXTENSION {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "an extended header is too long"));
                }
                let mut content = Vec::new();
                entry.read_to_end(&mut content)?;
                extended.add(&content, kind);
                continue;
            }
            let said = std::mem::take(&mut extended);
            if kind.is_pax_global_extensions() {
                continue;
            }
            if said.size.is_some_and(|size| size != entry.size()) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a file of a layer has two sizes"));
            }
            let name = said.name.or_else(|| text(&entry.path_bytes()));
            let link = said.link.or_else(|| entry.link_name_bytes().and_then(|link| text(&link)));
            // A name that is not UTF-8 is none that a label can say.
            if let Some(path) = name.filter(|name| name.len() <= MAX_PATH).and_then(|name| path(&name)) {
                self.entry(path, link.as_deref(), &mut entry)?;
            }
        }
        Ok(())
    }

    fn entry<R: Read>(
        &mut self,
        path: AbsPath,
        link: Option<&str>,
        entry: &mut tar::Entry<'_, R>,
    ) -> io::Result<()> {
        let name = path.as_str().rsplit('/').next().unwrap_or_default().to_owned();
        let folder = self.real_folder(&path.parent());
        if let Some(hidden) = name.strip_prefix(".wh.") {
            if hidden == ".wh..opq" {
                self.remove_beneath(&folder);
            } else if let Some(path) = beneath(&folder, hidden) {
                self.remove_beneath(&path);
                if !self.added.contains(&path) {
                    self.files.entries.remove(&path);
                }
            }
            return Ok(());
        }
        let Some(path) = (if path.as_str() == "/" { Some(path) } else { beneath(&folder, &name) }) else {
            return Ok(());
        };
        let mode = entry.header().mode()? & 0o7777;
        let kind = match entry.header().entry_type() {
            tar::EntryType::Directory => Kind::Folder,
            tar::EntryType::Symlink => Kind::Link(link.unwrap_or_default().to_owned()),
            tar::EntryType::Link => {
                let target = link.and_then(self::path).and_then(|target| self.files.resolve(&target));
                let file = target.map(|(_, file)| file.clone());
                return self.insert(path, file.unwrap_or(File { kind: Kind::Regular, mode }));
            }
            kind if kind.is_file() => self.regular(entry, mode)?,
            _ => Kind::Other,
        };
        self.insert(path, File { kind, mode })
    }

    fn insert(&mut self, path: AbsPath, file: File) -> io::Result<()> {
        if self.files.entries.len() >= MAX_FILES {
            return Err(too_much("files"));
        }
        self.folder = None;
        if file.kind != Kind::Folder {
            self.remove_beneath(&path);
        }
        self.added.insert(path.clone());
        self.files.entries.insert(path, file);
        Ok(())
    }

    /// A script is read, of any other file nothing.
    fn regular<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>, mode: u32) -> io::Result<Kind> {
        if mode & 0o111 == 0 {
            return Ok(Kind::Regular);
        }
        let mut bytes = Vec::with_capacity(FIRST_LINE);
        entry.by_ref().take(FIRST_LINE as u64).read_to_end(&mut bytes)?;
        if !bytes.starts_with(b"#!") {
            return Ok(Kind::Regular);
        }
        entry.by_ref().take((MAX_SCRIPT - FIRST_LINE) as u64).read_to_end(&mut bytes)?;
        let Some(mut script) = Script::read(&bytes) else { return Ok(Kind::Regular) };
        self.scripts += bytes.len();
        if self.scripts > MAX_SCRIPTS {
            script.text = None;
        }
        Ok(Kind::Script(script))
    }

    /// Where a folder's name leads: `/bin` is a link to `/usr/bin` in most images, and layers name both.
    fn real_folder(&mut self, folder: &AbsPath) -> AbsPath {
        if let Some((asked, real)) = &self.folder
            && asked == folder
        {
            return real.clone();
        }
        let real = self.files.resolve(folder).map_or_else(|| folder.clone(), |(real, _)| real);
        self.folder = Some((folder.clone(), real.clone()));
        real
    }

    /// Removes what lower layers have beneath a folder.
    fn remove_beneath(&mut self, folder: &AbsPath) {
        let doomed: Vec<AbsPath> = self.files.beneath(folder).map(|(path, _)| path.clone()).collect();
        for path in doomed.into_iter().filter(|path| !self.added.contains(path)) {
            self.files.entries.remove(&path);
        }
        self.folder = None;
    }
}

fn text(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

/// `./usr/bin/x` and `usr/bin/x` are `/usr/bin/x`.
fn path(name: &str) -> Option<AbsPath> {
    AbsPath::new(&format!("/{name}")).ok()
}

fn beneath(folder: &AbsPath, name: &str) -> Option<AbsPath> {
    AbsPath::new(&format!("{folder}/{name}")).ok()
}

#[cfg(test)]
mod tests;

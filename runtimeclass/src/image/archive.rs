//! The table of contents of a tar file, made by seeking from header to header.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use super::ImageError;

const BLOCK: u64 = 512;
/// Most entries that an archive may have; images have a few for each layer.
const MAX_ENTRIES: usize = 65_536;
/// Largest extended header (long name, PAX record) that is read, in bytes.
pub(super) const MAX_EXTENSION: u64 = 64 << 10;

/// A tar file and where its regular files lie.
#[derive(Debug)]
pub(crate) struct Archive {
    file: File,
    entries: BTreeMap<String, Span>,
}

#[derive(Debug, Clone, Copy)]
struct Span {
    offset: u64,
    size: u64,
}

/// What extended headers said of the next entry.
#[derive(Default)]
pub(super) struct Extended {
    pub(super) name: Option<String>,
    pub(super) link: Option<String>,
    pub(super) size: Option<u64>,
}

impl Extended {
    /// Whether an entry of this kind speaks of the next one.
    pub(super) fn is_extension(kind: tar::EntryType) -> bool {
        kind.is_gnu_longname() || kind.is_gnu_longlink() || kind.is_pax_local_extensions()
    }

    /// Adds what such an entry says.
    pub(super) fn add(&mut self, content: &[u8], kind: tar::EntryType) {
        if kind.is_gnu_longname() {
            self.name = name_of(content);
        } else if kind.is_gnu_longlink() {
            self.link = name_of(content);
        } else if kind.is_pax_local_extensions() {
            for record in tar::PaxExtensions::new(content).flatten() {
                match record.key_bytes() {
                    b"path" => self.name = name_of(record.value_bytes()),
                    b"linkpath" => self.link = name_of(record.value_bytes()),
                    b"size" => self.size = record.value().ok().and_then(|size| size.parse().ok()),
                    _ => {}
                }
            }
        }
    }
}

/// Whether a file that begins with `head` is a tar file.
pub(super) fn looks_like_tar(head: &[u8]) -> bool {
    head.len() == BLOCK as usize && checksum_holds(tar::Header::from_byte_slice(head))
}

/// `tar::Header::cksum` is what the header says; this is whether it is true.
fn checksum_holds(header: &tar::Header) -> bool {
    let bytes = header.as_bytes();
    let sum: u32 =
        bytes.iter().enumerate().map(|(i, b)| if (148..156).contains(&i) { 32 } else { u32::from(*b) }).sum();
    header.cksum().is_ok_and(|said| said == sum)
}

impl Archive {
    /// Reads the headers of `file`.
    ///
    /// # Errors
    /// When it is truncated, malformed, or has more entries or longer extended headers than are read.
    pub(super) fn new(mut file: File) -> Result<Self, ImageError> {
        let end = file.seek(SeekFrom::End(0)).map_err(read_error)?;
        let mut entries = BTreeMap::new();
        let mut extended = Extended::default();
        let mut at = 0;
        for count in 0.. {
            let Some(header) = header_at(&mut file, at, end)? else { break };
            if count == MAX_ENTRIES {
                return Err(ImageError::Archive("it has more than 65536 entries"));
            }
            let kind = header.entry_type();
            let extension = Extended::is_extension(kind);
            let said =
                header.entry_size().map_err(|_| ImageError::Archive("an entry's size is malformed"))?;
            let size = if extension { said } else { extended.size.take().unwrap_or(said) };
            let span = Span { offset: at + BLOCK, size };
            let padded = size.checked_next_multiple_of(BLOCK).and_then(|size| size.checked_add(span.offset));
            at = padded.ok_or(ImageError::Archive("an entry's size is impossible"))?;
            if span.offset + size > end {
                return Err(ImageError::Archive("it is truncated"));
            }
            if extension {
                extended.add(&read_span(&mut file, span, MAX_EXTENSION, "an extended header")?, kind);
                continue;
            }
            let name = extended.name.take().or_else(|| name_of(&header.path_bytes()));
            if let (Some(name), true) = (name, kind.is_file()) {
                entries.insert(normal(&name).to_owned(), span);
            }
        }
        Ok(Self { file, entries })
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    pub(super) fn read(&mut self, name: &str, max: u64) -> Result<Vec<u8>, ImageError> {
        let span = *self.entries.get(name).ok_or_else(|| ImageError::Missing { what: name.to_owned() })?;
        read_span(&mut self.file, span, max, name)
    }

    /// The bytes of the file `name`, as they are asked for.
    ///
    /// # Errors
    /// When it is missing or cannot be read.
    pub(super) fn stream(&mut self, name: &str) -> Result<impl Read + '_, ImageError> {
        let span = *self.entries.get(name).ok_or_else(|| ImageError::Missing { what: name.to_owned() })?;
        self.file.seek(SeekFrom::Start(span.offset)).map_err(read_error)?;
        Ok((&mut self.file).take(span.size))
    }
}

/// The header at `at`; `None` at the end mark (a block of zeros) or the end of the file.
fn header_at(file: &mut File, at: u64, end: u64) -> Result<Option<tar::Header>, ImageError> {
    if at >= end {
        return Ok(None);
    }
    let mut header = tar::Header::new_old();
    file.seek(SeekFrom::Start(at)).map_err(read_error)?;
    match file.read_exact(header.as_mut_bytes()) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(ImageError::Archive("it is truncated"));
        }
        Err(error) => return Err(read_error(error)),
    }
    if header.as_bytes().iter().all(|b| *b == 0) {
        return Ok(None);
    }
    if !checksum_holds(&header) {
        return Err(ImageError::Archive("a header's checksum does not hold"));
    }
    Ok(Some(header))
}

fn read_span(file: &mut File, span: Span, max: u64, what: &str) -> Result<Vec<u8>, ImageError> {
    if span.size > max {
        return Err(ImageError::TooLarge { what: what.to_owned(), size: span.size, max });
    }
    file.seek(SeekFrom::Start(span.offset)).map_err(read_error)?;
    let mut bytes = Vec::new();
    file.take(span.size).read_to_end(&mut bytes).map_err(read_error)?;
    if bytes.len() as u64 != span.size {
        return Err(ImageError::Archive("it is truncated"));
    }
    Ok(bytes)
}

/// Names that are not UTF-8 are none of an image's own.
fn name_of(bytes: &[u8]) -> Option<String> {
    let bytes = match bytes.iter().position(|b| *b == 0) {
        Some(end) => Cow::Borrowed(&bytes[..end]),
        None => Cow::Borrowed(bytes),
    };
    std::str::from_utf8(&bytes).ok().map(str::to_owned)
}

/// `tar -C layout .` writes `./index.json`.
fn normal(name: &str) -> &str {
    name.strip_prefix("./").unwrap_or(name)
}

fn read_error(source: io::Error) -> ImageError {
    ImageError::Read { what: "the archive".to_owned(), source }
}

//! What an image declares, read from an archive, a layout folder or a label file; no layer is unpacked on the disk.

mod archive;
mod docker;
mod label_file;
mod layers;
mod oci;
mod store;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use oci_spec::image::{Arch, ImageConfiguration, Os};
use profiles::lint::{Command, ImageFacts, Subject, exposed_port};

pub(crate) use label_file::{LabelFileError, text};
pub(crate) use store::Store;

/// Largest image config that is read, in bytes.
const MAX_CONFIG: u64 = 1 << 20;
/// Largest index or manifest that is read, in bytes: containerd's own limit for a manifest.
const MAX_MANIFEST: u64 = 4 << 20;
/// Largest label file that is read, in bytes.
const MAX_LABEL_FILE: u64 = 1 << 20;

/// What `keep explain` needs to know of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Image {
    /// The image's name in its archive, where it has one.
    pub(crate) name: Option<String>,
    /// Digest of its manifest or index, as a reference to it points to, where the archive has one.
    pub(crate) digest: Option<String>,
    /// All labels of the image config.
    pub(crate) labels: BTreeMap<String, String>,
    /// First word of the config's Entrypoint, else of its Cmd.
    pub(crate) entrypoint: Option<String>,
    /// Line of each label, where they come from a label file.
    pub(crate) lines: BTreeMap<String, usize>,
}

/// Which of an archive's images is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Choice {
    /// Name, tag or digest; `None` where there is but one.
    pub(crate) name: Option<String>,
    /// Operating system, as Go names it.
    pub(crate) os: Os,
    /// Architecture, as Go names it.
    pub(crate) arch: Arch,
}

/// Why no image could be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    #[error("cannot read {what}")]
    Read { what: String, source: io::Error },
    #[error("{what} is {size} bytes long; at most {max} are read")]
    TooLarge { what: String, size: u64, max: u64 },
    #[error("{what} is missing")]
    Missing { what: String },
    #[error("{what} is not valid JSON of its kind")]
    Json { what: String, source: serde_json::Error },
    #[error("{what} has digest {found}, but {expected} was promised")]
    Digest { what: String, expected: String, found: String },
    #[error("{what} is {found} bytes long, but {expected} were promised")]
    Size { what: String, expected: u64, found: u64 },
    #[error("digest {0} is not sha256, the only kind that is verified")]
    UnsupportedDigest(String),
    #[error("not a valid archive: {0}")]
    Archive(&'static str),
    #[error("compressed with {format}; decompress it first ({command})")]
    Compressed { format: &'static str, command: &'static str },
    #[error("neither an OCI layout nor a docker archive: it has no index.json and no manifest.json")]
    NoImage,
    #[error("holds several images; choose one with --image: {}", .0.join(", "))]
    Ambiguous(Vec<String>),
    #[error("has no image {name:?}; it holds {}", list(.names))]
    NoSuchImage { name: String, names: Vec<String> },
    #[error("has no image for {wanted}; it holds {}", list(.found))]
    NoSuchPlatform { wanted: String, found: Vec<String> },
    #[error("image indexes are nested more than {0} deep")]
    TooDeep(usize),
    #[error("--image is for archives; this is a label file")]
    NotAnArchive,
    #[error(transparent)]
    LabelFile(#[from] LabelFileError),
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none with a name".to_owned() } else { names.join(", ") }
}

/// An image as its archive or layout has it.
struct Contents {
    name: Option<String>,
    digest: Option<String>,
    config: ImageConfiguration,
    /// Files of the store, lowest layer first.
    layers: Vec<String>,
}

/// What a path leads to.
pub(crate) enum Input {
    /// An OCI layout or a docker archive.
    Store(Store),
    /// Anything else, which is text if it is valid.
    Text(File),
}

/// Opens `path`: an OCI layout (folder or tar), a docker archive, or a text.
///
/// # Errors
/// When it cannot be read, or is a compressed archive.
pub(crate) fn input(path: &Path) -> Result<Input, ImageError> {
    let read = |source| ImageError::Read { what: path.display().to_string(), source };
    if std::fs::metadata(path).map_err(read)?.is_dir() {
        return Ok(Input::Store(Store::folder(path)));
    }
    let mut file = File::open(path).map_err(read)?;
    if !file.metadata().map_err(read)?.is_file() {
        return Ok(Input::Text(file));
    }
    let mut head = Vec::with_capacity(512);
    file.by_ref().take(512).read_to_end(&mut head).map_err(read)?;
    file.seek(SeekFrom::Start(0)).map_err(read)?;
    if archive::looks_like_tar(&head) {
        return Ok(Input::Store(Store::archive(file)?));
    }
    if head.starts_with(&[0x1f, 0x8b]) {
        return Err(ImageError::Compressed { format: "gzip", command: "gunzip" });
    }
    if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        return Err(ImageError::Compressed { format: "zstd", command: "zstd -d" });
    }
    Ok(Input::Text(file))
}

/// Reads what the image at `path` declares: an OCI layout (folder or tar), a docker archive, or a label file.
///
/// # Errors
/// When the file cannot be read, is none of these, is larger than what is read of its kind, or does not match the digests in it.
pub(crate) fn open(path: &Path, choice: &Choice) -> Result<Image, ImageError> {
    match input(path)? {
        Input::Store(mut store) => {
            let contents = contents(&mut store, choice)?;
            Ok(Image { name: contents.name, digest: contents.digest, ..from_config(&contents.config) })
        }
        Input::Text(file) => label_text(file, &path.display().to_string(), choice),
    }
}

/// Reads all that is known of the image in `store`: its config, and its files from its layers.
///
/// # Errors
/// As [`open`], and when a layer is malformed or not what its digest says.
pub(crate) fn inspect(store: &mut Store, choice: &Choice) -> Result<Subject, ImageError> {
    let contents = contents(store, choice)?;
    let mut subject = subject(&contents.config);
    subject.facts.files = layers::scan(store, &contents.layers, contents.config.rootfs().diff_ids())?;
    Ok(subject)
}

/// What a text in JSON declares: an object of labels, or an image config.
///
/// # Errors
/// When it is neither.
pub(crate) fn inspect_json(bytes: &[u8]) -> Result<Subject, ImageError> {
    match parse_json(bytes)? {
        Json::Config(config) => Ok(subject(&config)),
        Json::Labels(labels) => Ok(Subject { labels, facts: ImageFacts::default() }),
    }
}

/// Reads a text, a label file or JSON, whole.
///
/// # Errors
/// When it cannot be read or is longer than is read.
pub(crate) fn read_text(from: impl Read, what: &str) -> Result<Vec<u8>, ImageError> {
    let mut bytes = Vec::new();
    from.take(MAX_CONFIG + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| ImageError::Read { what: what.to_owned(), source })?;
    let size = bytes.len() as u64;
    let max = if is_json(&bytes) { MAX_CONFIG } else { MAX_LABEL_FILE };
    if size > max {
        return Err(ImageError::TooLarge { what: what.to_owned(), size, max });
    }
    Ok(bytes)
}

/// Whether a text is JSON, by its first character.
pub(crate) fn is_json(bytes: &[u8]) -> bool {
    bytes.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{')
}

/// Reads a label file from standard input or a pipe.
///
/// # Errors
/// As [`open`].
pub(crate) fn label_text(from: impl Read, what: &str, choice: &Choice) -> Result<Image, ImageError> {
    if choice.name.is_some() {
        return Err(ImageError::NotAnArchive);
    }
    let bytes = read_text(from, what)?;
    if !is_json(&bytes) {
        return Ok(label_file::parse(&bytes)?);
    }
    match parse_json(&bytes)? {
        Json::Config(config) => Ok(from_config(&config)),
        Json::Labels(labels) => Ok(Image { labels, ..Image::default() }),
    }
}

enum Json {
    Config(Box<ImageConfiguration>),
    Labels(BTreeMap<String, String>),
}

fn parse_json(bytes: &[u8]) -> Result<Json, ImageError> {
    let json = |source| ImageError::Json { what: "the label file".to_owned(), source };
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(bytes).map_err(json)?;
    if object.contains_key("rootfs") || object.get("config").is_some_and(serde_json::Value::is_object) {
        return Ok(Json::Config(Box::new(config(bytes, "the image config")?)));
    }
    Ok(Json::Labels(serde_json::from_slice(bytes).map_err(json)?))
}

fn contents(store: &mut Store, choice: &Choice) -> Result<Contents, ImageError> {
    if store.contains("index.json") {
        oci::read(store, choice)
    } else if store.contains("manifest.json") {
        docker::read(store, choice)
    } else {
        Err(ImageError::NoImage)
    }
}

fn config(bytes: &[u8], what: &str) -> Result<ImageConfiguration, ImageError> {
    serde_json::from_slice(bytes).map_err(|source| ImageError::Json { what: what.to_owned(), source })
}

fn subject(config: &ImageConfiguration) -> Subject {
    let image = from_config(config);
    let Some(config) = config.config() else { return Subject::default() };
    let pairs = config.env().iter().flatten().filter_map(|pair| pair.split_once('='));
    let facts = ImageFacts {
        entrypoint: config.entrypoint().clone().and_then(Command::of),
        cmd: config.cmd().clone().and_then(Command::of),
        exposed: config.exposed_ports().iter().flatten().filter_map(|port| exposed_port(port)).collect(),
        user: config.user().clone(),
        env: pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        workdir: config.working_dir().clone().unwrap_or_default(),
        ..ImageFacts::default()
    };
    Subject { labels: image.labels, facts }
}

/// The words that decide are chosen as the shim chooses them: Entrypoint first, Cmd where there is none.
fn from_config(config: &ImageConfiguration) -> Image {
    let Some(config) = config.config() else {
        return Image::default();
    };
    let first = |words: &Option<Vec<String>>| words.as_ref().and_then(|words| words.first().cloned());
    let labels = config.labels().iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
    let entrypoint = first(config.entrypoint()).or_else(|| first(config.cmd()));
    Image { labels, entrypoint, ..Image::default() }
}

/// Whether `wanted` names the image `name`: the whole of it, or what follows a slash of it.
fn names(name: &str, wanted: &str) -> bool {
    name == wanted || name.strip_suffix(wanted).is_some_and(|rest| rest.ends_with('/'))
}

#[cfg(test)]
pub(crate) mod tests;

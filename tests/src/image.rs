//! OCI image archives, made offline: the same input gives the same bytes.

mod initramfs;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use anyhow::{Context as _, Result};
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

#[derive(Debug, Clone)]
enum Kind {
    Folder,
    File(Vec<u8>),
    Symlink(String),
    HardLink(String),
}

#[derive(Debug, Clone)]
struct Entry {
    kind: Kind,
    mode: u32,
    owner: u64,
}

/// One layer: files by path, written in the order of their paths, hard links last.
#[derive(Debug, Clone, Default)]
pub struct Layer {
    entries: BTreeMap<String, Entry>,
    /// Made when it is first needed; shared with every copy of this layer.
    blob: Arc<OnceLock<Blob>>,
}

/// A layer as it lies in an archive.
#[derive(Debug)]
struct Blob {
    /// Digest of the plain tar.
    id: String,
    packed: Vec<u8>,
}

impl Layer {
    /// An empty layer.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn put(mut self, path: &str, kind: Kind, mode: u32, owner: u64) -> Self {
        self.entries.insert(path.trim_matches('/').to_owned(), Entry { kind, mode, owner });
        self.blob = Arc::default();
        self
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// A folder, owned by user and group `owner`.
    #[must_use]
    pub fn folder(self, path: &str, mode: u32, owner: u64) -> Self {
        self.put(path, Kind::Folder, mode, owner)
    }

    /// A file with this content, owned by root.
    #[must_use]
    pub fn file(self, path: &str, content: impl Into<Vec<u8>>, mode: u32) -> Self {
        self.put(path, Kind::File(content.into()), mode, 0)
    }

    /// A file with this content and owner.
    #[must_use]
    pub fn owned_file(self, path: &str, content: impl Into<Vec<u8>>, mode: u32, owner: u64) -> Self {
        self.put(path, Kind::File(content.into()), mode, owner)
    }

    /// A symbolic link.
    #[must_use]
    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.put(path, Kind::Symlink(target.to_owned()), 0o777, 0)
    }

    /// A second name of the file `target` of this layer.
    #[must_use]
    pub fn hard_link(self, path: &str, target: &str) -> Self {
        self.put(path, Kind::HardLink(target.trim_matches('/').to_owned()), 0o755, 0)
    }

    /// A copy of the file `from` of this machine, with its mode.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn copy(self, from: &Path, to: &str) -> Result<Self> {
        let content = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        let mode = fs::metadata(from)
            .with_context(|| format!("cannot read {}", from.display()))?
            .permissions()
            .mode();
        Ok(self.file(to, content, mode & 0o7777))
    }

    /// A copy of a program and of every library that it needs, from the first of `roots` that has each.
    ///
    /// # Errors
    /// When a library is in none of them, or a file cannot be read.
    pub fn program(self, from: &Path, to: &str, roots: &[&Path]) -> Result<Self> {
        let mut layer = self.copy(from, to)?;
        for (inside, here) in crate::elf::closure(from, roots)? {
            layer = layer.copy(&here, &inside)?;
        }
        Ok(layer)
    }

    /// A copy of everything beneath the folder `from`.
    ///
    /// # Errors
    /// When something in it cannot be read.
    pub fn tree(self, from: &Path, to: &str) -> Result<Self> {
        let mut layer = self;
        let entries = fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))?;
        for entry in entries {
            let path = entry.with_context(|| format!("cannot read {}", from.display()))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let inside = format!("{to}/{name}");
            layer = if path.is_symlink() {
                let target =
                    fs::read_link(&path).with_context(|| format!("cannot read {}", path.display()))?;
                layer.symlink(&inside, &target.to_string_lossy())
            } else if path.is_dir() {
                layer.tree(&path, &inside)?
            } else {
                layer.copy(&path, &inside)?
            };
        }
        Ok(layer)
    }

    fn blob(&self) -> Result<&Blob> {
        if let Some(blob) = self.blob.get() {
            return Ok(blob);
        }
        let plain = self.tar()?;
        let mut packed = GzBuilder::new().mtime(0).write(Vec::new(), Compression::fast());
        packed.write_all(&plain).context("cannot compress a layer")?;
        let packed = packed.finish().context("cannot compress a layer")?;
        Ok(self.blob.get_or_init(|| Blob { id: digest(&plain), packed }))
    }

    /// Its entries, and the folders that they lie in.
    fn with_parents(&self) -> BTreeMap<String, Entry> {
        let mut all = self.entries.clone();
        for path in self.entries.keys() {
            for (at, _) in path.match_indices('/') {
                let folder = path.get(..at).unwrap_or_default().to_owned();
                all.entry(folder).or_insert(Entry { kind: Kind::Folder, mode: 0o755, owner: 0 });
            }
        }
        all
    }

    fn tar(&self) -> Result<Vec<u8>> {
        let mut archive = tar::Builder::new(Vec::new());
        let all = self.with_parents();
        let mut ordered: Vec<_> = all.iter().collect();
        ordered.sort_by_key(|(path, entry)| (matches!(entry.kind, Kind::HardLink(_)), *path));
        for (path, entry) in ordered {
            append(&mut archive, path, entry).with_context(|| format!("cannot add {path}"))?;
        }
        archive.into_inner().context("cannot finish a layer")
    }
}

fn append(archive: &mut tar::Builder<Vec<u8>>, path: &str, entry: &Entry) -> std::io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(entry.mode);
    header.set_uid(entry.owner);
    header.set_gid(entry.owner);
    header.set_mtime(0);
    header.set_size(0);
    match &entry.kind {
        Kind::Folder => {
            header.set_entry_type(tar::EntryType::Directory);
            archive.append_data(&mut header, path, std::io::empty())
        }
        Kind::File(content) => {
            header.set_size(content.len() as u64);
            archive.append_data(&mut header, path, content.as_slice())
        }
        Kind::Symlink(target) => {
            header.set_entry_type(tar::EntryType::Symlink);
            archive.append_link(&mut header, path, target)
        }
        Kind::HardLink(target) => {
            header.set_entry_type(tar::EntryType::Link);
            archive.append_link(&mut header, path, target)
        }
    }
}

/// An image: layers, and what its config says.
#[derive(Debug, Clone, Default)]
pub struct Image {
    layers: Vec<Layer>,
    labels: BTreeMap<String, String>,
    entrypoint: Vec<String>,
    command: Vec<String>,
    environment: Vec<String>,
    user: Option<String>,
    folder: Option<String>,
}

impl Image {
    /// An image of these layers, the lowest first.
    #[must_use]
    pub fn new(layers: impl IntoIterator<Item = Layer>) -> Self {
        let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned();
        Self { layers: layers.into_iter().collect(), environment: vec![path], ..Self::default() }
    }

    /// Whether one of its layers has `path`, or something beneath it.
    #[must_use]
    pub fn has(&self, path: &str) -> bool {
        let path = path.trim_matches('/');
        let beneath = format!("{path}/");
        let mut entries = self.layers.iter().flat_map(|layer| layer.entries.keys());
        entries.any(|entry| entry == path || entry.starts_with(&beneath))
    }

    /// With one more layer on top.
    #[must_use]
    pub fn layer(mut self, layer: Layer) -> Self {
        self.layers.push(layer);
        self
    }

    /// With this `ENTRYPOINT`.
    #[must_use]
    pub fn entrypoint(mut self, words: &[&str]) -> Self {
        self.entrypoint = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// With this `CMD`.
    #[must_use]
    pub fn command(mut self, words: &[&str]) -> Self {
        self.command = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// With this `USER`.
    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        self.user = Some(user.to_owned());
        self
    }

    /// With this `WORKDIR`.
    #[must_use]
    pub fn working_folder(mut self, path: &str) -> Self {
        self.folder = Some(path.to_owned());
        self
    }

    /// With an `ENV`; a later value takes the place of an earlier one.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.retain(|one| !one.starts_with(&format!("{name}=")));
        self.environment.push(format!("{name}={value}"));
        self
    }

    /// With a label; a later value takes the place of an earlier one.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// The keys of its labels, in their order.
    pub fn label_keys(&self) -> impl Iterator<Item = &str> {
        self.labels.keys().map(String::as_str)
    }

    /// With several labels.
    #[must_use]
    pub fn labels<'a>(self, labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        labels.into_iter().fold(self, |image, (key, value)| image.label(key, value))
    }

    /// Without any label: it declares nothing.
    #[must_use]
    pub fn without_labels(mut self) -> Self {
        self.labels.clear();
        self
    }

    pub(crate) fn config(&self, layers: &[String]) -> Value {
        let mut config = json!({ "Env": self.environment });
        let words = [("Entrypoint", &self.entrypoint), ("Cmd", &self.command)];
        for (name, value) in words.into_iter().filter(|(_, value)| !value.is_empty()) {
            config[name] = json!(value);
        }
        for (name, value) in [("User", &self.user), ("WorkingDir", &self.folder)] {
            if let Some(value) = value {
                config[name] = json!(value);
            }
        }
        if !self.labels.is_empty() {
            config["Labels"] = json!(self.labels);
        }
        json!({
            "architecture": architecture(), "os": "linux", "config": config,
            "rootfs": { "type": "layers", "diff_ids": layers },
        })
    }

    /// The name of its topmost snapshot in containerd: the chain of its layers' digests.
    ///
    /// # Errors
    /// When a layer cannot be made.
    pub fn chain(&self) -> Result<String> {
        let mut chain = String::new();
        for layer in &self.layers {
            let id = &layer.blob()?.id;
            chain = if chain.is_empty() { id.clone() } else { digest(format!("{chain} {id}").as_bytes()) };
        }
        Ok(chain)
    }

    /// Its manifest, config and layers, as a registry or an archive holds them.
    ///
    /// # Errors
    /// When a layer cannot be made.
    pub fn pack(&self) -> Result<Packed> {
        let mut blobs = BTreeMap::new();
        let mut put = |bytes: Vec<u8>, kind: &str| {
            let digest = digest(&bytes);
            let descriptor = json!({
                "mediaType": format!("application/vnd.oci.image.{kind}"), "digest": digest, "size": bytes.len(),
            });
            blobs.insert(digest, bytes);
            descriptor
        };
        let (mut ids, mut layers) = (Vec::new(), Vec::new());
        for layer in &self.layers {
            let blob = layer.blob()?;
            ids.push(blob.id.clone());
            layers.push(put(blob.packed.clone(), "layer.v1.tar+gzip"));
        }
        let config =
            put(serde_json::to_vec(&self.config(&ids)).context("cannot write the config")?, "config.v1+json");
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers,
        });
        let manifest = serde_json::to_vec(&manifest).context("cannot write the manifest")?;
        let name = digest(&manifest);
        blobs.insert(name.clone(), manifest);
        Ok(Packed { manifest: name, blobs })
    }

    /// Writes an OCI archive (a tar of an OCI layout) that names the image `reference`.
    ///
    /// # Errors
    /// When a layer cannot be made or the file cannot be written.
    pub fn write(&self, reference: &str, to: &Path) -> Result<()> {
        let packed = self.pack()?;
        let size = packed.blobs.get(&packed.manifest).map_or(0, Vec::len);
        let tag = reference.rsplit_once(':').map_or("latest", |(_, tag)| tag);
        let top = json!({
            "mediaType": MANIFEST, "digest": packed.manifest, "size": size,
            "annotations": { "io.containerd.image.name": reference, "org.opencontainers.image.ref.name": tag },
            "platform": { "architecture": architecture(), "os": "linux" },
        });
        let index = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [top],
        });
        archive(&index, &packed.blobs, to).with_context(|| format!("cannot write {}", to.display()))
    }
}

/// Media type of a manifest.
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// An image in pieces.
#[derive(Debug)]
pub struct Packed {
    /// Digest of its manifest.
    pub manifest: String,
    /// Manifest, config and layers by digest.
    pub blobs: BTreeMap<String, Vec<u8>>,
}

fn archive(index: &Value, blobs: &BTreeMap<String, Vec<u8>>, to: &Path) -> Result<()> {
    let file = fs::File::create(to)?;
    let mut archive = tar::Builder::new(std::io::BufWriter::new(file));
    let mut add = |path: String, content: &[u8]| -> std::io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        archive.append_data(&mut header, path, content)
    };
    add("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    add("index.json".to_owned(), &serde_json::to_vec(index)?)?;
    for (digest, content) in blobs {
        add(format!("blobs/{}", digest.replace(':', "/")), content)?;
    }
    archive.into_inner()?.flush()?;
    Ok(())
}

fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// This machine's architecture in OCI's words.
#[must_use]
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_input_gives_the_same_bytes() {
        let folder = tempfile::tempdir().expect("a folder");
        let make = |name: &str| {
            let layer =
                Layer::new().file("etc/x", "1", 0o644).hard_link("a", "etc/x").folder("tmp", 0o1777, 0);
            let path = folder.path().join(name);
            Image::new([layer])
                .label("b", "2")
                .label("a", "1")
                .write("keep.test/x:1", &path)
                .expect("an archive");
            fs::read(path).expect("its bytes")
        };
        assert_eq!(make("one"), make("two"));
    }
}

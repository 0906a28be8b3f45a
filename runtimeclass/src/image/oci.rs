//! OCI image layout: index, manifest, config.

use std::collections::{BTreeMap, BTreeSet};

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest, MediaType, Platform};

use super::store::Store;
use super::{Choice, Contents, ImageError, MAX_CONFIG, MAX_MANIFEST, config, names};

/// An index may name an index (each platform's images by way of one name); deeper than this is no image.
const MAX_DEPTH: usize = 3;
/// Annotations that name an image, the more telling first: containerd's and docker's, then the specification's.
const NAME_KEYS: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

/// Reads the chosen image of a layout.
///
/// # Errors
/// When the choice is ambiguous or names nothing, and when a blob is missing, too large or not what its digest says.
pub(super) fn read(store: &mut Store, choice: &Choice) -> Result<Contents, ImageError> {
    let index = index(&store.read("index.json", MAX_MANIFEST)?, "index.json")?;
    let named = choose(index.manifests(), choice.name.as_deref())?;
    let name = named.first().and_then(|descriptor| name_of(descriptor)).map(str::to_owned);
    let digest = named.first().map(|descriptor| descriptor.digest().to_string());
    let descriptor = manifest_for(store, named, choice)?;
    let bytes = store.blob(&descriptor, MAX_MANIFEST)?;
    let what = format!("manifest {}", descriptor.digest());
    let manifest: ImageManifest =
        serde_json::from_slice(&bytes).map_err(|source| ImageError::Json { what, source })?;
    let bytes = store.blob(manifest.config(), MAX_CONFIG)?;
    let config = config(&bytes, &format!("config {}", manifest.config().digest()))?;
    let layers = manifest.layers().iter().map(|layer| layer.digest().to_string().replacen(':', "/", 1));
    Ok(Contents { name, digest, config, layers: layers.map(|path| format!("blobs/{path}")).collect() })
}

fn index(bytes: &[u8], what: &str) -> Result<ImageIndex, ImageError> {
    serde_json::from_slice(bytes).map_err(|source| ImageError::Json { what: what.to_owned(), source })
}

fn name_of(descriptor: &Descriptor) -> Option<&str> {
    let annotations = descriptor.annotations().as_ref()?;
    NAME_KEYS.iter().find_map(|key| annotations.get(*key)).map(String::as_str)
}

/// The entries of one image. Those of one name (or none) are its platforms.
fn choose(entries: &[Descriptor], wanted: Option<&str>) -> Result<Vec<Descriptor>, ImageError> {
    let label = |d: &Descriptor| name_of(d).map_or_else(|| d.digest().to_string(), str::to_owned);
    if let Some(wanted) = wanted {
        let all_names = |d: &Descriptor| {
            let of = |key: &&str| {
                d.annotations().as_ref().and_then(|a| a.get(*key)).is_some_and(|n| names(n, wanted))
            };
            NAME_KEYS.iter().any(of) || d.digest().as_ref() == wanted
        };
        let chosen: Vec<_> = entries.iter().filter(|d| all_names(d)).cloned().collect();
        if chosen.is_empty() {
            let names = entries.iter().map(label).collect::<BTreeSet<_>>().into_iter().collect();
            return Err(ImageError::NoSuchImage { name: wanted.to_owned(), names });
        }
        return unambiguous(chosen);
    }
    unambiguous(entries.to_vec())
}

fn unambiguous(entries: Vec<Descriptor>) -> Result<Vec<Descriptor>, ImageError> {
    let mut by_name: BTreeMap<Option<&str>, BTreeSet<&str>> = BTreeMap::new();
    for entry in &entries {
        by_name.entry(name_of(entry)).or_default().insert(entry.digest().as_ref());
    }
    let mut digests = by_name.values();
    let first = digests.next();
    if digests.any(|other| Some(other) != first) {
        let names = entries.iter().map(|d| name_of(d).map_or_else(|| d.digest().to_string(), str::to_owned));
        return Err(ImageError::Ambiguous(names.collect::<BTreeSet<_>>().into_iter().collect()));
    }
    Ok(entries)
}

/// Follows indexes down to the manifest for the chosen platform.
fn manifest_for(
    store: &mut Store,
    mut entries: Vec<Descriptor>,
    choice: &Choice,
) -> Result<Descriptor, ImageError> {
    for _ in 0..MAX_DEPTH {
        entries.retain(|d| !is_attestation(d));
        let descriptor = for_platform(&entries, choice)?;
        if !is_index(descriptor.media_type()) {
            return Ok(descriptor);
        }
        let bytes = store.blob(&descriptor, MAX_MANIFEST)?;
        entries = index(&bytes, &format!("index {}", descriptor.digest()))?.manifests().clone();
    }
    Err(ImageError::TooDeep(MAX_DEPTH))
}

/// The only one, whatever its platform (labels do not depend on it), or the one for the platform.
fn for_platform(entries: &[Descriptor], choice: &Choice) -> Result<Descriptor, ImageError> {
    let mut digests: Vec<_> = entries.iter().map(|d| d.digest()).collect();
    digests.dedup();
    if let (Some(only), 1) = (entries.first(), digests.len()) {
        return Ok(only.clone());
    }
    let fits = |p: &Platform| *p.os() == choice.os && *p.architecture() == choice.arch;
    let chosen = entries.iter().find(|d| d.platform().as_ref().is_some_and(fits));
    chosen.cloned().ok_or_else(|| ImageError::NoSuchPlatform {
        wanted: format!("{}/{}", choice.os, choice.arch),
        found: entries.iter().map(platform_words).collect::<BTreeSet<_>>().into_iter().collect(),
    })
}

fn platform_words(descriptor: &Descriptor) -> String {
    match descriptor.platform() {
        Some(platform) => format!("{}/{}", platform.os(), platform.architecture()),
        None => descriptor.digest().to_string(),
    }
}

/// buildx stores provenance beside the images, under the platform `unknown/unknown`.
fn is_attestation(descriptor: &Descriptor) -> bool {
    let annotations = descriptor.annotations().as_ref();
    annotations.is_some_and(|a| a.contains_key("vnd.docker.reference.type"))
}

fn is_index(kind: &MediaType) -> bool {
    *kind == MediaType::ImageIndex
        || kind.to_string() == "application/vnd.docker.distribution.manifest.list.v2+json"
}

//! Archives of `docker save` and `podman save --format docker-archive`: a manifest.json that names configs.

use serde::Deserialize;

use super::store::{Store, verify};
use super::{Choice, Contents, ImageError, MAX_CONFIG, MAX_MANIFEST, config, names};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}

impl Entry {
    fn tags(&self) -> &[String] {
        self.repo_tags.as_deref().unwrap_or_default()
    }

    fn label(&self) -> String {
        self.tags().first().unwrap_or(&self.config).clone()
    }

    fn is_named(&self, wanted: &str) -> bool {
        self.tags().iter().any(|tag| names(tag, wanted))
            || digest_in(&self.config).is_some_and(|hex| wanted.strip_prefix("sha256:") == Some(hex))
    }
}

/// Reads the chosen image of a docker archive.
///
/// # Errors
/// When the choice is ambiguous or names nothing, and when the config is missing, too large or not what its name's digest says.
pub(super) fn read(store: &mut Store, choice: &Choice) -> Result<Contents, ImageError> {
    let bytes = store.read("manifest.json", MAX_MANIFEST)?;
    let entries: Vec<Entry> = serde_json::from_slice(&bytes)
        .map_err(|source| ImageError::Json { what: "manifest.json".to_owned(), source })?;
    let labels = || entries.iter().map(Entry::label).collect();
    let wanted = choice.name.as_deref();
    let mut fitting = entries.iter().filter(|entry| wanted.is_none_or(|wanted| entry.is_named(wanted)));
    let entry = match (fitting.next(), fitting.next(), wanted) {
        (Some(entry), None, _) => entry,
        (Some(_), Some(_), _) => return Err(ImageError::Ambiguous(labels())),
        (None, _, Some(wanted)) => {
            return Err(ImageError::NoSuchImage { name: wanted.to_owned(), names: labels() });
        }
        (None, _, None) => return Err(ImageError::NoImage),
    };
    let outside = |path: &String| path.split('/').any(|part| matches!(part, "" | "." | ".."));
    if outside(&entry.config) || entry.layers.iter().any(outside) {
        return Err(ImageError::Archive("manifest.json names a file outside the archive"));
    }
    let bytes = store.read(&entry.config, MAX_CONFIG)?;
    if let Some(hex) = digest_in(&entry.config) {
        verify(&entry.config, &bytes, hex)?;
    }
    let name = entry.tags().first().cloned();
    Ok(Contents { name, digest: None, config: config(&bytes, &entry.config)?, layers: entry.layers.clone() })
}

/// Both tools name the config by its digest: `<hex>.json`, `blobs/sha256/<hex>` or `sha256:<hex>`.
fn digest_in(config: &str) -> Option<&str> {
    let stem = config.strip_prefix("blobs/sha256/").or_else(|| config.strip_prefix("sha256:"));
    let hex = stem.or_else(|| config.strip_suffix(".json"))?;
    (hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))).then_some(hex)
}

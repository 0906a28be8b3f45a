//! What an image says it needs: the typed form of its labels.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

mod names;
mod net;

pub use names::{Capability, Need, UnknownName};
pub(crate) use net::canonical_listen;
pub use net::{Cidr, Endpoint, EntryError, PortRange, Protocol};

/// An absolute, normalised path inside the container: no `.`, `..`, doubled or trailing slashes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AbsPath(String);

/// Why a text is not an [`AbsPath`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It does not begin with `/`.
    #[error("path {0:?} is not absolute; write it from the image's root, as /{0}")]
    NotAbsolute(String),
    /// It has a `..` component, which could name another place than it seems.
    #[error("path {0:?} contains \"..\"; write the path that is meant")]
    ParentComponent(String),
    /// It has a NUL or another control character.
    #[error("path {0:?} contains a control character")]
    ControlCharacter(String),
}

impl AbsPath {
    /// Normalises `text`: `.`, doubled and trailing slashes vanish.
    ///
    /// # Errors
    /// When the text is relative, has a `..` component or a control character.
    pub fn new(text: &str) -> Result<Self, PathError> {
        if !text.starts_with('/') {
            return Err(PathError::NotAbsolute(text.to_owned()));
        }
        if text.chars().any(char::is_control) {
            return Err(PathError::ControlCharacter(text.to_owned()));
        }
        let mut normal = String::with_capacity(text.len());
        for part in text.split('/') {
            match part {
                "" | "." => {}
                ".." => return Err(PathError::ParentComponent(text.to_owned())),
                part => {
                    normal.push('/');
                    normal.push_str(part);
                }
            }
        }
        if normal.is_empty() {
            normal.push('/');
        }
        Ok(Self(normal))
    }

    /// The path as text; always begins with `/`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Reads a path as a label writes it: a space is `%20`, a percent sign `%25`.
    ///
    /// # Errors
    /// When another escape stands in it, or the path is none.
    pub fn from_label(word: &str) -> Result<Self, EntryError> {
        let mut text = String::with_capacity(word.len());
        let mut rest = word;
        while let Some((before, after)) = rest.split_once('%') {
            text.push_str(before);
            text.push(match after.get(..2) {
                Some("20") => ' ',
                Some("25") => '%',
                _ => {
                    let at = word.chars().count() - after.chars().count() - 1;
                    return Err(EntryError::new(
                        at,
                        "only %20 (a space) and %25 (a percent sign) are escapes in a path",
                    ));
                }
            });
            rest = after.get(2..).unwrap_or_default();
        }
        text.push_str(rest);
        Self::new(&text).map_err(|error| EntryError::new(0, error.to_string()))
    }

    /// The path as a label writes it, the reverse of [`AbsPath::from_label`].
    #[must_use]
    pub fn to_label(&self) -> String {
        self.0.replace('%', "%25").replace(' ', "%20")
    }

    /// The folder that holds it; `/` for `/` itself.
    #[must_use]
    pub fn parent(&self) -> Self {
        match self.0.rsplit_once('/') {
            Some((folder, _)) if !folder.is_empty() => Self(folder.to_owned()),
            _ => Self("/".to_owned()),
        }
    }

    /// The path itself, then each folder above it, up to `/`.
    pub(crate) fn ancestors(&self) -> impl Iterator<Item = Self> + '_ {
        let mut next = Some(self.clone());
        std::iter::from_fn(move || {
            let path = next.take()?;
            next = (path.0 != "/").then(|| path.parent());
            Some(path)
        })
    }

    /// Whether this path is `other` or lies beneath it.
    #[must_use]
    pub fn is_beneath(&self, other: &Self) -> bool {
        other.0 == "/"
            || self
                .0
                .strip_prefix(other.0.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl fmt::Display for AbsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Paths order, compare and hash as their texts do.
impl std::borrow::Borrow<str> for AbsPath {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for AbsPath {
    type Error = PathError;
    fn try_from(text: String) -> Result<Self, PathError> {
        Self::new(&text)
    }
}

impl From<AbsPath> for String {
    fn from(path: AbsPath) -> Self {
        path.0
    }
}

/// Everything that an image's labels declare, or a policy grants or denies. Empty sets hold nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Intent {
    /// `dev.keep.exec`: programs, or folders of programs.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub exec: BTreeSet<AbsPath>,
    /// `dev.keep.listen`.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub listen: BTreeSet<PortRange>,
    /// `dev.keep.connect`.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub connect: BTreeSet<Endpoint>,
    /// `dev.keep.write`: folders, or existing files.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub write: BTreeSet<AbsPath>,
    /// `dev.keep.read`: reads beyond the default set.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub read: BTreeSet<AbsPath>,
    /// `dev.keep.caps`, without `CAP_`, as in capabilities(7).
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub caps: BTreeSet<Capability>,
    /// `dev.keep.needs`.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub needs: BTreeSet<Need>,
}

impl Intent {
    /// The longest list, and how many entries it has.
    pub(crate) fn longest(&self) -> Option<(&'static str, usize)> {
        let lists = [
            ("exec", self.exec.len()),
            ("listen", self.listen.len()),
            ("connect", self.connect.len()),
            ("write", self.write.len()),
            ("read", self.read.len()),
            ("caps", self.caps.len()),
            ("needs", self.needs.len()),
        ];
        lists.into_iter().max_by_key(|(_, many)| *many)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> AbsPath {
        AbsPath::new(text).unwrap()
    }

    #[test]
    fn a_path_is_normalised_and_a_parent_component_is_refused() {
        assert_eq!(path("//usr/./sbin/nginx/").as_str(), "/usr/sbin/nginx");
        assert_eq!(path("/").as_str(), "/");
        assert!(matches!(AbsPath::new("/a/../b"), Err(PathError::ParentComponent(_))));
        assert!(matches!(AbsPath::new("a"), Err(PathError::NotAbsolute(_))));
        assert!(matches!(AbsPath::new("/a\nb"), Err(PathError::ControlCharacter(_))));
    }

    #[test]
    fn a_sibling_with_a_common_beginning_is_not_beneath() {
        assert!(path("/var/cache/x").is_beneath(&path("/var/cache")));
        assert!(path("/var").is_beneath(&path("/")));
        assert!(!path("/var/cached").is_beneath(&path("/var/cache")));
    }

    #[test]
    fn spaces_and_percent_signs_survive_a_label() {
        let odd = path("/a b/100%/20");
        assert_eq!(odd.to_label(), "/a%20b/100%25/20");
        assert_eq!(AbsPath::from_label(&odd.to_label()), Ok(odd));
        for (word, at) in [("/é/%2e%2e", 3), ("/%", 1), ("/%20%2", 4), ("/%é", 1)] {
            assert_eq!(AbsPath::from_label(word).unwrap_err().at, at, "{word}");
        }
    }

    #[test]
    fn the_parent_of_a_top_folder_is_the_root() {
        assert_eq!(path("/etc").parent(), path("/"));
        assert_eq!(path("/").parent(), path("/"));
        assert_eq!(path("/etc/x/y").parent(), path("/etc/x"));
    }
}

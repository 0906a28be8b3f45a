//! Whose container it is: what CRI's annotations and containerd say, for records and for the class's rules.

use std::collections::HashMap;

use oci_spec::runtime::Spec;
use profiles::record;
use serde::{Deserialize, Serialize};

use crate::error::{Failure, Kind};

/// Annotations that containerd's CRI plugin writes into a container's runtime spec.
/// Source: containerd, internal/cri/annotations/annotations.go.
mod annotation {
    pub(super) const CONTAINER_TYPE: &str = "io.kubernetes.cri.container-type";
    pub(super) const CONTAINER_NAME: &str = "io.kubernetes.cri.container-name";
    pub(super) const IMAGE_NAME: &str = "io.kubernetes.cri.image-name";
    pub(super) const SANDBOX_ID: &str = "io.kubernetes.cri.sandbox-id";
    pub(super) const SANDBOX_NAME: &str = "io.kubernetes.cri.sandbox-name";
    pub(super) const SANDBOX_NAMESPACE: &str = "io.kubernetes.cri.sandbox-namespace";
    pub(super) const SANDBOX_UID: &str = "io.kubernetes.cri.sandbox-uid";
}

/// A containerd identifier that is safe as one component of a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Id(String);

impl Id {
    /// Longest identifier that containerd accepts, in bytes.
    /// Source: containerd, pkg/identifiers/validate.go.
    const MAX: usize = 76;

    /// Validates an identifier as containerd does: letters, digits, and `-`, `_`, `.` between them.
    ///
    /// # Errors
    /// When it is empty, too long or has another character.
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        let valid = text.len() <= Self::MAX
            && text.chars().all(inner)
            && ends(text.chars().next())
            && ends(text.chars().next_back());
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(Failure::new(
                Kind::Invalid,
                format!(
                    "invalid id {text:?}: letters and digits, with -, _ and . between them, at most {} characters",
                    Self::MAX
                ),
            ))
        }
    }

    /// As text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// What sort of container it is to Kubernetes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Role {
    /// The pod's own infrastructure container (pause).
    PodSandbox,
    /// Anything else: a container of a pod, or one outside Kubernetes.
    Workload,
}

impl Role {
    /// As CRI's annotations say it.
    pub(crate) fn of(annotations: &HashMap<String, String>) -> Self {
        match annotations.get(annotation::CONTAINER_TYPE).map(String::as_str) {
            Some("sandbox") => Self::PodSandbox,
            _ => Self::Workload,
        }
    }
}

/// Whose container it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// containerd namespace.
    pub(crate) namespace: String,
    /// Container id.
    pub(crate) id: String,
    /// Id of the pod sandbox, or of the container itself outside Kubernetes: names the spool file.
    pub(crate) group: String,
    /// Role.
    pub(crate) role: Role,
    /// The pod, if there is one.
    pub(crate) pod: Option<record::Pod>,
    /// Name in the pod spec, else the id.
    pub(crate) name: String,
    /// Image reference as people wrote it, where CRI says.
    pub(crate) image_name: Option<String>,
}

impl Identity {
    /// Reads CRI's annotations from a runtime spec.
    pub(crate) fn from_spec(namespace: &str, id: &Id, spec: &Spec) -> Self {
        let empty = HashMap::new();
        let annotations = spec.annotations().as_ref().unwrap_or(&empty);
        let get = |key: &str| annotations.get(key).filter(|value| !value.is_empty()).cloned();
        let pod = match (get(annotation::SANDBOX_NAMESPACE), get(annotation::SANDBOX_NAME)) {
            (Some(namespace), Some(name)) => {
                Some(record::Pod { namespace, name, uid: get(annotation::SANDBOX_UID).unwrap_or_default() })
            }
            _ => None,
        };
        Self {
            namespace: namespace.to_owned(),
            id: id.as_str().to_owned(),
            group: group(annotations, id),
            role: Role::of(annotations),
            pod,
            name: get(annotation::CONTAINER_NAME).unwrap_or_else(|| id.as_str().to_owned()),
            image_name: get(annotation::IMAGE_NAME),
        }
    }
}

/// The id by which containers share a shim: that of their pod sandbox, else their own.
pub(crate) fn group(annotations: &HashMap<String, String>, id: &Id) -> String {
    annotations
        .get(annotation::SANDBOX_ID)
        .and_then(|group| Id::parse(group).ok())
        .map_or_else(|| id.as_str().to_owned(), |group| group.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_leaves_its_folder_is_refused() {
        for bad in ["", ".", "..", "../x", "a/b", "-a", "a-", &"a".repeat(77), "a\n"] {
            assert!(Id::parse(bad).is_err(), "{bad:?}");
        }
        assert!(Id::parse("web-1_2.3").is_ok());
    }

    #[test]
    fn a_group_that_is_no_id_is_not_used() {
        let id = Id::parse("own").unwrap();
        let annotations = HashMap::from([(annotation::SANDBOX_ID.to_owned(), "../../etc".to_owned())]);
        assert_eq!(group(&annotations, &id), "own");
    }
}

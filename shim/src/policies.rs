//! The node's policies: those in the policy folder, or the last that were understood.

use std::io;
use std::path::{Path, PathBuf};

use profiles::policy::{MAX_FILE, Policies};
use sandbox::policy_folder::{self, Stamp};
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::walls::replace_private;

/// Policies, and whether they are the last that were understood only.
#[derive(Debug)]
pub(crate) struct InForce {
    /// What counts.
    pub(crate) policies: Policies,
    /// Why the folder's own do not.
    pub(crate) broken: Option<String>,
}

/// Why there are no policies, so that no container starts.
#[derive(Debug, thiserror::Error)]
#[error(
    "the node's policies are broken and none were understood before, so that no container is started: {problem}"
)]
pub(crate) struct NoPolicies {
    problem: String,
}

/// What was understood last, and of which files.
#[derive(Debug, Default, Serialize, Deserialize)]
struct LastKnownGood {
    folder: PathBuf,
    stamps: Vec<Stamp>,
    policies: Policies,
}

/// Reads the policies in force.
///
/// # Errors
/// When the folder holds something that is not understood and nothing was understood before.
pub(crate) fn load(config: &Config) -> Result<InForce, NoPolicies> {
    let kept = config.data_dir.join("policy").join("last-known-good.json");
    let last = LastKnownGood::read(&kept).filter(|last| last.folder == config.policy_dir);
    let problem = match current(&config.policy_dir, last.as_ref()) {
        Ok(Current::Unchanged) => None,
        Ok(Current::Changed(now)) => {
            // The next container reads the folder again, if it must.
            if let Err(err) = now.write(&kept) {
                tracing::warn!(error = %err, path = %kept.display(), "cannot keep the policies as last known good");
            }
            return Ok(InForce { policies: now.policies, broken: None });
        }
        Err(problem) => Some(problem),
    };
    match (last, problem) {
        (Some(last), broken) => Ok(InForce { policies: last.policies, broken }),
        (None, None) => Ok(InForce { policies: Policies::default(), broken: None }),
        (None, Some(problem)) => Err(NoPolicies { problem }),
    }
}

enum Current {
    Unchanged,
    Changed(LastKnownGood),
}

fn current(folder: &Path, last: Option<&LastKnownGood>) -> Result<Current, String> {
    let problem = |err: io::Error| format!("cannot read {}: {err}", folder.display());
    if !folder.try_exists().map_err(problem)? {
        if last.is_none_or(|last| last.policies == Policies::default()) {
            return Ok(Current::Unchanged);
        }
        let folder = folder.display();
        return Err(format!("{folder} is gone; make it again, empty if there are to be no policies"));
    }
    let files = policy_folder::files(folder).map_err(problem)?;
    if let Some(open) = policy_folder::changeable(folder, &files).map_err(problem)? {
        return Err(open.to_string());
    }
    let stamps: Vec<Stamp> = files.iter().map(|file| file.stamp.clone()).collect();
    if last.is_some_and(|last| last.stamps == stamps) {
        return Ok(Current::Unchanged);
    }
    let texts =
        files.iter().map(|file| Ok((file.name(), file.text(MAX_FILE)?))).collect::<io::Result<Vec<_>>>();
    let texts = texts.map_err(problem)?;
    let policies = Policies::parse(texts.iter().map(|(name, text)| (*name, text.as_str())))
        .map_err(|err| err.to_string())?;
    Ok(Current::Changed(LastKnownGood { folder: folder.to_owned(), stamps, policies }))
}

impl LastKnownGood {
    fn read(path: &Path) -> Option<Self> {
        let bytes = std::fs::read(path).ok()?;
        serde_json::from_slice(&bytes)
            .inspect_err(|err| tracing::warn!(error = %err, path = %path.display(), "damaged"))
            .ok()
    }

    /// Replaces the file whole, so that a reader sees one version or the other.
    fn write(&self, path: &Path) -> io::Result<()> {
        replace_private(path, &serde_json::to_vec(self)?)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    struct Node {
        root: tempfile::TempDir,
        config: Config,
    }

    impl Node {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let config = Config {
                data_dir: root.path().join("data"),
                policy_dir: root.path().join("policy.d"),
                ..Config::default()
            };
            Self { root, config }
        }

        fn folder(&self) -> PathBuf {
            std::fs::create_dir_all(&self.config.policy_dir).unwrap();
            std::fs::set_permissions(&self.config.policy_dir, PermissionsExt::from_mode(0o700)).unwrap();
            self.config.policy_dir.clone()
        }

        fn put(&self, name: &str, text: &str) {
            std::fs::write(self.folder().join(name), text).unwrap();
        }

        fn names(&self) -> Vec<String> {
            load(&self.config).unwrap().policies.names().map(str::to_owned).collect()
        }
    }

    const GOOD: &str = "apiVersion: keep.dev/v1alpha1\nkind: RuntimePolicy\nmetadata: { name: good }\nspec: { mode: audit }\n";

    #[test]
    fn without_a_folder_there_are_the_classes_alone() {
        let node = Node::new();
        assert!(node.names().is_empty() && load(&node.config).unwrap().broken.is_none());
        assert!(node.root.path().exists());
    }

    #[test]
    fn a_broken_file_leaves_the_last_known_good_in_force_and_says_so() {
        let node = Node::new();
        node.put("a.yaml", GOOD);
        assert_eq!(node.names(), ["good"]);
        node.put("b.yaml", "spec: [");
        let in_force = load(&node.config).unwrap();
        assert_eq!(in_force.policies.names().collect::<Vec<_>>(), ["good"]);
        assert!(in_force.broken.unwrap().starts_with("b.yaml:1:"));
        node.put("b.yaml", &GOOD.replace("good", "better"));
        assert_eq!(node.names(), ["better", "good"]);
        std::fs::remove_file(node.folder().join("b.yaml")).unwrap();
        assert_eq!(node.names(), ["good"]);
    }

    #[test]
    fn a_broken_file_with_nothing_before_it_stops_every_container() {
        let node = Node::new();
        node.put("a.yaml", "nonsense: true");
        assert!(load(&node.config).unwrap_err().to_string().contains("a.yaml:1:"));
    }

    #[test]
    fn a_folder_that_vanished_is_broken_and_an_empty_one_is_not() {
        let node = Node::new();
        node.put("a.yaml", GOOD);
        assert_eq!(node.names(), ["good"]);
        std::fs::remove_dir_all(node.folder()).unwrap();
        assert!(load(&node.config).unwrap().broken.unwrap().contains("is gone"));
        node.folder();
        assert!(node.names().is_empty());
    }

    #[test]
    fn policies_that_others_may_write_do_not_count() {
        let node = Node::new();
        node.put("a.yaml", GOOD);
        std::fs::set_permissions(node.folder().join("a.yaml"), PermissionsExt::from_mode(0o666)).unwrap();
        assert!(load(&node.config).unwrap_err().to_string().contains("chmod go-w"));
    }

    #[test]
    fn a_damaged_last_known_good_counts_as_none() {
        let node = Node::new();
        node.put("a.yaml", GOOD);
        assert_eq!(node.names(), ["good"]);
        std::fs::write(node.config.data_dir.join("policy/last-known-good.json"), "{").unwrap();
        assert_eq!(node.names(), ["good"]);
    }
}

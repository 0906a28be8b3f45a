//! Which policy is asked about: options that several commands share.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context as _;
use profiles::Policy;
use profiles::policy::{MAX_FILE, Policies, Subject};
use sandbox::policy_folder::{self, PolicyFile};

use crate::image::Image;

/// Where a node has its policies.
pub(crate) const FOLDER: &str = "/etc/keep/policy.d";

/// What a pod would select, and what the platform team says.
#[derive(Debug, clap::Args)]
pub(crate) struct PolicyArgs {
    /// Policy file or folder, as /etc/keep/policy.d on a node; may be given several times.
    #[arg(long, value_name = "PATH")]
    policy: Vec<PathBuf>,
    /// Class that the pod would select by its runtimeClassName.
    #[arg(long, default_value = "keep", value_name = "CLASS")]
    class: String,
    /// Namespace of the pod [default: none, as outside Kubernetes].
    #[arg(long, value_name = "NAMESPACE")]
    namespace: Option<String>,
}

impl PolicyArgs {
    /// A class and namespace alone; the policies come from elsewhere.
    pub(crate) fn of(class: &str, namespace: Option<&str>) -> Self {
        Self { policy: Vec::new(), class: class.to_owned(), namespace: namespace.map(str::to_owned) }
    }

    /// The policies that were named.
    ///
    /// # Errors
    /// When one cannot be read or understood, or two conflict.
    pub(crate) fn policies(&self) -> anyhow::Result<Policies> {
        read(&self.policy)
    }

    /// What is in force for `image`, if one is known.
    ///
    /// # Errors
    /// When the class is unknown.
    pub(crate) fn in_force(&self, policies: &Policies, image: Option<&Image>) -> anyhow::Result<Policy> {
        let subject = Subject {
            class: &self.class,
            namespace: self.namespace.as_deref(),
            image: image.and_then(|image| image.name.as_deref()),
            digest: image.and_then(|image| image.digest.as_deref()),
            now: SystemTime::now(),
        };
        Ok(policies.select(&subject)?)
    }
}

/// Reads policy files, and folders of them.
///
/// # Errors
/// When one cannot be read or understood, or two conflict.
pub(crate) fn read(paths: &[PathBuf]) -> anyhow::Result<Policies> {
    let mut texts = Vec::new();
    for path in paths {
        let cannot = || format!("cannot read policies from {}", path.display());
        if path.is_dir() {
            for file in policy_folder::files(path).with_context(cannot)? {
                texts.push((path.join(file.name()), text(&file).with_context(cannot)?));
            }
        } else {
            texts.push((path.clone(), text(&policy_folder::file(path).with_context(cannot)?)?));
        }
    }
    let named: Vec<(String, &str)> = texts.iter().map(|(path, text)| (shown(path), text.as_str())).collect();
    Ok(Policies::parse(named.iter().map(|(name, text)| (name.as_str(), *text)))?)
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn text(file: &PolicyFile) -> anyhow::Result<String> {
    file.text(MAX_FILE).with_context(|| format!("cannot read {}", file.name()))
}

//! All policies of a node: read, and checked against each other.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use check::Problem;

use super::{Ceiling, RuntimePolicy, Selector, Spec, builtin};

mod check;
mod place;
mod words;

/// Longest policy file that is read, in bytes.
pub const MAX_FILE: usize = 256 * 1024;
/// Most policies on a node. Of a list's entries, [`crate::labels::MAX_ENTRIES`] are read, as of a label's.
pub const MAX_POLICIES: usize = 512;

/// Longest part of a name that a message repeats, in characters.
const SHOWN: usize = 80;

/// Every policy of a node, free of conflicts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policies {
    /// The documents by name, with the file that each stands in.
    pub(super) documents: BTreeMap<String, Source>,
}

/// A document and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Source {
    pub(super) file: String,
    pub(super) spec: Spec,
}

/// What is wrong with policies; names the file or files.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// A file is not what is expected.
    #[error("{file}{place}: {problem}")]
    Document {
        /// The file.
        file: String,
        /// `:line:column`, where known.
        place: String,
        /// What is wrong and what was meant.
        problem: String,
    },
    /// A policy whose fields do not go together.
    #[error("{file}: policy {:?}: {problem}", name.chars().take(SHOWN).collect::<String>())]
    Policy {
        /// The file, with line and column where known.
        file: String,
        /// The policy.
        name: String,
        /// The field, as `spec.ceiling.exec`.
        at: String,
        /// What is wrong and what was meant.
        problem: String,
    },
    /// Two policies say different things about the same containers.
    #[error(
        "policies {one:?} ({one_file}) and {other:?} ({other_file}) conflict: both set {field}, differently, for the same containers; \
         make one of them more specific, or their selectors disjoint"
    )]
    Conflict {
        /// What both set.
        field: &'static str,
        /// One policy.
        one: String,
        /// Its file, with line and column where known.
        one_file: String,
        /// The other.
        other: String,
        /// Its file, with line and column where known.
        other_file: String,
    },
    /// Two documents have one name.
    #[error("policy {name:?} stands in {one} and again in {other}; names are unique")]
    Twice {
        /// The name.
        name: String,
        /// One file, with line and column where known.
        one: String,
        /// The other, likewise.
        other: String,
    },
    /// There are more documents than are read.
    #[error("{file}: there are more than {MAX_POLICIES} policies")]
    TooMany {
        /// The file that exceeds.
        file: String,
    },
}

/// How specific a policy's selector is: the more specific decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tier {
    /// No selector.
    All,
    /// Classes alone: the policy is part of those classes.
    Class,
    /// Namespaces.
    Namespace,
    /// Images.
    Image,
    /// Namespaces and images.
    NamespacedImage,
}

impl Selector {
    pub(super) fn tier(&self) -> Tier {
        match (&self.classes, &self.namespaces, &self.images) {
            (_, Some(_), Some(_)) => Tier::NamespacedImage,
            (_, None, Some(_)) => Tier::Image,
            (_, Some(_), None) => Tier::Namespace,
            (Some(_), None, None) => Tier::Class,
            (None, None, None) => Tier::All,
        }
    }

    /// Whether some container is meant by both.
    fn overlaps(&self, other: &Self) -> bool {
        fn meet<T>(one: Option<&T>, other: Option<&T>, meet: impl Fn(&T, &T) -> bool) -> bool {
            one.zip(other).is_none_or(|(one, other)| meet(one, other))
        }
        meet(self.classes.as_ref(), other.classes.as_ref(), |one, other| !one.is_disjoint(other))
            && [(&self.namespaces, &other.namespaces), (&self.images, &other.images)].iter().all(
                |(one, other)| {
                    meet(one.as_ref(), other.as_ref(), |one, other| {
                        one.iter().any(|a| other.iter().any(|b| a.overlaps(b)))
                    })
                },
            )
    }
}

impl Policies {
    /// Reads the files of a policy folder, given as name and text, each of one YAML document or more.
    ///
    /// # Errors
    /// When one of them is not understood or contradicts itself, two have one name, or two conflict: none counts then.
    pub fn parse<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, PolicyError> {
        let files: Vec<(&str, &str)> = files.into_iter().collect();
        let read = || {
            let mut policies = Self::default();
            for (file, text) in &files {
                for document in documents(file, text)? {
                    policies.add(file, document)?;
                }
            }
            policies.check_conflicts()?;
            Ok(policies)
        };
        read().map_err(|error: PolicyError| error.placed(&files))
    }

    /// Puts documents together that were read elsewhere (from the Kubernetes API).
    ///
    /// # Errors
    /// As [`Policies::parse`].
    pub fn from_documents(documents: impl IntoIterator<Item = RuntimePolicy>) -> Result<Self, PolicyError> {
        let mut policies = Self::default();
        for document in documents {
            policies.add("the cluster", document)?;
        }
        policies.check_conflicts()?;
        Ok(policies)
    }

    /// Names of the policies, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.documents.keys().map(String::as_str)
    }

    /// Each policy with the file that it stands in, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str, &Spec)> {
        self.documents.iter().map(|(name, source)| (name.as_str(), source.file.as_str(), &source.spec))
    }

    /// Names of every class: those built in, and those that policies define.
    #[must_use]
    pub fn class_names(&self) -> BTreeSet<String> {
        let defines = |source: &&Source| source.spec.selector.tier() == Tier::Class;
        let defined =
            self.documents.values().filter(defines).flat_map(|source| &source.spec.selector.classes);
        builtin::CLASSES.into_iter().map(str::to_owned).chain(defined.flatten().cloned()).collect()
    }

    fn add(&mut self, file: &str, document: RuntimePolicy) -> Result<(), PolicyError> {
        let name = document.metadata.name;
        if let Err(Problem { at, said }) =
            check::check_name(&name).and_then(|()| check::check(&document.spec))
        {
            return Err(PolicyError::Policy { file: file.to_owned(), name, at, problem: said });
        }
        if let Some(before) = self.documents.get(&name) {
            let (one, other) = (before.file.clone(), file.to_owned());
            return Err(PolicyError::Twice { name, one, other });
        }
        if self.documents.len() == MAX_POLICIES {
            return Err(PolicyError::TooMany { file: file.to_owned() });
        }
        self.documents.insert(name, Source { file: file.to_owned(), spec: document.spec });
        Ok(())
    }

    fn check_conflicts(&self) -> Result<(), PolicyError> {
        for (place, (one, left)) in self.documents.iter().enumerate() {
            for (other, right) in self.documents.iter().skip(place + 1) {
                let (a, b) = (&left.spec, &right.spec);
                if a.selector.tier() != b.selector.tier() {
                    continue;
                }
                let Some(field) = contradiction(a, b).filter(|_| a.selector.overlaps(&b.selector)) else {
                    continue;
                };
                return Err(PolicyError::Conflict {
                    field,
                    one: one.clone(),
                    one_file: left.file.clone(),
                    other: other.clone(),
                    other_file: right.file.clone(),
                });
            }
        }
        Ok(())
    }
}

/// A field that both set, differently, and of which only one can hold.
fn contradiction(a: &Spec, b: &Spec) -> Option<&'static str> {
    fn differ<T: PartialEq>(a: Option<&T>, b: Option<&T>) -> bool {
        a.zip(b).is_some_and(|(a, b)| a != b)
    }
    let class = a.selector.tier() == Tier::Class;
    let none = Ceiling::default();
    let (x, y) = (a.ceiling.as_ref().unwrap_or(&none), b.ceiling.as_ref().unwrap_or(&none));
    let fields = [
        ("mode", differ(a.mode.as_ref(), b.mode.as_ref())),
        ("undeclared", differ(a.undeclared().as_ref(), b.undeclared().as_ref())),
        ("default", differ(a.default.as_ref(), b.default.as_ref())),
        ("onInvalid", differ(a.on_invalid.as_ref(), b.on_invalid.as_ref())),
        ("onExceed", differ(a.on_exceed.as_ref(), b.on_exceed.as_ref())),
        ("require", differ(a.require.as_ref(), b.require.as_ref())),
        ("command", differ(a.command.as_ref(), b.command.as_ref())),
        ("interactiveExec", differ(a.interactive_exec.as_ref(), b.interactive_exec.as_ref())),
        ("debug", differ(a.debug.as_ref(), b.debug.as_ref())),
        ("isolation", differ(a.isolation.as_ref(), b.isolation.as_ref())),
        ("response", differ(a.response.as_ref(), b.response.as_ref())),
        ("report", differ(a.report.as_ref(), b.report.as_ref())),
        ("privileged", differ(a.privileged.as_ref(), b.privileged.as_ref())),
        // A class has one ceiling; those of other policies all hold at once.
        ("ceiling.exec", class && differ(x.exec.as_ref(), y.exec.as_ref())),
        ("ceiling.listen", class && differ(x.listen.as_ref(), y.listen.as_ref())),
        ("ceiling.connect", class && differ(x.connect.as_ref(), y.connect.as_ref())),
        ("ceiling.write", class && differ(x.write.as_ref(), y.write.as_ref())),
        ("ceiling.read", class && differ(x.read.as_ref(), y.read.as_ref())),
        ("ceiling.caps", class && differ(x.caps.as_ref(), y.caps.as_ref())),
        ("ceiling.needs", class && differ(x.needs.as_ref(), y.needs.as_ref())),
    ];
    fields.into_iter().find(|(_, differ)| *differ).map(|(field, _)| field)
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! { strict_booleans: true, with_snippet: false }
}

fn documents(file: &str, text: &str) -> Result<Vec<RuntimePolicy>, PolicyError> {
    let wrong =
        |place: String, problem: String| PolicyError::Document { file: file.to_owned(), place, problem };
    if text.len() > MAX_FILE {
        let problem = format!("the file has {} bytes; at most {MAX_FILE} are read", text.len());
        return Err(wrong(String::new(), problem));
    }
    serde_saphyr::from_multiple_with_options(text, options()).map_err(|error| {
        let place = error.location().map(|at| format!(":{}:{}", at.line(), at.column()));
        wrong(place.unwrap_or_default(), words::said(error.without_snippet()))
    })
}

#[cfg(test)]
mod tests;

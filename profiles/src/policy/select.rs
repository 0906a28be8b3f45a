//! What all policies come to for one container.

use std::time::SystemTime;

use super::set::{Policies, Source, Tier};
use super::{Ceiling, Policy, Rule, Spec, Undeclared, builtin};
use crate::intent::Intent;

/// A container as far as policies look at it.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Class that the runtime's configuration names.
    pub class: &'a str,
    /// Kubernetes namespace; `None` outside Kubernetes.
    pub namespace: Option<&'a str>,
    /// Name of its image as containerd has it; `None` where it has none.
    pub image: Option<&'a str>,
    /// Digest of its image.
    pub digest: Option<&'a str>,
    /// Now; exceptions end.
    pub now: SystemTime,
}

impl<'a> Subject<'a> {
    /// A container of which the class alone is known.
    #[must_use]
    pub fn of_class(class: &'a str) -> Self {
        Self { class, namespace: None, image: None, digest: None, now: SystemTime::UNIX_EPOCH }
    }
}

/// Why nothing is in force for a container, so that it does not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// Neither built in nor defined by a policy.
    #[error(
        "unknown class {class:?}; there are {known}. A policy whose selector names a class alone defines one"
    )]
    UnknownClass {
        /// The class.
        class: String,
        /// Those that there are.
        known: String,
    },
}

impl Policies {
    /// What is in force for `subject`: the class, then each policy that selects it, the less specific first. Of what can
    /// be said once the most specific policy decides; ceilings and denials all hold.
    ///
    /// # Errors
    /// When the class is unknown.
    pub fn select(&self, subject: &Subject<'_>) -> Result<Policy, SelectError> {
        let classes = self.class_names();
        if !classes.contains(subject.class) {
            let known = classes.into_iter().collect::<Vec<_>>().join(", ");
            return Err(SelectError::UnknownClass { class: subject.class.to_owned(), known });
        }
        let mut policy = builtin::class(subject.class);
        let mut selected: Vec<(Tier, &String, &Source)> = self
            .documents
            .iter()
            .filter(|(_, source)| source.spec.selects(subject))
            .map(|(name, source)| (source.spec.selector.tier(), name, source))
            .collect();
        selected.sort_by_key(|(tier, name, _)| (*tier, *name));
        for (tier, name, source) in selected {
            policy.apply(tier, name, &source.spec, subject);
        }
        Ok(policy)
    }
}

impl Spec {
    fn selects(&self, subject: &Subject<'_>) -> bool {
        let selector = &self.selector;
        let class = selector.classes.as_ref().is_none_or(|classes| classes.contains(subject.class));
        let fits = |patterns: &Option<std::collections::BTreeSet<super::Pattern>>, name: Option<&str>| {
            patterns.as_ref().is_none_or(|patterns| {
                name.is_some_and(|name| patterns.iter().any(|pattern| pattern.matches(name)))
            })
        };
        class && fits(&selector.namespaces, subject.namespace) && fits(&selector.images, subject.image)
    }

    /// `undeclared`, also where `default` implies it.
    pub(super) fn undeclared(&self) -> Option<Undeclared> {
        self.undeclared.or_else(|| self.default.as_ref().map(|_| Undeclared::Default))
    }

    /// The ceiling, as high as the exceptions in force for `subject` lift it.
    fn ceiling_for(&self, subject: &Subject<'_>) -> Option<Ceiling> {
        let mut ceiling = self.ceiling.clone()?;
        let in_force = |exception: &&super::Exception| {
            subject.digest == Some(exception.image.to_string().as_str())
                && !exception.expires.is_over(subject.now)
        };
        for exception in self.exceptions.iter().filter(in_force) {
            ceiling.lift(&exception.grants);
        }
        Some(ceiling)
    }
}

impl Policy {
    fn apply(&mut self, tier: Tier, name: &str, spec: &Spec, subject: &Subject<'_>) {
        fn set<T: Clone>(field: &mut T, value: Option<&T>) {
            if let Some(value) = value {
                field.clone_from(value);
            }
        }
        self.policies.push(name.to_owned());
        set(&mut self.mode, spec.mode.as_ref());
        set(&mut self.undeclared, spec.undeclared().as_ref());
        if spec.default.is_some() {
            self.default.clone_from(&spec.default);
        }
        set(&mut self.on_invalid, spec.on_invalid.as_ref());
        set(&mut self.on_exceed, spec.on_exceed.as_ref());
        set(&mut self.require, spec.require.as_ref());
        set(&mut self.command, spec.command.as_ref());
        if let Some(sessions) = spec.interactive_exec {
            // One value of two parts: whoever decides about sessions decides what they get.
            (self.interactive_exec, self.debug) = (sessions, spec.debug.clone());
        }
        set(&mut self.isolation, spec.isolation.as_ref());
        set(&mut self.response, spec.response.as_ref());
        set(&mut self.report, spec.report.as_ref());
        set(&mut self.privileged, spec.privileged.as_ref());
        if let Some(denied) = &spec.deny {
            self.denied.push(Rule { by: format!("policy {name}"), is: denied.clone() });
        }
        let Some(ceiling) = spec.ceiling_for(subject) else { return };
        match self.ceilings.first_mut().filter(|_| tier == Tier::Class) {
            Some(of_class) => of_class.is.replace(ceiling),
            None => self.ceilings.push(Rule { by: format!("policy {name}"), is: ceiling }),
        }
    }
}

impl Ceiling {
    /// Takes over every list that `other` has.
    fn replace(&mut self, other: Self) {
        fn take<T>(own: &mut Option<T>, other: Option<T>) {
            if other.is_some() {
                *own = other;
            }
        }
        take(&mut self.exec, other.exec);
        take(&mut self.listen, other.listen);
        take(&mut self.connect, other.connect);
        take(&mut self.write, other.write);
        take(&mut self.read, other.read);
        take(&mut self.caps, other.caps);
        take(&mut self.needs, other.needs);
    }

    /// Leaves `grants` too.
    fn lift(&mut self, grants: &Intent) {
        fn add<T: Ord + Clone>(
            own: &mut Option<std::collections::BTreeSet<T>>,
            more: &std::collections::BTreeSet<T>,
        ) {
            if let Some(own) = own {
                own.extend(more.iter().cloned());
            }
        }
        add(&mut self.exec, &grants.exec);
        add(&mut self.listen, &grants.listen);
        add(&mut self.connect, &grants.connect);
        add(&mut self.write, &grants.write);
        add(&mut self.read, &grants.read);
        add(&mut self.caps, &grants.caps);
        add(&mut self.needs, &grants.needs);
    }

    /// The longest list, and how many entries it has.
    pub(super) fn longest(&self) -> Option<(&'static str, usize)> {
        fn of<T>(list: Option<&std::collections::BTreeSet<T>>) -> usize {
            list.map_or(0, std::collections::BTreeSet::len)
        }
        let lists = [
            ("exec", of(self.exec.as_ref())),
            ("listen", of(self.listen.as_ref())),
            ("connect", of(self.connect.as_ref())),
            ("write", of(self.write.as_ref())),
            ("read", of(self.read.as_ref())),
            ("caps", of(self.caps.as_ref())),
            ("needs", of(self.needs.as_ref())),
        ];
        lists.into_iter().max_by_key(|(_, many)| *many)
    }
}

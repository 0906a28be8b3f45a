//! What no schema says about one policy.

use super::Tier;
use crate::intent::Intent;
use crate::labels::MAX_ENTRIES;
use crate::policy::{Ceiling, InteractiveExec, Isolation, OnInvalid, Response, Spec, Undeclared};

/// Most entries of a selector's list.
const MAX_SELECTED: usize = 64;

/// What is wrong with a policy, and where.
#[derive(Debug)]
pub(super) struct Problem {
    /// The field, as `spec.ceiling.exec`.
    pub(super) at: String,
    pub(super) said: String,
}

fn wrong(at: impl Into<String>, said: impl Into<String>) -> Result<(), Problem> {
    Err(Problem { at: at.into(), said: said.into() })
}

/// A name as Kubernetes takes it for an object (RFC 1123 subdomain).
pub(super) fn check_name(name: &str) -> Result<(), Problem> {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'.';
    let edge = |c: Option<&u8>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let bytes = name.as_bytes();
    if bytes.len() <= 253 && bytes.iter().all(|c| inner(*c)) && edge(bytes.first()) && edge(bytes.last()) {
        return Ok(());
    }
    wrong(
        "metadata.name",
        "metadata.name has lower-case letters, digits, \"-\" and \".\" only, at most 253, and begins and ends with a letter or digit",
    )
}

/// Whether its fields go together.
pub(super) fn check(spec: &Spec) -> Result<(), Problem> {
    for (list, entries) in [
        ("classes", spec.selector.classes.as_ref().map(std::collections::BTreeSet::len)),
        ("namespaces", spec.selector.namespaces.as_ref().map(std::collections::BTreeSet::len)),
        ("images", spec.selector.images.as_ref().map(std::collections::BTreeSet::len)),
    ] {
        match entries {
            Some(0) => {
                let said = format!(
                    "selector.{list} is empty, so that nothing is selected; leave it out to select all"
                );
                return wrong(format!("spec.selector.{list}"), said);
            }
            Some(many) if many > MAX_SELECTED => {
                let said = format!("selector.{list} has {many} entries; at most {MAX_SELECTED} are read");
                return wrong(format!("spec.selector.{list}"), said);
            }
            _ => {}
        }
    }
    if let Some(class) = spec.selector.classes.iter().flatten().find(|class| check_name(class).is_err()) {
        let said = format!(
            "selector.classes: {class:?} is no name of a class; a class is named exactly, without patterns"
        );
        return wrong("spec.selector.classes", said);
    }
    let debug = spec.debug.clone().map(Intent::from);
    let grants =
        [("default", spec.default.as_ref()), ("deny", spec.deny.as_ref()), ("debug", debug.as_ref())];
    let exceptions = spec.exceptions.iter().map(|exception| ("exceptions.grants", Some(&exception.grants)));
    let lists =
        grants.into_iter().chain(exceptions).map(|(name, grants)| (name, grants.and_then(Intent::longest)));
    let ceiling = ("ceiling", spec.ceiling.as_ref().and_then(Ceiling::longest));
    for (name, longest) in lists.chain([ceiling]) {
        if let Some((list, many)) = longest.filter(|(_, many)| *many > MAX_ENTRIES) {
            let said = format!("{name}.{list} has {many} entries; at most {MAX_ENTRIES} are read");
            return wrong(format!("spec.{name}.{list}"), said);
        }
    }
    match (spec.interactive_exec, &spec.debug) {
        (Some(InteractiveExec::Debug), None) => {
            return wrong(
                "spec.interactiveExec",
                "interactiveExec is debug, and no debug says what sessions get",
            );
        }
        (Some(InteractiveExec::Debug), Some(_)) | (_, None) => {}
        (_, Some(_)) => {
            return wrong(
                "spec.debug",
                "debug says what sessions get, and interactiveExec is not debug; write interactiveExec: debug beside it, or remove debug",
            );
        }
    }
    if let Some(path) =
        spec.default.iter().flat_map(|default| &default.write).find_map(crate::labels::unwritable)
    {
        return wrong(
            "spec.default.write",
            format!("default.write: nothing under {path} can be made writable"),
        );
    }
    match (&spec.default, spec.undeclared) {
        (Some(_), Some(other)) if other != Undeclared::Default => {
            return wrong(
                "spec.undeclared",
                "default says what images get that declare nothing, and undeclared says something else; leave undeclared out",
            );
        }
        (None, Some(Undeclared::Default)) => {
            return wrong("spec.undeclared", "undeclared is default, and no default is given");
        }
        _ => {}
    }
    if spec.on_invalid == Some(OnInvalid::UseDefault) && spec.default.is_none() {
        return wrong("spec.onInvalid", "onInvalid is UseDefault, and no default is given");
    }
    if !spec.exceptions.is_empty() && spec.ceiling.is_none() {
        return wrong("spec.exceptions", "exceptions raise this policy's own ceiling, and it has none");
    }
    if !spec.exceptions.is_empty() && spec.selector.tier() == Tier::Class {
        return wrong(
            "spec.exceptions",
            "an exception cannot lift the ceiling of a class; put the ceiling into a policy that selects namespaces or images",
        );
    }
    if spec.require.as_ref().is_some_and(|walls| walls.contains(&crate::plan::Wall::Policy)) {
        return wrong(
            "spec.require",
            "require names policy, which is no wall; there are exec, file, network, syscall, capability",
        );
    }
    if spec.isolation == Some(Isolation::Microvm) {
        return wrong(
            "spec.isolation",
            "isolation: microvm is not there yet in this version; leave it out, or use host",
        );
    }
    if spec.response == Some(Response::Evict) {
        return wrong(
            "spec.response",
            "response: evict is not there yet in this version; leave it out, or use event",
        );
    }
    Ok(())
}

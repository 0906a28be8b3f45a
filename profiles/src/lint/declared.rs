//! Rules about the labels themselves.

use super::{Lint, Place, Rule, Severity, rule};
use crate::labels::{Fault, INTENT, LISTS, LabelError, Notice, PREFIX, VERSION, list_of, words};
use crate::policy::Undeclared;

pub(super) fn check(lint: &mut Lint<'_>, declares: bool, notices: &[Notice], errors: &[LabelError]) {
    for error in errors {
        invalid(lint, error);
    }
    for notice in notices {
        match notice {
            Notice::UnknownKey { key, suggestion } => {
                let (meant, help) = match suggestion {
                    Some(known) => {
                        (format!("; did you mean {known}?"), format!("write {known}, or remove the label"))
                    }
                    None => (String::new(), format!("remove it; the keys are intent, {}", LISTS.join(", "))),
                };
                lint.add(
                    rule::UNKNOWN_KEY,
                    Place::Key(key.clone()),
                    format!("unknown label {key}{meant}"),
                    help,
                );
            }
            Notice::WithoutIntent { key } => {
                let message = format!("label {key} declares nothing, because nothing sets {INTENT}");
                let help = format!("add LABEL {INTENT}=\"{VERSION}\"");
                lint.add(rule::WITHOUT_INTENT, Place::Key(key.clone()), message, help);
            }
            // The policy's, which speaks later.
            Notice::Clamped { .. }
            | Notice::Invalid { .. }
            | Notice::BrokenPolicies { .. }
            | Notice::Undeclared => {}
        }
    }
    if !declares && !lint.subject.labels.keys().any(|key| key.starts_with(PREFIX)) {
        undeclared(lint);
    }
}

fn invalid(lint: &mut Lint<'_>, error: &LabelError) {
    let list = error.key.strip_prefix(PREFIX).and_then(list_of).unwrap_or_default();
    let rule = match error.fault {
        Fault::Version => rule::INVALID_VERSION,
        Fault::Size => rule::LABEL_TOO_LONG,
        Fault::Word => rule_of(list),
    };
    let value = lint.subject.labels.get(&error.key).map_or("", String::as_str);
    let word =
        words(value).find(|(column, word)| (*column..column + word.chars().count()).contains(&error.column));
    let place = match (error.fault, word) {
        (Fault::Word | Fault::Version, Some((column, word))) => {
            let length = column + word.chars().count() - error.column;
            Place::Word { key: error.key.clone(), column: error.column, length }
        }
        _ => Place::Key(error.key.clone()),
    };
    lint.add(rule, place, error.problem.clone(), help(&error.key, error.fault, list));
}

fn rule_of(list: &str) -> Rule {
    match list {
        "listen" => rule::INVALID_PORT,
        "connect" => rule::INVALID_ENDPOINT,
        "caps" => rule::UNKNOWN_CAPABILITY,
        "needs" => rule::UNKNOWN_NEED,
        _ => rule::INVALID_PATH,
    }
}

fn help(key: &str, fault: Fault, list: &str) -> String {
    match (fault, list) {
        (Fault::Version, _) => format!("write {INTENT}=\"{VERSION}\""),
        (Fault::Size, _) => format!("split it into fragments, {key}.one and {key}.two, which are united"),
        (Fault::Word, "listen") => "ports are written 8080/tcp, 53/udp, 8000-8010/tcp".to_owned(),
        (Fault::Word, "connect") => {
            "places are written 5432/tcp, 10.0.0.0/8:443/tcp, [2001:db8::/32]:443/tcp, dns, unix:/path"
                .to_owned()
        }
        (Fault::Word, "caps") => "capabilities are written as in capabilities(7), without CAP_".to_owned(),
        (Fault::Word, "needs") => "docs/labels.md has the needs and what each is for".to_owned(),
        (Fault::Word, _) => "paths begin with /, have no .. and write a space as %20".to_owned(),
    }
}

fn undeclared(lint: &mut Lint<'_>) {
    let class = &lint.policy.class;
    let (severity, then) = match lint.policy.undeclared {
        Undeclared::Refuse => (Severity::Error, format!("class {class} does not run it")),
        Undeclared::Baseline => {
            (Severity::Warning, format!("class {class} runs it with containerd's defaults and no walls"))
        }
        Undeclared::Default => {
            (Severity::Warning, format!("class {class} runs it with what its policy grants by default"))
        }
        Undeclared::Unconfined => (Severity::Warning, format!("class {class} runs it without any wall")),
    };
    let message = format!("{then}, because nothing sets {INTENT}");
    let help = format!(
        "add LABEL {INTENT}=\"{VERSION}\" and what it needs, for example dev.keep.listen=\"8080/tcp\""
    );
    lint.add(rule::UNDECLARED, Place::Image, message, help);
    if let Some(last) = lint.found.last_mut() {
        last.severity = severity;
    }
}

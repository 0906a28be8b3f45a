//! What a notice about labels becomes in a record.

use super::{Allow, Observation, Verdict};
use crate::labels::{Notice, VERSION};
use crate::plan::Wall;

/// What a [`Notice`] becomes in a record.
///
/// # Errors
/// The second part is the sentence for `because` where no label helps.
pub fn from_notice(notice: &Notice) -> (Observation, Result<Allow, String>) {
    let observation = |operation: &str, object: String, verdict| Observation {
        wall: Wall::Policy,
        operation: operation.to_owned(),
        object,
        verdict,
        errno: None,
        pid: 0,
        program: String::new(),
    };
    let intent = || Allow { label: "dev.keep.intent".to_owned(), value: VERSION.to_owned() };
    match notice {
        Notice::UnknownKey { key, suggestion } => {
            let because = match suggestion {
                Some(known) => format!("version {VERSION} has no such key; did you mean {known}?"),
                None => format!("version {VERSION} has no such key"),
            };
            (observation("labels", key.clone(), Verdict::Denied), Err(because))
        }
        Notice::WithoutIntent { key } => (observation("labels", key.clone(), Verdict::Denied), Ok(intent())),
        Notice::Clamped { key, value, left, by } => {
            let because = match left.as_slice() {
                [] => format!("{by} does not leave {value} to an image"),
                left => format!("{by} leaves only {} of {value} to an image", listed(left)),
            };
            (observation("clamped", format!("{key}={value}"), Verdict::Denied), Err(because))
        }
        Notice::Invalid { error } => {
            let because =
                "the labels are not understood, and the policy's default took their place".to_owned();
            (observation("labels", error.clone(), Verdict::Denied), Err(because))
        }
        Notice::BrokenPolicies { problem } => {
            let because =
                "the node's policies are broken; those that were last understood stay in force".to_owned();
            (observation("policies", problem.clone(), Verdict::Denied), Err(because))
        }
        Notice::Undeclared => (observation("undeclared", "image".to_owned(), Verdict::Audited), Ok(intent())),
    }
}

/// The first few entries.
pub(crate) fn listed(entries: &[String]) -> String {
    const FEW: usize = 5;
    match entries.len() {
        many if many > FEW => format!("{} and {} more", entries[..FEW].join(" "), many - FEW),
        _ => entries.join(" "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_notice_says_what_helps_or_why_nothing_does() {
        let (seen, allow) = from_notice(&Notice::Undeclared);
        assert_eq!(
            (seen.operation.as_str(), seen.verdict, seen.wall),
            ("undeclared", Verdict::Audited, Wall::Policy)
        );
        assert_eq!(allow.unwrap().label, "dev.keep.intent");

        let key = "dev.keep.lisen".to_owned();
        let suggestion = Some("dev.keep.listen".to_owned());
        let (seen, allow) = from_notice(&Notice::UnknownKey { key: key.clone(), suggestion });
        assert_eq!((seen.operation.as_str(), seen.object), ("labels", key.clone()));
        assert!(allow.unwrap_err().contains("did you mean dev.keep.listen?"));

        assert_eq!(from_notice(&Notice::WithoutIntent { key }).1.unwrap().value, "v1");

        let notice = Notice::Clamped {
            key: "dev.keep.needs".into(),
            value: "mount".into(),
            left: Vec::new(),
            by: "class keep".into(),
        };
        let (seen, allow) = from_notice(&notice);
        assert_eq!(seen.object, "dev.keep.needs=mount");
        assert_eq!(allow.unwrap_err(), "class keep does not leave mount to an image");
    }
}

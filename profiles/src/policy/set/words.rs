//! What is wrong with a policy's YAML, in words for who wrote it.

use serde_saphyr::{DefaultMessageFormatter, Error, MessageFormatter as _};

use crate::labels::nearest;

/// Longest part of the file that a message repeats, in characters.
const SHOWN: usize = 80;

/// What `error` means and how to mend it. What no person writes by mistake is left in the reader's own words.
pub(super) fn said(error: &Error) -> String {
    match error {
        Error::SerdeUnknownField { field, expected, .. } => unknown("field", field, expected),
        Error::SerdeUnknownVariant { variant, expected, .. } => unknown("value", variant, expected),
        Error::SerdeMissingField { field, .. } => format!("the field {field:?} is missing here"),
        Error::DuplicateMappingKey { key: Some(key), .. } => {
            format!("the field {:?} stands here twice", shown(key))
        }
        Error::DuplicateMappingKey { key: None, .. } => "a field stands here twice".to_owned(),
        Error::InvalidBooleanStrict { .. } => "write true or false here".to_owned(),
        Error::Unexpected { expected, .. } if expected.contains("sequence") => {
            "a list is expected here, as [one, two] or lines that begin with \"- \"".to_owned()
        }
        Error::Unexpected { expected, .. } if expected.contains("mapping") => {
            "fields are expected here, each as \"name: value\"".to_owned()
        }
        Error::Unexpected { expected, .. } if expected.contains("scalar") => {
            "one value is expected here, neither a list nor fields".to_owned()
        }
        Error::UnknownAnchor { .. } => {
            "a value that begins with * is an alias to YAML, and nothing has that name; put it into quotes".to_owned()
        }
        Error::NullIntoString { .. } => "a value is missing here".to_owned(),
        Error::Eof { .. } => "the file ends before what was begun is closed".to_owned(),
        Error::Budget { .. }
        | Error::AliasReplayCounterOverflow { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => {
            "it is too deep, or too large once its aliases (*name) stand for what they mean; write it out, shorter".to_owned()
        }
        Error::AliasError { error, .. } => said(error),
        // Without the place, which stands in front already.
        other => DefaultMessageFormatter.format_message(other).into_owned(),
    }
}

fn unknown(what: &str, found: &str, expected: &[&'static str]) -> String {
    let meant = nearest(found, expected.iter().copied()).map(|name| format!("did you mean {name:?}? "));
    let meant = meant.unwrap_or_default();
    match expected {
        [only] => format!("unknown {what} {:?}; it must be {only}", shown(found)),
        all => format!("unknown {what} {:?}; {meant}there are {}", shown(found), all.join(", ")),
    }
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

//! Patterns of names, with `*` for any text.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest pattern, in characters: a namespace has at most 63, the name of an image 255.
const MAX_PATTERN: usize = 255;

/// A pattern of namespaces or image names: `*` stands for any text, also none and also with slashes; all else for
/// itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern(String);

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("pattern {pattern:?} {problem}")]
pub struct PatternError {
    pattern: String,
    problem: &'static str,
}

impl Pattern {
    /// Whether `name` is one of the names that are meant.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        meet(self.0.as_bytes(), name.as_bytes(), false)
    }

    /// Whether some name is meant by both patterns.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        // Most differ before their first star already.
        let literal = |pattern: &str| pattern.find('*').unwrap_or(pattern.len());
        let common = literal(&self.0).min(literal(&other.0));
        self.0.as_bytes()[..common] == other.0.as_bytes()[..common]
            && meet(self.0.as_bytes(), other.0.as_bytes(), true)
    }

    /// Whether it means one name only.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        !self.0.contains('*')
    }
}

/// Whether a text fits the pattern `one` and `other`, which is a pattern too if `both`. Time: product of the lengths.
fn meet(one: &[u8], other: &[u8], both: bool) -> bool {
    let star = |byte: u8| both && byte == b'*';
    // row[j]: whether what was read of `one` meets the first j bytes of `other`.
    let mut row = vec![false; other.len() + 1];
    row[0] = true;
    for (j, byte) in other.iter().enumerate() {
        row[j + 1] = row[j] && star(*byte);
    }
    for a in one {
        let mut next = vec![false; other.len() + 1];
        next[0] = row[0] && *a == b'*';
        for (j, b) in other.iter().enumerate() {
            next[j + 1] = if *a == b'*' || star(*b) {
                // A star takes in one more byte of the other side, or ends.
                row[j + 1] || next[j]
            } else {
                row[j] && a == b
            };
        }
        row = next;
    }
    row[other.len()]
}

impl FromStr for Pattern {
    type Err = PatternError;
    fn from_str(text: &str) -> Result<Self, PatternError> {
        let problem = if text.is_empty() {
            "is empty; write * for any name"
        } else if text.chars().count() > MAX_PATTERN {
            "is longer than 255 characters"
        } else if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            "has white space or control characters, which no name has"
        } else if text.contains(['?', '[', ']', '{', '}']) {
            "has ?, brackets or braces; only * is special"
        } else {
            return Ok(Self(text.to_owned()));
        };
        Err(PatternError { pattern: text.chars().take(80).collect(), problem })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Pattern {
    type Error = PatternError;
    fn try_from(text: String) -> Result<Self, PatternError> {
        text.parse()
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> Pattern {
        text.parse().unwrap()
    }

    #[test]
    fn a_star_stands_for_any_text() {
        for (text, name, fits) in [
            ("shop", "shop", true),
            ("shop", "shops", false),
            ("team-*", "team-", true),
            ("team-*", "team-a", true),
            ("team-*", "a-team-a", false),
            ("*/shop/*", "docker.io/shop/web:1", true),
            ("*", "", true),
            ("a*b*c", "abbc", true),
            ("a*b*c", "acb", false),
        ] {
            assert_eq!(pattern(text).matches(name), fits, "{text} {name}");
        }
    }

    #[test]
    fn what_looks_like_another_kind_of_pattern_is_an_error() {
        for text in ["", "team-?", "team-[ab]", "a b", "{a,b}"] {
            assert!(text.parse::<Pattern>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn patterns_overlap_exactly_when_a_name_fits_both(one in "[ab*]{1,4}", other in "[ab*]{1,4}") {
            let (one, other) = (pattern(&one), pattern(&other));
            // Two patterns of at most four characters that overlap do so on a name of at most eight.
            let mut names = vec![String::new()];
            let mut fits = false;
            for _ in 0..=8 {
                fits |= names.iter().any(|name| one.matches(name) && other.matches(name));
                names = names.iter().flat_map(|name| [format!("{name}a"), format!("{name}b")]).collect();
            }
            prop_assert_eq!(one.overlaps(&other), fits);
        }
    }
}

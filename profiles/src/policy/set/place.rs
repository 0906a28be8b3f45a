//! Where in the files a problem lies that was seen only once they were read.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::{PolicyError, options};

/// A value with those of its fields.
#[derive(Debug, Default)]
struct Node {
    text: String,
    fields: BTreeMap<String, Spanned<Node>>,
}

impl PolicyError {
    /// The same, with line and column of what it is about. `files` are names and texts.
    pub(super) fn placed(mut self, files: &[(&str, &str)]) -> Self {
        let place = |file: &mut String, policy: &str, field: &str, which: usize| {
            let text = files.iter().find(|(name, _)| name == file).map(|(_, text)| *text);
            if let Some((line, column)) = text.and_then(|text| find(text, policy, field, which)) {
                *file = format!("{file}:{line}:{column}");
            }
        };
        match &mut self {
            Self::Policy { file, name, at, .. } => {
                // The first of its name was good, if there is another.
                place(file, name, at, 0);
            }
            Self::Conflict { field, one, one_file, other, other_file } => {
                let field = format!("spec.{field}");
                place(one_file, one, &field, 0);
                place(other_file, other, &field, 0);
            }
            Self::Twice { name, one, other } => {
                let again = usize::from(one == other);
                place(one, name, "metadata.name", 0);
                place(other, name, "metadata.name", again);
            }
            Self::Document { .. } | Self::TooMany { .. } => {}
        }
        self
    }
}

/// Line and column of `field`, or of what it would stand in, in the policy of this name; of several the one after `skip`.
fn find(text: &str, policy: &str, field: &str, skip: usize) -> Option<(u64, u64)> {
    let documents: Vec<Spanned<Node>> = serde_saphyr::from_multiple_with_options(text, options()).ok()?;
    let named = |document: &&Spanned<Node>| {
        let name = document.value.fields.get("metadata").and_then(|data| data.value.fields.get("name"));
        name.is_some_and(|name| name.value.text == policy)
    };
    let mut at = documents.iter().filter(named).nth(skip)?;
    for part in field.split('.') {
        let Some(next) = at.value.fields.get(part) else { break };
        at = next;
    }
    Some((at.referenced.line(), at.referenced.column()))
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyNode)
    }
}

/// Takes whatever there is: the files were understood once.
struct AnyNode;

impl<'de> Visitor<'de> for AnyNode {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut node = Node::default();
        while let Some((name, value)) = map.next_entry()? {
            node.fields.insert(name, value);
        }
        Ok(node)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Node::default())
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node { text: text.to_owned(), ..Node::default() })
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Node, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Node, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Node, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Node, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::default())
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::default())
    }
}

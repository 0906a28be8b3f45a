//! The label schema, version 1: parsing, fragments, errors that name key, value, column and a suggestion.

use std::collections::{BTreeMap, BTreeSet};

use crate::intent::{AbsPath, Capability, Endpoint, EntryError, Intent, Need, PortRange};

mod suggest;

pub(crate) use suggest::nearest;

/// What every label of ours begins with.
pub const PREFIX: &str = "dev.keep.";
/// The label that begins a declaration.
pub const INTENT: &str = "dev.keep.intent";
/// The schema version that this crate reads.
pub const VERSION: &str = "v1";
/// Longest label, key and value together, in bytes (containerd drops longer ones).
pub const MAX_LABEL: usize = 4096;
/// Longest sum of all `dev.keep.` labels, keys and values together, in bytes.
pub const MAX_ALL: usize = 32 * 1024;
/// Most entries of one list, its fragments together.
pub const MAX_ENTRIES: usize = 512;
/// Keys of schema v1 that hold a list, without [`PREFIX`].
pub const LISTS: [&str; 7] = ["exec", "listen", "connect", "write", "read", "caps", "needs"];

/// What an image's labels declare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Declaration {
    /// No `dev.keep.intent` label: the image declares nothing, though it may have tried to.
    Nothing(Vec<Notice>),
    /// A v1 intent, and what was odd about it.
    V1(Intent, Vec<Notice>),
}

/// Something to report that stops nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// An unknown v1 key was ignored; with the nearest known key, if one is near.
    UnknownKey {
        /// The label's key.
        key: String,
        /// A key that may have been meant.
        suggestion: Option<String>,
    },
    /// `dev.keep.*` labels stand without `dev.keep.intent`: they declare nothing.
    WithoutIntent {
        /// The first such key.
        key: String,
    },
    /// The policy took this away.
    Clamped {
        /// The label's key.
        key: String,
        /// The entry that was taken away or cut.
        value: String,
        /// What is left of it; nothing, mostly.
        left: Vec<String>,
        /// The rule that took it, for example `class keep`.
        by: String,
    },
    /// A label is not understood, and the policy's default took the place of all.
    Invalid {
        /// The [`LabelError`] in words.
        error: String,
    },
    /// The node's policies are not understood, and the last that were stay in force.
    BrokenPolicies {
        /// The [`crate::policy::PolicyError`] in words.
        problem: String,
    },
    /// The image declares nothing and the class lets it run all the same.
    Undeclared,
}

/// An invalid label: names key, value, column (in characters, from 1) and what was meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("label {key}={value:?}: column {column}: {problem}")]
pub struct LabelError {
    /// The label's key.
    pub key: String,
    /// Its value (shortened in the middle if very long).
    pub value: String,
    /// Where in the value, in characters from 1.
    pub column: usize,
    /// What kind of thing is wrong.
    pub fault: Fault,
    /// What is wrong and what was meant.
    pub problem: String,
}

/// What kind of thing is wrong with a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The schema version.
    Version,
    /// The label, or all of them together, are too long.
    Size,
    /// A word of the value.
    Word,
}

/// Everything that can be said of an image's labels, wrong ones included: for a linter, which goes on where
/// [`parse`] stops.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// Whether `dev.keep.intent` is there.
    pub declares: bool,
    /// What the valid words declare.
    pub intent: Intent,
    /// What was odd.
    pub notices: Vec<Notice>,
    /// What is invalid, in key order, `dev.keep.intent` before all.
    pub errors: Vec<LabelError>,
}

/// Parses an image's labels; those outside `dev.keep.` are ignored.
///
/// # Errors
/// On the first invalid label (in key order, `dev.keep.intent` before all), an unknown major version, a label over
/// 4 KiB or all over 32 KiB.
pub fn parse(labels: &BTreeMap<String, String>) -> Result<Declaration, LabelError> {
    if !labels.contains_key(INTENT) {
        return Ok(Declaration::Nothing(without_intent(labels)));
    }
    let Survey { intent, notices, errors, .. } = survey(labels);
    match errors.into_iter().next() {
        Some(first) => Err(first),
        None => Ok(Declaration::V1(intent, notices)),
    }
}

/// Reads an image's labels to the end, and says all that is wrong with them; those outside `dev.keep.` are ignored.
/// Words count even where `dev.keep.intent` is missing, which [`Survey::declares`] tells.
#[must_use]
pub fn survey(labels: &BTreeMap<String, String>) -> Survey {
    let mut found = Survey { declares: labels.contains_key(INTENT), ..Survey::default() };
    if !found.declares {
        found.notices = without_intent(labels);
    }
    found.errors.extend(labels.get(INTENT).and_then(|version| check_version(version).err()));
    let mut total = 0;
    for (key, name, value) in ours(labels) {
        let size = key.len() + value.len();
        total += size;
        if let Some(problem) = too_long(key, size, total) {
            found.errors.push(error(key, value, 1, Fault::Size, problem));
            if total > MAX_ALL {
                break;
            }
            continue;
        }
        match list_of(name) {
            Some(list) => {
                let wrong = read_list(&mut found.intent, list, value);
                let wrong = wrong
                    .into_iter()
                    .map(|(column, entry)| error(key, value, column + entry.at, Fault::Word, entry.problem));
                found.errors.extend(wrong);
            }
            None if name != "intent" && found.declares => found.notices.push(unknown(key, name)),
            None => {}
        }
    }
    found
}

/// The labels beneath [`PREFIX`]: key, key without it, value.
fn ours(labels: &BTreeMap<String, String>) -> impl Iterator<Item = (&String, &str, &String)> {
    labels.iter().filter_map(|(key, value)| Some((key, key.strip_prefix(PREFIX)?, value)))
}

fn without_intent(labels: &BTreeMap<String, String>) -> Vec<Notice> {
    let first = ours(labels).next().map(|(key, ..)| Notice::WithoutIntent { key: key.clone() });
    let unknown =
        ours(labels).filter(|(_, name, _)| list_of(name).is_none()).map(|(key, name, _)| unknown(key, name));
    first.into_iter().chain(unknown).collect()
}

fn too_long(key: &str, size: usize, total: usize) -> Option<String> {
    if size > MAX_LABEL {
        return Some(format!("the label has {size} bytes and may have {MAX_LABEL}; split it, as {key}.more"));
    }
    (total > MAX_ALL).then(|| format!("all {PREFIX} labels together exceed {MAX_ALL} bytes here"))
}

fn error(key: &str, value: &str, column: usize, fault: Fault, problem: impl Into<String>) -> LabelError {
    LabelError { key: key.to_owned(), value: shortened(value), column, fault, problem: problem.into() }
}

/// At most 80 characters, the middle left out.
fn shortened(value: &str) -> String {
    cut(value, 80)
}

/// At most `max` characters, the middle left out.
pub(crate) fn cut(text: &str, max: usize) -> String {
    let length = text.chars().count();
    if length <= max {
        return text.to_owned();
    }
    let tail = max * 2 / 5 - 1;
    text.chars().take(max - tail - 1).chain(['…']).chain(text.chars().skip(length - tail)).collect()
}

fn check_version(value: &str) -> Result<(), LabelError> {
    let key = INTENT;
    let version = value.trim_matches(|c: char| c.is_ascii_whitespace());
    if version == VERSION {
        return Ok(());
    }
    let column = value.chars().take_while(char::is_ascii_whitespace).count() + 1;
    let problem = match version {
        "" => format!("the schema version is missing; write {key}=\"{VERSION}\""),
        "1" | "V1" | "v1.0" => format!("unknown schema version {version:?}; did you mean {VERSION:?}?"),
        _ => format!("unknown schema version {:?}; this Keep reads {VERSION:?}", shortened(version)),
    };
    Err(error(key, value, if version.is_empty() { 1 } else { column }, Fault::Version, problem))
}

/// The list that a key without [`PREFIX`] belongs to: itself or, for a fragment, what stands before the point.
pub(crate) fn list_of(name: &str) -> Option<&'static str> {
    let base = match name.split_once('.') {
        Some((_, "")) => return None,
        Some((base, _)) => base,
        None => name,
    };
    LISTS.into_iter().find(|list| *list == base)
}

fn unknown(key: &str, name: &str) -> Notice {
    let (base, fragment) = name.split_once('.').unwrap_or((name, ""));
    let keys = LISTS.into_iter().chain(["intent"]);
    let suggestion = nearest(base, keys).map(|known| match fragment {
        "" => format!("{PREFIX}{known}"),
        _ if known == "intent" => format!("{PREFIX}{known}"),
        fragment => format!("{PREFIX}{known}.{fragment}"),
    });
    Notice::UnknownKey { key: key.to_owned(), suggestion }
}

/// Adds a label's words to its list; gives those that are wrong, each with its column, from 1.
fn read_list(intent: &mut Intent, list: &str, value: &str) -> Vec<(usize, EntryError)> {
    match list {
        "exec" => read_words(&mut intent.exec, value, AbsPath::from_label),
        "listen" => read_words(&mut intent.listen, value, listen),
        "connect" => read_words(&mut intent.connect, value, str::parse::<Endpoint>),
        "write" => read_words(&mut intent.write, value, writable),
        "read" => read_words(&mut intent.read, value, AbsPath::from_label),
        "caps" => read_words(&mut intent.caps, value, capability),
        "needs" => read_words(&mut intent.needs, value, need),
        _ => Vec::new(),
    }
}

fn read_words<T: Ord>(
    set: &mut BTreeSet<T>,
    value: &str,
    read: impl Fn(&str) -> Result<T, EntryError>,
) -> Vec<(usize, EntryError)> {
    let mut wrong = Vec::new();
    for (column, word) in words(value) {
        match read(word) {
            Ok(entry) if set.len() == MAX_ENTRIES && !set.contains(&entry) => {
                let problem =
                    format!("a list has at most {MAX_ENTRIES} entries; use a folder, a range or a network");
                wrong.push((column, EntryError::new(0, problem)));
                break;
            }
            Ok(entry) => {
                set.insert(entry);
            }
            Err(error) => wrong.push((column, error)),
        }
    }
    wrong
}

/// The words of a value, each with its column, in characters from 1.
pub(crate) fn words(value: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut rest = value;
    let mut column = 1;
    std::iter::from_fn(move || {
        let word_start = rest.trim_start_matches(|c: char| c.is_ascii_whitespace());
        column += rest.len() - word_start.len();
        let end = word_start.find(|c: char| c.is_ascii_whitespace()).unwrap_or(word_start.len());
        let (word, after) = word_start.split_at(end);
        let at = column;
        column += word.chars().count();
        rest = after;
        (!word.is_empty()).then_some((at, word))
    })
}

fn listen(word: &str) -> Result<PortRange, EntryError> {
    word.parse().map_err(|error| match word.parse::<Endpoint>() {
        Ok(Endpoint::Ports { ports, .. }) => EntryError::new(
            0,
            format!("an address has no place here, ports are bound on every one; write {ports}"),
        ),
        Ok(Endpoint::Unix(path)) => {
            let folder = path.parent().to_label();
            EntryError::new(0, format!("unix sockets are bound by writing; put {folder} into dev.keep.write"))
        }
        Ok(Endpoint::Dns) => EntryError::new(0, "write the ports of a name server as 53/udp 53/tcp"),
        Err(_) => error,
    })
}

fn writable(word: &str) -> Result<AbsPath, EntryError> {
    let path = AbsPath::from_label(word)?;
    match unwritable(&path) {
        Some(root) => Err(EntryError::new(0, format!("nothing under {root} can be made writable"))),
        None => Ok(path),
    }
}

/// The kernel's own tree that `path` lies in, where no label grants writing.
pub(crate) fn unwritable(path: &AbsPath) -> Option<&'static str> {
    let under = |root: &str| {
        path.as_str().strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    ["/proc", "/sys"].into_iter().find(|root| under(root))
}

/// The capability that a word names, or what was meant.
pub(crate) fn capability(word: &str) -> Result<Capability, EntryError> {
    Capability::new(word).map_err(|_| {
        let upper = word.to_ascii_uppercase();
        let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
        let known: Vec<String> = Capability::all().map(String::from).collect();
        let problem = match nearest(bare, known.iter().map(String::as_str)) {
            Some(name) if name == bare && upper.starts_with("CAP_") => {
                format!("a capability is written without CAP_; write {name}")
            }
            Some(name) if name == bare => format!("a capability is written in upper case; write {name}"),
            Some(name) => format!("unknown capability {word:?}; did you mean {name:?}?"),
            None if bare == "ALL" => "there is no capability \"ALL\"; name each that is needed".to_owned(),
            None => format!("unknown capability {word:?}; capabilities(7) lists them"),
        };
        EntryError::new(0, problem)
    })
}

/// The need that a word names, or what was meant.
pub(crate) fn need(word: &str) -> Result<Need, EntryError> {
    Need::new(word).map_err(|_| {
        let known: Vec<String> = Need::all().map(String::from).collect();
        let problem = match nearest(word, known.iter().map(String::as_str)) {
            Some(name) => format!("unknown need {word:?}; did you mean {name:?}?"),
            None => format!("unknown need {word:?}; there are {}", known.join(", ")),
        };
        EntryError::new(0, problem)
    })
}

#[cfg(test)]
mod tests;

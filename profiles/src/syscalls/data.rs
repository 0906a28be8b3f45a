//! Parsing the data files; their forms are described at the head of each.

use std::collections::{BTreeMap, BTreeSet};

use super::Numbers;
use crate::plan::{Action, CallRule, Compare, Condition};

/// A data file does not have its form; seen by tests alone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("system-call data: line {line}: {problem}")]
pub struct DataError {
    /// Line, from 1.
    pub line: usize,
    /// What is wrong.
    pub problem: &'static str,
}

/// Who gets a group of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Everybody.
    Base,
    /// Who declares the need.
    Need,
    /// Who is left with the capability.
    Cap,
}

/// One group of `groups.txt`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) kind: Kind,
    pub(super) name: &'static str,
    pub(super) text: &'static str,
    pub(super) calls: BTreeSet<&'static str>,
}

/// A condition of a `[rule …]` section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Term {
    Always,
    Inet,
    Datagram,
    Need(&'static str),
    Cap(&'static str),
    Not(Box<Term>),
}

/// A line of a `[rule …]` section: the section's terms, the rules that the line stands for.
pub(super) type Line = (Vec<Term>, Vec<CallRule>);

/// Groups and rules of one filter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Sets {
    pub(super) groups: Vec<Group>,
    /// Places of the groups that have a call, by its name.
    pub(super) groups_of: BTreeMap<&'static str, Vec<usize>>,
    pub(super) rules: BTreeMap<&'static str, Vec<Line>>,
}

fn lines(text: &'static str) -> impl Iterator<Item = (usize, &'static str)> {
    let numbered = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
    numbered.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

/// Parses `calls.tsv`.
pub(super) fn calls(text: &'static str) -> Result<BTreeMap<&'static str, Numbers>, DataError> {
    let mut calls = BTreeMap::new();
    for (line, row) in lines(text) {
        let error = |problem| DataError { line, problem };
        let number = |column: &str| match column {
            "-" => Ok(None),
            digits => digits.parse().map(Some).map_err(|_| error("not a number")),
        };
        let [name, x86_64, aarch64] = row.split('\t').collect::<Vec<_>>()[..] else {
            return Err(error("not three columns"));
        };
        let numbers = Numbers { x86_64: number(x86_64)?, aarch64: number(aarch64)? };
        if calls.insert(name, numbers).is_some() {
            return Err(error("named twice"));
        }
    }
    Ok(calls)
}

/// The needs of a file of groups, with what each stands for.
pub(super) fn needs(text: &'static str) -> impl Iterator<Item = (&'static str, &'static str)> {
    let headers = lines(text).filter_map(|(_, row)| row.strip_prefix("[need ")?.split_once(']'));
    headers.map(|(name, text)| (name, text.trim()))
}

/// Parses files of groups and rules; what stands in a later one is added.
pub(super) fn sets(texts: &[&'static str]) -> Result<Sets, DataError> {
    let mut sets = Sets::default();
    for text in texts {
        let mut terms: Option<Vec<Term>> = None;
        for (line, row) in lines(text) {
            let error = |problem| DataError { line, problem };
            if let Some(header) = row.strip_prefix('[') {
                let (header, text) = header.split_once(']').ok_or(error("header without ]"))?;
                let (kind, rest) = header.split_once(' ').ok_or(error("header without name"))?;
                if kind == "rule" {
                    terms =
                        Some(rest.split(' ').map(term).collect::<Option<_>>().ok_or(error("unknown term"))?);
                    continue;
                }
                let kind = match kind {
                    "base" => Kind::Base,
                    "need" => Kind::Need,
                    "cap" => Kind::Cap,
                    _ => return Err(error("unknown kind of group")),
                };
                terms = None;
                sets.groups.push(Group { kind, name: rest, text: text.trim(), calls: BTreeSet::new() });
            } else if let Some(terms) = &terms {
                let (call, rules) = rule(row).ok_or(error("not a rule"))?;
                sets.rules.entry(call).or_default().push((terms.clone(), rules));
            } else {
                let group = sets.groups.last_mut().ok_or(error("calls before the first header"))?;
                group.calls.extend(row.split_ascii_whitespace());
            }
        }
    }
    for (place, group) in sets.groups.iter().enumerate() {
        for call in &group.calls {
            sets.groups_of.entry(call).or_default().push(place);
        }
    }
    Ok(sets)
}

fn term(word: &'static str) -> Option<Term> {
    if let Some(rest) = word.strip_prefix('!') {
        return Some(Term::Not(Box::new(term(rest)?)));
    }
    match word.split_once(':') {
        Some(("need", name)) => Some(Term::Need(name)),
        Some(("cap", name)) => Some(Term::Cap(name)),
        Some(_) => None,
        None => match word {
            "always" => Some(Term::Always),
            "inet" => Some(Term::Inet),
            "datagram" => Some(Term::Datagram),
            _ => None,
        },
    }
}

/// `NAME ACTION CONDITION...`: one rule for each combination of the conditions' alternatives.
fn rule(row: &'static str) -> Option<(&'static str, Vec<CallRule>)> {
    let mut words = row.split_ascii_whitespace();
    let call = words.next()?;
    let action = action(words.next()?)?;
    let mut rules = vec![CallRule { when: Vec::new(), action }];
    for word in words {
        let alternatives = condition(word)?;
        let with = |rule: &CallRule, condition: &Condition| {
            let mut when = rule.when.clone();
            when.push(*condition);
            CallRule { when, action }
        };
        rules = rules.iter().flat_map(|rule| alternatives.iter().map(move |one| with(rule, one))).collect();
    }
    Some((call, rules))
}

fn action(word: &str) -> Option<Action> {
    let number = |name: &str| match name {
        "EPERM" => Some(super::EPERM),
        "EINVAL" => Some(22),
        "ENOTTY" => Some(25),
        "ENOSYS" => Some(super::ENOSYS),
        "EPROTONOSUPPORT" => Some(93),
        "EOPNOTSUPP" => Some(95),
        _ => None,
    };
    match word.split_once('=') {
        None => match word {
            "allow" => Some(Action::Allow),
            "observe" => Some(Action::Observe),
            _ => None,
        },
        Some(("refuse", name)) => number(name).map(Action::Refuse),
        Some(("errno", name)) => number(name).map(Action::Errno),
        Some(_) => None,
    }
}

/// `argN=V,V`, `argN&MASK=V` or `argN&MASK!=V`, on the low 32 bits; `argN=null`, on all of a pointer.
fn condition(word: &str) -> Option<Vec<Condition>> {
    let index = |text: &str| text.parse().ok().filter(|arg| *arg < 6);
    let (left, values) = word.strip_prefix("arg")?.split_once('=')?;
    if values == "null" {
        return Some(vec![Condition { arg: index(left)?, op: Compare::Eq, value: 0 }]);
    }
    let (left, differs) = match left.strip_suffix('!') {
        Some(left) => (left, true),
        None => (left, false),
    };
    let (arg, mask) = match left.split_once('&') {
        Some((arg, mask)) => (arg, integer(mask)?),
        None => (left, u64::from(u32::MAX)),
    };
    let arg = index(arg)?;
    let op = if differs { Compare::MaskedNe { mask } } else { Compare::MaskedEq { mask } };
    values.split(',').map(|value| Some(Condition { arg, op, value: integer(value)? })).collect()
}

fn integer(text: &str) -> Option<u64> {
    let value = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok()?,
        None => text.parse().ok()?,
    };
    (value <= u64::from(u32::MAX)).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alternatives_become_one_rule_each() {
        let (call, rules) = rule("socket allow arg0=2,10 arg1&0xf!=1").unwrap();
        assert_eq!((call, rules.len()), ("socket", 2));
        let values: Vec<_> = rules.iter().map(|rule| (rule.when[0].value, rule.when[1].op)).collect();
        let differs = Compare::MaskedNe { mask: 0xf };
        assert_eq!(values, [(2, differs), (10, differs)]);
    }

    #[test]
    fn a_pointer_is_compared_whole() {
        let (_, rules) = rule("utimensat allow arg1=null").unwrap();
        let holds = |pointer| rules[0].when[0].holds(&[0, pointer, 0, 0, 0, 0]);
        assert!(holds(0) && !holds(1) && !holds(1 << 32));
        assert!(condition("arg6=null").is_none() && condition("arg1!=null").is_none());
    }

    #[test]
    fn what_has_not_the_form_is_refused_with_its_line() {
        for (text, line) in [
            ("[rule always]\nopen allow arg6=1", 2),
            ("[rule always]\nopen permit", 2),
            ("[rule always]\nopen errno=EWHAT", 2),
            ("[rule sometimes]", 1),
            ("[base", 1),
            ("[group x]", 1),
            ("# calls\nopen", 2),
        ] {
            assert_eq!(sets(&[text]).unwrap_err().line, line, "{text}");
        }
        assert!(calls("read\t0\n").is_err() && calls("read\t0\t63\nread\t0\t63").is_err());
        assert!(calls("read\tx\t63").is_err());
    }
}

//! Which stages the built one goes back to.

use std::collections::BTreeMap;
use std::ops::Range;

use parse_dockerfile::{FromInstruction, Instruction};

use super::text::{glyphs_of, logical_line, string};
use super::words::{Value, declarations, expand};
use super::{DockerfileError, Options};

/// One stage: what it is built from, and its instructions.
#[derive(Debug, Clone)]
pub(super) struct Stage<'a, 't> {
    /// The image that FROM names, variables put in.
    pub(super) image: String,
    pub(super) span: Range<usize>,
    /// The earlier stage that this is, if it is one.
    parent: Option<usize>,
    name: Option<String>,
    pub(super) instructions: &'a [Instruction<'t>],
}

/// The stages of a Dockerfile, and the ARGs before them.
#[derive(Debug)]
pub(super) struct Stages<'a, 't> {
    all: Vec<Stage<'a, 't>>,
    pub(super) global: BTreeMap<String, String>,
}

impl<'a, 't> Stages<'a, 't> {
    pub(super) fn of(
        source: &str,
        escape: char,
        instructions: &'a [Instruction<'t>],
        options: &Options<'_>,
    ) -> Result<Self, DockerfileError> {
        let is_from = |instruction: &&Instruction<'_>| matches!(instruction, Instruction::From(_));
        let before = instructions.iter().take_while(|instruction| !is_from(instruction)).count();
        let global = global_arguments(source, escape, &instructions[..before], options)?;
        let mut all: Vec<Stage<'_, '_>> = Vec::new();
        let mut by_name: BTreeMap<String, usize> = BTreeMap::new();
        let mut rest = &instructions[before..];
        while let Some((Instruction::From(from), after)) = rest.split_first() {
            let length = after.iter().take_while(|instruction| !is_from(instruction)).count();
            let (own, next) = after.split_at(length);
            let mut stage = stage(source, escape, from, own, &global)?;
            stage.parent = by_name.get(&stage.image.to_ascii_lowercase()).copied();
            if let Some(name) = &stage.name {
                by_name.insert(name.clone(), all.len());
            }
            all.push(stage);
            rest = next;
        }
        Ok(Self { all, global })
    }

    /// The stages from the one that an image outside begins to the one that is built.
    pub(super) fn chain(&self, options: &Options<'_>) -> Result<Vec<&Stage<'a, 't>>, DockerfileError> {
        let mut at = match options.target {
            Some(wanted) => self.named(wanted)?,
            None => self.all.len().checked_sub(1).ok_or_else(|| no_stage(""))?,
        };
        let mut chain = vec![&self.all[at]];
        while let Some(parent) = self.all[at].parent {
            chain.push(&self.all[parent]);
            at = parent;
        }
        chain.reverse();
        Ok(chain)
    }

    fn named(&self, wanted: &str) -> Result<usize, DockerfileError> {
        let lower = wanted.to_ascii_lowercase();
        let by_name = self.all.iter().rposition(|stage| stage.name.as_deref() == Some(lower.as_str()));
        let by_number = || wanted.parse().ok().filter(|number| *number < self.all.len());
        by_name.or_else(by_number).ok_or_else(|| {
            let names: Vec<&str> =
                self.all.iter().filter_map(|stage| stage.name.as_deref()).take(20).collect();
            no_stage(&format!(
                " {wanted:?}; there are {}{}",
                self.all.len(),
                if names.is_empty() { String::new() } else { format!(", {}", names.join(", ")) }
            ))
        })
    }
}

fn no_stage(which: &str) -> DockerfileError {
    DockerfileError::new(0..0, format!("it has no stage{which}"))
}

fn stage<'a, 't>(
    source: &str,
    escape: char,
    from: &FromInstruction<'_>,
    instructions: &'a [Instruction<'t>],
    global: &BTreeMap<String, String>,
) -> Result<Stage<'a, 't>, DockerfileError> {
    let span = from.image.span.start..from.image.span.start + from.image.value.len();
    let span = span.start..span.end.min(source.len());
    let glyphs: Vec<_> = glyphs_of(&from.image.value, span.start).collect();
    let known = |name: &str| global.get(name).map_or(Value::Unset, |text| Value::Known(text.clone()));
    let expanded =
        expand(&glyphs, escape, &known).map_err(|error| DockerfileError::new(span.clone(), error.problem))?;
    let name = from.as_.as_ref().map(|(_, name)| name.value.to_ascii_lowercase());
    Ok(Stage { image: string(&expanded.glyphs), span, parent: None, name, instructions })
}

fn global_arguments(
    source: &str,
    escape: char,
    instructions: &[Instruction<'_>],
    options: &Options<'_>,
) -> Result<BTreeMap<String, String>, DockerfileError> {
    let mut global = platform(options);
    for instruction in instructions {
        let Instruction::Arg(arg) = instruction else { continue };
        let (line, _) = logical_line(source, arg.arguments.span.start, escape);
        for declared in declarations(&line, escape) {
            let name = string(declared.key);
            let given = options.build_args.get(&name).cloned();
            let value = match (given, declared.value) {
                (Some(given), _) => Some(given),
                (None, Some(default)) => {
                    let known =
                        |name: &str| global.get(name).map_or(Value::Unset, |text| Value::Known(text.clone()));
                    let expanded = expand(default, escape, &known)
                        .map_err(|error| DockerfileError::new(error.span, error.problem))?;
                    Some(string(&expanded.glyphs))
                }
                (None, None) => None,
            };
            if let Some(value) = value {
                global.insert(name, value);
            }
        }
    }
    Ok(global)
}

/// What BuildKit sets by itself.
/// Source: "Automatic platform ARGs in the global scope", Dockerfile reference.
fn platform(options: &Options<'_>) -> BTreeMap<String, String> {
    let mut known = BTreeMap::new();
    for side in ["TARGET", "BUILD"] {
        known.insert(format!("{side}PLATFORM"), format!("{}/{}", options.os, options.arch));
        known.insert(format!("{side}OS"), options.os.to_owned());
        known.insert(format!("{side}ARCH"), options.arch.to_owned());
        known.insert(format!("{side}VARIANT"), String::new());
    }
    known
}

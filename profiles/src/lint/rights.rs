//! Rules about capabilities, needs and what is written.

use super::{Command, ImageFacts, Kind, Lint, Place, names, rule};
use crate::intent::{Capability, Need};

/// Capabilities that lead to root, on the node or over everything in the container, and how.
/// Source: capabilities(7).
const STRONG: [(&str, &str); 14] = [
    ("SYS_ADMIN", "mounts file systems, makes namespaces and does a hundred other things"),
    ("SYS_MODULE", "loads code into the kernel"),
    ("SYS_RAWIO", "reaches memory and devices directly"),
    ("SYS_PTRACE", "takes over any process that it sees"),
    ("SYS_BOOT", "loads another kernel"),
    ("BPF", "loads programs into the kernel"),
    ("PERFMON", "reads the kernel's memory"),
    ("NET_ADMIN", "rewrites the pod's network and its filters"),
    ("DAC_READ_SEARCH", "reads every file, also by handle outside the container"),
    ("MAC_ADMIN", "changes the node's security policy"),
    ("MAC_OVERRIDE", "passes the node's security policy"),
    ("SETFCAP", "gives capabilities to files"),
    ("CHECKPOINT_RESTORE", "makes processes with any id"),
    ("SYSLOG", "reads kernel addresses"),
];

pub(super) fn check(lint: &mut Lint<'_>) {
    capabilities(lint);
    needs(lint);
    ports_and_paths(lint);
    files(lint);
    jit(lint);
}

fn capabilities(lint: &mut Lint<'_>) {
    for entry in lint.entries("caps") {
        let Ok(capability) = Capability::new(entry.word) else { continue };
        if let Some((name, why)) = STRONG.iter().find(|(name, _)| *name == entry.word) {
            let message = format!("{name} is as good as root: it {why}");
            lint.add(
                rule::STRONG_CAPABILITY,
                entry.place(),
                message,
                "remove it, and let another way be found",
            );
        }
        if let Some(by) = lint.policy.withholds_capability(&capability) {
            beyond(lint, entry.place(), entry.word, by);
        }
    }
}

fn needs(lint: &mut Lint<'_>) {
    for entry in lint.entries("needs") {
        let Ok(need) = Need::new(entry.word) else { continue };
        if let Some(by) = lint.policy.withholds_need(&need) {
            beyond(lint, entry.place(), entry.word, by);
        }
    }
}

fn ports_and_paths(lint: &mut Lint<'_>) {
    for list in ["exec", "listen", "connect", "write"] {
        for entry in lint.entries(list) {
            let by = match list {
                "listen" => entry.word.parse().ok().and_then(|ports| lint.policy.withholds_listen(&ports)),
                "connect" => entry.word.parse().ok().and_then(|to| lint.policy.withholds_connect(&to)),
                "exec" => entry.path().and_then(|path| lint.policy.withholds_program(&path)),
                _ => entry.path().and_then(|path| lint.policy.withholds_write(&path)),
            };
            if let Some(by) = by {
                beyond(lint, entry.place(), entry.word, by);
            }
        }
    }
}

fn beyond(lint: &mut Lint<'_>, place: Place, word: &str, by: &str) {
    let message = format!("{by} does not leave {word} to an image; it will be taken away");
    let help =
        "remove it, or ask the platform team for a class that leaves it (--class lints against another)";
    lint.add(rule::BEYOND_CLASS, place, message, help);
}

fn files(lint: &mut Lint<'_>) {
    for entry in lint.entries("write") {
        let Some(path) = entry.path() else { continue };
        let file = lint.facts().files.resolve(&path);
        if file.is_some_and(|(_, file)| matches!(file.kind, Kind::Regular | Kind::Script(_))) {
            let message =
                format!("{path} is a single file: it can be written, and not removed or renamed over");
            let help = format!(
                "if the program replaces it (most editors of files do), declare its folder, {}",
                path.parent().to_label()
            );
            lint.add(rule::WRITE_FILE, entry.place(), message, help);
        }
    }
}

fn jit(lint: &mut Lint<'_>) {
    if lint.intent.needs.iter().any(|need| need.as_str() == "jit") {
        return;
    }
    let Some((runtime, place)) = compiler(lint) else { return };
    let message = format!("{runtime} compiles while it runs, and the need jit is not declared");
    lint.add(rule::MISSING_JIT, place, message, "add dev.keep.needs=\"jit\"");
}

/// The just-in-time compiler that the image runs, and where that can be seen.
fn compiler(lint: &Lint<'_>) -> Option<(String, Place)> {
    let facts = lint.facts();
    let named = |path: &str| names::base(path).to_owned();
    if let Some(command) = facts.command() {
        let place = lint.command_place();
        let words: Vec<&str> = match command {
            Command::Exec(words) => words.iter().map(String::as_str).take(1).collect(),
            Command::Shell { line, .. } => {
                line.split_whitespace().filter(|word| *word != "exec").take(1).collect()
            }
        };
        if let Some(word) = words.into_iter().find(|word| names::is_compiler(word)) {
            return Some((named(word), place));
        }
        let program = facts.locate(command.program());
        let script =
            program.and_then(|path| facts.files.resolve(&path)).and_then(|(_, file)| match &file.kind {
                Kind::Script(script) => Some(script.interpreter_name()),
                _ => None,
            });
        if let Some(interpreter) = script.filter(|name| names::is_compiler(name)) {
            return Some((interpreter.to_owned(), place));
        }
    }
    if let Some(entry) = lint.entries("exec").into_iter().find(|entry| names::is_compiler(entry.word)) {
        return Some((named(entry.word), entry.place()));
    }
    // A program of its own on a base with such a runtime needs none of it.
    let of_base = facts.base.as_deref().is_some_and(names::is_compiler_image)
        && facts.command().is_none_or(|command| may_be_script(facts, command.program()));
    of_base.then(|| (facts.base.clone().unwrap_or_default(), Place::Key("dev.keep.intent".to_owned())))
}

/// Whether a program is a script, so far as its name or its first line tell: what it starts is not known.
fn may_be_script(facts: &ImageFacts, program: &str) -> bool {
    let found = facts.locate(program).and_then(|path| facts.files.resolve(&path));
    match found {
        Some((_, file)) => matches!(file.kind, Kind::Script(_)),
        None => program.ends_with(".sh"),
    }
}

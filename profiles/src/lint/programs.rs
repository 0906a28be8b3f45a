//! Rules about programs.

use std::collections::BTreeSet;

use super::{Command, Entry, File, Kind, Lint, names, rule};
use crate::intent::AbsPath;

/// Set-uid and set-gid. Source: `S_ISUID`, `S_ISGID`, include/uapi/linux/stat.h.
const SET_ID: u32 = 0o6000;
/// Any execute permission.
const EXECUTABLE: u32 = 0o111;

pub(super) fn check(lint: &mut Lint<'_>) {
    shell_entrypoint(lint);
    missing_entrypoint(lint);
    let started = started(lint);
    for entry in lint.entries("exec") {
        let Some(path) = entry.path() else { continue };
        if names::is_library(path.as_str()) {
            let message = format!("{path} is a shared library, which is not a program");
            lint.add(
                rule::LIBRARY_DECLARED,
                entry.place(),
                message,
                "remove it; libraries may be mapped as they are",
            );
            continue;
        }
        missing(lint, &entry, &path);
        set_id(lint, &entry, &path);
        shell(lint, &entry, &path, &started);
    }
    writable(lint);
}

fn shell_entrypoint(lint: &mut Lint<'_>) {
    let Some(command) = lint.facts().command() else { return };
    let instruction = if lint.facts().entrypoint.is_some() { "ENTRYPOINT" } else { "CMD" };
    let message = match command {
        Command::Shell { line, .. } if line.starts_with('[') => {
            format!(
                "this {instruction} is no valid JSON list, so that {} runs it as a line",
                command.program()
            )
        }
        Command::Shell { shell, .. } => {
            format!(
                "this {instruction} is no list, so that {shell} runs it, which is granted and runs any script"
            )
        }
        Command::Exec(words) if names::is_shell(command.program()) && words.len() > 1 => {
            format!(
                "{} is what the image starts, so that it is granted and runs any script",
                command.program()
            )
        }
        Command::Exec(_) if names::is_shell(command.program()) => {
            format!("the image starts the shell {}, which runs any script", command.program())
        }
        Command::Exec(_) => return,
    };
    let help = format!("name the program itself, {instruction} [\"/path/program\", \"argument\"]");
    lint.add(rule::SHELL_ENTRYPOINT, lint.command_place(), message, help);
}

fn missing_entrypoint(lint: &mut Lint<'_>) {
    let facts = lint.facts();
    let Some(command) = facts.command() else { return };
    if !facts.files.complete {
        return;
    }
    let found = facts.locate(command.program()).and_then(|path| facts.files.resolve(&path));
    if let Some(problem) = unusable(found.map(|(_, file)| file)) {
        let message = format!("the image starts {}, which {problem}", command.program());
        lint.add(
            rule::MISSING_PROGRAM,
            lint.command_place(),
            message,
            "mend its path, or copy the program into the image",
        );
    }
}

/// Why a program cannot be run, if it cannot.
fn unusable(file: Option<&File>) -> Option<&'static str> {
    match file {
        None => Some("is not in the image"),
        Some(File { kind: Kind::Script(_) | Kind::Regular, mode }) if mode & EXECUTABLE == 0 => {
            Some("is not executable")
        }
        Some(File { kind: Kind::Other, .. }) => Some("is a device, socket or pipe"),
        Some(_) => None,
    }
}

fn missing(lint: &mut Lint<'_>, entry: &Entry<'_>, path: &AbsPath) {
    let files = &lint.facts().files;
    let found = files.resolve(path).map(|(_, file)| file);
    let empty_root = path.as_str() == "/";
    if (found.is_none() && !files.complete) || empty_root {
        return;
    }
    if let Some(problem) = unusable(found) {
        let help = "mend the path, or remove it; a volume that brings it later is the one reason to leave it";
        lint.add(rule::MISSING_PROGRAM, entry.place(), format!("{path} {problem}"), help);
    }
}

fn set_id(lint: &mut Lint<'_>, entry: &Entry<'_>, path: &AbsPath) {
    let files = &lint.facts().files;
    let marked =
        |file: &File| file.mode & SET_ID != 0 && matches!(file.kind, Kind::Regular | Kind::Script(_));
    let Some((real, file)) = files.resolve(path) else { return };
    let name = if marked(file) {
        real
    } else {
        match files.beneath(&real).find(|(_, file)| marked(file)) {
            Some((beneath, _)) => beneath.clone(),
            None => return,
        }
    };
    let message = format!(
        "{name} is set-uid or set-gid, which has no effect: no process behind the walls gains rights"
    );
    let help = "declare what it needs as capabilities of the container, or leave it out";
    lint.add(rule::SETUID_PROGRAM, entry.place(), message, help);
}

/// What runs without being declared: the program that the image starts and, if it is a script, its interpreter.
fn started(lint: &Lint<'_>) -> BTreeSet<AbsPath> {
    let facts = lint.facts();
    let mut started = BTreeSet::new();
    let Some(path) = facts.command().and_then(|command| facts.locate(command.program())) else {
        return started;
    };
    let found = facts.files.resolve(&path);
    started.insert(path);
    if let Some((real, file)) = found {
        started.insert(real);
        if let Kind::Script(script) = &file.kind {
            let words = script.interpreter.split_whitespace().filter(|word| !word.starts_with('-'));
            for path in words.filter_map(|word| facts.locate(word)) {
                started.extend(facts.files.resolve(&path).map(|(real, _)| real));
                started.insert(path);
            }
        }
    }
    started
}

fn shell(lint: &mut Lint<'_>, entry: &Entry<'_>, path: &AbsPath, started: &BTreeSet<AbsPath>) {
    let files = &lint.facts().files;
    let real = files.resolve(path).map_or_else(|| path.clone(), |(real, _)| real);
    if started.contains(path) || started.contains(&real) {
        return;
    }
    let runs_scripts =
        |path: &AbsPath| names::is_shell(path.as_str()) || names::is_interpreter(path.as_str());
    let message = if runs_scripts(path) || runs_scripts(&real) {
        let kind = if names::is_shell(path.as_str()) || names::is_shell(real.as_str()) {
            "a shell"
        } else {
            "an interpreter"
        };
        format!("{path} is {kind}: this lets any script run")
    } else {
        let beneath = files
            .beneath(&real)
            .find(|(path, file)| !matches!(file.kind, Kind::Folder) && runs_scripts(path));
        match beneath {
            Some((found, _)) => format!("the folder {path} holds {found}: this lets any script run"),
            None if !files.complete && names::holds_a_shell(path.as_str()) => {
                format!("the folder {path} holds a shell in most images: this lets any script run")
            }
            None => return,
        }
    };
    lint.add(
        rule::SHELL_DECLARED,
        entry.place(),
        message,
        "declare the programs that are started, one by one",
    );
}

fn writable(lint: &mut Lint<'_>) {
    let facts = lint.facts();
    let mut programs: Vec<AbsPath> = lint.entries("exec").iter().filter_map(Entry::path).collect();
    programs.extend(facts.command().and_then(|command| facts.locate(command.program())));
    for entry in lint.entries("write") {
        let Some(folder) = entry.path() else { continue };
        if let Some(program) = programs.iter().find(|program| program.is_beneath(&folder)) {
            let message =
                format!("{folder} is writable and holds the program {program}, which therefore never runs");
            lint.add(
                rule::WRITABLE_PROGRAM,
                entry.place(),
                message,
                "keep programs and what is written in different folders",
            );
        }
    }
}

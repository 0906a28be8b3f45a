//! The program wall.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use sandbox::observe::Event;

use crate::confine::*;
use crate::{Case, needs_landlock};

pub(crate) const CASES: &[Case] = &[
    ("declared_program_runs_and_another_is_denied_and_recorded", declared_program_runs),
    ("every_landlock_abi_lets_the_declared_program_run_and_no_other", every_abi),
    ("folder_stands_for_all_programs_beneath_it", folder),
    ("path_search_and_what_is_no_program_are_not_recorded", path_search),
    ("script_by_an_undeclared_interpreter_is_denied_and_names_the_interpreter", interpreter),
    ("a_program_that_cannot_be_started_is_a_failure_and_not_a_start", failure),
];

fn declared_program_runs() {
    needs_landlock(1, "the program wall");
    let outcome = shell(
        &programs_plan(&["/bin/sh", "/bin/true"]),
        "/bin/true && echo ran; /bin/ls / || echo denied $?",
    );
    assert_eq!(outcome.output, "ran\ndenied 126\n");
    assert_eq!(outcome.records(), ["execve /usr/bin/ls EACCES"]);
    let record = outcome.observations().next().unwrap();
    assert_eq!(record.program, fs::canonicalize("/bin/sh").unwrap().to_str().unwrap());
    assert_ne!(record.pid, 0);
    assert_eq!(outcome.events.first(), Some(&Event::Started));
}

fn every_abi() {
    needs_landlock(1, "the program wall");
    for version in 1..=abi() {
        let mut plan = programs_plan(&["/bin/sh", "/bin/true"]);
        plan.landlock = Some(landlock(version));
        let outcome = shell(&plan, "/bin/true && ! /bin/ls / && echo both");
        assert_eq!(outcome.output, "both\n", "ABI {version}: {outcome:?}");
    }
}

fn folder() {
    needs_landlock(1, "the program wall");
    let (tools, others) = folders();
    for folder in [&tools, &others] {
        fs::copy("/bin/true", folder.path().join("tool")).unwrap();
    }
    let plan = programs_plan(&["/bin/sh", tools.path().to_str().unwrap()]);
    let (tool, other) = (tools.path().join("tool"), others.path().join("tool"));
    let outcome = shell(&plan, &format!("{} && ! {} && echo both", tool.display(), other.display()));
    assert_eq!(outcome.output, "both\n");
    assert_eq!(outcome.records(), [format!("execve {} EACCES", other.display())]);
}

fn path_search() {
    needs_landlock(1, "the program wall");
    let outcome = shell(&programs_plan(&["/bin/sh", "/bin/true"]), "true; /etc/passwd; /etc; /missing; true");
    assert_eq!(outcome.code(), 0);
    assert_eq!(outcome.records(), [""; 0]);
}

fn interpreter() {
    needs_landlock(1, "the program wall");
    let (tools, _) = folders();
    let script = tools.path().join("script");
    fs::write(&script, "#!/bin/cat\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let folder = tools.path().to_str().unwrap();
    let command = format!("{} || echo denied", script.display());
    let outcome = shell(&programs_plan(&["/bin/sh", folder]), &command);
    assert_eq!(
        (outcome.output.as_str(), outcome.records()),
        ("denied\n", vec!["execve /usr/bin/cat EACCES".to_owned()])
    );
    let outcome = shell(&programs_plan(&["/bin/sh", script.to_str().unwrap()]), &command);
    assert_eq!((outcome.output.as_str(), outcome.records()), ("#!/bin/cat\n", vec![]));
}

fn failure() {
    needs_landlock(1, "the program wall");
    let outcome = run(&programs_plan(&["/bin/sh"]), &["/missing"]);
    assert!(matches!(outcome.events[..], [Event::Started] | [Event::Failed(_)]), "{outcome:?}");
    let mut plan = open_plan();
    plan.seccomp = Some(filter(&[("execve", profiles::plan::Action::Refuse(1))]));
    let outcome = run(&plan, &["/bin/true"]);
    assert_eq!(outcome.code(), 99);
    assert!(
        matches!(&outcome.events[..], [Event::Failed(text)] if text.contains("does not allow execve")),
        "{outcome:?}"
    );
}

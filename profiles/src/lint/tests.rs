use std::collections::BTreeSet;

use super::*;
use crate::dockerfile::{Options, read, read_label_file};

/// A Dockerfile (or label file, where it has no FROM) and the image's files, if they are known.
type Image = (&'static str, &'static [(&'static str, &'static str)]);

/// For each rule an image in which it finds something, and the same image mended.
const CASES: &[(Rule, Image, Image)] = &[
    (rule::INVALID_DOCKERFILE, ("FROM a\nFOO", &[]), ("FROM a\nRUN foo", &[])),
    (rule::INVALID_VERSION, ("dev.keep.intent=2", &[]), (V1, &[])),
    (rule::WITHOUT_INTENT, ("dev.keep.exec=/a", &[]), ("dev.keep.exec=/a\ndev.keep.intent=v1", &[])),
    (
        rule::UNKNOWN_KEY,
        ("dev.keep.intent=v1\ndev.keep.lisen=", &[]),
        ("dev.keep.intent=v1\ndev.keep.listen=\nx=y", &[]),
    ),
    (
        rule::LABEL_TOO_LONG,
        (
            "FROM scratch\nARG A=/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n\
          ARG B=$A$A$A$A$A$A$A\nARG C=$B$B$B$B$B$B$B\nLABEL dev.keep.intent=v1 dev.keep.exec=$C",
            &[],
        ),
        ("FROM scratch\nARG A=/aa\nLABEL dev.keep.intent=v1 dev.keep.exec=$A", &[]),
    ),
    (
        rule::INVALID_PATH,
        ("dev.keep.intent=v1\ndev.keep.write=/sys/x", &[]),
        ("dev.keep.intent=v1\ndev.keep.write=/srv/x", &[]),
    ),
    (
        rule::INVALID_PORT,
        ("dev.keep.intent=v1\ndev.keep.listen=8080", &[]),
        ("dev.keep.intent=v1\ndev.keep.listen=8080/tcp", &[]),
    ),
    (
        rule::INVALID_ENDPOINT,
        ("dev.keep.intent=v1\ndev.keep.connect=db:1/tcp", &[]),
        ("dev.keep.intent=v1\ndev.keep.connect=1/tcp", &[]),
    ),
    (
        rule::UNKNOWN_CAPABILITY,
        ("dev.keep.intent=v1\ndev.keep.caps=ALL", &[]),
        ("dev.keep.intent=v1\ndev.keep.caps=CHOWN", &[]),
    ),
    (
        rule::UNKNOWN_NEED,
        ("dev.keep.intent=v1\ndev.keep.needs=JIT", &[]),
        ("dev.keep.intent=v1\ndev.keep.needs=jit", &[]),
    ),
    (rule::UNDECLARED, ("x=y", &[]), (V1, &[])),
    (
        rule::UNDEFINED_VARIABLE,
        ("FROM scratch\nLABEL dev.keep.intent=v1 dev.keep.listen=$PORT", &[]),
        ("FROM scratch\nARG PORT=8080/tcp\nLABEL dev.keep.intent=v1 dev.keep.listen=$PORT other=$X", &[]),
    ),
    (
        rule::SHELL_ENTRYPOINT,
        ("dev.keep.intent=v1\nCMD nginx", &[]),
        ("dev.keep.intent=v1\nCMD [\"/sbin/nginx\"]", &[]),
    ),
    (
        rule::SHELL_ENTRYPOINT,
        ("FROM scratch\nLABEL dev.keep.intent=v1\nENTRYPOINT ['/x']", &[]),
        ("FROM scratch\nLABEL dev.keep.intent=v1\nENTRYPOINT [\"/x\"]", &[]),
    ),
    (
        rule::SCRIPT_TOOLS,
        ("dev.keep.intent=v1\nENTRYPOINT [\"/run\"]", &[SCRIPT, SH, ("/bin/mkdir", "x")]),
        (
            "dev.keep.intent=v1\ndev.keep.exec=/bin/mkdir\nENTRYPOINT [\"/run\"]",
            &[SCRIPT, SH, ("/bin/mkdir", "x")],
        ),
    ),
    (
        rule::SCRIPT_TOOLS,
        (
            "FROM scratch\nCOPY --chmod=755 <<E /run\n#!/bin/sh\nmkdir /x\nE\nLABEL dev.keep.intent=v1\nCMD [\"/run\"]",
            &[],
        ),
        (
            "FROM scratch\nCOPY --chmod=755 <<E /run\n#!/bin/sh\ncd /x\nE\nLABEL dev.keep.intent=v1\nCMD [\"/run\"]",
            &[],
        ),
    ),
    (
        rule::MISSING_PROGRAM,
        ("dev.keep.intent=v1\ndev.keep.exec=/bin/a", &[("/bin/b", "x")]),
        ("dev.keep.intent=v1\ndev.keep.exec=/lib/a", &[("/usr/lib/a", "x"), ("/lib", "->usr/lib")]),
    ),
    (
        rule::MISSING_PROGRAM,
        ("dev.keep.intent=v1\nCMD [\"a\"]", &[("/bin/a", "f")]),
        ("dev.keep.intent=v1\nCMD [\"a\"]", &[("/bin/a", "x")]),
    ),
    (
        rule::SHELL_DECLARED,
        ("dev.keep.intent=v1\ndev.keep.exec=/usr/bin/python3.11", &[]),
        ("dev.keep.intent=v1\ndev.keep.exec=/run\nCMD [\"/run\"]", &[SCRIPT, SH]),
    ),
    (
        rule::SHELL_DECLARED,
        ("dev.keep.intent=v1\ndev.keep.exec=/bin/ls", &[("/bin/ls", "->busybox"), ("/bin/busybox", "x")]),
        ("dev.keep.intent=v1\ndev.keep.exec=/opt", &[("/opt/a", "x"), ("/opt-sh/sh", "x")]),
    ),
    (
        rule::SHELL_DECLARED,
        ("dev.keep.intent=v1\ndev.keep.exec=/opt", &[("/opt/a/bash", "x")]),
        ("dev.keep.intent=v1\ndev.keep.exec=/usr/bin", &[("/usr/bin/a", "x")]),
    ),
    (
        rule::LIBRARY_DECLARED,
        ("dev.keep.intent=v1\ndev.keep.exec=/lib/libc.so.6", &[]),
        ("dev.keep.intent=v1\ndev.keep.exec=/bin/so.sort", &[]),
    ),
    (
        rule::SETUID_PROGRAM,
        ("dev.keep.intent=v1\ndev.keep.exec=/bin/su", &[("/bin/su", "s")]),
        ("dev.keep.intent=v1\ndev.keep.exec=/bin/a", &[("/bin/su", "s"), ("/bin/a", "x")]),
    ),
    (
        rule::WRITABLE_PROGRAM,
        ("dev.keep.intent=v1\ndev.keep.write=/srv\nCMD [\"/srv/a\"]", &[]),
        ("dev.keep.intent=v1\ndev.keep.write=/srv/data\nCMD [\"/srv/a\"]", &[]),
    ),
    (
        rule::WRITE_FILE,
        ("dev.keep.intent=v1\ndev.keep.write=/etc/a.conf", &[("/etc/a.conf", "f")]),
        ("dev.keep.intent=v1\ndev.keep.write=/etc", &[("/etc", "d"), ("/etc/a.conf", "f")]),
    ),
    (
        rule::PRIVILEGED_PORT,
        ("dev.keep.intent=v1\ndev.keep.listen=1023/udp", &[]),
        (
            "dev.keep.intent=v1\ndev.keep.listen.a=80/tcp\ndev.keep.listen=1024/tcp\ndev.keep.caps=NET_BIND_SERVICE",
            &[],
        ),
    ),
    (
        rule::EXPOSE_DIFFERS,
        ("FROM scratch\nEXPOSE 8080\nLABEL dev.keep.intent=v1 dev.keep.listen=8080/udp", &[]),
        (
            "FROM scratch\nEXPOSE 8080 8081/tcp 9000/udp\nLABEL dev.keep.intent=v1 dev.keep.listen='8080-8081/tcp 9000/udp'",
            &[],
        ),
    ),
    (
        rule::STRONG_CAPABILITY,
        ("dev.keep.intent=v1\ndev.keep.caps=SYS_PTRACE", &[]),
        ("dev.keep.intent=v1\ndev.keep.caps='SETUID SETGID'", &[]),
    ),
    (
        rule::BEYOND_CLASS,
        ("dev.keep.intent=v1\ndev.keep.needs=bpf", &[]),
        ("dev.keep.intent=v1\ndev.keep.needs='jit ipc'\ndev.keep.caps=CHOWN", &[]),
    ),
    (
        rule::MISSING_JIT,
        ("dev.keep.intent=v1\nCMD [\"/opt/java/bin/java\", \"-jar\"]", &[]),
        ("dev.keep.intent=v1\ndev.keep.needs=jit\nCMD [\"/opt/java/bin/java\"]", &[]),
    ),
    (
        rule::MISSING_JIT,
        ("FROM docker.io/library/node:22@sha256:0\nLABEL dev.keep.intent=v1", &[]),
        ("FROM node:22\nCMD [\"/usr/sbin/nginx\"]\nLABEL dev.keep.intent=v1", &[]),
    ),
    (
        rule::MISSING_JIT,
        ("dev.keep.intent=v1\nCMD [\"/run\"]", &[("/run", "#!/usr/bin/env -S node --x\n")]),
        ("dev.keep.intent=v1\nCMD [\"/run\"]", &[("/run", "#!/usr/bin/env python3\n")]),
    ),
    (
        rule::UNKNOWN_BASE,
        ("FROM debian\nLABEL dev.keep.intent=v1", &[]),
        ("FROM scratch AS a\nFROM a\nLABEL dev.keep.intent=v1", &[]),
    ),
];

const V1: &str = "dev.keep.intent=v1";
const SH: (&str, &str) = ("/bin/sh", "x");
const SCRIPT: (&str, &str) = ("/run", "#!/bin/sh\nmkdir -p /x\nno-such-program\n");

fn findings((source, files): Image) -> Vec<Finding> {
    let options = Options { os: "linux", arch: "amd64", ..Options::default() };
    let is_dockerfile = source.lines().any(|line| line.starts_with("FROM"));
    let built = if is_dockerfile { read(source, &options) } else { read_label_file(source) };
    let mut built = match built {
        Ok(built) => built,
        Err(error) => return vec![invalid_dockerfile(&error)],
    };
    built.subject.facts.files.complete |= !files.is_empty();
    for (path, what) in files {
        let (kind, mode) = match *what {
            "x" => (Kind::Regular, 0o755),
            "s" => (Kind::Regular, 0o4755),
            "f" => (Kind::Regular, 0o644),
            "d" => (Kind::Folder, 0o755),
            text => match text.strip_prefix("->") {
                Some(target) => (Kind::Link(target.to_owned()), 0o777),
                None => (Kind::Script(Script::read(text.as_bytes()).unwrap()), 0o755),
            },
        };
        built.subject.facts.files.entries.insert(AbsPath::new(path).unwrap(), File { kind, mode });
    }
    lint_dockerfile(&built, &Policy::builtin("keep").unwrap())
}

#[test]
fn each_rule_finds_what_it_is_for_and_is_silent_once_that_is_mended() {
    for (rule, wrong, mended) in CASES {
        let found = findings(*wrong);
        let of_rule = found.iter().find(|finding| finding.rule == *rule);
        let finding = of_rule.unwrap_or_else(|| panic!("{} does not fire: {found:?}", rule.id));
        assert!(!finding.message.ends_with('.') && !finding.help.is_empty(), "{finding:?}");
        let found = findings(*mended);
        assert!(found.iter().all(|finding| finding.rule != *rule), "{} fires: {found:?}", rule.id);
    }
}

#[test]
fn every_rule_has_a_case_an_id_of_its_own_and_a_section_in_the_documentation() {
    let documentation = include_str!("../../../docs/lint.md");
    let cases: BTreeSet<&str> = CASES.iter().map(|(rule, ..)| rule.id).collect();
    let ids: BTreeSet<&str> = rule::ALL.iter().map(|rule| rule.id).collect();
    assert_eq!(cases, ids);
    assert_eq!(ids.len(), rule::ALL.len());
    for rule in rule::ALL {
        let heading = format!("### {}\n", rule.id);
        let section =
            documentation.split_once(&heading).map(|(_, rest)| rest.split("\n### ").next().unwrap());
        let section = section.unwrap_or_else(|| panic!("docs/lint.md has no section {}", rule.id));
        let severity = format!("*{}*", rule.severity.as_str());
        for part in [severity.as_str(), "    ", "*To mend it*"] {
            assert!(section.contains(part), "docs/lint.md, {}: no {part:?}", rule.id);
        }
    }
    let headings = documentation.lines().filter_map(|line| line.strip_prefix("### "));
    assert_eq!(headings.collect::<BTreeSet<_>>(), ids);
}

#[test]
fn all_that_is_wrong_is_said_at_once_with_the_column_of_each_word() {
    let found = findings(("dev.keep.intent=v1\ndev.keep.needs=jit iouring JIT\ndev.keep.listen=80 x", &[]));
    let places: Vec<_> = found.iter().map(|finding| (finding.rule.id, finding.place.clone())).collect();
    let word = |list: &str, column, length| Place::Word { key: format!("dev.keep.{list}"), column, length };
    assert_eq!(
        places,
        [
            ("invalid-port", word("listen", 1, 2)),
            ("invalid-port", word("listen", 4, 1)),
            ("unknown-need", word("needs", 5, 7)),
            ("unknown-need", word("needs", 13, 3)),
        ]
    );
}

#[test]
fn the_class_decides_how_much_it_weighs_to_declare_nothing() {
    let severity = |class: &str| lint(&Subject::default(), &Policy::builtin(class).unwrap())[0].severity;
    assert_eq!(severity("keep-strict"), Severity::Error);
    assert_eq!(severity("keep"), Severity::Warning);
    // The base may have what is missed.
    assert!(
        findings(("FROM a\nLABEL dev.keep.exec=/a", &[]))
            .iter()
            .all(|finding| finding.severity == Severity::Note)
    );
}

#[test]
fn what_a_policy_does_not_leave_is_said_of_every_list() {
    let text = r#"
apiVersion: keep.dev/v1alpha1
kind: RuntimePolicy
metadata: { name: narrow }
spec: { ceiling: { exec: [/usr], write: [/var], listen: [8000-8999/tcp], connect: [dns] } }
"#;
    let policies = crate::policy::Policies::parse([("narrow.yaml", text)]).unwrap();
    let policy = policies.select(&crate::policy::Subject::of_class("keep")).unwrap();
    let label = |(key, value): (&str, &str)| (format!("dev.keep.{key}"), value.to_owned());
    let with = |labels: [(&str, &str); 5]| {
        let subject = Subject { labels: labels.map(label).into(), ..Subject::default() };
        let beyond = lint(&subject, &policy).into_iter().filter(|finding| finding.rule == rule::BEYOND_CLASS);
        beyond.map(|finding| finding.message).collect::<Vec<_>>()
    };
    let within = [
        ("intent", "v1"),
        ("exec", "/usr/bin/a"),
        ("write", "/var/a"),
        ("listen", "8080/tcp"),
        ("connect", "dns"),
    ];
    assert_eq!(with(within), Vec::<String>::new());
    let beyond = with([
        ("intent", "v1"),
        ("exec", "/a"),
        ("write", "/a"),
        ("listen", "80/tcp"),
        ("connect", "443/tcp"),
    ]);
    assert_eq!(beyond.len(), 4);
    assert!(beyond.iter().all(|message| message.starts_with("policy narrow does not leave ")), "{beyond:?}");
}

#[test]
fn links_that_go_in_circles_or_grow_lead_nowhere() {
    let files = |links: &[(&str, &str)]| Files {
        complete: true,
        entries: links
            .iter()
            .map(|(path, to)| {
                (AbsPath::new(path).unwrap(), File { kind: Kind::Link((*to).to_owned()), mode: 0o777 })
            })
            .collect(),
    };
    let resolve = |links: &[(&str, &str)]| files(links).resolve(&AbsPath::new("/a").unwrap()).is_some();
    assert!(!resolve(&[("/a", "b"), ("/b", "a")]));
    assert!(!resolve(&[("/a", "a/a/a/a/a/a/a/a/a")]));
    assert!(!resolve(&[("/a", "../../../..")]));
}

#[test]
fn the_examples_in_the_documentation_are_found() {
    let documentation = include_str!("../../../docs/lint.md");
    for rule in rule::ALL.iter().filter(|rule| **rule != rule::LABEL_TOO_LONG) {
        let (_, section) = documentation.split_once(&format!("### {}\n", rule.id)).unwrap();
        let section = section.split("\n### ").next().unwrap();
        let lines: Vec<&str> = section.lines().filter_map(|line| line.strip_prefix("    ")).collect();
        let example = lines.join("\n");
        let from = if example.starts_with("FROM") { "" } else { "FROM scratch\n" };
        // Rules about the image say nothing where nothing is declared.
        let declares = example.contains("LABEL") || [rule::UNDECLARED, rule::UNKNOWN_BASE].contains(rule);
        let label = if declares { "" } else { "\nLABEL dev.keep.intent=v1" };
        let source: &'static str = format!("{from}{example}{label}\n").leak();
        let files: &[(&str, &str)] = match *rule {
            rule::MISSING_PROGRAM => &[("/usr/bin/nginx", "x")],
            rule::WRITE_FILE => &[("/etc/app.conf", "f")],
            _ => &[],
        };
        let found = findings((source, files));
        assert!(found.iter().any(|finding| finding.rule == *rule), "{}: {source}{found:?}", rule.id);
    }
}

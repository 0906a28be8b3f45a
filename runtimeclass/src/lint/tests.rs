use std::collections::BTreeMap;
use std::path::Path;

use oci_spec::image::{Arch, Os};
use profiles::Policy;
use profiles::lint::rule;
use serde_json::Value;
use tempfile::TempDir;

use super::{Counts, Options, Report, lint, subject, write_json, write_sarif, write_text};
use crate::image::Choice;

fn options() -> Options {
    Options {
        policy: Policy::builtin("keep").unwrap(),
        choice: Choice { name: None, os: Os::Linux, arch: Arch::Amd64 },
        target: None,
        build_args: BTreeMap::new(),
        base: None,
    }
}

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn ids(report: &Report) -> Vec<&str> {
    report.findings.iter().map(|located| located.finding.rule.id).collect()
}

fn text(report: &Report) -> String {
    let mut out = Vec::new();
    write_text(&mut out, std::slice::from_ref(report), false).unwrap();
    String::from_utf8(out).unwrap()
}

fn linted(source: &str) -> (TempDir, Report) {
    let folder = folder(&[("Dockerfile", source)]);
    let mut report = lint(folder.path(), &options()).unwrap();
    report.file = "Dockerfile".to_owned();
    (folder, report)
}

const WRONG: &str = "FROM scratch\nLABEL dev.keep.intent=v1 \\\n\t  dev.keep.needs=\"jit \\\niouring\"\n";

#[test]
fn a_finding_is_printed_as_compilers_do_with_its_line_marked() {
    let (_folder, report) = linted(WRONG);
    let expected = "Dockerfile:4:1: error[unknown-need]: unknown need \"iouring\"; did you mean \"io-uring\"?\n    4 | iouring\"\n      | ^^^^^^^\n      help: docs/labels.md has the needs and what each is for\nDockerfile: 1 error\n";
    assert_eq!(text(&report), expected);
    let mut coloured = Vec::new();
    write_text(&mut coloured, &[report], true).unwrap();
    assert!(String::from_utf8(coloured).unwrap().contains("\u{1b}[1;31merror[unknown-need]\u{1b}[0m"));
}

#[test]
fn what_would_steer_a_terminal_is_escaped_and_long_lines_are_cut() {
    let source = format!(
        "FROM scratch\nLABEL dev.keep.intent=v1 x=\u{1b}[31m{} dev.keep.needs=\u{1b}x\n",
        "y".repeat(500)
    );
    let printed = text(&linted(&source).1);
    assert!(!printed.contains('\u{1b}') && printed.contains("\\u{1b}x"), "{printed}");
    assert!(
        printed.lines().filter(|line| line.contains(" | ")).all(|line| line.chars().count() < 200),
        "{printed}"
    );
    let mark = printed.lines().find(|line| line.contains('^')).unwrap();
    let line = printed.lines().find(|line| line.starts_with("    2 |")).unwrap();
    let marked: String =
        line.chars().zip(mark.chars()).filter(|(_, mark)| *mark == '^').map(|(c, _)| c).collect();
    assert_eq!(marked, "\\u{1b}x");
}

#[test]
fn json_has_every_finding_with_its_place() {
    let mut out = Vec::new();
    write_json(&mut out, &[linted(WRONG).1]).unwrap();
    let json: Value = serde_json::from_slice(&out).unwrap();
    assert_eq!((&json["schema"], &json["errors"]), (&"keep.dev/lint/v1".into(), &1.into()));
    let finding = &json["files"][0]["findings"][0];
    assert_eq!(finding["rule"], "unknown-need");
    assert_eq!(finding["label"], serde_json::json!({ "key": "dev.keep.needs", "column": 5, "length": 7 }));
    assert_eq!(
        finding["region"],
        serde_json::json!({ "line": 4, "column": 1, "endLine": 4, "endColumn": 8 })
    );
}

/// The properties that SARIF 2.1.0 defines for the objects that are written here, required ones first with `!`.
/// Source: sarif-schema-2.1.0.json, which allows no others.
const SARIF: &[(&str, &str)] = &[
    ("", "!version !runs $schema inlineExternalProperties properties"),
    (
        "runs",
        "!tool results columnKind invocations conversion language artifacts automationDetails properties",
    ),
    ("runs/tool", "!driver extensions properties"),
    (
        "runs/tool/driver",
        "!name version informationUri rules organization product fullName semanticVersion properties",
    ),
    (
        "runs/tool/driver/rules",
        "!id shortDescription helpUri defaultConfiguration name fullDescription help properties",
    ),
    ("runs/tool/driver/rules/shortDescription", "!text markdown id arguments properties"),
    ("runs/tool/driver/rules/defaultConfiguration", "enabled level rank parameters properties"),
    ("runs/results", "!message ruleId ruleIndex level locations kind rule analysisTarget fixes properties"),
    ("runs/results/message", "!text markdown id arguments properties"),
    (
        "runs/results/locations",
        "physicalLocation logicalLocations id message annotations relationships properties",
    ),
    ("runs/results/locations/physicalLocation", "artifactLocation region contextRegion address properties"),
    (
        "runs/results/locations/physicalLocation/artifactLocation",
        "uri uriBaseId index description properties",
    ),
    (
        "runs/results/locations/physicalLocation/region",
        "startLine startColumn endLine endColumn charOffset snippet properties",
    ),
    (
        "runs/results/locations/logicalLocations",
        "name index fullyQualifiedName decoratedName parentIndex kind properties",
    ),
];

fn check_shape(path: &str, value: &Value) {
    match value {
        Value::Array(all) => all.iter().for_each(|one| check_shape(path, one)),
        Value::Object(object) => {
            let (_, known) = SARIF
                .iter()
                .find(|(known, _)| *known == path)
                .unwrap_or_else(|| panic!("{path}: no such object"));
            for required in known.split(' ').filter_map(|name| name.strip_prefix('!')) {
                assert!(object.contains_key(required), "{path}: no {required}");
            }
            for (name, value) in object {
                assert!(
                    known.split(' ').any(|known| known.trim_start_matches('!') == name),
                    "{path}: {name}"
                );
                check_shape(format!("{path}/{name}").trim_start_matches('/'), value);
            }
        }
        _ => {}
    }
}

#[test]
fn sarif_has_the_form_of_its_schema() {
    let (_folder, mut report) = linted(&format!("{WRONG}EXPOSE 80\nCMD x\n"));
    report.file = "a folder/Dockerfile".to_owned();
    let mut out = Vec::new();
    write_sarif(&mut out, &[report]).unwrap();
    let log: Value = serde_json::from_slice(&out).unwrap();
    check_shape("", &log);
    assert_eq!(log["version"], "2.1.0");
    let run = &log["runs"][0];
    assert_eq!(run["columnKind"], "unicodeCodePoints");
    let results = run["results"].as_array().unwrap();
    assert_eq!(results.len(), 3);
    for result in results {
        let index = usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap();
        assert_eq!(run["tool"]["driver"]["rules"][index]["id"], result["ruleId"]);
        assert!(["note", "warning", "error"].iter().any(|level| result["level"] == *level));
        let location = &result["locations"][0]["physicalLocation"];
        assert_eq!(location["artifactLocation"]["uri"], "a%20folder/Dockerfile");
        assert!(location["region"]["startLine"].as_u64().unwrap() >= 1);
    }
    assert_eq!(run["tool"]["driver"]["rules"].as_array().unwrap().len(), rule::ALL.len());
}

#[test]
fn an_entrypoint_script_is_read_from_the_folder_and_nothing_outside_it() {
    let dockerfile = "FROM scratch\nCOPY run.sh /bin/\nCOPY link.sh /bin/link.sh\nLABEL dev.keep.intent=v1\nENTRYPOINT [\"run.sh\"]\n";
    let folder = folder(&[("Dockerfile", dockerfile), ("run.sh", "#!/bin/sh\nmkdir /x\n")]);
    assert_eq!(ids(&lint(folder.path(), &options()).unwrap()), ["script-tools"]);
    std::fs::write(folder.path().join("run.sh"), "#!/bin/sh\necho\n").unwrap();
    assert!(lint(folder.path(), &options()).unwrap().findings.is_empty());
    let outside = self::folder(&[("x.sh", "#!/bin/sh\nsecret\n")]);
    std::os::unix::fs::symlink(outside.path().join("x.sh"), folder.path().join("link.sh")).unwrap();
    std::fs::write(
        folder.path().join("Dockerfile"),
        dockerfile.replace("[\"run.sh\"]", "[\"/bin/link.sh\"]"),
    )
    .unwrap();
    let report = text(&lint(folder.path(), &options()).unwrap());
    assert!(report.contains("by its name") && !report.contains("secret"), "{report}");
}

#[test]
fn a_base_gives_its_labels_and_ports() {
    let folder = folder(&[
        ("Dockerfile", "FROM base\nEXPOSE 9090\nLABEL dev.keep.listen.metrics=9090/tcp\n"),
        ("base.labels", "dev.keep.intent=v1\ndev.keep.listen=8080/tcp\n"),
        (
            "base.json",
            "{\"config\":{\"Labels\":{\"dev.keep.intent\":\"v1\"},\"ExposedPorts\":{\"70/tcp\":{}}},\"architecture\":\"amd64\",\"os\":\"linux\",\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[]}}",
        ),
    ]);
    let with = |base: Option<&str>| {
        let base = base.map(|name| subject(&folder.path().join(name), &options().choice).unwrap());
        lint(folder.path(), &Options { base, ..options() }).unwrap()
    };
    assert_eq!(ids(&with(None)), ["unknown-base", "without-intent"]);
    assert_eq!(Counts::of([&with(None)]), Counts { errors: 0, warnings: 0, notes: 2 });
    assert_eq!(ids(&with(Some("base.labels"))), ["expose-differs"]);
    assert!(text(&with(Some("base.json"))).contains("70/tcp is exposed"));
}

#[test]
fn a_label_file_has_lines_and_an_image_shows_the_label() {
    let folder = folder(&[
        ("web.labels", "dev.keep.intent=v1\ndev.keep.exec = /a b\n"),
        ("web.json", "{\"dev.keep.intent\":\"v2\"}"),
    ]);
    let printed = |name: &str| {
        let mut report = lint(&folder.path().join(name), &options()).unwrap();
        report.file = name.to_owned();
        text(&report)
    };
    assert!(
        printed("web.labels").starts_with("web.labels:2:20: error[invalid-path]"),
        "{}",
        printed("web.labels")
    );
    let expected = "web.json: error[invalid-version]: unknown schema version \"v2\"; this Keep reads \"v1\"\n      | dev.keep.intent=\"v2\"\n      |                  ^^\n";
    assert!(printed("web.json").starts_with(expected), "{}", printed("web.json"));
}

#[test]
fn what_cannot_be_read_is_an_error_and_no_finding() {
    let folder = folder(&[("bytes", "\u{1}")]);
    std::fs::write(folder.path().join("bytes"), b"FROM a\n\xff").unwrap();
    let problem = |path: &Path| format!("{:#}", lint(path, &options()).unwrap_err());
    assert!(problem(&folder.path().join("bytes")).contains("line 2: not UTF-8"));
    assert!(problem(&folder.path().join("nothing")).contains("No such file"));
    assert!(problem(folder.path()).contains("neither an OCI layout"));
}

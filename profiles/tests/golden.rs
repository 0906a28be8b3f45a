//! Golden files: one whole profile, its digest, and what people are told about it.
//!
//! A change here changes the digest of every profile in the field. To accept one, run with `KEEP_BLESS=1` in the
//! environment, and read the difference.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::collections::BTreeMap;
use std::{env, fs};

use profiles::intent::Need;
use profiles::policy::Policy;
use profiles::profile::{Computed, compute};
use profiles::{explain, labels};

fn nginx() -> Computed {
    let labels: BTreeMap<String, String> = [
        ("dev.keep.intent", "v1"),
        ("dev.keep.exec", "/usr/sbin/nginx"),
        ("dev.keep.listen", "8080/tcp"),
        ("dev.keep.listen.metrics", "9090-9091/tcp"),
        ("dev.keep.connect", "dns 10.0.0.0/8:443/tcp unix:/run/db.sock"),
        ("dev.keep.write", "/var/cache/nginx /run"),
        ("dev.keep.caps", "NET_BIND_SERVICE"),
        ("dev.keep.needs", "jit mount"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    compute(labels::parse(&labels), Some("nginx"), &Policy::builtin("keep").unwrap()).unwrap()
}

fn matches_golden(name: &str, text: &str) {
    let path = format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"));
    if env::var_os("KEEP_BLESS").is_some() {
        fs::write(&path, text).unwrap();
    }
    assert_eq!(text, fs::read_to_string(&path).unwrap(), "{name}; KEEP_BLESS=1 accepts the change");
}

#[test]
fn the_canonical_form_of_a_whole_profile_and_its_digest_are_these() {
    let profile = nginx().profile;
    matches_golden("nginx.profile.json", &profile.canonical());
    matches_golden("nginx.profile.digest", &profile.digest());
}

#[test]
fn people_are_told_this_about_it() {
    matches_golden("nginx.explain.txt", &explain::explain(&nginx(), &Policy::builtin("keep").unwrap()));
}

#[test]
fn the_documented_needs_are_those_that_there_are_and_what_the_class_leaves_is_true() {
    let docs = fs::read_to_string(format!("{}/../docs/labels.md", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let keep = Policy::builtin("keep").unwrap();
    let row = |line: &str| {
        let columns: Vec<String> =
            line.strip_prefix("| `")?.split('|').map(|column| column.trim().to_owned()).collect();
        Some((columns.first()?.trim_end_matches('`').to_owned(), columns.get(2)? == "yes"))
    };
    let documented: BTreeMap<String, bool> = docs.lines().filter_map(row).collect();
    let real: BTreeMap<String, bool> =
        Need::all().map(|need| (need.to_string(), keep.withholds_need(&need).is_none())).collect();
    assert_eq!(documented, real);
    for cap in keep.ceilings.iter().filter_map(|rule| rule.is.caps.as_ref()).flatten() {
        assert!(docs.contains(cap.as_str()), "{cap}");
    }
}

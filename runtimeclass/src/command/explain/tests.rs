use std::collections::BTreeMap;

use super::*;

fn image(labels: &[(&str, &str)], lines: &[(&str, usize)]) -> Image {
    Image {
        name: None,
        digest: None,
        labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        entrypoint: Some("/usr/sbin/nginx".to_owned()),
        lines: lines.iter().map(|(k, n)| ((*k).to_owned(), *n)).collect::<BTreeMap<_, _>>(),
    }
}

#[test]
fn an_invalid_label_is_one_line_with_file_line_key_value_column_and_suggestion() {
    let labels = [("dev.keep.intent", "v1"), ("dev.keep.needs", "jit iouring")];
    let policy = Policy::builtin("keep").unwrap();
    let refusal = compute(&image(&labels, &[("dev.keep.needs", 2)]), &policy, "web.labels").unwrap_err();
    assert!(
        refusal.starts_with("web.labels:2: label dev.keep.needs=\"jit iouring\": column 5: "),
        "{refusal}"
    );
    assert!(refusal.contains("io-uring") && !refusal.contains('\n'), "{refusal}");
}

#[test]
fn the_class_decides_about_images_that_declare_nothing() {
    let undeclared = image(&[], &[]);
    let compute = |class| compute(&undeclared, &Policy::builtin(class).unwrap(), "web.tar");
    assert!(compute("keep").is_ok() && compute("keep-permissive").is_ok());
    assert!(compute("keep-strict").unwrap_err().starts_with("web.tar: class \"keep-strict\""));
}

#[test]
fn the_digest_is_that_of_the_profile_as_json_prints_it() {
    let labels = [("dev.keep.intent", "v1"), ("dev.keep.listen", "8080/tcp")];
    let computed = compute(&image(&labels, &[]), &Policy::builtin("keep").unwrap(), "web.tar").unwrap();
    assert_eq!(serde_json::to_string(&computed.profile).unwrap(), computed.profile.canonical());
    assert!(computed.profile.digest().starts_with("sha256:"));
}

use std::collections::BTreeMap;

use super::*;
use crate::labels;
use crate::policy::{Ceiling, Rule};

fn policy(class: &str) -> Policy {
    Policy::builtin(class).unwrap()
}

fn declaration(pairs: &[(&str, &str)]) -> Result<Declaration, LabelError> {
    let labels: BTreeMap<_, _> =
        pairs.iter().map(|(key, value)| (format!("dev.keep.{key}"), (*value).to_owned())).collect();
    labels::parse(&labels)
}

const NGINX: [(&str, &str); 7] = [
    ("intent", "v1"),
    ("exec", "/usr/sbin/nginx"),
    ("listen", "8080/tcp"),
    ("listen.metrics", "9090-9091/tcp"),
    ("connect", "dns 10.0.0.0/8:443/tcp unix:/run/db.sock"),
    ("write", "/var/cache/nginx /run"),
    ("caps", "NET_BIND_SERVICE"),
];

fn nginx(class: &str) -> Profile {
    compute(declaration(&NGINX), Some("nginx"), &policy(class)).unwrap().profile
}

#[test]
fn the_canonical_form_is_read_back_as_the_same_profile() {
    let profile = nginx("keep");
    let read: Profile = serde_json::from_str(&profile.canonical()).unwrap();
    assert_eq!((read.digest(), read), (profile.digest(), profile));
}

#[test]
fn another_spelling_of_the_same_grants_has_the_same_digest() {
    let other = declaration(&[
        ("intent", "v1"),
        ("exec", "/usr//sbin/nginx/ /usr/sbin/nginx"),
        ("listen", "9091/tcp\n8080/tcp 9090/tcp"),
        ("connect", "unix:/run/./db.sock 10.0.0.0/8:443-443/tcp"),
        ("connect.names", "dns dns"),
        ("write", "/run /run/nginx /var/cache/nginx"),
        ("caps", "NET_BIND_SERVICE NET_BIND_SERVICE"),
        ("needs", ""),
    ]);
    let other = compute(other, Some("nginx"), &policy("keep")).unwrap().profile;
    assert_eq!(other.canonical(), nginx("keep").canonical());
}

#[test]
fn what_the_ceiling_takes_is_not_granted_and_is_noticed() {
    let wishes = declaration(&[("intent", "v1"), ("needs", "jit mount"), ("caps", "SYS_ADMIN KILL")]);
    let computed = compute(wishes.clone(), None, &policy("keep")).unwrap();
    let clamped = |key: &str, value: &str| Notice::Clamped {
        key: format!("dev.keep.{key}"),
        value: value.to_owned(),
        left: Vec::new(),
        by: "class keep".to_owned(),
    };
    assert_eq!(computed.notices, [clamped("caps", "SYS_ADMIN"), clamped("needs", "mount")]);
    let profile = computed.profile;
    assert!(!profile.calls.contains("mount") && !profile.calls.contains("sethostname"));
    assert_eq!((profile.needs.len(), profile.caps.len()), (1, 1));

    let free = compute(wishes.clone(), None, &policy("keep-permissive")).unwrap();
    assert!(free.notices.is_empty() && free.profile.calls.contains("mount"));
}

#[test]
fn an_image_that_declares_nothing_gets_what_its_class_says() {
    let nothing = || Ok(Declaration::Nothing(vec![]));
    let keep = compute(nothing(), Some("sh"), &policy("keep")).unwrap();
    assert_eq!((keep.profile.origin, keep.notices), (Origin::Baseline, vec![Notice::Undeclared]));
    assert!(keep.profile.calls.contains("ptrace") && !keep.profile.calls.contains("mount"));
    assert!(keep.profile.require.is_empty());

    let permissive = compute(nothing(), Some("sh"), &policy("keep-permissive")).unwrap().profile;
    assert_eq!(permissive.origin, Origin::Unconfined);

    let error = compute(nothing(), Some("sh"), &policy("keep-strict")).unwrap_err();
    assert!(error.to_string().contains("LABEL dev.keep.intent=\"v1\""));
}

#[test]
fn a_declared_image_is_audited_by_the_permissive_class_with_its_own_grants() {
    let (audited, enforced) = (nginx("keep-permissive"), nginx("keep"));
    assert_eq!((audited.mode, audited.origin), (Mode::Audit, Origin::Declared));
    assert_eq!((audited.exec, audited.calls), (enforced.exec, enforced.calls));
}

#[test]
fn a_pod_sandbox_is_granted_its_entrypoint_and_nothing_else() {
    let profile = pod_sandbox(Some("/pause"), &policy("keep")).profile;
    assert_eq!((profile.entrypoint.as_deref(), profile.origin), (Some("/pause"), Origin::Declared));
    assert!(profile.exec.is_empty() && profile.listen.is_empty() && profile.write.is_empty());
    assert_eq!(
        profile,
        compute(declaration(&[("intent", "v1")]), Some("/pause"), &policy("keep")).unwrap().profile
    );
}

#[test]
fn of_very_many_endpoints_the_loss_is_told_together() {
    let endpoints: Vec<String> = (1..=200).map(|n| format!("10.0.{}.{n}:{n}/tcp", n % 2)).collect();
    let wishes = declaration(&[("intent", "v1"), ("connect", &endpoints.join(" "))]);
    let ceiling =
        Ceiling { connect: Some(["10.0.0.0/24:1-65535/tcp".parse().unwrap()].into()), ..Ceiling::default() };
    let mut policy = policy("keep");
    policy.ceilings.push(Rule { by: "policy shop".to_owned(), is: ceiling });
    let computed = compute(wishes, None, &policy).unwrap();
    assert_eq!(computed.profile.connect.len(), 100);
    let [Notice::Clamped { value, left, by, .. }] = computed.notices.as_slice() else {
        panic!("{:?}", computed.notices)
    };
    assert!(value.ends_with("and 195 more") && left.len() == 100 && by == "policy shop", "{value}");
}

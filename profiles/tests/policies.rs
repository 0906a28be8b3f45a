//! What holds for every set of labels under every set of policies: a hundred thousand of each.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::collections::BTreeMap;

use profiles::diff::{Diff, diff};
use profiles::intent::{Endpoint, Intent};
use profiles::labels;
use profiles::policy::{Ceiling, Mode, OnExceed, Policies, Policy, Rule, Subject, Undeclared};
use profiles::profile::{Computed, Origin, Profile, ProfileError, compute};
use proptest::option::weighted;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proptest::strategy::Union;

/// A small world, so that what is generated meets: paths with and without common parents, networks in each other.
const WORDS: [(&str, &[&str]); 7] = [
    ("exec", &["/", "/bin", "/bin/sh", "/binary", "/app", "/app/run.sh", "/app/../app", "/app//x"]),
    ("listen", &["80/tcp", "80-90/tcp", "85-99/tcp", "53/udp", "1-65535/udp", "1-65535/tcp"]),
    (
        "connect",
        &[
            "443/tcp",
            "1-65535/tcp",
            "10.0.0.0/8:443/tcp",
            "10.1.0.0/16:440-450/tcp",
            "0.0.0.0/0:443/tcp",
            "[::/0]:443/tcp",
            "[2001:db8::/32]:1-500/tcp",
            "10.1.2.3:53/udp",
            "dns",
            "unix:/run",
            "unix:/run/x",
            "unix:/runx",
        ],
    ),
    ("write", &["/", "/run", "/run/nginx", "/running", "/var/cache", "/var", "/var/cache/./x"]),
    ("read", &["/etc/shadow", "/etc", "/etcetera"]),
    ("caps", &["CHOWN", "NET_ADMIN", "SYS_ADMIN", "SYS_CHROOT"]),
    ("needs", &["jit", "ipc", "mount", "userns", "ptrace"]),
];

/// Some words of each list; the lists that hold a word with `..` are invalid.
fn words() -> impl Strategy<Value = BTreeMap<&'static str, Vec<&'static str>>> {
    WORDS
        .map(|(key, words)| {
            weighted(0.6, subsequence(words, 0..=words.len().min(4))).prop_map(move |words| (key, words))
        })
        .to_vec()
        .prop_map(|lists| lists.into_iter().filter_map(|(key, words)| Some((key, words?))).collect())
}

fn label_map(words: &BTreeMap<&str, Vec<&str>>, version: bool) -> BTreeMap<String, String> {
    let lists = words.iter().map(|(key, words)| (format!("dev.keep.{key}"), words.join(" ")));
    lists.chain(version.then(|| ("dev.keep.intent".to_owned(), "v1".to_owned()))).collect()
}

/// Lists as a policy has them: only what is valid there.
fn yaml(words: &BTreeMap<&str, Vec<&str>>) -> String {
    let list = |(key, words): (&&str, &Vec<&str>)| {
        let words: Vec<String> =
            words.iter().filter(|word| !word.contains("..")).map(|word| format!("'{word}'")).collect();
        format!("{key}: [{}]", words.join(", "))
    };
    format!("{{ {} }}", words.iter().map(list).collect::<Vec<_>>().join(", "))
}

/// What a policy grants to sessions.
fn sessions(words: &BTreeMap<&'static str, Vec<&'static str>>) -> String {
    let of_sessions = |key: &&str| ["exec", "caps", "needs"].contains(key);
    let words = words.iter().filter(|(key, _)| of_sessions(key)).map(|(key, words)| (*key, words.clone()));
    format!("interactiveExec: debug, debug: {}", yaml(&words.collect()))
}

/// The `spec` of a policy.
fn spec() -> impl Strategy<Value = String> {
    let selector = select(&[
        "",
        "selector: { classes: [keep] }, ",
        "selector: { classes: [own] }, ",
        "selector: { namespaces: ['shop'] }, ",
        "selector: { namespaces: ['s*'], images: ['*web*'] }, ",
        "selector: { images: ['*'] }, ",
        "selector: { namespaces: [other] }, ",
    ]);
    let field = |text: &'static str| weighted(0.2, Just(text.to_owned()));
    let list = |name: &'static str| {
        weighted(0.5, words().prop_map(move |words| format!("{name}: {}", yaml(&words))))
    };
    (
        selector,
        list("ceiling"),
        list("deny"),
        list("default"),
        field("mode: audit"),
        field("onExceed: Reject"),
        weighted(0.3, words().prop_map(|words| sessions(&words))),
    )
        .prop_map(|(selector, ceiling, deny, default, mode, exceed, debug)| {
            let fields: Vec<String> =
                [ceiling, deny, default, mode, exceed, debug].into_iter().flatten().collect();
            format!("{{ {selector}{} }}", fields.join(", "))
        })
}

/// Policies without a conflict. Each document that conflicts with those before it is left out.
fn policies() -> impl Strategy<Value = Vec<String>> {
    proptest::collection::vec(spec(), 0..4).prop_map(|specs| {
        let mut kept: Vec<String> = Vec::new();
        for spec in specs {
            kept.push(spec);
            if parsed(&kept).is_none() {
                kept.pop();
            }
        }
        kept
    })
}

fn parsed(specs: &[String]) -> Option<Policies> {
    let document = |(place, spec): (usize, &String)| {
        format!(
            "apiVersion: keep.dev/v1alpha1\nkind: RuntimePolicy\nmetadata: {{ name: p{place} }}\nspec: {spec}\n---\n"
        )
    };
    let text: String = specs.iter().enumerate().map(document).collect();
    Policies::parse([("all.yaml", text.as_str())]).ok()
}

fn in_force(specs: &[String], class: &str) -> Option<Policy> {
    let subject =
        Subject { namespace: Some("shop"), image: Some("docker.io/shop/web:1"), ..Subject::of_class(class) };
    parsed(specs)?.select(&subject).ok()
}

fn computed(labels: &BTreeMap<String, String>, policy: &Policy) -> Result<Computed, ProfileError> {
    compute(labels::parse(labels), Some("app"), policy)
}

/// What a profile grants beyond another, but for what a policy says of the container as a whole.
fn grants_beyond(narrow: &Profile, wide: &Profile) -> Vec<String> {
    let Diff { widens, .. } = diff(narrow, wide);
    let whole = ["mode", "require", "command", "interactiveExec", "debug", "report", "walls"];
    let of_grants = widens.into_iter().filter(|change| !whole.contains(&change.kind));
    of_grants.map(|change| format!("{}={}", change.kind, change.value)).collect()
}

/// The class's ceiling alone, read the plain way: what each entry of the profile must lie within.
fn within(profile: &Profile, ceiling: &Ceiling) -> bool {
    let beneath = |paths: &std::collections::BTreeSet<profiles::intent::AbsPath>,
                   ceiling: &Option<std::collections::BTreeSet<_>>| {
        ceiling
            .as_ref()
            .is_none_or(|ceiling| paths.iter().all(|path| ceiling.iter().any(|top| path.is_beneath(top))))
    };
    let ports = |entry: &String, protocol: &str| -> Vec<u16> {
        let Some((range, proto)) = entry.rsplit_once('/') else { return Vec::new() };
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let ends = [first.parse().unwrap(), last.parse().unwrap()];
        if proto == protocol { ends.to_vec() } else { Vec::new() }
    };
    let listens = ceiling.listen.as_ref().is_none_or(|ceiling| {
        ["tcp", "udp"].iter().all(|protocol| {
            profile.listen.iter().flat_map(|entry| ports(entry, protocol)).all(|port| {
                ceiling.iter().any(|range| {
                    range.protocol.to_string() == *protocol && (range.first..=range.last).contains(&port)
                })
            })
        })
    });
    let unix_and_dns = ceiling.connect.as_ref().is_none_or(|ceiling| {
        profile.connect.iter().map(|entry| entry.parse::<Endpoint>().unwrap()).all(|endpoint| match endpoint {
            Endpoint::Dns => ceiling.contains(&Endpoint::Dns),
            Endpoint::Unix(path) => {
                ceiling.iter().any(|entry| matches!(entry, Endpoint::Unix(top) if path.is_beneath(top)))
            }
            Endpoint::Ports { ports, .. } => ceiling.iter().any(|entry| {
                matches!(entry, Endpoint::Ports { ports: left, .. } if left.protocol == ports.protocol && left.first <= ports.last && ports.first <= left.last)
            }),
        })
    });
    beneath(&profile.exec, &ceiling.exec)
        && beneath(&profile.exec_beneath, &ceiling.exec)
        && beneath(&profile.write, &ceiling.write)
        && beneath(&profile.read, &ceiling.read)
        && ceiling.caps.as_ref().is_none_or(|caps| profile.caps.is_subset(caps))
        && ceiling.needs.as_ref().is_none_or(|needs| profile.needs.is_subset(needs))
        && listens
        && unix_and_dns
}

/// `PROPTEST_CASES`, where it is set.
fn cases(usually: u32) -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(usually)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(100_000)))]

    /// Effective is never above the class ceiling, nor any other, nor what the image declares.
    #[test]
    fn what_is_granted_lies_within_every_ceiling_and_the_declaration(words in words(), specs in policies(), class in select(&["keep", "keep-strict", "keep-permissive", "own"])) {
        let Some(policy) = in_force(&specs, class) else { return Ok(()) };
        let labels = label_map(&words, true);
        let Ok(Computed { profile, notices, .. }) = computed(&labels, &policy) else { return Ok(()) };
        for rule in &policy.ceilings {
            prop_assert!(within(&profile, &rule.is), "{} is exceeded: {}", rule.by, profile.canonical());
        }
        let open = Policy { ceilings: Vec::new(), denied: Vec::new(), ..policy.clone() };
        let all = computed(&labels, &open).unwrap().profile;
        prop_assert_eq!(grants_beyond(&all, &profile), Vec::<String>::new());
        let taken = !diff(&all, &profile).narrows.iter().all(|change| change.kind == "calls" || change.kind == "debug" || change.value.contains("symbolic links") || change.value.contains("denied"));
        prop_assert!(!taken || !notices.is_empty(), "something was taken away in silence");
        prop_assert!(policy.on_exceed == OnExceed::Clamp || notices.is_empty());
        for rule in &policy.denied {
            let left = Policy { denied: vec![rule.clone()], ..open.clone() };
            let nothing: Intent = rule.is.clone();
            let denied = Policy { ceilings: vec![], default: Some(nothing), ..left };
            prop_assert!(denied.withholds_capability(&"CHOWN".to_owned().try_into().unwrap()).is_some() == rule.is.caps.iter().any(|cap| cap.as_str() == "CHOWN"));
            prop_assert!(profile.caps.is_disjoint(&rule.is.caps) && profile.needs.is_disjoint(&rule.is.needs));
        }
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(50_000)))]

    /// What a session is granted is what its container is, and what its policy's `debug` says: within every ceiling, and
    /// apart from what is denied, as if the image had declared both.
    #[test]
    fn a_session_is_granted_as_much_as_if_the_image_had_declared_it(words in words(), specs in policies(), class in select(&["keep", "own"])) {
        let Some(policy) = in_force(&specs, class) else { return Ok(()) };
        let Ok(Computed { profile, intent, .. }) = computed(&label_map(&words, true), &policy) else { return Ok(()) };
        let Some(session) = profile.of_session() else {
            prop_assert!(policy.debug.is_none() || policy.mode == Mode::Audit);
            return Ok(());
        };
        for rule in &policy.ceilings {
            prop_assert!(within(&session, &rule.is), "{} is exceeded: {}", rule.by, session.canonical());
        }
        for rule in &policy.denied {
            prop_assert!(session.caps.is_disjoint(&rule.is.caps) && session.needs.is_disjoint(&rule.is.needs));
            prop_assert!(session.exec.iter().chain(&session.exec_beneath).all(|path| rule.is.exec.iter().all(|denied| !path.is_beneath(denied) && !denied.is_beneath(path))));
        }
        prop_assert_eq!(grants_beyond(&session, &profile), Vec::<String>::new());
        let more: Intent = policy.debug.clone().unwrap().into();
        let both = Intent { exec: &intent.exec | &more.exec, caps: &intent.caps | &more.caps, needs: &intent.needs | &more.needs, ..intent };
        let as_default = Policy { default: Some(both), undeclared: Undeclared::Default, on_exceed: OnExceed::Clamp, ..policy };
        let declared = computed(&BTreeMap::new(), &as_default).unwrap().profile;
        prop_assert_eq!(grants_beyond(&declared, &session), Vec::<String>::new());
        prop_assert_eq!(grants_beyond(&session, &declared), Vec::<String>::new());
        prop_assert_ne!(session.digest(), profile.digest());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(20_000)))]

    /// A further policy that only restricts never widens, whatever it says and wherever it stands in the order.
    #[test]
    fn a_further_restriction_never_widens(words in words(), specs in policies(), ceiling in words(), deny in words(), place in 0usize..4, declares in any::<bool>()) {
        let Some(before) = in_force(&specs, "keep") else { return Ok(()) };
        let further = format!("{{ selector: {{ namespaces: [shop] }}, ceiling: {}, deny: {} }}", yaml(&ceiling), yaml(&deny));
        let mut more = specs.clone();
        more.insert(place.min(specs.len()), further);
        let after = in_force(&more, "keep").unwrap();
        let labels = label_map(&words, declares);
        let (Ok(wide), Ok(narrow)) = (computed(&labels, &before), computed(&labels, &after)) else { return Ok(()) };
        prop_assert_eq!(diff(&wide.profile, &narrow.profile).widens, Vec::new());
        prop_assert_eq!(wide.profile.origin, narrow.profile.origin);
    }

    /// In which order ceilings are applied does not matter, nor that of labels and their words.
    #[test]
    fn order_does_not_matter(words in words(), ceilings in proptest::collection::vec(words_as_ceiling(), 0..4)) {
        let labels = label_map(&words, true);
        let with = |rules: Vec<Ceiling>| {
            let rules = rules.into_iter().map(|is| Rule { by: "test".to_owned(), is });
            let policy = Policy { ceilings: rules.collect(), ..Policy::builtin("keep").unwrap() };
            computed(&labels, &policy).map(|computed| computed.profile.digest())
        };
        let mut reversed = ceilings.clone();
        reversed.reverse();
        let twice = [ceilings.clone(), ceilings.clone()].concat();
        prop_assert_eq!(with(ceilings.clone()), with(reversed));
        prop_assert_eq!(with(ceilings), with(twice), "once is enough");
        let turned = words.iter().map(|(key, words)| (*key, words.iter().rev().copied().collect())).collect();
        let keep = Policy::builtin("keep").unwrap();
        let digest = |labels| computed(&labels, &keep).map(|computed| computed.profile.digest());
        prop_assert_eq!(digest(labels).ok(), digest(label_map(&turned, true)).ok());
    }

    /// The digest changes exactly when the profile does: equal digests grant the same, and what grants the same by other
    /// words has the same digest.
    #[test]
    fn the_digest_changes_exactly_when_the_profile_does(one in words(), two in words(), specs in policies()) {
        let Some(policy) = in_force(&specs, "keep") else { return Ok(()) };
        let (Ok(one), Ok(two)) = (computed(&label_map(&one, true), &policy), computed(&label_map(&two, true), &policy)) else { return Ok(()) };
        let (one, two) = (one.profile, two.profile);
        prop_assert_eq!(one == two, one.digest() == two.digest());
        prop_assert_eq!(one == two, one.canonical() == two.canonical());
        if one.origin == Origin::Declared && two.origin == Origin::Declared && one.exec == two.exec && one.exec_beneath == two.exec_beneath {
            prop_assert_eq!(diff(&one, &two) == Diff::default(), one == two);
        }
    }
}

fn words_as_ceiling() -> impl Strategy<Value = Ceiling> {
    words().prop_map(|words| {
        let policies =
            parsed(&[format!("{{ selector: {{ images: ['*'] }}, ceiling: {} }}", yaml(&words))]).unwrap();
        let policy = policies.select(&Subject { image: Some("x"), ..Subject::of_class("keep") }).unwrap();
        policy.ceilings[1].is.clone()
    })
}

/// Keeps the generators honest: that they make what the properties are about.
#[test]
fn the_generators_reach_every_outcome() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut clamped, mut granted, mut refused, mut defaulted, mut sessions) = (0, 0, 0, 0, 0);
    let strategy = (words(), policies(), Union::new([Just(true), Just(true), Just(false)]));
    for _ in 0..2000 {
        let (words, specs, declares) = strategy.new_tree(&mut runner).unwrap().current();
        let Some(policy) = in_force(&specs, "keep") else { continue };
        match computed(&label_map(&words, declares), &policy) {
            Ok(Computed { profile, notices, .. }) if declares => {
                granted += usize::from(!profile.connect.is_empty());
                clamped += usize::from(!notices.is_empty());
                sessions +=
                    usize::from(profile.of_session().is_some_and(|session| session.exec != profile.exec));
            }
            Ok(Computed { profile, .. }) => defaulted += usize::from(profile.origin == Origin::Default),
            Err(_) => refused += 1,
        }
    }
    for count in [clamped, granted, refused, defaulted, sessions] {
        assert!(
            count > 50,
            "clamped {clamped}, granted {granted}, refused {refused}, defaulted {defaulted}, sessions {sessions}"
        );
    }
}

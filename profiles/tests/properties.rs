//! What holds for every input: nothing panics, spelling does not matter, and a restriction never widens.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::collections::{BTreeMap, BTreeSet};

use profiles::intent::{AbsPath, Capability, Endpoint, Need, PortRange};
use profiles::labels::{self, Declaration};
use profiles::plan::{Action, Arch, HostFacts, Wall, plan, seccomp_from_oci};
use profiles::policy::{Ceiling, Policy, Rule};
use profiles::profile::{Computed, Profile, compute};
use profiles::record::{
    Allow, Container, Granted, Image, Observation, Process, Record, SCHEMA, Verdict, allow, from_notice,
};
use profiles::{explain, syscalls};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

const HOST: HostFacts =
    HostFacts { arch: Arch::X86_64, landlock_abi: 7, listener: true, wait_killable: true, cgroup_bpf: true };

/// Valid words of each list, some of which cover others.
const WORDS: [(&str, &[&str]); 7] = [
    ("exec", &["/bin/sh", "/usr/sbin/nginx", "/opt/a%20b", "/usr/bin", "/"]),
    ("listen", &["80/tcp", "81/tcp", "80-90/tcp", "53/udp", "1-65535/udp"]),
    (
        "connect",
        &["443/tcp", "10.0.0.0/8:443/tcp", "10.1.0.0/16:440-450/tcp", "[::1]:53/udp", "dns", "unix:/run/x"],
    ),
    ("write", &["/run", "/run/nginx", "/var/cache", "/a%25b", "/var/cache/x/y"]),
    ("read", &["/etc/shadow", "/etc"]),
    ("caps", &["CHOWN", "NET_ADMIN", "SYS_ADMIN", "SYS_CHROOT", "AUDIT_WRITE"]),
    ("needs", &["jit", "ipc", "mount", "io-uring", "userns", "raw-sockets", "ptrace"]),
];

fn words() -> impl Strategy<Value = Vec<(&'static str, Vec<&'static str>)>> {
    WORDS.map(|(key, words)| subsequence(words, 0..=words.len()).prop_map(move |words| (key, words))).to_vec()
}

fn class() -> impl Strategy<Value = Policy> {
    select(&["keep", "keep-strict", "keep-permissive"]).prop_map(|name| Policy::builtin(name).unwrap())
}

fn labels_of(words: &[(&str, Vec<&str>)]) -> BTreeMap<String, String> {
    let label = |(key, words): &(&str, Vec<&str>)| (format!("dev.keep.{key}"), words.join(" "));
    words.iter().map(label).chain([("dev.keep.intent".to_owned(), "v1".to_owned())]).collect()
}

fn computed(labels: &BTreeMap<String, String>, policy: &Policy) -> Computed {
    compute(labels::parse(labels), Some("app"), policy).unwrap()
}

/// What `labels` are granted under `policy`, and the label that would allow what was seen.
fn asked(labels: &BTreeMap<String, String>, policy: &Policy, seen: &Observation) -> (Profile, Option<Allow>) {
    let Computed { intent, profile, .. } = computed(labels, policy);
    let suggested = allow(Granted { intent: &intent, profile: &profile, policy }, seen).ok();
    (profile, suggested)
}

fn profile(words: &[(&str, Vec<&str>)], policy: &Policy) -> Profile {
    computed(&labels_of(words), policy).profile
}

/// Whether the filter of `narrow` lets nothing through that `wide` stops, over the arguments that rules look at.
fn narrower(narrow: &Profile, wide: &Profile) -> bool {
    let (narrow, wide) =
        (plan(narrow, &HOST).unwrap().seccomp.unwrap(), plan(wide, &HOST).unwrap().seccomp.unwrap());
    let through = |action| matches!(action, Action::Allow | Action::Observe);
    let samples =
        [[0; 6], [2, 1, 6, 0, 0, 0], [2, 2, 17, 0, 0, 0], [16, 3, 9, 0, 0, 0], [0, 0, 7, 0x22, 0, 0]];
    narrow.calls.keys().all(|number| {
        samples
            .iter()
            .all(|args| !through(narrow.action(*number, args)) || through(wide.action(*number, args)))
    })
}

proptest! {
    #[test]
    fn order_fragments_and_white_space_do_not_matter(words in words(), policy in class(), cut in 0usize..4) {
        let plain = labels_of(&words);
        let mut other = BTreeMap::from([("dev.keep.intent".to_owned(), " v1 ".to_owned())]);
        for (key, words) in &words {
            let (fragment, main): (Vec<_>, Vec<_>) = words.iter().rev().enumerate().partition(|(n, _)| n % 4 == cut);
            let text = |part: Vec<(usize, &&str)>| part.iter().map(|(_, word)| **word).collect::<Vec<_>>().join("\n\t");
            other.insert(format!("dev.keep.{key}.more"), text(fragment));
            other.insert(format!("dev.keep.{key}"), format!("  {} ", text(main)));
        }
        let (one, two) = (computed(&plain, &policy), computed(&other, &policy));
        prop_assert_eq!(one.profile.canonical(), two.profile.canonical());
        prop_assert_eq!(one.profile.digest(), two.profile.digest());
        prop_assert_eq!(explain::explain(&one, &policy), explain::explain(&two, &policy));
    }

    #[test]
    fn digests_are_equal_exactly_when_canonical_forms_are(one in words(), two in words(), policy in class()) {
        let (one, two) = (profile(&one, &policy), profile(&two, &policy));
        prop_assert_eq!(one.canonical() == two.canonical(), one.digest() == two.digest());
        prop_assert_eq!(one.canonical() == two.canonical(), one == two);
    }

    #[test]
    fn a_lower_ceiling_never_widens(words in words(), caps in subsequence(WORDS[5].1, 0..5), needs in subsequence(WORDS[6].1, 0..7)) {
        let keep = Policy { require: BTreeSet::new(), ..Policy::builtin("keep").unwrap() };
        let open = Policy { ceilings: Vec::new(), ..keep };
        let ceiling = Ceiling {
            caps: Some(caps.iter().map(|name| Capability::new(name).unwrap()).collect()),
            needs: Some(needs.iter().map(|name| Need::new(name).unwrap()).collect()),
            ..Ceiling::default()
        };
        let narrow = Policy { ceilings: vec![Rule { by: "test".to_owned(), is: ceiling }], ..open.clone() };
        let (narrow, open) = (profile(&words, &narrow), profile(&words, &open));
        prop_assert!(narrow.calls.is_subset(&open.calls) && narrow.caps.is_subset(&open.caps));
        prop_assert!(narrow.needs.is_subset(&open.needs));
        prop_assert!(narrower(&narrow, &open));
    }

    #[test]
    fn a_word_less_never_widens(words in words(), list in 0usize..7, word in 0usize..7) {
        let policy = Policy::builtin("keep").unwrap();
        let mut fewer = words.clone();
        if word < fewer[list].1.len() {
            fewer[list].1.remove(word);
        }
        let (narrow, wide) = (profile(&fewer, &policy), profile(&words, &policy));
        prop_assert!(narrow.calls.is_subset(&wide.calls) && narrow.exec.is_subset(&wide.exec));
        prop_assert!(narrow.write.iter().all(|path| wide.write.iter().any(|wide| path.is_beneath(wide))));
        prop_assert!(narrower(&narrow, &wide));
    }

    #[test]
    fn arbitrary_labels_never_panic_and_give_the_same_answer_twice(
        values in btree_map("dev\\.keep\\.(exec|listen|connect|write|read|caps|needs|intent|x)(\\.[a-z]{0,3})?", "\\PC{0,40}", 0..6),
        version in proptest::option::weighted(0.8, Just("v1")),
        policy in class(),
    ) {
        let mut values = values;
        if let Some(version) = version {
            values.insert("dev.keep.intent".to_owned(), version.to_owned());
        }
        let parsed = labels::parse(&values);
        prop_assert_eq!(&parsed, &labels::parse(&values));
        match parsed {
            Ok(declaration) => {
                if let Ok(computed) = compute(Ok(declaration.clone()), Some("app"), &policy) {
                    prop_assert!(!explain::explain(&computed, &policy).chars().any(|c| c.is_control() && c != '\n'));
                    for notice in &computed.notices {
                        prop_assert_eq!(from_notice(notice).0.wall, Wall::Policy);
                    }
                    prop_assert!(plan(&computed.profile, &HOST).is_ok());
                }
                prop_assert!(matches!(declaration, Declaration::V1(..)) == values.contains_key("dev.keep.intent"));
            }
            Err(error) => {
                // One past the end where something is missing there.
                let value = &values[&error.key];
                prop_assert!(error.column >= 1 && error.column <= value.chars().count() + 1, "{}", error);
            }
        }
    }

    #[test]
    fn arbitrary_words_never_panic_and_canonical_text_is_a_fixed_point(word in "[\\[\\]0-9a-f:./%-]{0,24}(tcp|udp|)") {
        if let Ok(endpoint) = word.parse::<Endpoint>() {
            prop_assert_eq!(endpoint.to_string().parse::<Endpoint>(), Ok(endpoint));
        }
        if let Ok(ports) = word.parse::<PortRange>() {
            prop_assert_eq!(ports.to_string().parse::<PortRange>(), Ok(ports));
        }
        if let Ok(path) = AbsPath::from_label(&word) {
            prop_assert_eq!(AbsPath::from_label(&path.to_label()), Ok(path));
        }
    }

    #[test]
    fn arbitrary_seccomp_profiles_never_panic(text in "\\PC{0,60}", default in "SCMP_ACT_[A-Z_]{0,12}") {
        prop_assert!(seccomp_from_oci(&text, Arch::Aarch64).is_err());
        let json = serde_json::json!({ "defaultAction": default }).to_string();
        if let Ok(plan) = seccomp_from_oci(&json, Arch::Aarch64) {
            prop_assert!(plan.calls.values().all(|rules| rules.len() == 1));
        }
    }

    #[test]
    fn a_suggested_label_opens_the_call_that_was_refused(
        words in words(),
        call in select(syscalls::names().collect::<Vec<_>>()),
        args in vec(select(&[0u64, 1, 2, 3, 4, 7, 9, 16, 17, 0x22, 0x1000, 0x8000, 0x1000_0000, u64::MAX]), 6),
    ) {
        let policy = Policy::builtin("keep-permissive").unwrap();
        let enforce = Policy { mode: profiles::policy::Mode::Enforce, ..policy };
        let texts: Vec<String> = args.iter().map(u64::to_string).collect();
        let seen = observation(Wall::Syscall, call, &format!("{call}({})", texts.join(", ")));
        let Some(number) = syscalls::number(call, Arch::X86_64) else { return Ok(()) };
        let args: [u64; 6] = args.try_into().unwrap();
        let answer = |profile: &Profile| plan(profile, &HOST).unwrap().seccomp.unwrap().action(number, &args);
        let (before, suggested) = asked(&labels_of(&words), &enforce, &seen);
        if let Some(allow) = suggested {
            prop_assert!(!matches!(answer(&before), Action::Allow | Action::Observe));
            let mut labels = labels_of(&words);
            labels.insert(allow.label, allow.value);
            let after = computed(&labels, &enforce).profile;
            prop_assert!(matches!(answer(&after), Action::Allow | Action::Observe));
            prop_assert!(before.needs.is_subset(&after.needs) && before.caps.is_subset(&after.caps));
        }
    }

    #[test]
    fn a_suggested_label_always_parses_and_loses_nothing(
        words in words(),
        wall in select(&[Wall::Exec, Wall::File, Wall::Network]),
        operation in select(&["execve", "openat", "unlink", "connect", "bind"]),
        object in "(/[a-z %\"$\\PC]{0,8}){0,4}|[0-9.]{1,9}:[0-9]{1,5}/tcp|unix:/[a-z ]{1,5}",
    ) {
        let policy = Policy::builtin("keep").unwrap();
        let (before, suggested) = asked(&labels_of(&words), &policy, &observation(wall, operation, &object));
        if let Some(allow) = suggested {
            let mut labels = labels_of(&words);
            labels.insert(allow.label, allow.value);
            let after = computed(&labels, &policy).profile;
            prop_assert!(before.exec.is_subset(&after.exec));
            prop_assert!(before.write.iter().all(|old| after.write.iter().any(|new| old.is_beneath(new))));
            prop_assert_ne!(before.digest(), after.digest());
        }
    }

    #[test]
    fn sentences_of_arbitrary_records_are_one_printable_line(
        operation in "\\PC{0,10}|bind|connect|openat|labels|clamped|undeclared",
        object in any::<String>(),
        program in any::<String>(),
        because in proptest::option::of(any::<String>()),
        wall in select(&[Wall::Exec, Wall::File, Wall::Network, Wall::Syscall, Wall::Capability, Wall::Policy]),
    ) {
        let seen = observation(wall, &operation, &object);
        let (_, allow) = asked(&labels_of(&[]), &Policy::builtin("keep").unwrap(), &seen);
        let record = Record { because, allow, ..record(seen, &program) };
        prop_assert!(!record.sentence().chars().any(char::is_control));
        prop_assert!(record.sentence().chars().count() < 6000);
    }
}

fn observation(wall: Wall, operation: &str, object: &str) -> Observation {
    Observation {
        wall,
        operation: operation.to_owned(),
        object: object.to_owned(),
        verdict: Verdict::Denied,
        errno: None,
        pid: 1,
        program: "/app".to_owned(),
    }
}

fn record(seen: Observation, program: &str) -> Record {
    Record {
        schema: SCHEMA.to_owned(),
        time: String::new(),
        node: String::new(),
        class: "keep".to_owned(),
        pod: None,
        container: Container { id: String::new(), name: String::new(), exec: None },
        image: Image { name: String::new(), digest: String::new() },
        profile: None,
        process: Process { pid: seen.pid, program: program.to_owned() },
        wall: seen.wall,
        operation: seen.operation,
        object: seen.object,
        verdict: seen.verdict,
        errno: seen.errno,
        count: 1,
        allow: None,
        because: None,
    }
}

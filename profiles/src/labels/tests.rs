use super::*;

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let with = |(key, value): &(&str, &str)| (format!("dev.keep.{key}"), (*value).to_owned());
    pairs.iter().map(with).chain([("dev.keep.intent".to_owned(), "v1".to_owned())]).collect()
}

fn intent(pairs: &[(&str, &str)]) -> Intent {
    match parse(&labels(pairs)).unwrap() {
        Declaration::V1(intent, notices) if notices.is_empty() => intent,
        other => panic!("{other:?}"),
    }
}

fn failure(key: &str, value: &str) -> LabelError {
    parse(&labels(&[(key, value)])).unwrap_err()
}

#[test]
fn every_key_of_the_schema_is_read() {
    let intent = intent(&[
        ("exec", "/usr/sbin/nginx /opt/my%20app/bin"),
        ("listen", "8080/tcp 53/udp 8000-8010/tcp"),
        ("connect", "5432/tcp 10.0.0.0/8:443/tcp [2001:db8::/32]:443/tcp dns unix:/run/db.sock"),
        ("write", "/var/cache/nginx /run"),
        ("read", "/etc/shadow"),
        ("caps", "NET_BIND_SERVICE"),
        ("needs", "jit\tipc\n aio"),
    ]);
    assert_eq!((intent.exec.len(), intent.listen.len(), intent.connect.len()), (2, 3, 5));
    assert_eq!((intent.write.len(), intent.read.len(), intent.caps.len(), intent.needs.len()), (2, 1, 1, 3));
    assert!(intent.exec.contains(&AbsPath::new("/opt/my app/bin").unwrap()));
}

#[test]
fn fragments_are_united_with_their_key_and_an_empty_one_grants_nothing() {
    let united =
        intent(&[("listen", "80/tcp"), ("listen.metrics", "9090/tcp 80/tcp"), ("listen.base.a", "")]);
    assert_eq!(united, intent(&[("listen", "9090/tcp\t80/tcp")]));
    assert_eq!(intent(&[("exec", ""), ("write.x", "  ")]), Intent::default());
}

#[test]
fn labels_without_intent_declare_nothing_and_that_is_noticed() {
    assert_eq!(parse(&BTreeMap::new()), Ok(Declaration::Nothing(vec![])));
    let foreign = BTreeMap::from([
        ("org.x".to_owned(), "y".to_owned()),
        ("dev.keeper.exec".to_owned(), "x".to_owned()),
    ]);
    assert_eq!(parse(&foreign), Ok(Declaration::Nothing(vec![])));
    let only = BTreeMap::from([("dev.keep.exec".to_owned(), "not a path".to_owned())]);
    let notice = Notice::WithoutIntent { key: "dev.keep.exec".to_owned() };
    assert_eq!(parse(&only), Ok(Declaration::Nothing(vec![notice])));
}

#[test]
fn an_unknown_key_is_ignored_and_noticed_with_the_nearest_known_one() {
    for (key, suggestion) in [
        ("lisen", Some("dev.keep.listen")),
        ("wirte.cache", Some("dev.keep.write.cache")),
        ("listen.", Some("dev.keep.listen")),
        ("intent.more", Some("dev.keep.intent")),
        ("Exec", Some("dev.keep.exec")),
        ("seccomp", None),
        ("", None),
    ] {
        let Declaration::V1(intent, notices) = parse(&labels(&[(key, "x")])).unwrap() else { panic!() };
        let key = format!("dev.keep.{key}");
        assert_eq!(notices, [Notice::UnknownKey { key, suggestion: suggestion.map(str::to_owned) }]);
        assert_eq!(intent, Intent::default());
    }
}

#[test]
fn a_version_that_is_not_v1_is_an_error() {
    for (value, column, part) in [
        ("", 1, "missing"),
        ("   ", 1, "missing"),
        ("v2", 1, "this Keep reads \"v1\""),
        (" 1", 2, "did you mean \"v1\"?"),
        ("v1 v1", 1, "unknown schema version"),
    ] {
        let mut all = labels(&[("exec", "relative")]);
        all.insert("dev.keep.intent".to_owned(), value.to_owned());
        let error = parse(&all).unwrap_err();
        assert_eq!((error.key.as_str(), error.column), ("dev.keep.intent", column), "{value}");
        assert!(error.problem.contains(part), "{error}");
    }
    let mut spaced = labels(&[]);
    spaced.insert("dev.keep.intent".to_owned(), " v1\n".to_owned());
    assert!(parse(&spaced).is_ok());
}

#[test]
fn an_error_names_key_value_column_and_what_was_meant() {
    let error = failure("needs", "jit  iouring");
    let expected =
        r#"label dev.keep.needs="jit  iouring": column 6: unknown need "iouring"; did you mean "io-uring"?"#;
    assert_eq!(error.to_string(), expected);
    for (key, value, column, part) in [
        ("exec", "/é /b nginx", 7, "write it from the image's root, as /nginx"),
        ("exec", "/a/../b", 1, "\"..\""),
        ("exec", "/a /b%2fc", 6, "only %20"),
        ("listen", "80/tcp 0/tcp", 8, "port 0"),
        ("listen", "80/tcp 90-80/tcp", 8, "write 80-90/tcp"),
        ("listen", "1.2.3.4:80/tcp", 1, "write 80/tcp"),
        ("listen", "unix:/run/a/x.sock", 1, "put /run/a into dev.keep.write"),
        ("listen", "dns", 1, "53/udp"),
        ("connect", "dns db.example.com:5432/tcp", 5, "host name"),
        ("connect", "dns 10.0.0.1:5432/tpc", 19, "unknown protocol"),
        ("write", "/run /proc/sys", 6, "nothing under /proc"),
        ("write", "/sys", 1, "nothing under /sys"),
        ("caps", "CAP_NET_RAW", 1, "without CAP_; write NET_RAW"),
        ("caps", "cap_net_raw", 1, "without CAP_; write NET_RAW"),
        ("caps", "net_raw", 1, "upper case; write NET_RAW"),
        ("caps", "NET_RAWW", 1, "did you mean \"NET_RAW\"?"),
        ("caps", "ALL", 1, "name each"),
        ("needs", "everything", 1, "there are newer-calls, rare-calls, xattr"),
        ("needs.x", "JIT", 1, "did you mean \"jit\"?"),
    ] {
        let error = failure(key, value);
        assert_eq!((error.key, error.column), (format!("dev.keep.{key}"), column), "{value}");
        assert!(error.problem.contains(part), "{value}: {}", error.problem);
    }
}

#[test]
fn a_label_over_4_kib_and_all_over_32_kib_are_refused() {
    let fits = "/".to_owned() + &"a".repeat(MAX_LABEL - "dev.keep.exec".len() - 1);
    assert!(parse(&labels(&[("exec", &fits)])).is_ok());
    let error = failure("exec", &(fits.clone() + "a"));
    assert!(error.problem.contains("4097 bytes") && error.value.chars().count() == 80, "{error}");

    let fragments: Vec<String> = (0..9).map(|number| format!("exec.{number}")).collect();
    let value = "/".to_owned() + &"a".repeat(4000);
    let pairs: Vec<(&str, &str)> = fragments.iter().map(|key| (key.as_str(), value.as_str())).collect();
    assert!(parse(&labels(&pairs[..8])).is_ok());
    assert!(parse(&labels(&pairs)).unwrap_err().problem.contains("32768"));
}

#[test]
fn a_sibling_of_proc_can_be_written() {
    assert_eq!(intent(&[("write", "/process /system")]).write.len(), 2);
}

#[test]
fn a_list_that_is_too_long_says_so_and_a_repeated_entry_does_not_count() {
    let ports = |many: usize| (1..=many).map(|port| format!("{}/tcp", 2 * port)).collect::<Vec<_>>();
    let with = |ports: &[String]| {
        let (first, second) = ports.split_at(ports.len() / 2);
        parse(&BTreeMap::from([
            ("dev.keep.intent".to_owned(), "v1".to_owned()),
            ("dev.keep.listen".to_owned(), first.join(" ")),
            ("dev.keep.listen.more".to_owned(), second.join(" ")),
        ]))
    };
    let full = ports(MAX_ENTRIES);
    assert!(with(&[full.clone(), full[..9].to_vec()].concat()).is_ok());
    let error = with(&ports(MAX_ENTRIES + 1)).unwrap_err();
    assert!(error.key == "dev.keep.listen.more" && error.problem.contains("at most 512"), "{error}");
}

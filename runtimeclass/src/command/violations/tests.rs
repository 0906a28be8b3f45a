use super::*;
use crate::spool::tests::record;

fn entry(record: Record) -> Item {
    let line = serde_json::to_string(&record).unwrap();
    Item::Entry(Box::new(Entry { time: record.time.parse().unwrap(), record, line }))
}

fn shown(args: &[&str], record: Record) -> String {
    let args = parse(args).unwrap();
    let mut out = Vec::new();
    show(&mut out, &args, false, entry(record)).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn a_record_is_a_line_with_time_place_and_sentence() {
    let line = shown(&[], Record { count: 3, ..record(1, "/bin/sh") });
    assert!(line.starts_with("2026-11-21T08:00:01Z  shop/web/web  "), "{line}");
    assert!(line.contains("/bin/sh") && line.ends_with(" (3 times)\n"), "{line}");
}

#[test]
fn what_a_container_writes_into_a_name_cannot_steer_the_terminal() {
    let line = shown(&[], record(1, "/tmp/\u{1b}]0;owned\u{7}\nfake line"));
    assert!(!line.contains('\u{1b}') && !line.contains('\u{7}') && line.matches('\n').count() == 1);
}

#[test]
fn json_is_the_record_as_it_was_written() {
    let record = record(1, "/bin/sh");
    assert_eq!(shown(&["--format", "json"], record.clone()), serde_json::to_string(&record).unwrap() + "\n");
}

#[test]
fn filters_let_only_what_was_asked_for() {
    let lets = |args: &[&str]| !shown(args, record(1, "/bin/sh")).is_empty();
    assert!(lets(&["--pod", "shop/web"]) && !lets(&["--pod", "shop/db"]));
    assert!(lets(&["--container", "web"]) && lets(&["--container", "01234567"]));
    assert!(!lets(&["--container", "0123"]) && !lets(&["--container", "db"]));
    assert!(lets(&["--since", "2026-11-21T08:00:01Z"]) && !lets(&["--since", "2026-11-21T08:00:02Z"]));
    for wrong in [["--pod", "web"], ["--since", "soon"], ["--since", ""]] {
        assert_eq!(parse(&wrong).unwrap_err().exit_code(), 2);
    }
}

#[test]
fn how_long_ago_is_a_time_in_the_past() {
    let ago = Timestamp::now().duration_since(since("10m").unwrap()).as_secs();
    assert!((595..=600).contains(&ago), "{ago}");
}

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

use profiles::Record;
use profiles::plan::Wall;
use profiles::record::{Container, Image, Pod, Process, SCHEMA, Verdict};

use super::tail::Fault;
use super::{Item, Tail, Watch, first_record};

/// A record of pod `shop/web` at `second` past eight.
pub(crate) fn record(second: u8, object: &str) -> Record {
    let text = str::to_owned;
    Record {
        schema: text(SCHEMA),
        time: format!("2026-11-21T08:00:{second:02}.123456Z"),
        node: text("n1"),
        class: text("keep"),
        pod: Some(Pod { namespace: text("shop"), name: text("web"), uid: text("u-1") }),
        container: Container { id: text("0123456789abcdef"), name: text("web"), exec: None },
        image: Image { name: text("shop/web:1"), digest: format!("sha256:{}", "0".repeat(64)) },
        profile: None,
        process: Process { pid: 7, program: text("/usr/sbin/nginx") },
        wall: Wall::Exec,
        operation: text("execve"),
        object: text(object),
        verdict: Verdict::Denied,
        errno: Some(text("EACCES")),
        count: 1,
        allow: None,
        because: Some(text("of a test")),
    }
}

/// Appends lines as a shim does.
pub(crate) fn append(folder: &Path, file: &str, text: &str) {
    std::fs::create_dir_all(folder).unwrap();
    let mut file = OpenOptions::new().append(true).create(true).open(folder.join(file)).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

/// A record as a line.
pub(crate) fn line(record: &Record) -> String {
    serde_json::to_string(record).unwrap() + "\n"
}

fn poll(tail: &mut Tail, limit: usize) -> (Vec<String>, Vec<Fault>) {
    let (mut objects, mut faults) = (Vec::new(), Vec::new());
    tail.poll(limit, &mut |item| {
        match item {
            Item::Entry(entry) => objects.push(entry.record.object),
            Item::Fault(fault) => faults.push(fault),
        }
        Ok(())
    })
    .unwrap();
    (objects, faults)
}

fn objects(tail: &mut Tail) -> Vec<String> {
    let (objects, faults) = poll(tail, 1000);
    assert_eq!(faults, []);
    objects
}

#[test]
fn records_of_several_files_come_in_time_order() {
    let dir = tempfile::tempdir().unwrap();
    for (file, seconds) in
        [("k8s.io.a.jsonl", [1, 4, 5]), ("k8s.io.b.jsonl", [2, 3, 9]), ("k8s.io.a.jsonl.1", [0, 0, 0])]
    {
        for second in seconds {
            append(dir.path(), file, &line(&record(second, &format!("/{second}"))));
        }
    }
    append(dir.path(), "not-a-spool.txt", "junk\n");
    let mut tail = Tail::new(dir.path(), &[]);
    assert_eq!(objects(&mut tail), ["/0", "/0", "/0", "/1", "/2", "/3", "/4", "/5", "/9"]);
    assert!(objects(&mut tail).is_empty());
}

#[test]
fn a_folder_that_does_not_exist_is_an_empty_spool_until_it_does() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("spool");
    let mut tail = Tail::new(&folder, &[]);
    assert!(objects(&mut tail).is_empty());
    append(&folder, "a.jsonl", &line(&record(1, "/1")));
    assert_eq!(objects(&mut tail), ["/1"]);
}

#[test]
fn a_line_is_taken_only_when_complete() {
    let dir = tempfile::tempdir().unwrap();
    let whole = line(&record(1, "/1"));
    let (head, end) = whole.split_at(40);
    append(dir.path(), "a.jsonl", head);
    let mut tail = Tail::new(dir.path(), &[]);
    assert!(objects(&mut tail).is_empty());
    append(dir.path(), "a.jsonl", end);
    assert_eq!(objects(&mut tail), ["/1"]);
}

#[test]
fn a_rotation_loses_and_doubles_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut tail = Tail::new(dir.path(), &[]);
    append(dir.path(), "a.jsonl", &line(&record(1, "/1")));
    assert_eq!(objects(&mut tail), ["/1"]);
    append(dir.path(), "a.jsonl", &line(&record(2, "/2")));
    std::fs::rename(dir.path().join("a.jsonl"), dir.path().join("a.jsonl.1")).unwrap();
    append(dir.path(), "a.jsonl", &line(&record(3, "/3")));
    // One writer still had the old file open.
    append(dir.path(), "a.jsonl.1", &line(&record(4, "/4")));
    assert_eq!(objects(&mut tail), ["/2", "/3", "/4"]);
}

#[test]
fn a_truncated_file_is_read_from_its_beginning() {
    let dir = tempfile::tempdir().unwrap();
    let mut tail = Tail::new(dir.path(), &[]);
    append(dir.path(), "a.jsonl", &(line(&record(1, "/1")) + &line(&record(2, "/2"))));
    assert_eq!(objects(&mut tail).len(), 2);
    std::fs::write(dir.path().join("a.jsonl"), line(&record(3, "/3"))).unwrap();
    assert_eq!(objects(&mut tail), ["/3"]);
}

#[test]
fn what_is_no_record_is_named_by_file_and_line_and_skipped() {
    let dir = tempfile::tempdir().unwrap();
    let mut foreign = record(2, "/foreign");
    foreign.schema = "keep.dev/violation/v9".to_owned();
    let mut timeless = record(2, "/timeless");
    timeless.time = "yesterday".to_owned();
    let text =
        format!("{{\"half\n{}\n{}{}{}", "\u{0}", line(&foreign), line(&timeless), line(&record(3, "/3")));
    append(dir.path(), "a.jsonl", &text);
    append(dir.path(), "b.jsonl", "");
    std::fs::write(dir.path().join("c.jsonl"), b"\xff\xfe\n").unwrap();
    let mut tail = Tail::new(dir.path(), &[]);
    let (objects, mut faults) = poll(&mut tail, 1000);
    assert_eq!(objects, ["/3"]);
    faults.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
    let places: Vec<_> = faults.iter().map(|fault| (fault.file.as_str(), fault.line)).collect();
    assert_eq!(places, [("a.jsonl", 1), ("a.jsonl", 2), ("a.jsonl", 3), ("a.jsonl", 4), ("c.jsonl", 1)]);
}

#[test]
fn an_endless_line_costs_bounded_memory_and_is_skipped_as_one() {
    let dir = tempfile::tempdir().unwrap();
    append(dir.path(), "a.jsonl", &("x".repeat(1 << 20) + "\n" + &line(&record(3, "/3"))));
    let mut tail = Tail::new(dir.path(), &[]);
    let (objects, faults) = poll(&mut tail, 1000);
    assert_eq!(objects, ["/3"]);
    assert_eq!(faults.len(), 1);
    assert_eq!(faults[0].line, 1);
}

#[test]
fn reading_goes_on_at_the_saved_positions() {
    let dir = tempfile::tempdir().unwrap();
    for second in 0..50 {
        append(
            dir.path(),
            ["a.jsonl", "b.jsonl"][usize::from(second % 2)],
            &line(&record(second, &format!("/{second}"))),
        );
    }
    let mut seen = Vec::new();
    let mut positions = Vec::new();
    // Each time a new reader, as after a restart; it has always read ahead of what it handed out.
    loop {
        let mut tail = Tail::new(dir.path(), &positions);
        let (objects, _) = poll(&mut tail, 7);
        if objects.is_empty() {
            break;
        }
        seen.extend(objects);
        positions = tail.positions();
    }
    assert_eq!(seen, (0..50).map(|second| format!("/{second}")).collect::<Vec<_>>());
}

#[test]
fn positions_outlive_a_folder_that_is_away_for_a_while() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("spool");
    append(&folder, "a.jsonl", &line(&record(1, "/1")));
    let mut tail = Tail::new(&folder, &[]);
    assert_eq!(objects(&mut tail).len(), 1);
    let positions = tail.positions();
    let away = dir.path().join("away");
    std::fs::rename(&folder, &away).unwrap();
    let mut tail = Tail::new(&folder, &positions);
    assert!(objects(&mut tail).is_empty());
    assert_eq!(tail.positions(), positions);
}

#[test]
fn a_symlink_in_the_spool_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    append(dir.path(), "elsewhere", &line(&record(1, "/1")));
    std::os::unix::fs::symlink(dir.path().join("elsewhere"), dir.path().join("a.jsonl")).unwrap();
    assert!(objects(&mut Tail::new(dir.path(), &[])).is_empty());
}

#[test]
fn a_watch_wakes_for_a_line_and_says_when_its_folder_is_gone() {
    use std::os::fd::AsFd as _;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("spool");
    append(&folder, "a.jsonl", "");
    let watch = Watch::new(&folder).unwrap();
    let wakes = |millis: u16| {
        let mut fds = [PollFd::new(watch.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::from(millis)).unwrap() == 1
    };
    assert!(!wakes(0));
    append(&folder, "a.jsonl", &line(&record(1, "/1")));
    assert!(wakes(5000) && watch.drain().unwrap());
    assert!(!wakes(0));
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(wakes(5000) && !watch.drain().unwrap());
}

#[test]
fn the_first_record_of_a_file_tells_its_pod() {
    let dir = tempfile::tempdir().unwrap();
    append(dir.path(), "a.jsonl", &line(&record(1, "/1")));
    append(dir.path(), "b.jsonl", "junk\n");
    assert_eq!(first_record(&dir.path().join("a.jsonl")).unwrap().object, "/1");
    assert!(first_record(&dir.path().join("b.jsonl")).is_none());
}

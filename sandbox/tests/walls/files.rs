//! The file wall.

use std::fs;
use std::path::Path;

use profiles::Plan;
use profiles::plan::Wall;
use profiles::policy::Mode;
use profiles::record::Verdict;

use crate::confine::*;
use crate::{Case, needs_landlock};

pub(crate) const CASES: &[Case] = &[
    ("writing_beneath_a_write_path_works_and_elsewhere_is_denied_and_recorded", writing),
    ("every_landlock_abi_lets_write_paths_be_written_and_nothing_else", every_abi),
    ("what_would_fail_anyway_is_not_recorded", not_recorded),
    ("volumes_and_the_floor_are_writable", volumes),
    ("symlink_out_of_a_write_path_is_denied_and_a_relative_path_is_understood", symlinks),
    ("audit_mode_lets_everything_through_and_records_it", audit),
];

/// `script` with `$W` a folder that may be written and `$N` one that may not, which holds the file `old`.
fn files(script: &str, plan: impl Fn(&Path, &Path) -> Plan) -> (Outcome, String) {
    let (writable, other) = folders();
    fs::write(other.path().join("old"), "old").unwrap();
    let (w, n) = (writable.path().canonicalize().unwrap(), other.path().canonicalize().unwrap());
    let script = format!("W={} N={}\n{script}", w.display(), n.display());
    let outcome = shell(&plan(&w, &n), &script);
    let n = n.to_str().unwrap().to_owned();
    (outcome, n)
}

fn plan(writable: &Path, _: &Path) -> Plan {
    write_plan(&[writable])
}

fn writing() {
    needs_landlock(1, "the file wall");
    let script = "echo x >$W/a && mkdir $W/d && mv $W/a $W/d/b && rm $W/d/b && chmod 700 $W/d && rmdir $W/d && echo inside
        (echo x >$N/a) || (echo x >>$N/old) || mkdir $N/d || rm -f $N/old || mv $N/old $N/new || echo outside; cat $N/old";
    let (outcome, n) = files(script, plan);
    assert_eq!(outcome.output, "inside\noutside\nold");
    let records = outcome.records();
    for object in ["a", "old", "d"] {
        assert!(
            records.iter().any(|r| r.ends_with(&format!(" {n}/{object} EACCES"))),
            "{object}: {records:?}"
        );
    }
    let removal =
        |r: &String| (r.starts_with("unlink") || r.starts_with("rename")) && r.contains(&format!("{n}/old"));
    assert_eq!(records.iter().filter(|r| removal(r)).count(), 2, "{records:?}");
    assert!(outcome.observations().all(|o| o.wall == Wall::File && o.verdict == Verdict::Denied));
}

fn every_abi() {
    needs_landlock(1, "the file wall");
    for version in 1..=abi() {
        let plan = |w: &Path, n: &Path| Plan { landlock: Some(landlock(version)), ..plan(w, n) };
        let (outcome, _) =
            files("echo x >$W/a && mkdir $W/d && ! (echo x >$N/a) && ! mkdir $N/d && echo both", plan);
        assert_eq!(outcome.output, "both\n", "ABI {version}: {outcome:?}");
    }
}

fn not_recorded() {
    needs_landlock(1, "the file wall");
    let script = "mkdir -p $N; mkdir $N; echo x >$N/missing/file; rm $N/missing; rmdir $N/missing; chmod 700 $N/missing
        mv $N/missing $N/new; echo x >$N; echo x >/dev/null; echo x >/dev/stderr; echo x >/dev/fd/1; echo x >/proc/self/fd/2
        echo 0 >/proc/self/oom_score_adj; echo x >/proc/self/comm; cat <$N/old >/dev/null; echo done";
    let (outcome, _) = files(script, plan);
    assert!(outcome.output.ends_with("done\n"));
    // The test's standard output is a file, not a pipe: reopening it is denied, and rightly recorded.
    let records = outcome.records();
    assert!(records.iter().all(|record| record.contains("(deleted)")), "{records:?}");
    assert!(records.len() <= 1, "{records:?}");
}

fn volumes() {
    needs_landlock(1, "the file wall");
    let (volume, other) = folders();
    let none = write_plan(&[]);
    let script = |folder: &Path| {
        format!("echo x >{}/a && echo written; echo x >/dev/null && echo floor", folder.display())
    };
    let volumes = [volume.path().to_owned()];
    let run = |folder| run_with(&none, &volumes, None, &["/bin/sh", "-c", &script(folder)]);
    let outcome = run(volume.path());
    assert_eq!((outcome.output.as_str(), outcome.records().len()), ("written\nfloor\n", 0));
    let outcome = run(other.path());
    assert_eq!((outcome.output.as_str(), outcome.records().len()), ("floor\n", 1));
}

fn symlinks() {
    needs_landlock(1, "the file wall");
    let script = "ln -s $N $W/out; cd $W && echo x >./a && echo inside; (echo x >../$(basename $N)/b) || (echo x >./out/c) || echo outside";
    let (outcome, n) = files(script, plan);
    assert_eq!(outcome.output, "inside\noutside\n");
    let records = outcome.records();
    // What by its text alone is beneath a write path is denied too, but not looked at: that keeps observing cheap.
    assert_eq!(records, [format!("openat {n}/b EACCES")]);
}

fn audit() {
    let plan = |w: &Path, n: &Path| Plan { mode: Mode::Audit, landlock: None, ..plan(w, n) };
    let (outcome, n) = files("echo x >$N/a && echo written; echo x >$W/a", plan);
    assert_eq!((outcome.output.as_str(), outcome.records()), ("written\n", vec![format!("openat {n}/a -")]));
    assert_eq!(outcome.verdicts(), [Verdict::Audited]);
}

use proptest::prelude::*;

use super::{Built, DockerfileError, Options, read};
use crate::lint::Command;

fn options() -> Options<'static> {
    Options { os: "linux", arch: "amd64", ..Options::default() }
}

fn built(source: &str) -> Built {
    read(source, &options()).unwrap()
}

fn label<'a>(built: &'a Built, name: &str) -> &'a str {
    &built.subject.labels[&format!("dev.keep.{name}")]
}

fn refused(source: &str) -> DockerfileError {
    read(source, &options()).unwrap_err()
}

/// The text at `length` characters of a label's value from `column` on.
fn part<'a>(source: &'a str, built: &Built, name: &str, column: usize, length: usize) -> &'a str {
    &source[built.sources.labels[&format!("dev.keep.{name}")].part(column, length)]
}

#[test]
fn a_value_over_several_lines_keeps_the_place_of_each_character() {
    let source =
        "FROM a\nLABEL dev.keep.intent=v1 \\\n  # why\n\n  dev.keep.needs=\"jit \\\n     iouring\" other=x\n";
    let built = built(source);
    assert_eq!(label(&built, "needs"), "jit      iouring");
    assert_eq!(part(source, &built, "needs", 10, 7), "iouring");
    assert_eq!(part(source, &built, "needs", 1, 3), "jit");
    assert_eq!(&source[built.sources.labels["dev.keep.intent"].key.clone()], "dev.keep.intent");
    assert_eq!((built.subject.labels.len(), built.sources.labels.len()), (3, 2));
}

#[test]
fn quotes_and_escapes_are_taken_off_and_places_stay() {
    let source = "FROM a\nLABEL dev.keep.a='$x \"q\"' dev.keep.b=\"\\$\\\"\\\\ \\n\" dev.keep.c=x\\ y dev.keep.d=a\"b c\"'d'\n";
    let built = built(source);
    let all = ["a", "b", "c", "d"].map(|name| label(&built, name));
    assert_eq!(all, ["$x \"q\"", "$\"\\ \\n", "x y", "ab cd"]);
    assert_eq!(part(source, &built, "b", 1, 2), "\\$\\\"");
    assert_eq!(part(source, &built, "d", 2, 3), "b c");
}

#[test]
fn the_old_form_takes_the_rest_of_the_line() {
    assert_eq!(label(&built("FROM a\nLABEL dev.keep.exec /a  /b \n"), "exec"), "/a  /b");
    assert_eq!(built("FROM a\nENV A b c\nLABEL dev.keep.x=$A\n").subject.labels["dev.keep.x"], "b c");
}

#[test]
fn variables_are_put_in_as_the_build_does() {
    let source = "ARG TAG=1\nARG BOTH=${TAG}x\nFROM a:$TAG\nARG BOTH\nARG PORT=80\nENV E=${PORT}80 F=$E\n\
                  LABEL dev.keep.a=$BOTH dev.keep.b=${E}/tcp dev.keep.c=[$F] dev.keep.d=${N:-x$PORT} dev.keep.e=${PORT:+y} \
                  dev.keep.f='$PORT' dev.keep.g=\"\\$PORT\" dev.keep.h=${N-}z dev.keep.i=$$ dev.keep.j=$TARGETARCH\n\
                  ARG TARGETARCH\nLABEL dev.keep.k=$TARGETARCH\n";
    let built = built(source);
    let all: Vec<&str> = "abcdefghik".chars().map(|name| label(&built, &name.to_string())).collect();
    assert_eq!(all, ["1x", "8080/tcp", "[]", "x80", "y", "$PORT", "$PORT", "z", "$$", "amd64"]);
    assert_eq!(part(source, &built, "b", 1, 1), "${E}");
    let holes: Vec<&str> = built.holes.values().flatten().map(|hole| hole.name.as_str()).collect();
    assert_eq!(holes, ["F", "TARGETARCH"]);
}

#[test]
fn a_build_argument_overrides_a_default_and_env_overrides_arg() {
    let source =
        "ARG TAG\nFROM scratch\nARG PORT=80\nARG TAG\nENV TAG=env\nLABEL dev.keep.a=$PORT dev.keep.b=$TAG\n";
    let build_args = [("PORT", "90"), ("TAG", "arg")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let built = read(source, &Options { build_args, ..options() }).unwrap();
    assert_eq!((label(&built, "a"), label(&built, "b")), ("90", "env"));
}

#[test]
fn the_last_stage_decides_and_an_earlier_stage_is_inherited() {
    let source = "FROM base AS One\nLABEL dev.keep.a=1 dev.keep.b=1\nENTRYPOINT [\"/one\"]\nEXPOSE 80 90/UDP\nONBUILD LABEL dev.keep.o=1\n\
                  FROM other AS two\nLABEL dev.keep.c=1\nFROM one\nLABEL dev.keep.b=3\nCMD [\"x\"]\n";
    let last = built(source);
    assert_eq!(last.subject.labels.keys().map(|key| &key[9..]).collect::<String>(), "abo");
    assert_eq!((label(&last, "a"), label(&last, "b")), ("1", "3"));
    assert_eq!(last.subject.facts.entrypoint, Some(Command::Exec(vec!["/one".to_owned()])));
    assert_eq!(last.subject.facts.exposed.len(), 2);
    assert_eq!(last.base.as_ref().map(|(name, _)| name.as_str()), Some("base"));
    let two = read(source, &Options { target: Some("TWO"), ..options() }).unwrap();
    assert_eq!((two.subject.labels.len(), two.base.unwrap().0.as_str()), (1, "other"));
    assert_eq!(read(source, &Options { target: Some("0"), ..options() }).unwrap().subject.labels.len(), 2);
    let missing = read(source, &Options { target: Some("three"), ..options() }).unwrap_err().problem;
    assert_eq!(missing, "it has no stage \"three\"; there are 3, one, two");
    assert_eq!(built("FROM scratch\nLABEL dev.keep.a=1").base, None);
}

#[test]
fn commands_are_lists_lines_or_taken_away() {
    let entrypoint = |source: &str| built(source).subject.facts.command().cloned();
    let line =
        |shell: &str, line: &str| Some(Command::Shell { shell: shell.to_owned(), line: line.to_owned() });
    assert_eq!(entrypoint("FROM a\nENTRYPOINT nginx -g x"), line("/bin/sh", "nginx -g x"));
    assert_eq!(entrypoint("FROM a\nSHELL [\"/bin/bash\", \"-c\"]\nCMD x"), line("/bin/bash", "x"));
    assert_eq!(entrypoint("FROM a\nENTRYPOINT ['x']"), line("/bin/sh", "['x']"));
    assert_eq!(
        entrypoint("FROM a AS b\nENTRYPOINT [\"/b\"]\nFROM b\nENTRYPOINT  [ ]\nCMD [\"/c\"]")
            .unwrap()
            .program(),
        "/c"
    );
    assert_eq!(entrypoint("FROM a AS b\nCMD [\"/b\"]\nFROM b\nENTRYPOINT []\n"), None);
}

#[test]
fn an_escape_directive_a_heredoc_and_copies_are_read() {
    let source = "# syntax=docker/dockerfile:1\n# escape=`\nFROM a\nWORKDIR /srv\nCOPY --chmod=4755 <<EOF run.sh\n#!/bin/sh\nLABEL dev.keep.x=no\nEOF\n\
                  COPY --from=b /x /y/\nLABEL dev.keep.a=\"x `\n  y\"\n";
    let built = built(source);
    assert_eq!(label(&built, "a"), "x   y");
    assert_eq!(built.subject.labels.len(), 1);
    assert_eq!((built.copies[0].destination.as_str(), built.copies[0].mode), ("/srv/run.sh", Some(0o4755)));
    assert!(built.copies[0].text.as_ref().unwrap().starts_with("#!/bin/sh\n"));
    assert!(built.copies[0].from_context && !built.copies[1].from_context);
}

#[test]
fn what_buildkit_refuses_is_refused_with_its_place() {
    let at = |source: &str| {
        let error = refused(source);
        (source[error.span].to_owned(), error.problem)
    };
    assert_eq!(at("FROM a\n  FOO x\n"), ("FOO".to_owned(), "unknown instruction 'FOO'".to_owned()));
    assert_eq!(at("FROM a\nentryponit x").1, "unknown instruction 'entryponit'; did you mean ENTRYPOINT?");
    assert_eq!(at("FROM a\nLABEL x=\"y\n").0, "\"");
    assert_eq!(at("FROM a\nLABEL a=b c\n").0, "c");
    assert_eq!(at("FROM a\nLABEL =b\n").0, "=b");
    assert_eq!(at("FROM a\nLABEL a=${b\n").0, "${");
    assert_eq!(at("FROM a\nLABEL a=${b:?no}\n").0, "${b:?no}");
    assert_eq!(refused("").problem, "expected at least one FROM instruction");
    assert!(refused(&"#\n".repeat(600_000)).problem.contains("at most"));
}

#[test]
fn variables_that_double_and_substitutions_that_nest_end_early() {
    let mut source = "FROM a\nENV a=xxxxxxxxxxxxxxxx\n".to_owned();
    source.push_str(&"ENV a=$a$a\n".repeat(60_000));
    assert!(refused(&source).problem.contains("longer than"));
    let mut source = format!("FROM a\nENV a={}\n", "x".repeat(60_000));
    source.push_str(&(0..30_000).map(|i| format!("ENV b{i}=$a\n")).collect::<String>());
    assert!(refused(&source).problem.contains("characters"));
    let nested = format!("FROM a\nLABEL a={}x{}\n", "${a:-".repeat(100_000), "}".repeat(100_000));
    assert!(refused(&nested).problem.contains("too deep"));
    let stages: String = (1..30_000).map(|i| format!("FROM s{} AS s{i}\n", i - 1)).collect();
    assert_eq!(built(&stages).base.unwrap().0, "s0");
}

proptest! {
    #[test]
    fn any_bytes_give_an_answer_and_places_within_the_text(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        check(&String::from_utf8_lossy(&bytes))?;
    }

    #[test]
    fn any_arrangement_of_what_dockerfiles_are_made_of_gives_an_answer(
        parts in proptest::collection::vec(proptest::sample::select(PARTS.to_vec()), 0..60),
    ) {
        check(&format!("FROM a\n{}", parts.concat()))?;
        check(&parts.concat())?;
    }
}

const PARTS: [&str; 46] = [
    "FROM ",
    "a",
    " AS ",
    "b",
    "\n",
    "\n",
    "\n",
    "LABEL ",
    "dev.keep.exec",
    "dev.keep.intent",
    "=",
    "=",
    "\"",
    "'",
    "\\",
    "\\\n",
    " ",
    " ",
    "$",
    "${",
    "}",
    "A",
    ":-",
    ":+",
    "#",
    "# escape=`\n",
    "`\n",
    "ENV ",
    "ARG ",
    "ENTRYPOINT ",
    "CMD ",
    "[",
    "]",
    "[]",
    "\"x\"",
    ",",
    "ONBUILD ",
    "COPY <<E /x\n",
    "E\n",
    "EXPOSE ",
    "80/tcp",
    "SHELL ",
    "WORKDIR ",
    "é",
    "\r\n",
    "\u{feff}",
];

fn check(source: &str) -> Result<(), TestCaseError> {
    let text = source.strip_prefix('\u{feff}').unwrap_or(source);
    let spans = match read(source, &options()) {
        Err(error) => vec![error.span],
        Ok(built) => {
            let policy = crate::Policy::builtin("keep").unwrap();
            let _findings = crate::lint::lint_dockerfile(&built, &policy);
            let labels = built.sources.labels.values();
            let spans = labels.flat_map(|label| label.value.iter().chain([&label.key]).cloned());
            spans.chain(built.sources.entrypoint).chain(built.base.map(|(_, span)| span)).collect()
        }
    };
    for span in spans {
        prop_assert!(text.get(span.clone()).is_some(), "{span:?} of {text:?}");
    }
    Ok(())
}

/// A mebibyte of the worst that was thought of. The bound is for a debug build on a busy machine: a release build
/// takes a twentieth of it.
#[test]
fn a_large_dockerfile_takes_no_long_time_whatever_is_in_it() {
    let numbered = |count: usize, line: &dyn Fn(usize) -> String| (0..count).map(line).collect::<String>();
    let path = "/a:".repeat(20_000);
    let script = numbered(60_000, &|i| format!("a{i}\n"));
    let cases = [
        "LABEL a=b\n".repeat(100_000),
        format!("LABEL {}", numbered(40_000, &|i| format!("dev.keep.x{i}=$A "))),
        format!("LABEL dev.keep.exec='{}'", "/a ".repeat(300_000)),
        format!("LABEL a={}", "${a}".repeat(250_000)),
        "WORKDIR a\n".repeat(100_000),
        "COPY a /b\n".repeat(100_000),
        format!(
            "EXPOSE {}\nLABEL dev.keep.intent=v1",
            numbered(150_000, &|i| format!("{} ", i % 60_000 + 1))
        ),
        format!(
            "ENV PATH={path}\nCOPY <<E /run\n#!/bin/sh\n{script}\nE\nCMD [\"/run\"]\nLABEL dev.keep.intent=v1"
        ),
    ];
    for case in cases {
        let source = format!("FROM a\n{case}\n");
        let begun = std::time::Instant::now();
        check(&source).unwrap();
        let took = begun.elapsed();
        println!("{} bytes in {took:?}: {} …", source.len(), &source[7..40].escape_debug());
        assert!(took.as_secs() < 5, "{} …: {took:?}", &source[..40]);
    }
}

#[test]
fn a_stray_mark_of_the_byte_order_leaves_places_whole() {
    check("FROM a\nFROM dev.keep.exec\\\n\u{feff}").unwrap();
}

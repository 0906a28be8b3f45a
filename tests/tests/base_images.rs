//! Images built in two stages: what a child inherits of its base's labels, overrides and clears, seen in the walls of
//! both, and the same in `keep explain`.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::command::Output;
use tests::image::{Image, Layer};
use tests::node::{Node, Options, Runtime};
use tests::shared::Shared;
use tests::{cookbook, dockerfile, images, under_test};

/// What one image of a case is allowed, and what is refused to it.
struct Walls {
    /// Its program, which makes the moves.
    program: &'static str,
    allowed: &'static [&'static str],
    refused: &'static [&'static str],
}

struct Case {
    words: &'static str,
    /// Lines of the base's Dockerfile, after a `FROM` of the probe's image without labels.
    base: &'static str,
    /// Lines of the child's, after its `FROM` of the base.
    child: &'static str,
    of_base: Walls,
    of_child: Walls,
}

const PROBE: &str = "/bin/keep-probe";

const CASES: &[Case] = &[
    Case {
        words: "a child's label is united with its base's fragment",
        base: r#"LABEL dev.keep.intent="v1" dev.keep.listen.metrics="9090/tcp""#,
        child: r#"LABEL dev.keep.listen="8080/tcp""#,
        of_base: Walls { program: PROBE, allowed: &["bind:9090"], refused: &["bind:8080"] },
        of_child: Walls { program: PROBE, allowed: &["bind:8080", "bind:9090"], refused: &["bind:9999"] },
    },
    Case {
        words: "two fragments of one key are united",
        base: r#"LABEL dev.keep.intent="v1" dev.keep.write.cache="/data""#,
        child: r#"LABEL dev.keep.write.state="/opt/state""#,
        of_base: Walls { program: PROBE, allowed: &["write:/data/x"], refused: &["write:/opt/state/x"] },
        of_child: Walls {
            program: PROBE,
            allowed: &["write:/data/x", "write:/opt/state/x"],
            refused: &["write:/tmp/x"],
        },
    },
    Case {
        words: "a child clears its base's fragment by setting it to nothing",
        base: r#"LABEL dev.keep.intent="v1" dev.keep.listen="8080/tcp" dev.keep.listen.metrics="9090/tcp""#,
        child: r#"LABEL dev.keep.listen.metrics="""#,
        of_base: Walls { program: PROBE, allowed: &["bind:8080", "bind:9090"], refused: &["bind:9999"] },
        of_child: Walls { program: PROBE, allowed: &["bind:8080"], refused: &["bind:9090"] },
    },
    Case {
        words: "a child's key takes the place of its base's, and leaves the fragments",
        base: r#"LABEL dev.keep.intent="v1" dev.keep.write="/data" dev.keep.listen.metrics="9090/tcp""#,
        child: r#"LABEL dev.keep.write="/opt/state" dev.keep.listen="""#,
        of_base: Walls {
            program: PROBE,
            allowed: &["write:/data/x", "bind:9090"],
            refused: &["write:/opt/state/x"],
        },
        of_child: Walls {
            program: PROBE,
            allowed: &["write:/opt/state/x", "bind:9090"],
            refused: &["write:/data/x"],
        },
    },
    Case {
        words: "labels of a base without an intent count as soon as its child declares one",
        base: r#"LABEL dev.keep.listen="8080/tcp""#,
        child: r#"LABEL dev.keep.intent="v1""#,
        of_base: Walls {
            program: PROBE,
            allowed: &["bind:8080", "bind:9999", "exec:/bin/other"],
            refused: &[],
        },
        of_child: Walls {
            program: PROBE,
            allowed: &["bind:8080"],
            refused: &["bind:9999", "exec:/bin/other"],
        },
    },
    Case {
        words: "a child takes away its base's programs, and keeps the entrypoint",
        base: r#"LABEL dev.keep.intent="v1" dev.keep.exec="/bin/other""#,
        child: r#"LABEL dev.keep.exec="""#,
        of_base: Walls {
            program: PROBE,
            allowed: &["exec:/bin/other", "exec:/bin/keep-probe"],
            refused: &["bind:9999"],
        },
        of_child: Walls { program: PROBE, allowed: &["exec:/bin/keep-probe"], refused: &["exec:/bin/other"] },
    },
    Case {
        words: "a child with another entrypoint no longer runs its base's",
        base: r#"LABEL dev.keep.intent="v1""#,
        child: r#"ENTRYPOINT ["/bin/other"]"#,
        of_base: Walls { program: PROBE, allowed: &["exec:/bin/keep-probe"], refused: &["exec:/bin/other"] },
        of_child: Walls {
            program: "/bin/other",
            allowed: &["exec:/bin/other"],
            refused: &["exec:/bin/keep-probe"],
        },
    },
    Case {
        words: "a child declares a program that its own layer brings",
        base: r#"LABEL dev.keep.intent="v1" dev.keep.exec.base="/bin/other""#,
        child: "COPY keep-probe /opt/tool/run\nLABEL dev.keep.exec.tool=\"/opt/tool/run\"",
        of_base: Walls { program: PROBE, allowed: &["exec:/bin/other"], refused: &["bind:8080"] },
        of_child: Walls {
            program: PROBE,
            allowed: &["exec:/bin/other", "exec:/opt/tool/run"],
            refused: &["bind:8080"],
        },
    },
];

type Test = fn(&Node) -> Result<()>;

const OTHERS: [(&str, Test); 2] = [
    ("the base and the child of the cookbook do as it says", of_the_cookbook),
    ("a child cannot take back its base's intent", taken_back),
];

fn main() -> ExitCode {
    let start = |containerd| Node::start(Options::new(containerd));
    Shared::conclude(start, |containerd, node| {
        let node = node.with_shim();
        let cases = CASES.iter().enumerate().map(|(number, case)| {
            let name = format!("{containerd}: {}", case.words);
            node.trial(name, move |node| both(node, number, case))
        });
        let others = OTHERS.iter();
        let others =
            others.map(|(name, test)| node.trial(format!("{containerd}: {name}"), move |node| test(node)));
        cases.chain(others).collect()
    })
}

/// The two Dockerfiles of the cookbook's section on base images.
fn of_the_cookbook(node: &Node) -> Result<()> {
    let texts = cookbook::dockerfiles("Base images")?;
    let [base, child] = texts.as_slice() else { anyhow::bail!("a base and a child are wanted: {texts:?}") };
    let there = Layer::new().folder("var/cache/app", 0o777, 0);
    let base = dockerfile::build(base, images::probe()?.layer(there), &under_test::folder()?)?;
    let child = dockerfile::build(child, base.clone(), &under_test::folder()?)?;
    let of_base =
        Walls { program: PROBE, allowed: &["bind:9090", "write:/var/cache/app/x"], refused: &["bind:8080"] };
    behind(node, &base, "cookbook-base", &of_base).context("the base image")?;
    let of_child =
        Walls { program: PROBE, allowed: &["bind:8080", "bind:9090"], refused: &["write:/var/cache/app/x"] };
    behind(node, &child, "cookbook-child", &of_child).context("the child image")
}

fn base(lines: &str) -> Result<Image> {
    dockerfile::build(&format!("FROM probe\n{lines}\n"), images::probe()?, &under_test::folder()?)
}

fn child(lines: &str, base: Image) -> Result<Image> {
    dockerfile::build(&format!("FROM base\n{lines}\n"), base, &under_test::folder()?)
}

fn both(node: &Node, number: usize, case: &Case) -> Result<()> {
    let base = base(case.base)?;
    let child = child(case.child, base.clone())?;
    behind(node, &base, &format!("base-{number}"), &case.of_base).context("the base image")?;
    behind(node, &child, &format!("child-{number}"), &case.of_child).context("the child image")
}

fn start(node: &Node, id: &str, words: &[&str]) -> Result<Output> {
    let output = node.start_container(Runtime::Keep, &["--rm", "--net-host"], REFERENCE, id, words)?;
    // A start that failed may leave containerd's own record of the container.
    node.ctr(&["containers", "rm", id])?;
    let left = node.wait_until_gone(id, Duration::from_secs(10));
    ensure!(left.is_empty(), "left behind by {id}: {left:#?}");
    Ok(output)
}

const REFERENCE: &str = "keep.test/stage:1";

/// Every move comes out as `walls` says, and what was recorded names the profile that `keep explain` gives.
fn behind(node: &Node, image: &Image, id: &str, walls: &Walls) -> Result<()> {
    let archive = node.import(image, REFERENCE)?;
    let explained = under_test::explained_digest(&archive, "keep")?;
    let mut words = vec![walls.program, "many"];
    words.extend(walls.allowed.iter().chain(walls.refused));
    let said = start(node, id, &words)?.success()?;
    let outcome = |what: &str| {
        let line = said.stdout.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(": "));
        line.with_context(|| format!("nothing came of {what}: {said}"))
    };
    for what in walls.allowed {
        ensure!(outcome(what)? == "ok", "{what}: {}", outcome(what)?);
    }
    for what in walls.refused {
        let refused = ["denied EACCES", "denied EPERM", "denied EROFS"].contains(&outcome(what)?);
        ensure!(refused, "{what}: {}", outcome(what)?);
    }
    let record = node.record(id, "any record", |_| true)?;
    ensure!(record["profile"] == explained.as_str(), "explained {explained}, recorded {}", record["profile"]);
    // What the shim says of the labels themselves is no move.
    let moves = |record: &Value| record["verdict"] == "denied" && record["wall"] != "policy";
    let denied: Vec<Value> = node.records(id)?.into_iter().filter(moves).collect();
    ensure!(denied.len() == walls.refused.len(), "{} were refused: {denied:?}", walls.refused.len());
    Ok(())
}

/// An empty `dev.keep.intent` is wrong, not absent: or a child would be out of its base's walls without saying so.
fn taken_back(node: &Node) -> Result<()> {
    let child = child(r#"LABEL dev.keep.intent="""#, base(r#"LABEL dev.keep.intent="v1""#)?)?;
    let archive = node.import(&child, REFERENCE)?;
    let explained = under_test::keep(&["explain", &archive.to_string_lossy()])?;
    let started = start(node, "taken-back", &[PROBE, "ok"])?;
    for output in [explained, started] {
        ensure!(output.code() != 0, "it was accepted: {output}");
        ensure!(output.stderr.contains("dev.keep.intent"), "the message does not name the label: {output}");
    }
    Ok(())
}

//! What policies take away, leave and give: ceilings, hard denials, defaults, exceptions.

use anyhow::{Context as _, Result, ensure};

use crate::case::Case;
use crate::{Test, declaring, generous, image};

pub(crate) const TESTS: &[(&str, &str, Test)] = &[
    ("ceiling", "what a ceiling takes away is refused, recorded, and no label is proposed for it", ceiling),
    ("deny", "what is denied is refused whatever the image declares and an exception lifts", deny),
    ("default", "a policy for images by name gives a default to one that declares nothing", default),
    ("exception", "an exception for the image's digest lifts the ceiling, until it ends", exception),
    ("write-link", "a declared write path that leads out of the ceiling stops the container", write_link),
    ("program-link", "a declared program that leads out of the ceiling does not run", program_link),
    ("interpreter", "the interpreter of a declared script stays within the ceiling", interpreter),
];

const MOVES: [&str; 9] = [
    "bind:8080",
    "bind:9995",
    "connect:127.0.0.1:9000",
    "exec:/bin/other",
    "exec:/srv/third",
    "write:/data/file",
    "write:/opt/state/file",
    "syscall:msgget",
    "syscall:wx",
];

fn ceiling(case: &Case<'_>) -> Result<()> {
    let image = case.image(&generous()?)?;
    case.tries(&image, &MOVES)?.1.allowed(&MOVES)?;
    case.handler.policy(
        "narrow",
        "selector: { images: ['keep.test/*:1'] }\n\
         ceiling: { exec: [/bin/keep-probe, /srv], listen: [8080/tcp], connect: [], write: [/data], needs: [jit] }",
    )?;
    let (ended, outcomes) = case.tries(&image, &MOVES)?;
    outcomes.allowed(&["bind:8080", "exec:/srv/third", "write:/data/file", "syscall:wx"])?;
    outcomes.refused(&[
        "bind:9995",
        "connect:127.0.0.1:9000",
        "exec:/bin/other",
        "write:/opt/state/file",
        "syscall:msgget",
    ])?;
    for taken in
        ["exec=/bin/other", "listen=9990-9999/tcp", "connect=9000/tcp", "write=/opt/state", "needs=ipc"]
    {
        ended.recorded("clamped", &format!("dev.keep.{taken}"), "policy narrow")?;
    }
    for (operation, object) in [
        ("execve", "/bin/other"),
        ("bind", "9995/tcp"),
        ("connect", "9000/tcp"),
        ("openat", "/opt/state/file"),
        ("msgget", "msgget"),
    ] {
        let record = ended.recorded(operation, object, "policy narrow")?;
        ensure!(record["allow"].is_null() && record["verdict"] == "denied", "{record}");
    }
    Ok(())
}

fn deny(case: &Case<'_>) -> Result<()> {
    let image = case.image(&generous()?)?;
    case.handler.policy(
        "never",
        "deny: { exec: [/bin/other], listen: [9995/tcp], connect: [127.0.0.0/8:9000/tcp], write: [/opt], needs: [ipc] }",
    )?;
    let digest = digest(case, &image)?;
    let grants = "{ exec: [/bin/other], write: [/opt/state], needs: [ipc] }";
    case.handler.policy(
        "shop",
        &format!(
            "selector: {{ images: ['*'] }}\nceiling: {{ exec: [/bin, /srv], write: [/data], needs: [jit] }}\nexceptions:\n\
             - {{ image: '{digest}', expires: '2099-01-01T00:00:00Z', reason: none, grants: {grants} }}"
        ),
    )?;
    let moves = ["bind:9994", "bind:9996"];
    let (ended, outcomes) = case.tries(&image, &[&MOVES[..], &moves].concat())?;
    outcomes.allowed(&[
        "bind:8080",
        "bind:9994",
        "bind:9996",
        "exec:/srv/third",
        "write:/data/file",
        "syscall:wx",
    ])?;
    outcomes.refused(&["bind:9995", "exec:/bin/other", "write:/opt/state/file", "syscall:msgget"])?;
    ended.recorded("clamped", "dev.keep.write=/opt/state", "a hard deny of policy never")?;
    for (operation, object) in [("execve", "/bin/other"), ("bind", "9995/tcp"), ("msgget", "msgget")] {
        ended.recorded(operation, object, "policy never")?;
    }
    Ok(())
}

fn default(case: &Case<'_>) -> Result<()> {
    let image = case.image(&image()?)?;
    let moves = ["bind:8080", "bind:9999", "exec:/bin/other", "write:/data/file", "write:/opt/state/file"];
    case.handler.policy("other", "selector: { images: ['docker.io/*'] }\ndefault: { listen: [9999/tcp] }")?;
    case.tries(&image, &moves)?.1.allowed(&moves)?;
    let spec =
        "selector: { images: ['keep.test/policy-*'] }\ndefault: { listen: [8080/tcp], write: [/data] }";
    case.handler.policy("walls", spec)?;
    let (ended, outcomes) = case.tries(&image, &moves)?;
    outcomes.allowed(&["bind:8080", "write:/data/file"])?;
    outcomes.refused(&["bind:9999", "exec:/bin/other", "write:/opt/state/file"])?;
    let undeclared = ended.of_wall("policy")?;
    ensure!(undeclared.iter().any(|record| record["operation"] == "undeclared"), "{undeclared:?}");
    Ok(())
}

fn exception(case: &Case<'_>) -> Result<()> {
    let image = case.image(&generous()?)?;
    let digest = digest(case, &image)?;
    let other = format!("sha256:{}", "0".repeat(64));
    for (digest, expires, lifted) in [
        (&digest, "2099-01-01T00:00:00Z", true),
        (&digest, "2020-01-01T00:00:00Z", false),
        (&other, "2099-01-01T00:00:00Z", false),
    ] {
        case.handler.policy(
            "shop",
            &format!(
                "selector: {{ images: ['*'] }}\nceiling: {{ needs: [] }}\nexceptions:\n\
                 - {{ image: '{digest}', expires: '{expires}', reason: migration, grants: {{ needs: [ipc] }} }}"
            ),
        )?;
        let (ended, outcomes) = case.tries(&image, &["syscall:msgget", "syscall:wx"])?;
        outcomes.refused(&["syscall:wx"])?;
        if lifted {
            outcomes.allowed(&["syscall:msgget"])?;
        } else {
            outcomes.refused(&["syscall:msgget"])?;
            ended.recorded("msgget", "msgget", "policy shop")?;
        }
    }
    Ok(())
}

fn write_link(case: &Case<'_>) -> Result<()> {
    let image = case.image(&declaring(&[("write", "/data/link")])?)?;
    let moves = ["write:/data/link/file", "write:/opt/state/file"];
    case.tries(&image, &moves)?.1.allowed(&moves)?;
    case.handler.policy("data", "ceiling: { write: [/data] }")?;
    let parts = ["write path /data/link leads to /opt/state", "its policy does not leave"];
    case.refuses(&image, &["/bin/keep-probe", "ok"], &parts)?;
    let image = case.image(&declaring(&[("write", "/data")])?)?;
    let (_, outcomes) = case.tries(&image, &["write:/data/link/file", "write:/data/file"])?;
    outcomes.refused(&["write:/data/link/file"])?;
    outcomes.allowed(&["write:/data/file"])
}

fn program_link(case: &Case<'_>) -> Result<()> {
    let image = case.image(&declaring(&[("exec", "/srv/link /srv/third")])?)?;
    let moves = ["exec:/srv/link", "exec:/srv/third"];
    case.tries(&image, &moves)?.1.allowed(&moves)?;
    case.handler.policy("srv", "ceiling: { exec: [/srv, /bin/keep-probe] }")?;
    let (_, outcomes) = case.tries(&image, &[&moves[..], &["exec:/bin/other"]].concat())?;
    outcomes.refused(&["exec:/srv/link", "exec:/bin/other"])?;
    outcomes.allowed(&["exec:/srv/third"])
}

fn interpreter(case: &Case<'_>) -> Result<()> {
    let image = case.image(&declaring(&[("exec", "/srv/script /srv/third")])?)?;
    let moves = ["exec:/srv/script", "exec:/srv/third"];
    case.tries(&image, &moves)?.1.allowed(&moves)?;
    case.handler.policy("srv", "ceiling: { exec: [/srv, /bin/keep-probe] }")?;
    let (_, outcomes) = case.tries(&image, &[&moves[..], &["exec:/bin/other"]].concat())?;
    outcomes.refused(&["exec:/srv/script", "exec:/bin/other"])?;
    outcomes.allowed(&["exec:/srv/third"])
}

/// The digest of an image's manifest or index, as containerd has it.
fn digest(case: &Case<'_>, image: &str) -> Result<String> {
    let list = case.node.ctr(&["images", "ls"])?.success()?;
    let line = list.stdout.lines().find(|line| line.starts_with(&format!("{image} ")));
    let word = line.and_then(|line| line.split_whitespace().find(|word| word.starts_with("sha256:")));
    word.map(str::to_owned).with_context(|| format!("no digest of {image} in {}", list.stdout))
}

//! What policies decide beside grants: labels that are not understood or ask too much, the pod's command, what is
//! observed, audit, classes.

use anyhow::{Result, ensure};

use crate::case::Case;
use crate::{Test, declaring, generous, image};

pub(crate) const TESTS: &[(&str, &str, Test)] = &[
    ("on-invalid", "labels that are not understood stop an image, or give it the default", on_invalid),
    ("on-exceed", "an image that declares too much does not start where onExceed is Reject", on_exceed),
    (
        "command",
        "a command of the pod runs if it was declared or the policy allows it, within its ceilings",
        command,
    ),
    ("report", "report: calls records no file, and the walls stand all the same", report),
    ("audit", "mode: audit stops nothing and records what would be", audit),
    ("unknown", "an unknown class starts nothing, and the message lists the known ones", unknown),
    ("custom", "a class that a policy defines", custom),
];

fn on_invalid(case: &Case<'_>) -> Result<()> {
    let image = case.image(&declaring(&[("needs", "iouring"), ("write", "/opt/state")])?)?;
    let told = ["dev.keep.needs", "unknown need \"iouring\"", "io-uring"];
    case.refuses(&image, &[], &told)?;
    case.handler.policy("strict", "onInvalid: Reject\ndefault: { write: [/data] }")?;
    case.refuses(&image, &[], &told)?;
    case.handler.policy("strict", "onInvalid: UseDefault\ndefault: { write: [/data] }")?;
    let (ended, outcomes) = case.tries(&image, &["write:/data/file", "write:/opt/state/file"])?;
    outcomes.allowed(&["write:/data/file"])?;
    outcomes.refused(&["write:/opt/state/file"])?;
    ended.recorded("labels", "unknown need \"iouring\"", "the policy's default")?;
    Ok(())
}

fn on_exceed(case: &Case<'_>) -> Result<()> {
    let image = case.image(&generous()?)?;
    case.handler.policy("narrow", "onExceed: Reject\nceiling: { needs: [jit] }")?;
    let parts = ["policy narrow does not leave \"ipc\"", "dev.keep.needs", "onExceed is Reject"];
    let ended = case.refuses(&image, &[], &parts)?;
    ended.recorded("start", &image, "policy narrow")?;
    case.handler.policy("narrow", "onExceed: Reject\nceiling: { needs: [jit, ipc] }")?;
    case.tries(&image, &["syscall:msgget"])?.1.allowed(&["syscall:msgget"])
}

fn command(case: &Case<'_>) -> Result<()> {
    let image = case.image(&declaring(&[("write", "/data")])?)?;
    let words = ["/bin/other", "many", "write:/data/file", "exec:/srv/third", "exec:/bin/keep-probe"];
    let told = ["does not declare the program /bin/other", "dev.keep.exec=\\\"/bin/other\\\""];
    case.refuses(&image, &words, &told[..1])?;
    case.handler.policy("debug", "command: allow")?;
    let output = case.run(&image, &words)?.output.success()?;
    let expected = "write:/data/file: ok\nexec:/srv/third: denied EACCES\nexec:/bin/keep-probe: ok";
    ensure!(output.text() == expected, "{output}");
    case.handler.policy("debug", "command: allow\nceiling: { exec: [/bin/keep-probe] }")?;
    case.refuses(&image, &words, &told[..1])?;
    case.handler.policy("debug", "command: declared")?;
    case.refuses(&image, &words, &told[..1])?;
    Ok(())
}

fn report(case: &Case<'_>) -> Result<()> {
    let image = case.image(&declaring(&[("write", "/data")])?)?;
    let moves = ["write:/opt/state/file", "exec:/bin/other", "syscall:msgget", "write:/data/file"];
    for (level, files) in [("full", true), ("calls", false)] {
        case.handler.policy("observe", &format!("report: {level}"))?;
        let (ended, outcomes) = case.tries(&image, &moves)?;
        outcomes.allowed(&["write:/data/file"])?;
        outcomes.refused(&moves[..3])?;
        ended.recorded("execve", "/bin/other", "")?;
        ended.recorded("msgget", "msgget", "")?;
        let recorded = ended.of_wall("file")?;
        ensure!(recorded.is_empty() != files, "report: {level}, and recorded are {recorded:?}");
    }
    Ok(())
}

fn audit(case: &Case<'_>) -> Result<()> {
    let image = case.image(&declaring(&[("write", "/data")])?)?;
    let moves = ["bind:9999", "exec:/bin/other", "write:/opt/state/file", "syscall:msgget"];
    case.tries(&image, &moves)?.1.refused(&moves)?;
    case.handler.policy("trial", "mode: audit")?;
    let (ended, outcomes) = case.tries(&image, &moves)?;
    outcomes.allowed(&moves)?;
    for (operation, object) in
        [("bind", "9999/tcp"), ("execve", "/bin/other"), ("openat", "/opt/state/file"), ("msgget", "msgget")]
    {
        let record = ended.recorded(operation, object, "")?;
        ensure!(record["verdict"] == "audited" && record["allow"].is_object(), "{record}");
    }
    Ok(())
}

fn unknown(case: &Case<'_>) -> Result<()> {
    let image = case.image(&declaring(&[])?)?;
    case.handler.class("builder")?;
    case.handler.policy("builders", "selector: { classes: [builders] }")?;
    let told = ["unknown class \"builder\"", "builders, keep, keep-permissive, keep-strict"];
    case.refuses(&image, &[], &told)?;
    Ok(())
}

fn custom(case: &Case<'_>) -> Result<()> {
    let spec = "selector: { classes: [builders] }\nundeclared: refuse\nceiling: { needs: [ipc], listen: [] }";
    case.handler.policy("builders", spec)?;
    case.handler.class("builders")?;
    let nothing = case.image(&image()?)?;
    case.refuses(&nothing, &[], &["class \"builders\" runs only images that declare what they need"])?;
    let declared = case.image(&generous()?)?;
    let (ended, outcomes) =
        case.tries(&declared, &["syscall:msgget", "syscall:wx", "bind:8080", "write:/data/file"])?;
    outcomes.allowed(&["syscall:msgget", "write:/data/file"])?;
    outcomes.refused(&["syscall:wx", "bind:8080"])?;
    let record = ended.recorded("clamped", "dev.keep.needs=jit", "class builders")?;
    ensure!(record["class"] == "builders", "{record}");
    Ok(())
}

//! Policy files that are broken, contradict each other, or are gone.

use anyhow::{Context as _, Result};

use crate::case::Case;
use crate::{Test, generous};

pub(crate) const TESTS: &[(&str, &str, Test)] = &[
    ("last-good", "broken files leave the last good policies in force, which is recorded", last_good),
    ("no-good", "broken files with nothing good before them start no container", no_good),
    ("conflict", "policies that conflict are both named", conflict),
    ("vanished", "a policy folder that is gone leaves the last good policies in force", vanished),
    ("open", "policies that others may write do not count", open),
];

const NARROW: &str = "ceiling: { needs: [jit] }";

/// Makes sure that the policy `narrow` stands, and why it is not the folder's own.
fn still_narrow(case: &Case<'_>, image: &str, problem: &str) -> Result<()> {
    let (ended, outcomes) = case.tries(image, &["syscall:msgget", "syscall:wx"])?;
    outcomes.allowed(&["syscall:wx"])?;
    outcomes.refused(&["syscall:msgget"])?;
    ended.recorded("policies", problem, "those that were last understood stay in force").map(drop)
}

fn last_good(case: &Case<'_>) -> Result<()> {
    let image = case.image(&generous()?)?;
    case.handler.policy("narrow", NARROW)?;
    case.tries(&image, &["syscall:msgget"])?.1.refused(&["syscall:msgget"])?;
    case.handler.file("bad.yaml", "apiVersion: keep.dev/v1alpha1\nspec: [\n")?;
    still_narrow(case, &image, "bad.yaml:")?;
    // Mended, the folder counts again.
    std::fs::remove_file(case.handler.policies().join("bad.yaml")).context("cannot remove the file")?;
    case.handler.policy("narrow", "ceiling: { needs: [jit, ipc] }")?;
    case.tries(&image, &["syscall:msgget"])?.1.allowed(&["syscall:msgget"])
}

fn no_good(case: &Case<'_>) -> Result<()> {
    let image = case.image(&generous()?)?;
    case.handler.policy("narrow", "ceilling: { needs: [jit] }")?;
    let ended = case.refuses(&image, &[], &["narrow.yaml:6:3", "ceilling", "no container is started"])?;
    ended.recorded("start", &image, "narrow.yaml:6:3")?;
    Ok(())
}

fn conflict(case: &Case<'_>) -> Result<()> {
    let image = case.image(&generous()?)?;
    case.handler.policy("one", "selector: { images: ['keep.test/*'] }\nmode: audit")?;
    case.handler.policy("two", "selector: { images: ['*:1'] }\nmode: enforce")?;
    let parts = ["one.yaml", "two.yaml", "both set mode, differently"];
    case.refuses(&image, &[], &parts)?;
    Ok(())
}

fn vanished(case: &Case<'_>) -> Result<()> {
    let image = case.image(&generous()?)?;
    case.handler.policy("narrow", NARROW)?;
    case.tries(&image, &["syscall:msgget"])?.1.refused(&["syscall:msgget"])?;
    std::fs::remove_dir_all(case.handler.policies()).context("cannot remove the folder")?;
    still_narrow(case, &image, "is gone")
}

fn open(case: &Case<'_>) -> Result<()> {
    let image = case.image(&generous()?)?;
    case.handler.policy("narrow", NARROW)?;
    let file = case.handler.policies().join("narrow.yaml");
    let mode = |mode| {
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(mode))
            .context("cannot change the mode")
    };
    mode(0o666)?;
    case.refuses(&image, &[], &["narrow.yaml can be written by others than root"])?;
    mode(0o644)?;
    case.tries(&image, &["syscall:msgget"])?.1.refused(&["syscall:msgget"])
}

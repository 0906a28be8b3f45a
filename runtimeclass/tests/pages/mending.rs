//! docs/mending.md: its Dockerfiles are linted by its commands.

use crate::replay;

#[test]
fn the_transcript_is_what_keep_lint_prints() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let replayed = replay("docs/mending.md", include_str!("../../../docs/mending.md"), folder.path())?;
    assert!(replayed.commands >= 5, "{} commands", replayed.commands);
    assert!(replayed.last.ends_with("nothing to mend\nexit code 0\n"), "{}", replayed.last);
    Ok(())
}

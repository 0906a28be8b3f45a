//! docs/keep-command.md: its commands print what stands there.

use crate::replay;

#[test]
fn the_commands_print_what_stands_there() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let page = include_str!("../../../docs/keep-command.md");
    let replayed = replay("docs/keep-command.md", page, folder.path())?;
    assert!(replayed.commands >= 4, "{} commands", replayed.commands);
    Ok(())
}

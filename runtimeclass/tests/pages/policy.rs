//! docs/policy.md: its policies are understood, its commands print what stands there, its tables are what comes out.

use std::path::Path;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::{blocks, replay, run};

const PAGE: &str = include_str!("../../../docs/policy.md");

/// What stands before a line of a policy's `spec`.
const HEAD: &str = "apiVersion: keep.dev/v1alpha1\nkind: RuntimePolicy\nmetadata: { name: shop }\nspec:\n";

/// The cells of the table's rows beneath a heading, without the back quotes about them.
fn table(heading: &str) -> anyhow::Result<Vec<Vec<&'static str>>> {
    let (_, rest) = PAGE.split_once(&format!("\n## {heading}\n")).context("no such heading")?;
    let (_, rows) = rest.split_once("|---|").context("no table")?;
    let rows = rows.lines().skip(1).take_while(|line| line.starts_with('|'));
    let cells = |row: &'static str| -> Vec<&str> {
        row.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect()
    };
    let rows: Vec<Vec<&str>> = rows.map(cells).collect();
    ensure!(rows.len() > 5, "{heading} has {} rows", rows.len());
    Ok(rows)
}

fn write(folder: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    Ok(std::fs::write(folder.join(name), text)?)
}

#[test]
fn the_commands_print_what_stands_there() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let replayed = replay("docs/policy.md", PAGE, folder.path())?;
    assert!(replayed.commands >= 10, "{} commands", replayed.commands);
    Ok(())
}

#[test]
fn every_policy_is_understood() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut policies = 0;
    for (_, text) in blocks(PAGE)?.into_iter().filter(|(fence, _)| fence.starts_with("yaml")) {
        write(folder.path(), "one.yaml", text)?;
        let said = run(folder.path(), "keep policy check one.yaml && echo understood")?;
        assert!(said.ends_with("no conflicts\nunderstood\n"), "{said}\n{text}");
        policies += 1;
    }
    assert!(policies >= 5, "{policies} policies");
    Ok(())
}

#[test]
fn the_worked_example_is_what_comes_out() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let rows = table("What is granted")?;
    let (mut labels, mut ceiling, mut deny) =
        ("dev.keep.intent=v1\n".to_owned(), String::new(), String::new());
    for row in &rows {
        let [kind, declared, left, denied, _] = row.as_slice() else {
            anyhow::bail!("{row:?} has not five cells")
        };
        labels.push_str(&format!("dev.keep.{kind}={declared}\n"));
        let list = |words: &str| {
            words.split_whitespace().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(", ")
        };
        ceiling.push_str(&format!("    {kind}: [{}]\n", list(left)));
        deny.push_str(&format!("    {kind}: [{}]\n", list(denied)));
    }
    write(folder.path(), "web.labels", &labels)?;
    write(folder.path(), "shop.yaml", &format!("{HEAD}  ceiling:\n{ceiling}  deny:\n{deny}"))?;
    let said = run(folder.path(), "keep explain web.labels --policy shop.yaml --format json")?;
    let explained: Value = serde_json::from_str(&said).context(said)?;
    for row in &rows {
        let [kind, _, _, _, effective] = row.as_slice() else { anyhow::bail!("{row:?} has not five cells") };
        let words = |key: &str| -> Vec<String> {
            let list = explained["profile"][key].as_array().into_iter().flatten();
            list.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let mut granted = words(kind);
        if *kind == "exec" {
            granted.extend(words("execBeneath"));
        }
        let mut expected: Vec<&str> = effective.split_whitespace().collect();
        granted.sort();
        expected.sort_unstable();
        assert_eq!(granted, expected, "{kind}");
    }
    Ok(())
}

#[test]
fn the_messages_are_those_of_keep_policy_check() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    for row in table("What the messages mean")? {
        let [line, message] = row.as_slice() else { anyhow::bail!("{row:?} has not two cells") };
        write(folder.path(), "shop.yaml", &format!("{HEAD}  {line}\n"))?;
        let said = run(folder.path(), "keep policy check shop.yaml; echo \"exit code $?\"")?;
        assert_eq!(said, format!("exit code 1\nkeep: {message}\n"), "{line}");
    }
    Ok(())
}

//! Images from Dockerfiles: what their last stage says of the image's config and of files in its context folder.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use parse_dockerfile::{Command, CopyInstruction, Instruction, UnescapedString};

use crate::image::{Image, Layer};

/// Makes the image of the last stage of `text`, on `base`: `FROM` without a network. `COPY` takes files of `context`.
///
/// What cannot be done offline, the caller's base has already: `RUN`, and `COPY --from` an earlier stage.
///
/// # Errors
/// When it is no Dockerfile, copies what is not there, or says something that this cannot do.
pub fn build(text: &str, base: Image, context: &Path) -> Result<Image> {
    let file = parse_dockerfile::parse(text).context("cannot read the Dockerfile")?;
    let stage = file.stages().last().context("the Dockerfile has no FROM")?;
    let (mut image, mut copied, mut has_command) = (base, Layer::new(), false);
    for instruction in stage.instructions {
        image = match instruction {
            Instruction::Label(label) => pairs(&label.arguments.value)?
                .iter()
                .fold(image, |image, (key, value)| image.label(key, value)),
            Instruction::Env(env) => pairs(&env.arguments.value)?
                .iter()
                .fold(image, |image, (name, value)| image.environment(name, value)),
            Instruction::User(user) => image.user(&user.arguments.value),
            Instruction::Workdir(folder) => {
                let path = &folder.arguments.value;
                if !image.has(path) {
                    copied = copied.folder(path, 0o755, 0);
                }
                image.working_folder(path)
            }
            Instruction::Cmd(command) => {
                has_command = true;
                image.command(&words(&command.arguments)?)
            }
            Instruction::Entrypoint(entrypoint) => {
                // An ENTRYPOINT takes away the CMD that the base gave.
                let image = image.entrypoint(&words(&entrypoint.arguments)?);
                if has_command { image } else { image.command(&[]) }
            }
            Instruction::Copy(copy) => {
                copied = copy_into(copied, copy, context)?;
                image
            }
            Instruction::Run(_) => image,
            other => bail!("this Dockerfile says what is not known here: {other:?}"),
        };
    }
    Ok(if copied.is_empty() { image } else { image.layer(copied) })
}

/// The packages that the `apt-get install` lines of the last stage of `text` name.
///
/// # Errors
/// When it is no Dockerfile, or runs something else.
pub fn installed(text: &str) -> Result<Vec<String>> {
    let file = parse_dockerfile::parse(text).context("cannot read the Dockerfile")?;
    let stage = file.stages().last().context("the Dockerfile has no FROM")?;
    let mut packages = Vec::new();
    for instruction in stage.instructions {
        let Instruction::Run(run) = instruction else { continue };
        let Command::Shell(line) = &run.arguments else { bail!("RUN of what is no shell line: {run:?}") };
        let (_, names) =
            line.value.split_once("apt-get install").context("RUN of what is no apt-get install")?;
        packages.extend(names.split_whitespace().filter(|word| !word.starts_with('-')).map(str::to_owned));
    }
    Ok(packages)
}

fn copy_into(layer: Layer, copy: &CopyInstruction<'_>, context: &Path) -> Result<Layer> {
    if copy.options.iter().any(|option| option.name.value == "from") {
        return Ok(layer);
    }
    let source = |source: &parse_dockerfile::Source<'_>| match source {
        parse_dockerfile::Source::Path(path) => Ok(path.value.to_string()),
        other => bail!("COPY from what is no path: {other:?}"),
    };
    let [from] = copy.src.as_slice() else { bail!("COPY of several files is not known here") };
    layer.copy(&context.join(source(from)?), &copy.dest.value)
}

fn words<'a>(command: &'a Command<'_>) -> Result<Vec<&'a str>> {
    match command {
        Command::Exec(words) => {
            Ok(words.value.iter().map(|word: &UnescapedString<'_>| &*word.value).collect())
        }
        other => bail!("only a JSON array of words starts a program without a shell: {other:?}"),
    }
}

/// Splits `key=value key2="a value"` as Docker does: white space between pairs, quotes around what has some.
fn pairs(text: &str) -> Result<Vec<(String, String)>> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (Some(open), close) if open == close => quote = None,
            (None, '"' | '\'') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None, space) if space.is_whitespace() => words.extend(word.take()),
            (None | Some('"'), '\\') => {
                word.get_or_insert_default().push(characters.next().context("a backslash at the end")?);
            }
            (_, other) => word.get_or_insert_default().push(other),
        }
    }
    ensure!(quote.is_none(), "an open quote in {text}");
    words.extend(word);
    let pair = |word: String| {
        let (key, value) = word.split_once('=').with_context(|| format!("{word} is no KEY=VALUE"))?;
        Ok((key.to_owned(), value.to_owned()))
    };
    words.into_iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_split_as_docker_does() {
        let pairs = pairs(r#"a="1 2"   b=3 c="" d='x "y"' e=f\ g"#).expect("pairs");
        let expected = [("a", "1 2"), ("b", "3"), ("c", ""), ("d", "x \"y\""), ("e", "f g")];
        assert_eq!(pairs, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
        assert!(super::pairs("a=\"1").is_err());
        assert!(super::pairs("a").is_err());
    }

    #[test]
    fn a_child_overrides_its_base_key_by_key() {
        let here = Path::new(".");
        let base =
            "FROM scratch\nENTRYPOINT [\"/a\"]\nCMD [\"x\"]\nENV E=1 F=2\nLABEL a=\"1\" \\\n  b=\"2\"\n";
        let base = build(base, Image::new([]), here).expect("a base");
        let child = build("FROM base\nLABEL b=\"\" c=\"3\"\nENV E=5\n", base.clone(), here).expect("a child");
        let config = child.config(&[])["config"].clone();
        assert_eq!(config["Labels"], serde_json::json!({ "a": "1", "b": "", "c": "3" }));
        assert_eq!(config["Entrypoint"], serde_json::json!(["/a"]));
        assert_eq!(config["Cmd"], serde_json::json!(["x"]));
        assert_eq!(config["Env"].as_array().expect("variables").iter().filter(|e| **e == "E=5").count(), 1);
        assert!(!config["Env"].to_string().contains("E=1"));
        let other = build("FROM base\nENTRYPOINT [\"/b\"]\n", base, here).expect("another child");
        assert_eq!(other.config(&[])["config"]["Cmd"], serde_json::Value::Null);
    }

    #[test]
    fn packages_are_those_of_the_last_stage() {
        let text =
            "FROM a AS b\nRUN apt-get install -y x\nFROM a\nRUN apt-get update && apt-get install -y y z\n";
        assert_eq!(installed(text).expect("packages"), ["y", "z"]);
        assert!(installed("FROM a\nRUN make\n").is_err());
    }

    #[test]
    fn what_is_not_known_is_an_error() {
        let build = |text| build(text, Image::new([]), Path::new("."));
        for text in ["", "FROM a\nVOLUME /data\n", "FROM a\nENTRYPOINT run it\n", "FROM a\nCOPY none /x\n"] {
            assert!(build(text).is_err(), "{text}");
        }
    }
}

//! What the instructions of the built stages make of an image.

use std::collections::BTreeMap;
use std::ops::Range;

use parse_dockerfile as parsed;
use parse_dockerfile::Instruction;

use super::stages::Stage;
use super::text::{Glyph, logical_line, string};
use super::words::{Assignment, Expanded, Value, assignments, declarations, expand, split};
use super::{Built, Copy, DockerfileError, LabelSource, Options};
use crate::intent::AbsPath;
use crate::labels::PREFIX;
use crate::lint::{Command, File, Kind, Script, exposed_port};

/// All values that variables are put into may have so many characters together: a Dockerfile whose variables double
/// with each line ends here.
const MAX_EXPANDED: usize = 4 << 20;
/// More labels than this are beyond 32 KiB, however short they are.
const MAX_LABELS: usize = 4096;
/// Ports that are exposed beyond these are not compared.
const MAX_EXPOSED: usize = 1024;
/// Longest path. Source: `PATH_MAX`, include/uapi/linux/limits.h.
const MAX_PATH: usize = 4096;
/// What runs a command that is no list, until SHELL says otherwise.
pub(super) const SHELL: &str = "/bin/sh";

/// The image as far as the instructions have made it.
pub(super) struct State<'a, 't> {
    source: &'a str,
    escape: char,
    options: &'a Options<'a>,
    global: BTreeMap<String, String>,
    arguments: BTreeMap<String, Value>,
    env: BTreeMap<String, Value>,
    shell: String,
    onbuild: Vec<&'a Instruction<'t>>,
    cmd_in_stage: bool,
    expanded: usize,
    began: bool,
    built: Built,
}

impl<'a, 't> State<'a, 't> {
    pub(super) fn new(
        source: &'a str,
        escape: char,
        options: &'a Options<'a>,
        global: BTreeMap<String, String>,
    ) -> Self {
        Self {
            source,
            escape,
            options,
            global,
            arguments: BTreeMap::new(),
            env: BTreeMap::new(),
            shell: SHELL.to_owned(),
            onbuild: Vec::new(),
            cmd_in_stage: false,
            expanded: 0,
            began: false,
            built: Built::default(),
        }
    }

    pub(super) fn finish(self) -> Built {
        let mut built = self.built;
        let known = self.env.into_iter().filter_map(|(name, value)| match value {
            Value::Known(text) => Some((name, text)),
            Value::Unknown | Value::Unset => None,
        });
        built.subject.facts.env = known.collect();
        built
    }

    /// Goes on with a stage; the first one is built from an image outside.
    pub(super) fn stage(&mut self, stage: &Stage<'a, 't>) -> Result<(), DockerfileError> {
        if !self.began {
            self.began = true;
            self.begin(&stage.image, stage.span.clone());
        }
        self.cmd_in_stage = false;
        for instruction in std::mem::take(&mut self.onbuild) {
            self.instruction(instruction)?;
        }
        for instruction in stage.instructions {
            self.instruction(instruction)?;
        }
        Ok(())
    }

    fn begin(&mut self, image: &str, span: Range<usize>) {
        if image == "scratch" {
            return;
        }
        self.built.subject.facts.base = Some(image.to_owned());
        match &self.options.base {
            Some(base) => {
                let image = self.built.subject.facts.base.take();
                self.built.subject = base.clone();
                self.built.subject.facts.base = image;
                // RUN and COPY change what the base holds in ways that are not followed.
                self.built.subject.facts.files.complete = false;
                let env = base.facts.env.iter();
                self.env = env.map(|(name, text)| (name.clone(), Value::Known(text.clone()))).collect();
                self.built.sources.exposed = base.facts.exposed.iter().map(|_| 0..0).collect();
            }
            None => self.built.base = Some((image.to_owned(), span)),
        }
    }

    fn instruction(&mut self, instruction: &'a Instruction<'t>) -> Result<(), DockerfileError> {
        match instruction {
            Instruction::Label(label) => self.label(label.arguments.span.start)?,
            Instruction::Env(env) => self.env(env.arguments.span.start)?,
            Instruction::Arg(arg) => self.argument(arg.arguments.span.start)?,
            Instruction::Entrypoint(entrypoint) => {
                let (command, span) = self.command(&entrypoint.arguments);
                self.built.subject.facts.entrypoint = command;
                self.built.sources.entrypoint = Some(span);
                if !self.cmd_in_stage {
                    self.built.subject.facts.cmd = None;
                    self.built.sources.cmd = None;
                }
            }
            Instruction::Cmd(cmd) => {
                let (command, span) = self.command(&cmd.arguments);
                self.built.subject.facts.cmd = command;
                self.built.sources.cmd = Some(span);
                self.cmd_in_stage = true;
            }
            Instruction::Shell(shell) => {
                self.shell = shell.arguments.first().map_or(SHELL, |word| word.value.as_ref()).to_owned();
            }
            Instruction::Expose(expose) => {
                if let Some(first) = expose.arguments.first() {
                    self.expose(first.span.start)?;
                }
            }
            Instruction::User(user) => {
                self.built.subject.facts.user = Some(self.line(user.arguments.span.start)?);
            }
            Instruction::Workdir(workdir) => {
                let path = self.line(workdir.arguments.span.start)?;
                let facts = &mut self.built.subject.facts;
                facts.workdir =
                    if path.starts_with('/') { path } else { format!("{}/{path}", facts.workdir) };
                if facts.workdir.len() > MAX_PATH {
                    let problem = format!("the working directory is longer than {MAX_PATH} bytes");
                    return Err(DockerfileError::new(
                        workdir.arguments.span.start..workdir.arguments.span.start,
                        problem,
                    ));
                }
            }
            Instruction::Copy(copy) => self.copy(&copy.options, &copy.src, &copy.dest)?,
            Instruction::Add(add) => self.copy(&add.options, &add.src, &add.dest)?,
            Instruction::Onbuild(onbuild) => self.onbuild.push(&onbuild.instruction),
            // What the others do (RUN, HEALTHCHECK, VOLUME …) is not followed.
            _ => {}
        }
        Ok(())
    }

    fn label(&mut self, at: usize) -> Result<(), DockerfileError> {
        let (line, _) = logical_line(self.source, at, self.escape);
        for Assignment { key, value } in assignments(&line, self.escape)? {
            let key_at = key;
            let key = self.expand(key)?;
            let name = string(&key.glyphs);
            let value = self.expand(value.unwrap_or_default())?;
            if name.starts_with(PREFIX) {
                let source = LabelSource::new(&key.glyphs, &value.glyphs);
                let holes = key.holes.into_iter().chain(value.holes).collect();
                self.built.holes.insert(name.clone(), holes);
                self.built.sources.labels.insert(name.clone(), source);
                if self.built.sources.labels.len() > MAX_LABELS {
                    let problem = format!("it has more than {MAX_LABELS} labels beneath {PREFIX}");
                    return Err(DockerfileError::new(super::text::source_of(key_at), problem));
                }
            }
            self.built.subject.labels.insert(name, string(&value.glyphs));
        }
        Ok(())
    }

    fn env(&mut self, at: usize) -> Result<(), DockerfileError> {
        let (line, _) = logical_line(self.source, at, self.escape);
        let mut set = Vec::new();
        for Assignment { key, value } in assignments(&line, self.escape)? {
            let name = string(&self.expand(key)?.glyphs);
            set.push((name, value_of(&self.expand(value.unwrap_or_default())?)));
        }
        // All of one instruction see the variables as they were before it.
        self.env.extend(set);
        Ok(())
    }

    fn argument(&mut self, at: usize) -> Result<(), DockerfileError> {
        let (line, _) = logical_line(self.source, at, self.escape);
        for Assignment { key, value } in declarations(&line, self.escape) {
            let name = string(key);
            let given = self.options.build_args.get(&name).cloned();
            let value = match (given, value) {
                (Some(given), _) => Value::Known(given),
                (None, Some(default)) => value_of(&self.expand(default)?),
                (None, None) => self.global.get(&name).map_or(Value::Unset, |v| Value::Known(v.clone())),
            };
            self.arguments.insert(name, value);
        }
        Ok(())
    }

    fn expose(&mut self, at: usize) -> Result<(), DockerfileError> {
        let (line, _) = logical_line(self.source, at, self.escape);
        for word in split(&line, self.escape) {
            let text = string(&self.expand(word)?.glyphs);
            let room = MAX_EXPOSED.saturating_sub(self.built.subject.facts.exposed.len());
            for port in text.split_whitespace().filter_map(exposed_port).take(room) {
                self.built.subject.facts.exposed.push(port);
                self.built.sources.exposed.push(super::text::source_of(word));
            }
        }
        Ok(())
    }

    /// The rest of a line as one text.
    fn line(&mut self, at: usize) -> Result<String, DockerfileError> {
        let (line, _) = logical_line(self.source, at, self.escape);
        Ok(string(&self.expand(&line)?.glyphs).trim().to_owned())
    }

    fn command(&self, command: &parsed::Command<'_>) -> (Option<Command>, Range<usize>) {
        match command {
            parsed::Command::Exec(words) => {
                let all = words.value.iter().map(|word| word.value.clone().into_owned()).collect();
                (Command::of(all), words.span.clone())
            }
            parsed::Command::Shell(line) => {
                let span = line.span.clone();
                if self.source.get(span.clone()).is_some_and(|text| text.starts_with('['))
                    && line.value.trim() == ":"
                {
                    return (None, span);
                }
                let text = self.source.get(span.clone()).unwrap_or(line.value);
                (Some(Command::Shell { shell: self.shell.clone(), line: text.to_owned() }), span)
            }
            _ => (None, 0..0),
        }
    }

    fn copy(
        &mut self,
        options: &[parsed::Flag<'_>],
        from: &[parsed::Source<'_>],
        to: &parsed::UnescapedString<'_>,
    ) -> Result<(), DockerfileError> {
        let flag = |name: &str| options.iter().find(|flag| flag.name.value == name);
        let mode = flag("chmod").and_then(|flag| flag.value.as_ref());
        let glyphs: Vec<Glyph> = super::text::glyphs_of(&to.value, to.span.start).collect();
        let mut copy = Copy {
            sources: Vec::new(),
            from_context: flag("from").is_none(),
            destination: string(&self.expand(&glyphs)?.glyphs),
            mode: mode.and_then(|mode| u32::from_str_radix(&mode.value, 8).ok()),
            text: None,
        };
        for source in from {
            match source {
                parsed::Source::Path(path) => copy.sources.push(path.value.clone().into_owned()),
                parsed::Source::HereDoc(document) => copy.text = Some(document.value.clone().into_owned()),
                _ => {}
            }
        }
        if !copy.destination.starts_with('/') {
            let workdir = &self.built.subject.facts.workdir;
            copy.destination = format!("{workdir}/{}", copy.destination);
        }
        self.know(&copy);
        self.built.copies.push(copy);
        Ok(())
    }

    /// Adds what a copy says of the file that it makes: the text of a here-document, a set-uid mode.
    fn know(&mut self, copy: &Copy) {
        let marked = copy.mode.is_some_and(|mode| mode & 0o6000 != 0);
        if copy.destination.ends_with('/') || (copy.text.is_none() && !marked) {
            return;
        }
        let Ok(path) = AbsPath::new(&copy.destination) else { return };
        let script = copy.text.as_ref().and_then(|text| Script::read(text.as_bytes()));
        let kind = script.map_or(Kind::Regular, Kind::Script);
        let file = File { kind, mode: copy.mode.unwrap_or(0o644) };
        self.built.subject.facts.files.entries.insert(path, file);
    }

    fn expand(&mut self, word: &[Glyph]) -> Result<Expanded, DockerfileError> {
        let known = |name: &str| {
            let set = self.env.get(name).or_else(|| self.arguments.get(name));
            set.cloned().unwrap_or(Value::Unset)
        };
        let expanded = expand(word, self.escape, &known)?;
        self.expanded += expanded.glyphs.len();
        if self.expanded > MAX_EXPANDED {
            let problem = format!("its variables make more than {MAX_EXPANDED} characters");
            return Err(DockerfileError::new(super::text::source_of(word), problem));
        }
        Ok(expanded)
    }
}

fn value_of(expanded: &Expanded) -> Value {
    if expanded.holes.is_empty() { Value::Known(string(&expanded.glyphs)) } else { Value::Unknown }
}

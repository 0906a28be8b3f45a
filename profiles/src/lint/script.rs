//! Which programs a shell script calls.

use std::collections::BTreeSet;

use super::{Kind, Lint, names, rule};
use crate::intent::AbsPath;

/// Words that a shell knows by itself: POSIX's reserved words and built-ins, and bash's.
const BUILT_IN: &str = "! . : [ [[ ] ]] { } alias bg bind break builtin case cd command continue declare dirs disown do done \
    echo elif else enable esac eval exec exit export false fg fi for function getopts hash help history if in jobs kill let \
    local mapfile popd printf pushd pwd read readarray readonly return select set shift shopt source test then time times \
    trap true type typeset ulimit umask unalias unset until wait while";
/// After these the next word is a command again.
const PREFIXES: [&str; 13] =
    ["!", "then", "do", "else", "elif", "if", "while", "until", "exec", "command", "{", "time", "builtin"];
/// So many are looked for in the image.
const MAX_CALLED: usize = 256;
/// So many tools are named in one finding.
const MAX_NAMED: usize = 8;

pub(super) fn check(lint: &mut Lint<'_>) {
    let facts = lint.facts();
    let Some(command) = facts.command() else { return };
    let program = command.program();
    let found = facts.locate(program).and_then(|path| facts.files.resolve(&path));
    let place = lint.command_place();
    let Some((_, file)) = found else {
        let nothing_declared = lint.intent.exec.is_empty() && !facts.files.complete;
        if nothing_declared && program.ends_with(".sh") {
            let message =
                format!("{program} is a shell script by its name, and no program that it calls is declared");
            let help = "declare what it calls in dev.keep.exec; keep lint of the built image names them";
            lint.add(rule::SCRIPT_TOOLS, place, message, help);
        }
        return;
    };
    let Kind::Script(script) = &file.kind else { return };
    let Some(text) = script.text.as_deref().filter(|_| names::is_shell(script.interpreter_name())) else {
        return;
    };
    let missing: Vec<String> =
        called(text).into_iter().take(MAX_CALLED).filter(|tool| !may_run(lint, tool)).collect();
    if missing.is_empty() {
        return;
    }
    let mut named = missing.iter().take(MAX_NAMED).cloned().collect::<Vec<_>>().join(", ");
    if missing.len() > MAX_NAMED {
        named.push_str(&format!(" and {} more", missing.len() - MAX_NAMED));
    }
    let located: Option<Vec<String>> =
        missing.iter().take(MAX_NAMED).map(|tool| facts.locate(tool).map(|path| path.to_label())).collect();
    let add = located.map_or_else(|| format!("the paths of {named}"), |paths| paths.join(" "));
    let message = format!("{program} is a shell script and calls {named}, which dev.keep.exec does not have");
    let help = format!("add {add} to dev.keep.exec, or start the program without a script");
    lint.add(rule::SCRIPT_TOOLS, place, message, help);
}

/// Whether a script may start `tool`. What is not in the image cannot be meant.
fn may_run(lint: &Lint<'_>, tool: &str) -> bool {
    let facts = lint.facts();
    let declared = |path: &AbsPath| {
        let real = |path: &AbsPath| facts.files.resolve(path).map_or_else(|| path.clone(), |(real, _)| real);
        let wanted = real(path);
        lint.intent.exec.iter().any(|entry| {
            path.is_beneath(entry) || wanted.is_beneath(entry) || wanted.is_beneath(&real(entry))
        })
    };
    match facts.locate(tool) {
        Some(path) if facts.files.resolve(&path).is_some() => declared(&path),
        _ if facts.files.complete => true,
        Some(path) => declared(&path),
        // Not known where it lies: one of the same name will do, and a folder may hold it.
        None => lint.intent.exec.iter().any(|entry| {
            names::base(entry.as_str()) == tool || facts.folders().any(|folder| entry.as_str() == folder)
        }),
    }
}

/// The programs that a shell script calls by name, so far as reading it shows: words where a command begins that are
/// neither built in nor functions, and have no variable or pattern in them.
fn called(text: &str) -> BTreeSet<String> {
    let mut reader = Reader {
        functions: BTreeSet::new(),
        called: BTreeSet::new(),
        chain: Vec::new(),
        open: 0,
        command: true,
        redirected: false,
        document: None,
    };
    let mut quote = None;
    for line in text.lines() {
        if let Some(end) = &reader.document {
            if line.trim_start_matches('\t') == end {
                reader.document = None;
            }
            continue;
        }
        reader.line(line, &mut quote);
    }
    reader.called.append(&mut reader.chain.drain(..).collect());
    reader.called.retain(|word| !reader.functions.contains(word));
    reader.called
}

struct Reader {
    functions: BTreeSet<String>,
    called: BTreeSet<String>,
    /// Commands since the last separator but `|`: patterns of case, if a closing parenthesis follows.
    chain: Vec<String>,
    /// Parentheses that are open.
    open: u32,
    /// Whether the next word is a command.
    command: bool,
    /// Whether the next word is where output goes.
    redirected: bool,
    /// The end of the here-document that the next lines are.
    document: Option<String>,
}

impl Reader {
    fn line(&mut self, line: &str, quote: &mut Option<char>) {
        let mut word = String::new();
        let mut plain = quote.is_none();
        let mut pending = None;
        let mut chars = line.chars().peekable();
        while let Some(c) = chars.next() {
            if let Some(open) = *quote {
                if c == '\\' && open == '"' {
                    chars.next();
                } else if c == open {
                    *quote = None;
                }
                continue;
            }
            match c {
                '\'' | '"' => {
                    *quote = Some(c);
                    plain = false;
                    word.push(' ');
                }
                '\\' if chars.peek().is_none() => {
                    self.end(&word, plain);
                    return;
                }
                '\\' => {
                    chars.next();
                    plain = false;
                    word.push(' ');
                }
                '#' if word.is_empty() => break,
                '<' if chars.peek() == Some(&'<') => {
                    self.end(&word, plain);
                    (word, plain) = (String::new(), true);
                    let rest: String = chars.by_ref().collect();
                    pending = document_end(&rest);
                }
                '>' | '<' => {
                    self.end(&word, plain);
                    (word, plain) = (String::new(), true);
                    self.redirected = true;
                }
                ';' | '|' | '(' | ')' | '`' => {
                    if c == '(' && chars.peek() == Some(&')') && plain && !word.is_empty() {
                        self.functions.insert(std::mem::take(&mut word));
                    }
                    self.end(&word, plain);
                    match c {
                        '(' => self.open += 1,
                        ')' if self.open > 0 => self.open -= 1,
                        ')' => self.chain.clear(),
                        _ => {}
                    }
                    if c != '|' {
                        self.called.extend(self.chain.drain(..));
                    }
                    (word, plain) = (String::new(), true);
                    (self.command, self.redirected) = (true, false);
                }
                '&' if word.is_empty() && self.redirected => {}
                '&' => {
                    self.end(&word, plain);
                    self.called.extend(self.chain.drain(..));
                    (word, plain) = (String::new(), true);
                    (self.command, self.redirected) = (true, false);
                }
                c if c.is_whitespace() => {
                    self.end(&word, plain);
                    (word, plain) = (String::new(), true);
                }
                c => word.push(c),
            }
        }
        if quote.is_none() {
            self.end(&word, plain);
            self.called.extend(self.chain.drain(..));
            (self.command, self.redirected) = (true, false);
        } else {
            self.end(&word, false);
        }
        self.document = pending;
    }

    fn end(&mut self, word: &str, plain: bool) {
        if word.is_empty() {
            return;
        }
        if self.redirected {
            self.redirected = false;
            return;
        }
        if !self.command || assigns(word) {
            return;
        }
        self.command = PREFIXES.contains(&word);
        let name = |c: char| c.is_ascii_alphanumeric() || "_-./+".contains(c);
        let built_in = BUILT_IN.split(' ').any(|known| known == word);
        if plain
            && !built_in
            && word.chars().all(name)
            && word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        {
            self.chain.push(word.to_owned());
        }
    }
}

/// `NAME=value` before a command.
fn assigns(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "_[]+".contains(c))
    })
}

/// The word that ends a here-document, of what follows the first `<`; `None` for `<<<`.
fn document_end(rest: &str) -> Option<String> {
    let rest = rest.strip_prefix('<')?;
    if rest.starts_with('<') {
        return None;
    }
    let rest = rest.trim_start_matches('-').trim_start();
    let word: String = rest.chars().take_while(|c| !c.is_whitespace() && !";|&)".contains(*c)).collect();
    let end: String = word.chars().filter(|c| !"'\"\\".contains(*c)).collect();
    (!end.is_empty()).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::called;

    fn of(text: &str) -> String {
        called(text).into_iter().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn commands_are_found_where_commands_begin() {
        let script = "#!/bin/sh\nset -e\nif [ \"$1\" = x ]; then mkdir -p /a && chown b:c /a; fi\n\
                      A=1 B=$(cat /etc/x | grep y) sed -i s/a/b/ f > /dev/null 2>&1\nexec gosu app /opt/run \"$@\"\n";
        assert_eq!(of(script), "cat chown gosu grep mkdir sed");
    }

    #[test]
    fn patterns_functions_variables_quotes_and_documents_are_no_commands() {
        let script = "start() {\n  \"$prog\" --x\n}\ncase \"$1\" in\n  postgres|mysql) start;;\n  *) $cmd ;;\nesac\n\
                      cat <<'END' > /etc/x\nmkdir nothing\nEND\necho 'rm\n-rf' # ls\nwhile read -r a; do :; done < /etc/y\n\
                      find . \\\n  chmod\n";
        assert_eq!(of(script), "cat find");
    }
}

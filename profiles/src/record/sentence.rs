//! A record in one line for people.

use super::{Record, Verdict};
use crate::plan::Wall;

/// Longest object in a sentence, in characters.
const MAX_OBJECT: usize = 200;
/// Longest program name in a sentence, in characters.
const MAX_PROGRAM: usize = 64;

/// Text from a container made fit for a terminal and a Kubernetes Event: what cannot be seen is escaped,
/// and what exceeds `max` characters is left out in the middle.
#[must_use]
pub fn readable(text: &str, max: usize) -> String {
    let mut shown = String::new();
    for c in text.chars() {
        match c {
            '\'' | '"' => shown.push(c),
            c => shown.extend(c.escape_debug()),
        }
    }
    let chars: Vec<char> = shown.chars().collect();
    if chars.len() <= max {
        return shown;
    }
    let head = max / 2;
    let tail = max.saturating_sub(head + 1);
    chars[..head].iter().chain(&['…']).chain(&chars[chars.len() - tail..]).collect()
}

/// A value between double quotes, as a Dockerfile's LABEL takes it.
fn quoted(value: &str) -> String {
    let mut text = String::from("\"");
    for c in value.chars() {
        match c {
            '"' | '\\' | '$' => text.extend(['\\', c]),
            '\'' => text.push(c),
            c => text.extend(c.escape_debug()),
        }
    }
    text + "\""
}

impl Record {
    /// One line for people: who tried what, and the label that would allow it, for example
    /// ``nginx tried to run /bin/sh (not declared). To allow it: dev.keep.exec="/usr/sbin/nginx /bin/sh"``.
    #[must_use]
    pub fn sentence(&self) -> String {
        if self.wall == Wall::Policy {
            return self.policy_sentence();
        }
        let name = self.process.program.rsplit('/').next().unwrap_or_default();
        let who = if name.is_empty() { "a process".to_owned() } else { readable(name, MAX_PROGRAM) };
        let (verb, would) = match self.verdict {
            Verdict::Denied => ("tried to", ""),
            Verdict::Audited => ("was seen to", "; would be refused"),
        };
        format!("{who} {verb} {} (not declared{would}{}).{}", self.deed(), self.times(), self.remedy())
    }

    fn times(&self) -> String {
        if self.count > 1 { format!("; {} times", self.count) } else { String::new() }
    }

    fn remedy(&self) -> String {
        match (&self.allow, &self.because) {
            (Some(allow), _) => format!(" To allow it: {}={}", allow.label, quoted(&allow.value)),
            (None, Some(because)) => format!(" No label allows it: {}", readable(because, 2 * MAX_OBJECT)),
            (None, None) => String::new(),
        }
    }

    fn deed(&self) -> String {
        let object = readable(&self.object, MAX_OBJECT);
        match self.wall {
            Wall::Exec => format!("run {object}"),
            Wall::File => match self.operation.as_str() {
                "unlink" | "unlinkat" | "rmdir" => format!("remove {object}"),
                "rename" | "renameat" | "renameat2" => format!("rename {object}"),
                "mkdir" | "mkdirat" => format!("make the folder {object}"),
                "chmod" | "fchmodat" | "fchmodat2" => format!("change the mode of {object}"),
                "chown" | "lchown" | "fchownat" => format!("change the owner of {object}"),
                _ => format!("write {object}"),
            },
            Wall::Network if matches!(self.operation.as_str(), "bind" | "listen") => {
                match object.strip_prefix("unix:") {
                    Some(socket) => format!("listen on the unix socket {socket}"),
                    None => format!(
                        "listen on port {}",
                        object.rsplit_once(':').map_or(&*object, |(_, port)| port)
                    ),
                }
            }
            Wall::Network if matches!(self.operation.as_str(), "sendto" | "sendmsg" | "sendmmsg") => {
                format!("send to {object}")
            }
            Wall::Network => format!("connect to {object}"),
            Wall::Syscall => format!("call {object}"),
            Wall::Capability => format!("use the capability {object}"),
            Wall::Policy => object,
        }
    }

    fn policy_sentence(&self) -> String {
        let object = readable(&self.object, MAX_OBJECT);
        let because = self.because.as_deref().map(|text| readable(text, 2 * MAX_OBJECT));
        let why = because.as_ref().map_or_else(String::new, |because| format!(": {because}"));
        let times = if self.count > 1 { format!(" ({} times)", self.count) } else { String::new() };
        let allow = self.allow.as_ref().map(|allow| format!("{}={}", allow.label, quoted(&allow.value)));
        let add = allow.as_ref().map_or_else(String::new, |label| format!(". To declare it: {label}"));
        match self.operation.as_str() {
            "undeclared" => {
                format!("the image declares nothing and runs without walls of its own{times}{add}")
            }
            "labels" if allow.is_some() => {
                format!("label {object} counts for nothing without dev.keep.intent{times}{add}")
            }
            "labels" => format!("label {object} was ignored{times}{why}"),
            "clamped" => format!("label {object} was not granted{times}{why}"),
            "exec-session" => format!("exec session {object} was refused{times}{why}"),
            "start" => format!("the container did not start{times}: {object}{why}"),
            "gap" => format!("a wall is incomplete on this node{times}: {object}"),
            operation => format!("{} {object}{times}{why}{add}", readable(operation, MAX_PROGRAM)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Allow, Container, Image, Process, SCHEMA};
    use super::*;

    fn record(wall: Wall, operation: &str, object: &str) -> Record {
        Record {
            schema: SCHEMA.to_owned(),
            time: "2026-11-21T08:00:00.123456Z".to_owned(),
            node: "n1".to_owned(),
            class: "keep".to_owned(),
            pod: None,
            container: Container { id: "c".to_owned(), name: "web".to_owned(), exec: None },
            image: Image { name: "web:1".to_owned(), digest: "sha256:0".to_owned() },
            profile: None,
            process: Process { pid: 7, program: "/usr/sbin/nginx".to_owned() },
            wall,
            operation: operation.to_owned(),
            object: object.to_owned(),
            verdict: Verdict::Denied,
            errno: Some("EACCES".to_owned()),
            count: 1,
            allow: None,
            because: None,
        }
    }

    fn with(record: Record, label: &str, value: &str) -> String {
        let allow = Allow { label: label.to_owned(), value: value.to_owned() };
        Record { allow: Some(allow), ..record }.sentence()
    }

    #[test]
    fn a_denial_names_program_deed_and_label() {
        assert_eq!(
            with(record(Wall::Exec, "execve", "/bin/sh"), "dev.keep.exec", "/usr/sbin/nginx /bin/sh"),
            r#"nginx tried to run /bin/sh (not declared). To allow it: dev.keep.exec="/usr/sbin/nginx /bin/sh""#
        );
        for (wall, operation, object, deed) in [
            (Wall::File, "openat", "/etc/x", "write /etc/x"),
            (Wall::File, "unlinkat", "/etc/x", "remove /etc/x"),
            (Wall::Network, "connect", "127.0.0.1:9999/tcp", "connect to 127.0.0.1:9999/tcp"),
            (Wall::Network, "bind", "0.0.0.0:9090/tcp", "listen on port 9090/tcp"),
            (Wall::Network, "listen", "[::]:9090/tcp", "listen on port 9090/tcp"),
            (Wall::Network, "bind", "unix:/run/x", "listen on the unix socket /run/x"),
            (Wall::Syscall, "msgget", "msgget(1, 0)", "call msgget(1, 0)"),
        ] {
            assert_eq!(
                record(wall, operation, object).sentence(),
                format!("nginx tried to {deed} (not declared).")
            );
        }
    }

    #[test]
    fn an_audited_record_says_that_nothing_was_stopped_and_repeats_are_counted() {
        let record =
            Record { verdict: Verdict::Audited, count: 3, ..record(Wall::Exec, "execve", "/bin/sh") };
        let expected = "nginx was seen to run /bin/sh (not declared; would be refused; 3 times).";
        assert_eq!(record.sentence(), expected);
    }

    #[test]
    fn where_no_label_helps_the_sentence_says_why() {
        let because = Some("nothing under /proc can be made writable".to_owned());
        let record = Record { because, ..record(Wall::File, "openat", "/proc/x") };
        assert_eq!(
            record.sentence(),
            "nginx tried to write /proc/x (not declared). No label allows it: nothing under /proc can be made writable"
        );
    }

    #[test]
    fn what_a_container_names_cannot_deceive_the_reader() {
        let object = "/tmp/a\u{1b}[2J\n\u{202e}b";
        let sentence = record(Wall::Exec, "execve", object).sentence();
        assert!(sentence.contains(r"/tmp/a\u{1b}[2J\n\u{202e}b"), "{sentence}");
        let long = record(Wall::Exec, "execve", &format!("/{}", "x".repeat(5000))).sentence();
        assert!(long.chars().count() < 300 && long.contains('…'));
        let value = r#"/a" dev.keep.needs="mount $x\"#;
        let sentence = with(record(Wall::Exec, "execve", "/a"), "dev.keep.exec", value);
        assert!(sentence.ends_with(r#"dev.keep.exec="/a\" dev.keep.needs=\"mount \$x\\""#), "{sentence}");
        let nameless = Process { pid: 0, program: String::new() };
        let record = Record { process: nameless, ..record(Wall::Exec, "execve", "/a") };
        assert!(record.sentence().starts_with("a process tried"));
    }

    #[test]
    fn policy_records_are_plain_sentences() {
        let said = |operation: &str, object: &str, because: Option<&str>| {
            Record { because: because.map(str::to_owned), ..record(Wall::Policy, operation, object) }
                .sentence()
        };
        assert_eq!(said("labels", "dev.keep.x", Some("why")), "label dev.keep.x was ignored: why");
        assert_eq!(
            said("clamped", "dev.keep.needs=bpf", Some("why")),
            "label dev.keep.needs=bpf was not granted: why"
        );
        assert_eq!(said("gap", "no Landlock", None), "a wall is incomplete on this node: no Landlock");
        assert_eq!(said("exec-session", "sh", Some("why")), "exec session sh was refused: why");
        assert_eq!(
            with(record(Wall::Policy, "undeclared", "image"), "dev.keep.intent", "v1"),
            r#"the image declares nothing and runs without walls of its own. To declare it: dev.keep.intent="v1""#
        );
    }
}

//! The attack suite's image, its settings, and what came of every probe in each of them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::command::Output;
use crate::image::{Image, Layer};
use crate::node::{Node, Runtime};
use crate::{elf, images, provision, under_test};

/// Name of the program with the probes.
pub const PROGRAM: &str = "keep-attack";
/// User and group of the image for everybody else than root.
const USER: u64 = 1000;

/// A probe, as the program itself lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Its name, unique.
    pub name: String,
    /// The part of Keep that it is about.
    pub group: String,
    /// What stops it.
    pub wall: String,
    /// Who crosses where no wall stands: `anyone`, `root` or `user`.
    pub who: String,
    /// The way around, in words.
    pub words: String,
}

impl Probe {
    /// Its row of the table in docs/escapes.md.
    #[must_use]
    pub fn row(&self) -> String {
        format!("| {} | {} | {} | `{}` |", self.words, self.who, self.wall, self.name)
    }

    /// Whether it shows anything when `user` tries it where no wall stands.
    #[must_use]
    pub fn has_control(&self, user: User) -> bool {
        matches!((self.who.as_str(), user), ("anyone", _) | ("root", User::Root) | ("user", User::Other))
    }
}

/// Every probe.
///
/// # Errors
/// When the program is not built, or does not list them.
pub fn probes() -> Result<Vec<Probe>> {
    let program = under_test::binary(PROGRAM)?;
    let mut command = std::process::Command::new(program);
    let listed = crate::command::run(command.arg("list"), std::time::Duration::from_secs(10))?.success()?;
    let probe = |line: &str| {
        let mut words = line.split('\t').map(str::to_owned);
        let mut next = || words.next().with_context(|| format!("no probe: {line}"));
        Ok(Probe { name: next()?, group: next()?, wall: next()?, who: next()?, words: next()? })
    };
    listed.stdout.lines().map(probe).collect()
}

/// Under what the probes run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Walls {
    /// Keep, with labels that ask for as little as the probes themselves need.
    Keep,
    /// runc, privileged, sharing the node's processes and host name, with everything that a runtime could leave open.
    None,
}

/// As what they run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Actor {
    /// The container's own process.
    Init,
    /// A process that is added to it.
    Exec,
}

/// As whom they run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum User {
    /// Root.
    Root,
    /// Another.
    Other,
}

/// One run of all probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Setting {
    /// Under what.
    pub walls: Walls,
    /// As what.
    pub actor: Actor,
    /// As whom.
    pub user: User,
}

impl Setting {
    /// Every setting.
    pub fn all() -> impl Iterator<Item = Self> {
        let walls = [Walls::None, Walls::Keep].into_iter();
        let actors = |walls| [Actor::Init, Actor::Exec].map(|actor| (walls, actor));
        let users = |(walls, actor)| [User::Root, User::Other].map(|user| Self { walls, actor, user });
        walls.flat_map(actors).flat_map(users)
    }

    /// Runs the named probes, or all of them, and gives the line that each printed.
    ///
    /// # Errors
    /// When the container or the exec does not run to its end.
    pub fn run(self, node: &Node, names: &[&str]) -> Result<BTreeMap<String, String>> {
        let said = match self.actor {
            Actor::Init => self.start(node, &["--rm"], &self.words(names)),
            Actor::Exec => self.exec(node, &self.words(names)),
        }?;
        let line = |line: &str| {
            let (name, outcome) = line.split_once(": ").with_context(|| format!("no outcome: {line}"))?;
            Ok((name.to_owned(), outcome.to_owned()))
        };
        said.success()?.stdout.lines().map(line).collect()
    }

    fn id(self) -> String {
        self.to_string().replace(", ", "-")
    }

    fn words(self, names: &[&str]) -> Vec<String> {
        let own = ["/bin/keep-attack", "run"].into_iter().chain(names.iter().copied());
        match self.walls {
            Walls::Keep => own.map(str::to_owned).collect(),
            Walls::None => {
                // What Keep and every node deny, and what a careless runtime would leave: a folder outside, a descriptor
                // of a folder, a variable.
                let script = "/bin/busybox mount -o remount,exec /dev/shm 2>/dev/null; \
                              { echo 0 65535 > /proc/sys/net/ipv4/ping_group_range; } 2>/dev/null; \
                              cd -P /proc/1/cwd/. 2>/dev/null; exec 9</srv; export LEFT=1; exec \"$@\"";
                ["/bin/sh", "-c", script, "sh"].into_iter().chain(own).map(str::to_owned).collect()
            }
        }
    }

    fn start(self, node: &Node, flags: &[&str], words: &[String]) -> Result<Output> {
        let image = match self.user {
            User::Root => "keep.test/attack:root",
            User::Other => "keep.test/attack:user",
        };
        let mut all = vec!["--net-host"];
        all.extend(flags);
        let runtime = match self.walls {
            Walls::Keep => Runtime::Keep,
            Walls::None => {
                all.extend(["--privileged", "--allow-new-privs"]);
                all.extend(["--with-ns", "pid:/proc/1/ns/pid", "--with-ns", "uts:/proc/1/ns/uts"]);
                Runtime::Runc
            }
        };
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        node.start_container(runtime, &all, image, &self.id(), &words)
    }

    fn exec(self, node: &Node, words: &[String]) -> Result<Output> {
        let sleep = ["/bin/keep-attack".to_owned(), "sleep".to_owned()];
        self.start(node, &["-d"], &sleep)?.success()?;
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let said = node.exec(&self.id(), &words);
        node.remove(&self.id())?;
        said
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let walls = if self.walls == Walls::Keep { "keep" } else { "control" };
        let actor = if self.actor == Actor::Init { "init" } else { "exec" };
        let user = if self.user == User::Root { "root" } else { "user" };
        write!(f, "{walls}, {actor}, {user}")
    }
}

/// The probes' image, for root and for another user, with labels that allow: the probes' own program and what they
/// start it by, a folder of scripts, a folder of tools, one port to listen on, one to connect to, one folder to write.
///
/// # Errors
/// When the program is not built or Debian's packages cannot be had.
pub fn image(user: User) -> Result<Image> {
    let program = under_test::binary(PROGRAM)?;
    let root = provision::image_files()?;
    let roots = [root.as_path(), Path::new("/")];
    let mut layer = images::base()
        .program(&root.join("bin/dash"), "bin/sh", &roots)?
        .program(&root.join("bin/busybox"), "bin/busybox", &roots)?
        .file("etc/motd", "hello\n", 0o644)
        .hard_link("srv/links/other", "bin/other")
        .hard_link("srv/links/busybox", "bin/busybox")
        .hard_link("srv/links/renamed", "bin/busybox")
        .symlink("srv/linked", "links")
        .file("srv/plain/busybox", std::fs::read(root.join("bin/busybox"))?, 0o644)
        .file("srv/scripts/by-other", "#!/bin/other ok\n", 0o755)
        .file("srv/scripts/by-runtime", "#!/proc/self/exe --version\n", 0o755)
        .file("srv/tools/raise", std::fs::read(&program).context("cannot read the probes")?, 0o4755)
        .folder("data", 0o777, 0)
        .owned_file("data/theirs", "x", 0o600, 12_345);
    for path in ["keep-attack", "other", "first"] {
        layer = layer.copy(&program, &format!("bin/{path}"))?;
    }
    for path in ["overwritten", "replaced", "bound"] {
        layer = layer.copy(&program, &format!("srv/tools/{path}"))?;
    }
    layer = beside_libraries(layer, &root.join("bin/dash"), &roots)?;
    for point in [
        "mounted",
        "bound",
        "binfmt",
        "tmpfs",
        "proc",
        "sys",
        "overlay",
        "etc",
        "cgroup",
        "cgroup2",
        "disk-mount",
    ] {
        layer = layer.folder(&format!("data/{point}"), 0o777, 0);
    }
    let user = match user {
        User::Root => 0,
        User::Other => USER,
    };
    let image = Image::new([own_files(layer, user)]).user(&format!("{user}:{user}"));
    Ok(image.entrypoint(&["/bin/keep-attack"]).labels([
        ("dev.keep.intent", "v1"),
        ("dev.keep.exec", "/bin/keep-attack /bin/sh /bin/first /srv/scripts /srv/tools"),
        ("dev.keep.listen", "8080/tcp"),
        ("dev.keep.connect", "9100/tcp"),
        ("dev.keep.write", "/data"),
    ]))
}

/// A folder of more libraries than programs, so that it stays executable, with undeclared programs in it.
fn beside_libraries(layer: Layer, shell: &Path, roots: &[&Path]) -> Result<Layer> {
    let needed = elf::closure(shell, roots)?;
    let libc = needed.iter().find(|(inside, _)| inside.ends_with("/libc.so.6"));
    let (inside, _) = libc.context("the shell needs no C library")?;
    let libraries = (0..8).map(|number| (format!("libkit{number}.so"), inside.as_str()));
    let programs = [("busybox", "bin/busybox"), ("libbusybox.so.1", "bin/busybox"), ("other", "bin/other")]
        .map(|(name, target)| (name.to_owned(), target));
    let linked =
        |layer: Layer, (name, target): (String, &str)| layer.hard_link(&format!("opt/kit/{name}"), target);
    Ok(libraries.chain(programs).fold(layer, linked))
}

/// Files of the container's own user outside the write path: what DAC lets through, so that another wall must stop it.
fn own_files(layer: Layer, user: u64) -> Layer {
    let path = |name: &str| format!("opt/own-{user}/{name}");
    let names = ["file", "truncated", "renamed", "exchanged", "moved", "removed"];
    let layer = layer.folder(&path(""), 0o755, user).folder(&path("empty"), 0o755, user);
    names.iter().fold(layer, |layer, name| layer.owned_file(&path(name), "x", 0o644, user))
}

//! Which label would have allowed what was tried.

use std::borrow::Cow;
use std::net::Ipv6Addr;

use super::{Allow, Observation};
use crate::intent::{AbsPath, Capability, Endpoint, Intent, Need, PortRange, canonical_listen};
use crate::labels::{MAX_LABEL, PREFIX, unwritable};
use crate::plan::{Action, Wall, decide};
use crate::policy::Policy;
use crate::profile::{Entries, Origin, Profile};
use crate::sets::{Reach, topmost};
use crate::syscalls::{self, Grants, Sockets};

/// Folders that hold much more than one program should change: of these a single file is suggested, never the whole.
const SHARED_FOLDERS: [&str; 22] = [
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/home",
    "/lib",
    "/lib32",
    "/lib64",
    "/media",
    "/mnt",
    "/opt",
    "/root",
    "/sbin",
    "/srv",
    "/usr",
    "/usr/local",
    "/var",
    "/var/cache",
    "/var/lib",
    "/var/log",
    "/var/spool",
];

/// Folders of programs and libraries: nothing beneath them is suggested but the single file.
const PROGRAM_FOLDERS: [&str; 6] = ["/bin", "/sbin", "/lib", "/lib32", "/lib64", "/usr"];

/// What a container was granted, and what it came from.
#[derive(Debug, Clone, Copy)]
pub struct Granted<'a> {
    /// What the image declares.
    pub intent: &'a Intent,
    /// What it was granted of it.
    pub profile: &'a Profile,
    /// Who took the rest.
    pub policy: &'a Policy,
}

/// Works out which label would have allowed an observation, or says why none can.
///
/// # Errors
/// With the sentence for `because` where no label can allow it.
pub fn allow(granted: Granted<'_>, observation: &Observation) -> Result<Allow, String> {
    if granted.profile.origin != Origin::Declared {
        return Err(
            "the image declares nothing, and labels count only beside dev.keep.intent=\"v1\"".to_owned()
        );
    }
    match observation.wall {
        Wall::Exec => granted.program(&observation.object),
        Wall::File => granted.file(&observation.operation, &observation.object),
        Wall::Network => granted.network(&observation.operation, &observation.object),
        Wall::Syscall => granted.call(&observation.object),
        Wall::Capability => granted.capability(&observation.object),
        Wall::Policy => Err("it is the policy's own decision".to_owned()),
    }
}

/// The whole new value of `key`: what it holds already, then `more`.
fn extended(key: &str, held: impl Iterator<Item = String>, more: String) -> Result<Allow, String> {
    let words: Vec<String> = held.filter(|word| *word != more).chain([more.clone()]).collect();
    let (label, value) = (format!("{PREFIX}{key}"), words.join(" "));
    if label.len() + value.len() > MAX_LABEL {
        return Err(format!(
            "{label} would exceed {MAX_LABEL} bytes; add it as a fragment, {label}.more={more:?}"
        ));
    }
    Ok(Allow { label, value })
}

/// A path from the container as a label could hold it. Its text is the container's choice: what people cannot
/// see on a screen must not end up in a label that they paste.
fn path(object: &str) -> Result<AbsPath, String> {
    let plain = |c: char| c == '\'' || c == '"' || c == '\\' || c.escape_debug().count() == 1;
    if !object.chars().all(plain) {
        return Err("its path has characters that a label should not hold".to_owned());
    }
    AbsPath::new(object).map_err(|_| "a label names absolute paths only".to_owned())
}

/// Turns who withholds something into the sentence of a record.
fn unless_withheld(by: Option<&str>, what: &str) -> Result<(), String> {
    by.map_or(Ok(()), |by| Err(format!("{by} does not leave {what} to an image")))
}

impl Granted<'_> {
    fn program(self, object: &str) -> Result<Allow, String> {
        if object.contains("memfd:") {
            return self.need("memfd-exec");
        }
        let path = path(object)?;
        if let Some(root) = ["/proc", "/sys", "/dev"]
            .iter()
            .find(|root| AbsPath::new(root).is_ok_and(|r| path.is_beneath(&r)))
        {
            return Err(format!("nothing under {root} may be run"));
        }
        unless_withheld(self.policy.withholds_program(&path), path.as_str())?;
        if let Some(folder) = self.profile.write.iter().find(|folder| path.is_beneath(folder)) {
            return Err(format!(
                "it lies in {folder}, which dev.keep.write names, and what can be written is never run"
            ));
        }
        if self.intent.exec.iter().any(|declared| path.is_beneath(declared)) {
            return Err(
                "dev.keep.exec names it already; its file mode, its interpreter or a volume refused it"
                    .to_owned(),
            );
        }
        extended("exec", self.intent.exec.iter().map(AbsPath::to_label), path.to_label())
    }

    fn file(self, operation: &str, object: &str) -> Result<Allow, String> {
        let path = path(object)?;
        if let Some(root) = unwritable(&path) {
            return Err(format!("nothing under {root} can be made writable"));
        }
        if let Some(declared) = self.profile.write.iter().find(|declared| path.is_beneath(declared)) {
            return Err(format!(
                "dev.keep.write names {declared} already; file modes, or moving between two write folders, refused it"
            ));
        }
        let folder = path.parent();
        let beneath = |root: &&str| AbsPath::new(root).is_ok_and(|root| folder.is_beneath(&root));
        let shared = SHARED_FOLDERS.contains(&folder.as_str()) || PROGRAM_FOLDERS.iter().any(beneath);
        let granted = match operation {
            _ if !shared => folder,
            "unlink" | "unlinkat" | "rmdir" | "rename" | "renameat" | "renameat2" | "link" | "linkat"
            | "symlink" | "symlinkat" | "mknod" | "mknodat" => {
                return Err(format!("it changes the folder {folder}, which is too much to make writable"));
            }
            _ => path,
        };
        unless_withheld(self.policy.withholds_write(&granted), &format!("writing {granted}"))?;
        // A wider folder takes in the narrower ones.
        let held = topmost(&self.intent.write).into_iter().filter(|held| !held.is_beneath(&granted));
        extended("write", held.map(|path| path.to_label()), granted.to_label())
    }

    fn network(self, operation: &str, object: &str) -> Result<Allow, String> {
        let binds = matches!(operation, "bind" | "listen");
        if let Some(socket) = object.strip_prefix("unix:") {
            if !socket.starts_with('/') {
                return Err("abstract unix sockets stay within the container".to_owned());
            }
            if binds {
                return self.file(operation, socket);
            }
            return self.connect(Endpoint::Unix(path(socket)?));
        }
        let bare = object.rsplit_once(':').map_or(object, |(_, ports)| ports);
        if bare.starts_with("0/") {
            let problem = if binds {
                "port 0 leaves the choice of the port to the kernel; name the ports"
            } else {
                "port 0 is no port"
            };
            return Err(problem.to_owned());
        }
        if binds {
            let ports: PortRange =
                bare.parse().map_err(|_| "it is neither a TCP nor a UDP port".to_owned())?;
            unless_withheld(self.policy.withholds_listen(&ports), &format!("listening on {ports}"))?;
            let held = canonical_listen(&self.intent.listen);
            if held.iter().any(|held| held.covers(&ports)) {
                return Err("dev.keep.listen names it already; another program, or a capability that is lacking, refused it"
                    .to_owned());
            }
            return extended("listen", held.iter().map(ToString::to_string), ports.to_string());
        }
        match unmapped(object).parse::<Endpoint>() {
            Ok(endpoint) => self.connect(endpoint),
            Err(error) => Err(format!("no label names such an address: {}", error.problem)),
        }
    }

    fn connect(self, endpoint: Endpoint) -> Result<Allow, String> {
        unless_withheld(self.policy.withholds_connect(&endpoint), &format!("connecting to {endpoint}"))?;
        let declared = Reach::new(&self.intent.connect);
        if Reach::new([&endpoint]).beyond(&declared).is_empty() {
            return Err(
                "dev.keep.connect names it already; the network or another wall refused it".to_owned()
            );
        }
        let held = declared.endpoints();
        extended("connect", held.iter().map(ToString::to_string), endpoint.to_string())
    }

    fn call(self, object: &str) -> Result<Allow, String> {
        let (name, args) = parse_call(object);
        if !syscalls::names().any(|known| known == name) {
            return Err("Keep does not know this system call".to_owned());
        }
        let entries = self.profile.entries().unwrap_or(Entries { listen: Vec::new(), connect: Vec::new() });
        let now = self.profile.grants(&entries);
        let through = |grants: &Grants| {
            matches!(decide(&syscalls::rules(name, grants), &args), Some(Action::Allow | Action::Observe))
        };
        if through(&now) {
            return Err(
                "the profile allows it; a filter of the pod's or the program's own refused it".to_owned()
            );
        }
        for wanted in Need::all().filter(|need| !now.needs.contains(need)) {
            let mut grants = now.clone();
            grants.needs.insert(wanted.clone());
            if through(&grants) {
                return self.need(wanted.as_str());
            }
        }
        for wanted in Capability::all().filter(|cap| !now.caps.contains(cap)) {
            let mut grants = now.clone();
            grants.caps.insert(wanted.clone());
            if through(&grants) {
                return self.capability(wanted.as_str());
            }
        }
        Err(match now.sockets {
            Sockets::Local if through(&Grants { sockets: Sockets::Stream, ..now.clone() }) => {
                "TCP sockets are there once dev.keep.listen or dev.keep.connect names a port".to_owned()
            }
            Sockets::Local | Sockets::Stream
                if through(&Grants { sockets: Sockets::Datagram, ..now.clone() }) =>
            {
                "UDP sockets are there once dev.keep.listen or dev.keep.connect names a udp port or dns"
                    .to_owned()
            }
            _ => "no declaration opens it".to_owned(),
        })
    }

    fn need(self, name: &str) -> Result<Allow, String> {
        let need = Need::new(name).map_err(|error| error.to_string())?;
        if let Some(by) = self.policy.withholds_need(&need) {
            return Err(format!("it takes dev.keep.needs={name:?}, which {by} does not leave to an image"));
        }
        extended("needs", self.intent.needs.iter().map(ToString::to_string), need.to_string())
    }

    fn capability(self, name: &str) -> Result<Allow, String> {
        let bare = name.strip_prefix("CAP_").unwrap_or(name);
        let capability = Capability::new(bare).map_err(|_| "it is no capability of Linux".to_owned())?;
        if self.profile.caps.contains(&capability) {
            return Err(format!(
                "dev.keep.caps names {capability} already; the pod's security context does not give it"
            ));
        }
        if let Some(by) = self.policy.withholds_capability(&capability) {
            return Err(format!(
                "it takes the capability {capability}, which {by} does not leave to an image"
            ));
        }
        extended("caps", self.intent.caps.iter().map(ToString::to_string), capability.to_string())
    }
}

/// An IPv4 peer as dual-stack sockets see it, `[::ffff:10.0.0.1]:443/tcp`, written as IPv4.
fn unmapped(object: &str) -> Cow<'_, str> {
    let parts = object.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let mapped =
        parts.and_then(|(address, rest)| Some((address.parse::<Ipv6Addr>().ok()?.to_ipv4_mapped()?, rest)));
    mapped.map_or(Cow::Borrowed(object), |(address, rest)| Cow::Owned(format!("{address}{rest}")))
}

/// `name(1, 0x2, -1)` to its name and arguments; arguments that are missing count as 0.
fn parse_call(object: &str) -> (&str, [u64; 6]) {
    let (name, rest) = object.split_once('(').unwrap_or((object, ""));
    let mut args = [0; 6];
    for (arg, word) in args.iter_mut().zip(rest.trim_end_matches(')').split(',')) {
        let word = word.trim();
        let value = match word.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None => word.parse::<u64>().ok().or_else(|| word.parse::<i64>().ok().map(i64::cast_unsigned)),
        };
        *arg = value.unwrap_or_default();
    }
    (name.trim(), args)
}

#[cfg(test)]
mod tests;

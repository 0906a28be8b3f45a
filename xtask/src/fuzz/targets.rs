//! The parsers, what their good inputs are, and what is done with each.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::LazyLock;

use anyhow::{Context as _, Result};
use profiles::intent::{Capability, Need};
use profiles::plan::HostFacts;
use profiles::policy::{self, Policies};
use profiles::{Policy, dockerfile, labels, lint};
use sandbox::executables::Executables;
use sandbox::facts::NATIVE;
use sandbox::programs::ResolvedPrograms;
use sandbox::spec::ImagePrograms;
use tests::{cookbook, images};

use super::mutate::World;
use super::requests;

/// A parser of what others write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Target {
    /// Labels, on to a profile.
    Labels,
    /// Policy files, on to a profile.
    Policies,
    /// Image configs, on to a profile and findings.
    Configs,
    /// Dockerfiles and label files, on to findings.
    Dockerfiles,
    /// Runtime specs, config.json, on to what is left of them behind walls.
    Specs,
    /// Requests of the task API, to a running shim.
    Requests,
}

/// A policy whose ceiling cuts most things.
const NARROW: &str = include_str!("narrow.yaml");
/// Policies with every field.
const POLICIES: [&str; 2] = [NARROW, include_str!("wide.yaml")];
/// Labels with every kind of word.
const LABELS: &str = include_str!("all.labels");
/// A runtime spec as containerd's CRI plugin writes it, with a bit of everything.
pub(super) const SPEC: &str = include_str!("spec.json");
/// An image config as docker writes it.
const CONFIG: &str = include_str!("config.json");

static IN_FORCE: LazyLock<[Option<Policy>; 2]> = LazyLock::new(|| {
    let class = policy::Subject { namespace: Some("shop"), ..policy::Subject::of_class("keep") };
    let narrow = Policies::parse([("narrow.yaml", NARROW)]).ok();
    [Policies::default().select(&class).ok(), narrow.and_then(|policies| policies.select(&class).ok())]
});

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Labels => "labels",
            Self::Policies => "policies",
            Self::Configs => "configs",
            Self::Dockerfiles => "dockerfiles",
            Self::Specs => "specs",
            Self::Requests => "requests",
        })
    }
}

impl Target {
    /// All.
    pub(crate) const ALL: [Self; 6] =
        [Self::Labels, Self::Policies, Self::Configs, Self::Dockerfiles, Self::Specs, Self::Requests];

    /// What inputs are made from.
    ///
    /// # Errors
    /// When docs/cookbook.md cannot be read.
    pub(crate) fn world(self) -> Result<World> {
        anyhow::ensure!(IN_FORCE.iter().all(Option::is_some), "narrow.yaml is no policy");
        let mut dockerfiles = Vec::new();
        for name in cookbook::documented().context("no Dockerfiles to begin with")? {
            dockerfiles.extend(cookbook::dockerfiles(&name)?);
        }
        let nginx: String =
            images::NGINX_LABELS.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
        let labels = [LABELS.to_owned(), nginx];
        let (corpus, more, longest): (Vec<String>, &[&str], usize) = match self {
            Self::Labels => (labels.into(), &["=", "\n", " ", "dev.keep.other="], 2 * labels::MAX_ALL),
            Self::Policies => (POLICIES.map(str::to_owned).into(), &YAML, policy::MAX_FILE),
            Self::Configs => (vec![CONFIG.to_owned()], &JSON, MAX_CONFIG),
            Self::Dockerfiles => {
                (dockerfiles.into_iter().chain(labels).collect(), &DOCKERFILE, dockerfile::MAX_SOURCE)
            }
            Self::Specs => (vec![SPEC.to_owned()], &SPEC_WORDS, MAX_CONFIG),
            Self::Requests => {
                let words = REQUEST_WORDS.to_vec();
                return Ok(World { corpus: requests::corpus(), words, longest: MAX_CONFIG });
            }
        };
        let names = NAMES.get_or_init(|| {
            Capability::all().map(String::from).chain(Need::all().map(String::from)).collect()
        });
        let words = more.iter().copied().chain(WORDS).chain(names.iter().map(String::as_str)).collect();
        Ok(World { corpus: corpus.into_iter().map(String::into_bytes).collect(), words, longest })
    }

    /// Reads an input as Keep does; whether it was valid.
    pub(crate) fn run(self, input: &[u8]) -> bool {
        match self {
            Self::Labels => profiled(&pairs(&String::from_utf8_lossy(input)), None),
            Self::Policies => policies(&String::from_utf8_lossy(input)),
            Self::Configs => config(input),
            Self::Dockerfiles => dockerfile(&String::from_utf8_lossy(input)),
            Self::Specs => spec(input),
            Self::Requests => requests::run(input),
        }
    }
}

/// Longest image config that is read, in bytes: as `keep` and the shim have it.
const MAX_CONFIG: usize = 1 << 20;

static NAMES: std::sync::OnceLock<Vec<String>> = std::sync::OnceLock::new();

const WORDS: [&str; 40] = [
    "dev.keep.intent",
    "dev.keep.exec",
    "dev.keep.listen",
    "dev.keep.listen.metrics",
    "dev.keep.connect",
    "dev.keep.write",
    "dev.keep.read",
    "dev.keep.caps",
    "dev.keep.needs",
    "v1",
    "/usr/sbin/nginx",
    "/bin/sh",
    "/",
    "/a/../b",
    "/proc/1",
    "/%20",
    "8080/tcp",
    "1-65535/udp",
    "65535/tcp",
    "53/udp",
    "80-1/tcp",
    "10.0.0.0/8:443/tcp",
    "0.0.0.0/0:1-65535/tcp",
    "10.1.2.3/8:1/tcp",
    "[2001:db8::/32]:443/tcp",
    "[::/0]:1/udp",
    "[::ffff:1.2.3.4]:80/tcp",
    "[::1",
    "dns",
    "unix:/run/db.sock",
    "unix:",
    "https://a/",
    "CAP_CHOWN",
    "all",
    "../",
    "//",
    "*",
    "${A:-b}",
    "$HOME",
    "sha256:0000",
];
const YAML: [&str; 32] = [
    "\n",
    "  ",
    "- ",
    ": ",
    "[",
    "]",
    "{",
    "}",
    "&a ",
    "*a",
    "<<: *a",
    "!!str ",
    "|\n",
    ">-\n",
    "---\n",
    "...\n",
    "? ",
    "# ",
    "~",
    "null",
    "true",
    "no",
    "spec:",
    "selector:",
    "ceiling:",
    "deny:",
    "default:",
    "namespaces:",
    "images:",
    "exceptions:",
    "mode: audit",
    "onExceed: Reject",
];
const JSON: [&str; 24] = [
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "null",
    "true",
    "1",
    "\"\"",
    "[[[[",
    "{\"a\":",
    "\"config\":",
    "\"Labels\":",
    "\"Entrypoint\":",
    "\"Cmd\":",
    "\"Env\":",
    "\"ExposedPorts\":",
    "\"rootfs\":",
    "\"history\":",
    "\"\\u0000\"",
    "\"\\ud800\"",
    "\"8080/tcp\":{}",
];
const SPEC_WORDS: [&str; 24] = [
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "null",
    "true",
    "-1",
    "\"\"",
    "{\"a\":",
    "\"process\":",
    "\"mounts\":",
    "\"destination\":",
    "\"options\":",
    "\"rbind\"",
    "\"idmap\"",
    "\"linux\":",
    "\"seccomp\":",
    "\"CAP_SYS_ADMIN\"",
    "../../..",
    "/proc/self/fd/1",
    "18446744073709551615",
];
const REQUEST_WORDS: [&str; 24] = [
    "Create\n",
    "Start\n",
    "Exec\n",
    "Checkpoint\n",
    "Update\n",
    "Nothing\n",
    "\n",
    "\u{0}",
    "\u{1}",
    "\u{2}",
    "\u{7f}",
    "\u{a}\u{3}web",
    "\u{12}\u{0}",
    "\u{18}\u{7f}",
    "\u{1a}",
    "\u{22}",
    "\u{3a}",
    "\u{52}",
    "../",
    "web",
    "file:///run/log",
    "binary:///bin/true?a=b",
    "runtimeoptions.v1.Options",
    "{\"args\":[]}",
];
const DOCKERFILE: [&str; 44] = [
    "\n",
    " \\\n",
    "FROM ",
    " AS ",
    "RUN ",
    "LABEL ",
    "ENV ",
    "ARG ",
    "COPY ",
    "ADD ",
    "CMD ",
    "ENTRYPOINT ",
    "EXPOSE ",
    "USER ",
    "WORKDIR ",
    "VOLUME ",
    "SHELL ",
    "ONBUILD ",
    "HEALTHCHECK ",
    "STOPSIGNAL ",
    "MAINTAINER ",
    "--from=",
    "--chmod=755 ",
    "--platform=",
    "<<EOF\n",
    "EOF\n",
    "# escape=`\n",
    "# syntax=a\n",
    "[\"",
    "\"]",
    "[]",
    "\", \"",
    "=",
    "${A:+b}",
    "${A-",
    "${A#b}",
    "$A",
    "scratch",
    "#!/bin/sh\n",
    "exec ",
    "&&",
    "`",
    "A=b ",
    "debian:12-slim",
];

/// `key=value` lines, without more ado.
fn pairs(text: &str) -> BTreeMap<String, String> {
    let lines = text.split('\n').filter_map(|line| line.split_once('='));
    lines.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn profiled(given: &BTreeMap<String, String>, entrypoint: Option<&str>) -> bool {
    let survey = labels::survey(given);
    let declaration = labels::parse(given);
    assert!(
        declaration.is_ok() || !survey.errors.is_empty(),
        "a linter has nothing to say of what is refused"
    );
    for policy in IN_FORCE.iter().flatten() {
        if let Ok(computed) = profiles::compute(declaration.clone(), entrypoint, policy) {
            assert!(!computed.profile.digest().is_empty());
        }
    }
    declaration.is_ok()
}

fn policies(text: &str) -> bool {
    let Ok(policies) = Policies::parse([("fuzz.yaml", text)]) else { return false };
    let subject = policy::Subject {
        namespace: Some("shop"),
        image: Some("docker.io/shop/web:1.4"),
        ..policy::Subject::of_class("keep")
    };
    if let Ok(policy) = policies.select(&subject) {
        let declared = labels::parse(&pairs(LABELS));
        drop(profiles::compute(declared, Some("/usr/sbin/nginx"), &policy));
    }
    true
}

fn config(bytes: &[u8]) -> bool {
    if bytes.len() > MAX_CONFIG {
        return false;
    }
    let Ok(config) = serde_json::from_slice::<oci_spec::image::ImageConfiguration>(bytes) else {
        return false;
    };
    let Some(config) = config.config() else { return true };
    let given: BTreeMap<String, String> =
        config.labels().iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
    let first = |words: &Option<Vec<String>>| words.as_ref().and_then(|words| words.first().cloned());
    let entrypoint = first(config.entrypoint()).or_else(|| first(config.cmd()));
    profiled(&given, entrypoint.as_deref());
    let facts = lint::ImageFacts {
        entrypoint: config.entrypoint().clone().and_then(lint::Command::of),
        cmd: config.cmd().clone().and_then(lint::Command::of),
        exposed: config
            .exposed_ports()
            .iter()
            .flatten()
            .filter_map(|port| lint::exposed_port(port))
            .collect(),
        user: config.user().clone(),
        ..lint::ImageFacts::default()
    };
    linted(&lint::Subject { labels: given, facts });
    true
}

fn linted(subject: &lint::Subject) {
    for policy in IN_FORCE.iter().flatten() {
        drop(lint::lint(subject, policy));
    }
}

fn dockerfile(text: &str) -> bool {
    let options = dockerfile::Options { os: "linux", arch: "amd64", ..dockerfile::Options::default() };
    let built = dockerfile::read(text, &options);
    let labelled =
        if text.len() > dockerfile::MAX_SOURCE { None } else { dockerfile::read_label_file(text).ok() };
    for built in built.iter().chain(&labelled) {
        for policy in IN_FORCE.iter().flatten() {
            drop(lint::lint_dockerfile(built, policy));
        }
    }
    built.is_ok() || labelled.is_some()
}

/// What becomes of a runtime spec between containerd and libcontainer, on an image that has nothing.
fn spec(bytes: &[u8]) -> bool {
    static IMAGE: LazyLock<Option<tempfile::TempDir>> = LazyLock::new(|| tempfile::tempdir().ok());
    let (Some(image), Some(policy)) = (&*IMAGE, &IN_FORCE[0]) else { return false };
    let Ok(mut spec) = serde_json::from_slice::<oci_spec::runtime::Spec>(bytes) else { return false };
    let labels = labels::parse(&pairs(LABELS));
    let Ok(computed) = profiles::compute(labels, Some("/usr/sbin/nginx"), policy) else { return false };
    let host =
        HostFacts { arch: NATIVE, landlock_abi: 7, listener: true, wait_killable: true, cgroup_bpf: true };
    let Ok(plan) = profiles::plan(&computed.profile, &host) else { return false };
    let seccomp = sandbox::spec::take_seccomp(&mut spec);
    if let Ok(Some(json)) = &seccomp
        && let Ok(filter) = profiles::plan::seccomp_from_oci(json, NATIVE)
    {
        drop(sandbox::filter::compile(&filter));
    }
    drop((sandbox::spec::may_hold_sockets(&spec), sandbox::spec::writable_volumes(&spec, &plan)));
    let (declared, all) = (ResolvedPrograms::default(), Executables::default());
    let programs = ImagePrograms { declared: &declared, all: Ok(&all) };
    let empty = image.path().join("empty");
    sandbox::spec::harden(&mut spec, &plan, programs, image.path(), &empty).is_ok() && seccomp.is_ok()
}

//! Programs that are known by their names.

/// Shells, and busybox, which is one among others.
const SHELLS: [&str; 11] =
    ["sh", "bash", "dash", "ash", "zsh", "ksh", "mksh", "fish", "csh", "tcsh", "busybox"];
/// Interpreters that run any script they are given; versions follow some of the names.
const INTERPRETERS: [&str; 12] =
    ["python", "perl", "ruby", "node", "nodejs", "deno", "bun", "php", "lua", "tclsh", "awk", "gawk"];
/// Programs that make machine code while they run, and those that start them.
const COMPILERS: [&str; 16] = [
    "java",
    "node",
    "nodejs",
    "npm",
    "npx",
    "yarn",
    "pnpm",
    "deno",
    "bun",
    "dotnet",
    "luajit",
    "pypy",
    "julia",
    "catalina.sh",
    "jshell",
    "beam.smp",
];
/// Base images of such programs, by the last part of their names.
const COMPILER_IMAGES: [&str; 13] = [
    "node",
    "openjdk",
    "eclipse-temurin",
    "amazoncorretto",
    "sapmachine",
    "ibm-semeru-runtimes",
    "tomcat",
    "jetty",
    "java",
    "nodejs",
    "zulu-openjdk",
    "groovy",
    "liberica-openjre-debian",
];
/// Folders in which every usual image has a shell.
const SHELL_FOLDERS: [&str; 4] = ["/", "/bin", "/usr", "/usr/bin"];

/// The last part of a path.
pub(super) fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

/// A program's name without a version behind it: `python3.11` is `python`.
fn stem(path: &str) -> &str {
    let name = base(path);
    if COMPILERS.contains(&name) {
        name
    } else {
        name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '-')
    }
}

pub(super) fn is_shell(path: &str) -> bool {
    SHELLS.contains(&base(path))
}

pub(super) fn is_interpreter(path: &str) -> bool {
    INTERPRETERS.contains(&stem(path))
}

pub(super) fn is_compiler(path: &str) -> bool {
    COMPILERS.contains(&stem(path))
}

/// Whether images called `name` are made to run such programs: `node:22`, `gcr.io/distroless/java21-debian12`.
pub(super) fn is_compiler_image(name: &str) -> bool {
    let name = name.split('@').next().unwrap_or_default();
    let last = base(name).split(':').next().unwrap_or_default();
    let distroless = name.contains("distroless/") && (last.starts_with("java") || last.starts_with("nodejs"));
    // "java-base" has no Java in it.
    COMPILER_IMAGES.contains(&last) || (distroless && !last.starts_with("java-base"))
}

pub(super) fn holds_a_shell(folder: &str) -> bool {
    SHELL_FOLDERS.contains(&folder)
}

/// Whether a path is that of a shared library: `/lib/libx.so`, `/lib/libx.so.6`.
pub(super) fn is_library(path: &str) -> bool {
    let name = base(path);
    let version = |rest: &str| rest.is_empty() || rest.starts_with('.');
    name.split_once(".so").is_some_and(|(_, rest)| version(rest)) && !name.starts_with("ld-")
}

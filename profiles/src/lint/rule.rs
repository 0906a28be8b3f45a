//! The rules, by their ids. docs/lint.md explains each.

/// How much a finding weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Something worth knowing; nothing to mend.
    Note,
    /// It would run, and an expert would not leave it so.
    Warning,
    /// It would not run, or not as it says.
    Error,
}

impl Severity {
    /// Its name, also that of SARIF's `level`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Its id, for example `unknown-need`; never changed.
    pub id: &'static str,
    /// How much its findings usually weigh.
    pub severity: Severity,
    /// What it finds, in one sentence.
    pub summary: &'static str,
}

macro_rules! rules {
    ($($name:ident $severity:ident $id:literal $summary:literal)+) => {
        $(
            #[doc = $summary]
            pub const $name: Rule = Rule { id: $id, severity: Severity::$severity, summary: $summary };
        )+
        /// Every rule, errors first.
        pub const ALL: &[Rule] = &[$($name),+];
    };
}

rules! {
    INVALID_DOCKERFILE Error "invalid-dockerfile" "The Dockerfile or label file is not one that can be read."
    INVALID_VERSION Error "invalid-version" "The schema version in dev.keep.intent is not one that Keep reads."
    WITHOUT_INTENT Error "without-intent" "dev.keep labels stand without dev.keep.intent, so that they declare nothing."
    UNKNOWN_KEY Error "unknown-key" "A dev.keep label has a key that the schema does not have; it is ignored when the image runs."
    LABEL_TOO_LONG Error "label-too-long" "A label is longer than 4 KiB, or all of them are longer than 32 KiB."
    INVALID_PATH Error "invalid-path" "A path of exec, write or read is not one that can be granted."
    INVALID_PORT Error "invalid-port" "An entry of dev.keep.listen is not a port."
    INVALID_ENDPOINT Error "invalid-endpoint" "An entry of dev.keep.connect is not a place to connect to."
    UNKNOWN_CAPABILITY Error "unknown-capability" "dev.keep.caps names a capability that Linux does not have."
    UNKNOWN_NEED Error "unknown-need" "dev.keep.needs names a need that the schema does not have."
    UNDECLARED Warning "undeclared" "The image declares nothing."
    UNDEFINED_VARIABLE Warning "undefined-variable" "A label uses a variable that has no value, and becomes empty there."
    SHELL_ENTRYPOINT Warning "shell-entrypoint" "The image starts a shell, which is thereby granted and runs any script."
    SCRIPT_TOOLS Warning "script-tools" "The entrypoint is a shell script, and the programs that it calls are not declared."
    MISSING_PROGRAM Warning "missing-program" "A declared program is not in the image, or is not executable."
    SHELL_DECLARED Warning "shell-declared" "A declared program is a shell or an interpreter: this lets any script run."
    LIBRARY_DECLARED Warning "library-declared" "A shared library is declared as a program."
    SETUID_PROGRAM Warning "setuid-program" "A declared program is set-uid or set-gid, which has no effect behind Keep's walls."
    WRITABLE_PROGRAM Warning "writable-program" "A writable folder holds a declared program, which therefore never runs."
    WRITE_FILE Warning "write-file" "A write entry is a single file, which cannot be removed or renamed over."
    PRIVILEGED_PORT Warning "privileged-port" "A port below 1024 is bound without the capability NET_BIND_SERVICE."
    EXPOSE_DIFFERS Warning "expose-differs" "EXPOSE and dev.keep.listen name different ports."
    STRONG_CAPABILITY Warning "strong-capability" "A declared capability is as good as root."
    BEYOND_CLASS Warning "beyond-class" "The class does not leave a declared capability or need to an image."
    MISSING_JIT Warning "missing-jit" "The image runs on a just-in-time compiler and does not declare the need jit."
    UNKNOWN_BASE Note "unknown-base" "The labels of the base image are not known."
}

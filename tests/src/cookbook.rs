//! The images of docs/cookbook.md: what the page says of each, on files of the same Debian packages.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::image::{Image, Layer};
use crate::{command, debian, dockerfile, provision};

/// What `RUN` and earlier stages leave in an image.
enum Files {
    /// Files of Debian's packages, on Debian's base image. `@T@` is the architecture's triple.
    Debian(&'static [&'static str]),
    /// One static program, on nothing: where it lies in the image, and how it is built from the section's folder.
    Static(&'static str, fn(&Path) -> Result<PathBuf>),
    /// Java's own files and the classes of a source in the section's folder, in `/srv`.
    Java(&'static str),
}

/// A section of the page.
struct Section {
    name: &'static str,
    /// Debian's packages that bring its programs, and their libraries that the base image lacks.
    packages: &'static [&'static str],
    files: Files,
}

/// The page's sections, in its order.
const SECTIONS: &[Section] = &[
    Section { name: "nginx", packages: &["nginx"], files: Files::Debian(&["usr/sbin/nginx"]) },
    Section {
        name: "redis",
        packages: &[
            "redis-server",
            "redis-tools",
            "libatomic1",
            "libcap2",
            "libgcrypt20",
            "libgpg-error0",
            "libjemalloc2",
            "liblz4-1",
            "liblzf1",
        ],
        files: Files::Debian(&["usr/bin/redis-server"]),
    },
    Section {
        name: "postgres",
        packages: &[
            "postgresql-15",
            "postgresql-client-15",
            "libaudit1",
            "libcap-ng0",
            "libcom-err2",
            "libffi8",
            "libgnutls30",
            "libgssapi-krb5-2",
            "libhogweed6",
            "libicu72",
            "libidn2-0",
            "libk5crypto3",
            "libkeyutils1",
            "libkrb5-3",
            "libkrb5support0",
            "libldap-2.5-0",
            "libnettle8",
            "libp11-kit0",
            "libpam0g",
            "libpq5",
            "libreadline8",
            "libsasl2-2",
            "libtasn1-6",
            "libunistring2",
            "libxml2",
        ],
        files: Files::Debian(&[
            "usr/lib/postgresql/15/bin/initdb",
            "usr/lib/postgresql/15/bin/postgres",
            "usr/lib/postgresql/15/bin/psql",
            "usr/lib/postgresql/15/lib/dict_snowball.so",
            "usr/lib/postgresql/15/lib/plpgsql.so",
            "usr/share/postgresql/15",
            "usr/share/zoneinfo",
        ]),
    },
    Section {
        name: "go",
        packages: &[],
        files: Files::Static("hello", |_| provision::go_program("../docs/cookbook/go", "hello-go")),
    },
    Section {
        name: "rust",
        packages: &[],
        files: Files::Static("hello", |folder| {
            provision::rust_program(&folder.join("main.rs"), "hello-rust")
        }),
    },
    Section {
        name: "gunicorn",
        packages: &[
            "gunicorn",
            "libexpat1",
            "libpython3.11-minimal",
            "libpython3.11-stdlib",
            "python3-gunicorn",
            "python3-minimal",
            "python3-pkg-resources",
            "python3.11-minimal",
        ],
        files: Files::Debian(&[
            "usr/bin/gunicorn",
            "usr/bin/python3",
            "usr/lib/python3",
            "usr/lib/python3.11",
            "usr/lib/@T@/libssl.so.3",
            "usr/lib/@T@/libffi.so.8",
        ]),
    },
    Section {
        name: "node",
        packages: &[
            "nodejs",
            "libbrotli1",
            "libc-ares2",
            "libnghttp2-14",
            "libnode108",
            "libuv1",
            "node-acorn",
            "node-busboy",
            "node-cjs-module-lexer",
            "node-undici",
            "node-xtend",
        ],
        files: Files::Debian(&["usr/bin/node", "usr/share/nodejs"]),
    },
    Section { name: "java", packages: &["openjdk-17-jre-headless"], files: Files::Java("Hello.java") },
    Section {
        name: "haproxy",
        packages: &["haproxy", "liblua5.3-0", "libopentracing-c-wrapper0", "libopentracing1"],
        files: Files::Debian(&["usr/sbin/haproxy"]),
    },
    Section {
        name: "memcached",
        packages: &["memcached", "libevent-2.1-7"],
        files: Files::Debian(&["usr/bin/memcached"]),
    },
    Section {
        name: "dnsmasq",
        packages: &[
            "dnsmasq-base",
            "libdbus-1-3",
            "libjansson4",
            "libmnl0",
            "libnetfilter-conntrack3",
            "libnfnetlink0",
            "libnftables1",
            "libnftnl11",
            "libxtables12",
        ],
        files: Files::Debian(&["usr/sbin/dnsmasq"]),
    },
    Section {
        name: "lighttpd",
        packages: &["lighttpd", "libxxhash0"],
        files: Files::Debian(&["usr/sbin/lighttpd", "usr/lib/lighttpd"]),
    },
    Section {
        name: "node-exporter",
        packages: &["prometheus-node-exporter"],
        files: Files::Debian(&["usr/bin/prometheus-node-exporter"]),
    },
    Section { name: "cron", packages: &[], files: Files::Debian(&[]) },
    Section {
        name: "job",
        packages: &["curl", "libcurl4", "libpsl5", "librtmp1", "libssh2-1"],
        files: Files::Debian(&["usr/bin/curl"]),
    },
];

/// Packages of which only the tests' clients use files.
const CLIENTS: &[&str] = &["busybox"];

/// Debian's Java, beneath the root.
const JVM: &str = if cfg!(target_arch = "aarch64") {
    "usr/lib/jvm/java-17-openjdk-arm64"
} else {
    "usr/lib/jvm/java-17-openjdk-amd64"
};

/// The folder into which the packages of the images and of their clients are unpacked.
///
/// # Errors
/// When they cannot be fetched or unpacked.
pub fn files() -> Result<PathBuf> {
    let sections = SECTIONS.iter().flat_map(|section| section.packages);
    let packages: Vec<&str> = debian::PACKAGES.iter().chain(CLIENTS).chain(sections).copied().collect();
    provision::debian_files("cookbook", &packages)
}

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

/// The Dockerfiles of a page's sections that have some.
fn blocks(page: &str) -> Vec<(&str, Vec<&str>)> {
    let sections = page.split("\n## ").skip(1);
    let sections = sections.map(|section| {
        let blocks = section.split("\n```dockerfile\n").skip(1).filter_map(|rest| rest.split("```").next());
        (section.lines().next().unwrap_or_default().trim(), blocks.collect::<Vec<_>>())
    });
    sections.filter(|(_, blocks)| !blocks.is_empty()).collect()
}

/// Names of the page's sections with a Dockerfile; those with two are about building in stages.
///
/// # Errors
/// When the page cannot be read.
pub fn documented() -> Result<Vec<String>> {
    let page = page()?;
    let whole = blocks(&page).into_iter().filter(|(_, blocks)| blocks.len() == 1);
    Ok(whole.map(|(name, _)| name.to_owned()).collect())
}

/// The folder of the files that a section's Dockerfiles copy; it may not be there.
#[must_use]
pub fn context(name: &str) -> PathBuf {
    docs().join("cookbook").join(name)
}

/// Every Dockerfile of the page, with the name of its section.
///
/// # Errors
/// When the page cannot be read.
pub fn all_dockerfiles() -> Result<Vec<(String, String)>> {
    let page = page()?;
    let named = |(name, blocks): (&str, Vec<&str>)| -> Vec<(String, String)> {
        blocks.into_iter().map(|block| (name.to_owned(), block.to_owned())).collect()
    };
    Ok(blocks(&page).into_iter().flat_map(named).collect())
}

/// The Dockerfiles of a section.
///
/// # Errors
/// When the page cannot be read or has no such section.
pub fn dockerfiles(name: &str) -> Result<Vec<String>> {
    let page = page()?;
    let found = blocks(&page).into_iter().find(|(section, _)| *section == name);
    let (_, blocks) = found.with_context(|| format!("docs/cookbook.md has no Dockerfile for {name}"))?;
    Ok(blocks.into_iter().map(str::to_owned).collect())
}

fn page() -> Result<String> {
    let path = docs().join("cookbook.md");
    std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// The image of a section.
///
/// # Errors
/// When there is no such section, its Dockerfile says what is not known, or its files cannot be had.
pub fn image(name: &str) -> Result<Image> {
    let texts = dockerfiles(name)?;
    let [text] = texts.as_slice() else { bail!("the cookbook's {name} is not one image") };
    let section = SECTIONS.iter().find(|section| section.name == name);
    let section = section.with_context(|| format!("no files are known for the cookbook's {name}"))?;
    let folder = context(name);
    let base = section.files.image(&folder).with_context(|| format!("cannot make the cookbook's {name}"))?;
    dockerfile::build(text, base, &folder).with_context(|| format!("docs/cookbook.md, {name}"))
}

impl Files {
    fn image(&self, folder: &Path) -> Result<Image> {
        let (root, layer) = match self {
            Self::Static(to, build) => return Ok(Image::new([Layer::new().copy(&build(folder)?, to)?])),
            Self::Debian(paths) => {
                let root = files()?;
                let triple = format!("{}-linux-gnu", std::env::consts::ARCH);
                let paths: Vec<String> = paths.iter().map(|path| path.replace("@T@", &triple)).collect();
                let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
                let layer = debian::add(Layer::new(), &root, &paths)?;
                (root, layer)
            }
            Self::Java(source) => {
                let root = files()?;
                let classes = compile(&root, &folder.join(source))?;
                let parts = ["bin", "conf", "lib", "lib/server/libjvm.so", "lib/libjli.so"];
                let parts = parts.map(|part| format!("{JVM}/{part}"));
                let mut paths: Vec<&str> = parts.iter().map(String::as_str).collect();
                paths.push("etc/java-17-openjdk");
                let layer = debian::add(Layer::new(), &root, &paths)?.tree(&classes, "srv")?;
                (root, layer)
            }
        };
        Ok(Image::new([debian::base(&root)?, layer]))
    }
}

/// Compiles a Java file with the compiler that is within Debian's runtime, and gives the folder of its classes.
fn compile(root: &Path, source: &Path) -> Result<PathBuf> {
    let name = source.file_name().context("a Java file has a name")?.to_string_lossy();
    let inside = format!("srv/{name}");
    let classes = root.join("srv/classes");
    std::fs::create_dir_all(&classes).with_context(|| format!("cannot make {}", classes.display()))?;
    std::fs::copy(source, root.join(&inside)).with_context(|| format!("cannot copy {}", source.display()))?;
    // Java looks for itself in /proc; the mount ends with the compiler.
    let script = "mkdir -p \"$0/proc\" && mount -t proc proc \"$0/proc\" && exec chroot \"$0\" \"$@\"";
    let mut compile = Command::new("unshare");
    compile.args(["--mount", "sh", "-c", script]).arg(root).arg(format!("/{JVM}/bin/java"));
    compile.args(["-m", "jdk.compiler/com.sun.tools.javac.Main", "-d", "/srv/classes"]);
    command::run(compile.arg(format!("/{inside}")), Duration::from_secs(120))?.success()?;
    Ok(classes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dockerfile_of_the_page_has_its_files_and_the_other_way_round() {
        let ours: Vec<&str> = SECTIONS.iter().map(|section| section.name).collect();
        assert_eq!(documented().expect("the page"), ours);
    }

    #[test]
    fn what_a_dockerfile_installs_is_what_its_image_is_made_of() {
        for section in SECTIONS {
            let text = dockerfiles(section.name).expect("the page").concat();
            let installed = dockerfile::installed(&text).expect("a Dockerfile");
            let known = |package: &String| section.packages.contains(&package.as_str());
            assert!(installed.iter().all(known), "{}: {installed:?}", section.name);
            assert_eq!(installed.is_empty(), section.packages.is_empty(), "{}: {installed:?}", section.name);
        }
    }

    #[test]
    fn the_blocks_of_a_section_are_found() {
        let page = "# t\n## a\nx\n## b\nwords\n```dockerfile\nFROM x\n```\n```dockerfile\nFROM y\n```\n";
        assert_eq!(blocks(page), [("b", vec!["FROM x\n", "FROM y\n"])]);
    }
}

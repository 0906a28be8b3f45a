//! The images of the tests and the demo.

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::image::{Image, Layer};
use crate::{provision, under_test};

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/bin/false\n\
                      nobody:x:65534:65534:nobody:/home:/bin/false\n";
const GROUP: &str = "root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n";
/// User and group of nginx.
const WWW_DATA: u64 = 33;

pub(crate) fn base() -> Layer {
    Layer::new()
        .file("etc/passwd", PASSWD, 0o644)
        .file("etc/group", GROUP, 0o644)
        .file("etc/shadow", "root:*:19000:0:99999:7:::\n", 0o640)
        .folder("tmp", 0o1777, 0)
        .folder("root", 0o700, 0)
        .folder("proc", 0o755, 0)
        .folder("sys", 0o755, 0)
        .folder("dev", 0o755, 0)
        .folder("run", 0o755, 0)
}

/// Port that the probe's intent declares.
pub const PROBE_PORT: u16 = 8080;

/// The probe as entrypoint, a second program `/bin/other`, folders `/data` and `/opt/state`, no labels.
///
/// # Errors
/// When the probe is not built.
pub fn probe() -> Result<Image> {
    let probe = under_test::binary("keep-probe")?;
    let layer = base()
        .copy(&probe, "bin/keep-probe")?
        .copy(&probe, "bin/other")?
        .folder("data", 0o777, 0)
        .folder("opt/state", 0o777, 0)
        .file("opt/state/file", "x", 0o666)
        .file("etc/motd", "hello\n", 0o644);
    Ok(Image::new([layer]).entrypoint(&["/bin/keep-probe"]).command(&["sleep", "3600"]))
}

/// Makes `folder`, which can be a container's root: the probe as `/bin/keep-probe`, and folders to mount on.
///
/// # Errors
/// When the probe is not built, or the folder cannot be made.
pub fn probe_in(folder: &Path) -> Result<()> {
    let failed = || format!("cannot make {}", folder.display());
    for name in ["bin", "dev", "proc", "sys", "tmp"] {
        std::fs::create_dir_all(folder.join(name)).with_context(failed)?;
    }
    std::fs::copy(under_test::binary("keep-probe")?, folder.join("bin/keep-probe")).with_context(failed)?;
    Ok(())
}

/// As [`probe`], with the labels of an intent that only allows what every test needs: one port and `/data`.
///
/// # Errors
/// When the probe is not built.
pub fn declared_probe() -> Result<Image> {
    let port = format!("{PROBE_PORT}/tcp");
    Ok(probe()?.labels([
        ("dev.keep.intent", "v1"),
        ("dev.keep.listen", port.as_str()),
        ("dev.keep.write", "/data"),
    ]))
}

/// Debian's busybox, dynamic, its applets as hard links, no labels.
///
/// # Errors
/// When Debian's packages cannot be had.
pub fn busybox() -> Result<Image> {
    let root = provision::image_files()?;
    let program = root.join("bin/busybox");
    let mut layer = base().program(&program, "bin/busybox", &[&root, Path::new("/")])?;
    let applets = [
        "sh", "ls", "cat", "echo", "env", "id", "kill", "mkdir", "mount", "ps", "rm", "sleep", "stty",
        "touch", "tr", "true", "false", "tty", "wc", "wget", "hostname", "head", "ln", "mv", "cp", "chmod",
        "dd", "seq", "yes",
    ];
    for applet in applets {
        layer = layer.hard_link(&format!("bin/{applet}"), "bin/busybox");
    }
    Ok(Image::new([layer]).command(&["sh"]))
}

/// Debian's dash as `/bin/sh`, the declared entrypoint, beside a busybox that is not declared.
///
/// # Errors
/// When Debian's packages cannot be had.
pub fn shell() -> Result<Image> {
    let root = provision::image_files()?;
    let roots = [root.as_path(), Path::new("/")];
    let layer = base().program(&root.join("bin/dash"), "bin/sh", &roots)?.program(
        &root.join("bin/busybox"),
        "bin/busybox",
        &roots,
    )?;
    Ok(Image::new([layer]).entrypoint(&["/bin/sh"]).label("dev.keep.intent", "v1"))
}

/// A static program that ends with 0 at once, as `/bin/true`: the benchmark's image, undeclared.
///
/// # Errors
/// When the probe is not built.
pub fn static_true() -> Result<Image> {
    let layer = base().copy(&under_test::binary("keep-probe")?, "bin/true")?;
    Ok(Image::new([layer]).entrypoint(&["/bin/true"]).command(&["ok"]))
}

/// The Go program that is signalled a thousand times a second.
///
/// # Errors
/// When Go is missing.
pub fn signalled() -> Result<Image> {
    let layer = base()
        .copy(&provision::go_program("go/signalled", "signalled")?, "bin/signalled")?
        .folder("data", 0o777, 0);
    Ok(Image::new([layer]).entrypoint(&["/bin/signalled"]).command(&["2000", "/data/file"]))
}

/// Where nginx listens.
pub const NGINX_PORT: u16 = 8080;

/// What nginx's image says it needs.
pub const NGINX_LABELS: [(&str, &str); 4] = [
    ("dev.keep.intent", "v1"),
    ("dev.keep.exec", "/usr/sbin/nginx"),
    ("dev.keep.listen", "8080/tcp"),
    ("dev.keep.write", "/var/lib/nginx"),
];

/// Debian's nginx, run as www-data, with a handler that does whatever a request asks of it: the hole through which the
/// demo's intruder came. `/?exec=`, `/?write=`, `/?connect=`, `/?bind=`, `/?msgget=`.
///
/// # Errors
/// When Debian's packages cannot be had.
pub fn nginx() -> Result<Image> {
    let root = provision::image_files()?;
    let roots = [root.as_path(), Path::new("/")];
    let triple = format!("{}-linux-gnu", std::env::consts::ARCH);
    let modules = format!("usr/lib/{triple}/perl5/5.36");
    let handler = "usr/lib/nginx/modules/ngx_http_perl_module.so";
    let binding = format!("{modules}/auto/nginx/nginx.so");
    let system = base()
        .program(&root.join("bin/dash"), "bin/sh", &roots)?
        .program(&root.join("usr/sbin/nginx"), "usr/sbin/nginx", &roots)?
        .program(&root.join(handler), handler, &roots)?
        .program(&root.join(&binding), &binding, &roots)?
        .copy(&root.join(format!("{modules}/nginx.pm")), &format!("{modules}/nginx.pm"))?
        .tree(&root.join(format!("usr/lib/{triple}/perl-base")), &format!("usr/lib/{triple}/perl/5.36"))?
        .folder("var/lib/nginx", 0o755, WWW_DATA)
        .folder("var/www", 0o755, 0);
    let site = Layer::new()
        .file("etc/nginx/nginx.conf", include_str!("images/nginx.conf"), 0o644)
        .file("etc/nginx/handler.pm", include_str!("images/handler.pm"), 0o644)
        .folder("etc/nginx/conf.d", 0o755, WWW_DATA)
        .file("var/www/index.html", "<h1>The shop is open</h1>\n", 0o644);
    let image = Image::new([system, site]).user("www-data");
    Ok(image.entrypoint(&["/usr/sbin/nginx", "-e", "stderr", "-g", "daemon off;"]))
}

/// Writes an image beneath `folder` under its name and gives the archive's path.
///
/// # Errors
/// When it cannot be written.
pub fn write(image: &Image, reference: &str, folder: &Path) -> Result<std::path::PathBuf> {
    let name: String = reference.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let path = folder.join(format!("{name}.tar"));
    image.write(reference, &path).with_context(|| format!("cannot make the image {reference}"))?;
    Ok(path)
}

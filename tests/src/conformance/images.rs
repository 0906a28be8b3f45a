//! The images that critest pulls, made of Debian's packages, under their public names.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::command::run;
use crate::image::{Image, Layer};
use crate::registry::Shelf;
use crate::{provision, under_test};

/// Packages of which the images have files.
const PACKAGES: &[&str] =
    &["busybox", "libc6", "libcrypt1", "libpcre2-8-0", "libssl3", "nginx", "util-linux", "zlib1g"];
const E2E: &str = "registry.k8s.io/e2e-test-images";
const TOOLS: &str = "gcr.io/k8s-staging-cri-tools";

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\n\
                      bin:x:2:2:bin:/bin:/bin/false\nwww-data:x:33:33:www-data:/var/www:/bin/false\n\
                      nobody:x:65534:65534:nobody:/home:/bin/false\n";
const GROUP: &str = "root:x:0:\ndaemon:x:1:\nbin:x:2:\nwww-data:x:33:\nusers:x:100:\nnogroup:x:65534:\n";
/// Debian's busybox has no `pgrep`.
const PGREP: &str = "#!/bin/sh\nr=$(pidof \"$@\") || exit 1\necho $r | tr ' ' '\\n'\n";
const NGINX: &str = "user www-data;\nworker_processes 1;\npid /var/run/nginx.pid;\nerror_log /dev/stderr;\n\
                     events { worker_connections 256; }\nhttp { access_log /dev/stdout; server { listen PORT; \
                     location / { root /usr/share/nginx/html; index index.html; } } }\n";

/// All of them.
///
/// # Errors
/// When Debian's packages cannot be had, or the probe is not built.
pub(super) fn shelf() -> Result<Shelf> {
    let root = provision::debian_files("conformance", PACKAGES)?;
    let probe = under_test::binary("keep-probe")?;
    let base = base(&root)?;
    let shell = |layers: Vec<Layer>| Image::new(std::iter::once(base.clone()).chain(layers)).command(&["sh"]);
    let mut shelf = Shelf::default();
    let mut add = |image: &Image, names: &[&str]| shelf.add(image, names);
    let named = |name: &str| format!("{TOOLS}/{name}");

    add(&shell(vec![]), &[&format!("{E2E}/busybox:1.29-2"), "docker.io/library/busybox:latest"])?;
    let serve = ["nginx", "-g", "daemon off;"];
    add(&shell(vec![nginx(&root, 80)?]).command(&serve), &[&format!("{E2E}/nginx:1.14-2")])?;
    let host = shell(vec![nginx(&root, 12003)?]).command(&serve);
    add(&host, &[&named("hostnet-nginx-amd64:latest")])?;
    let page = Layer::new().file("www/index.html", "<h1>It works</h1>\n", 0o644);
    let line = "echo httpd -D FOREGROUND; exec httpd -f -p 80 -h /www";
    add(&shell(vec![page]).command(&["sh", "-c", line]), &[&format!("{E2E}/httpd:2.4.39-4")])?;
    let program = std::fs::read(&probe).with_context(|| format!("cannot read {}", probe.display()))?;
    let set_uid = Layer::new().file("nnp", program.clone(), 0o4755);
    let set_uid = Image::new([base.clone(), set_uid]).entrypoint(&["/nnp", "effective-uid"]);
    add(&set_uid, &[&format!("{E2E}/nonewprivs:1.3")])?;
    // Not the same as the image of the pod's own container, which would be one more name of it.
    let pause = Layer::new().file("pause", program, 0o755).file("of", "critest", 0o644);
    let pause =
        Image::new([pause]).entrypoint(&["/pause"]).command(&["sleep", "1000000000"]).user("65535:65535");
    add(&pause, &["registry.k8s.io/pause:3.9", "k8s.gcr.io/pause:3.9"])?;

    for (name, user) in [
        ("test-image-user-uid", "1002"),
        ("test-image-user-username", "www-data"),
        ("test-image-user-uid-group", "1003:users"),
        ("test-image-user-username-group", "www-data:100"),
    ] {
        add(&shell(vec![]).user(user), &[&named(&format!("{name}:latest"))])?;
    }
    let groups = Layer::new()
        .file("etc/passwd", format!("{PASSWD}default-user:x:1000:1000::/home/default-user:/bin/sh\n"), 0o644)
        .file(
            "etc/group",
            format!("{GROUP}default-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n"),
            0o644,
        )
        .folder("home/default-user", 0o755, 1000);
    add(&shell(vec![groups]).user("1000"), &[&named("test-image-predefined-group:latest")])?;
    let marked = |mark: &str| shell(vec![Layer::new().file("mark", mark, 0o644)]);
    for (mark, names) in [
        ("latest", &["test-image-latest:latest"][..]),
        ("tag", &["test-image-tag:test", "test-image-tag:all"]),
        ("1", &["test-image-1:latest"]),
        ("2", &["test-image-2:latest"]),
        ("3", &["test-image-3:latest"]),
        ("tags", &["test-image-tags:1", "test-image-tags:2", "test-image-tags:3"]),
    ] {
        let names: Vec<String> = names.iter().map(|name| named(name)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        add(&marked(mark), &names)?;
    }
    Ok(shelf)
}

/// Debian's busybox with its applets, and what else critest runs.
fn base(root: &Path) -> Result<Layer> {
    let roots = [root, Path::new("/")];
    let busybox = root.join("bin/busybox");
    let mut layer = Layer::new().program(&busybox, "bin/busybox", &roots)?;
    let applets = run(Command::new(&busybox).arg("--list"), Duration::from_secs(10))?.success()?;
    // Hard links: to mask one of them must not mask the others.
    for applet in applets.stdout.lines().filter(|name| *name != "busybox") {
        layer = layer.hard_link(&format!("bin/{applet}"), "bin/busybox");
    }
    layer = layer
        .program(&root.join("usr/bin/ipcs"), "usr/bin/ipcs", &roots)?
        .file("bin/pgrep", PGREP, 0o755)
        .file("etc/passwd", PASSWD, 0o644)
        .file("etc/group", GROUP, 0o644)
        .folder("tmp", 0o1777, 0)
        .folder("root", 0o700, 0);
    for folder in ["dev", "home", "mnt", "proc", "sys", "var/run"] {
        layer = layer.folder(folder, 0o755, 0);
    }
    Ok(layer)
}

fn nginx(root: &Path, port: u16) -> Result<Layer> {
    let layer =
        Layer::new().program(&root.join("usr/sbin/nginx"), "usr/sbin/nginx", &[root, Path::new("/")])?;
    Ok(layer
        .file("etc/nginx/nginx.conf", NGINX.replace("PORT", &port.to_string()), 0o644)
        .file("usr/share/nginx/html/index.html", "<h1>Welcome to nginx!</h1>\n", 0o644)
        .folder("var/log/nginx", 0o755, 0)
        .folder("var/lib/nginx", 0o755, 0))
}

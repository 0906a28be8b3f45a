//! The shim against real containerds: what it refuses to start, what it leaves behind, and what holds when it dies.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::command::{Output, until};
use tests::image::Image;
use tests::intruder::{self, MOVES};
use tests::node::{Containerd, Node, Options, Runtime};
use tests::shared::Shared;
use tests::task::{Answer, Client, Streams};
use tests::{images, provision, under_test};

const DECLARED: &str = "keep.test/declared:1";
const PLAIN: &str = "keep.test/plain:1";
const PLAIN_USER: &str = "keep.test/plain-user:1";
const SPECIAL: &str = "keep.test/special:1";

type Test = fn(&mut Node) -> Result<()>;

const UNDER_RUNC: &[(&str, Test)] =
    &[("under runc the intruder in nginx does as he likes", intruder_under_runc)];

const TESTS: &[(&str, Test)] = &[
    ("under keep nginx serves and the intruder's moves are refused", intruder_under_keep),
    ("a wrong label fails the start with one line, and nothing is left", wrong_labels),
    (
        "an image without labels runs in class keep behind the default filter, and is recorded once",
        plain_keep,
    ),
    ("an image without labels is refused by keep-strict, which says how to write labels", plain_strict),
    ("an image without labels runs in keep-permissive as under runc", plain_permissive),
    ("keep-permissive lets an undeclared move pass and records it", audited),
    ("keep-strict refuses an exec with a terminal and confines one without", strict_exec),
    ("an unknown class fails the start and names those that there are", unknown_class),
    ("a privileged container is refused by keep and allowed by keep-permissive", privileged),
    (
        "a volume over /dev shows its devices in keep-permissive, untouched, and is refused by keep",
        volume_over_dev,
    ),
    ("labels of the container instead of the image grant nothing", container_labels),
    ("a snapshot of another image does not start", other_snapshot),
    ("an image's labels do not speak for a folder", image_of_folder),
    (
        "an image's labels speak for its snapshot where Docker mounts it, and for nothing else there",
        mounted_by_docker,
    ),
    ("what was found in an image is kept for it, not for what its container adds", kept_findings),
    ("data_dir of the runtime's configuration moves the records", data_dir),
    ("the digest is that of keep explain, run after run", digests),
    ("an unknown key is recorded and stops nothing", unknown_key),
    ("killing the shim leaves nothing running and nothing mounted", killed_shim),
    ("killing the observer refuses calls and lets none pass", killed_observer),
    (
        "killing containerd leaves the container and its walls, and a new containerd finds it",
        killed_containerd,
    ),
    ("opens under a 1 kHz timer all succeed", timer),
    ("a Go program signalled a thousand times a second finishes its opens", go),
];

fn main() -> ExitCode {
    Shared::conclude(prepare, |containerd, node| {
        let mut trials = Vec::new();
        for (tests, node) in [(UNDER_RUNC, node), (TESTS, &node.with_shim())] {
            let trial = |(name, test): &(&str, Test)| node.trial(format!("{containerd}: {name}"), *test);
            trials.extend(tests.iter().map(trial));
        }
        trials
    })
}

fn prepare(containerd: Containerd) -> Result<Node> {
    let mut node = Node::start(Options::new(containerd))?;
    node.import(&images::probe()?, PLAIN)?;
    node.import(&images::probe()?.user("1000"), PLAIN_USER)?;
    node.import(&images::declared_probe()?, DECLARED)?;
    intruder::listen(&mut node)?;
    Ok(node)
}

/// Runs the probe to its end.
fn probe(
    node: &Node,
    runtime: Runtime,
    flags: &[&str],
    image: &str,
    id: &str,
    words: &[&str],
) -> Result<Output> {
    let mut arguments = vec!["/bin/keep-probe"];
    arguments.extend(words);
    let mut all = vec!["--rm", "--net-host"];
    all.extend(flags);
    let output = node.start_container(runtime, &all, image, id, &arguments)?;
    // A start that failed may leave containerd's own record of the container, which --rm does not remove everywhere.
    node.ctr(&["containers", "rm", id])?;
    let left = node.wait_until_gone(id, Duration::from_secs(10));
    ensure!(left.is_empty(), "left behind by {id}: {left:#?}\n{output}");
    Ok(output)
}

fn sleeping<T>(
    node: &Node,
    runtime: Runtime,
    image: &str,
    id: &str,
    test: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let words = ["/bin/keep-probe", "sleep", "600"];
    let result = node.start_container(runtime, &["-d", "--net-host"], image, id, &words)?.success();
    let result = result.and_then(|_| test());
    let gone = node.remove(id);
    let value = result?;
    gone.map(|()| value)
}

fn intruder_in(node: &Node, runtime: Runtime, expected: &str) -> Result<()> {
    node.import(&images::nginx()?.labels(images::NGINX_LABELS), "keep.test/shop:1")?;
    let id = format!("shop-{runtime}");
    let result = intruder::serve(node, runtime, "keep.test/shop:1", &id).and_then(|()| {
        for one in &MOVES {
            let said = intruder::attempt(node, one)?;
            ensure!(said.starts_with(expected), "{}: {said}", one.words);
        }
        ensure!(intruder::get(node, "/")?.contains("open"), "nginx no longer serves its page");
        Ok(())
    });
    let gone = node.remove(&id);
    result.and(gone)
}

fn intruder_under_runc(node: &mut Node) -> Result<()> {
    intruder_in(node, Runtime::Runc, "ok")
}

fn intruder_under_keep(node: &mut Node) -> Result<()> {
    intruder_in(node, Runtime::Keep, "denied ")
}

fn wrong_labels(node: &mut Node) -> Result<()> {
    let wrong = [
        ("dev.keep.needs", "iouring", 1, "io-uring"),
        ("dev.keep.needs", "ipc ptrase", 5, "ptrace"),
        ("dev.keep.listen", "8080/tcp 70000/tcp", 10, "65535"),
        ("dev.keep.connect", "example.com:443/tcp", 1, "address"),
        ("dev.keep.write", "data", 1, "/data"),
        ("dev.keep.caps", "NET_BIND_SERVIC", 1, "NET_BIND_SERVICE"),
        ("dev.keep.intent", "v9", 1, "v1"),
    ];
    for (number, (key, value, column, meant)) in wrong.into_iter().enumerate() {
        node.import(&images::declared_probe()?.label(key, value), SPECIAL)?;
        let output = probe(node, Runtime::Keep, &[], SPECIAL, &format!("wrong-{number}"), &["ok"])?;
        ensure!(output.code() != 0, "{key}={value:?} started: {output}");
        let lines: Vec<&str> = output.stderr.lines().filter(|line| line.contains("dev.keep.")).collect();
        let [line] = lines.as_slice() else { anyhow::bail!("expected one line on {key}: {output}") };
        // containerd may quote the message once more.
        let line = line.replace('\\', "");
        for part in [key, value, &format!("column {column}"), meant] {
            ensure!(line.contains(part), "{key}={value:?}: the line lacks {part:?}: {line}");
        }
    }
    Ok(())
}

fn field<'a>(status: &'a str, key: &str) -> &'a str {
    status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).map_or("", str::trim)
}

fn plain_keep(node: &mut Node) -> Result<()> {
    let output = probe(node, Runtime::Keep, &[], PLAIN, "plain-keep", &["status"])?.success()?;
    ensure!(field(&output.stdout, "Seccomp") == "2", "{output}");
    // Without no_new_privs the kernel takes a filter only with a capability that the container must not keep.
    for status in as_under_runc(node, Runtime::Keep)? {
        ensure!(field(&status, "Seccomp") == "2", "there is no filter: {status}");
    }
    let moves = ["many", "exec:/bin/other", "write:/opt/state/file", "connect:127.0.0.1:9000", "bind:9999"];
    let output = probe(node, Runtime::Keep, &[], PLAIN, "plain-keep-moves", &moves)?.success()?;
    ensure!(output.stdout.lines().all(|line| line.ends_with(": ok")), "{output}");
    let records = node.records("plain-keep-moves")?;
    let undeclared = records.iter().filter(|record| record["operation"] == "undeclared").count();
    ensure!(
        undeclared == 1 && records.len() == 1,
        "expected one record, of an undeclared image: {records:?}"
    );
    Ok(())
}

fn plain_strict(node: &mut Node) -> Result<()> {
    let output = probe(node, Runtime::KeepClass("keep-strict"), &[], PLAIN, "plain-strict", &["ok"])?;
    ensure!(output.code() != 0, "it started: {output}");
    ensure!(
        output.stderr.contains("dev.keep.intent"),
        "the message does not say how to write labels: {output}"
    );
    Ok(())
}

fn plain_permissive(node: &mut Node) -> Result<()> {
    as_under_runc(node, Runtime::KeepClass("keep-permissive")).map(drop)
}

/// An undeclared image's program has the privileges that it has under runc, as root and as a user, with and without
/// no_new_privs. What it says of itself under `runtime`.
fn as_under_runc(node: &Node, runtime: Runtime) -> Result<Vec<String>> {
    let mut said = Vec::new();
    for (image, user) in [(PLAIN, "root"), (PLAIN_USER, "user")] {
        for (flags, how) in [(&[][..], "confined"), (&["--allow-new-privs"], "free")] {
            let id = |runtime| format!("plain-{user}-{how}-{runtime}");
            let keep = probe(node, runtime, flags, image, &id("keep"), &["status"])?.success()?.stdout;
            let runc = probe(node, Runtime::Runc, flags, image, &id("runc"), &["status"])?.success()?.stdout;
            for key in ["NoNewPrivs", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
                let (ours, theirs) = (field(&keep, key), field(&runc, key));
                ensure!(ours == theirs, "{user}, {how}: {key} is {ours}, and {theirs} under runc");
            }
            said.push(keep);
        }
    }
    Ok(said)
}

fn audited(node: &mut Node) -> Result<()> {
    let class = Runtime::KeepClass("keep-permissive");
    let moves = ["many", "exec:/bin/other", "write:/opt/state/file", "syscall:msgget", "bind:9999"];
    let output = probe(node, class, &[], DECLARED, "audited", &moves)?.success()?;
    ensure!(output.stdout.lines().all(|line| line.ends_with(": ok")), "{output}");
    for wall in ["exec", "file", "syscall", "network"] {
        let record =
            node.record("audited", &format!("a record of wall {wall}"), |record| record["wall"] == wall)?;
        ensure!(record["verdict"] == "audited" && record["errno"].is_null(), "{record}");
        ensure!(record["class"] == "keep-permissive", "{record}");
    }
    Ok(())
}

fn strict_exec(node: &mut Node) -> Result<()> {
    sleeping(node, Runtime::KeepClass("keep-strict"), DECLARED, "strict-exec", || {
        let output = node.exec("strict-exec", &["/bin/keep-probe", "status"])?.success()?;
        ensure!(field(&output.stdout, "Seccomp") == "2", "{output}");
        let line = "ctr task exec -t --exec-id terminal strict-exec /bin/keep-probe tty";
        let output = node.run("script", &["-qec", line, "/dev/null"])?;
        ensure!(output.code() != 0 && !output.stdout.contains("true true"), "it got a terminal: {output}");
        Ok(())
    })?;
    sleeping(node, Runtime::Keep, DECLARED, "keep-exec", || {
        let line = "ctr task exec -t --exec-id terminal keep-exec /bin/keep-probe tty";
        let output = node.run("script", &["-qec", line, "/dev/null"])?.success()?;
        ensure!(output.stdout.contains("true true"), "it got no terminal: {output}");
        Ok(())
    })
}

fn unknown_class(node: &mut Node) -> Result<()> {
    let output = probe(node, Runtime::KeepClass("keep-stritc"), &[], DECLARED, "unknown-class", &["ok"])?;
    ensure!(output.code() != 0 && output.stderr.contains("keep-strict"), "{output}");
    Ok(())
}

fn privileged(node: &mut Node) -> Result<()> {
    let flags = ["--privileged"];
    let output = probe(node, Runtime::Keep, &flags, DECLARED, "privileged", &["ok"])?;
    ensure!(output.code() != 0 && output.stderr.contains("privileged"), "{output}");
    probe(node, Runtime::KeepClass("keep-permissive"), &flags, DECLARED, "permitted", &["ok"])?
        .success()
        .map(drop)
}

fn volume_over_dev(node: &mut Node) -> Result<()> {
    let folder = node.folder.join("state/devices").to_string_lossy().into_owned();
    let line = "mkdir -p $0/pts $0/shm && cp -a /dev/null /dev/zero /dev/tty $0 && ln -s /proc/self/fd $0/fd && echo x >$0/own";
    node.run("sh", &["-c", line, &folder])?.success()?;
    let list = || node.run("ls", &["-lR", &folder])?.success().map(|said| said.stdout);
    let before = list()?;
    let mount = format!("type=bind,src={folder},dst=/dev,options=rbind:rprivate:rw");
    let run = |runtime, id: &str| {
        let flags = ["--privileged", "--mount", &mount];
        probe(
            node,
            runtime,
            &flags,
            PLAIN,
            id,
            &["many", "read:/dev/own", "write:/dev/null", "read:/dev/random"],
        )
    };
    let said = run(Runtime::KeepClass("keep-permissive"), "dev-permissive")?.success()?;
    let outcomes: Vec<&str> = said.stdout.lines().filter_map(|line| line.split(": ").nth(1)).collect();
    ensure!(matches!(outcomes.as_slice(), ["ok", "ok", missing] if missing.contains("ENOENT")), "{said}");
    let after = list()?;
    ensure!(after == before, "the volume was changed: {before}\n{after}");
    let flags = ["--mount", mount.as_str()];
    let said = probe(node, Runtime::Keep, &flags, PLAIN, "dev-keep", &["ok"])?;
    ensure!(said.code() != 0 && said.stderr.contains("/dev"), "{said}");
    Ok(())
}

fn container_labels(node: &mut Node) -> Result<()> {
    let flags = ["--label", "dev.keep.exec=/bin/other", "--label", "dev.keep.needs=ipc"];
    let moves = ["many", "exec:/bin/other", "syscall:msgget"];
    let output = probe(node, Runtime::Keep, &flags, DECLARED, "container-labels", &moves)?.success()?;
    ensure!(output.stdout.lines().count() == 2 && !output.stdout.contains(": ok"), "{output}");
    Ok(())
}

fn other_snapshot(node: &mut Node) -> Result<()> {
    let other = images::static_true()?;
    node.import(&other, "keep.test/other:1")?;
    let attempt = |runtime: &str, id: &str| -> Result<Output> {
        let words = ["containers", "create", "--runtime", runtime, DECLARED, id, "/bin/true", "ok"];
        node.ctr(&words)?.success()?;
        node.ctr(&["snapshots", "rm", id])?.success()?;
        node.ctr(&["snapshots", "prepare", id, &other.chain()?])?.success()?;
        let started = node.ctr(&["task", "start", id]);
        node.remove(id)?;
        started
    };
    attempt("io.containerd.runc.v2", "other-runc")?.success().context("the control does not start")?;
    let output = attempt(under_test::RUNTIME, "other-keep")?;
    ensure!(output.code() != 0, "it started: {output}");
    Ok(())
}

/// The container has an image and its snapshot, and its runtime spec names a folder, on which containerd mounts nothing.
fn image_of_folder(node: &mut Node) -> Result<()> {
    let folder = node.folder.join("state/folder");
    images::probe_in(&folder)?;
    let client = Client::connect(node)?;
    let attempt = |runtime: Runtime, id: &str| -> Result<Answer<u32>> {
        node.make_container(runtime, &[], DECLARED, id, &["/bin/keep-probe", "sleep", "60"])?;
        client.edit_spec(id, |spec| spec["root"]["path"] = folder.to_string_lossy().into_owned().into())?;
        let created = client.create_on(id, &Streams::default(), Vec::new());
        node.remove(id)?;
        Ok(created)
    };
    attempt(Runtime::Runc, "folder-runc")?.context("the control is not created")?;
    let refused = attempt(Runtime::Keep, "folder-keep")?.err().context("it was created")?;
    ensure!(refused.message().contains("do not speak for other files"), "{refused}");
    Ok(())
}

/// As Docker makes a container: its record names the image and no snapshot, which has the container's id, stands on a layer of
/// Docker's own, and is mounted by Docker.
fn mounted_by_docker(node: &mut Node) -> Result<()> {
    let client = Client::connect(node)?;
    let folder = node.folder.join("state/docker/rootfs/overlayfs");
    let snapshots = |commands: &[&[&str]]| -> Result<()> {
        commands
            .iter()
            .try_for_each(|words| node.ctr(&[&["snapshots"], *words].concat())?.success().map(drop))
    };
    let attempt = |id: &str, chain: &str, mounted: Option<&str>| -> Result<Answer<u32>> {
        node.make_container(
            Runtime::Keep,
            &[],
            DECLARED,
            id,
            &["/bin/keep-probe", "many", "exec:/bin/other"],
        )?;
        let rootfs = folder.join(id).to_string_lossy().into_owned();
        client.edit_spec(id, |spec| spec["root"]["path"] = rootfs.as_str().into())?;
        let (init, making) = (format!("{id}-init"), format!("{id}-init-key"));
        let made: [&[&str]; 4] =
            [&["rm", id], &["prepare", &making, chain], &["commit", &init, &making], &["prepare", id, &init]];
        snapshots(&made)?;
        client.forget_snapshot(id)?;
        node.run("mkdir", &["-p", &rootfs])?.success()?;
        if let Some(snapshot) = mounted {
            let mount = node.ctr(&["snapshots", "mounts", &rootfs, snapshot])?.success()?;
            node.run("sh", &["-c", &mount.stdout])?.success()?;
        }
        let ended = client
            .create_on(id, &Streams::default(), Vec::new())
            .and_then(|_| client.start(id, ""))
            .and_then(|_| client.wait(id, ""))
            .and_then(|_| client.delete(id));
        if mounted.is_some() {
            node.run("umount", &[&rootfs])?.success()?;
        }
        node.remove(id)?;
        snapshots(&[&["rm", id], &["rm", &init]])?;
        Ok(ended)
    };
    let image = images::declared_probe()?;
    let declared = image.chain()?;
    let id = "docker-keep";
    attempt(id, &declared, Some(id))?.context("its own snapshot does not start")?;
    let record = node.record(id, "a record", |record| record["wall"] == "exec")?;
    let explained = under_test::explained_digest(&node.import(&image, DECLARED)?, "keep")?;
    ensure!(record["profile"] == explained.as_str(), "explained {explained}, recorded {record}");

    let other = images::static_true()?;
    node.import(&other, "keep.test/other:1")?;
    let other = other.chain()?;
    let elsewhere = "docker-elsewhere";
    snapshots(&[&["prepare", elsewhere, &declared]])?;
    for (id, chain, mounted, expected) in [
        (
            "docker-image",
            &other,
            Some("docker-image"),
            "labels of one image do not speak for the files of another",
        ),
        ("docker-mount", &declared, Some(elsewhere), "do not speak for other files"),
        ("docker-folder", &declared, None, "do not speak for other files"),
    ] {
        let refused = attempt(id, chain, mounted)?.err().with_context(|| format!("{id}: it ran"))?;
        ensure!(refused.message().contains(expected), "{id}: {refused}");
    }
    snapshots(&[&["rm", elsewhere]])
}

/// The first container leaves what is mapped executable in the image, and a damaged note of it is written anew; a program in
/// the container's own layer, among the libraries, is covered though no note names it.
fn kept_findings(node: &mut Node) -> Result<()> {
    let (image, name) = (images::shell()?, "keep.test/shell:1");
    node.import(&image, name)?;
    let loader = if cfg!(target_arch = "aarch64") {
        "/lib/ld-linux-aarch64.so.1"
    } else {
        "/lib64/ld-linux-x86-64.so.2"
    };
    let line = |program: &str| format!("{loader} {program} true && echo ran || echo refused");
    let kept = node.folder.join("state/varlib/keep/images");
    let kept = kept.join(image.chain()?.replace("sha256:", "") + ".json");
    for (id, text) in [("found", None), ("found-again", Some("{}"))] {
        text.map_or(Ok(()), |text| std::fs::write(&kept, text)).context("cannot damage the note")?;
        let words = ["/bin/sh", "-c", &line("/bin/busybox")];
        let said = node.start_container(Runtime::Keep, &["--rm"], name, id, &words)?.success()?;
        ensure!(said.text().ends_with("refused"), "{id}: {said}");
        let note = std::fs::read_to_string(&kept).context("no note is kept")?;
        ensure!(note.contains("/bin/busybox") || note.contains("\"/bin\""), "{id}: {note}");
    }
    let attempt = |runtime: &str, id: &str| -> Result<Output> {
        let line = line("/lib/busybox");
        node.ctr(&["containers", "create", "--runtime", runtime, "--", name, id, "/bin/sh", "-c", &line])?
            .success()?;
        let mounts = node.ctr(&["snapshots", "mounts", "/mnt", id])?.success()?;
        let upper = mounts.stdout.split("upperdir=").nth(1).and_then(|rest| rest.split([',', ' ']).next());
        let folder = format!("{}/lib", upper.with_context(|| format!("no upperdir: {mounts}"))?);
        let program = provision::image_files()?.join("bin/busybox");
        node.run("mkdir", &[&folder])?.success()?;
        node.run("cp", &[&program.to_string_lossy(), &folder])?.success()?;
        let said = node.ctr(&["task", "start", id]);
        node.remove(id)?;
        said
    };
    let control = attempt("io.containerd.runc.v2", "layer-runc")?;
    ensure!(control.text().ends_with("ran"), "the control does not run: {control}");
    let said = attempt(under_test::RUNTIME, "layer-keep")?;
    ensure!(said.text().ends_with("refused"), "the loader ran it: {said}");
    Ok(())
}

fn data_dir(node: &mut Node) -> Result<()> {
    let folder = node.folder.join("state/elsewhere");
    let file = node.folder.join("classes/elsewhere.toml");
    let text =
        format!("class = \"keep\"\ndata_dir = \"{0}/data\"\nstate_dir = \"{0}/state\"\n", folder.display());
    std::fs::write(&file, text).context("cannot write the configuration")?;
    let flags = ["--runtime-config-path", &file.to_string_lossy()];
    let output =
        probe(node, Runtime::Keep, &flags, DECLARED, "data-dir", &["many", "exec:/bin/other"])?.success()?;
    ensure!(output.stdout.contains("denied"), "{output}");
    let path = folder.join(format!("data/spool/{}.data-dir.jsonl", node.namespace));
    until("the record", Duration::from_secs(5), || path.exists().then_some(()))?;
    let keep = under_test::binary("keep")?;
    let data = folder.join("data");
    let said = node
        .run(&keep.to_string_lossy(), &["violations", "--data-dir", &data.to_string_lossy()])?
        .success()?;
    ensure!(said.stdout.contains("/bin/other"), "{said}");
    Ok(())
}

fn digests(node: &mut Node) -> Result<()> {
    let image =
        images::declared_probe()?.label("dev.keep.connect", "5432/tcp dns").label("dev.keep.caps", "CHOWN");
    let archive = node.import(&image, SPECIAL)?;
    let explained = under_test::explained_digest(&archive, "keep")?;
    for turn in 0..3 {
        let id = format!("digest-{turn}");
        probe(node, Runtime::Keep, &[], SPECIAL, &id, &["many", "exec:/bin/other"])?.success()?;
        let record = node.record(&id, "a record", |record| record["wall"] == "exec")?;
        ensure!(
            record["profile"] == explained.as_str(),
            "explained {explained}, recorded {}",
            record["profile"]
        );
        ensure!(
            under_test::explained_digest(&archive, "keep")? == explained,
            "keep explain changed its mind"
        );
    }
    Ok(())
}

fn unknown_key(node: &mut Node) -> Result<()> {
    node.import(&images::declared_probe()?.label("dev.keep.lisen", "80/tcp"), SPECIAL)?;
    probe(node, Runtime::Keep, &[], SPECIAL, "unknown-key", &["ok"])?.success()?;
    let named = |record: &serde_json::Value| {
        record["wall"] == "policy" && record.to_string().contains("dev.keep.lisen")
    };
    node.record("unknown-key", "a record of the unknown key", named).map(drop)
}

fn killed_shim(node: &mut Node) -> Result<()> {
    sleeping(node, Runtime::Keep, DECLARED, "killed-shim", || {
        let container = node.pid_of("killed-shim")?;
        let shims = node.shims("killed-shim");
        let shim = shims.iter().map(|process| process.pid).min().context("there is no shim")?;
        kill(Pid::from_raw(shim), Signal::SIGKILL).context("cannot kill the shim")?;
        until("the container's process to end", Duration::from_secs(15), || {
            (!std::path::Path::new(&format!("/proc/{container}")).exists()).then_some(())
        })?;
        // containerd cleans up after a shim that went away by itself.
        let left = node.wait_until_gone("killed-shim", Duration::from_secs(15));
        ensure!(left.is_empty(), "left behind: {left:#?}");
        Ok(())
    })
}

fn killed_observer(node: &mut Node) -> Result<()> {
    let serve = ["/bin/keep-probe", "serve", "8080"];
    let id = "killed-observer";
    node.start_container(Runtime::Keep, &["-d", "--net-host"], DECLARED, id, &serve)?.success()?;
    let ask = |what: &str| -> Result<Output> {
        let url = format!("http://127.0.0.1:8080/many?{what}");
        node.run("curl", &["-sS", "-m", "5", &url])
    };
    let moves = "exec:/bin/other&write:/opt/state/file&syscall:msgget";
    let result = until("the probe to serve", Duration::from_secs(5), || {
        ask(moves).ok().filter(|said| said.status.success())
    })
    .and_then(|said| {
        ensure!(!said.stdout.contains(": ok"), "before: {said}");
        let mut shims: Vec<i32> = node.shims(id).iter().map(|process| process.pid).collect();
        shims.sort_unstable();
        let observers = shims.get(1..).unwrap_or_default();
        ensure!(!observers.is_empty(), "the shim has no other process: who observes?");
        for observer in observers {
            kill(Pid::from_raw(*observer), Signal::SIGKILL).context("cannot kill an observer")?;
        }
        for _ in 0..5 {
            let said = ask(moves)?;
            // The whole container may be gone by now: that lets nothing pass either.
            ensure!(!said.stdout.contains(": ok"), "after: {said}");
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    });
    let gone = node.remove(id);
    result.and(gone)
}

fn killed_containerd(node: &mut Node) -> Result<()> {
    let words = ["/bin/keep-probe", "sleep", "600"];
    node.start_container(Runtime::Keep, &["-d"], DECLARED, "restarted", &words)?.success()?;
    node.stop_daemon("containerd", "KILL")?;
    node.start_containerd()?;
    let result = node.exec("restarted", &["/bin/keep-probe", "many", "exec:/bin/other"]).and_then(|said| {
        ensure!(said.stdout.contains("denied"), "{said}");
        Ok(())
    });
    let gone = node.remove("restarted");
    result.and(gone)
}

fn timer(node: &mut Node) -> Result<()> {
    let output =
        probe(node, Runtime::Keep, &[], DECLARED, "timer", &["opens", "5000", "/data/file"])?.success()?;
    ensure!(output.stdout.contains(" failed 0 "), "{output}");
    Ok(())
}

fn go(node: &mut Node) -> Result<()> {
    provision::go()?;
    let labels = [("dev.keep.intent", "v1"), ("dev.keep.write", "/data")];
    let image: Image = images::signalled()?.labels(labels);
    node.import(&image, "keep.test/signalled:1")?;
    let output =
        node.start_container(Runtime::Keep, &["--rm"], "keep.test/signalled:1", "go", &[])?.success()?;
    ensure!(output.stdout.contains(" failed 0 "), "{output}");
    let signals = output.text().rsplit(' ').next().and_then(|number| number.parse::<u64>().ok());
    ensure!(signals.is_some_and(|signals| signals > 300), "too few signals to prove anything: {output}");
    Ok(())
}

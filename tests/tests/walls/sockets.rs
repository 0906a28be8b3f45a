//! The network wall beyond single moves: networks, name servers, unix sockets on volumes, the cgroup that it hangs on.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::images;
use tests::node::{Node, Runtime};
use tests::task::{Client, Streams};

use crate::{Who, outcome, serving};

pub(crate) fn without_v2(node: &Node) -> Result<()> {
    serving(node, Runtime::Keep, "keep.test/datagrams:1", "without-v2", || {
        node.record("without-v2", "a gap", |record| {
            let text = record["object"].as_str().unwrap_or("");
            let is_gap = record["operation"] == "gap" && record["wall"] == "network";
            is_gap && text.ends_with("every address and port can be sent to by UDP")
        })?;
        for (what, expected) in [
            ("udp:127.0.0.1:9000", "ok"),
            ("udp:127.1.0.1:9001", "ok"),
            ("connect:127.0.0.1:9001", "denied EACCES"),
        ] {
            for who in [Who::Init, Who::Exec] {
                let said = outcome(node, "without-v2", who, what)?;
                ensure!(said == expected, "{what} as {who:?}: {said}, expected {expected}");
            }
        }
        Ok(())
    })
}

pub(crate) fn networks(node: &Node) -> Result<()> {
    let image = images::declared_probe()?
        .label("dev.keep.connect", "127.0.0.1:9000/tcp 127.1.0.0/16:9000/udp [::1]:9001/udp dns");
    node.import(&image, "keep.test/networks:1")?;
    // `ctr run --net-host` mounts the node's, which lies in an /etc of the node's own.
    let resolver = "rm -f /etc/resolv.conf; echo nameserver 127.0.0.53 > /etc/resolv.conf";
    node.run("sh", &["-c", resolver])?.success()?;
    serving(node, Runtime::Keep, "keep.test/networks:1", "networks", || {
        for (what, expected) in [
            ("connect:127.0.0.1:9000", "ok"),
            ("connect:127.0.0.2:9000", "denied EPERM"),
            ("connect:[::ffff:127.0.0.1]:9000", "ok"),
            ("connect:[::ffff:127.0.0.2]:9000", "denied EPERM"),
            ("connect:[::1]:9000", "denied EPERM"),
            ("udp:127.1.2.3:9000", "ok"),
            ("udp:127.2.2.3:9000", "denied EPERM"),
            ("udp:127.1.2.3:9001", "denied EPERM"),
            ("udp:[::1]:9001", "ok"),
            ("udp:[::ffff:127.1.2.3]:9000", "ok"),
            ("udp:[::ffff:127.2.2.3]:9000", "denied EPERM"),
            ("udp:127.0.0.53:53", "ok"),
            ("udp:127.0.0.54:53", "denied EPERM"),
            ("udp:127.0.0.53:54", "denied EPERM"),
            ("connect:127.0.0.53:53", "denied ECONNREFUSED"),
            ("connect:127.0.0.54:53", "denied EPERM"),
            ("bind-udp:8080", "denied EPERM"),
        ] {
            for who in [Who::Init, Who::Exec] {
                let said = outcome(node, "networks", who, what)?;
                ensure!(said == expected, "{what} as {who:?}: {said}, expected {expected}");
            }
        }
        Ok(())
    })
}

pub(crate) fn late_name_servers(node: &Node) -> Result<()> {
    let (image, id) = ("keep.test/resolver:1", "late-servers");
    node.import(&images::declared_probe()?.label("dev.keep.connect", "dns"), image)?;
    let (servers, output) = (node.folder.join("state/servers"), node.folder.join("state/late-servers.log"));
    let write = |address: &str| {
        std::fs::write(&servers, format!("nameserver {address}\n")).context("cannot write the name servers")
    };
    write("127.0.0.53")?;
    let mount = format!("type=bind,src={},dst=/etc/resolv.conf,options=rbind:ro", servers.display());
    let moves = ["/bin/keep-probe", "many", "udp:127.0.0.53:53", "udp:127.0.0.54:53"];
    node.make_container(Runtime::Keep, &["--mount", &mount], image, id, &moves)?;
    let client = Client::connect(node)?;
    let uri = format!("file://{}", output.display());
    client.create(id, &Streams { stdout: uri.clone(), stderr: uri, ..Streams::default() })?;
    // Whoever sets up the network knows it from here on.
    std::thread::sleep(Duration::from_millis(200));
    write("127.0.0.54")?;
    client.start(id, "")?;
    client.wait(id, "")?;
    client.delete(id)?;
    node.discard(id)?;
    let said = std::fs::read_to_string(&output).context("cannot read what the program said")?;
    let outcomes: Vec<&str> = said.lines().filter_map(|line| Some(line.rsplit_once(": ")?.1)).collect();
    // It is let through, and leads nowhere: the container has no network.
    ensure!(outcomes == ["denied EPERM", "denied ENETUNREACH"], "{said}");
    Ok(())
}

pub(crate) fn unix_sockets(node: &Node) -> Result<()> {
    let volume = node.folder.join("state/sockets");
    std::fs::create_dir_all(&volume).context("cannot make a volume")?;
    let _listener =
        std::os::unix::net::UnixListener::bind(volume.join("s")).context("cannot listen on a volume")?;
    let mount = format!("type=bind,src={},dst=/sockets,options=rbind:ro", volume.display());
    let moves = ["connect-unix:/sockets/s", "connect:127.0.0.1:9000", "connect:127.0.0.1:9001"];
    let what = [&["/bin/keep-probe", "many"][..], &moves].concat();
    for (id, labels, unix, expected) in [
        ("unix-undeclared", "9000/tcp", "denied EACCES", &["unix:/sockets/s", "127.0.0.1:9001/tcp"][..]),
        ("unix-declared", "9000/tcp unix:/sockets/s", "ok", &["127.0.0.1:9001/tcp"]),
    ] {
        let image = images::declared_probe()?.label("dev.keep.connect", labels);
        node.import(&image, "keep.test/sockets:1")?;
        let flags = ["--rm", "--net-host", "--mount", &mount];
        let said =
            node.start_container(Runtime::Keep, &flags, "keep.test/sockets:1", id, &what)?.success()?;
        let outcomes: Vec<&str> =
            said.stdout.lines().filter_map(|line| Some(line.rsplit_once(": ")?.1)).collect();
        ensure!(outcomes == [unix, "ok", "denied EPERM"], "{id}: {said}");
        let objects: Vec<String> = node
            .records(id)?
            .iter()
            .map(|record| record["object"].as_str().unwrap_or_default().to_owned())
            .collect();
        ensure!(objects == expected, "{id}: recorded are {objects:?}");
    }
    Ok(())
}

/// The cgroup on the v2 hierarchy that a process is in.
fn cgroup_of(pid: i32) -> Result<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).context("cannot read the cgroup")?;
    let own = text.lines().find_map(|line| line.strip_prefix("0::"));
    own.map(str::to_owned).with_context(|| format!("no cgroup v2 in {text}"))
}

pub(crate) fn own_cgroup(node: &Node) -> Result<()> {
    serving(node, Runtime::Keep, "keep.test/declared:1", "own-cgroup", || {
        let cgroup = cgroup_of(node.pid_of("own-cgroup")?)?;
        ensure!(cgroup.ends_with("own-cgroup"), "init is in {cgroup}");
        let own = node.exec("own-cgroup", &["/bin/keep-probe", "show", "/proc/self/cgroup"])?.success()?;
        ensure!(own.stdout.lines().any(|line| line.ends_with("own-cgroup")), "an exec is in {own}");
        // Nor is there a way out: no cgroup is mounted to be written to.
        for who in [Who::Init, Who::Exec] {
            let what = "write:/sys/fs/cgroup/unified/cgroup.procs";
            let said = outcome(node, "own-cgroup", who, what)?;
            ensure!(said.starts_with("denied"), "{what} as {who:?}: {said}");
        }
        Ok(())
    })?;
    let left = node.left_of("own-cgroup");
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}

pub(crate) fn no_cgroup_left(node: &Node) -> Result<()> {
    // The first fails in the container's process, in its cgroup; the second before that.
    for (id, program) in [("cgroup-no-program", "/bin/missing"), ("cgroup-refused", "/bin/other")] {
        let run = node.start_container(Runtime::Keep, &["--rm"], "keep.test/declared:1", id, &[program])?;
        ensure!(!run.status.success(), "{program} started: {run}");
        node.remove(id)?;
    }
    Ok(())
}

/// Where another's process is in the cgroup, the container's would not be watched alone: it does not start, and nothing is left.
pub(crate) fn taken_cgroup(node: &Node) -> Result<()> {
    let id = "cgroup-taken";
    let cgroup = format!("/sys/fs/cgroup/unified/keep-{}:{id}", node.namespace);
    let script = "mkdir \"$0\" && { sleep 60 >/dev/null 2>&1 & echo $! >\"$0\"/cgroup.procs; }";
    node.run("sh", &["-c", script, &cgroup])?.success()?;
    let words = ["/bin/keep-probe", "pwd"];
    let run = node.start_container(Runtime::Keep, &["--rm"], "keep.test/declared:1", id, &words);
    node.remove(id)?;
    let run = run?;
    ensure!(!run.status.success() && run.stderr.contains("cannot enter the cgroup"), "{run}");
    node.run("test", &["!", "-e", &cgroup])?.success()?;
    Ok(())
}

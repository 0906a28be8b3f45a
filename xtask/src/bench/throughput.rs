//! Servers of the cookbook under load, behind Keep's walls and under runc with containerd's seccomp profile.

use std::os::unix::fs::chown;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tests::command::until;
use tests::node::Node;
use tests::provision::{self, say};
use tests::{cookbook, debian};

use super::contender::{Contender, medians};

/// How long a server may take until it answers.
const PATIENCE: Duration = Duration::from_secs(30);
/// The least of runc's throughput that counts as as good.
const AIM: f64 = 0.97;

/// A server of the cookbook, and its load.
struct Server {
    name: &'static str,
    /// Its one folder of data, and who owns it.
    data: (&'static str, u32),
    /// Whether it answers.
    ready: fn(&Clients<'_>) -> Option<()>,
    /// Loads it for some seconds; gives its operations in each second.
    load: fn(&Clients<'_>) -> Result<f64>,
}

const SERVERS: [Server; 3] = [
    Server {
        name: "nginx",
        data: ("/var/cache/nginx", 33),
        ready: |clients| clients.node.run("curl", &["-sf", NGINX]).ok()?.status.success().then_some(()),
        load: |clients| {
            let said = clients.bench("usr/bin/wrk", &["-t", "1", "-c", "16", "-d", "2", NGINX])?;
            let line = said.lines().find_map(|line| line.trim().strip_prefix("Requests/sec:"));
            number(line, &said)
        },
    },
    Server {
        name: "redis",
        data: ("/var/lib/redis", 101),
        ready: |clients| {
            (clients.cookbook("usr/bin/redis-cli", &["ping"]).ok()?.trim() == "PONG").then_some(())
        },
        load: |clients| {
            let words = ["-q", "-c", "16", "-n", "150000", "-t", "set", "--csv"];
            let said = clients.cookbook("usr/bin/redis-benchmark", &words)?;
            let line = said.lines().find_map(|line| line.strip_prefix("\"SET\",\""));
            number(line.and_then(|line| line.split('"').next()), &said)
        },
    },
    Server {
        name: "postgres",
        data: ("/var/lib/postgresql", 102),
        ready: |clients| clients.pgbench(&["-i", "-q", "-s", "2"]).ok().map(drop),
        load: |clients| {
            let said = clients.pgbench(&["-n", "-c", "4", "-T", "2", "-S"])?;
            let line = said.lines().find_map(|line| line.strip_prefix("tps = "));
            number(line.and_then(|line| line.split(' ').next()), &said)
        },
    },
];

const NGINX: &str = "http://127.0.0.1:8080/";

fn number(found: Option<&str>, said: &str) -> Result<f64> {
    let found = found.with_context(|| format!("no figure in: {said}"))?;
    found.trim().parse().with_context(|| format!("no number: {found}"))
}

/// Programs of Debian that ask the servers, from beside them.
struct Clients<'a> {
    node: &'a Node,
    bench: std::path::PathBuf,
}

impl Clients<'_> {
    fn run(&self, root: &Path, program: &str, arguments: &[&str]) -> Result<String> {
        let words = debian::client(root, program)?;
        let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
        words.extend(arguments);
        let (program, arguments) = words.split_first().context("a command line has a program")?;
        Ok(self.node.run(program, arguments)?.success()?.stdout)
    }

    fn bench(&self, program: &str, arguments: &[&str]) -> Result<String> {
        self.run(&self.bench, program, arguments)
    }

    fn cookbook(&self, program: &str, arguments: &[&str]) -> Result<String> {
        self.run(&cookbook::files()?, program, arguments)
    }

    fn pgbench(&self, arguments: &[&str]) -> Result<String> {
        let who = ["-h", "127.0.0.1", "-U", "postgres"];
        self.cookbook("usr/lib/postgresql/15/bin/pgbench", &[&who, arguments, &["postgres"]].concat())
    }
}

/// Measures, and prints medians beside their aim.
///
/// # Errors
/// When a server does not start or answer.
pub(super) fn run(rounds: usize) -> Result<()> {
    let node = super::node(true)?;
    let packages: Vec<&str> = debian::PACKAGES.iter().copied().chain(["wrk", "libluajit-5.1-2"]).collect();
    let bench = provision::debian_files("bench-clients", &packages)?;
    let clients = Clients { node: &node, bench };
    let contenders = [Contender::keep(), Contender::runc_default()];
    println!("operations a second, {rounds} rounds each, interleaved; medians:");
    for server in &SERVERS {
        say(&format!("measuring {}", server.name));
        node.import(&cookbook::image(server.name)?, &reference(server))?;
        let rates = medians(rounds, contenders.len(), |index, round| {
            under_load(&clients, server, &contenders[index], &format!("{}-{index}-{round}", server.name))
        })?;
        let ratio = rates[0] / rates[1];
        println!(
            "  {:<10} keep {:>8.0}, runc {:>8.0}: {ratio:.3} (aim: at least {AIM:.2})",
            server.name, rates[0], rates[1]
        );
    }
    Ok(())
}

fn reference(server: &Server) -> String {
    format!("keep.bench/{}:1", server.name)
}

/// One server, started anew on an empty volume, which runc cannot do without: the image's own folders are not made by it.
fn under_load(clients: &Clients<'_>, server: &Server, contender: &Contender, id: &str) -> Result<f64> {
    let node = clients.node;
    let volume = node.folder.join("state").join(id);
    std::fs::create_dir(&volume).context("cannot make the volume")?;
    chown(&volume, Some(server.data.1), Some(server.data.1)).context("cannot give the volume away")?;
    let mount = format!("type=bind,src={},dst={},options=rbind:rw", volume.display(), server.data.0);
    let socket = "type=tmpfs,src=tmpfs,dst=/run/postgresql,options=mode=1777";
    let log = format!("file://{}", node.folder.join("log").join(format!("{id}.log")).display());
    let mut flags = vec!["-d", "--net-host", "--log-uri", &log, "--mount", &mount];
    if server.name == "postgres" {
        flags.extend(["--mount", socket]);
    }
    let measured = contender.run(node, &flags, &reference(server), id, &[]).and_then(|_| {
        until(&format!("{} to answer", server.name), PATIENCE, || (server.ready)(clients))?;
        (server.load)(clients)
    });
    let measured = measured.with_context(|| format!("{id} said:\n{}", node.log_end(id)));
    node.remove(id)?;
    std::fs::remove_dir_all(&volume).context("cannot remove the volume")?;
    measured
}

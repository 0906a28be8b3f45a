//! The work that is asked of the cookbook's containers, each by a real client beside it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::command::{Output, until};
use tests::node::Node;
use tests::{cookbook, debian};

/// One container of the cookbook, running.
pub(crate) struct Running<'a> {
    pub(crate) node: &'a Node,
    pub(crate) id: &'a str,
    /// How long it may take until it answers.
    pub(crate) patience: Duration,
}

impl Running<'_> {
    /// Waits until a page is served that has `expected` in it.
    pub(crate) fn page(&self, url: &str, expected: &str) -> Result<()> {
        until(&format!("{expected:?} from {url}"), self.patience, || {
            let page = self.node.run("curl", &["-sSf", "-i", "-m", "10", url]).ok()?;
            page.stdout.contains(expected).then_some(())
        })
    }

    /// Another program in the container.
    pub(crate) fn exec(&self, words: &[&str]) -> Result<Output> {
        self.node.exec(self.id, words)
    }

    /// A client program of Debian's, beside the container.
    pub(crate) fn client(&self, program: &str, arguments: &[&str]) -> Result<Output> {
        let words = debian::client(&cookbook::files()?, program)?;
        let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
        words.extend(arguments);
        let (program, arguments) = words.split_first().context("a command line has a program")?;
        self.node.run(program, arguments)
    }

    pub(crate) fn psql(&self, query: &str) -> Result<Output> {
        let flags = ["-h", "127.0.0.1", "-U", "postgres", "-q", "-t", "-A", "-X", "-c", query];
        self.client("usr/lib/postgresql/15/bin/psql", &flags)
    }
}

/// Serves a file, hands a request on, takes a large body, opens its log anew, and reads its configuration again.
pub(crate) fn nginx(one: &Running<'_>) -> Result<()> {
    one.page("http://127.0.0.1:8080/", "hello from nginx")?;
    one.page("http://127.0.0.1:8080/api/", "\r\n\r\nok")?;
    let (upload, size) = ("http://127.0.0.1:8080/upload/large", 20_000_000);
    let script = format!(
        "head -c {size} /dev/zero | curl -sSf -m 20 -T - -H 'Expect:' {upload} && curl -sSf -m 20 {upload} | wc -c"
    );
    let came_back = one.node.run("sh", &["-c", &script])?.success()?;
    ensure!(came_back.text() == size.to_string(), "{came_back}");

    let master = one.node.pid_of(one.id)?;
    let log = format!("/proc/{master}/root/var/cache/nginx/access.log");
    std::fs::rename(&log, format!("{log}.1")).context("cannot rotate the log")?;
    one.node.ctr(&["task", "kill", "--signal", "SIGUSR1", one.id])?.success()?;
    until("a request in the new log", one.patience, || {
        one.page("http://127.0.0.1:8080/", "hello from nginx").ok()?;
        std::fs::read_to_string(&log).ok().filter(|text| text.contains("GET / "))
    })?;

    let workers = || std::fs::read_to_string(format!("/proc/{master}/task/{master}/children")).ok();
    let before = workers();
    one.node.ctr(&["task", "kill", "--signal", "SIGHUP", one.id])?.success()?;
    // The old ones end once the new ones are there.
    let is_old = |pid: &&str| before.as_ref().is_some_and(|before| before.split(' ').any(|old| old == *pid));
    until("workers of the configuration that was read again", one.patience, || {
        workers().filter(|now| !now.trim().is_empty() && !now.split_whitespace().any(|pid| is_old(&pid)))
    })?;
    one.page("http://127.0.0.1:8080/", "hello from nginx")
}

pub(crate) fn redis(one: &Running<'_>) -> Result<()> {
    let ask =
        |words: &[&str]| Ok::<_, anyhow::Error>(one.client("usr/bin/redis-cli", words)?.text().to_owned());
    until("redis to answer", one.patience, || ask(&["ping"]).ok().filter(|said| said == "PONG"))?;
    ensure!(ask(&["set", "key", "value"])? == "OK");
    ensure!(ask(&["get", "key"])? == "value");
    let saved = ask(&["lastsave"])?;
    ensure!(ask(&["config", "set", "appendonly", "yes"])? == "OK");
    // A second passes between the save at the start and this one: the time is all that tells them apart.
    std::thread::sleep(Duration::from_millis(1100));
    until("redis to save in the background", one.patience, || {
        let asked = ask(&["bgsave"]).ok()?;
        (asked.contains("started") || asked.contains("progress")).then_some(())
    })?;
    until("a snapshot", one.patience, || ask(&["lastsave"]).ok().filter(|time| *time != saved))?;
    let state = ask(&["info", "persistence"])?;
    ensure!(state.contains("rdb_last_bgsave_status:ok"), "{state}");
    ensure!(state.contains("aof_last_write_status:ok"), "{state}");
    Ok(())
}

pub(crate) fn postgres(one: &Running<'_>) -> Result<()> {
    let ask = |query: &str| Ok::<_, anyhow::Error>(one.psql(query)?.success()?.text().to_owned());
    until("postgres to answer", one.patience, || ask("select 1").ok())?;
    ask("create table item (id serial primary key, name text)")?;
    ask("insert into item (name) select 'item ' || n from generate_series(1, 20000) n")?;
    ask("create index on item (name)")?;
    ask("vacuum analyze item")?;
    ask("checkpoint")?;
    ask("do $$ begin perform count(*) from item; end $$")?;
    // Parallel workers share memory.
    let count = ask(
        "set min_parallel_table_scan_size = 0; set parallel_setup_cost = 0; set force_parallel_mode = on; \
         select count(*) from item where name like 'item 1%'",
    )?;
    ensure!(count == "11111", "{count} items");
    Ok(())
}

pub(crate) fn memcached(one: &Running<'_>) -> Result<()> {
    let script = "exec 3<>/dev/tcp/127.0.0.1/11211 && printf 'set key 0 0 5\\r\\nvalue\\r\\nget key\\r\\nquit\\r\\n' >&3 \
                  && cat <&3";
    until("memcached to answer", one.patience, || {
        let said = one.node.run("bash", &["-c", script]).ok()?;
        (said.stdout == "STORED\r\nVALUE key 0 5\r\nvalue\r\nEND\r\n").then_some(())
    })
}

pub(crate) fn dnsmasq(one: &Running<'_>) -> Result<()> {
    until("an answer by UDP", one.patience, || {
        let words = ["nslookup", "-type=a", "www.shop.test", "127.0.0.1"];
        let said = one.client("bin/busybox", &words).ok()?;
        said.stdout.contains("192.0.2.7").then_some(())
    })
}

pub(crate) fn cron(one: &Running<'_>) -> Result<()> {
    let root = format!("/proc/{}/root/data/last", one.node.pid_of(one.id)?);
    let read = || std::fs::read_to_string(&root).ok();
    let first = until("the first turn's work", one.patience, read)?;
    until("a later turn's work", one.patience, || read().filter(|text| *text != first)).map(drop)
}

/// Waits until the container has ended.
pub(crate) fn stops(one: &Running<'_>) -> Result<()> {
    until("the job to end", one.patience, || {
        let list = one.node.ctr(&["task", "ls"]).ok()?;
        let mut lines = list.stdout.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        lines.any(|line| line.first() == Some(&one.id) && line.last() == Some(&"STOPPED")).then_some(())
    })
}

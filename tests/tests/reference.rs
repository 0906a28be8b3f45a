//! One suite for runc, the reference, and for Keep: what any runtime must do the same. A difference is ours to explain.

#![forbid(unsafe_code)]

use std::fs::File;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::command::{Output, until, wait};
use tests::node::{Containerd, Node, Options, Runtime};
use tests::shared::Shared;
use tests::{images, under_test};

const BUSYBOX: &str = "keep.test/busybox:1";
const PROBE: &str = "keep.test/probe:1";

type Test = fn(&Node, Runtime, &str) -> Result<()>;

const TESTS: &[(&str, Test)] = &[
    ("the exit code of the program is that of ctr run", exit_code),
    ("a program that cannot be found fails and leaves nothing", no_program),
    ("standard output and error arrive apart", output),
    ("standard input reaches the program and its end ends it", input),
    ("a program run with a terminal has one", terminal),
    ("environment, folder and user are those of the image", environment),
    ("a working directory that the image lacks is made", working_folder),
    ("a read-write root takes files", writes),
    ("a folder of the machine is a root", folder),
    ("exec runs in the same container", exec),
    ("the exit code of exec is that of its program", exec_exit_code),
    ("exec of what is not there fails", exec_no_program),
    ("ps shows init and exec", ps),
    ("ls shows a running task and then a stopped one", ls),
    ("SIGTERM ends a program that handles it", sigterm),
    ("SIGKILL ends any program with 137", sigkill),
    ("orphans end with the container", orphans),
    ("what shares the processes of another container ends with its own first", shared_processes),
    ("pause stops and resume goes on", pause),
    ("init and execs are in the container's cgroups", own_cgroups),
    ("nothing writes to its cgroups", cgroups),
    ("a volume shows the machine's cgroups as they are", cgroups_of_machine),
    ("a private volume does not show what is mounted later", private_volume),
    ("a volume that is not there fails the start, which says which, where and why", no_volume),
    ("metrics name the container", metrics),
    ("much output arrives whole", much_output),
    ("output goes to a log file", log_file),
    ("output and errors go to a logging program", log_program),
    ("twenty containers at once start and end", many),
];

/// What containerd 1.6 cannot do: its snapshots know no users but the machine's.
const TESTS_OF_USERS: &[(&str, Test)] = &[
    ("what has users of its own owns its root", users),
    ("nothing that has users of its own writes to its cgroups", cgroups_of_users),
];

fn main() -> ExitCode {
    Shared::conclude(prepare, |containerd, node| {
        let mut trials = Vec::new();
        for (runtime, node) in [(Runtime::Runc, node), (Runtime::Keep, &node.with_shim())] {
            let of_users = if containerd == Containerd::Built { TESTS_OF_USERS } else { &[] };
            for (number, (test, run)) in TESTS.iter().chain(of_users).enumerate() {
                let name = format!("{containerd}, {runtime}: {test}");
                trials.push(node.trial(name, move |node| one(node, runtime, number, *run)));
            }
        }
        trials
    })
}

fn prepare(containerd: Containerd) -> Result<Node> {
    let node = Node::start(Options::new(containerd))?;
    node.import(&images::busybox()?, BUSYBOX)?;
    let probe = images::probe()?.environment("COLOUR", "green").working_folder("/opt/state").user("33:33");
    node.import(&probe, PROBE)?;
    Ok(node)
}

fn one(node: &Node, runtime: Runtime, number: usize, run: Test) -> Result<()> {
    let id = format!("{runtime}-{number}");
    let result = run(node, runtime, &id);
    let gone = node.remove(&id);
    result.and(gone)
}

fn start(node: &Node, runtime: Runtime, id: &str, arguments: &[&str]) -> Result<()> {
    node.start_container(runtime, &["-d"], BUSYBOX, id, arguments)?.success().map(drop)
}

fn working_folder(node: &Node, runtime: Runtime, id: &str) -> Result<()> {
    let words = ["/bin/keep-probe", "pwd"];
    let run = |cwd| node.start_container(runtime, &["--rm", "--cwd", cwd], PROBE, id, &words);
    let said = run("/srv/not/there")?.success()?;
    ensure!(said.text() == "/srv/not/there", "{said}");
    let said = run("/etc/motd/x")?;
    ensure!(!said.status.success(), "a file served as folder: {said}");
    Ok(())
}

fn exit_code(node: &Node, runtime: Runtime, id: &str) -> Result<()> {
    for code in ["0", "7", "255"] {
        let id = format!("{id}-{code}");
        let output =
            node.start_container(runtime, &["--rm"], BUSYBOX, &id, &["sh", "-c", &format!("exit {code}")])?;
        ensure!(output.code().to_string() == code, "{output}");
        let left = node.wait_until_gone(&id, Duration::from_secs(5));
        ensure!(left.is_empty(), "left behind: {left:?}");
    }
    Ok(())
}

fn no_program(node: &Node, runtime: Runtime, id: &str) -> Result<()> {
    let output = node.start_container(runtime, &["--rm"], BUSYBOX, id, &["/no/such/program"])?;
    ensure!(output.code() != 0, "it ran: {output}");
    ensure!(output.stderr.contains("/no/such/program"), "the message does not name the program: {output}");
    let left = node.wait_until_gone(id, Duration::from_secs(5));
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}

fn output(node: &Node, runtime: Runtime, id: &str) -> Result<()> {
    let output =
        node.start_container(runtime, &["--rm"], BUSYBOX, id, &["sh", "-c", "echo out; echo err >&2"])?;
    ensure!(output.stdout == "out\n" && output.stderr == "err\n", "{output}");
    Ok(())
}

fn input(node: &Node, runtime: Runtime, id: &str) -> Result<()> {
    let mut words = vec!["run", "--rm", "--runtime"];
    words.push(if runtime == Runtime::Runc { "io.containerd.runc.v2" } else { under_test::RUNTIME });
    words.extend([BUSYBOX, id, "wc", "-c"]);
    let output = node.ctr_with_input(&words, &"x".repeat(100_000))?.success()?;
    ensure!(output.text() == "100000", "{output}");
    Ok(())
}

fn terminal(node: &Node, runtime: Runtime, id: &str) -> Result<()> {
    let flags: &[&str] = if runtime == Runtime::Runc { &[] } else { &["--runtime", under_test::RUNTIME] };
    // script gives ctr a terminal of its own, which `ctr run -t` insists on.
    let line = format!("ctr run --rm -t {} {BUSYBOX} {id} tty", flags.join(" "));
    let output = node.run("script", &["-qec", &line, "/dev/null"])?;
    ensure!(output.code() == 0 && output.stdout.contains("/dev/"), "{output}");
    Ok(())
}

fn environment(node: &Node, runtime: Runtime, id: &str) -> Result<()> {
    for (arguments, expected) in
        [(vec!["env", "COLOUR"], "green"), (vec!["pwd"], "/opt/state"), (vec!["id"], "33 33")]
    {
        let id = format!("{id}-{}", arguments.first().unwrap_or(&""));
        let mut words = vec!["/bin/keep-probe"];
        words.extend(&arguments);
        let output = node.start_container(runtime, &["--rm"], PROBE, &id, &words)?.success()?;
        ensure!(output.text() == expected, "expected {expected}: {output}");
    }
    Ok(())
}

fn writes(node: &Node, runtime: Runtime, id: &str) -> Result<()> {
    let line = "echo x > /etc/new && mkdir /srv && touch /srv/a && cat /etc/new";
    let output = node.start_container(runtime, &["--rm"], BUSYBOX, id, &["sh", "-c", line])?.success()?;
    ensure!(output.text() == "x", "{output}");
    Ok(())
}

/// Without an image: containerd mounts nothing, and the runtime spec names the folder.
fn folder(node: &Node, runtime: Runtime, id: &str) -> Result<()> {
    let root = node.folder.join("state").join(format!("{id}-root"));
    images::probe_in(&root)?;
    let words = ["/bin/keep-probe", "write", "/tmp/file"];
    let image = root.to_string_lossy();
    node.start_container(runtime, &["--rm", "--rootfs"], &image, id, &words)?.success()?;
    ensure!(root.join("tmp/file").exists(), "nothing was written to the folder");
    Ok(())
}

fn exec(node: &Node, runtime: Runtime, id: &str) -> Result<()> {
    start(node, runtime, id, &["sleep", "60"])?;
    node.exec(id, &["sh", "-c", "echo here > /tmp/file"])?.success()?;
    let output = node.exec(id, &["sh", "-c", "cat /tmp/file; echo err >&2"])?.success()?;
    ensure!(output.stdout == "here\n" && output.stderr == "err\n", "{output}");
    Ok(())
}

fn exec_exit_code(node: &Node, runtime: Runtime, id: &str) -> Result<()> {
    start(node, runtime, id, &["sleep", "60"])?;
    for code in [0, 3, 200] {
        let output = node.exec(id, &["sh", "-c", &format!("exit {code}")])?;
        ensure!(output.code() == code, "{output}");
    }
    Ok(())
}

fn exec_no_program(node: &Node, runtime: Runtime, id: &str) -> Result<()> {
    start(node, runtime, id, &["sleep", "60"])?;
    let output = node.exec(id, &["/no/such/program"])?;
    ensure!(output.code() != 0, "it ran: {output}");
    node.exec(id, &["true"])?.success().context("the container does not take an exec afterwards")?;
    Ok(())
}

fn ps(node: &Node, runtime: Runtime, id: &str) -> Result<()> {
    start(node, runtime, id, &["sleep", "60"])?;
    let exec = ["task", "exec", "-d", "--exec-id", "second", id, "sleep", "61"];
    node.ctr(&exec)?.success()?;
    let output = node.ctr(&["task", "ps", id])?.success()?;
    let pids = output.stdout.lines().skip(1).filter(|line| !line.trim().is_empty()).count();
    ensure!(pids == 2, "expected two processes: {output}");
    Ok(())
}

fn ls(node: &Node, runtime: Runtime, id: &str) -> Result<()> {
    start(node, runtime, id, &["sleep", "60"])?;
    let state = || -> Result<String> {
        let list = node.ctr(&["task", "ls"])?.success()?.stdout;
        let line =
            list.lines().find(|line| line.split_whitespace().next() == Some(id)).unwrap_or("").to_owned();
        Ok(line.split_whitespace().last().unwrap_or("").to_owned())
    };
    ensure!(state()? == "RUNNING", "it is {}", state()?);
    node.ctr(&["task", "kill", "-s", "SIGKILL", id])?.success()?;
    until("STOPPED", Duration::from_secs(5), || state().ok().filter(|state| state == "STOPPED")).map(drop)
}

fn ends_with(node: &Node, runtime: Runtime, id: &str, signal: &str, code: i32) -> Result<()> {
    let sleep = ["/bin/keep-probe", "sleep", "60"];
    node.start_container(runtime, &["-d"], PROBE, id, &sleep)?.success()?;
    until("the program to handle SIGTERM", Duration::from_secs(10), || {
        let pid = node.pid_of(id).ok()?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
        let caught = u64::from_str_radix(caught.trim(), 16).ok()?;
        (caught >> (nix::libc::SIGTERM - 1) & 1 == 1).then_some(())
    })?;
    node.ctr(&["task", "kill", "-s", signal, id])?.success()?;
    let output = until("the task to stop", Duration::from_secs(10), || {
        let list = node.ctr(&["task", "ls"]).ok()?;
        list.stdout.lines().any(|l| l.contains(id) && l.contains("STOPPED")).then_some(())
    })
    .and_then(|()| node.ctr(&["task", "delete", id]))?;
    let said = format!("exit code {code}");
    ensure!(output.stderr.contains(&said) || output.code() == code, "expected {code}: {output}");
    Ok(())
}

fn sigterm(node: &Node, runtime: Runtime, id: &str) -> Result<()> {
    ends_with(node, runtime, id, "SIGTERM", 143)
}

fn sigkill(node: &Node, runtime: Runtime, id: &str) -> Result<()> {
    ends_with(node, runtime, id, "SIGKILL", 137)
}

fn orphans(node: &Node, runtime: Runtime, id: &str) -> Result<()> {
    let line = "(sleep 1234 &) ; exec sleep 60";
    start(node, runtime, id, &["sh", "-c", line])?;
    let orphan = || node.processes().into_iter().find(|process| process.line.ends_with("sleep 1234"));
    until("the orphan", Duration::from_secs(5), orphan)?;
    node.ctr(&["task", "kill", "-s", "SIGKILL", id])?.success()?;
    until("the orphan to end", Duration::from_secs(5), || orphan().is_none().then_some(()))
}

fn shared_processes(node: &Node, runtime: Runtime, id: &str) -> Result<()> {
    start(node, runtime, id, &["sleep", "60"])?;
    let list = node.ctr(&["task", "ls"])?.success()?;
    let line = list.stdout.lines().find(|line| line.split_whitespace().next() == Some(id));
    let pid = line.and_then(|line| line.split_whitespace().nth(1)).context("no task")?;
    let (second, namespace) = (format!("{id}-second"), format!("pid:/proc/{pid}/ns/pid"));
    let words = ["sh", "-c", "(sleep 4321 &) ; exec sleep 60"];
    let flags = ["-d", "--with-ns", &namespace];
    let result = node.start_container(runtime, &flags, BUSYBOX, &second, &words)?.success().and_then(|_| {
        let orphan = || node.processes().into_iter().find(|process| process.line.ends_with("sleep 4321"));
        until("the orphan", Duration::from_secs(5), orphan)?;
        node.ctr(&["task", "kill", "-s", "SIGKILL", &second])?.success()?;
        until("the orphan to end", Duration::from_secs(10), || orphan().is_none().then_some(()))
    });
    let gone = node.remove(&second);
    result.and(gone)
}

fn own_cgroups(node: &Node, runtime: Runtime, id: &str) -> Result<()> {
    start(node, runtime, id, &["sleep", "60"])?;
    let init = std::fs::read_to_string(format!("/proc/{}/cgroup", node.pid_of(id)?))?;
    let exec = node.exec(id, &["cat", "/proc/self/cgroup"])?.success()?.stdout;
    for text in [init, exec] {
        let of_v1 = |line: &&str| !line.contains(":name=") && !line.starts_with("0::");
        let mut lines: Vec<&str> = text.lines().filter(of_v1).collect();
        if lines.is_empty() {
            lines.extend(text.lines().filter(|line| line.starts_with("0::")));
        }
        ensure!(!lines.is_empty() && lines.iter().all(|line| line.ends_with(&format!("/{id}"))), "{text}");
    }
    Ok(())
}

/// A user namespace as a pod with `hostUsers: false` has one.
const OWN_USERS: &[&str] = &["--uidmap", "0:65536:65536", "--gidmap", "0:65536:65536", "--remap-labels"];

fn cgroups(node: &Node, runtime: Runtime, id: &str) -> Result<()> {
    shown_cgroups(node, runtime, id, &[])
}

fn users(node: &Node, runtime: Runtime, id: &str) -> Result<()> {
    let words = ["sh", "-c", "cat /proc/self/uid_map; touch /own && ls -ln /own; ls -ln /bin/busybox"];
    let flags = [OWN_USERS, &["--rm"]].concat();
    let said = node.start_container(runtime, &flags, BUSYBOX, id, &words)?.success()?;
    let mut lines = said.stdout.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    ensure!(lines.next() == Some(vec!["0", "65536", "65536"]), "{said}");
    let owners: Vec<Vec<&str>> = lines.filter_map(|words| words.get(2..4).map(<[_]>::to_vec)).collect();
    ensure!(owners == [["0", "0"], ["0", "0"]], "{said}");
    Ok(())
}

fn cgroups_of_users(node: &Node, runtime: Runtime, id: &str) -> Result<()> {
    shown_cgroups(node, runtime, id, OWN_USERS)
}

fn shown_cgroups(node: &Node, runtime: Runtime, id: &str, flags: &[&str]) -> Result<()> {
    let mount = "type=cgroup,src=cgroup,dst=/sys/fs/cgroup,options=ro:nosuid:noexec:nodev";
    let line = "for f in /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/*/cgroup.procs; do \
                [ -e $f ] || continue; [ -n \"$(cat $f)\" ] && echo found $f || echo empty $f; \
                echo 1 >$f && echo wrote $f; done";
    let words = ["sh", "-c", line];
    let flags = [flags, &["--rm", "--mount", mount]].concat();
    let said = node.start_container(runtime, &flags, BUSYBOX, id, &words)?;
    ensure!(said.stdout.contains("found"), "there are no cgroups: {said}");
    ensure!(!said.stdout.contains("wrote") && !said.stdout.contains("empty"), "{said}");
    Ok(())
}

fn cgroups_of_machine(node: &Node, runtime: Runtime, id: &str) -> Result<()> {
    let mount = "type=bind,src=/sys/fs/cgroup,dst=/mnt,options=rbind:ro";
    let line = format!(
        "for f in /mnt/{0}/{id}/cgroup.procs /mnt/*/{0}/{id}/cgroup.procs; do \
         [ -e $f ] || continue; [ -n \"$(cat $f)\" ] && echo found $f || echo empty $f; done",
        node.namespace
    );
    let words = ["sh", "-c", &line];
    let said = node.start_container(runtime, &["--rm", "--mount", mount], BUSYBOX, id, &words)?.success()?;
    ensure!(said.stdout.contains("found") && !said.stdout.contains("empty"), "{said}");
    Ok(())
}

fn private_volume(node: &Node, runtime: Runtime, id: &str) -> Result<()> {
    let volume = node.folder.join("state").join(id);
    let (later, volume) =
        (volume.join("later").to_string_lossy().into_owned(), volume.to_string_lossy().into_owned());
    node.run("mkdir", &["-p", &later])?.success()?;
    let mount = format!("type=bind,src={volume},dst=/mnt,options=rbind:rprivate:rw");
    let words = ["sleep", "60"];
    node.start_container(runtime, &["-d", "--mount", &mount], BUSYBOX, id, &words)?.success()?;
    node.run("mount", &["-t", "tmpfs", "tmpfs", &later])?.success()?;
    node.run("touch", &[&format!("{later}/shown")])?.success()?;
    let said = node.exec(id, &["ls", "/mnt/later"]);
    node.run("umount", &[&later])?.success()?;
    let said = said?.success()?;
    ensure!(!said.stdout.contains("shown"), "{said}");
    Ok(())
}

fn no_volume(node: &Node, runtime: Runtime, id: &str) -> Result<()> {
    let missing = ("bind", "/gone", ["no such file or directory"].as_slice());
    let unknown = ("nosuch", "none", ["no such device", "enodev"].as_slice());
    for (number, (kind, source, why)) in [missing, unknown].into_iter().enumerate() {
        let id = format!("{id}-{number}");
        let mount = format!("type={kind},src={source},dst=/mnt,options=ro");
        let said = node.start_container(runtime, &["--rm", "--mount", &mount], BUSYBOX, &id, &["true"])?;
        let line = said.stderr.to_lowercase();
        // runc 1.5 does not say where a folder was to go that is not there.
        let place = runtime == Runtime::Runc || line.contains("/mnt");
        let told = line.contains(source) && place && why.iter().any(|why| line.contains(why));
        ensure!(said.code() != 0 && told, "{said}");
        node.remove(&id)?;
    }
    Ok(())
}

fn pause(node: &Node, runtime: Runtime, id: &str) -> Result<()> {
    start(node, runtime, id, &["sleep", "60"])?;
    node.ctr(&["task", "pause", id])?.success()?;
    let list = node.ctr(&["task", "ls"])?.success()?;
    ensure!(list.stdout.lines().any(|line| line.contains(id) && line.contains("PAUSED")), "{list}");
    node.ctr(&["task", "resume", id])?.success()?;
    node.exec(id, &["true"])?.success().map(drop)
}

fn metrics(node: &Node, runtime: Runtime, id: &str) -> Result<()> {
    start(node, runtime, id, &["sleep", "60"])?;
    let output = node.ctr(&["task", "metrics", id])?.success()?;
    ensure!(output.stdout.contains(id), "{output}");
    Ok(())
}

/// The program waits until all has been read: at a task's end `ctr` closes its fifos without reading the rest.
fn much_output(node: &Node, runtime: Runtime, id: &str) -> Result<()> {
    const SIZE: u64 = 2_200_000;
    let script = "trap 'exit 0' TERM; yes 0123456789 | head -n 200000; sleep 60 & wait";
    let path = node.folder.join("log").join(id);
    let mut ctr = node.container(runtime, &["--rm"], BUSYBOX, id, &["sh", "-c", script])?;
    let mut ctr = ctr.stdin(Stdio::null()).stdout(File::create(&path)?).spawn()?;
    let size = || std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
    let arrived = until("the output", Duration::from_secs(30), || (size() >= SIZE).then_some(()));
    let ended = node.ctr(&["task", "kill", "-s", "SIGTERM", id]).and_then(Output::success);
    let status = wait(&mut ctr, Duration::from_secs(30))?;
    arrived.and(ended.map(drop)).with_context(|| format!("{} of {SIZE} bytes arrived", size()))?;
    ensure!(status.is_some_and(|status| status.success()) && size() == SIZE, "{status:?}, {} bytes", size());
    Ok(())
}

/// The program waits until all has been read: runc's shim of containerd 1.6 closes the log when one of the two streams ends, and loses
/// what it has not copied of the other. Keep's loses nothing.
fn log_file(node: &Node, runtime: Runtime, id: &str) -> Result<()> {
    let log = node.folder.join("log").join(id);
    let uri = format!("file://{}", log.display());
    let both = || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        (text.contains("out") && text.contains("err")).then_some(())
    };
    let run = |line: &str, flags: &[&str]| {
        let flags = [&["--log-uri", &uri], flags].concat();
        node.start_container(runtime, &flags, BUSYBOX, id, &["sh", "-c", line])?.success()
    };
    if runtime == Runtime::Keep {
        run("echo out; echo err >&2", &["--rm"])?;
        return both().context("the program ended, and the log lacks some of what it wrote");
    }
    run("echo out; echo err >&2; exec sleep 60", &["-d"])?;
    until("the log", Duration::from_secs(10), both)
}

/// The program finds output on descriptor 3, errors on 4, closes 5 when it is ready, and learns whose they are.
fn log_program(node: &Node, runtime: Runtime, id: &str) -> Result<()> {
    let (program, log) = (node.folder.join("log").join(format!("{id}.sh")), node.folder.join("log").join(id));
    let script = format!(
        "#!/bin/sh\necho $CONTAINER_ID $CONTAINER_NAMESPACE $1 $2 >{0}\nexec 5>&-\ncat <&3 >{0}.out &\ncat <&4 >{0}.err\nwait\n",
        log.display()
    );
    std::fs::write(&program, script)?;
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let uri = format!("binary://{}?key=value", program.display());
    let words = ["sh", "-c", "echo out; echo err >&2"];
    node.start_container(runtime, &["--rm", "--log-uri", &uri], BUSYBOX, id, &words)?.success()?;
    let read = |end: &str| std::fs::read_to_string(format!("{}{end}", log.display())).unwrap_or_default();
    until("what the logging program writes", Duration::from_secs(10), || {
        (read(".out") == "out\n" && read(".err") == "err\n").then_some(())
    })?;
    let said = read("");
    ensure!(said.trim() == format!("{id} {} key value", node.namespace), "{said}");
    Ok(())
}

fn many(node: &Node, runtime: Runtime, id: &str) -> Result<()> {
    let start = |n: usize| {
        let id = format!("{id}-{n}");
        node.start_container(runtime, &["--rm"], BUSYBOX, &id, &["true"])?.success()?;
        let left = node.wait_until_gone(&id, Duration::from_secs(10));
        ensure!(left.is_empty(), "left behind: {left:?}");
        Ok(())
    };
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..20).map(|n| scope.spawn(move || start(n))).collect();
        all.into_iter().try_for_each(|one| one.join().unwrap_or_else(|_| anyhow::bail!("a thread panicked")))
    })
}

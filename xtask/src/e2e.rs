//! `cargo xtask e2e`: a labelled pod on a real Kubernetes node, its misbehaviour, and the Event that names the label.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::cluster::{self, Cluster};
use tests::command::until;
use tests::intruder::MOVES;
use tests::node::leaks;
use tests::provision::{self, say};
use tests::{images, under_test};

const IMAGE: &str = "keep.test/shop:1";
const POLICY: &str = include_str!("e2e/policy.yaml");
const POD: &str = include_str!("e2e/shop.yaml");
const GREEDY: &str = include_str!("e2e/greedy.yaml");
const USERS: &str = include_str!("e2e/users.yaml");

/// Brings the node up, runs the story, takes the node down; with `stay`, leaves it up.
///
/// # Errors
/// When something does not go as it should; shows what the pod and the agent said.
pub(crate) fn run(stay: bool) -> Result<()> {
    cluster::provide()?;
    provision::image_files()?;
    let path = crate::build::run()?;
    say("bringing up a Kubernetes node");
    let mut cluster = Cluster::start(path, stay)?;
    let told = story(&mut cluster);
    if told.is_err() {
        explain_failure(&cluster);
    }
    if stay {
        println!("\nThe node goes on running. To look around:\n  {}", cluster.node.way_in());
        println!("  export KUBECONFIG={}/kube/admin.conf", cluster.node.folder.display());
        println!("To end it all: kill {}", cluster.node.init());
        return told;
    }
    let stopped = cluster.stop();
    told?;
    stopped?;
    let left = leaks::on_machine();
    ensure!(left.is_empty(), "left on this machine: {left:#?}");
    say("the node is down, nothing of it is left");
    Ok(())
}

fn story(cluster: &mut Cluster) -> Result<()> {
    cluster.node.import(&images::nginx()?.labels(images::NGINX_LABELS), IMAGE)?;
    for name in ["runtimeclass.yaml", "rbac.yaml", "runtimepolicy.json"] {
        let path = crate::build::root().join("runtimeclass/manifests").join(name);
        cluster.apply(
            &std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?,
        )?;
    }
    cluster.start_agent()?;
    say("RuntimeClasses are applied, keep node runs");
    policies(cluster)?;
    pod(cluster, "runc", "runc")?;
    say("the control: the same pod serves under runc");
    pod(cluster, "shop", "keep")?;
    say("the pod serves under Keep, its exec probe passes");
    let outcome = hole(cluster, "shop", "exec=/bin/sh")?;
    ensure!(outcome.starts_with("denied "), "a shell from inside nginx: {outcome}");
    event(cluster, "shop", "dev.keep.exec=\"/usr/sbin/nginx /bin/sh\"")?;
    for one in MOVES.iter().filter(|one| one.label != "dev.keep.exec") {
        let outcome = hole(cluster, "shop", one.query)?;
        ensure!(outcome.starts_with("denied "), "{}: {outcome}", one.words);
        event(cluster, "shop", one.label)?;
    }
    let version = cluster.kubectl(&["exec", "shop", "--", "/usr/sbin/nginx", "-v"])?;
    version.success().context("kubectl exec of a declared program")?;
    let shell = cluster.kubectl(&["exec", "shop", "--", "/bin/sh", "-c", "echo I am in"])?;
    ensure!(!shell.status.success() && !shell.stdout.contains("I am in"), "kubectl exec of a shell: {shell}");
    say("kubectl exec runs nginx -v and refuses /bin/sh");
    cluster.node.import(
        &images::nginx()?.labels(images::NGINX_LABELS).label("dev.keep.listen", "80x/tcp"),
        "keep.test/wrong:1",
    )?;
    cluster
        .apply(&POD.replace("NAME", "wrong").replace("CLASS", "keep").replace(IMAGE, "keep.test/wrong:1"))?;
    described(cluster, "wrong", "dev.keep.listen")?;
    say("a pod with a wrong label does not start, and kubectl describe pod says why");
    cluster.node.import(&images::busybox()?, "keep.test/busybox:1")?;
    out_of_memory(cluster)?;
    own_users(cluster)
}

/// A container that takes more memory than its limit is shown as Kubernetes shows it everywhere.
fn out_of_memory(cluster: &Cluster) -> Result<()> {
    cluster.apply(GREEDY)?;
    let reason = ended(cluster, "greedy")?;
    ensure!(reason == "OOMKilled", "kubelet says {reason}");
    say("a container over its memory limit is OOMKilled in the pod's status");
    Ok(())
}

/// A pod with `hostUsers: false`: its root is no user of the machine, and owns the image's files and the volume's.
fn own_users(cluster: &Cluster) -> Result<()> {
    cluster.apply(USERS)?;
    let reason = ended(cluster, "users")?;
    let said = cluster.kubectl(&["logs", "users"])?.success()?;
    ensure!(reason == "Completed", "kubelet says {reason}: {said}");
    let mut lines = said.stdout.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let map = lines.next().unwrap_or_default();
    ensure!(matches!(map.as_slice(), ["0", outside, "65536"] if *outside != "0"), "{said}");
    let owners: Vec<_> = lines.filter_map(|words| words.get(2..4).map(<[_]>::to_vec)).collect();
    ensure!(owners == [["0", "0"], ["0", "0"]], "{said}");
    say("a pod with users of its own runs, and owns its files");
    Ok(())
}

/// Waits for the end of a pod's container; why it ended, in Kubernetes' word.
fn ended(cluster: &Cluster, name: &str) -> Result<String> {
    let path = "jsonpath={.status.containerStatuses[0].state.terminated.reason}";
    until("kubelet to see the container's end", Duration::from_secs(30), || {
        let reason = cluster.kubectl(&["get", "pod", name, "-o", path]).ok()?.text().to_owned();
        (!reason.is_empty()).then_some(reason)
    })
}

/// The API server takes the definition and a policy, and refuses one with a misspelt field or value by its name.
fn policies(cluster: &Cluster) -> Result<()> {
    let established =
        ["wait", "--for=condition=Established", "crd/runtimepolicies.keep.dev", "--timeout=30s"];
    cluster.kubectl(&established)?.success()?;
    cluster.apply(POLICY).context("a good policy")?;
    for (good, bad, named) in [
        ("onExceed", "onExcede", "spec.onExcede"),
        ("Clamp", "clamp", "spec.onExceed"),
        ("[jit]", "[jitt]", "spec.ceiling.needs"),
    ] {
        let refused = cluster.apply(&POLICY.replace(good, bad).replace("name: shop", "name: wrong"));
        let Err(error) = refused else { anyhow::bail!("a policy with {bad} was taken") };
        ensure!(format!("{error:#}").contains(named), "a policy with {bad}: {error:#}");
    }
    cluster.kubectl(&["delete", "runtimepolicy", "shop"])?.success()?;
    say("a RuntimePolicy is taken, misspelt ones are refused");
    Ok(())
}

/// Applies the pod and waits until it is ready and serves.
fn pod(cluster: &Cluster, name: &str, class: &str) -> Result<()> {
    let manifest = POD.replace("NAME", name).replace("CLASS", class);
    let manifest =
        if class == "runc" { manifest.replace("  runtimeClassName: runc\n", "") } else { manifest };
    cluster.apply(&manifest)?;
    let wait = ["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=50s"];
    cluster.kubectl(&wait)?.success()?;
    let address = address(cluster, name)?;
    let page =
        cluster.node.run("curl", &["-sSf", "-m", "10", &format!("http://{address}:8080/")])?.success()?;
    ensure!(page.stdout.contains("open"), "{page}");
    Ok(())
}

fn address(cluster: &Cluster, name: &str) -> Result<String> {
    let output = cluster.kubectl(&["get", "pod", name, "-o", "jsonpath={.status.podIP}"])?.success()?;
    Ok(output.text().to_owned())
}

fn hole(cluster: &Cluster, name: &str, query: &str) -> Result<String> {
    let url = format!("http://{}:8080/hole?{query}", address(cluster, name)?);
    Ok(cluster.node.run("curl", &["-sSf", "-m", "10", &url])?.success()?.text().to_owned())
}

/// Waits for an IntentViolation in `kubectl describe pod` that names `label`, and shows it.
fn event(cluster: &Cluster, name: &str, label: &str) -> Result<()> {
    let begin = std::time::Instant::now();
    let line = until(&format!("an IntentViolation with {label}"), Duration::from_secs(20), || {
        let text = cluster.kubectl(&["describe", "pod", name]).ok()?.stdout;
        text.lines().find(|line| line.contains("IntentViolation") && line.contains(label)).map(str::to_owned)
    })?;
    say(&format!("after {:.1} s in kubectl describe pod:", begin.elapsed().as_secs_f64()));
    println!("{}", line.trim());
    Ok(())
}

fn described(cluster: &Cluster, name: &str, part: &str) -> Result<()> {
    let found = until(&format!("{part} in kubectl describe pod"), Duration::from_secs(30), || {
        let text = cluster.kubectl(&["describe", "pod", name]).ok()?.stdout;
        text.lines().find(|line| line.contains("Warning") && line.contains(part)).map(str::to_owned)
    })?;
    println!("{}", found.trim());
    Ok(())
}

fn explain_failure(cluster: &Cluster) {
    match cluster.kubectl(&["describe", "pods"]) {
        Ok(output) => eprintln!("{}", output.stdout),
        Err(error) => eprintln!("{error:#}"),
    }
    for name in ["keep-node", "containerd"] {
        eprintln!("the end of the log of {name}:\n{}", cluster.node.log_end(name));
    }
    let keep = under_test::binary("keep").map(|path| path.to_string_lossy().into_owned());
    if let Ok(output) = keep.and_then(|keep| cluster.node.run(&keep, &["violations"])) {
        eprintln!("keep violations: {}", output.stdout);
    }
}

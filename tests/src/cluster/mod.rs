//! A real Kubernetes of one node, in the namespaces of a [`Node`]: etcd, API server, controller manager, scheduler, kubelet.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::cache;
use crate::command::{Output, run, until};
use crate::image::{Image, Layer};
use crate::node::{Containerd, Node, Options, leaks};
use crate::provision::{self, say};
use crate::under_test;

/// The network of its pods.
pub(crate) const CNI: &str = include_str!("cni.conflist");

/// A running cluster of one node, called `node`. Dropping it ends it.
#[derive(Debug)]
pub struct Cluster {
    /// The node that it runs in.
    pub node: Node,
}

/// Installs and builds what a cluster needs.
///
/// # Errors
/// When something cannot be had; says what.
pub fn provide() -> Result<()> {
    provision::debian(provision::PACKAGES)?;
    provision::debian(provision::KUBERNETES_PACKAGES)?;
    Containerd::Built.provide()?;
    provision::kubernetes()
}

impl Cluster {
    /// Brings it up, with the binaries in `path` in front of containerd's PATH; with `stay`, it outlives this process.
    ///
    /// # Errors
    /// When a part does not come up; shows the end of its log.
    pub fn start(path: PathBuf, stay: bool) -> Result<Self> {
        let options = Options {
            containerd: Containerd::Built,
            path: Some(path),
            unified: true,
            stay,
            kubernetes: true,
        };
        let node = Node::start(options)?;
        let mut cluster = Self { node };
        say("containerd answers");
        cluster.files()?;
        cluster.cgroups()?;
        cluster.node.import(&pause()?, PAUSE)?;
        cluster.control_plane()?;
        cluster.kubelet()?;
        Ok(cluster)
    }

    fn files(&self) -> Result<()> {
        let folder = &self.node.folder;
        for part in ["kube", "kube/volplugins", "cni"] {
            cache::open_folder(&folder.join(part))?;
        }
        let kubelet = include_str!("kubelet.yaml").replace("@N@", &folder.to_string_lossy());
        let endpoint = format!("unix://{}", self.node.socket().display());
        let files = [
            ("kube/kubelet.yaml", kubelet.replace("@CGROUP@", &self.node.cgroup())),
            ("kube/resolv.conf", "options ndots:1\n".to_owned()),
            ("cni/10-node.conflist", CNI.to_owned()),
            (
                "crictl.yaml",
                format!("runtime-endpoint: {endpoint}\nimage-endpoint: {endpoint}\ntimeout: 30\n"),
            ),
            ("pki.sh", include_str!("pki.sh").to_owned()),
        ];
        for (name, text) in files {
            fs::write(folder.join(name), text).with_context(|| format!("cannot write {name}"))?;
        }
        let mut pki = Command::new("bash");
        pki.arg(folder.join("pki.sh")).arg(folder.join("kube"));
        run(&mut pki, Duration::from_secs(60))?.success().context("cannot make certificates").map(drop)
    }

    /// kubelet's own root, in every hierarchy, made beforehand as it wants it on v1.
    fn cgroups(&self) -> Result<()> {
        for hierarchy in leaks::hierarchies().into_iter().filter(|path| !path.ends_with("unified")) {
            let path = hierarchy.join(self.node.cgroup());
            fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
            for name in ["cpuset.cpus", "cpuset.mems"] {
                if hierarchy.join(name).exists() {
                    fs::copy(hierarchy.join(name), path.join(name))
                        .with_context(|| format!("cannot fill {name}"))?;
                }
            }
        }
        Ok(())
    }

    fn control_plane(&mut self) -> Result<()> {
        let etcd = format!("--data-dir={}", self.node.folder.join("state/etcd").display());
        let client = "http://127.0.0.1:2379";
        let words = [
            "--name=node",
            &etcd,
            "--listen-client-urls=http://127.0.0.1:2379",
            "--log-level=warn",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--initial-advertise-peer-urls=http://127.0.0.1:2380",
            "--initial-cluster=node=http://127.0.0.1:2380",
            "--unsafe-no-fsync",
        ];
        self.node.daemon("etcd", "etcd", &words)?;
        let health = format!("{client}/health");
        self.wait("etcd", Duration::from_secs(30), |c| c.succeeds("curl", &["-sf", &health]))?;
        let pki = self.node.folder.join("kube/pki");
        let file = |flag: &str, name: &str| format!("--{flag}={}", pki.join(name).display());
        let mut words: Vec<String> = [
            "--etcd-servers=http://127.0.0.1:2379",
            "--bind-address=127.0.0.1",
            "--secure-port=6443",
            "--advertise-address=192.168.77.2",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            "--profiling=false",
            "--kubelet-preferred-address-types=InternalIP",
            // Debian's etcd 3.4 cannot tell sizes.
            "--feature-gates=SizeBasedListCostEstimate=false",
        ]
        .map(str::to_owned)
        .to_vec();
        words.extend([
            file("client-ca-file", "ca.crt"),
            file("tls-cert-file", "apiserver.crt"),
            file("tls-private-key-file", "apiserver.key"),
            file("service-account-key-file", "sa.pub"),
            file("service-account-signing-key-file", "sa.key"),
            file("kubelet-client-certificate", "apiserver-kubelet-client.crt"),
            file("kubelet-client-key", "apiserver-kubelet-client.key"),
        ]);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.node.daemon("apiserver", "kube-apiserver", &words)?;
        self.wait("apiserver", Duration::from_secs(120), |c| {
            c.succeeds("kubectl", &["get", "--raw=/readyz"])
        })?;
        let kube = self.node.folder.join("kube");
        let config = |name: &str| format!("--kubeconfig={}", kube.join(name).display());
        let common = ["--bind-address=127.0.0.1", "--leader-elect=false", "--profiling=false"];
        let (root, key) =
            (file("root-ca-file", "ca.crt"), file("service-account-private-key-file", "sa.key"));
        let kcm = config("kcm.conf");
        let words = [&common[..], &[&kcm, &root, &key, "--use-service-account-credentials=true"]].concat();
        self.node.daemon("kcm", "kube-controller-manager", &words)?;
        let scheduler = config("scheduler.conf");
        self.node.daemon("scheduler", "kube-scheduler", &[&common[..], &[&scheduler]].concat())
    }

    fn kubelet(&mut self) -> Result<()> {
        let kube = self.node.folder.join("kube");
        let flag = |name: &str, file: &str| format!("--{name}={}", kube.join(file).display());
        let (config, kubeconfig) = (flag("config", "kubelet.yaml"), flag("kubeconfig", "kubelet.conf"));
        let rest =
            ["--hostname-override=node", "--node-ip=192.168.77.2", "--root-dir=/var/lib/kubelet", "--v=2"];
        self.node.daemon("kubelet", "kubelet", &[&[config.as_str(), &kubeconfig][..], &rest].concat())?;
        let ready = ["wait", "--for=condition=Ready", "node/node", "--timeout=1s"];
        self.wait("kubelet", Duration::from_secs(120), |c| c.succeeds("kubectl", &ready))?;
        let account = ["-n", "default", "get", "sa", "default"];
        self.wait("kcm", Duration::from_secs(60), |c| c.succeeds("kubectl", &account))
    }

    fn succeeds(&self, program: &str, words: &[&str]) -> bool {
        self.node.run(program, words).is_ok_and(|output| output.status.success())
    }

    fn wait(&self, part: &str, limit: Duration, ready: impl Fn(&Self) -> bool) -> Result<()> {
        until(part, limit, || {
            std::thread::sleep(Duration::from_millis(150));
            ready(self).then_some(())
        })
        .with_context(|| format!("{part} said:\n{}", self.node.log_end(part)))?;
        say(&format!("{part} is ready"));
        Ok(())
    }

    /// Runs kubectl as the cluster's administrator.
    ///
    /// # Errors
    /// As [`Node::run`].
    pub fn kubectl(&self, words: &[&str]) -> Result<Output> {
        self.node.run("kubectl", words)
    }

    /// Applies a manifest.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub fn apply(&self, manifest: &str) -> Result<()> {
        let path = self.node.folder.join("state/manifest.yaml");
        fs::write(&path, manifest).context("cannot write the manifest")?;
        self.kubectl(&["apply", "-f", &path.to_string_lossy()])?.success().map(drop)
    }

    /// Starts `keep node` with the rights of its service account and no others.
    ///
    /// # Errors
    /// When its account has no token, or it cannot be started.
    pub fn start_agent(&mut self) -> Result<()> {
        let token = self.kubectl(&["-n", "kube-system", "create", "token", "keep-node"])?.success()?;
        let admin = self.node.folder.join("kube/admin.conf");
        let admin = fs::read_to_string(&admin).context("cannot read the administrator's configuration")?;
        let mut lines: Vec<String> = admin.lines().map(str::to_owned).collect();
        for line in lines.iter_mut().filter(|line| line.starts_with("users:")) {
            *line = format!("users: [{{name: admin, user: {{token: {}}}}}]", token.text());
        }
        let path = self.node.folder.join("kube/keep.conf");
        fs::write(&path, lines.join("\n")).context("cannot write the agent's configuration")?;
        let keep = under_test::binary("keep")?;
        let words = ["node", "--kubeconfig", &path.to_string_lossy(), "--node-name", "node"];
        self.node.daemon("keep-node", &keep.to_string_lossy(), &words)
    }

    /// Ends pods and then the node, in the order that lets each part clean up behind itself.
    ///
    /// # Errors
    /// When a pod does not end.
    pub fn stop(self) -> Result<()> {
        let words = ["delete", "pods", "--all", "--all-namespaces", "--grace-period=1", "--timeout=40s"];
        let mut kubectl = self.node.command("kubectl");
        kubectl.args(words).stdin(Stdio::null());
        run(&mut kubectl, Duration::from_secs(60))?.success().map(drop)
    }
}

/// Name of the image of a pod's own container, as containerd's configuration has it.
pub(crate) const PAUSE: &str = "keep.test/pause:1";

/// The image of the pod's own container.
///
/// # Errors
/// When the probe is not built.
pub(crate) fn pause() -> Result<Image> {
    let layer = Layer::new().copy(&under_test::binary("keep-probe")?, "pause")?;
    Ok(Image::new([layer]).entrypoint(&["/pause"]).command(&["sleep", "1000000000"]).user("65535:65535"))
}

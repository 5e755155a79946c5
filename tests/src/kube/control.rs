//! Kubernetes' own programs on a [`Node`]: the control plane, the kubelet with its container runtime, and kube-proxy.

use std::{fs, path::Path, thread, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};

use super::node::{ADDRESS, Node};
use crate::{cmd, kubeproxy::Mode, process::Process, wait::eventually};

/// Everything is started at once on a machine that may be busy.
const START: Duration = Duration::from_secs(90);

/// Users, their groups, and what identifies them: nobody but the node is in its network.
const USERS: [(&str, &str); 5] = [
    ("admin", "system:masters"),
    ("system:kube-controller-manager", ""),
    ("system:kube-scheduler", ""),
    ("system:kube-proxy", ""),
    ("system:node:node", "system:nodes"),
];

const FILES: [(&str, &str); 4] = [
    ("containerd.toml", include_str!("../../kube/node/containerd.toml")),
    ("cni.conflist", include_str!("../../kube/node/cni.conflist")),
    ("kubelet.yaml", include_str!("../../kube/node/kubelet.yaml")),
    ("kube-proxy.yaml", include_str!("../../kube/node/kube-proxy.yaml")),
];

/// Keys and certificates of the API server, made by openssl.
const CERTIFICATES: &str = include_str!("../../kube/node/certificates.sh");
const OPENSSL: &str = include_str!("../../kube/node/openssl.cnf");

/// A cluster of one node.
#[derive(Debug)]
pub struct Cluster {
    daemons: Vec<(&'static str, Process)>,
    /// The machine.
    pub node: Node,
}

impl Cluster {
    /// Starts one from what `cargo xtask test kube` has put into a folder, and returns when its node is ready.
    pub fn start(kube: &Path, mode: Mode) -> Result<Self> {
        let node = Node::start(&kube.join("bin"))?;
        configure(&node, mode)?;
        let mut cluster = Self { daemons: Vec::new(), node };
        cluster.start_runtime(kube)?;
        cluster.start_control_plane()?;
        let kubelet = ["kubelet", "--config=/shared/kubelet.yaml", "--hostname-override=node"];
        let more = ["--kubeconfig=/shared/node.kubeconfig", &format!("--node-ip={ADDRESS}")];
        cluster.daemon("kubelet", &[&kubelet[..], &more].concat())?;
        cluster.daemon("kube-proxy", &["kube-proxy", "--config=/shared/kube-proxy.yaml"])?;
        cluster.until("the node is ready, and pods may be made", |cluster| {
            let ready = r#"jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}"#;
            let is_ready = cluster.kubectl(&["get", "nodes", "-o", ready]);
            let account = cluster.kubectl(&["get", "serviceaccount", "default"]);
            Ok(is_ready.is_ok_and(|text| text == "True") && account.is_ok())
        })?;
        Ok(cluster)
    }

    /// Runs `kubectl`; returns what it printed.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.kubectl_with(args, "")
    }

    /// The same with something on its standard input.
    pub fn kubectl_with(&self, args: &[&str], input: &str) -> Result<String> {
        let command = [&["kubectl", "--kubeconfig=/shared/admin.kubeconfig"], args].concat();
        let output = self.node.output(&command, input)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        ensure!(output.status.success(), "kubectl {}: {}", args.join(" "), text(&output.stderr));
        Ok(text(&output.stdout))
    }

    /// Waits for something to come true in the cluster; if it does not, tells what the daemons said last.
    pub fn until(
        &mut self,
        what: &str,
        mut holds: impl FnMut(&Self) -> Result<bool>,
    ) -> Result<()> {
        let waited = eventually(START, what, || {
            for (name, process) in &mut self.daemons {
                if let Some(status) = process.exited()? {
                    bail!("{name} ended: {status}\n{}", self.node.said(name));
                }
            }
            // Each look is a program that has to be started.
            thread::sleep(Duration::from_millis(200)); // not a wait for a state: the pace of looking
            holds(self)
        });
        waited.with_context(|| {
            let said =
                self.daemons.iter().map(|(name, _)| format!("{name}:\n{}", self.node.said(name)));
            said.collect::<Vec<_>>().join("\n")
        })
    }

    /// The container runtime, with our images.
    fn start_runtime(&mut self, kube: &Path) -> Result<()> {
        let cni = self.node.path("/etc/cni/net.d");
        fs::create_dir_all(&cni)?;
        fs::copy(self.node.shared().join("cni.conflist"), cni.join("10-pods.conflist"))?;
        self.daemon("containerd", &["containerd", "--config=/shared/containerd.toml"])?;
        self.until("containerd answers", |cluster| {
            Ok(cluster.node.output(&["ctr", "version"], "")?.status.success())
        })?;
        let images = fs::read_dir(kube.join("images"))?.flatten().map(|entry| entry.path());
        for image in images.filter(|path| path.extension().is_some_and(|end| end == "tar")) {
            let archive = fs::read(&image)?;
            fs::write(self.node.shared().join("image.tar"), archive)?;
            let import = ["ctr", "-n", "k8s.io", "images", "import", "/shared/image.tar"];
            let output = self.node.output(&import, "")?;
            let text = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "import {}: {text}", image.display());
        }
        Ok(())
    }

    fn start_control_plane(&mut self) -> Result<()> {
        self.daemon(
            "etcd",
            &[
                "etcd",
                "--data-dir=/var/lib/etcd",
                "--listen-client-urls=http://127.0.0.1:2379",
                "--advertise-client-urls=http://127.0.0.1:2379",
                "--listen-peer-urls=http://127.0.0.1:2380",
            ],
        )?;
        self.daemon(
            "kube-apiserver",
            &[
                "kube-apiserver",
                "--etcd-servers=http://127.0.0.1:2379",
                &format!("--advertise-address={ADDRESS}"),
                "--service-cluster-ip-range=10.96.0.0/16",
                "--tls-cert-file=/shared/server.crt",
                "--tls-private-key-file=/shared/server.key",
                "--token-auth-file=/shared/tokens.csv",
                "--service-account-issuer=https://kubernetes.default.svc",
                "--service-account-key-file=/shared/accounts.key",
                "--service-account-signing-key-file=/shared/accounts.key",
                "--authorization-mode=Node,RBAC",
                "--kubelet-preferred-address-types=InternalIP",
                "--enable-admission-plugins=NodeRestriction",
            ],
        )?;
        self.until("the API server is ready", |cluster| {
            Ok(cluster.kubectl(&["get", "--raw", "/readyz"]).is_ok_and(|text| text == "ok"))
        })?;
        self.daemon(
            "kube-controller-manager",
            &[
                "kube-controller-manager",
                "--kubeconfig=/shared/kube-controller-manager.kubeconfig",
                "--service-account-private-key-file=/shared/accounts.key",
                "--root-ca-file=/shared/ca.crt",
                "--use-service-account-credentials",
                "--leader-elect=false",
            ],
        )?;
        self.daemon(
            "kube-scheduler",
            &[
                "kube-scheduler",
                "--kubeconfig=/shared/kube-scheduler.kubeconfig",
                "--leader-elect=false",
            ],
        )
    }

    fn daemon(&mut self, name: &'static str, args: &[&str]) -> Result<()> {
        self.daemons.push((name, self.node.daemon(name, args)?));
        Ok(())
    }
}

/// Writes everything that the daemons read.
fn configure(node: &Node, mode: Mode) -> Result<()> {
    let shared = node.shared();
    let mode = if mode == Mode::Iptables { "iptables" } else { "nftables" };
    for (name, text) in FILES {
        let text = text.replace("/CGROUP", &format!("/{}", node.cgroup())).replace("MODE", mode);
        fs::write(shared.join(name), text)?;
    }
    fs::write(shared.join("openssl.cnf"), OPENSSL)?;
    let folder = shared.to_str().context("a folder name that is not UTF-8")?;
    cmd::run("sh", &["-c", CERTIFICATES, "certificates", folder])?;
    let mut tokens = String::new();
    for (user, group) in USERS {
        let short = user.rsplit(':').next().unwrap_or(user);
        tokens += &format!("token-of-{short},{user},{short},{group}\n");
        fs::write(shared.join(format!("{short}.kubeconfig")), kubeconfig(short))?;
    }
    Ok(fs::write(shared.join("tokens.csv"), tokens)?)
}

fn kubeconfig(user: &str) -> String {
    format!(
        "apiVersion: v1
kind: Config
clusters: [{{name: node, cluster: {{server: 'https://127.0.0.1:6443', certificate-authority: /shared/ca.crt}}}}]
users: [{{name: user, user: {{token: token-of-{user}}}}}]
contexts: [{{name: node, context: {{cluster: node, user: user}}}}]
current-context: node
"
    )
}

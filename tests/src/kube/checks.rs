//! What a person does with drainctl in a cluster, beside rolling deployments: drains a pod that stays from afar, and installs the agent with Helm, with access to the API and without.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    process::{Command, Output},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::control::Cluster;
use crate::{
    cmd,
    net::{self, Attempt},
    wait::LIMIT,
};

/// A service with two pods that have a readiness gate.
const WORKLOAD: &str = include_str!("../../kube/workloads/gated.yaml");

/// The program that the agent puts on its node.
const DRAINCTL: &str = "/opt/drainctl/bin/drainctl";

/// What `deploy/` asks for: BPF, DAC_READ_SEARCH, NET_ADMIN, PERFMON, SETUID, SYS_ADMIN, SYS_PTRACE.
const CAPABILITIES: u64 = 1 << 39 | 1 << 2 | 1 << 12 | 1 << 38 | 1 << 7 | 1 << 21 | 1 << 19;

/// The agent's TCP endpoint, at the node's address.
const ENDPOINT: &str = "https://192.0.2.10:9443";

impl Cluster {
    /// Does all of it; the agent's manifests are in the node's `/shared/deploy`. Afterwards no agent is installed.
    pub fn check_uses(&mut self) -> Result<()> {
        self.kubectl_with(&["apply", "-f", "-"], WORKLOAD)?;
        self.step("the agent has the capabilities of its manifest, and no others", |cluster| {
            cluster.check_privileges()
        })?;
        self.kubectl(&["delete", "-k", "/shared/deploy", "--wait=true"])?;
        self.make_secret()?;
        self.helm_install(&[])?;
        self.step("over TCP, from another pod: nothing without the right token", |cluster| {
            cluster.check_tcp()
        })?;
        self.step("a pod that stays leaves its Service, and comes back", |cluster| {
            cluster.check_gate()
        })?;
        self.helm_uninstall()?;
        let socket = "criSocket=/run/containerd/containerd.sock";
        self.helm_install(&["--set", "kubernetesApi=false", "--set", socket])?;
        self.step("without the API the runtime knows the grace period", |cluster| {
            cluster.check_runtime()
        })?;
        self.helm_uninstall()?;
        self.kubectl_with(&["delete", "-f", "-", "--wait=true"], WORKLOAD).map(drop)
    }

    fn step(&mut self, what: &str, check: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        check(self).with_context(|| format!("{what}\n{}", self.account()))?;
        println!("shown: {what}");
        Ok(())
    }

    /// By the kernel's account of the process, not by what the manifest says.
    fn check_privileges(&mut self) -> Result<()> {
        let of = ["get", "pods", "-n", "drainctl", "-o", "jsonpath={.items[0].metadata.uid}"];
        let uid = self.kubectl(&of)?;
        let pids = self.node.processes(&uid)?;
        let is_agent = |pid: &&u32| {
            fs::read_to_string(format!("/proc/{pid}/comm"))
                .is_ok_and(|name| name == "drain-agent\n")
        };
        let pid = pids.iter().find(is_agent).context("no process of the agent")?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name));
            value.map(str::trim).with_context(|| format!("no {name} in {status}"))
        };
        for set in ["CapEff:", "CapPrm:", "CapBnd:"] {
            let has = u64::from_str_radix(field(set)?, 16)?;
            ensure!(has == CAPABILITIES, "{set} {has:x}, not {CAPABILITIES:x}");
        }
        ensure!(field("NoNewPrivs:")? == "1" && field("Seccomp:")? == "2", "{status}");
        let netns = fs::read_link(format!("/proc/{pid}/ns/net"))?;
        ensure!(netns != self.node.netns().run(|| Ok(fs::read_link("/proc/thread-self/ns/net")?))?);
        let mounts = fs::read_to_string(format!("/proc/{pid}/mounts"))?;
        let root = mounts.lines().find(|line| line.split(' ').nth(1) == Some("/"));
        let options = root.and_then(|line| line.split(' ').nth(3)).context("no root is mounted")?;
        ensure!(options.split(',').any(|option| option == "ro"), "its root is mounted {options}");
        Ok(())
    }

    fn check_gate(&mut self) -> Result<()> {
        let [pod, other] = self.await_ready()?;
        let client = self.client()?;
        let said = succeeded(&self.ask("drain", &pod, Some("token"))?)?;
        // The larger of 5 s and 15 % is the server's own.
        ensure!(
            said.contains("--timeout 34s") && said.contains("from the Kubernetes API"),
            "{said}"
        );
        self.until("only the other pod is an endpoint", |cluster| {
            Ok(cluster.ready()? == [other.clone()])
        })?;
        let conditions = "jsonpath={.metadata.deletionTimestamp}{range .status.conditions[*]}{.type}={.status} {end}";
        let conditions = self.kubectl(&["get", "pod", &pod, "-o", conditions])?;
        let has = |text| conditions.split(' ').any(|condition| condition == text);
        ensure!(has("drainctl.dev/serving=False") && has("ContainersReady=True"), "{conditions}");
        ensure!(has("Ready=False"), "{conditions}");
        let (service, direct) = (SocketAddr::from(([10, 96, 0, 11], 80)), self.address(&pod)?);
        ensure!(net::attempt(&client, direct, LIMIT)? == Attempt::Refused, "it lets people in");
        self.until("the Service leads to the other pod alone", |_| {
            let attempts = (0..20).map(|_| net::attempt(&client, service, LIMIT));
            let attempts = attempts.collect::<Result<Vec<_>>>()?;
            Ok(attempts.iter().all(|attempt| *attempt == Attempt::Connected))
        })?;
        succeeded(&self.ask("undrain", &pod, Some("token"))?)?;
        ensure!(net::attempt(&client, direct, LIMIT)? == Attempt::Connected, "it is still closed");
        self.await_ready().map(drop)
    }

    /// A stranger, somebody with a wrong token, and an operator.
    fn check_tcp(&mut self) -> Result<()> {
        let [pod, _] = self.await_ready()?;
        for (verb, token) in
            [("status", None), ("drain", Some("wrong")), ("undrain", Some("wrong"))]
        {
            let output = self.ask(verb, &pod, token)?;
            ensure!(output.status.code() == Some(5), "{verb} with {token:?}: {}", text(&output));
        }
        // This node is a PID namespace, whose root is not root of the machine: over the socket it may not either.
        let output =
            self.node.output(&[DRAINCTL, "drain", "--pod", &full(&pod), "--port=80"], "")?;
        ensure!(output.status.code() == Some(5), "{}", text(&output));
        ensure!(self.ready()?.contains(&pod), "a stranger has drained it");
        let said = succeeded(&self.ask("status", &pod, Some("token"))?)?;
        ensure!(said.contains("serving") && said.contains(&full(&pod)), "{said}");
        Ok(())
    }

    /// Without access to the API the agent asks the container runtime, which has the pods.
    fn check_runtime(&mut self) -> Result<()> {
        let [pod, _] = self.await_ready()?;
        let said = succeeded(&self.ask("drain", &pod, Some("token"))?)?;
        ensure!(said.contains("has 40s to stop (from the container runtime)"), "{said}");
        let (client, direct) = (self.client()?, self.address(&pod)?);
        ensure!(net::attempt(&client, direct, LIMIT)? == Attempt::Refused, "it lets people in");
        succeeded(&self.ask("undrain", &pod, Some("token"))?).map(drop)
    }

    /// Runs a verb for a pod's port 80 in the network of another pod, by way of the node's port.
    fn ask(&mut self, verb: &str, pod: &str, token: Option<&str>) -> Result<Output> {
        let (client, shared) = (self.client()?, self.node.shared());
        let mut command = Command::new(self.node.path(DRAINCTL));
        command.args([verb, "--pod", &full(pod), "--port", "80", "--agent", ENDPOINT]);
        command.arg("--ca-file").arg(shared.join("ca.crt")).env_remove("DRAINCTL_TOKEN");
        if let Some(token) = token {
            command.arg("--token-file").arg(shared.join(token));
        }
        client.run(|| cmd::output(&mut command, ""))
    }

    /// What the agent's TCP endpoint needs, and a token that it does not know.
    fn make_secret(&self) -> Result<()> {
        let shared = self.node.shared();
        fs::write(shared.join("token"), "the-token-of-this-test\n")?;
        fs::write(shared.join("wrong"), "a-token-of-another-one\n")?;
        self.kubectl(&["create", "namespace", "drainctl"])?;
        let files = ["--from-file=token=/shared/token", "--from-file=tls.crt=/shared/server.crt"];
        let more = ["--from-file=tls.key=/shared/server.key", "--namespace=drainctl"];
        let create = ["create", "secret", "generic", "over-tcp"];
        self.kubectl(&[&create[..], &files, &more].concat()).map(drop)
    }

    fn helm_install(&mut self, values: &[&str]) -> Result<()> {
        let chart = ["install", "drainctl", "/shared/deploy/helm/drainctl", "--wait"];
        let options = ["--namespace=drainctl", "--timeout=90s", "--set=listen.secret=over-tcp"];
        self.helm(&[&chart[..], &options, values].concat())?;
        self.await_agent()
    }

    fn helm_uninstall(&mut self) -> Result<()> {
        self.helm(&["uninstall", "drainctl", "--namespace=drainctl", "--wait"])?;
        let kinds = "daemonsets,pods,serviceaccounts,clusterroles,clusterrolebindings";
        self.until("nothing of the agent is left", |cluster| {
            let get = ["get", kinds, "-n", "drainctl", "-l", "app.kubernetes.io/name=drainctl"];
            Ok(cluster.kubectl(&[&get[..], &["-o", "name"]].concat())?.is_empty())
        })
    }

    fn helm(&self, args: &[&str]) -> Result<String> {
        let command = [&["helm", "--kubeconfig=/shared/admin.kubeconfig"], args].concat();
        succeeded(&self.node.output(&command, "")?)
    }

    /// The pods that the Service sends people to.
    fn ready(&self) -> Result<Vec<String>> {
        let label = "kubernetes.io/service-name=gated";
        let slices = self.kubectl(&["get", "endpointslices", "-l", label, "-o", "json"])?;
        let slices: Value = serde_json::from_str(&slices)?;
        let all = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let endpoints =
            all(&slices["items"]).into_iter().flat_map(|slice| all(&slice["endpoints"]));
        let ready = endpoints.filter(|endpoint| endpoint["conditions"]["ready"] == true);
        let name = |endpoint: Value| Some(endpoint["targetRef"]["name"].as_str()?.to_owned());
        let mut names: Vec<String> = ready.filter_map(name).collect();
        names.sort();
        Ok(names)
    }

    fn await_ready(&mut self) -> Result<[String; 2]> {
        self.until("both pods are endpoints", |cluster| Ok(cluster.ready()?.len() == 2))?;
        self.ready()?.try_into().ok().context("two pods")
    }

    fn address(&self, pod: &str) -> Result<SocketAddr> {
        let ip = self.kubectl(&["get", "pod", pod, "-o", "jsonpath={.status.podIP}"])?;
        Ok(SocketAddr::from((ip.parse::<Ipv4Addr>()?, 80)))
    }
}

fn full(pod: &str) -> String {
    format!("default/{pod}")
}

fn text(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr].concat();
    format!("{}: {}", output.status, String::from_utf8_lossy(&text))
}

/// What it said, on both of its outputs.
fn succeeded(output: &Output) -> Result<String> {
    ensure!(output.status.success(), "{}", text(output));
    Ok(text(output))
}

//! The real kube-proxy, in its IPVS mode: its program, told about one service by an API server of ours.

use std::{
    collections::BTreeSet,
    env,
    fs::{self, File},
    net::{Ipv4Addr, SocketAddrV4},
    path::PathBuf,
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{POD_CIDR, ServicePort, api::Api};
use crate::{
    cmd,
    netns::Netns,
    process::Process,
    wait::{LIMIT, eventually},
};

/// What it calls itself.
const NODE: &str = "node-1";

/// kube-proxy on a node; ended when this is dropped.
#[derive(Debug)]
pub(super) struct Real {
    api: Api,
    process: Mutex<Process>,
    dir: TempDir,
    /// Every pod that was an endpoint once: one that leaves is shown as terminating.
    known: Mutex<BTreeSet<Ipv4Addr>>,
}

impl Real {
    /// Starts it on `node`, for a service at `ip` that has no endpoints yet.
    pub(super) fn start(node: &Netns, ip: Ipv4Addr, ports: &[ServicePort]) -> Result<Self> {
        // Where modules are loaded on demand, these come too late for kube-proxy's look at their settings.
        cmd::run("modprobe", &["-a", "ip_vs", "ip_vs_rr", "nf_conntrack"])?;
        let program = env::var_os("DRAINCTL_KUBE_PROXY").map(PathBuf::from).context(
            "DRAINCTL_KUBE_PROXY does not name kube-proxy: `cargo xtask vm --kernel 6.1 -- test rolling` does",
        )?;
        let api = Api::start(node)?;
        api.put(
            "nodes",
            json!({
                "apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE, "uid": NODE},
                "status": {"addresses": [{"type": "InternalIP", "address": "10.244.0.1"}]},
            }),
        );
        api.put("services", service(ip, ports));
        let dir = tempfile::Builder::new().prefix("drainctl-kube-proxy-").tempdir()?;
        let config = dir.path().join("config");
        fs::write(&config, configuration().to_string())?;
        let log = File::create(dir.path().join("log"))?;
        let mut command = Command::new(program);
        command.arg("--config").arg(&config).arg(format!("--master=http://{}", api.addr()));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = node.run(|| command.spawn().context("start kube-proxy"))?;
        let process = Mutex::new(Process::new(child, "kube-proxy"));
        Ok(Self { api, process, dir, known: Mutex::default() })
    }

    /// Tells which pods are ready, and waits until kube-proxy has made it so.
    pub(super) fn set_endpoints(
        &self,
        node: &Netns,
        ports: &[ServicePort],
        wanted: &BTreeSet<Ipv4Addr>,
    ) -> Result<()> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.extend(wanted);
        self.api.put("endpointslices", slice(ports, &known, wanted));
        let wanted: BTreeSet<SocketAddrV4> = wanted
            .iter()
            .flat_map(|pod| ports.iter().map(|port| SocketAddrV4::new(*pod, port.port)))
            .collect();
        eventually(LIMIT, "kube-proxy has followed", || {
            let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(status) = process.exited()? {
                bail!("kube-proxy ended: {status}");
            }
            let rules = node.run(|| Ok(fs::read_to_string("/proc/thread-self/net/ip_vs")?))?;
            Ok(rules.lines().filter_map(real_server).collect::<BTreeSet<_>>() == wanted)
        })
        .with_context(|| {
            let log = fs::read_to_string(self.dir.path().join("log"));
            format!("kube-proxy's log:\n{}", log.unwrap_or_default())
        })
    }
}

/// A real server that gets new connections: `-> 0AF40102:0050 Masq 1 0 0` (ip_vs_info_seq_show).
fn real_server(line: &str) -> Option<SocketAddrV4> {
    let mut words = line.split_whitespace();
    let (ip, port) = words.by_ref().skip_while(|word| *word != "->").nth(1)?.split_once(':')?;
    let (_method, weight) = words.next().zip(words.next())?;
    let ip = Ipv4Addr::from(u32::from_str_radix(ip, 16).ok()?);
    let port = u16::from_str_radix(port, 16).ok()?;
    (weight != "0").then_some(SocketAddrV4::new(ip, port))
}

/// kube-proxy's defaults, but for what a network namespace that is not the machine's own may not set.
fn configuration() -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
        "mode": "ipvs", "hostnameOverride": NODE, "clusterCIDR": POD_CIDR,
        "clientConnection": {"contentType": "application/json", "acceptContentTypes": "application/json"},
        "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    })
}

fn service(ip: Ipv4Addr, ports: &[ServicePort]) -> Value {
    let ports: Vec<Value> = ports
        .iter()
        .map(|port| json!({"name": port.name, "port": port.port, "targetPort": port.port, "protocol": "TCP"}))
        .collect();
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default", "uid": "web"},
        "spec": {
            "type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ipFamilies": ["IPv4"],
            "sessionAffinity": "None", "internalTrafficPolicy": "Cluster", "ports": ports,
        },
    })
}

/// As the endpoint controller writes it: pods that are told to go are still serving, and not ready.
fn slice(ports: &[ServicePort], known: &BTreeSet<Ipv4Addr>, ready: &BTreeSet<Ipv4Addr>) -> Value {
    let endpoints: Vec<Value> = known
        .iter()
        .map(|pod| {
            let is_ready = ready.contains(pod);
            let conditions = json!({"ready": is_ready, "serving": true, "terminating": !is_ready});
            json!({"addresses": [pod], "nodeName": NODE, "conditions": conditions})
        })
        .collect();
    let ports: Vec<Value> = ports
        .iter()
        .map(|port| json!({"name": port.name, "port": port.port, "protocol": "TCP"}))
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": "web-1", "namespace": "default", "uid": "web-1",
            "labels": {"kubernetes.io/service-name": "web"},
        },
        "ports": ports, "endpoints": endpoints,
    })
}

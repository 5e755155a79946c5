//! Rolling updates of a deployment under load, and what the clients saw of them.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{control::Cluster, hook::Hook};
use crate::{
    cluster::{RPC_SERVICE, SERVICE},
    grpc::{GrpcLoad, GrpcServer, GrpcTally},
    http,
    load::{Load, Manner, Plan, Tally},
    netns::Netns,
    nginx::{BODY, Nginx},
};

/// The agent's counter of services proven empty.
const DRAINED: &str = "drainctl_drained_total ";

/// How many clients there are of each kind, and how often each asks.
const SHORT: (u32, Duration) = (12, Duration::from_millis(40));
const KEPT: (u32, Duration) = (12, Duration::from_millis(40));
const CHANNELS: u32 = 3;

/// What came of rolling a deployment several times with one kind of hook.
#[derive(Debug)]
pub struct Outcome {
    /// How its pods were told.
    pub hook: Hook,
    /// Clients of each kind.
    pub rows: [(&'static str, Tally); 4],
    /// From the first order to roll until the last old pod was gone.
    pub took: Duration,
    /// Drains that ended with the proof that no connection is left, by the agent's own account.
    pub drained: u64,
}

impl Outcome {
    /// Requests of all clients.
    pub fn requests(&self) -> u64 {
        self.rows.iter().map(|(_, tally)| tally.total()).sum()
    }

    /// How many of them failed.
    pub fn failed(&self) -> u64 {
        self.rows.iter().map(|(_, tally)| tally.failed()).sum()
    }
}

impl Cluster {
    /// Puts the agent on the node from the manifests of `deploy/`, as a user would.
    pub fn deploy_agent(&mut self, deploy: &Path) -> Result<()> {
        let copy = self.node.shared().join("deploy");
        crate::cmd::run("cp", &["-r", &deploy.to_string_lossy(), &copy.to_string_lossy()])?;
        self.kubectl(&["apply", "-k", "/shared/deploy"])?;
        self.await_agent()
    }

    /// Waits until the agent of the node is ready.
    pub(super) fn await_agent(&mut self) -> Result<()> {
        self.until("the agent is ready", |cluster| {
            let status = "jsonpath={.status.numberReady}/{.status.desiredNumberScheduled}";
            let get = ["get", "daemonset", "drainctl", "-n", "drainctl", "-o", status];
            Ok(cluster.kubectl(&get)? == "1/1")
        })
        .with_context(|| self.why("drainctl", "app.kubernetes.io/name=drainctl"))
    }

    /// Rolls the workload so many times under load.
    pub fn roll(&mut self, hook: Hook, times: u32) -> Result<Outcome> {
        self.kubectl_with(&["apply", "-f", "-"], &hook.workload())?;
        self.await_pods()?;
        let drained = self.drained()?;
        let client = self.client()?;
        // kube-proxy may be behind what the API server says.
        Nginx::await_answer(&client, SERVICE.into())?;
        GrpcServer::await_connected_to(&client, RPC_SERVICE.into())?;
        let load = Clients::start(&client)?;
        let start = Instant::now();
        for _ in 0..times {
            self.kubectl(&["rollout", "restart", "deployment/web"])?;
            self.await_pods()?;
        }
        let took = start.elapsed();
        let rows = load.finish()?;
        let drained = self.drained()?.saturating_sub(drained);
        self.kubectl_with(&["delete", "-f", "-", "--wait=true"], &hook.workload())?;
        Ok(Outcome { hook, rows, took, drained })
    }

    /// Waits until the newest version is all that there is, and the old pods are gone.
    fn await_pods(&mut self) -> Result<()> {
        let waited = self.until("three new pods, and no old ones", |cluster| {
            let status = "jsonpath={.metadata.generation} {.status.observedGeneration} \
                          {.status.updatedReplicas} {.status.readyReplicas} {.status.replicas}";
            let status = cluster.kubectl(&["get", "deployment", "web", "-o", status])?;
            let fields: Vec<_> = status.split(' ').collect();
            let pods = cluster.kubectl(&["get", "pods", "-l", "app=web", "-o", "name"])?;
            let is_new = fields.len() == 5 && fields[0] == fields[1];
            Ok(is_new && fields[2..] == ["3", "3", "3"] && pods.lines().count() == 3)
        });
        waited.with_context(|| self.why("default", "app=web"))
    }

    /// The network namespace of the pod that requests come from.
    pub(super) fn client(&mut self) -> Result<Arc<Netns>> {
        self.kubectl(&["wait", "pod/client", "--for=condition=Ready", "--timeout=60s"])?;
        let uid = self.kubectl(&["get", "pod", "client", "-o", "jsonpath={.metadata.uid}"])?;
        let pids = self.node.processes(&uid)?;
        let pid = pids.first().context("no process of the client's pod")?;
        let client = Netns::at(PathBuf::from(format!("/proc/{pid}/ns/net")))?;
        // One request per connection needs many source ports, each free again at once.
        client.sysctl("net/ipv4/ip_local_port_range", "1024 65535")?;
        client.sysctl("net/ipv4/tcp_tw_reuse", "1")?;
        Ok(Arc::new(client))
    }

    /// How many drains have ended drained, by the agent's own account; none where no agent is.
    fn drained(&self) -> Result<u64> {
        let socket = self.node.path("/run/drainctl/agent.sock");
        if !socket.exists() {
            return Ok(0);
        }
        let response = http::unix(&socket, "GET", "/metrics", "")?;
        let metrics = String::from_utf8_lossy(&response.body).into_owned();
        let lines = metrics.lines().filter(|line| line.starts_with(DRAINED));
        let counts = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        Ok(counts.sum())
    }

    /// What the agent and the kubelet say about hooks, for whoever looks into a failure.
    pub fn account(&self) -> String {
        let events =
            r#"jsonpath={range .items[?(@.type=="Warning")]}{.reason}: {.message}{"\n"}{end}"#;
        let events = self.kubectl(&["get", "events", "-A", "-o", events]).unwrap_or_default();
        let logs = ["logs", "-n", "drainctl", "daemonset/drainctl", "--tail=60"];
        let logs = self.kubectl(&logs).unwrap_or_default();
        let pods = self.kubectl(&["get", "pods", "-A"]).unwrap_or_default();
        format!("{pods}\n{events}\n{logs}")
    }

    /// What the API server knows of some pods, for the message of a failure.
    fn why(&self, namespace: &str, label: &str) -> String {
        let describe = self.kubectl(&["describe", "pods", "-n", namespace, "-l", label]);
        let logs = ["logs", "-n", namespace, "-l", label, "--all-containers", "--tail=20"];
        format!("{}\n{}", describe.unwrap_or_default(), self.kubectl(&logs).unwrap_or_default())
    }
}

/// The load of one run.
struct Clients {
    short: Load,
    kept: Load,
    grpc: GrpcLoad,
}

impl Clients {
    fn start(client: &Arc<Netns>) -> Result<Self> {
        let grpc = GrpcLoad::start(client, RPC_SERVICE.into(), CHANNELS)?;
        let start = |path, manner, (workers, pace)| {
            let (target, at_most) = (SERVICE.into(), u64::MAX);
            Load::start(client, Plan { target, path, body: BODY, manner, workers, pace, at_most })
        };
        let short = start("/ok", Manner::OneRequest, SHORT);
        Ok(Self { short, kept: start("/kept", Manner::KeepAlive, KEPT), grpc })
    }

    fn finish(self) -> Result<[(&'static str, Tally); 4]> {
        self.grpc.stop()?;
        let GrpcTally { calls, streams, failed_at: _ } = self.grpc.finish()?;
        let rows = [
            ("short connections", self.short.finish()?),
            ("keep-alive", self.kept.finish()?),
            ("gRPC calls", calls),
            ("gRPC streams", streams),
        ];
        for (name, tally) in &rows {
            ensure!(tally.ok > 0, "no request of {name} was ever answered");
        }
        Ok(rows)
    }
}

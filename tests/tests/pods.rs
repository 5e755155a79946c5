//! Pods by name, their own deadline, and what Kubernetes does about them.

use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, ensure};
use drainctl_tests::{
    agent::Agent,
    apiserver::ApiServer,
    cluster::{Cluster, PORT, Pod},
    ctl::{Ctl, Outcome},
    fixture::serve,
    net::{self, Attempt, Server},
    netns::Netns,
    sandbox::Sandbox,
    wait::{LIMIT, eventually},
};
use serde_json::{Value, json};
use tempfile::TempDir;

const GATE: &str = "drainctl.dev/serving";
const POD: [&str; 2] = ["--pod", "default/web-0"];
/// Root without being a node admin.
const CONTAINED: &[&str] = &["unshare", "--pid", "--fork", "--kill-child"];

/// A node with one pod that serves on port 80, and an agent that knows what it is called.
struct Node {
    agent: Agent,
    api: Option<ApiServer>,
    uid: String,
    sandbox: Sandbox,
    host: Netns,
    server: Server,
    cluster: Cluster,
    _folder: TempDir,
}

impl Node {
    /// With names from the kubelet's folder of logs only.
    fn without_api() -> Result<Self> {
        Self::start(None, new_uid())
    }

    /// With an API that knows this pod.
    fn with_api(pod: Value) -> Result<Self> {
        let uid = pod["metadata"]["uid"].as_str().context("a pod has a uid")?.to_owned();
        let api = ApiServer::start()?;
        api.put_pod(pod);
        Self::start(Some(api), uid)
    }

    fn start(api: Option<ApiServer>, uid: String) -> Result<Self> {
        let (cluster, host, folder) = (Cluster::single()?, Netns::host()?, TempDir::new()?);
        let server = serve(&cluster.pods[0], PORT)?;
        let sandbox = Sandbox::start(&cluster.pods[0].netns, &uid)?;
        let logs = folder.path().join("pods");
        for name in [format!("default_web-0_{uid}"), "default_gone_1".to_owned()] {
            std::fs::create_dir_all(logs.join(name))?;
        }
        let logs = logs.to_str().context("a path of letters")?;
        let mut options = vec!["--pod-logs", logs, "--cri-socket", "/nonexistent.sock"];
        let kubeconfig = api.as_ref().map(|api| api.kubeconfig(folder.path())).transpose()?;
        match &kubeconfig {
            Some(path) => {
                options.extend([
                    "--kubernetes",
                    "require",
                    "--node-name",
                    "node-a",
                    "--kubeconfig",
                    path,
                ]);
            }
            None => options.extend(["--kubernetes", "off"]),
        }
        let agent = Agent::start_with(&options)?;
        Ok(Self { agent, api, uid, sandbox, host, server, cluster, _folder: folder })
    }

    fn pod(&self) -> &Pod {
        &self.cluster.pods[0]
    }

    /// `drainctl` as root of the node.
    fn admin(&self) -> Ctl<'_> {
        self.agent.ctl(&self.host)
    }

    /// `drainctl` in the pod.
    fn inside(&self) -> Ctl<'_> {
        self.agent.ctl(&self.pod().netns)
    }

    fn api(&self) -> Result<&ApiServer> {
        self.api.as_ref().context("there is an API")
    }

    fn ensure(&self, expected: Attempt) -> Result<()> {
        let attempt = net::attempt(&self.cluster.client, self.pod().addr(), LIMIT)?;
        ensure!(attempt == expected, "{attempt:?} instead of {expected:?}");
        if attempt == Attempt::Connected {
            drop(self.server.accept()?);
        }
        Ok(())
    }

    fn await_condition(&self, status: &str) -> Result<()> {
        let api = self.api()?;
        let is = || Ok(api.condition("web-0", GATE).as_deref() == Some(status));
        eventually(LIMIT, &format!("{GATE} is {status}"), is)
    }
}

/// A uid that no other test's pod has: all pods here are processes of one machine, and found by it.
fn new_uid() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("f47ac10b-58cc-4372-a567-{:012x}", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web-0", "namespace": "default", "uid": new_uid(), "labels": {"app": "web"}},
        "spec": {
            "nodeName": "node-a", "containers": [{"name": "web"}], "terminationGracePeriodSeconds": 60,
            "readinessGates": [{"conditionType": GATE}],
        },
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    })
}

/// The Service `web` on the pods' port, with these endpoints.
fn slice(endpoints: &[(&str, bool)]) -> Value {
    let endpoint = |(name, ready): &(&str, bool)| {
        json!({
            "addresses": ["10.0.0.1"], "conditions": {"ready": ready},
            "targetRef": {"kind": "Pod", "namespace": "default", "name": name},
        })
    };
    let endpoints: Vec<Value> = endpoints.iter().map(endpoint).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "web-x", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
        "ports": [{"port": PORT}], "endpoints": endpoints,
    })
}

fn json_of(outcome: &Outcome) -> Result<Value> {
    serde_json::from_str(&outcome.stdout).with_context(|| outcome.clone())
}

/// The arguments, followed by those that name the pod.
fn to_pod<'a>(args: &[&'a str]) -> Vec<&'a str> {
    [args, &POD].concat()
}

#[test]
fn a_pod_is_drained_by_its_name_without_any_api() -> Result<()> {
    let node = Node::without_api()?;
    let admin = node.admin();
    let status = json_of(&admin.expect(0, &to_pod(&["status", "--json"]))?)?;
    let expected = json!({"namespace": "default", "name": "web-0", "uid": node.uid});
    ensure!(status["services"][0]["pod"] == expected, "{status}");
    ensure!(status["services"][0]["netns"] == node.pod().netns.inode(), "{status}");
    admin.expect(0, &to_pod(&["status"]))?.says("default/web-0")?;
    let flows = json_of(&admin.expect(0, &to_pod(&["flows", "--port", "80", "--json"]))?)?;
    ensure!(flows["services"][0]["pod"] == expected, "{flows}");

    let drain = ["drain", "--port", "80", "--quiet", "0s"];
    admin.expect(0, &to_pod(&drain))?.says("default/web-0 has 30s to stop (assumed")?;
    node.ensure(Attempt::Refused)?;
    ensure!(node.inside().service(PORT)?.rejected > 0, "our gate refused it");
    let metrics = node.agent.http("GET", "/metrics", "")?.body;
    let metrics = String::from_utf8(metrics)?;
    ensure!(metrics.contains("namespace=\"default\",pod=\"web-0\""), "{metrics}");
    let path = "/drained/80?pod=default/web-0";
    ensure!(node.agent.http("GET", path, "")?.status == 200);
    admin.expect(0, &to_pod(&["ready", "--port", "80"]))?;
    admin.expect(0, &to_pod(&["undrain", "--port", "80"]))?;
    node.ensure(Attempt::Connected)?;

    let id = &node.sandbox.id()[..12];
    admin.expect(0, &["drain", "--port", "80", "--quiet", "0s", "--container", id])?;
    node.ensure(Attempt::Refused)?;
    admin.expect(0, &["undrain", "--port", "80", "--container", node.sandbox.id()])?;
    node.ensure(Attempt::Connected)
}

#[test]
fn what_is_not_there_or_not_ones_own_is_refused() -> Result<()> {
    let node = Node::without_api()?;
    let (admin, host) = (node.admin(), &node.host);
    admin.expect(6, &["status", "--pod", "default/web-1"])?.says("kubectl get pods")?;
    admin.expect(6, &["status", "--pod", "default/gone"])?.says("no running container")?;
    admin.expect(6, &["status", "--container", "0123456789ab"])?.says("crictl")?;
    admin.expect(2, &["status", "--container", "0123"])?.says("first 12 digits")?;
    admin.expect(2, &["status", "--pod", "web-0"])?.says("NAMESPACE/NAME")?;
    // A pod that shares the node's network is never taken for what else listens there.
    let uid = "00000000-0000-4000-8000-000000000001";
    std::fs::create_dir(node._folder.path().join(format!("pods/kube-system_proxy_{uid}")))?;
    let _proxy = Sandbox::start(host, uid)?;
    admin.expect(2, &["status", "--pod", "kube-system/proxy"])?.says("--host")?;
    let services = json_of(&admin.expect(0, &["status", "--host", "--json"])?)?;
    let services = services["services"].as_array().context("a list")?;
    ensure!(services.iter().all(|service| service["pod"].is_null()), "{services:?}");

    let contained = node.inside().under(CONTAINED);
    contained.expect(0, &to_pod(&["status"]))?;
    contained.expect(5, &["status", "--pod", "default/gone"])?;
    contained.expect(5, &["status", "--pod", "default/nowhere"])?;
    contained.expect(5, &["status", "--container", node.sandbox.id()])?;
    node.agent.ctl(&node.cluster.client).under(CONTAINED).expect(5, &to_pod(&["status"]))?;
    Ok(())
}

#[test]
fn a_drain_in_a_pod_ends_before_the_pod_does() -> Result<()> {
    let node = Node::with_api(pod())?;
    let inside = node.inside();
    let drain = ["drain", "--port", "80", "--no-wait", "--min-settle", "45s"];
    inside.expect(0, &drain)?.says("--timeout 51s: pod default/web-0 has 1m to stop (from the")?;
    let left = inside.service(PORT)?.drain.context("it drains")?.deadline_in_ms;
    ensure!((40_000..=51_000).contains(&left), "{left}");
    inside.expect(0, &["undrain", "--port", "80"])?;

    inside
        .expect(0, &["drain", "--port", "80", "--no-wait", "--timeout", "61s"])?
        .says("less than --timeout 1m 1s")?;
    inside.expect(0, &["undrain", "--port", "80"])?;

    let mut deleted = pod();
    deleted["metadata"]["uid"] = json!(node.uid);
    deleted["metadata"]["deletionGracePeriodSeconds"] = json!(4);
    deleted["metadata"]["deletionTimestamp"] = json!("2100-01-01T00:00:00Z");
    node.api()?.put_pod(deleted);
    inside.expect(2, &["drain", "--port", "80"])?.says("terminationGracePeriodSeconds")?;
    ensure!(inside.service(PORT)?.state == "serving");
    let asked = node.api()?.requests();
    ensure!(asked.iter().any(|r| r.contains("fieldSelector=spec.nodeName%3Dnode-a")), "{asked:?}");
    Ok(())
}

#[test]
fn the_last_endpoint_of_a_service_goes_on_serving() -> Result<()> {
    let node = Node::with_api(pod())?;
    node.api()?.put_slices(vec![slice(&[("web-0", true), ("web-1", false)])]);
    node.await_condition("True")?;
    let inside = node.inside();
    let drain = ["drain", "--port", "80", "--timeout", "4s"];
    let outcome = inside.expect(3, &drain)?.says("only ready endpoint")?;
    ensure!(outcome.stderr.contains("--close-anyway"), "{outcome}");
    let service = inside.service(PORT)?;
    ensure!((&*service.state, service.rejected) == ("serving", 0), "{service:?}");
    node.ensure(Attempt::Connected)?;
    ensure!(node.api()?.condition("web-0", GATE).as_deref() == Some("True"));

    inside.expect(0, &["drain", "--port", "80", "--timeout", "20s", "--close-anyway"])?;
    node.ensure(Attempt::Refused)?;
    ensure!(inside.service(PORT)?.rejected > 0);
    node.await_condition("False")
}

#[test]
fn a_pod_with_the_gate_leaves_its_services_and_comes_back() -> Result<()> {
    let node = Node::with_api(pod())?;
    node.api()?.put_slices(vec![slice(&[("web-0", true), ("web-1", true)])]);
    node.await_condition("True")?;
    let inside = node.inside();
    let drain = inside.start(&["drain", "--port", "80", "--timeout", "20s"])?;
    node.await_condition("False")?;
    drain.wait()?.expect(0)?;
    node.ensure(Attempt::Refused)?;
    inside.expect(0, &["undrain", "--port", "80"])?;
    node.await_condition("True")?;
    ensure!(node.api()?.condition("web-0", "Ready").as_deref() == Some("True"), "left alone");
    node.ensure(Attempt::Connected)
}

#[test]
fn an_api_that_is_required_must_answer() -> Result<()> {
    let mut agent = Agent::prepare()?;
    agent.be_quiet();
    let missing = ["--kubernetes", "require", "--kubeconfig", "/nonexistent", "--node-name", "n"];
    let error = agent.launch(&missing).err().context("it does not start")?;
    ensure!(format!("{error:#}").contains("cannot use the kubeconfig /nonexistent"), "{error:#}");
    // Where the rest is as usual, it starts.
    agent.launch(&["--kubernetes", "off"])
}

//! preStop hooks over HTTP: the kubelet's request drains the pod, nobody else's does, and nothing stays behind.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
};

use anyhow::{Context, Result, ensure};
use drainctl_tests::{
    agent::Agent,
    cluster::PORT,
    cmd,
    fixture::Fixture,
    held::descriptors,
    kubeapi::{KubeApi, NODE, RunningPod},
    kubelet::{Asked, Kubelet},
    net::{self, Attempt, Listening, Server, connect_from},
    netns::Netns,
    wait::{LIMIT, eventually},
};

const HOOK: u16 = 9876;
const ANNOTATION: &str = "drainctl.dev/prestop-port";

/// A node with a kubelet, the API, and a pod that asks for a hook.
struct Node {
    fixture: Fixture,
    _running: RunningPod,
    api: KubeApi,
    kubelet: Kubelet,
    _dir: tempfile::TempDir,
}

impl Node {
    fn new() -> Result<Self> {
        let (kubelet, api, dir) = (Kubelet::new()?, KubeApi::start()?, tempfile::tempdir()?);
        let config = api.kubeconfig(dir.path())?;
        let fixture = Fixture::with(&options(&kubelet, &config)?)?;
        let running = RunningPod::start(&fixture.pod().netns)?;
        api.add(&running, &[(ANNOTATION, "9876")]);
        let node = Self { fixture, _running: running, api, kubelet, _dir: dir };
        eventually(
            LIMIT,
            "the hook is there",
            || Ok(node.metric("drainctl_hook_listeners")? == 1),
        )?;
        Ok(node)
    }

    fn metric(&self, name: &str) -> Result<u64> {
        metric(&self.fixture.agent, name)
    }

    fn results(&self, result: &str) -> Result<u64> {
        self.metric(&format!("drainctl_hook_requests_total{{result=\"{result}\"}}"))
    }

    fn addrs(&self) -> [SocketAddr; 2] {
        let pod = self.fixture.pod();
        [SocketAddr::from((pod.v4, HOOK)), SocketAddr::from((pod.v6, HOOK))]
    }

    /// The kubelet asks, in the node's namespace.
    fn ask(&self, query: &str) -> Result<Asked> {
        self.ask_at(self.addrs()[0], query)
    }

    fn ask_at(&self, addr: SocketAddr, query: &str) -> Result<Asked> {
        let url = format!("http://{addr}/drain{query}");
        self.kubelet.get(&self.fixture.cluster.node, &url, &[])
    }
}

fn options<'a>(kubelet: &'a Kubelet, config: &'a str) -> Result<[&'a str; 8]> {
    let kubernetes = ["--kubernetes", "require", "--kubeconfig", config, "--node-name", NODE];
    let [a, b, c, d, e, f] = kubernetes;
    Ok([a, b, c, d, e, f, "--probe-cgroup", kubelet.cgroup()?])
}

fn metric(agent: &Agent, name: &str) -> Result<u64> {
    let metrics = String::from_utf8(agent.http("GET", "/metrics", "")?.body)?;
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(value.with_context(|| format!("no {name}"))?.parse()?)
}

/// Sends a request on this connection; the status and all that follows.
fn request(mut stream: TcpStream) -> Result<String> {
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(b"GET /drain?port=80&quiet=0s HTTP/1.1\r\nHost: a\r\nUser-Agent: kube-lifecycle/1.34\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn the_kubelets_request_drains_the_pod_and_is_answered_when_it_is_empty() -> Result<()> {
    let node = Node::new()?;
    let fixture = &node.fixture;
    for (n, addr) in node.addrs().into_iter().enumerate() {
        let mut pair = fixture.pair()?;
        let mut asked = node.ask_at(addr, "?port=80&quiet=0s&retire=none&timeout=50s")?;
        fixture.ctl().await_state(PORT, "rejecting")?;
        ensure!(fixture.attempt()? == Attempt::Refused && asked.is_waiting()?);
        ensure!(fixture.service()?.rejected > 0);
        pair.exchange()?;
        drop(pair);
        let (status, text) = asked.answer()?;
        ensure!(
            status == 200 && text.contains("drained: port 80 is proven empty"),
            "{status} {text}"
        );
        ensure!(node.results("drained")? == n as u64 + 1);
        fixture.ctl().expect(0, &["ready", "--port", "80"])?;
        fixture.ctl().expect(0, &["undrain", "--port", "80"])?;
    }
    Ok(())
}

#[test]
fn what_does_not_come_to_an_end_or_makes_no_sense_is_said() -> Result<()> {
    let node = Node::new()?;
    let _pair = node.fixture.pair()?;
    let table = [
        ("", 400, "name the port"),
        ("?port=0", 400, "a TCP port"),
        ("?port=80&timeout=soon", 400, "a duration"),
        ("?port=80&host", 400, "no option of a preStop hook"),
        ("?port=80&netns=/proc/1/ns/net", 400, "no option of a preStop hook"),
        ("?port=80&min-settle=9s&max-settle=8s", 400, "--min-settle"),
        ("?port=81", 404, "81"),
        ("/../v1/services", 404, "only /drain"),
    ];
    for (query, expected, words) in table {
        let (status, text) = node.ask(query)?.answer()?;
        ensure!(status == expected && text.contains(words), "{query}: {status} {text}");
    }
    node.fixture.ensure_untouched()?;
    let asked = node.ask("?port=80&quiet=0s&retire=none&timeout=1s")?;
    let (status, text) = asked.answer()?;
    ensure!(status == 503 && text.contains("port 80 still has 1 flow"), "{status} {text}");
    ensure!(node.results("not_drained")? == 1 && node.results("failed")? == 7);
    // Another drain is in the way, and says so.
    let (status, text) = node.ask("?port=80&quiet=0s&retire=none&timeout=1s&new=drop")?.answer()?;
    ensure!(status == 409 && text.contains("--new"), "{status} {text}");
    Ok(())
}

#[test]
fn nobody_but_the_kubelet_is_let_in() -> Result<()> {
    let node = Node::new()?;
    let (fixture, cluster) = (&node.fixture, &node.fixture.cluster);
    let pod = fixture.pod();
    let denied = |from: &Netns, addr: SocketAddr| -> Result<()> {
        let answer = request(net::connect(from, addr)?)?;
        ensure!(answer.starts_with("HTTP/1.1 403 "), "from {} to {addr}: {answer}", from.name());
        fixture.ensure_untouched()
    };
    for addr in node.addrs() {
        // From where the kubelet is, but not in its cgroup; from another pod's place; and from the pod itself.
        for from in [&cluster.node, &cluster.client, &*pod.netns] {
            denied(from, addr)?;
        }
    }
    denied(&pod.netns, (Ipv4Addr::LOCALHOST, HOOK).into())?;
    // Who comes by an address of a service has the node's address when it arrives.
    let service: SocketAddr = "10.96.0.99:80".parse()?;
    let dnat = format!("{}:{HOOK}", pod.v4);
    let rules = [
        vec![
            "-t",
            "nat",
            "-I",
            "PREROUTING",
            "-d",
            "10.96.0.99",
            "-p",
            "tcp",
            "-j",
            "DNAT",
            "--to-destination",
            &dnat,
        ],
        vec!["-t", "nat", "-I", "POSTROUTING", "-p", "tcp", "--dport", "9876", "-j", "MASQUERADE"],
    ];
    for rule in &rules {
        cluster.node.run(|| cmd::run("iptables", rule))?;
    }
    denied(&cluster.client, service)?;
    ensure!(node.results("denied")? == 8, "{}", node.results("denied")?);
    // And the kubelet is, before and after.
    let (status, text) = node.ask("?port=80&quiet=0s")?.answer()?;
    ensure!(status == 200, "{status} {text}");
    Ok(())
}

#[test]
fn the_next_one_with_the_ports_of_the_kubelet_is_not_let_in() -> Result<()> {
    let node = Node::new()?;
    let (fixture, host) = (&node.fixture, &node.fixture.cluster.node);
    let addr = node.addrs()[0];
    let port = 41234;
    let url = format!("http://{addr}/drain?port=80&quiet=0s");
    let asked = node.kubelet.get(host, &url, &["--local-port", &port.to_string()])?;
    let (status, text) = asked.answer()?;
    ensure!(status == 200, "{status} {text}");
    fixture.ctl().expect(0, &["undrain", "--port", "80"])?;
    let own = host.run(|| {
        let probe = std::net::UdpSocket::bind("0.0.0.0:0")?;
        probe.connect(addr)?;
        Ok(probe.local_addr()?.ip())
    })?;
    host.sysctl("net/ipv4/tcp_tw_reuse", "1")?;
    let mut again = None;
    eventually(LIMIT * 4, "the ports are free", || {
        again = connect_from(host, (own, port).into(), addr).ok().flatten();
        Ok(again.is_some())
    })?;
    let answer = request(again.context("no connection")?)?;
    ensure!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    fixture.ensure_untouched()
}

#[test]
fn two_requests_are_answered_and_one_that_breaks_off_leaves_the_drain() -> Result<()> {
    let node = Node::new()?;
    let fixture = &node.fixture;
    let pair = fixture.pair()?;
    let query = "?port=80&quiet=0s&retire=none&timeout=50s";
    let mut asked = vec![node.ask(query)?, node.ask(query)?, node.ask(query)?];
    fixture.ctl().await_state(PORT, "rejecting")?;
    // The kubelet has given one up.
    drop(asked.pop());
    ensure!(fixture.attempt()? == Attempt::Refused);
    ensure!(fixture.service()?.state == "rejecting");
    drop(pair);
    for asked in asked {
        let (status, text) = asked.answer()?;
        ensure!(status == 200, "{status} {text}");
    }
    Ok(())
}

/// `lease_in_ms + age_ms` grows by renewals only. The lease is renewed when a third of it is over, so this takes half a
/// minute.
#[test]
fn an_open_request_renews_the_lease_and_nobody_does_when_it_is_broken_off() -> Result<()> {
    let node = Node::new()?;
    let fixture = &node.fixture;
    let pair = fixture.pair()?;
    let drain = || fixture.service()?.drain.context("no drain");
    let lease_ends = || drain().map(|drain| drain.lease_in_ms + drain.age_ms);
    let query = "?port=80&quiet=0s&retire=none&timeout=40s&lease=100s";
    let mut asked = node.ask(query)?;
    fixture.ctl().await_state(PORT, "rejecting")?;
    let first = lease_ends()?;
    ensure!(asked.is_waiting()?, "it was answered before");
    eventually(LIMIT * 4, "the lease is renewed", || Ok(lease_ends()? > first + 10_000))?;
    drop(asked);
    let (broken_off, last) = (drain()?.age_ms, lease_ends()?);
    eventually(LIMIT * 4, "the time of another renewal is over", || {
        Ok(drain()?.age_ms > broken_off + 35_000)
    })?;
    let now = lease_ends()?;
    ensure!(now.abs_diff(last) < 1000, "renewed by nobody: {last}, {now}");
    drop(pair);
    Ok(())
}

#[test]
fn an_agent_that_is_asked_to_stop_answers_first() -> Result<()> {
    let mut node = Node::new()?;
    let pair = node.fixture.pair()?;
    let asked = node.ask("?port=80&quiet=0s&retire=none&timeout=50s")?;
    node.fixture.ctl().await_state(PORT, "rejecting")?;
    let pid = node.fixture.agent.pid()?.to_string();
    cmd::run("kill", &["-TERM", &pid])?;
    let agent = &node.fixture.agent;
    eventually(LIMIT, "it waits", || Ok(agent.log().contains("until preStop hooks are answered")))?;
    drop(pair);
    let (status, text) = asked.answer()?;
    ensure!(status == 200, "{status} {text}");
    let agent = &mut node.fixture.agent;
    eventually(LIMIT, "then it ends", || Ok(!agent.is_running()?))
}

#[test]
fn the_drain_goes_on_when_the_agent_dies_under_a_request() -> Result<()> {
    let mut node = Node::new()?;
    let pair = node.fixture.pair()?;
    let query = "?port=80&quiet=0s&retire=none&timeout=50s";
    let asked = node.ask(query)?;
    node.fixture.ctl().await_state(PORT, "rejecting")?;
    node.fixture.agent.crash()?;
    // The hook fails, and the kubelet goes on with SIGTERM.
    let (status, _) = asked.answer()?;
    ensure!(status == 0, "{status}");
    let client = &node.fixture.cluster.client;
    let addr = node.fixture.pod().addr();
    ensure!(net::attempt(client, addr, LIMIT)? == Attempt::Refused);
    let config = node._dir.path().join("kubeconfig");
    let config = config.to_str().context("path")?;
    node.fixture.agent.launch(&options(&node.kubelet, config)?)?;
    ensure!(node.fixture.service()?.state == "rejecting");
    eventually(LIMIT, "the hook is there", || Ok(node.metric("drainctl_hook_listeners")? == 1))?;
    let asked = node.ask(query)?;
    drop(pair);
    let (status, text) = asked.answer()?;
    ensure!(status == 200, "{status} {text}");
    Ok(())
}

#[test]
fn a_port_that_is_taken_is_said_and_tried_again() -> Result<()> {
    let node = Node::new()?;
    let netns = Netns::new()?;
    let server = Server::start(&netns, Listening::on(Ipv4Addr::UNSPECIFIED, HOOK))?;
    let second = RunningPod::start(&netns)?;
    node.api.add(&second, &[(ANNOTATION, "9876")]);
    eventually(LIMIT, "it is said", || Ok(node.metric("drainctl_hook_missing")? == 1))?;
    ensure!(node.fixture.agent.log().contains("Address already in use"));
    let inside = node.fixture.agent.ctl(&netns);
    let name = format!("default/{}", second.name);
    let said = inside.expect(0, &["status", "--json"])?;
    let said: serde_json::Value = serde_json::from_str(&said.stdout)?;
    let missing = &said["hooks_missing"];
    let why = missing[0]["why"].as_str().context("no reason")?;
    ensure!(missing.as_array().is_some_and(|all| all.len() == 1), "{said}");
    ensure!(missing[0]["pod"] == name && why.contains("Address already in use"), "{said}");
    let said = inside.expect(0, &["status"])?.stdout;
    ensure!(said.contains(&format!("pod {name}: no preStop hook: ")), "{said}");
    // Those of another pod are not its business.
    let other = node.fixture.ctl().expect(0, &["status", "--json"])?.stdout;
    ensure!(other.contains("\"hooks_missing\":[]"), "{other}");
    drop(server);
    eventually(LIMIT, "it is open", || Ok(node.metric("drainctl_hook_listeners")? == 2))?;
    ensure!(node.metric("drainctl_hook_missing")? == 0);
    let said = inside.expect(0, &["status", "--json"])?.stdout;
    ensure!(said.contains("\"hooks_missing\":[]"), "{said}");
    // Neither is there one for a pod on the node's network, nor for an annotation that is no port.
    let on_host = RunningPod::start(&Netns::host()?)?;
    let third = Netns::new()?;
    let third = (RunningPod::start(&third)?, third);
    node.api.add(&on_host, &[(ANNOTATION, "9876")]);
    node.api.add(&third.0, &[(ANNOTATION, "http")]);
    eventually(LIMIT, "both are said", || Ok(node.metric("drainctl_hook_missing")? == 2))?;
    let attempt = net::attempt(&Netns::host()?, (Ipv4Addr::LOCALHOST, HOOK).into(), LIMIT)?;
    ensure!(attempt == Attempt::Refused, "{attempt:?}");
    drop(second);
    Ok(())
}

/// A namespace that lives shows in `/proc/PID/ns` or `ip netns`; what the agent would keep alive shows in neither, but
/// its sockets do among the agent's descriptors.
#[test]
fn a_hundred_pods_come_and_go_and_leave_nothing_in_the_agent() -> Result<()> {
    let node = Node::new()?;
    let agent = node.fixture.agent.pid()?;
    let before = descriptors(agent)?.len();
    for _ in 0..4 {
        let mut pods = Vec::new();
        for _ in 0..25 {
            let netns = Netns::new()?;
            let pod = RunningPod::start(&netns)?;
            node.api.add(&pod, &[(ANNOTATION, "9876")]);
            pods.push((pod, netns));
        }
        eventually(LIMIT * 2, "all have a hook", || {
            Ok(node.metric("drainctl_hook_listeners")? == 26)
        })?;
        // One each at least, less what an agent that had just started still had open.
        ensure!(descriptors(agent)?.len() >= before + 15);
        // The kubelet asks one of them, which is gone before the answer.
        let (gone, told): (Vec<_>, Vec<_>) =
            pods.into_iter().enumerate().partition(|(n, _)| n % 2 == 0);
        for (_, (pod, _)) in &told {
            node.api.remove(pod);
        }
        // These go without a word of the API.
        drop(gone);
        drop(told);
        eventually(LIMIT, "no hook is left", || Ok(node.metric("drainctl_hook_listeners")? == 1))?;
    }
    eventually(LIMIT, "no descriptor is left", || Ok(descriptors(agent)?.len() <= before + 2))
}

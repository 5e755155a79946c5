//! Probes of the kubelet: they neither keep a service from being drained, nor get a live container killed because
//! its port is closed; and nobody else is taken for the kubelet, whatever address it has.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use anyhow::{Context, Result, ensure};
use drainctl_tests::{
    agent::Agent,
    cluster::{PORT, SERVICE},
    cmd,
    fixture::Fixture,
    kubelet::{Kubelet, root},
    net::{Attempt, attempt, connect, connect_from, reset},
    ss::Sockets,
    wait::{LIMIT, eventually},
};

const DRAIN: [&str; 6] = ["drain", "--port", "80", "--quiet", "0s", "--keep-closed"];

/// A node whose kubelet is a stand-in.
struct Node {
    fixture: Fixture,
    kubelet: Kubelet,
}

impl Node {
    fn new() -> Result<Self> {
        let kubelet = Kubelet::new()?;
        let fixture = Fixture::with(&["--probe-cgroup", kubelet.cgroup()?])?;
        Ok(Self { fixture, kubelet })
    }

    fn addrs(&self) -> [SocketAddr; 2] {
        [self.fixture.pod().addr(), self.fixture.pod().addr6()]
    }

    /// A counter of the agent.
    fn counter(&self, name: &str) -> Result<u64> {
        self.fixture.agent.metric(name)
    }
}

#[test]
fn probes_pass_a_closed_gate_and_do_not_count() -> Result<()> {
    let node = Node::new()?;
    let Node { fixture, kubelet } = &node;
    let (ctl, host) = (fixture.ctl(), &fixture.cluster.node);
    let mut kept = Vec::new();
    for addr in node.addrs() {
        let probe = kubelet.probe(host, addr)?.context("refused before the drain")?;
        kept.push((probe, fixture.server.accept()?));
    }
    // They are there when the drain begins, and do not keep it.
    ctl.expect(0, &DRAIN)?;
    let service = ctl.service(PORT)?;
    ensure!((service.probes, service.flows) == (2, 0), "{service:?}");

    // Others of the same address are refused, and the kubelet is not.
    for addr in node.addrs() {
        ensure!(attempt(host, addr, LIMIT)? == Attempt::Refused, "{addr}");
        let probe = kubelet.probe(host, addr)?.context("a probe was refused")?;
        kept.push((probe, fixture.server.accept()?));
    }
    ensure!(node.counter("probes_passed_total")? >= 2);
    ensure!(node.counter("probes_opened_total")? == 4);
    ctl.await_service(PORT, "four probes", |service| service.probes == 4)?;
    ctl.expect(0, &["ready", "--port", "80"])?;
    ensure!(node.counter("flows_after_drained_total")? == 0);
    // That they are known from their start on is the kernel's doing, no repair's.
    ensure!(fixture.counts()?.context("no counters")?.accepted == 2, "{:?}", fixture.counts()?);

    // Bytes go both ways, until the end.
    drop(kept);
    ctl.await_service(PORT, "no probe", |service| service.probes == 0)?;
    ctl.expect(0, &["ready", "--port", "80"])?;
    Ok(())
}

#[test]
fn others_of_the_nodes_address_count() -> Result<()> {
    let node = Node::new()?;
    let Node { fixture, kubelet } = &node;
    let (ctl, host) = (fixture.ctl(), &fixture.cluster.node);
    let probe = kubelet.probe(host, fixture.pod().addr())?.context("refused before the drain")?;
    let probe = (probe, fixture.server.accept()?);
    // A hostNetwork ingress on the node, and an outside client whose address kube-proxy replaces by the node's.
    let ingress = connect(host, fixture.pod().addr())?;
    let ingress = (ingress, fixture.server.accept()?);
    let client = outside_client(fixture)?;
    let outside = (client, fixture.server.accept()?);
    let node_address = probe.1.peer_addr()?.ip();
    for served in [&ingress.1, &outside.1] {
        ensure!(served.peer_addr()?.ip() == node_address, "{:?}", served.peer_addr()?);
    }

    let mut drain = ctl.start(&[&DRAIN[..], &["--retire", "none", "--timeout", "50s"]].concat())?;
    let service = ctl.await_state(PORT, "rejecting")?;
    ensure!((service.probes, service.flows) == (1, 2), "{service:?}");
    drop(ingress);
    let service = ctl.await_service(PORT, "one flow", |service| service.flows == 1)?;
    ensure!(service.state == "rejecting" && drain.is_running()?, "{service:?}");
    drop(outside);
    drain.wait()?.expect(0)?;
    ensure!(ctl.service(PORT)?.probes == 1);
    drop(probe);
    Ok(())
}

/// The client's address and port, as the client itself would write them.
fn client_of(served: &TcpStream) -> Result<SocketAddr> {
    let peer = served.peer_addr()?;
    Ok(SocketAddr::new(peer.ip().to_canonical(), peer.port()))
}

/// A client outside the cluster that comes by a service address, so that its own address is masqueraded.
fn outside_client(fixture: &Fixture) -> Result<TcpStream> {
    let cluster = &fixture.cluster;
    let address = Ipv4Addr::new(198, 51, 100, 7);
    let add = ["-n", cluster.client.name(), "addr", "add", "198.51.100.7/32", "dev", "lo"];
    cmd::run("ip", &add)?;
    let route = ["-n", cluster.node.name(), "route", "add", "198.51.100.7", "via", "10.244.0.2"];
    cmd::run("ip", &route)?;
    let connected = connect_from(&cluster.client, (address, 0).into(), SERVICE.into())?;
    connected.context("refused before the drain")
}

#[test]
fn a_probe_is_no_arrival() -> Result<()> {
    let node = Node::new()?;
    let Node { fixture, kubelet } = &node;
    let options = ["--quiet", "1s", "--min-settle", "0s", "--max-settle", "50s"];
    let ctl = fixture.ctl();
    let rest = ["--timeout", "55s", "--keep-closed"];
    let drain = ctl.start(&[&["drain", "--port", "80"], &options[..], &rest].concat())?;
    ctl.await_state(PORT, "settling")?;
    eventually(LIMIT, "the service settles although probes come", || {
        let probe = kubelet.probe(&fixture.cluster.node, fixture.pod().addr())?;
        drop((probe.context("a probe was refused")?, fixture.server.accept()?));
        Ok(ctl.service(PORT)?.state != "settling")
    })?;
    drain.wait()?.expect(0)?;
    ensure!(fixture.counts()?.is_none_or(|counts| counts.accepted == 0), "{:?}", fixture.counts()?);
    Ok(())
}

#[test]
fn the_next_one_with_the_ports_of_a_probe_is_no_probe() -> Result<()> {
    let node = Node::new()?;
    let Node { fixture, kubelet } = &node;
    let (ctl, host) = (fixture.ctl(), &fixture.cluster.node);
    for addr in node.addrs() {
        let probe = kubelet.probe(host, addr)?.context("refused before the drain")?;
        let served = fixture.server.accept()?;
        let from = client_of(&served)?;
        // With a RST no side keeps the ports.
        reset(served)?;
        drop(probe);
        let mut again = None;
        eventually(LIMIT, "the ports are free", || {
            again = connect_from(host, from, addr)?;
            Ok(again.is_some())
        })?;
        let again = (again, fixture.server.accept()?);
        ensure!(client_of(&again.1)? == from);
        let mut drain =
            ctl.start(&[&DRAIN[..], &["--retire", "none", "--timeout", "50s"]].concat())?;
        let service = ctl.await_state(PORT, "rejecting")?;
        ensure!((service.probes, service.flows) == (0, 1), "{service:?}");
        ensure!(drain.is_running()?);
        // And so is one that comes later.
        reset(again.1)?;
        drop(again.0);
        drain.wait()?.expect(0)?;
        ensure!(connect_from(host, from, addr)?.is_none(), "it passed");
        ctl.expect(0, &["undrain", "--port", "80"])?;
    }
    Ok(())
}

#[test]
fn a_probe_that_the_kubelet_gave_up_does_not_count() -> Result<()> {
    let node = Node::new()?;
    let Node { fixture, kubelet } = &node;
    let ctl = fixture.ctl();
    let probe = kubelet.probe(&fixture.cluster.node, fixture.pod().addr())?;
    let served = fixture.server.accept()?;
    ctl.expect(0, &DRAIN)?;
    drop(probe.context("refused before the drain")?);
    let netns = &fixture.pod().netns;
    eventually(LIMIT, "the server's side is half-closed", || {
        Ok(Sockets::of(netns, PORT)?.close_wait == 1)
    })?;
    ctl.expect(0, &["ready", "--port", "80"])?;
    let service = ctl.service(PORT)?;
    ensure!((service.probes, service.flows) == (1, 0), "{service:?}");
    drop(served);
    Ok(())
}

#[test]
fn a_cgroup_that_cannot_be_the_kubelets_is_an_error_at_start() -> Result<()> {
    let root = root()?;
    let table = [
        (root.join("drainctl-is-not-there"), "No such file"),
        (root.clone(), "root"),
        ("/tmp".into(), "no cgroup"),
    ];
    for (path, why) in table {
        let path = path.to_str().context("a path of letters")?;
        let error = Agent::start_with(&["--probe-cgroup", path]).err().context("it started")?;
        let error = format!("{error:#}");
        ensure!(error.contains("--probe-cgroup") && error.contains(why), "{path}: {error}");
    }
    Ok(())
}

/// Runs something as container runtimes do on cgroup v2: in a cgroup, which is the root of all that it sees.
const IN_CONTAINER: [&str; 3] =
    ["sh", "-c", r#"echo 0 >"$0/cgroup.procs" && exec unshare --cgroup "$@""#];

/// One test for both, since all agents on this machine see the same kubelet.
#[test]
fn the_kubelet_is_found_by_its_process_and_again_when_it_moves() -> Result<()> {
    finds_the_kubelet(&[])?;
    let container = Kubelet::new()?;
    finds_the_kubelet(&[&IN_CONTAINER[..], &[container.cgroup()?]].concat())
}

fn finds_the_kubelet(wrapper: &[&str]) -> Result<()> {
    let mut agent = Agent::prepare()?;
    agent.set_wrapper(wrapper.iter().copied());
    agent.launch(&[])?;
    ensure!(agent.metric("kubelet_known")? == 0, "does a kubelet run here?");
    ensure!(agent.log().contains("no kubelet"), "{}", agent.log());
    for _ in 0..2 {
        let kubelet = Kubelet::new()?;
        let _process = kubelet.run(agent.dir())?;
        let cgroup = kubelet.cgroup()?;
        eventually(LIMIT, "the kubelet is found", || Ok(agent.log().contains(cgroup)))?;
        ensure!(agent.metric("kubelet_known")? == 1);
        let host = drainctl_tests::netns::Netns::host()?;
        agent.ctl(&host).under(wrapper).run(&["doctor"])?.says(cgroup)?;
    }
    Ok(())
}

//! Who may drain what. Every refusal is shown beside the same thing being allowed.

use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use drainctl_tests::{
    agent::Agent,
    cluster::{Cluster, PORT},
    cmd,
    ctl::Ctl,
    fixture::Fixture,
    http,
    kubeproxy::Mode,
    net::{self, Acceptor, Attempt, Listening, Server},
    netns::Netns,
    nginx::{BODY, Nginx},
    wait::LIMIT,
};

/// `nobody`.
const NOBODY: u32 = 65534;

/// A new pid namespace: what runs there is no node admin, though it is root.
const CONTAINED: &[&str] = &["unshare", "--pid", "--fork", "--kill-child"];

fn drain(port: &str) -> [&str; 5] {
    ["drain", "--port", port, "--quiet", "0s"]
}

fn ensure_serving(ctl: &Ctl<'_>, netns: &Netns, addr: SocketAddr) -> Result<()> {
    let service = ctl.service(addr.port())?;
    ensure!(service.state == "serving" && service.drain.is_none(), "{service:?}");
    ensure!(net::attempt(netns, addr, LIMIT)? == Attempt::Connected, "clients are refused");
    Ok(())
}

/// Drains and undrains as somebody who may.
fn ensure_allowed(ctl: &Ctl<'_>, netns: &Netns, addr: SocketAddr) -> Result<()> {
    let port = addr.port().to_string();
    ctl.expect(0, &drain(&port))?;
    ensure!(net::attempt(netns, addr, LIMIT)? == Attempt::Refused);
    ensure!(ctl.service(addr.port())?.rejected > 0);
    ctl.expect(0, &["undrain", "--port", &port])?;
    ensure_serving(ctl, netns, addr)
}

/// Root's listener on a free port below 1024 of the host, as sshd's 22 is.
fn privileged_server(host: &Netns) -> Result<(Acceptor, SocketAddr)> {
    (600..1024)
        .rev()
        .map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        .find_map(|addr| {
            let server = Server::start(host, Listening::on(addr.ip(), addr.port())).ok()?;
            Some((Acceptor::start(server), addr))
        })
        .context("no free port below 1024")
}

#[test]
fn an_unprivileged_user_cannot_drain_a_port_of_root_on_the_host() -> Result<()> {
    let host = Netns::host()?;
    let (_server, addr) = privileged_server(&host)?;
    let agent = Agent::start()?;
    let root = agent.ctl(&host);
    ensure_allowed(&root, &host, addr)?;

    let nobody = agent.ctl(&host).as_user(NOBODY)?;
    let port = addr.port().to_string();
    nobody.expect(5, &drain(&port))?;
    ensure_serving(&root, &host, addr)?;

    // Nor bring back what root has drained.
    root.expect(0, &drain(&port))?;
    nobody.expect(5, &["undrain", "--port", &port])?;
    ensure!(net::attempt(&host, addr, LIMIT)? == Attempt::Refused);
    root.expect(0, &["undrain", "--port", &port])?;
    ensure_serving(&root, &host, addr)
}

#[test]
fn a_user_may_drain_a_port_of_its_own_on_the_host() -> Result<()> {
    let host = Netns::host()?;
    let server = Server::start_as(NOBODY, &host, Listening::on(Ipv4Addr::LOCALHOST, 0))?;
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, server.port()?));
    let _server = Acceptor::start(server);
    let agent = Agent::start()?;
    let nobody = agent.ctl(&host).as_user(NOBODY)?;
    ensure_allowed(&nobody, &host, addr)?;
    let other = agent.ctl(&host).as_user(NOBODY - 1)?;
    other.expect(5, &drain(&addr.port().to_string()))?;
    ensure_serving(&agent.ctl(&host), &host, addr)?;

    // Nor does it get what it has not: the agent's own connections, or somebody else's server.
    let port = addr.port().to_string();
    let (_root, of_root) = privileged_server(&host)?;
    let handoff = format!("handoff=port:{}", of_root.port());
    let forward = "forward=192.0.2.1";
    for (new, why) in [(forward, "--new forward"), (&handoff, "belongs to user 0")] {
        nobody.expect(5, &[&drain(&port)[..], &["--new", new]].concat())?.says(why)?;
        ensure_serving(&agent.ctl(&host), &host, addr)?;
    }
    let next = Server::start_as(NOBODY, &host, Listening::on(Ipv4Addr::LOCALHOST, 0))?;
    let handoff = format!("handoff=port:{}", next.port()?);
    nobody.expect(0, &[&drain(&port)[..], &["--new", &handoff]].concat())?;
    nobody.expect(0, &["undrain", "--port", &port]).map(drop)
}

#[test]
fn what_is_carried_for_a_user_counts_as_that_users() -> Result<()> {
    let cluster = Cluster::new(2, Mode::Iptables)?;
    let [pod, peer] = [&cluster.pods[0], &cluster.pods[1]];
    let _old = Server::start_as(NOBODY, &pod.netns, Listening::on(Ipv6Addr::UNSPECIFIED, 8080))?;
    let new = Nginx::start_on(Arc::clone(&peer.netns), &[8080])?;
    let agent = Agent::start()?;
    let nobody = agent.ctl(&pod.netns).as_user(NOBODY)?;
    let to = format!("forward={}", peer.v4);
    nobody.expect(0, &[&drain("8080")[..], &["--new", &to]].concat())?;
    let addr = SocketAddr::new(pod.v4.into(), 8080);
    ensure!(http::get(&cluster.client, addr, "/ok")?.body == BODY);
    let refuse = |uid: u32| {
        let uid = uid.to_string();
        let to = peer.v4.to_string();
        let rule = ["-I", "OUTPUT", "-d", &to, "-m", "owner", "--uid-owner", &uid, "-j", "DROP"];
        pod.netns.run(|| cmd::run("iptables", &rule)).map(drop)
    };
    refuse(0)?;
    ensure!(http::get(&cluster.client, addr, "/ok")?.body == BODY, "it is not the agent's");
    refuse(NOBODY)?;
    ensure!(http::get(&cluster.client, addr, "/ok").is_err(), "it is that user's");
    ensure!(new.served()? == 2);
    // Threads are used again: each is root's once more, with all that root may.
    for thread in fs::read_dir(format!("/proc/{}/task", agent.pid()?))? {
        let status = fs::read_to_string(thread?.path().join("status"))?;
        ensure!(status.contains("\nUid:\t0\t0\t0\t0\n"), "{status}");
    }
    Ok(())
}

#[test]
fn a_process_in_pod_a_cannot_drain_pod_b() -> Result<()> {
    let cluster = Cluster::new(2, Mode::Iptables)?;
    let [a, b] = [&cluster.pods[0], &cluster.pods[1]];
    let _a = Nginx::start(a)?;
    let server_b = Nginx::start(b)?;
    let agent = Agent::start()?;
    let host = Netns::host()?;
    let path_b = b.netns.path().to_str().context("path")?;
    let pid_b = server_b.pid().context("nginx runs")?.to_string();

    // From the host, root may, by either name; in its own namespace a contained root may as well.
    for target in [["--netns", path_b], ["--pid", pid_b.as_str()]] {
        agent.ctl(&host).expect(0, &[&drain("80"), &target[..]].concat())?;
        ensure!(net::attempt(&cluster.client, b.addr(), LIMIT)? == Attempt::Refused);
        agent.ctl(&host).expect(0, &[&["undrain", "--port", "80"], &target[..]].concat())?;
    }
    let in_a = agent.ctl(&a.netns).under(CONTAINED);
    ensure_allowed(&in_a, &cluster.client, a.addr())?;

    in_a.expect(5, &[&drain("80"), &["--netns", path_b][..]].concat())?;
    // That number means another process, or none, in its own pid namespace.
    let by_pid = in_a.run(&[&drain("80"), &["--pid", pid_b.as_str()][..]].concat())?;
    ensure!(by_pid.code != Some(0), "{by_pid}");
    in_a.expect(5, &[&drain("80"), &["--host"][..]].concat())?;
    let body = format!("{{\"ports\":[80],\"netns\":{},\"quiet_ms\":0}}", b.netns.inode());
    ensure!(curl(&agent, &a.netns, CONTAINED, &body)? == "403");
    ensure_serving(&agent.ctl(&b.netns), &cluster.client, b.addr())?;

    // What root has drained in B, A cannot bring back.
    agent.ctl(&b.netns).expect(0, &drain("80"))?;
    in_a.expect(5, &["undrain", "--port", "80", "--netns", path_b])?;
    ensure!(net::attempt(&cluster.client, b.addr(), LIMIT)? == Attempt::Refused);
    ensure!(agent.ctl(&b.netns).service(PORT)?.rejected > 0);
    Ok(())
}

/// POSTs a drain past the command line; the HTTP status.
fn curl(agent: &Agent, netns: &Netns, wrapper: &[&str], body: &str) -> Result<String> {
    let socket = agent.socket();
    let socket = socket.to_str().context("path")?;
    let request = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket", socket];
    let json = ["-H", "Content-Type: application/json", "-d", body, "http://agent/v1/drains"];
    let words = [wrapper, &request, &json].concat();
    netns.run(|| cmd::run(words[0], &words[1..]))
}

#[test]
fn an_unprivileged_user_in_a_pod_cannot_drain_it() -> Result<()> {
    let fixture = Fixture::new()?;
    let accepted = fixture.accepted()?;
    ensure_allowed(&fixture.ctl(), &fixture.cluster.client, fixture.pod().addr())?;
    let nobody = fixture.ctl().as_user(NOBODY)?;
    nobody.expect(5, &drain("80"))?;
    let body = "{\"ports\":[80],\"quiet_ms\":0}";
    let as_nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"];
    ensure!(curl(&fixture.agent, &fixture.pod().netns, &as_nobody, body)? == "403");
    fixture.ensure_untouched()?;
    ensure!(fixture.accepted()? > accepted);
    Ok(())
}

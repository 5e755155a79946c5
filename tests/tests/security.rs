//! What somebody in a container can try against others, uid 0 included. Each test shows the permitted form first.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use drainctl_tests::{
    agent::Agent,
    cluster::{Cluster, PORT},
    cmd,
    kubelet::Kubelet,
    kubeproxy::Mode,
    net::{self, Acceptor, Attempt, Listening, Server},
    netns::Netns,
    nginx::Nginx,
    wait::LIMIT,
};

/// A new pid namespace: what runs there is no node admin, though it is root.
const CONTAINED: [&str; 4] = ["unshare", "--pid", "--fork", "--kill-child"];

/// A script that is run with these arguments, so that it can do something before it replaces itself.
const SCRIPT: [&str; 2] = ["sh", "-c"];

/// An agent and two pods with servers.
struct World {
    _servers: [Nginx; 2],
    cluster: Cluster,
    agent: Agent,
}

impl World {
    fn new() -> Result<Self> {
        let cluster = Cluster::new(2, Mode::Iptables)?;
        let servers = [Nginx::start(&cluster.pods[0])?, Nginx::start(&cluster.pods[1])?];
        Ok(Self { agent: Agent::start()?, cluster, _servers: servers })
    }

    fn a(&self) -> &Netns {
        &self.cluster.pods[0].netns
    }

    fn b(&self) -> &Netns {
        &self.cluster.pods[1].netns
    }

    /// Nobody has touched B.
    fn ensure_b_serves(&self) -> Result<()> {
        let service = self.agent.ctl(self.b()).service(PORT)?;
        ensure!(service.state == "serving" && service.drain.is_none(), "{service:?}");
        let attempt = net::attempt(&self.cluster.client, self.cluster.pods[1].addr(), LIMIT)?;
        ensure!(attempt == Attempt::Connected, "{attempt:?}");
        Ok(())
    }
}

/// Sends a request with curl, as root of a container in this namespace; the status.
fn curl(world: &World, netns: &Netns, method: &str, path: &str, body: &str) -> Result<String> {
    let socket = world.agent.socket();
    let socket = socket.to_str().context("path")?;
    let url = format!("http://agent{path}");
    let mut words = CONTAINED.to_vec();
    words.extend(["curl", "-sS", "-m", "2", "-o", "/dev/null", "-w", "%{http_code}", "-X", method]);
    words.extend([
        "--unix-socket",
        socket,
        "-H",
        "Content-Type: application/json",
        "-d",
        body,
        &url,
    ]);
    // A stream that begins has no end, and its status is printed all the same.
    let mut command = std::process::Command::new(words[0]);
    command.args(&words[1..]);
    let output = netns.run(|| cmd::output(&mut command, ""))?;
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
fn root_of_a_pod_neither_drains_nor_reads_nor_forges_for_another() -> Result<()> {
    let world = World::new()?;
    let (a, b) = (world.a().inode(), world.b().inode());
    let requests = |netns: u32| {
        let drain = format!("{{\"ports\":[80],\"netns\":{netns},\"quiet_ms\":0}}");
        [
            ("POST", "/v1/drains".to_owned(), drain, "202"),
            ("GET", format!("/v1/services?netns={netns}"), String::new(), "200"),
            ("GET", format!("/v1/services/{netns}:80"), String::new(), "200"),
            ("GET", format!("/v1/services/{netns}:80/flows"), String::new(), "200"),
            ("GET", format!("/v1/events?services={netns}:80"), String::new(), "200"),
            ("GET", format!("/drained/80?netns={netns}"), String::new(), "200"),
            ("GET", format!("/serving/80?netns={netns}"), String::new(), "503"),
            ("DELETE", format!("/v1/drains/{netns}:80"), String::new(), "200"),
        ]
    };
    for (method, path, body, expected) in requests(a) {
        let status = curl(&world, world.a(), method, &path, &body)?;
        ensure!(status == expected, "{method} {path}: {status}");
    }
    for (method, path, body, _) in requests(b) {
        let status = curl(&world, world.a(), method, &path, &body)?;
        ensure!(status == "403", "{method} {path}: {status}");
        world.ensure_b_serves()?;
    }
    // Nor all at once, nor together with its own.
    for path in ["/v1/services?netns=all".to_owned(), format!("/v1/events?services={a}:80,{b}:80")]
    {
        ensure!(curl(&world, world.a(), "GET", &path, "")? == "403", "{path}");
    }
    Ok(())
}

#[test]
fn root_of_a_pod_on_the_nodes_network_is_not_root_of_the_node() -> Result<()> {
    let world = World::new()?;
    let host = Netns::host()?;
    let server = Server::start(&host, Listening::on(Ipv4Addr::LOCALHOST, 0))?;
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, server.port()?));
    let _server = Acceptor::start(server);
    let port = addr.port().to_string();
    let drain = ["drain", "--port", &port, "--quiet", "0s"];
    // From the cgroup of the server, its owner may.
    let beside = world.agent.ctl(&host).under(&CONTAINED);
    beside.expect(0, &drain)?;
    ensure!(net::attempt(&host, addr, LIMIT)? == Attempt::Refused);
    beside.expect(0, &["undrain", "--port", &port])?;
    // From a cgroup of its own, as a pod has, it may not.
    let cgroup = Kubelet::new()?;
    let enter = format!("echo 0 > {}/cgroup.procs && exec \"$@\"", cgroup.cgroup()?);
    let pod = [&SCRIPT[..], &[&enter, "sh"], &CONTAINED].concat();
    let pod = world.agent.ctl(&host).under(&pod);
    pod.expect(5, &drain)?;
    ensure!(net::attempt(&host, addr, LIMIT)? == Attempt::Connected);
    let b = world.b().path().to_str().context("path")?;
    pod.expect(5, &["drain", "--port", "80", "--netns", b])?;
    pod.expect(5, &["status", "--all"])?;
    world.ensure_b_serves()
}

#[test]
fn a_stolen_path_of_the_socket_opens_nothing() -> Result<()> {
    let world = World::new()?;
    let socket = world.agent.socket();
    let stolen = world.agent.dir().join("stolen");
    std::fs::write(&stolen, "")?;
    let [socket, stolen] = [&socket, &stolen].map(|path| path.display().to_string());
    // In a mount namespace of its own, as a container has.
    let steal = format!("mount --bind {socket} {stolen} && exec \"$@\"");
    let wrapper = [&["unshare", "--mount"], &SCRIPT[..], &[&steal, "sh"], &CONTAINED].concat();
    let thief = world.agent.ctl(world.a()).under(&wrapper).at(&stolen);
    thief.expect(0, &["drain", "--port", "80", "--quiet", "0s"])?;
    thief.expect(0, &["undrain", "--port", "80"])?;
    let b = world.b().path().to_str().context("path")?;
    thief.expect(5, &["drain", "--port", "80", "--netns", b])?;
    thief.expect(5, &["flows", "--port", "80", "--netns", b])?;
    thief.expect(5, &["drain", "--port", "80", "--host"])?;
    world.ensure_b_serves()
}

#[test]
fn a_process_id_that_is_used_again_opens_nothing() -> Result<()> {
    let world = World::new()?;
    let (socket, other) = (world.agent.socket(), world.b().inode().to_string());
    let socket = socket.to_str().context("path")?;
    let container = world.a().path().to_str().context("path")?;
    let script = include_str!("../src/reuse.py");
    let run = || cmd::run("python3", &["-c", script, socket, container, &other]);
    // The id may go to a process of another test, which keeps it.
    let taken = |error: &anyhow::Error| format!("{error:#}").contains("could not be used anew");
    let mut printed = run();
    for _ in 0..5 {
        if printed.as_ref().is_err_and(taken) {
            printed = run();
        }
    }
    let printed = printed?;
    let lines: Vec<&str> = printed.lines().collect();
    ensure!(lines[..3] == ["200", "403", "403"], "{printed}");
    ensure!(lines[3].contains("ended before it could be identified"), "{printed}");
    Ok(())
}

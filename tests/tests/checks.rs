//! Health checks of the agent: they reach a server behind a closed gate, when everybody else is refused, and do not
//! count.

use std::fs;

use anyhow::{Context, Result, ensure};
use drainctl_tests::{
    agent::Agent,
    cluster::{Cluster, PORT},
    fixture::Fixture,
    net::{self, Attempt, Listening, Server},
    nginx::Nginx,
    wait::LIMIT,
};
use serde_json::{Value, json};

fn check(agent: &Agent, body: &Value) -> Result<Value> {
    let answer = agent.http("POST", "/v1/checks", &body.to_string())?;
    let text = String::from_utf8(answer.body)?;
    ensure!(answer.status == 200, "{}: {text}", answer.status);
    Ok(serde_json::from_str(&text)?)
}

#[test]
fn a_check_passes_a_closed_gate_and_does_not_count() -> Result<()> {
    let cluster = Cluster::single()?;
    let agent = Agent::start()?;
    let mut nginx = Nginx::start(&cluster.pods[0])?;
    let (pod, ctl) = (&cluster.pods[0], agent.ctl(&cluster.pods[0].netns));
    let netns = pod.netns.inode();
    let ask = |path: &str| check(&agent, &json!({ "port": PORT, "netns": netns, "path": path }));
    // Of an open port, as anybody could.
    ensure!(ask("/ready")?["healthy"] == true && ask("/nowhere")?["status"] == 404);

    ctl.expect(0, &["drain", "--port", "80", "--quiet", "0s", "--keep-closed"])?;
    for (client, addr) in [(&cluster.client, pod.addr()), (&cluster.node, pod.addr6())] {
        ensure!(net::attempt(client, addr, LIMIT)? == Attempt::Refused, "{addr}");
    }
    let inside = ([127, 0, 0, 1], PORT).into();
    ensure!(net::attempt(&pod.netns, inside, LIMIT)? == Attempt::Refused, "a neighbour gets in");
    let before = ctl.service(PORT)?;
    let counted = agent.maps()?.counts(netns, PORT)?.context("no counters")?;
    for _ in 0..20 {
        let answer = ask("/ready")?;
        ensure!(answer["healthy"] == true && answer["status"] == 200, "{answer}");
        let service = ctl.service(PORT)?;
        ensure!(
            (service.flows, service.probes, &*service.state) == (0, 0, "drained"),
            "{service:?}"
        );
        ctl.expect(0, &["ready", "--port", "80"])?;
    }
    let after = ctl.service(PORT)?;
    ensure!(after.rejected == before.rejected, "{before:?} {after:?}");
    ensure!(agent.metric("probes_passed_total")? >= 20, "it went by another way than the gate");
    ensure!(agent.metric("flows_after_drained_total")? == 0);
    ensure!(
        agent.maps()?.counts(netns, PORT)?.context("no counters")?.accepted == counted.accepted
    );

    // No check leaves anything that lets others in.
    ensure!(net::attempt(&cluster.client, pod.addr(), LIMIT)? == Attempt::Refused);
    nginx.stop()?;
    let gone = ask("/ready")?;
    ensure!(gone["listening"] == false && gone["healthy"] == false, "{gone}");
    ctl.expect(0, &["undrain", "--port", "80"])?;
    Ok(())
}

/// A server that accepts and says nothing holds the check, while which is seen and does not count; an agent that dies
/// in the middle leaves no port that would not count.
#[test]
fn a_check_under_way_is_a_probe_and_nothing_else_is_after_the_agent_died() -> Result<()> {
    let mut fixture = Fixture::new()?;
    let netns = fixture.pod().netns.inode();
    let ctl = fixture.ctl();
    ctl.expect(
        0,
        &["drain", "--port", "80", "--quiet", "0s", "--keep-closed", "--retire", "none"],
    )?;
    let body = json!({ "port": PORT, "netns": netns, "path": "/", "timeout_ms": 5000 }).to_string();
    let socket = fixture.agent.socket();
    let asked = std::thread::spawn(move || {
        drainctl_tests::http::unix(&socket, "POST", "/v1/checks", &body).map(|answer| answer.status)
    });
    let served = fixture.server.accept()?;
    let client = served.peer_addr()?;
    let service = ctl.await_service(PORT, "a probe", |service| service.probes == 1)?;
    ensure!((service.flows, &*service.state) == (0, "drained"), "{service:?}");
    ctl.expect(0, &["ready", "--port", "80"])?;

    fixture.agent.crash()?;
    ensure!(asked.join().is_ok_and(|answer| answer.is_err()), "it has an answer");
    net::reset(served)?;
    fixture.agent.launch(&[])?;
    let ctl = fixture.ctl();
    let port = client.port();
    let again = fixture.pod().netns.run(|| attempt_from(port))?;
    let is_refused = matches!(again, Err(rustix::io::Errno::CONNREFUSED));
    ensure!(is_refused, "the port of a check of a dead agent passes the gate: {again:?}");
    let service = ctl.service(PORT)?;
    ensure!((service.flows, service.probes) == (0, 0), "{service:?}");
    Ok(())
}

/// Connects inside the pod from this port. Only what becomes of that is in the inner result.
fn attempt_from(port: u16) -> Result<rustix::io::Result<()>> {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket, sockopt};
    let fd = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    sockopt::set_socket_reuseaddr(&fd, true)?;
    bind(&fd, &std::net::SocketAddr::from(([127, 0, 0, 1], port)))?;
    Ok(connect(&fd, &std::net::SocketAddr::from(([127, 0, 0, 1], PORT))))
}

#[test]
fn a_server_is_asked_where_it_listens() -> Result<()> {
    let fixture = Fixture::new()?;
    let pod = fixture.pod();
    let netns = pod.netns.inode();
    let table = [
        ("[::1]:8081", 8081),
        ("127.0.0.1:8082", 8082),
        (&*format!("{}:8083", pod.v4), 8083),
        (&*format!("[{}]:8084", pod.v6), 8084),
    ];
    for (local, port) in table {
        let addr: std::net::SocketAddr = local.parse()?;
        let _server = Server::start(&pod.netns, Listening::on(addr.ip(), port))?;
        let port_option = port.to_string();
        let drain = ["drain", "--port", &port_option, "--quiet", "0s", "--keep-closed"];
        fixture.ctl().expect(0, &drain)?;
        let passed = fixture.agent.metric("probes_passed_total")?;
        let answer = check(&fixture.agent, &json!({ "port": port, "netns": netns }))?;
        ensure!(answer["healthy"] == true, "{local}: {answer}");
        ensure!(fixture.agent.metric("probes_passed_total")? == passed + 1, "{local}");
        fixture.ctl().expect(0, &["ready", "--port", &port_option])?;
    }
    Ok(())
}

#[test]
fn a_server_with_tls_is_asked_over_tls_whoever_signed_its_certificate() -> Result<()> {
    let cluster = Cluster::single()?;
    let agent = Agent::start()?;
    let pod = &cluster.pods[0];
    let _nginx = Nginx::start_with_kernel_tls(pod)?;
    let ctl = agent.ctl(&pod.netns);
    ctl.expect(0, &["drain", "--port", "80", "--quiet", "0s", "--keep-closed"])?;
    let ask = |tls: bool, host: &str| {
        let netns = pod.netns.inode();
        check(
            &agent,
            // A handshake takes long where each instruction does.
            &json!({ "port": PORT, "netns": netns, "path": "/ready", "host": host, "tls": tls, "timeout_ms": 5000 }),
        )
    };
    for host in ["localhost:80", "web.example.org", "10.0.0.1", "[fd00::1]:80"] {
        let answer = ask(true, host)?;
        ensure!(answer["status"] == 200 && answer["healthy"] == true, "{host}: {answer}");
    }
    // nginx says so to who does not speak TLS.
    ensure!(ask(false, "localhost")?["status"] == 400);
    ctl.expect(0, &["ready", "--port", "80"])?;
    ctl.expect(0, &["undrain", "--port", "80"])?;

    let inventory = agent.dir().join("inventory.yaml");
    let netns = pod.netns.path().display();
    fs::write(&inventory, format!("instances:\n- {{name: web, netns: {netns}, ports: [80]}}\n"))?;
    let inventory = inventory.to_str().context("a path")?;
    for (scheme, says_a_word) in [("https", false), ("http", true)] {
        let health = format!("{scheme}://web.example.org:80/ready");
        let checked = ctl.expect(0, &["rollout", inventory, "--check", "--health", &health])?;
        ensure!(checked.stderr.contains("HTTP status 400") == says_a_word, "{checked}");
    }
    // A server that does not speak TLS is not well.
    let plain = Server::start(&pod.netns, Listening::on(pod.v4, 8081))?;
    let asked = json!({ "port": 8081, "netns": pod.netns.inode(), "path": "/", "tls": true, "timeout_ms": 300 });
    let answer = check(&agent, &asked)?;
    ensure!(answer["healthy"] == false && answer["listening"] == true, "{answer}");
    drop(plain);
    Ok(())
}

#[test]
fn who_may_not_drain_may_not_check() -> Result<()> {
    let fixture = Fixture::new()?;
    let ctl = fixture.ctl().as_user(1234)?;
    ctl.expect(5, &["drain", "--port", "80"])?;
    let body = json!({ "port": PORT }).to_string();
    let socket = fixture.agent.socket();
    let curl = ["--silent", "--unix-socket", socket.to_str().context("a path")?];
    let rest = ["-H", "Content-Type: application/json", "-d", &body, "http://agent/v1/checks"];
    let pod = fixture.pod().netns.name();
    let user = ["netns", "exec", pod, "setpriv", "--reuid=1234", "--clear-groups", "curl"];
    let words = [&user[..], &curl, &rest].concat();
    let said = drainctl_tests::cmd::run("ip", &words)?;
    ensure!(said.contains("not_permitted"), "{said}");
    Ok(())
}

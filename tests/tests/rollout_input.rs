//! Rollouts by agents that are asked over TLS, and inventories with which something is wrong: then nothing is touched.

use std::{fs, net::SocketAddr};

use anyhow::{Result, ensure};
use drainctl_tests::{
    agent::Agent,
    certs::Authority,
    ctl::{Ctl, Outcome},
    net::{self, Acceptor, Attempt, Listening, Server},
    netns::Netns,
    wait::LIMIT,
};

const TOKEN: &str = "correct-horse-battery-staple";

/// An agent with a TCP endpoint, and a server in the host's namespace.
struct Remote {
    dir: tempfile::TempDir,
    agent: Agent,
    host: Netns,
    _server: Acceptor,
    port: u16,
}

impl Remote {
    fn new() -> Result<Self> {
        let (dir, authority) = (tempfile::tempdir()?, Authority::new()?);
        authority.sign()?.write(dir.path(), "server")?;
        authority.sign()?.write(dir.path(), "client")?;
        authority.sign_expired()?.write(dir.path(), "expired")?;
        fs::write(dir.path().join("ca.pem"), &authority.pem)?;
        fs::write(dir.path().join("token"), TOKEN)?;
        fs::write(dir.path().join("wrong"), "incorrect-horse-battery-staple")?;
        let agent = agent(&dir, "server")?;
        let host = Netns::host()?;
        let server = Server::start(&host, Listening::on(std::net::Ipv4Addr::LOCALHOST, 0))?;
        let port = server.port()?;
        Ok(Self { dir, agent, host, _server: Acceptor::start(server), port })
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// The inventory with this text.
    fn inventory(&self, text: &str) -> Result<String> {
        fs::write(self.dir.path().join("inventory.yaml"), text)?;
        Ok(self.path("inventory.yaml"))
    }

    /// One instance, by this agent.
    fn one(&self, agent: &str) -> Result<String> {
        let port = self.port;
        self.inventory(&format!(
            "instances:\n- {{name: web, agent: \"{agent}\", host: true, ports: [{port}]}}\n"
        ))
    }

    fn ctl(&self) -> Ctl<'_> {
        self.agent.ctl(&self.host)
    }

    /// A rollout whose command leaves a trace.
    fn rollout(&self, inventory: &str, more: &[&str]) -> Result<Outcome> {
        let release =
            format!("echo \"$DRAINCTL_TARGET $DRAINCTL_PORTS\" >> {}", self.path("trace"));
        let words = ["rollout", inventory, "--release", &release, "--quiet", "0s"];
        self.ctl().run(&[&words[..], more].concat())
    }

    fn ensure_untouched(&self) -> Result<()> {
        let addr = SocketAddr::from(([127, 0, 0, 1], self.port));
        ensure!(net::attempt(&self.host, addr, LIMIT)? == Attempt::Connected);
        ensure!(!self.dir.path().join("trace").exists(), "the command was run");
        Ok(())
    }
}

fn agent(dir: &tempfile::TempDir, server: &str) -> Result<Agent> {
    let path = |name: String| dir.path().join(name).display().to_string();
    let (cert, key) = (path(format!("{server}.pem")), path(format!("{server}.key")));
    let (ca, token) = (path("ca.pem".into()), path("token".into()));
    let tls = ["--listen", "127.0.0.1:0", "--tls-cert", &cert, "--tls-key", &key];
    Agent::start_with(&[&tls[..], &["--tls-client-ca", &ca, "--token-file", &token]].concat())
}

#[test]
fn by_tls_and_a_token_and_nothing_is_touched_where_it_does_not_let_in() -> Result<()> {
    let remote = Remote::new()?;
    let url = format!("https://{}", remote.agent.endpoint()?);
    let inventory = remote.one(&url)?;
    let path = |name| remote.path(name);
    let (ca, token, wrong) = (path("ca.pem"), path("token"), path("wrong"));
    let (cert, key) = (path("expired.pem"), path("expired.key"));
    let ca = ["--ca-file", &*ca];
    let refused: [(&[&str], i32, &str); 4] = [
        (&["--token-file", &wrong], 5, "token"),
        (&[], 5, "token"),
        (&["--cert", &cert, "--key", &key], 4, "our certificate (--cert) has expired"),
        (&["--token-file", "/nonexistent"], 2, "nonexistent"),
    ];
    for (access, code, words) in refused {
        let outcome = remote.rollout(&inventory, &[&ca[..], access].concat())?;
        let outcome = outcome.expect(code)?.says(words)?.says("nothing was changed")?;
        ensure!(outcome.stdout.is_empty(), "{outcome}");
        remote.ensure_untouched()?;
    }
    // The agent's own certificate has expired.
    let late = agent(&remote.dir, "expired")?;
    let inventory_of_late = remote.one(&format!("https://{}", late.endpoint()?))?;
    let access = [&ca[..], &["--token-file", &token]].concat();
    let outcome = remote.rollout(&inventory_of_late, &access)?;
    outcome.expect(4)?.says("expired")?.says("web: ")?.says("nothing was changed")?;
    remote.ensure_untouched()?;

    let inventory = remote.one(&url)?;
    let checked = remote.ctl().run(&[&["rollout", &inventory, "--check"][..], &access].concat())?;
    checked.expect(0)?.says("1 instance")?;
    remote.ensure_untouched()?;
    remote.rollout(&inventory, &access)?.expect(0)?.says("released")?;
    // Without an inventory.
    let (port, journal) = (remote.port.to_string(), remote.path("journal"));
    let words = [&access[..], &["--port", &port, "--journal", &journal]].concat();
    remote.rollout(&url, &words)?.expect(0)?.says("released")?;
    let trace = fs::read_to_string(remote.path("trace"))?;
    ensure!(trace == format!("--host {}\n", remote.port).repeat(2), "{trace}");
    let addr = SocketAddr::from(([127, 0, 0, 1], remote.port));
    ensure!(net::attempt(&remote.host, addr, LIMIT)? == Attempt::Connected);
    Ok(())
}

#[test]
fn what_is_wrong_with_an_inventory_is_found_before_anything_is_touched() -> Result<()> {
    let remote = Remote::new()?;
    let port = remote.port;
    let good = format!("- {{name: web, host: true, ports: [{port}]}}\n");
    let netns = format!("- {{name: other, netns: /proc/self/ns/net, ports: [{port}]}}\n");
    let nobody = "- {name: far, agent: /nonexistent/agent.sock, host: true, ports: [1]}\n";
    let closed = "- {name: idle, host: true, ports: [1]}\n";
    let table: [(&str, i32, &[&str]); 7] = [
        (&good, 2, &["there twice"]),
        (&good.replace("web", "web-2"), 2, &["\"web\" and \"web-2\" are the same"]),
        (&netns, 2, &["other: it is the same service as web"]),
        (nobody, 4, &["far: cannot reach the agent"]),
        (closed, 6, &["idle: nothing listens"]),
        (&format!("{nobody}{closed}"), 4, &["far: ", "idle: "]),
        ("- {name: x, hosts: true}\n", 2, &["hosts"]),
    ];
    for (second, code, words) in table {
        let inventory = remote.inventory(&format!("instances:\n{good}{second}"))?;
        let mut outcome = remote.rollout(&inventory, &[])?.expect(code)?;
        for words in words.iter().chain(&["nothing was changed"]) {
            outcome = outcome.says(words)?;
        }
        remote.ensure_untouched()?;
    }
    let inventory = remote.inventory(&format!("instances:\n{good}"))?;
    let options: [(&[&str], i32, &str); 6] = [
        (&["--canary", "1"], 2, "prove"),
        (&["--batch", "0"], 2, "batch"),
        (&["--resume"], 2, "no rollout"),
        (&["--undo"], 2, "rollback"),
        (&["--timeout", "2h"], 2, "lease"),
        (&["--health", "ftp://web/"], 2, "a path"),
    ];
    for (more, code, words) in options {
        remote.rollout(&inventory, more)?.expect(code)?.says(words)?;
        remote.ensure_untouched()?;
    }
    // Somebody else drains it.
    let drain = ["drain", "--host", "--port", &port.to_string(), "--quiet", "0s", "--no-wait"];
    remote.ctl().expect(0, &drain)?;
    remote.rollout(&inventory, &[])?.expect(8)?.says("already")?;
    remote.ctl().expect(0, &["undrain", "--host", "--port", &port.to_string()])?;
    remote.ensure_untouched()
}

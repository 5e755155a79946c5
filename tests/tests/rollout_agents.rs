//! A rollout by two agents, one of which goes away in the middle.

use std::fs;

use anyhow::{Result, ensure};
use drainctl_tests::{
    agent::Agent,
    certs::Authority,
    ctl::{Outcome, Running},
    net::{self, Attempt},
    sandbox::Sandbox,
    wait::LIMIT,
};

use crate::rollout::{World, reported};

/// Where the agent of the other node listens: in a network namespace of its own.
const FAR: &str = "127.0.0.1:9443";

/// Two agents: every other instance belongs to the second one, which is asked over TLS by certificate.
struct Nodes {
    world: World,
    far: Agent,
    certs: tempfile::TempDir,
    _containers: [Sandbox; 2],
}

impl Nodes {
    fn new() -> Result<Self> {
        let world = World::new(4)?;
        let (certs, authority) = (tempfile::tempdir()?, Authority::new()?);
        authority.sign()?.write(certs.path(), "server")?;
        authority.sign()?.write(certs.path(), "client")?;
        fs::write(certs.path().join("ca.pem"), &authority.pem)?;
        let far = Agent::prepare()?;
        let pods = &world.fleet.cluster.pods;
        let containers = [
            Sandbox::start(&pods[1].netns, "0f000000-0000-4000-8000-000000000071")?,
            Sandbox::start(&pods[3].netns, "0f000000-0000-4000-8000-000000000073")?,
        ];
        let inventory = world.fleet.path("inventory.yaml");
        let mut text = fs::read_to_string(&inventory)?;
        for (pod, container) in [&pods[1], &pods[3]].into_iter().zip(&containers) {
            let near = format!("  netns: {}\n", pod.netns.path().display());
            let far = format!("  agent: https://{FAR}\n  container: {}\n", container.id());
            ensure!(text.contains(&near), "{text}");
            text = text.replace(&near, &far);
        }
        fs::write(&inventory, text)?;
        let mut nodes = Self { world, far, certs, _containers: containers };
        let node = format!("--net={}", nodes.world.fleet.cluster.node.path().display());
        nodes.far.set_wrapper(["nsenter", &node, "--"]);
        nodes.launch()?;
        Ok(nodes)
    }

    fn launch(&mut self) -> Result<()> {
        let [ca, cert, key] = ["ca.pem", "server.pem", "server.key"].map(|name| self.path(name));
        let tls = ["--listen", FAR, "--tls-client-ca", &ca, "--tls-cert", &cert, "--tls-key", &key];
        self.far.launch(&tls)
    }

    fn path(&self, name: &str) -> String {
        self.certs.path().join(name).display().to_string()
    }

    /// A rollout on the node where the second agent runs.
    fn start(&self, more: &[&str]) -> Result<Running> {
        let [ca, cert, key] = ["ca.pem", "client.pem", "client.key"].map(|name| self.path(name));
        let access = ["--ca-file", &ca, "--cert", &cert, "--key", &key, "--json"];
        let words = self.world.fleet.words(&[&access, more].concat());
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.world.agent.ctl(&self.world.fleet.cluster.node).start(&words)
    }

    fn run(&self, code: i32, more: &[&str]) -> Result<Outcome> {
        self.start(more)?.wait()?.expect(code)
    }

    /// Has the command of an instance wait, and then the second agent die.
    fn lose_the_agent_during(&mut self, index: usize, more: &[&str]) -> Result<Outcome> {
        let folder = self.world.fleet.folder(index);
        fs::write(folder.join("hold"), "")?;
        let begun = self.world.fleet.commands()?.len();
        let rollout = self.start(more)?;
        self.world.await_commands(begun + 1)?;
        self.far.crash()?;
        fs::write(folder.join("go"), "")?;
        let outcome = rollout.wait()?.expect(4)?.says("cannot reach the agent at https://")?;
        fs::remove_file(folder.join("hold"))?;
        fs::remove_file(folder.join("go"))?;
        Ok(outcome)
    }
}

#[test]
fn a_rollout_by_two_agents_stops_when_one_of_them_is_gone() -> Result<()> {
    let mut nodes = Nodes::new()?;
    // Before the turn of one of its instances.
    let stopped = nodes.lose_the_agent_during(0, &[])?.says("web-1: ")?;
    ensure!(reported(&stopped)? == ["released", "untouched", "untouched", "untouched"]);
    // Nobody begins without it.
    nodes.run(4, &["--resume"])?.says("web-3: cannot reach")?.says("nothing was changed")?;
    nodes.launch()?;
    let finished = nodes.run(0, &["--resume", "--batch", "3"])?;
    ensure!(reported(&finished)? == ["released"; 4], "{finished}");
    let drained = |agent: &Agent| agent.metric("drained_total");
    ensure!((drained(&nodes.world.agent)?, drained(&nodes.far)?) == (2, 2));
    ensure!(nodes.world.fleet.versions()? == ["version-new"; 4]);

    // While it keeps one of them closed: that one is closed still.
    let undo = ["--undo", "--health-timeout", "500ms"];
    let stopped = nodes.lose_the_agent_during(3, &undo)?.says("web-3: ")?;
    ensure!(reported(&stopped)? == ["released", "released", "released", "failed"], "{stopped}");
    let cluster = &nodes.world.fleet.cluster;
    let refused = net::attempt(&cluster.client, cluster.pods[3].addr(), LIMIT)?;
    ensure!(refused == Attempt::Refused, "{refused:?}");
    nodes.launch()?;
    let undone = nodes.run(0, &["--undo", "--batch", "4"])?;
    ensure!(reported(&undone)? == ["undone"; 4], "{undone}");
    ensure!(nodes.world.fleet.versions()? == ["version-old"; 4]);
    Ok(())
}

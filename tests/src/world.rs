//! What the tests of a drain's options start from: a pod that drains, another one beside it, and an agent that comes and
//! goes.

use anyhow::{Context, Result, ensure};

use crate::{
    agent::Agent,
    cluster::{Cluster, PORT, Pod},
    ctl::{Ctl, Service},
    fixture::serve,
    kubeproxy::Mode,
    net::{Attempt, Pair, Server, attempt, connect},
    netns::Netns,
    wait::LIMIT,
};

use Attempt::Connected;

/// A client, a pod that drains, a peer, and an agent that comes and goes.
#[derive(Debug)]
pub struct World {
    /// The agent of the node.
    pub agent: Agent,
    /// Of the agent.
    options: Vec<String>,
    /// In the pod that drains, on its port 80.
    pub old: Server,
    /// Client, node, and two pods.
    pub cluster: Cluster,
}

impl World {
    /// With an agent that has its defaults.
    pub fn new() -> Result<Self> {
        Self::with(&[])
    }

    /// With more options for the agent.
    pub fn with(options: &[&str]) -> Result<Self> {
        let mut world = Self::prepare()?;
        world.options = options.iter().map(ToString::to_string).collect();
        world.launch()?;
        Ok(world)
    }

    /// Without an agent yet.
    pub fn prepare() -> Result<Self> {
        let cluster = Cluster::new(2, Mode::Iptables)?;
        let old = serve(&cluster.pods[0], PORT)?;
        Ok(Self { agent: Agent::prepare()?, options: Vec::new(), old, cluster })
    }

    /// Starts the next agent.
    pub fn launch(&mut self) -> Result<()> {
        self.agent.launch(&self.options.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// The one that drains.
    pub fn pod(&self) -> &Pod {
        &self.cluster.pods[0]
    }

    /// `drainctl` inside the pod.
    pub fn ctl(&self) -> Ctl<'_> {
        self.agent.ctl(&self.pod().netns)
    }

    /// Begins a drain that closes the gate at once, and waits until it has.
    pub fn drain(&self, options: &[&str]) -> Result<()> {
        let fixed = ["drain", "--port", "80", "--quiet", "0s", "--no-wait", "--retire", "none"];
        self.ctl().expect(0, &[&fixed[..], &["--timeout", "55s"], options].concat())?;
        let closed = |service: &Service| ["rejecting", "drained"].contains(&service.state.as_str());
        self.ctl().await_service(PORT, "the gate is closed", closed).map(drop)
    }

    /// Connects to the drained port; the other end is this server's.
    pub fn served_by(&self, server: &Server) -> Result<Pair> {
        let client = connect(&self.cluster.client, self.pod().addr())?;
        Ok(Pair { client, server: server.accept()? })
    }

    /// Tries to connect by IPv4 (or IPv6) and insists on the outcome; what gets in is the old server's.
    pub fn expect(&self, from: &Netns, by_v6: bool, expected: Attempt) -> Result<()> {
        let addr = if by_v6 { self.pod().addr6() } else { self.pod().addr() };
        let got = attempt(from, addr, LIMIT)?;
        ensure!(got == expected, "{addr}: {got:?} instead of {expected:?}");
        if got == Connected {
            drop(self.old.accept()?);
        }
        Ok(())
    }

    /// Everybody gets in.
    pub fn expect_open(&self) -> Result<()> {
        for from in [&self.cluster.client, &self.cluster.node] {
            self.expect(from, false, Connected)?;
            self.expect(from, true, Connected)?;
        }
        Ok(())
    }

    /// Waits until so many connections count, and so many are another listener's.
    pub fn await_counts(&self, flows: u64, steered: u64) -> Result<Service> {
        let what = format!("{flows} flows and {steered} that are steered");
        self.ctl().await_service(PORT, &what, |s| (s.flows, s.steered) == (flows, steered))
    }

    /// Tracker and look never had to be mended since this agent started.
    pub fn ensure_agreed(&self) -> Result<()> {
        for name in ["disagreements_total", "repairs_total", "flows_after_drained_total"] {
            ensure!(self.agent.metric(name)? == 0, "{name}: {}", self.agent.log());
        }
        Ok(())
    }

    /// Checks this before the agent is killed, while nobody runs, and with the next one.
    pub fn with_and_without_an_agent(&mut self, check: impl Fn(&Self) -> Result<()>) -> Result<()> {
        check(self)?;
        self.agent.crash()?;
        check(self).context("while nobody runs")?;
        self.launch()?;
        check(self).context("with the next agent")
    }

    /// Uninstalls in the middle of a drain: nothing is left, and everybody gets in.
    pub fn ensure_nothing_is_left(&mut self) -> Result<()> {
        self.agent.crash()?;
        let output = self.agent.uninstall()?;
        ensure!(output.status.success(), "{output:?}");
        let left = self.agent.bpffs().contents()?;
        ensure!(left.is_empty(), "{left:?}");
        self.expect_open()
    }
}

/// A world that forwards to its second pod, and the server there.
pub fn forwarding() -> Result<(World, Server)> {
    let world = World::new()?;
    let peer = serve(&world.cluster.pods[1], PORT)?;
    world.drain(&[&format!("--new=forward={}", world.cluster.pods[1].v4)])?;
    Ok((world, peer))
}

/// Both ends get a RST.
pub fn ensure_reset(pair: &Pair) -> Result<()> {
    for mut end in [&pair.client, &pair.server] {
        let error = std::io::Read::read(&mut end, &mut [0]).err().context("no error")?;
        ensure!(error.kind() == std::io::ErrorKind::ConnectionReset, "{error}");
    }
    Ok(())
}

//! What most tests start from: an agent, a client, and one pod with a server of ours on port 80.

use std::{
    net::{Ipv6Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    agent::Agent,
    bpf::Counts,
    cluster::{Cluster, PORT, Pod},
    ctl::{Ctl, Service},
    net::{self, Attempt, Listening, Pair, Server},
    ss::Sockets,
    wait::{LIMIT, eventually},
};

/// Agent, cluster and server; taken down in this order.
#[derive(Debug)]
pub struct Fixture {
    /// The agent of the node.
    pub agent: Agent,
    /// Listens on port 80 of the first pod, IPv4 and IPv6; accepts only when told to.
    pub server: Server,
    /// Client, node, and one pod.
    pub cluster: Cluster,
}

impl Fixture {
    /// With an agent that has its defaults.
    pub fn new() -> Result<Self> {
        Self::with(&[])
    }

    /// With more options for the agent.
    pub fn with(options: &[&str]) -> Result<Self> {
        let cluster = Cluster::single()?;
        let server = serve(&cluster.pods[0], PORT)?;
        Ok(Self { agent: Agent::start_with(options)?, server, cluster })
    }

    /// The pod under test.
    pub fn pod(&self) -> &Pod {
        &self.cluster.pods[0]
    }

    /// `drainctl` inside the pod.
    pub fn ctl(&self) -> Ctl<'_> {
        self.agent.ctl(&self.pod().netns)
    }

    /// Connections from the client to the pod, accepted.
    pub fn pairs(&self, count: usize) -> Result<Vec<Pair>> {
        self.server.pairs(&self.cluster.client, self.pod().addr(), count)
    }

    /// One accepted connection.
    pub fn pair(&self) -> Result<Pair> {
        self.pairs(1)?.pop().context("no connection")
    }

    /// A client tries to connect to the pod; whatever is established is taken out of the accept queue.
    pub fn attempt(&self) -> Result<Attempt> {
        let attempt = net::attempt(&self.cluster.client, self.pod().addr(), LIMIT)?;
        if attempt == Attempt::Connected {
            drop(self.server.accept()?);
        }
        Ok(attempt)
    }

    /// Waits until the gate refuses a client.
    pub fn await_refused(&self) -> Result<()> {
        eventually(LIMIT, "the gate is closed", || Ok(self.attempt()? == Attempt::Refused))
    }

    /// Waits until a client gets in.
    pub fn await_connected(&self) -> Result<()> {
        eventually(LIMIT, "the gate is open", || Ok(self.attempt()? == Attempt::Connected))
    }

    /// The status of the port.
    pub fn service(&self) -> Result<Service> {
        self.ctl().service(PORT)
    }

    /// The tracker's own counters of the port; all zero before the first connection.
    pub fn counts(&self) -> Result<Option<Counts>> {
        self.agent.maps()?.counts(self.pod().netns.inode(), PORT)
    }

    /// Connections the tracker has ever counted.
    pub fn accepted(&self) -> Result<u64> {
        Ok(self.counts()?.map_or(0, |counts| counts.accepted))
    }

    /// Waits until `ss`, the status and the tracker's map agree about the port; returns what `ss` says.
    pub fn await_agreement(&self) -> Result<Sockets> {
        await_agreement(&self.agent, self.pod(), PORT)
    }

    /// Uninstalls, whatever is under way: nothing is left, and clients get in.
    pub fn ensure_nothing_is_left(&mut self) -> Result<()> {
        self.agent.crash()?;
        let output = self.agent.uninstall()?;
        ensure!(output.status.success(), "{output:?}");
        let left = self.agent.bpffs().contents()?;
        ensure!(left.is_empty(), "{left:?}");
        ensure!(self.attempt()? == Attempt::Connected);
        Ok(())
    }

    /// Checks that nothing has been done to the port: serving, and a client gets in.
    pub fn ensure_untouched(&self) -> Result<()> {
        let service = self.service()?;
        ensure!(service.state == "serving" && service.drain.is_none(), "{service:?}");
        ensure!(self.attempt()? == Attempt::Connected, "clients are refused");
        Ok(())
    }
}

/// A server of ours on a port of a pod, for IPv4 and IPv6.
pub fn serve(pod: &Pod, port: u16) -> Result<Server> {
    Server::start(&pod.netns, Listening::on(Ipv6Addr::UNSPECIFIED, port))
}

/// Before Linux 6.12 the end of a connection that is older than the agent is found within a minute.
const AGREEMENT: Duration = Duration::from_secs(120);

/// Waits until `ss`, the status and the tracker's map agree about a port; returns what `ss` says.
pub fn await_agreement(agent: &Agent, pod: &Pod, port: u16) -> Result<Sockets> {
    let (maps, ctl) = (agent.maps()?, agent.ctl(&pod.netns));
    let mut last = String::new();
    let mut sockets = Sockets::default();
    eventually(AGREEMENT, "ss, status and tracker agree", || {
        sockets = Sockets::of(&pod.netns, port)?;
        let service = ctl.find(port)?;
        let counts = maps.counts(pod.netns.inode(), port)?;
        last = format!("{sockets:?}\n{service:?}\n{counts:?}");
        let status = service.map(|service| (service.flows, service.handshakes));
        let status = status.unwrap_or_default();
        let tracked = counts.map_or(0, |counts| counts.flows);
        let agreed = status == (sockets.flows(), sockets.syn_recv);
        Ok(agreed && u64::try_from(tracked) == Ok(sockets.flows()))
    })
    .with_context(|| last)?;
    Ok(sockets)
}

/// Tries each address from a namespace and insists on the same outcome for all.
pub fn expect_all(
    netns: &crate::netns::Netns,
    addrs: &[SocketAddr],
    expected: Attempt,
) -> Result<()> {
    for addr in addrs {
        let attempt = net::attempt(netns, *addr, Duration::from_secs(5))?;
        ensure!(attempt == expected, "{addr}: {attempt:?} instead of {expected:?}");
    }
    Ok(())
}

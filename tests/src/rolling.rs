//! A rolling restart of every server of a cluster, as Kubernetes does it: the endpoint leaves the
//! rules some time *after* the pod was told to go.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::{
    agent::Agent,
    cluster::{Cluster, PORT, Pod},
    netns::Netns,
    nginx::Nginx,
};

/// How late the rules follow, pod by pod.
pub const ENDPOINT_DELAYS: [Duration; 3] =
    [Duration::from_millis(500), Duration::from_millis(1250), Duration::from_millis(2000)];

/// How a server is taken away.
#[derive(Clone, Copy, Debug)]
pub enum Method<'a> {
    /// `drainctl drain` in the pod, then SIGTERM.
    Drain {
        /// The agent of the node.
        agent: &'a Agent,
        /// More options of `drain`.
        options: &'a [&'a str],
    },
    /// SIGTERM at once.
    Terminate,
}

/// What runs in a pod, and is replaced.
pub trait Server {
    /// Where it listens; one drain is for all of them.
    const PORTS: &'static [u16];

    /// Sends SIGTERM and waits for the end.
    fn stop(&mut self) -> Result<()>;

    /// Starts a new instance.
    fn start_again(&mut self) -> Result<()>;

    /// Waits until `client` is served at `pod`.
    fn await_ready(client: &Netns, pod: &Pod) -> Result<()>;
}

impl Server for Nginx {
    const PORTS: &'static [u16] = &[PORT];

    fn stop(&mut self) -> Result<()> {
        Self::stop(self)
    }

    fn start_again(&mut self) -> Result<()> {
        Self::start_again(self)
    }

    fn await_ready(client: &Netns, pod: &Pod) -> Result<()> {
        Self::await_answer(client, pod.addr())
    }
}

/// How it went for one pod.
#[derive(Clone, Debug)]
pub struct Restart {
    /// From the order to drain until the server could be stopped.
    pub drained_after: Duration,
    /// Connection attempts that the gate refused.
    pub rejected: u64,
}

/// Restarts one server after the other, all others serving.
pub fn restart_all<S: Server>(
    cluster: &Cluster,
    servers: &mut [S],
    method: Method<'_>,
) -> Result<Vec<Restart>> {
    let mut restarts = Vec::new();
    for (index, server) in servers.iter_mut().enumerate() {
        let delay = ENDPOINT_DELAYS[index % ENDPOINT_DELAYS.len()];
        let restart = restart_one(cluster, index, server, method, delay)
            .with_context(|| format!("restart of pod {}", index + 1))?;
        restarts.push(restart);
    }
    Ok(restarts)
}

fn restart_one<S: Server>(
    cluster: &Cluster,
    index: usize,
    server: &mut S,
    method: Method<'_>,
    delay: Duration,
) -> Result<Restart> {
    let pod = &cluster.pods[index];
    let all: Vec<usize> = (0..cluster.pods.len()).collect();
    let others: Vec<usize> = all.iter().copied().filter(|other| *other != index).collect();
    let start = Instant::now();
    let mut restart = Restart { drained_after: Duration::ZERO, rejected: 0 };
    let drain = match method {
        Method::Drain { agent, options } => {
            let ports: Vec<String> = S::PORTS.iter().map(u16::to_string).collect();
            let ports = ports.join(",");
            let args = [&["drain", "--port", &ports], options].concat();
            Some((agent, agent.ctl(&pod.netns).start(&args)?))
        }
        Method::Terminate => {
            server.stop()?;
            None
        }
    };
    let late = delay.saturating_sub(start.elapsed());
    thread::sleep(late); // not a wait for a state: this is how late the rules are
    cluster.set_endpoints(&others)?;
    if let Some((agent, drain)) = drain {
        drain.wait()?.expect(0)?;
        restart.drained_after = start.elapsed();
        for port in S::PORTS {
            restart.rejected += agent.ctl(&pod.netns).service(*port)?.rejected;
        }
        server.stop()?;
    }
    server.start_again()?;
    // The gate opens by itself for the new instance.
    S::await_ready(&cluster.client, pod).context("the new instance")?;
    cluster.set_endpoints(&all)?;
    Ok(restart)
}

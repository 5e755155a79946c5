//! A rolling restart of every server of a cluster, as Kubernetes does it: the endpoint leaves the
//! rules some time *after* the pod was told to go.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};

use crate::{
    agent::Agent,
    cluster::{Cluster, PORT, Pod},
    cmd,
    haproxy::Haproxy,
    load::Timeline,
    netns::Netns,
    nginx::Nginx,
    ss::Sockets,
    wait::is_slow,
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
    /// `preStop: sleep`, then SIGTERM.
    Sleep(Duration),
    /// `iptables -j REJECT --reject-with tcp-reset` for SYNs in the pod; then `ss`, once a second, until it shows no
    /// connection or for so long; then SIGTERM.
    Reject(Duration),
    /// `set server … state drain` at the proxy in front; then a look at its sessions, ten times a second, until there are
    /// none or for so long; then SIGTERM.
    Proxy {
        /// In front of all pods.
        proxy: &'a Haproxy,
        /// How long to wait, at most.
        limit: Duration,
    },
}

impl Method<'_> {
    /// Takes the pod out of service, as far as this method goes. When it returns, the server may be stopped.
    fn leave(self, pod: &Pod, index: usize, ports: &[u16]) -> Result<()> {
        match self {
            Self::Drain { agent, options } => {
                let list: Vec<String> = ports.iter().map(u16::to_string).collect();
                let list = list.join(",");
                let args = [&["drain", "--port", &list], options].concat();
                agent.ctl(&pod.netns).expect(0, &args)?;
            }
            Self::Terminate => {}
            Self::Sleep(time) => thread::sleep(time), // not a wait for a state: this is the method
            Self::Reject(limit) => {
                refuse(pod, "-I", ports)?;
                poll(limit, Duration::from_secs(1), || {
                    let counts =
                        ports.iter().map(|port| Ok(Sockets::of(&pod.netns, *port)?.flows()));
                    Ok(counts.sum::<Result<u64>>()? == 0)
                })?;
            }
            Self::Proxy { proxy, limit } => {
                proxy.set_state(index, "drain")?;
                poll(limit, Duration::from_millis(100), || Ok(proxy.sessions(index)? == 0))?;
            }
        }
        Ok(())
    }

    /// Connection attempts that a gate has refused.
    fn rejected(self, pod: &Pod, ports: &[u16]) -> Result<u64> {
        let Self::Drain { agent, .. } = self else { return Ok(0) };
        ports.iter().map(|port| Ok(agent.ctl(&pod.netns).service(*port)?.rejected)).sum()
    }

    /// Undoes what does not end with the pod.
    fn come_back(self, pod: &Pod, index: usize, ports: &[u16]) -> Result<()> {
        match self {
            // The gate opens by itself for the new instance.
            Self::Drain { .. } | Self::Terminate | Self::Sleep(_) => Ok(()),
            Self::Reject(_) => refuse(pod, "-D", ports),
            Self::Proxy { proxy, .. } => proxy.set_state(index, "ready"),
        }
    }
}

/// Inserts (`-I`) or deletes (`-D`) the rule in the pod.
fn refuse(pod: &Pod, verb: &str, ports: &[u16]) -> Result<()> {
    ports.iter().try_for_each(|port| {
        let rule = format!(
            "-w 5 {verb} INPUT -p tcp --syn --dport {port} -j REJECT --reject-with tcp-reset"
        );
        let args: Vec<&str> = rule.split(' ').collect();
        pod.netns.run(|| cmd::run("iptables", &args)).map(drop)
    })
}

/// Looks every so often, as scripts do; the limit is no error.
fn poll(limit: Duration, every: Duration, look: impl Fn() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !look()? && start.elapsed() < limit {
        thread::sleep(every); // not a wait for a state: this is how the method looks
    }
    Ok(())
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
    /// When the order came: seconds of CLOCK_MONOTONIC.
    pub begun: f64,
    /// From the order until the server could be stopped.
    pub drained_after: Duration,
    /// From the order until the new instance served.
    pub took: Duration,
    /// Connection attempts that the gate refused.
    pub rejected: u64,
}

/// Restarts one server after the other, all others serving.
pub fn restart_all<S: Server>(
    cluster: &Cluster,
    servers: &mut [S],
    method: Method<'_>,
) -> Result<Vec<Restart>> {
    (0..servers.len()).map(|index| restart_one(cluster, servers, index, method)).collect()
}

/// Restarts the server of one pod: each server is in the pod with its index, and an endpoint.
pub fn restart_one<S: Server>(
    cluster: &Cluster,
    servers: &mut [S],
    index: usize,
    method: Method<'_>,
) -> Result<Restart> {
    let all: Vec<usize> = (0..servers.len()).collect();
    let others: Vec<usize> = all.iter().copied().filter(|other| *other != index).collect();
    // In an emulated machine drainctl would start later than the rules follow.
    let delay = ENDPOINT_DELAYS[index % ENDPOINT_DELAYS.len()] * if is_slow() { 3 } else { 1 };
    let (pod, server) = (&cluster.pods[index], &mut servers[index]);
    let (begun, start) = (Timeline::now(), Instant::now());
    let drained_after = thread::scope(|scope| {
        let rules = scope.spawn(|| {
            thread::sleep(delay); // not a wait for a state: this is how late the rules are
            cluster.set_endpoints(&others)
        });
        method.leave(pod, index, S::PORTS)?;
        let drained_after = start.elapsed();
        server.stop()?;
        rules.join().map_err(|_| anyhow!("the change of the rules panicked"))??;
        anyhow::Ok(drained_after)
    })
    .with_context(|| format!("restart of pod {}", index + 1))?;
    let rejected = method.rejected(pod, S::PORTS)?;
    method.come_back(pod, index, S::PORTS)?;
    server.start_again()?;
    S::await_ready(&cluster.client, pod).context("the new instance")?;
    cluster.set_endpoints(&all)?;
    Ok(Restart { begun, drained_after, took: start.elapsed(), rejected })
}

//! What `ss` (iproute2) says about a port: the yardstick for every count of the agent.

use anyhow::{Context, Result, bail};

use crate::{cmd, netns::Netns};

/// TCP sockets of one port by state, without the listening ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sockets {
    /// ESTABLISHED, the accept queue included.
    pub established: u64,
    /// CLOSE_WAIT: the peer has sent all it will send.
    pub close_wait: u64,
    /// FIN_WAIT1, CLOSING and LAST_ACK: our FIN is not acknowledged yet.
    pub closing: u64,
    /// FIN_WAIT2.
    pub fin_wait2: u64,
    /// SYN_RECV.
    pub syn_recv: u64,
}

impl Sockets {
    /// Counts the sockets of local port `port` in `netns`.
    pub fn of(netns: &Netns, port: u16) -> Result<Self> {
        let filter = format!("sport = :{port}");
        let table = netns.run(|| cmd::run("ss", &["-Htan", &filter]))?;
        let mut sockets = Self::default();
        for line in table.lines() {
            let state = line.split_whitespace().next().context("an empty line of ss")?;
            match state {
                "ESTAB" => sockets.established += 1,
                "CLOSE-WAIT" => sockets.close_wait += 1,
                "FIN-WAIT-1" | "CLOSING" | "LAST-ACK" => sockets.closing += 1,
                "FIN-WAIT-2" => sockets.fin_wait2 += 1,
                "SYN-RECV" => sockets.syn_recv += 1,
                "LISTEN" | "TIME-WAIT" | "UNCONN" => {}
                other => bail!("ss reports a state that is unknown here: {other}"),
            }
        }
        Ok(sockets)
    }

    /// What the agent calls flows.
    pub fn flows(&self) -> u64 {
        self.established + self.close_wait + self.closing
    }
}

/// Whether something listens on the port; looks instead of connecting, because a gate may be closed.
pub fn listens(netns: &Netns, port: u16) -> Result<bool> {
    let filter = format!("sport = :{port}");
    Ok(!netns.run(|| cmd::run("ss", &["-Htln", &filter]))?.is_empty())
}

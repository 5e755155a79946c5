//! TCP resets between a pod's server and its clients, counted by nftables in the pod's namespace.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{cluster::PORT, cmd, netns::Netns};

const TABLE: &str = "peers";

/// Resets so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Resets {
    /// From the pod, refused connection attempts included.
    pub(super) sent: u64,
    /// To the pod.
    pub(super) received: u64,
}

impl Resets {
    /// Starts to count.
    pub(super) fn watch(pod: &Netns) -> Result<()> {
        let rules = format!(
            "table inet {TABLE} {{
               counter sent {{}}
               counter received {{}}
               chain out {{ type filter hook output priority 0; tcp sport {PORT} tcp flags & rst == rst counter name sent; }}
               chain in {{ type filter hook input priority 0; tcp dport {PORT} tcp flags & rst == rst counter name received; }}
             }}"
        );
        pod.run(|| cmd::run_with_input("nft", &["-f", "-"], &rules)).map(drop)
    }

    /// How many there were since [`Self::watch`].
    pub(super) fn of(pod: &Netns) -> Result<Self> {
        let text =
            pod.run(|| cmd::run("nft", &["-j", "list", "counters", "table", "inet", TABLE]))?;
        let list: Value = serde_json::from_str(&text).context("nft list counters")?;
        let packets = |name: &str| {
            let items = list["nftables"].as_array()?;
            let counters = items.iter().map(|item| &item["counter"]);
            let mut counters = counters.filter(|counter| counter["name"] == name);
            counters.next()?["packets"].as_u64()
        };
        let missing = || format!("nft lists no such counter: {text}");
        let sent = packets("sent").with_context(missing)?;
        Ok(Self { sent, received: packets("received").with_context(missing)? })
    }
}

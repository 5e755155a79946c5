//! What `status --json` and `flows --json` say about how connections are made to leave: the documented fields, read
//! apart from the agent's own types.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::ctl::Ctl;

/// What has become of the connections of a drain.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Retire {
    /// The list of `--retire`.
    pub what: Vec<String>,
    /// `leave` or `abort`.
    pub at_deadline: String,
    /// Told by `Connection: close`.
    pub told_by_header: u64,
    /// Told by GOAWAY.
    pub told_by_goaway: u64,
    /// Got a FIN.
    pub fin_sent: u64,
    /// The client sent something after that.
    pub fin_raced: u64,
    /// Ended without a FIN or reset.
    pub left: u64,
    /// Reset at the deadline.
    pub aborted: u64,
    /// Whom they belonged to.
    pub cut: Vec<String>,
    /// Connections that cannot be told, by the reason.
    pub untellable: BTreeMap<String, u64>,
    /// Why nobody can be told.
    pub lacks: Option<String>,
}

impl Retire {
    /// Reasons for which there are connections that cannot be told.
    pub fn barriers(&self) -> Vec<(&str, u64)> {
        let there = self.untellable.iter().filter(|(_, count)| **count > 0);
        there.map(|(reason, count)| (reason.as_str(), *count)).collect()
    }
}

/// One connection in `flows --json`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Flow {
    /// Address and port of the client.
    pub peer: String,
    /// As `ss` names it.
    pub tcp_state: String,
    /// `busy`, `idle`, `quiet`, `handshake` or `lingering`.
    pub activity: String,
    /// `unknown`, `http1`, `http2`, `tls` or `upgraded`.
    pub protocol: String,
    /// `told_by_header`, `told_by_goaway` or `fin_sent`.
    pub retire: Option<String>,
    /// The client sent something after the FIN.
    pub fin_raced: bool,
    /// Why it cannot be told.
    pub barrier: Option<String>,
}

#[derive(Deserialize)]
struct FlowLists {
    services: Vec<FlowList>,
}

#[derive(Deserialize)]
struct FlowList {
    flows: Vec<Flow>,
}

impl Ctl<'_> {
    /// `flows --json` of a port.
    pub fn flows(&self, port: u16) -> Result<Vec<Flow>> {
        let outcome = self.expect(0, &["flows", "--port", &port.to_string(), "--json"])?;
        let lists: FlowLists = serde_json::from_str(&outcome.stdout)
            .with_context(|| format!("flows --json: {}", outcome.stdout))?;
        Ok(lists.services.into_iter().flat_map(|list| list.flows).collect())
    }

    /// What has become of the connections of a draining port.
    pub fn retire(&self, port: u16) -> Result<Retire> {
        let service = self.service(port)?;
        Ok(service.drain.with_context(|| format!("port {port} does not drain"))?.retire)
    }
}

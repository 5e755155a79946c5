//! What keeps services from being drained, apart from their connections.

use std::fmt;

use prometheus_client::encoding::DescriptorEncoder;

use super::Snapshot;
use crate::executor::Status;

impl Snapshot {
    pub(super) fn encode_waiting(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        self.encode_gauge(
            encoder,
            "service_holds",
            "Holds that keep the service from being drained",
            |s| s.holds.len() as u64,
        )?;
        let help = "Connections of the service's own that its drain waits for";
        self.encode_gauge(encoder, "drain_outbound", help, outbound)
    }
}

fn outbound(status: &Status) -> u64 {
    let drain = status.drain.iter().flat_map(|drain| &drain.wait_outbound);
    drain.filter_map(|(_, connections)| *connections).sum()
}

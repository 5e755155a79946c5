//! What is told of services, of their drains, and of all that was done.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::registering::RegistryView;
use crate::{
    drain::{
        Admission, Boot, Ending, Exempt, Hold, HoldName, NewConnections, Retire, RetireReport,
        Service, SettledBy, StateName,
    },
    kernel::{Admitted, Steered},
};

/// Who started a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// User id in the initial user namespace.
    pub uid: u32,
    /// Network namespace the caller lived in.
    pub netns: u32,
}

/// A service as it is now.
#[derive(Clone, Debug)]
pub struct Status {
    /// Which.
    pub service: Service,
    /// Its state.
    pub state: StateName,
    /// Flows, from the independent look.
    pub flows: u64,
    /// Handshakes in progress.
    pub handshakes: u64,
    /// Held FIN_WAIT2 connections that still count.
    pub lingering: u64,
    /// Connections that do not count.
    pub exempt: Exempt,
    /// Refused connection attempts since the gate closed.
    pub rejected: u64,
    /// Connection attempts that the client's address decided since the drain began.
    pub admitted: Admitted,
    /// What has come of handing connection attempts to others.
    pub steered: Steered,
    /// Connections accepted since counting began.
    pub accepted: u64,
    /// When the newest connection came.
    pub last_new: Option<Boot>,
    /// Sockets that listen on the port now.
    pub listeners: usize,
    /// Why the count cannot be verified.
    pub unknown: Option<String>,
    /// What holds it, by name.
    pub holds: Vec<(HoldName, Hold<Owner>)>,
    /// Registries that were told of it, or could not be.
    pub registries: Vec<RegistryView>,
    /// How its newest drain ended, and when, if that is not long ago.
    pub ended: Option<(Ending, Boot)>,
    /// The drain.
    pub drain: Option<DrainView>,
}

/// A drain and the state that it is in.
pub type Stand = (StateName, DrainView);

/// A drain as it is now.
#[derive(Clone, Debug)]
pub struct DrainView {
    /// When it began.
    pub started: Boot,
    /// Its states, and when it came into each.
    pub history: Vec<(StateName, Boot)>,
    /// When it gives up waiting.
    pub deadline: Boot,
    /// When the gate opens by itself.
    pub lease_until: Boot,
    /// Whether a new instance leaves the gate closed.
    pub keep_closed: bool,
    /// What happens to new connections once the gate is closed.
    pub new: NewConnections,
    /// Shortest settling time; 0 if the gate closes at once.
    pub min_settle: Duration,
    /// Why settling ended.
    pub settled_by: Option<SettledBy>,
    /// Which clients are treated differently from the others.
    pub admission: Admission,
    /// How its flows are made to leave.
    pub retire: Retire,
    /// What has become of them.
    pub report: RetireReport,
    /// Where connections of the service's own lead that are waited for too, and how many there are; `None`: not known.
    pub wait_outbound: Vec<(SocketAddr, Option<u64>)>,
    /// Who started it.
    pub owner: Owner,
}

/// Something changed for a service.
#[derive(Clone, Debug)]
pub struct Update {
    /// Which.
    pub service: Service,
    /// If its drain ended before it was drained, or was lifted: why.
    pub ended: Option<Ending>,
    /// The service as it is now, if that is known without another look.
    pub status: Option<Arc<Status>>,
}

/// Counters since the agent started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Drains accepted.
    pub drains: u64,
    /// Services proven empty.
    pub drained: u64,
    /// Drains whose deadline passed with flows remaining.
    pub expired: u64,
    /// Drains that had to stay open, and ended at their deadline.
    pub gave_up: u64,
    /// Times the independent look and the tracker disagreed.
    pub disagreements: u64,
    /// Tracker entries and counters mended.
    pub repairs: u64,
    /// Flows that appeared in a drained service: a bug, or somebody else's sk_lookup program.
    pub flows_after_drained: u64,
    /// Verdicts that were `unknown`.
    pub unknown_verdicts: u64,
}

//! What goes over the socket: the types the agent writes and `drainctl` reads (and the other way round).
//! Unknown fields in requests are refused, so that an option this agent does not have is never ignored.
//!
//! | request | answer |
//! | --- | --- |
//! | `POST /v1/drains` [`DrainRequest`] | 202 [`DrainAccepted`] |
//! | `DELETE /v1/drains/{service id}` | 200 [`Undrained`] |
//! | `POST /v1/checks` [`CheckRequest`] | 200 [`CheckResult`] |
//! | `POST /v1/holds` [`HoldRequest`] | 200 [`HoldAccepted`] |
//! | `DELETE /v1/holds/{service id}/{name}` | 200 [`Released`] |
//! | `GET /v1/services` (`?netns=`, `?pod=`, `?container=`, `?port=`; none: the caller's namespace) | 200 [`ServiceList`] |
//! | `GET /v1/services/{service id}` | 200 [`ServiceStatus`] |
//! | `GET /v1/services/{service id}/flows` | 200 [`FlowList`] |
//! | `GET /v1/events?services=ID,ID` | 200, a stream of [`StreamEvent`]s, one JSON object a line; keeps leases alive |
//! | `GET /drained/{port}` (`?netns=`, `?pod=`, `?container=`) | 200 drained (proven again now) · 503 not yet or unknown, both with [`ServiceStatus`] |
//! | `GET /serving/{port}` (`?netns=`, `?pod=`, `?container=`) | 200 serving · 503 draining, both with [`ServiceStatus`] |
//! | `GET /` | a page for browsers |
//! | `GET /metrics`, `GET /healthz` | Prometheus text · `ok` |
//!
//! Every error is [`ErrorBody`]. Bodies of requests are at most 64 KiB. A service id is `NETNS:PORT`, for
//! example `4026531840:8080`. `netns` in a query is an inode number, or `host`; `all` (GET /v1/services
//! only, node admins only) means every one. A pod is `NAMESPACE/NAME`, a container its id or the first 12 digits of it. With `?port=`, `GET /v1/services` answers 404 where there is no
//! listener, flow or drain. The event stream keeps alive the leases of those services only that the caller may also drain; it ends when all drains have.

mod admission;
mod check;
mod flow;
mod history;
mod hold;
mod list;
mod options;
mod pod;
mod registry;
mod retire;

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

pub use self::admission::{AdmissionStatus, FlowClass};
pub use self::check::{CheckRequest, CheckResult};
pub use self::flow::{Activity, FlowList, FlowStatus};
pub use self::history::{EndedStatus, Entered};
pub use self::hold::{HoldAccepted, HoldName, HoldRequest, HoldStatus, OutboundStatus, Released};
pub use self::list::{HookMissing, ServiceList};
pub use self::pod::{PodRef, TimeoutFrom};
pub use self::registry::{RegistryFailure, RegistryStatus};
pub use self::retire::{
    AtDeadline, FlowBarrier, FlowProtocol, FlowRetired, RetireKind, RetireStatus, UntellableFlows,
};
use crate::drain::Service;
pub use crate::drain::{Cidr, Forward, Handoff, NewConnections, Peer, SettledBy, StateName};
pub use crate::pods::PodName;

/// Most ports of one drain, and most services of one event stream.
pub const MAX_PORTS: usize = 64;

/// Asks for a drain. Durations are milliseconds; those left out take the documented defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrainRequest {
    /// Ports to drain together, 1 to 65535, at least one, at most [`MAX_PORTS`].
    pub ports: Vec<u16>,
    /// Network namespace; left out: the caller's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<NetnsRef>,
    /// The pod in whose network namespace the ports are; not together with `netns`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodName>,
    /// A container in whose network namespace the ports are: its id, or how it begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// How long no new connection must have come before the gate closes; 0 closes it at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quiet_ms: Option<u64>,
    /// Shortest settling time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_settle_ms: Option<u64>,
    /// Longest settling time; left out: 60 % of the timeout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_settle_ms: Option<u64>,
    /// When to give up waiting for zero; left out: in a pod what its grace period allows, elsewhere 25 s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// How long the drain lives without anyone renewing it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_ms: Option<u64>,
    /// Keep the gate closed when a new instance listens on the port.
    #[serde(default)]
    pub keep_closed: bool,
    /// Close the gate although Kubernetes goes on sending connections to the pod.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub close_anyway: bool,
    /// What happens to new connections once the gate is closed.
    #[serde(default)]
    pub new: NewConnections,
    /// Clients that are neither counted nor refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignore: Vec<Cidr>,
    /// Clients that are counted, and not refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<Cidr>,
    /// Clients that are refused from the drain's first moment on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fail_health_from: Vec<Cidr>,
    /// Clients that had a connection so lately are not refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_clients_ms: Option<u64>,
    /// How connections are made to leave; empty: they leave when they want to. Left out: `http` and `idle`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retire: Option<Vec<RetireKind>>,
    /// How long a connection must have been idle before it gets a FIN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_after_ms: Option<u64>,
    /// How long a connection must have been quiet before it gets a FIN; needed with `quiet`, and only there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quiet_flow_after_ms: Option<u64>,
    /// How long a connection that is closed on our side still counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linger_ms: Option<u64>,
    /// Over how long the turns of the connections are spread; left out: the shortest settling time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread_ms: Option<u64>,
    /// What happens at the deadline to connections that remain; left out: they stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_deadline: Option<AtDeadline>,
    /// Where connections of the service's own lead that are waited for too, as `10.0.0.9:5672`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wait_outbound: Vec<SocketAddr>,
}

/// A network namespace as a request names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "netns is an inode number, or \"host\"")]
pub enum NetnsRef {
    /// By inode number.
    Inode(u32),
    /// By name.
    Named(NetnsName),
}

/// Namespaces that have a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetnsName {
    /// The node's own.
    Host,
}

/// The drain is under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainAccepted {
    /// Every service of the drain, in the order asked for.
    pub services: Vec<ServiceStatus>,
    /// Whether at least one of them was already draining, and this request joined.
    pub joined: bool,
    /// When this request gives up waiting for zero.
    #[serde(default)]
    pub timeout_ms: u64,
    /// Where that comes from.
    #[serde(default)]
    pub timeout_from: TimeoutFrom,
    /// What whoever asked should know of it, in words.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// A drain was ended, or there was none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undrained {
    /// The service as it is now.
    pub service: ServiceStatus,
    /// False: it was serving already, and nothing was done.
    pub was_draining: bool,
}

/// One service as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// `NETNS:PORT`.
    pub id: String,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// TCP port.
    pub port: u16,
    /// State of the service.
    pub state: StateName,
    /// Established connections (until our last byte and FIN are acked), from the independent look.
    pub flows: u64,
    /// Handshakes in progress (SYN_RECV).
    pub handshakes: u64,
    /// Connections in FIN_WAIT2 that a process still holds, within the linger time.
    pub lingering: u64,
    /// Connections of clients that `--ignore` names: they do not count.
    pub ignored: u64,
    /// Connections that the kubelet opened: they do not count.
    pub probes: u64,
    /// Connections that the gate gave to another listener, which serves them (`--new`): they do not count.
    pub steered: u64,
    /// Connection attempts refused since the gate closed.
    pub rejected: u64,
    /// Connections accepted since counting began: over restarts of the agent, but anew once a port has long had none.
    #[serde(default)]
    pub accepted: u64,
    /// Since the newest connection came; null if none came since counting began.
    pub last_new_age_ms: Option<u64>,
    /// The pod that the network namespace belongs to; null where it is not known, and in the node's own.
    pub pod: Option<PodRef>,
    /// Why the count cannot be verified; null if it can.
    pub unknown: Option<String>,
    /// What keeps it from being drained, apart from connections.
    #[serde(default)]
    pub holds: Vec<HoldStatus>,
    /// Registries that were told of a drain, or could not be; none that know that the server is back.
    #[serde(default)]
    pub registries: Vec<RegistryStatus>,
    /// How its newest drain ended, for a minute after that; null while it is draining.
    #[serde(default)]
    pub ended: Option<EndedStatus>,
    /// The drain, if there is one.
    pub drain: Option<DrainStatus>,
}

/// The drain of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainStatus {
    /// Since it began.
    pub age_ms: u64,
    /// Its states so far.
    #[serde(default)]
    pub history: Vec<Entered>,
    /// Until the deadline; 0 once it has passed.
    pub deadline_in_ms: u64,
    /// Until the lease is over and traffic comes back by itself.
    pub lease_in_ms: u64,
    /// Whether a new instance leaves the gate closed.
    pub keep_closed: bool,
    /// What happens to new connections once the gate is closed.
    pub new: NewConnections,
    /// Connection attempts that were given to them.
    pub handed_over: u64,
    /// Listening sockets that take new connections now: of the new server, with a handoff; of the agent, if it carries
    /// or drops them. While there is none, a closed gate refuses them.
    pub takers: u64,
    /// Why the gate was closed; null while settling.
    pub settled_by: Option<SettledBy>,
    /// Which clients are treated differently from the others, and what came of it.
    pub admission: AdmissionStatus,
    /// What has become of its connections.
    pub retire: RetireStatus,
    /// Where connections of the service's own lead that are waited for too.
    #[serde(default)]
    pub wait_outbound: Vec<OutboundStatus>,
}

/// One line of the event stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum StreamEvent {
    /// The service as it is now: first line for each service asked for, then at each change, at most a few a second.
    Status {
        /// The service.
        service: ServiceStatus,
    },
    /// The drain ended before the service was drained.
    Ended {
        /// The service.
        service: ServiceStatus,
        /// Why, in words.
        reason: String,
        /// Whether the deadline passed while the gate had to stay open.
        #[serde(default)]
        at_deadline: bool,
    },
}

/// Every error of the interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorDetail,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// One of a fixed set.
    pub code: ErrorCode,
    /// For people: what happened, and what to do next.
    pub message: String,
}

/// Kinds of errors, each with its HTTP status and the exit code `drainctl` makes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// 500, exit 1: our fault.
    Internal,
    /// 400, exit 2: the request makes no sense. 404 for a path that is none, 405 for another method, 413 for
    /// a body that is too large, 415 for one that is not JSON.
    Usage,
    /// 403, exit 5: the caller may not do this.
    NotPermitted,
    /// 404, exit 6: no listener, flow or drain there.
    NoSuchService,
    /// 503, exit 7: the count cannot be verified.
    Unverifiable,
    /// 409, exit 8: another drain of the service has other options.
    Conflict,
    /// 502, exit 9: a registry could not be told first; the drain ended with nothing closed.
    Ended,
    /// 503, exit 4: the agent is stopping; the next one will answer.
    Stopping,
}

impl ServiceStatus {
    /// Which service this is.
    pub fn service(&self) -> Service {
        Service { netns: self.netns, port: self.port }
    }
}

#[cfg(test)]
#[path = "protocol_tests.rs"]
mod tests;

/// A v4-mapped address as the IPv4 address it is.
pub(super) fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

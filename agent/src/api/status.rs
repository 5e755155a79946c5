//! From the kernel's and the executor's view of a service to what goes over the socket.

use std::{cmp::Reverse, net::SocketAddr, time::Duration};

use super::{
    activity::activity,
    protocol::{DrainStatus, FlowList, FlowStatus, ServiceStatus},
};
use crate::{
    drain::Boot,
    executor::{DrainView, Status},
    kernel::{Look, Socket, TcpState},
};

/// The service as it is told at time `now`.
pub(super) fn service_status(status: &Status, now: Boot) -> ServiceStatus {
    ServiceStatus {
        id: status.service.to_string(),
        netns: status.service.netns,
        port: status.service.port,
        state: status.state,
        flows: status.flows,
        handshakes: status.handshakes,
        lingering: status.lingering,
        ignored: 0,
        rejected: status.rejected,
        last_new_age_ms: status.last_new.map(|at| millis(now.since(at))),
        pod: None,
        unknown: status.unknown.clone(),
        drain: status.drain.as_ref().map(|drain| drain_status(drain, now)),
    }
}

fn drain_status(drain: &DrainView, now: Boot) -> DrainStatus {
    DrainStatus {
        age_ms: millis(now.since(drain.started)),
        deadline_in_ms: millis(drain.deadline.since(now)),
        lease_in_ms: millis(drain.lease_until.since(now)),
        keep_closed: drain.keep_closed,
        settled_by: drain.settled_by,
    }
}

/// Whether there is anything at all: a listener, a connection or a drain. What cannot be verified exists.
pub(super) fn exists(status: &Status) -> bool {
    let connections = status.flows + status.handshakes + status.lingering;
    status.listeners > 0 || connections > 0 || status.drain.is_some() || status.unknown.is_some()
}

/// The connections of a look, handshakes first, then oldest first. `established` says when each began,
/// in the order of the look; `None` is older than the agent.
pub(super) fn flow_list(look: &Look, established: &[Option<Boot>], now: Boot) -> FlowList {
    let began = established.iter().copied().chain(std::iter::repeat(None));
    let mut flows: Vec<_> =
        look.sockets.iter().zip(began).map(|(socket, began)| flow(socket, began, now)).collect();
    flows.sort_by_key(|flow| {
        let handshake = flow.tcp_state == tcp_state_name(TcpState::SynRecv);
        (Reverse(handshake), Reverse(flow.age_ms.unwrap_or(u64::MAX)))
    });
    FlowList { flows }
}

fn flow(socket: &Socket, began: Option<Boot>, now: Boot) -> FlowStatus {
    let (activity, why) = activity(socket);
    let info = socket.info.unwrap_or_default();
    FlowStatus {
        peer: canonical(socket.peer).to_string(),
        local: canonical(socket.local).to_string(),
        tcp_state: tcp_state_name(socket.state).into(),
        age_ms: began.map(|at| millis(now.since(at))),
        bytes_in: info.bytes_received,
        bytes_out: info.bytes_acked,
        activity,
        why,
    }
}

/// A v4-mapped address as the IPv4 address it is.
fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// As `ss` names it.
fn tcp_state_name(state: TcpState) -> &'static str {
    match state {
        TcpState::Established => "ESTAB",
        TcpState::SynRecv => "SYN-RECV",
        TcpState::FinWait1 => "FIN-WAIT-1",
        TcpState::FinWait2 => "FIN-WAIT-2",
        TcpState::CloseWait => "CLOSE-WAIT",
        TcpState::LastAck => "LAST-ACK",
        TcpState::Closing => "CLOSING",
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::protocol::{SettledBy, StateName},
        drain::Service,
        executor::Owner,
    };

    const NOW: Boot = Boot::from_nanos(100_000_000_000);

    fn ago(ms: u64) -> Boot {
        NOW - Duration::from_millis(ms)
    }

    fn nothing() -> Status {
        Status {
            service: Service { netns: 7, port: 80 },
            state: StateName::Serving,
            flows: 0,
            handshakes: 0,
            lingering: 0,
            rejected: 0,
            last_new: None,
            listeners: 0,
            unknown: None,
            drain: None,
        }
    }

    fn draining() -> Status {
        let drain = DrainView {
            started: ago(4_000),
            deadline: ago(1),
            lease_until: NOW + Duration::from_secs(9),
            keep_closed: true,
            settled_by: Some(SettledBy::Quiet),
            owner: Owner { uid: 0, netns: 7 },
        };
        Status { last_new: Some(ago(250)), drain: Some(drain), ..nothing() }
    }

    #[test]
    fn times_become_milliseconds_from_now() {
        let status = service_status(&draining(), NOW);
        let drain = status.drain.unwrap();
        assert_eq!(status.id, "7:80");
        assert_eq!(status.last_new_age_ms, Some(250));
        assert_eq!((drain.age_ms, drain.deadline_in_ms, drain.lease_in_ms), (4_000, 0, 9_000));
    }

    #[test]
    fn a_service_exists_for_any_reason() {
        assert!(!exists(&nothing()));
        for status in [
            Status { listeners: 1, ..nothing() },
            Status { flows: 1, ..nothing() },
            Status { handshakes: 1, ..nothing() },
            Status { lingering: 1, ..nothing() },
            Status { unknown: Some("the look failed".into()), ..nothing() },
            draining(),
        ] {
            assert!(exists(&status), "{status:?}");
        }
    }

    fn socket(state: TcpState, peer_port: u16) -> Socket {
        Socket {
            cookie: u64::from(peer_port),
            state,
            local: "[::ffff:10.0.0.1]:80".parse().unwrap(),
            peer: format!("[::ffff:10.0.0.2]:{peer_port}").parse().unwrap(),
            inode: 7,
            unread: 0,
            unacked: 0,
            info: None,
        }
    }

    #[test]
    fn flows_come_handshakes_first_then_oldest_first() {
        use TcpState::{CloseWait, Established, SynRecv};
        let sockets = vec![
            socket(Established, 1),
            socket(CloseWait, 2),
            socket(SynRecv, 3),
            socket(Established, 4),
        ];
        let look = Look { sockets, listeners: vec![] };
        let list = flow_list(&look, &[Some(ago(5)), Some(ago(9)), None, None], NOW);
        let peers: Vec<_> = list.flows.iter().map(|flow| flow.peer.as_str()).collect();
        assert_eq!(peers, ["10.0.0.2:3", "10.0.0.2:4", "10.0.0.2:2", "10.0.0.2:1"]);
        assert_eq!(list.flows[2].tcp_state, "CLOSE-WAIT");
        assert_eq!(list.flows[2].age_ms, Some(9));
    }
}

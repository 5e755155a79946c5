//! From the kernel's and the executor's view of a service to what goes over the socket.

use std::{cmp::Reverse, collections::HashMap, net::SocketAddr, time::Duration};

use super::{
    activity::activity,
    protocol::{
        AdmissionStatus, DrainStatus, EndedStatus, Entered, FlowList, FlowStatus, HoldName,
        HoldStatus, OutboundStatus, PodRef, RetireStatus, ServiceStatus, canonical,
    },
    retiring,
};
use crate::{
    drain::{Boot, Hold, Leaving, StateName},
    executor::{DrainView, Owner, Status},
    kernel::{Class, Look, Socket, TcpState},
};

/// The service, which lives in this pod, as it is told at time `now`.
pub(super) fn service_status(status: &Status, pod: Option<PodRef>, now: Boot) -> ServiceStatus {
    ServiceStatus {
        id: status.service.to_string(),
        netns: status.service.netns,
        port: status.service.port,
        state: status.state,
        flows: status.flows,
        handshakes: status.handshakes,
        lingering: status.lingering,
        ignored: status.exempt.ignored,
        probes: status.exempt.probes,
        steered: status.exempt.steered,
        rejected: status.rejected,
        accepted: status.accepted,
        last_new_age_ms: status.last_new.map(|at| millis(now.since(at))),
        pod,
        unknown: status.unknown.clone(),
        holds: status.holds.iter().map(|(name, hold)| hold_status(name, hold, now)).collect(),
        registries: status.registries.iter().map(Into::into).collect(),
        ended: status.ended.as_ref().map(|(ending, at)| EndedStatus {
            reason: ending.reason.clone(),
            at_deadline: ending.at_deadline,
            ago_ms: millis(now.since(*at)),
        }),
        drain: status.drain.as_ref().map(|drain| drain_status(drain, status, now)),
    }
}

fn hold_status(name: &HoldName, hold: &Hold<Owner>, now: Boot) -> HoldStatus {
    let Hold { since, until, owner } = hold;
    HoldStatus {
        name: name.clone(),
        age_ms: millis(now.since(*since)),
        left_ms: millis(until.since(now)),
        uid: owner.uid,
    }
}

fn drain_status(drain: &DrainView, status: &Status, now: Boot) -> DrainStatus {
    let Status { steered, admitted, .. } = status;
    DrainStatus {
        age_ms: millis(now.since(drain.started)),
        history: drain.history.iter().map(|&(state, at)| entered(state, at, now)).collect(),
        deadline_in_ms: millis(drain.deadline.since(now)),
        lease_in_ms: millis(drain.lease_until.since(now)),
        keep_closed: drain.keep_closed,
        new: drain.new.clone(),
        handed_over: steered.attempts,
        takers: steered.targets,
        settled_by: drain.settled_by,
        admission: AdmissionStatus::new(&drain.admission, admitted),
        retire: RetireStatus {
            what: drain.retire.set.kinds(),
            at_deadline: drain.retire.at_deadline,
            ..(&drain.report).into()
        },
        wait_outbound: drain.wait_outbound.iter().map(outbound_status).collect(),
    }
}

fn entered(state: StateName, at: Boot, now: Boot) -> Entered {
    Entered { state, ago_ms: millis(now.since(at)) }
}

fn outbound_status((to, connections): &(SocketAddr, Option<u64>)) -> OutboundStatus {
    OutboundStatus { to: to.to_string(), connections: *connections }
}

/// Whether there is anything at all: a listener, a connection, a hold or a drain. What cannot be verified exists.
pub(super) fn exists(status: &Status) -> bool {
    let connections = status.flows + status.handshakes + status.lingering;
    let sockets = status.listeners > 0 || connections > 0;
    sockets || !status.holds.is_empty() || status.drain.is_some() || status.unknown.is_some()
}

/// What is known of the connections of a draining service, apart from the look.
pub(super) struct Retiring {
    /// The drain.
    pub(super) drain: DrainView,
    /// How each connection is on its way out, by socket cookie.
    pub(super) leaving: HashMap<u64, Leaving>,
}

/// The connections of a look, handshakes first, then oldest first. `established` says when each began,
/// in the order of the look; `None` is older than the agent. `retiring` is there while the service drains.
pub(super) fn flow_list(
    look: &Look,
    established: &[Option<Boot>],
    retiring: Option<&Retiring>,
    now: Boot,
) -> FlowList {
    let began = established.iter().copied().chain(std::iter::repeat(None));
    let both = look.sockets.iter().zip(began);
    let mut flows: Vec<_> =
        both.map(|(socket, began)| flow(socket, began, retiring, now)).collect();
    flows.sort_by_key(|flow| {
        let handshake = flow.tcp_state == tcp_state_name(TcpState::SynRecv);
        (Reverse(handshake), Reverse(flow.age_ms.unwrap_or(u64::MAX)))
    });
    FlowList { pod: None, flows }
}

fn flow(
    socket: &Socket,
    began: Option<Boot>,
    retiring: Option<&Retiring>,
    now: Boot,
) -> FlowStatus {
    let followed = retiring.and_then(|all| Some((all, all.leaving.get(&socket.cookie)?)));
    let leaving = followed.map(|(_, leaving)| leaving);
    let (activity, why) = activity(socket, leaving);
    let info = socket.info.unwrap_or_default();
    FlowStatus {
        peer: canonical(socket.peer).to_string(),
        local: canonical(socket.local).to_string(),
        tcp_state: tcp_state_name(socket.state).into(),
        age_ms: began.map(|at| millis(now.since(at))),
        bytes_in: info.bytes_received,
        bytes_out: info.bytes_acked,
        class: socket.class.into(),
        activity,
        why,
        protocol: leaving.map(|leaving| leaving.protocol.into()).unwrap_or_default(),
        retire: leaving.and_then(retiring::last_step),
        fin_raced: leaving.is_some_and(|leaving| leaving.fin_raced),
        barrier: followed
            .filter(|_| socket.class == Class::Counted)
            .and_then(|(all, leaving)| retiring::barrier(socket, leaving, &all.drain, now)),
    }
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
        api::{
            protocol::{AtDeadline, FlowBarrier, FlowProtocol, FlowRetired, RetireKind, SettledBy},
            testing,
        },
        drain::{RetireReport, Service},
        kernel::{Protocol, ToldBy},
    };

    const NOW: Boot = testing::NOW;
    const SERVICE: Service = Service { netns: 7, port: 80 };

    fn ago(ms: u64) -> Boot {
        NOW - Duration::from_millis(ms)
    }

    fn nothing() -> Status {
        Status { listeners: 0, ..testing::serving(SERVICE) }
    }

    fn draining() -> Status {
        let status = testing::draining(SERVICE, StateName::Rejecting, 0);
        let drain = status.drain.map(|drain| DrainView {
            started: ago(4_000),
            history: vec![(StateName::Settling, ago(4_000)), (StateName::Rejecting, ago(900))],
            deadline: ago(1),
            keep_closed: true,
            settled_by: Some(SettledBy::Quiet),
            ..drain
        });
        Status { last_new: Some(ago(250)), listeners: 0, drain, ..status }
    }

    #[test]
    fn times_become_milliseconds_from_now() {
        let status = service_status(&draining(), None, NOW);
        let drain = status.drain.unwrap();
        assert_eq!(status.id, "7:80");
        assert_eq!(status.last_new_age_ms, Some(250));
        let history: Vec<_> = drain.history.iter().map(|each| (each.state, each.ago_ms)).collect();
        assert_eq!(history, [(StateName::Settling, 4_000), (StateName::Rejecting, 900)]);
        assert_eq!((drain.age_ms, drain.deadline_in_ms, drain.lease_in_ms), (4_000, 0, 9_000));
    }

    #[test]
    fn what_has_become_of_the_connections() {
        let mut status = draining();
        let drain = status.drain.as_mut().unwrap();
        drain.retire.at_deadline = AtDeadline::Abort;
        drain.report = RetireReport {
            told_by_header: 9,
            told_by_goaway: 3,
            aborted: 1,
            cut: vec!["[::ffff:10.0.0.2]:40000".parse().unwrap()],
            ..RetireReport::default()
        };
        drain.report.untellable.tls = 2;
        let retire = service_status(&status, None, NOW).drain.unwrap().retire;
        assert_eq!(retire.what, [RetireKind::Http, RetireKind::Idle]);
        assert_eq!((retire.told(), retire.untellable.tls, retire.aborted), (12, 2, 1));
        assert_eq!(retire.at_deadline, AtDeadline::Abort);
        assert_eq!(retire.cut, ["10.0.0.2:40000"], "IPv4 as IPv4");
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
            class: Class::Counted,
            local: "[::ffff:10.0.0.1]:80".parse().unwrap(),
            peer: format!("[::ffff:10.0.0.2]:{peer_port}").parse().unwrap(),
            inode: 7,
            unread: 0,
            unacked: 0,
            interface: 0,
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
        let list = flow_list(&look, &[Some(ago(5)), Some(ago(9)), None, None], None, NOW);
        let peers: Vec<_> = list.flows.iter().map(|flow| flow.peer.as_str()).collect();
        assert_eq!(peers, ["10.0.0.2:3", "10.0.0.2:4", "10.0.0.2:2", "10.0.0.2:1"]);
        assert_eq!(list.flows[2].tcp_state, "CLOSE-WAIT");
        assert_eq!(list.flows[2].age_ms, Some(9));
    }
    #[test]
    fn how_each_connection_is_on_its_way_out() {
        let sockets = [1, 2, 3, 4].map(testing::connection).to_vec();
        let look = Look { sockets, listeners: vec![] };
        let begun = [Some(ago(40)), Some(ago(30)), Some(ago(20)), Some(ago(10))];
        let told = Leaving { told: Some(ToldBy::Header), ..testing::leaving(Protocol::Http1) };
        let raced = Leaving { fin_sent: true, fin_raced: true, ..told };
        let leaving = [(1, told), (2, testing::leaving(Protocol::Tls)), (3, raced)].into();
        let drain = draining().drain.unwrap();
        let list = flow_list(&look, &begun, Some(&Retiring { drain, leaving }), NOW);
        let flows: Vec<_> = list
            .flows
            .iter()
            .map(|flow| (flow.protocol, flow.retire, flow.fin_raced, flow.barrier))
            .collect();
        let expected = [
            (FlowProtocol::Http1, Some(FlowRetired::ToldByHeader), false, None),
            (FlowProtocol::Tls, None, false, Some(FlowBarrier::Tls)),
            (FlowProtocol::Http1, Some(FlowRetired::FinSent), true, None),
            (FlowProtocol::Unknown, None, false, None),
        ];
        assert_eq!(flows, expected);
    }
}

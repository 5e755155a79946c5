//! How one connection of a draining service is on its way out, and why it cannot be told.

use super::protocol::{FlowBarrier, FlowRetired};
use crate::{
    drain::{Boot, Leaving, RetireSet},
    executor::DrainView,
    kernel::{Protocol, Socket},
};

/// The last thing that was done to make the connection leave.
pub(super) fn last_step(leaving: &Leaving) -> Option<FlowRetired> {
    if leaving.fin_sent {
        return Some(FlowRetired::FinSent);
    }
    leaving.told.map(FlowRetired::from)
}

/// Why the connection cannot be told; `None` if it can or was, or if nobody follows the connections.
pub(super) fn barrier(
    socket: &Socket,
    leaving: &Leaving,
    drain: &DrainView,
    now: Boot,
) -> Option<FlowBarrier> {
    let RetireSet { http1, http2, idle, quiet: _ } = drain.retire.set;
    let followed = (http1 || http2 || idle) && drain.report.lacks.is_none();
    if !followed || leaving.told.is_some() {
        return None;
    }
    if let Some(barrier) = leaving.barrier {
        return Some(barrier.into());
    }
    match leaving.protocol {
        Protocol::Http1 | Protocol::Http2 => None,
        Protocol::Tls => Some(FlowBarrier::Tls),
        Protocol::Upgraded => Some(FlowBarrier::Upgraded),
        Protocol::Unknown => {
            server_has_sent(socket, drain, now).then_some(FlowBarrier::UnknownProtocol)
        }
    }
}

/// Whether the server has sent something since the drain began.
fn server_has_sent(socket: &Socket, drain: &DrainView, now: Boot) -> bool {
    socket.info.is_some_and(|info| {
        // `since_sent` counts from the handshake as long as nothing was sent.
        let ever = info.bytes_acked > 0 || socket.unacked > 0;
        ever && info.since_sent < now.since(drain.started)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        api::protocol::StateName,
        api::testing::{NOW, WEB, connection, draining, leaving},
        executor::Status,
        kernel::{Barrier, SocketInfo, ToldBy},
    };

    fn drain() -> DrainView {
        let Status { drain, .. } = draining(WEB, StateName::Rejecting, 1);
        DrainView { started: NOW - Duration::from_secs(5), ..drain.expect("draining") }
    }

    #[test]
    fn the_last_step_counts() {
        let told = |by| Leaving { told: Some(by), ..leaving(Protocol::Http1) };
        let table = [
            (leaving(Protocol::Http1), None),
            (told(ToldBy::Header), Some(FlowRetired::ToldByHeader)),
            (told(ToldBy::Goaway), Some(FlowRetired::ToldByGoaway)),
            (Leaving { fin_sent: true, ..told(ToldBy::Header) }, Some(FlowRetired::FinSent)),
        ];
        for (leaving, step) in table {
            assert_eq!(last_step(&leaving), step, "{leaving:?}");
        }
    }

    #[test]
    fn each_reason_why_one_cannot_be_told() {
        use FlowBarrier as F;
        use Protocol::{Http1, Http2, Tls, Unknown, Upgraded};
        let behind = |barrier| Leaving { barrier: Some(barrier), ..leaving(Unknown) };
        let table = [
            (leaving(Http1), None),
            (leaving(Http2), None),
            (leaving(Tls), Some(F::Tls)),
            (leaving(Upgraded), Some(F::Upgraded)),
            (leaving(Unknown), Some(F::UnknownProtocol)),
            (behind(Barrier::Foreign), Some(F::Foreign)),
            (behind(Barrier::Ulp), Some(F::Ktls)),
            (behind(Barrier::Mptcp), Some(F::Mptcp)),
            (behind(Barrier::ZeroCopy), Some(F::ZeroCopy)),
            (behind(Barrier::NoRoom), Some(F::Refused)),
            (behind(Barrier::Refused), Some(F::Refused)),
            (Leaving { told: Some(ToldBy::Header), ..leaving(Upgraded) }, None),
        ];
        let sent = SocketInfo {
            bytes_acked: 9,
            since_sent: Duration::from_secs(4),
            ..SocketInfo::default()
        };
        let socket = |info| Socket { info: Some(info), ..connection(1) };
        let of = |info, leaving: &Leaving, drain: &DrainView| {
            barrier(&socket(info), leaving, drain, NOW)
        };
        for (leaving, expected) in table {
            assert_eq!(of(sent, &leaving, &drain()), expected, "{leaving:?}");
        }
        let unknown = leaving(Unknown);
        let before = SocketInfo { since_sent: Duration::from_secs(6), ..sent };
        assert_eq!(of(before, &unknown, &drain()), None, "sent before the drain began");
        let silent = SocketInfo { bytes_acked: 0, ..sent };
        assert_eq!(of(silent, &unknown, &drain()), None, "nothing sent yet");
        let mut unasked = drain();
        unasked.retire.set = RetireSet { quiet: true, ..RetireSet::NONE };
        assert_eq!(of(sent, &unknown, &unasked), None, "nobody is followed");
        let mut unable = drain();
        unable.report.lacks = Some("no sockmap".into());
        assert_eq!(of(sent, &leaving(Tls), &unable), None, "said once, for all");
    }
}

//! What a connection is doing, from what the kernel says of its socket. That alone never proves that a
//! connection is idle: it takes a parser that saw the last response end, which looks while a service drains.

use std::time::Duration;

use super::protocol::Activity;
use crate::{
    drain::Leaving,
    kernel::{Protocol, Socket, SocketInfo, TcpState},
};

/// Bytes moved less than this ago: busy.
const RECENT: Duration = Duration::from_secs(1);

/// What the connection is doing, and why it is thought so, in words. `leaving` is known of the connections
/// of a draining service.
pub(super) fn activity(socket: &Socket, leaving: Option<&Leaving>) -> (Activity, String) {
    match socket.state {
        TcpState::SynRecv => (Activity::Handshake, "the handshake is not finished".into()),
        TcpState::FinWait2 => (Activity::Lingering, lingering(socket.is_held()).into()),
        TcpState::Established | TcpState::CloseWait if !socket.is_held() => {
            busy("waiting to be accepted by the server")
        }
        _ => in_service(socket, leaving),
    }
}

fn lingering(held: bool) -> &'static str {
    if held {
        "the server closed its side and still holds the socket: a request may still be executing"
    } else {
        "the server closed it; waiting for the peer to close its side"
    }
}

/// Of a connection that a process has accepted, or that still carries its last bytes.
fn in_service(socket: &Socket, leaving: Option<&Leaving>) -> (Activity, String) {
    let not_sent = socket.info.map_or(0, |info| info.not_sent);
    if socket.unread > 0 {
        return busy(format!("{} bytes received and not yet read by the server", socket.unread));
    }
    if not_sent > 0 {
        return busy(format!("{not_sent} bytes written and not yet sent"));
    }
    if socket.unacked > 0 {
        return busy(format!("{} bytes sent and not yet acknowledged", socket.unacked));
    }
    if matches!(socket.state, TcpState::FinWait1 | TcpState::LastAck | TcpState::Closing) {
        return busy("closing: our FIN is not yet acknowledged");
    }
    match socket.info {
        Some(info) => by_time(info, leaving),
        None => busy("the kernel gave no details, so it counts as busy"),
    }
}

/// Of a connection with nothing unread, unsent or unacknowledged.
fn by_time(info: SocketInfo, leaving: Option<&Leaving>) -> (Activity, String) {
    // Both times count from the handshake until the first byte moves.
    let since = info.since_sent.min(info.since_received);
    let never = info.bytes_received == 0 && info.bytes_acked == 0;
    let ago = rounded(since);
    if since < RECENT {
        return busy(if never {
            format!("accepted {ago} ago, no bytes yet")
        } else {
            format!("last byte {ago} ago")
        });
    }
    match leaving {
        // A byte that came since the parser was asked would be recent.
        Some(Leaving { idle: true, .. }) => {
            (Activity::Idle, format!("answered {ago} ago, and no byte since"))
        }
        _ => (Activity::Quiet, format!("no bytes for {ago}; {}", doubt(leaving))),
    }
}

/// Why a connection without a byte for a while is not taken for idle.
fn doubt(leaving: Option<&Leaving>) -> &'static str {
    match leaving.map_or(Protocol::Unknown, |leaving| leaving.protocol) {
        Protocol::Unknown => "protocol unknown: it may still be a request in flight",
        Protocol::Http1 => "HTTP/1 whose last response was not seen to end: it may still be coming",
        Protocol::Http2 => "HTTP/2: a stream may still be open",
        Protocol::Tls => "TLS: it may still be a request in flight",
        Protocol::Upgraded => "upgraded, such as a WebSocket: either side may go on at any time",
    }
}

fn busy(why: impl Into<String>) -> (Activity, String) {
    (Activity::Busy, why.into())
}

/// Milliseconds below a second, else seconds: `120ms`, `12s`, `1h 2s`.
fn rounded(time: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(if time < Duration::from_secs(1) {
        Duration::from_millis(u64::from(time.subsec_millis()))
    } else {
        Duration::from_secs(time.as_secs())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Class;

    fn info(since_sent_ms: u64, since_received_ms: u64) -> Option<SocketInfo> {
        Some(SocketInfo {
            bytes_received: 100,
            bytes_acked: 200,
            since_sent: Duration::from_millis(since_sent_ms),
            since_received: Duration::from_millis(since_received_ms),
            ..SocketInfo::default()
        })
    }

    /// An accepted connection whose last byte moved 12 s ago.
    fn settled() -> Socket {
        Socket {
            cookie: 1,
            state: TcpState::Established,
            class: Class::Counted,
            local: ([10, 0, 0, 1], 8080).into(),
            peer: ([10, 0, 0, 2], 40000).into(),
            inode: 7,
            unread: 0,
            unacked: 0,
            interface: 0,
            info: info(12_000, 12_400),
        }
    }

    #[test]
    fn each_reason() {
        use Activity::{Busy, Handshake, Lingering, Quiet};
        use TcpState::{CloseWait, Closing, Established, FinWait1, FinWait2, LastAck, SynRecv};
        let at = |state| Socket { state, ..settled() };
        let unheld = |state| Socket { inode: 0, ..at(state) };
        let unsent = SocketInfo { not_sent: 7, ..settled().info.unwrap() };
        let silent = SocketInfo { bytes_received: 0, bytes_acked: 0, ..info(3, 3).unwrap() };
        let cases = [
            (settled(), Quiet, "no bytes for 12s; protocol unknown"),
            (at(CloseWait), Quiet, "may still be a request in flight"),
            (Socket { info: info(9_000, 120), ..settled() }, Busy, "last byte 120ms ago"),
            (Socket { info: info(999, 9_000), ..settled() }, Busy, "last byte 999ms ago"),
            (Socket { info: info(1_000, 1_000), ..settled() }, Quiet, "no bytes for 1s"),
            (Socket { info: Some(silent), ..settled() }, Busy, "accepted 3ms ago, no bytes yet"),
            (Socket { unread: 5, ..settled() }, Busy, "5 bytes received and not yet read"),
            (Socket { unacked: 6, ..settled() }, Busy, "6 bytes sent and not yet acknowledged"),
            (Socket { info: Some(unsent), ..settled() }, Busy, "7 bytes written and not yet sent"),
            (Socket { info: None, ..settled() }, Busy, "no details"),
            (unheld(Established), Busy, "waiting to be accepted"),
            (unheld(CloseWait), Busy, "waiting to be accepted"),
            (at(SynRecv), Handshake, "handshake"),
            (at(FinWait2), Lingering, "may still be executing"),
            (unheld(FinWait2), Lingering, "waiting for the peer"),
            (unheld(FinWait1), Busy, "our FIN is not yet acknowledged"),
            (unheld(LastAck), Busy, "our FIN is not yet acknowledged"),
            (unheld(Closing), Busy, "our FIN is not yet acknowledged"),
        ];
        for (socket, expected, words) in cases {
            let (activity, why) = activity(&socket, None);
            assert_eq!(activity, expected, "{socket:?}");
            assert!(why.contains(words), "{why:?} lacks {words:?}");
        }
    }

    #[test]
    fn only_the_parser_proves_that_a_connection_is_idle() {
        use Activity::{Busy, Idle, Quiet};
        use Protocol::{Http1, Http2, Tls, Unknown, Upgraded};
        let leaving = |protocol, idle| Leaving {
            protocol,
            told: None,
            fin_sent: false,
            fin_raced: false,
            idle,
            barrier: None,
        };
        let unread = Socket { unread: 5, ..settled() };
        let fresh = Socket { info: info(9_000, 120), ..settled() };
        let gone = Socket { state: TcpState::FinWait2, ..settled() };
        let cases = [
            (settled(), leaving(Http1, true), Idle, "answered 12s ago, and no byte since"),
            (unread, leaving(Http1, true), Busy, "5 bytes received and not yet read"),
            (fresh, leaving(Http1, true), Busy, "last byte 120ms ago"),
            (gone, leaving(Http1, true), Activity::Lingering, "may still be executing"),
            (settled(), leaving(Http1, false), Quiet, "response was not seen to end"),
            (settled(), leaving(Http2, false), Quiet, "a stream may still be open"),
            (settled(), leaving(Tls, false), Quiet, "TLS: it may still be a request"),
            (settled(), leaving(Upgraded, false), Quiet, "either side may go on"),
            (settled(), leaving(Unknown, false), Quiet, "protocol unknown"),
        ];
        for (socket, leaving, expected, words) in cases {
            let (activity, why) = activity(&socket, Some(&leaving));
            assert_eq!(activity, expected, "{leaving:?}");
            assert!(why.contains(words), "{why:?} lacks {words:?}");
        }
    }
}

//! The ledger by table: who gets a FIN and when, and what is counted.

use std::time::Duration;

use super::{AtDeadline, Retire, Retirement, Round, Untellable, remaining};
use crate::{
    drain::Boot,
    kernel::{
        Abort, Barrier, Class, Finish, Followed, Look, Protocol, Socket, SocketInfo, TcpState,
        Told, ToldBy,
    },
};

const FLOW: u64 = 7;

/// Milliseconds after the drain's start.
fn t(ms: u64) -> Boot {
    Boot::from_nanos(1_000_000_000_000) + Duration::from_millis(ms)
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Idle flows after 1 s, quiet ones, if they are named, after 10 s; all at once.
fn retire(words: &str) -> Retire {
    let set: super::RetireSet = words.parse().expect("a set");
    Retire {
        set,
        idle_after: ms(1000),
        quiet_flow_after: set.quiet.then_some(ms(10_000)),
        linger: ms(2000),
        spread: Duration::ZERO,
        at_deadline: AtDeadline::Leave,
    }
}

/// A held connection on which nothing is under way, and nothing was for an hour; 100 bytes had come.
fn socket() -> Socket {
    let info = SocketInfo {
        bytes_received: 100,
        bytes_acked: 200,
        since_sent: ms(3_600_000),
        since_received: ms(3_600_000),
        ..SocketInfo::default()
    };
    Socket {
        cookie: FLOW,
        state: TcpState::Established,
        class: Class::Counted,
        local: ([10, 0, 0, 1], 8080).into(),
        peer: ([10, 0, 0, 2], 40_000).into(),
        inode: 70,
        unread: 0,
        unacked: 0,
        interface: 0,
        info: Some(info),
    }
}

fn info(change: impl FnOnce(&mut SocketInfo)) -> Option<SocketInfo> {
    let mut info = socket().info.expect("set above");
    change(&mut info);
    Some(info)
}

/// An HTTP/1 flow whose last response, the answer to those 100 bytes, ended when the drain began.
fn followed() -> Followed {
    Followed {
        cookie: FLOW,
        protocol: Protocol::Http1,
        barrier: None,
        told: None,
        closes: false,
        answered: true,
        turn: t(0),
        sent: Some(t(0)),
        received: 100,
        sent_in_all: 200,
        received_in_all: None,
    }
}

/// As the kernel programs see what is not HTTP/1.
fn other(protocol: Protocol) -> Followed {
    Followed { protocol, answered: false, ..followed() }
}

fn look(sockets: &[Socket]) -> Look {
    Look { sockets: sockets.to_vec(), ..Look::default() }
}

/// Cookies of the flows that a ledger's first round gives a FIN.
fn fins(words: &str, followed: Option<Followed>, socket: Socket, now: Boot) -> Vec<u64> {
    let followed: Vec<Followed> = followed.into_iter().collect();
    let mut ledger = Retirement::default();
    let round = ledger.round(&retire(words), t(0), &followed, &look(&[socket]), now);
    round.finish.iter().map(|finish| finish.cookie).collect()
}

#[test]
fn who_gets_a_fin_because_it_is_idle() {
    let told = |by| Some(Told { by, at: t(0) });
    #[rustfmt::skip]
    let table = [
        ("idle for long enough", "http,idle", followed(), socket(), t(1000), true),
        ("not yet", "http,idle", followed(), socket(), t(999), false),
        ("idle is not named", "http", followed(), socket(), t(9000), false),
        ("nothing is named", "none", followed(), socket(), t(9000), false),
        ("told and idle", "http,idle", Followed { told: told(ToldBy::Header), ..followed() }, socket(), t(1000), true),
        ("told and idle, but only told is wanted", "http", Followed { told: told(ToldBy::Header), ..followed() }, socket(), t(1000), false),
        ("told and still busy", "http,idle", Followed { told: told(ToldBy::Header), answered: false, ..followed() }, socket(), t(9000), false),
        ("idle, and the server has said itself that it closes", "http,idle", Followed { closes: true, ..followed() }, socket(), t(1000), true),
        ("a response pauses, as an event stream does for 10 s", "http,idle", Followed { answered: false, ..followed() }, socket(), t(10_000), false),
        ("not its turn yet", "http,idle", Followed { turn: t(2000), ..followed() }, socket(), t(1999), false),
        ("its turn", "http,idle", Followed { turn: t(2000), ..followed() }, socket(), t(2000), true),
        ("the server never sent anything", "http,idle", Followed { sent: None, ..followed() }, socket(), t(9000), false),
        ("TCP sent the end of the response late", "http,idle", followed(), Socket { info: info(|i| i.since_sent = ms(999)), ..socket() }, t(9000), false),
        ("a byte came since", "http,idle", followed(), Socket { info: info(|i| i.bytes_received = 101), ..socket() }, t(9000), false),
        ("the process has not read all of it", "http,idle", followed(), Socket { unread: 1, ..socket() }, t(9000), false),
        ("the client has not got all of it", "http,idle", followed(), Socket { unacked: 1, ..socket() }, t(9000), false),
        ("not all was sent", "http,idle", followed(), Socket { info: info(|i| i.not_sent = 1), ..socket() }, t(9000), false),
        ("some was written in vain, and comes again", "http,idle", Followed { sent_in_all: 201, ..followed() }, socket(), t(9000), false),
        ("TCP tells nothing", "http,idle", followed(), Socket { info: None, ..socket() }, t(9000), false),
        ("no process holds it", "http,idle", followed(), Socket { inode: 0, ..socket() }, t(9000), false),
        ("the client has closed its side", "http,idle", followed(), Socket { state: TcpState::CloseWait, ..socket() }, t(9000), false),
        ("the server has closed its side", "http,idle", followed(), Socket { state: TcpState::FinWait2, ..socket() }, t(9000), false),
        ("a WebSocket that is silent for an hour", "http,idle", other(Protocol::Upgraded), socket(), t(3_600_000), false),
        ("an upgrade that looks answered", "http,idle", Followed { protocol: Protocol::Upgraded, ..followed() }, socket(), t(3_600_000), false),
        ("TLS", "http,idle", other(Protocol::Tls), socket(), t(3_600_000), false),
        ("HTTP/2, even told: a request may be unanswered", "http,idle", Followed { told: told(ToldBy::Goaway), ..other(Protocol::Http2) }, socket(), t(3_600_000), false),
        ("an unknown protocol", "http,idle", other(Protocol::Unknown), socket(), t(3_600_000), false),
    ];
    for (description, words, followed, socket, now, expected) in table {
        let expected = if expected { vec![FLOW] } else { vec![] };
        assert_eq!(fins(words, Some(followed), socket, now), expected, "{description}");
    }
    assert!(
        fins("http,idle", None, socket(), t(9000)).is_empty(),
        "not followed: nothing is proven"
    );
}

#[test]
fn who_gets_a_fin_because_it_is_quiet() {
    let quiet_for = |sent, received| Socket {
        info: info(|i| (i.since_sent, i.since_received) = (ms(sent), ms(received))),
        ..socket()
    };
    let closing = Followed { closes: true, ..other(Protocol::Http1) };
    #[rustfmt::skip]
    let table = [
        ("TLS", Some(other(Protocol::Tls)), socket(), t(1), true),
        ("HTTP/2", Some(other(Protocol::Http2)), socket(), t(1), true),
        ("a WebSocket", Some(other(Protocol::Upgraded)), socket(), t(1), true),
        ("an unknown protocol", Some(other(Protocol::Unknown)), socket(), t(1), true),
        ("an unanswered request", Some(other(Protocol::Http1)), socket(), t(1), true),
        ("an idle flow, where idle is not named", Some(followed()), socket(), t(1), true),
        ("not followed", None, socket(), t(1), true),
        ("exactly that long", None, quiet_for(10_000, 10_000), t(1), true),
        ("the client sent something", None, quiet_for(10_000, 9_999), t(1), false),
        ("the server sent something", None, quiet_for(9_999, 10_000), t(1), false),
        ("the server closes it itself", Some(closing), socket(), t(1), false),
        ("not its turn", Some(Followed { turn: t(2), ..other(Protocol::Tls) }), socket(), t(1), false),
        ("nobody has read it", None, Socket { unread: 1, ..socket() }, t(1), false),
        ("nobody has got it", None, Socket { unacked: 1, ..socket() }, t(1), false),
        ("the accept queue", None, Socket { inode: 0, ..socket() }, t(1), false),
        ("closed by the client", None, Socket { state: TcpState::CloseWait, ..socket() }, t(1), false),
    ];
    for (description, followed, socket, now, expected) in table {
        let expected = if expected { vec![FLOW] } else { vec![] };
        assert_eq!(fins("quiet", followed, socket.clone(), now), expected, "{description}");
        let unnamed = followed.filter(|followed| !followed.answered);
        assert!(
            fins("http,idle", unnamed, socket, now).is_empty(),
            "{description}: quiet must be named"
        );
    }
    let spread = Retire { spread: ms(60_000), ..retire("quiet") };
    let flows: Vec<Socket> = (0..600).map(|cookie| Socket { cookie, ..socket() }).collect();
    let due =
        |now| Retirement::default().round(&spread, t(0), &[], &look(&flows), now).finish.len();
    assert!((200..400).contains(&due(t(30_000))), "half of the unfollowed flows had their turn");
    assert_eq!((due(t(0)), due(t(60_000))), (0, 600));
}

#[test]
fn a_race_is_seen_after_the_flow_has_ended() {
    for (in_all, raced) in [(None, 0), (Some(100), 0), (Some(101), 0), (Some(150), 1)] {
        let mut ledger = Retirement::default();
        let retire = retire("http,idle");
        ledger.round(&retire, t(0), &[followed()], &look(&[socket()]), t(5000));
        ledger.finished(&[FLOW]);
        let first = ledger.round(&retire, t(0), &[followed()], &Look::default(), t(5250));
        assert!(first.gone.is_empty(), "it may have ended after this was read");
        let ended = Followed { received_in_all: in_all, ..followed() };
        let second = ledger.round(&retire, t(0), &[ended], &Look::default(), t(5500));
        assert_eq!((second.gone, ledger.report().fin_raced), (vec![FLOW], raced), "{in_all:?}");
    }
}

#[test]
fn a_fin_is_sent_once_and_a_race_after_it_counted_once() {
    let mut ledger = Retirement::default();
    let retire = retire("http,idle");
    let there = |state, bytes_received| Socket {
        state,
        info: info(|i| i.bytes_received = bytes_received),
        ..socket()
    };
    let round = |ledger: &mut Retirement, socket: Socket| {
        ledger.round(&retire, t(0), &[followed()], &look(&[socket]), t(5000)).finish
    };
    let fin = Finish { cookie: FLOW, inode: 70, received: 100 };
    assert_eq!(round(&mut ledger, there(TcpState::Established, 100)), [fin]);
    assert_eq!(round(&mut ledger, there(TcpState::Established, 100)), [fin], "it got none");
    assert!(ledger.leaving()[&FLOW].idle);
    ledger.finished(&[FLOW, 99]);
    assert_eq!(ledger.report().fin_sent, 1, "of flows that are known");
    #[rustfmt::skip]
    let table = [
        ("our FIN is on its way", TcpState::FinWait1, 100, 0),
        ("the client's FIN counts as a byte", TcpState::Closing, 101, 0),
        ("a request crossed our FIN", TcpState::FinWait2, 150, 1),
        ("more of it: one flow is one race", TcpState::FinWait2, 200, 1),
    ];
    for (description, state, received, raced) in table {
        assert_eq!(round(&mut ledger, there(state, received)), [], "{description}: no second FIN");
        assert_eq!(ledger.report().fin_raced, raced, "{description}");
    }
    assert!(ledger.leaving()[&FLOW].fin_raced);
    ledger.round(&retire, t(0), &[followed()], &Look::default(), t(6000));
    let report = ledger.report();
    assert_eq!((report.fin_sent, report.left), (1, 0), "what got a FIN did not leave by itself");
}

#[test]
fn every_flow_is_counted_once_whenever_it_was_told_and_ended() {
    let mut ledger = Retirement::default();
    let retire = retire("http,idle");
    let told = |cookie, by| Followed { cookie, told: Some(Told { by, at: t(1) }), ..followed() };
    let there = |cookie| Socket { cookie, unread: 1, ..socket() };
    let round = |ledger: &mut Retirement, followed: &[Followed], sockets: &[Socket]| {
        let Round { mut gone, .. } = ledger.round(&retire, t(0), followed, &look(sockets), t(9000));
        gone.sort_unstable();
        let report = ledger.report();
        (gone, report.told_by_header, report.told_by_goaway, report.left, ledger.leaving().len())
    };
    let (one, two) = (told(1, ToldBy::Header), told(2, ToldBy::Goaway));
    let handshake = Socket { state: TcpState::SynRecv, ..there(8) };
    let half_closed = Socket { state: TcpState::FinWait2, ..there(9) };
    let flows = [there(1), there(2), handshake, half_closed];
    assert_eq!(round(&mut ledger, &[], &flows), (vec![], 0, 0, 0, 2), "only flows are flows");
    assert_eq!(round(&mut ledger, &[one, two], &flows[..2]), (vec![], 1, 1, 0, 2));
    let ended = [one, two, told(3, ToldBy::Header)];
    assert_eq!(
        round(&mut ledger, &ended, &flows[..1]),
        (vec![2, 3], 2, 1, 2, 1),
        "3 came and went"
    );
    assert_eq!(
        round(&mut ledger, &ended, &flows[..1]),
        (vec![2, 3], 2, 1, 2, 1),
        "unfollowing failed"
    );
    assert_eq!(round(&mut ledger, &[one], &flows[..1]), (vec![], 2, 1, 2, 1));
    assert_eq!(round(&mut ledger, &[one], &[]), (vec![1], 2, 1, 3, 0), "a look that misses it");
    assert_eq!(
        round(&mut ledger, &[one], &flows[..1]),
        (vec![], 2, 1, 3, 1),
        "it is there after all"
    );
    assert_eq!(round(&mut ledger, &[one], &[]), (vec![1], 2, 1, 3, 0), "and leaves only once");
    let closing = Socket { state: TcpState::FinWait2, ..there(4) };
    assert_eq!(round(&mut ledger, &[], &[there(4)]).3, 3);
    assert_eq!(
        round(&mut ledger, &[], &[closing]).3,
        3,
        "the server closed, the client has not yet"
    );
    assert_eq!(round(&mut ledger, &[], &[]), (vec![], 2, 1, 4, 0));
}

#[test]
fn those_that_are_reset_did_not_leave() {
    let mut ledger = Retirement::default();
    let half_closed = |inode| Socket { state: TcpState::FinWait2, inode, ..socket() };
    let handshake = Socket { state: TcpState::SynRecv, ..socket() };
    let all = look(&[socket(), handshake, half_closed(0), half_closed(7)]);
    assert_eq!(
        remaining(&all).len(),
        2,
        "no handshake, and nothing that the server closed for good"
    );
    ledger.round(&retire("none"), t(0), &[], &look(&[socket()]), t(0));
    let peer = socket().peer;
    let reset: Vec<Abort> = (FLOW..FLOW + 150)
        .map(|cookie| Abort { cookie, local: peer, peer, interface: 0 })
        .collect();
    ledger.aborted(&reset);
    for _ in 0..2 {
        ledger.round(&retire("none"), t(0), &[], &Look::default(), t(1));
        let report = ledger.report();
        assert_eq!((report.aborted, report.left, report.cut.len()), (150, 0, 100));
    }
}

#[test]
fn flows_that_cannot_be_told_are_counted_by_the_reason() {
    let barrier = |barrier| Followed { barrier: Some(barrier), ..other(Protocol::Tls) };
    let silent = Followed { sent: None, ..other(Protocol::Unknown) };
    let none = Untellable::default();
    #[rustfmt::skip]
    let table = [
        (barrier(Barrier::Ulp), Untellable { ktls: 1, ..none }),
        (barrier(Barrier::Mptcp), Untellable { mptcp: 1, ..none }),
        (barrier(Barrier::ZeroCopy), Untellable { zero_copy: 1, ..none }),
        (barrier(Barrier::Foreign), Untellable { foreign: 1, ..none }),
        (barrier(Barrier::NoRoom), Untellable { refused: 1, ..none }),
        (barrier(Barrier::Refused), Untellable { refused: 1, ..none }),
        (other(Protocol::Tls), Untellable { tls: 1, ..none }),
        (other(Protocol::Upgraded), Untellable { upgraded: 1, ..none }),
        (other(Protocol::Unknown), Untellable { unknown_protocol: 1, ..none }),
        (silent, none),
        (other(Protocol::Http2), none),
        (followed(), none),
    ];
    for (followed, expected) in table {
        let mut ledger = Retirement::default();
        for _ in 0..2 {
            ledger.round(&retire("http"), t(0), &[followed], &look(&[socket()]), t(1));
            assert_eq!(ledger.report().untellable, expected, "{followed:?}: a gauge");
        }
        ledger.round(&retire("http"), t(0), &[followed], &Look::default(), t(2));
        assert_eq!(ledger.report().untellable, none, "{followed:?}: it is gone");
    }
}

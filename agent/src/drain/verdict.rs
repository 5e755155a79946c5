//! What is proof of zero: an independent look that shows nothing, and a tracker that agrees with it.

use std::{collections::HashMap, fmt, time::Duration};

use super::{Boot, retire::LINGER};
use crate::kernel::{Class, Look, Socket, TcpState, Tracked};

/// What a service was found to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Proven: no flow, no handshake, nothing lingering.
    Empty,
    /// Something is left.
    NotEmpty(Counts),
    /// It cannot be told; why, in words. Never to be taken for zero.
    Unknown(String),
}

/// What a look counted of the flows that keep a service from being drained ([`Class::Counted`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections from ESTABLISHED until our last byte and FIN are acked.
    pub flows: u64,
    /// Handshakes in progress (SYN_RECV).
    pub handshakes: u64,
    /// FIN_WAIT2 connections that a process holds, within the linger time.
    pub lingering: u64,
    /// Connections of the service's own that its drain waits for.
    pub outbound: u64,
}

impl Counts {
    /// What `look` shows; `lingering` comes from [`Lingerers`].
    pub fn of(look: &Look, lingering: u64) -> Self {
        let count = |wanted: fn(TcpState) -> bool| {
            let counted = look.sockets.iter().filter(|socket| socket.class == Class::Counted);
            counted.filter(|socket| wanted(socket.state)).count() as u64
        };
        Self {
            flows: count(TcpState::is_flow),
            handshakes: count(|state| state == TcpState::SynRecv),
            lingering,
            outbound: 0,
        }
    }

    /// Whether nothing was counted.
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }
}

/// Flows that do not keep a service from being drained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exempt {
    /// Of clients that `--ignore` names.
    pub ignored: u64,
    /// Opened by the kubelet.
    pub probes: u64,
    /// Served by another listener, to which the gate gave them.
    pub steered: u64,
}

impl Exempt {
    /// What `look` shows.
    pub fn of(look: &Look) -> Self {
        let count = |class: Class| {
            let flows = look.sockets.iter().filter(|socket| socket.state.is_flow());
            flows.filter(|socket| socket.class == class).count() as u64
        };
        Self {
            ignored: count(Class::Ignored),
            probes: count(Class::Probe),
            steered: count(Class::Steered),
        }
    }
}

/// `2 flows, 1 handshake, 0 lingering`.
impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { flows, handshakes, lingering, outbound } = self;
        write!(f, "{flows} flows, {handshakes} handshakes, {lingering} lingering")?;
        if *outbound > 0 { write!(f, ", {outbound} outbound") } else { Ok(()) }
    }
}

/// Since when each FIN_WAIT2 connection of a service has been there.
#[derive(Clone, Debug)]
pub struct Lingerers {
    linger: Duration,
    first_seen: HashMap<u64, Boot>,
}

/// For services without a drain.
impl Default for Lingerers {
    fn default() -> Self {
        Self::new(LINGER)
    }
}

impl Lingerers {
    /// They count for `linger`, and for at least two round trips.
    pub fn new(linger: Duration) -> Self {
        Self { linger, first_seen: HashMap::new() }
    }

    /// From now on they count for this long.
    pub fn set_linger(&mut self, linger: Duration) {
        self.linger = linger;
    }

    /// How many of the look's FIN_WAIT2 connections count at `now`; remembers the new ones and forgets
    /// those that are gone.
    pub fn observe(&mut self, look: &Look, now: Boot) -> u64 {
        self.first_seen = held_in_fin_wait2(look)
            .map(|socket| {
                (socket.cookie, self.first_seen.get(&socket.cookie).copied().unwrap_or(now))
            })
            .collect();
        self.count(look, now)
    }

    /// How many of the look's FIN_WAIT2 connections count at `now`; those never observed do.
    pub fn count(&self, look: &Look, now: Boot) -> u64 {
        held_in_fin_wait2(look)
            .filter(|socket| {
                let first_seen = self.first_seen.get(&socket.cookie).copied().unwrap_or(now);
                now.since(first_seen) < self.linger_of(socket)
            })
            .count() as u64
    }

    /// At least two round trips after our FIN, so that the peer's answer to it can have come.
    fn linger_of(&self, socket: &Socket) -> Duration {
        self.linger.max(socket.info.map_or(Duration::ZERO, |info| info.rtt * 2))
    }
}

/// Only while a process holds it can a request still be executing.
fn held_in_fin_wait2(look: &Look) -> impl Iterator<Item = &Socket> {
    look.sockets.iter().filter(|socket| {
        socket.state == TcpState::FinWait2 && socket.is_held() && socket.class == Class::Counted
    })
}

/// Whether the tracker and a look tell the same about flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opinion {
    /// They do.
    Agree,
    /// The tracker's counts changed during the look, so that they cannot be compared: look again.
    Moved,
    /// They do not.
    Disagree {
        /// Flows by the tracker.
        tracked: i64,
        /// Flows by the look.
        seen: u64,
    },
}

/// Compares a look with what the tracker said before and after it.
pub fn compare(before: &Tracked, look: &Look, after: &Tracked) -> Opinion {
    let seen = Counts::of(look, 0).flows;
    let tracked = after.flows;
    let counters = |t: &Tracked| (t.flows, t.accepted, t.lost);
    if counters(before) != counters(after) {
        return Opinion::Moved;
    }
    if i64::try_from(seen) == Ok(tracked) {
        Opinion::Agree
    } else {
        Opinion::Disagree { tracked, seen }
    }
}

/// The outcome of a verification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// What was found.
    pub verdict: Verdict,
    /// When the look began: whatever came later is not in it.
    pub at: Boot,
    /// Whether what is left may end without an event that tells: handshakes and lingering connections do,
    /// and the tracker reports nothing reliable while it disagrees.
    pub silent: bool,
}

impl Judgement {
    /// It cannot be told what the service holds.
    pub fn unknown(reason: impl Into<String>, at: Boot) -> Self {
        Self { verdict: Verdict::Unknown(reason.into()), at, silent: false }
    }

    /// The same with so many connections of the service's own that are waited for. No event tells of their end.
    #[must_use]
    pub fn with_outbound(self, outbound: u64) -> Self {
        let (counts, silent) = match self.verdict {
            Verdict::Empty if outbound > 0 => (Counts::default(), true),
            Verdict::NotEmpty(counts) => (counts, self.silent),
            Verdict::Empty | Verdict::Unknown(_) => return self,
        };
        Self { verdict: Verdict::NotEmpty(Counts { outbound, ..counts }), silent, ..self }
    }
}

/// Why the counts of this tracker are not to be trusted, if connections found its map full.
pub fn full_map(tracked: &Tracked) -> Option<String> {
    let lost = tracked.lost;
    (lost > 0).then(|| {
        format!(
            "the tracker's map of flows was full when {lost} connections came; start the agent with a larger --max-flows"
        )
    })
}

/// Judges what a look that began `at` counted, together with the tracker's opinion. `Empty` needs both:
/// nothing in the look, and a tracker that agrees and lost nothing.
pub fn judge(counts: Counts, opinion: Opinion, tracked: &Tracked, at: Boot) -> Judgement {
    let disagree = matches!(opinion, Opinion::Disagree { .. });
    if let Some(reason) = full_map(tracked) {
        return Judgement { verdict: Verdict::Unknown(reason), at, silent: false };
    }
    if !counts.is_zero() {
        let silent = disagree || counts.flows == 0;
        return Judgement { verdict: Verdict::NotEmpty(counts), at, silent };
    }
    match opinion {
        Opinion::Agree => Judgement { verdict: Verdict::Empty, at, silent: false },
        Opinion::Moved => {
            let reason = "connections came or went during every look".to_owned();
            Judgement { verdict: Verdict::Unknown(reason), at, silent: true }
        }
        Opinion::Disagree { tracked, seen } => {
            let reason = format!(
                "the tracker counts {tracked} flows and an independent look {seen}, even after a repair"
            );
            Judgement { verdict: Verdict::Unknown(reason), at, silent: true }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::SocketInfo;

    fn socket(cookie: u64, state: TcpState, held: bool) -> Socket {
        let any = ([127, 0, 0, 1], 80).into();
        let inode = u32::from(held);
        Socket {
            cookie,
            state,
            class: Class::Counted,
            local: any,
            peer: any,
            inode,
            unread: 0,
            unacked: 0,
            interface: 0,
            info: None,
        }
    }

    fn at(ms: u64) -> Boot {
        Boot::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn every_tcp_state_is_counted_once() {
        use TcpState::*;
        #[rustfmt::skip]
        let table = [
            ("served", Established, true, (1, 0, 0)),
            ("in the accept queue", Established, false, (1, 0, 0)),
            ("the peer closed its side", CloseWait, true, (1, 0, 0)),
            ("our FIN is not acked", FinWait1, false, (1, 0, 0)),
            ("both closed at once", Closing, false, (1, 0, 0)),
            ("our last FIN is not acked", LastAck, false, (1, 0, 0)),
            ("handshake", SynRecv, false, (0, 1, 0)),
            ("half closed by us, still held", FinWait2, true, (0, 0, 1)),
            ("closed by us for good", FinWait2, false, (0, 0, 0)),
        ];
        for (description, state, held, (flows, handshakes, lingering)) in table {
            let look = Look { sockets: vec![socket(1, state, held)], ..Look::default() };
            let seen = Counts::of(&look, Lingerers::default().observe(&look, at(0)));
            assert_eq!(seen, Counts { flows, handshakes, lingering, outbound: 0 }, "{description}");
        }
    }

    #[test]
    fn a_lingering_connection_counts_for_two_seconds() {
        let mut lingerers = Lingerers::default();
        let look = Look { sockets: vec![socket(1, TcpState::FinWait2, true)], ..Look::default() };
        assert_eq!(lingerers.observe(&look, at(100)), 1);
        assert_eq!(lingerers.observe(&look, at(2099)), 1);
        assert_eq!(lingerers.observe(&look, at(2100)), 0, "two seconds after it was first seen");
        let mut both = look.clone();
        both.sockets.push(socket(2, TcpState::FinWait2, true));
        assert_eq!(lingerers.observe(&both, at(2200)), 1, "a second one has its own time");
        assert_eq!(lingerers.observe(&Look::default(), at(2300)), 0);
        assert!(lingerers.first_seen.is_empty(), "those that are gone are forgotten");
    }

    #[test]
    fn a_drain_may_have_another_linger_time_and_who_joins_it_a_longer_one() {
        let look = Look { sockets: vec![socket(1, TcpState::FinWait2, true)], ..Look::default() };
        let mut lingerers = Lingerers::new(Duration::from_millis(500));
        lingerers.observe(&look, at(0));
        assert_eq!((lingerers.count(&look, at(499)), lingerers.count(&look, at(500))), (1, 0));
        lingerers.set_linger(Duration::from_secs(5));
        assert_eq!((lingerers.count(&look, at(4999)), lingerers.count(&look, at(5000))), (1, 0));
    }

    #[test]
    fn a_slow_peer_has_two_round_trips() {
        let mut slow = socket(1, TcpState::FinWait2, true);
        slow.info = Some(SocketInfo { rtt: Duration::from_millis(1500), ..SocketInfo::default() });
        let look = Look { sockets: vec![slow], ..Look::default() };
        let mut lingerers = Lingerers::default();
        lingerers.observe(&look, at(0));
        assert_eq!(lingerers.count(&look, at(2999)), 1);
        assert_eq!(lingerers.count(&look, at(3000)), 0);
    }

    #[test]
    fn tracker_and_look_are_compared_only_if_nothing_moved() {
        let flows = |flows, accepted| Tracked { flows, accepted, ..Tracked::default() };
        let one = Look { sockets: vec![socket(1, TcpState::Established, true)], ..Look::default() };
        let none = Look::default();
        #[rustfmt::skip]
        let table = [
            ("both see nothing", flows(0, 0), &none, flows(0, 0), Opinion::Agree),
            ("both see one", flows(1, 1), &one, flows(1, 1), Opinion::Agree),
            ("one closed after the look", flows(1, 1), &one, flows(0, 1), Opinion::Moved),
            ("one came and went", flows(0, 1), &none, flows(0, 2), Opinion::Moved),
            ("the tracker missed one", flows(0, 0), &one, flows(0, 0), Opinion::Disagree { tracked: 0, seen: 1 }),
            ("the tracker leaked one", flows(1, 1), &none, flows(1, 1), Opinion::Disagree { tracked: 1, seen: 0 }),
            ("the counter was corrupted", flows(-1, 0), &none, flows(-1, 0), Opinion::Disagree { tracked: -1, seen: 0 }),
        ];
        for (description, before, look, after, expected) in table {
            assert_eq!(compare(&before, look, &after), expected, "{description}");
        }
    }

    #[test]
    fn only_agreement_on_nothing_is_empty() {
        enum Is {
            Empty,
            NotEmpty,
            Unknown,
        }
        let zero = Counts::default();
        let one = Counts { flows: 1, ..zero };
        let handshake = Counts { handshakes: 1, ..zero };
        let lingering = Counts { lingering: 1, ..zero };
        let leaving = Counts { flows: 1, lingering: 1, ..zero };
        let disagree = Opinion::Disagree { tracked: 1, seen: 0 };
        let good = Tracked::default();
        let full = Tracked { lost: 1, ..good };
        #[rustfmt::skip]
        let table = [
            ("nothing, agreed", zero, Opinion::Agree, good, Is::Empty, false),
            ("nothing, but the tracker moved", zero, Opinion::Moved, good, Is::Unknown, true),
            ("nothing, but the tracker sees one", zero, disagree, good, Is::Unknown, true),
            ("nothing, but the map was full", zero, Opinion::Agree, full, Is::Unknown, false),
            ("a flow, but the map was full", one, Opinion::Agree, full, Is::Unknown, false),
            ("a flow, agreed", one, Opinion::Agree, good, Is::NotEmpty, false),
            ("a flow, moved", one, Opinion::Moved, good, Is::NotEmpty, false),
            ("a flow the tracker does not see", one, disagree, good, Is::NotEmpty, true),
            ("a handshake", handshake, Opinion::Agree, good, Is::NotEmpty, true),
            ("a lingering connection", lingering, Opinion::Agree, good, Is::NotEmpty, true),
            ("a flow and a lingering connection", leaving, Opinion::Agree, good, Is::NotEmpty, false),
        ];
        for (description, counts, opinion, tracked, expected, silent) in table {
            let judgement = judge(counts, opinion, &tracked, at(5));
            let right = match expected {
                Is::Empty => judgement.verdict == Verdict::Empty,
                Is::NotEmpty => judgement.verdict == Verdict::NotEmpty(counts),
                Is::Unknown => matches!(judgement.verdict, Verdict::Unknown(_)),
            };
            assert!(right, "{description}: {judgement:?}");
            assert_eq!((judgement.silent, judgement.at), (silent, at(5)), "{description}");
        }
    }
}

//! What happens around a drain: clients, servers, faults, people and time.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex},
    time::Duration,
};

use rand::{Rng, rngs::SmallRng};

use super::{
    NEXT, Simulation, WEB,
    leaving::{Fates, random_retire},
};
use crate::{
    drain::{
        AdmissionRequest, Boot, Endpoint, Event, Handoff, Lingerers, Machine, NewConnections,
        Phase, Spec, SpecRequest, listeners,
    },
    kernel::{Kernel, TcpState, fake::Op},
};

/// A client that some drains ignore, and some refuse from their start on.
const PROBER: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7));

/// How late a timer may come.
const JITTER: Duration = Duration::from_millis(5);

impl Simulation {
    /// Clients and servers.
    pub(super) fn network(&mut self) {
        let kernel = Arc::clone(&self.kernel);
        let sockets = kernel.sockets(WEB);
        let any = (!sockets.is_empty()).then(|| sockets[self.rng.random_range(0..sockets.len())]);
        match (self.rng.random_range(0..100), any) {
            (0..35, Some((cookie, state))) => self.talk(cookie, state),
            (0..35, None) | (35..50, _) => drop(kernel.connect(WEB)),
            (50..57, _) => drop(kernel.syn(WEB)),
            (57..75, Some((cookie, TcpState::SynRecv))) => drop(kernel.establish(cookie)),
            (57..75, Some((cookie, _))) => kernel.close(cookie),
            (75..82, Some((cookie, state))) if state != TcpState::SynRecv => {
                // After close(2), no process holds it ever again.
                let held = state.is_flow() && self.rng.random_bool(0.7);
                kernel.set_state(cookie, TcpState::FinWait2, held);
                if held {
                    self.half_closed.entry(cookie).or_insert(kernel.now());
                } else {
                    self.half_closed.remove(&cookie);
                }
            }
            (82..85, Some((cookie, state))) if state.is_flow() => {
                kernel.set_state(cookie, TcpState::CloseWait, true);
            }
            (85..90, _) => drop(kernel.connect_from(WEB, PROBER)),
            (90..92, _) => kernel.unlisten(WEB),
            (92..94, _) => drop(kernel.listen(WEB)),
            (95, _) => kernel.unlisten(NEXT),
            (96..98, _) => drop(kernel.listen(NEXT)),
            (94, _) if self.rng.random_bool(0.2) => {
                self.say(|| "the namespace dies".into());
                kernel.kill_netns(WEB.netns);
                self.netns_lost = true;
                if self.rng.random() {
                    kernel.add_netns(WEB.netns);
                    kernel.listen(WEB);
                }
            }
            _ => {}
        }
    }

    pub(super) fn break_something(&mut self) {
        let kernel = Arc::clone(&self.kernel);
        match self.rng.random_range(0..6) {
            0 => kernel.set_tracker_blind(self.rng.random()),
            1 => kernel.set_tracker_full(self.rng.random()),
            2 => kernel.corrupt(WEB, self.rng.random_range(-2..=2)),
            3 => kernel.set_events_lost(self.rng.random()),
            4 if self.rng.random_bool(0.1) => {
                self.say(|| "an intruder".into());
                kernel.intrude(WEB);
                self.intruded = true;
            }
            _ => {
                let op = Op::ALL[self.rng.random_range(0..Op::ALL.len())];
                kernel.fail(op, self.rng.random_range(1..3), self.rng.random_range(1..4));
            }
        }
    }

    /// Who drains, joins, renews and undrains.
    pub(super) fn people(&mut self) {
        let now = self.kernel.now();
        match (self.machine.phase(), self.rng.random_range(0..10)) {
            (Phase::Serving, _) if self.is_idle() => self.begin(),
            (Phase::Serving, _) => {}
            (_, 0) => self.step(Event::Undrain("undrained".into())),
            (phase, 1..3) if phase != Phase::Opening && !self.machine.lease_is_over(now) => {
                self.step(Event::Join(Box::new(self.machine.spec().clone())));
            }
            (_, 3..6) => self.step(Event::Renew),
            (_, 6) => self.step(Event::Hint),
            (phase, 7) if phase != Phase::Drained => {
                let time = Duration::from_millis(self.rng.random_range(1..5000));
                let until = self.rng.random_bool(0.5).then(|| now + time);
                self.hold(until);
            }
            _ => self.kubernetes(),
        }
    }

    /// Something holds the service until then, or nothing does any more.
    pub(super) fn hold(&mut self, until: Option<Boot>) {
        self.held_until = until;
        self.step(Event::Held(until));
    }

    /// The pod is deleted, or another one of its Service comes or goes.
    fn kubernetes(&mut self) {
        self.endpoint = match self.rng.random_range(0..3) {
            0 => Endpoint::Leaving,
            1 => Endpoint::Staying { alone: false },
            _ => Endpoint::Staying { alone: true },
        };
        self.step(Event::Endpoint(self.endpoint));
    }

    fn begin(&mut self) {
        let Ok(cookie) = self.kernel.netns_cookie(WEB.netns) else {
            self.kernel.add_netns(WEB.netns);
            self.kernel.listen(WEB);
            return;
        };
        let machine = Machine::new(random_spec(&mut self.rng)).announcing(self.rng.random());
        self.machine = machine.inheriting(&self.machine);
        self.announced = false;
        let held_until = self.held_until;
        self.hold(held_until);
        self.netns_cookie = cookie;
        self.netns_lost = false;
        self.intruded = false;
        self.lingerers = Mutex::new(Lingerers::new(self.machine.spec().retire().linger));
        self.ledger = Mutex::default();
        self.fates = Fates::default();
        self.aborted = false;
        self.endpoint = Endpoint::default();
        self.listeners = self.kernel.look(WEB.netns, Some(WEB.port)).ok().map(|l| listeners(&l));
        self.step(Event::Start);
    }

    /// Time passes: a little, or until the next timer; never past a timer that has not come.
    pub(super) fn time(&mut self) {
        let now = self.kernel.now();
        let due = self.wake_at.since(now) + self.rng.random_range(Duration::ZERO..JITTER);
        if self.rng.random_bool(0.02) {
            // The machine was suspended.
            self.kernel.advance(Duration::from_secs(self.rng.random_range(20..80)));
        }
        let little = self.rng.random_range(Duration::from_millis(1)..Duration::from_millis(400));
        let draining = self.machine.phase() != Phase::Serving;
        self.kernel.advance(if draining && self.rng.random() { due } else { little.min(due) });
        if draining && self.kernel.now() >= self.wake_at {
            self.step(Event::Timer);
        }
    }
}

/// Nobody who counts is let in: whether that keeps a service from being drained is a matter of chance.
fn random_admission(rng: &mut SmallRng) -> AdmissionRequest {
    let prober = vec!["198.51.100.0/24".parse().expect("a prefix")];
    match rng.random_range(0..4) {
        0 => AdmissionRequest { ignore: prober, ..AdmissionRequest::default() },
        1 => AdmissionRequest { fail_health_from: prober, ..AdmissionRequest::default() },
        _ => AdmissionRequest::default(),
    }
}

fn random_new(rng: &mut SmallRng) -> NewConnections {
    match rng.random_range(0..5) {
        0 => NewConnections::Drop,
        1 | 2 => NewConnections::Handoff(Handoff::Port(NEXT.port)),
        _ => NewConnections::Reject,
    }
}

/// Options within their limits.
pub(super) fn random_spec(rng: &mut SmallRng) -> Spec {
    let ms =
        |rng: &mut SmallRng, most: u64| Some(Duration::from_millis(rng.random_range(0..=most)));
    let request = SpecRequest {
        quiet: if rng.random() { Some(Duration::ZERO) } else { ms(rng, 1000) },
        min_settle: ms(rng, 2500),
        max_settle: rng.random_bool(0.3).then_some(Duration::from_millis(2600)),
        timeout: Some(Duration::from_millis(rng.random_range(3000..8000))),
        lease: Some(Duration::from_secs(68)),
        keep_closed: rng.random_bool(0.3),
        close_anyway: rng.random_bool(0.2),
        grace: None,
        retire: random_retire(rng),
        admission: random_admission(rng),
        new: random_new(rng),
        wait_outbound: Vec::new(),
    };
    Spec::try_from(request).expect("within its limits")
}

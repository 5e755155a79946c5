//! What must hold, after every step of the machine and at every moment in between.

use super::{Simulation, WEB};
use crate::{
    drain::{Action, AtDeadline, Boot, Endpoint, Event, Phase, Verdict},
    kernel::{Kernel, TcpState},
};

impl Simulation {
    pub(super) fn check(&self) {
        let now = self.kernel.now();
        let (phase, closed) = (self.machine.phase(), self.kernel.gate_is_closed(WEB));
        match phase {
            Phase::Rejecting | Phase::Drained | Phase::Expired => {
                let excused = self.netns_lost || now >= self.gate_lease;
                assert!(closed || excused, "{} with an open gate", phase.name());
            }
            Phase::Serving | Phase::Guarding | Phase::Announcing | Phase::Settling => {
                let excused = self.netns_lost || self.queue.contains(&Action::Forget);
                assert!(!closed || excused, "{} with a closed gate", phase.name());
            }
            Phase::Closing | Phase::Opening => {}
        }
        let told_first = !self.machine.announces() || self.announced;
        assert!(!closed || told_first || self.netns_lost, "closed before registries know");
        if phase == Phase::Serving && self.is_idle() {
            assert_eq!(self.kernel.order(WEB), None, "serving, but told to leave");
            let steered = self.kernel.is_steered(WEB);
            assert!(!steered || self.netns_lost, "serving, but handed over");
            let guarded = self.kernel.is_guarded(WEB);
            assert!(!guarded || self.netns_lost, "serving, but with lists of clients");
        }
        if phase == Phase::Drained {
            assert!(self.held_until.is_none_or(|until| now >= until), "drained while held");
            let truth = self.kernel.truth(WEB);
            assert!(truth.is_zero() || self.is_excused(now), "drained with {truth}");
        }
    }

    pub(super) fn check_step(&self, before: Phase, after: Phase, now: Boot) {
        if after == Phase::Drained && before != Phase::Drained {
            self.check_half_closed(now);
        }
        if before == Phase::Settling && after == Phase::Closing {
            self.check_settled(now);
        }
    }

    /// After a timer.
    pub(super) fn check_timer(&self, now: Boot) {
        let late = now >= self.machine.deadline();
        let phase = self.machine.phase();
        let aborts = self.machine.spec().retire().at_deadline == AtDeadline::Abort;
        let resets = aborts && (self.machine.wants_abort() || self.aborted);
        assert!(!(late && phase == Phase::Rejecting) || resets, "it expires by its deadline");
        assert!(!self.machine.lease_is_over(now), "the lease is over and nothing happens");
    }

    /// Whether this is a verdict other than zero, newer than all before it.
    pub(super) fn is_news_of_something(&mut self, event: &Event, now: Boot) -> bool {
        match event {
            Event::GateClosed { .. } => self.newest_look = now,
            Event::Judged(judgement) if judgement.at >= self.newest_look => {
                self.newest_look = judgement.at;
                return judgement.verdict != Verdict::Empty;
            }
            _ => {}
        }
        false
    }

    fn check_half_closed(&self, now: Boot) {
        let linger = self.machine.spec().retire().linger;
        let mut sockets = self.kernel.sockets(WEB);
        sockets.retain(|(cookie, _)| self.kernel.is_counted(*cookie));
        for (cookie, state) in sockets {
            let since = self.half_closed.get(&cookie).filter(|_| state == TcpState::FinWait2);
            let young = since.is_some_and(|since| now.since(*since) < linger);
            assert!(!young || self.is_excused(now), "a half-closed request may still be executing");
        }
    }

    fn check_settled(&self, now: Boot) {
        let (spec, age) = (self.machine.spec(), now.since(self.machine.started()));
        let alone = self.endpoint == Endpoint::Staying { alone: true };
        let may_close = spec.close_anyway() || spec.new_connections().are_served();
        assert!(!alone || may_close, "it closed the last door of a Service");
        if spec.at_once() || age >= spec.max_settle() {
            return;
        }
        assert!(age >= spec.min_settle(), "settled before min-settle");
        let quiet = self.newest.is_none_or(|newest| now.since(newest) >= spec.quiet());
        assert!(quiet, "settled while connections arrive");
    }

    /// Whether the gate has a reason not to hold.
    fn is_excused(&self, now: Boot) -> bool {
        self.intruded || self.netns_lost || now >= self.gate_lease
    }
}

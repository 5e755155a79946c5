//! The states of one drain and every way between them.

mod adopting;
mod announcing;
mod ending;
mod guarding;
mod history;
mod judging;
mod retiring;
mod settling;
mod view;
mod waiting;

use std::time::Duration;

pub use self::{adopting::Standing, judging::SOON, retiring::RETIRE_STEP};
use self::{retiring::Aborting, settling::SETTLE_STEP};
use super::{Action, Boot, Endpoint, Event, Phase, SettledBy, Spec, StateName};
use crate::kernel::Watch;

/// Time between two looks when nothing hints at a change: for events that were lost, and for namespaces
/// and listeners that went without one.
pub const BACKUP: Duration = Duration::from_secs(1);
/// Time between two attempts at opening the gate.
const REOPEN: Duration = Duration::from_millis(200);

/// An event that cannot happen in this phase: a bug of whoever sent it. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a drain that is {} cannot take the event \"{event}\"", .phase.name())]
pub struct IllegalEvent {
    /// The phase it came in.
    pub phase: Phase,
    /// The event's name.
    pub event: &'static str,
}

/// One drain of one service, from before its start until after its end.
#[derive(Clone, Debug)]
pub struct Machine {
    spec: Spec,
    phase: Phase,
    started: Boot,
    /// Since when it is certain that each new connection has been noticed: an agent with other kernel programs counts
    /// anew, and does not know what those of the one before had seen.
    noticed_from: Boot,
    deadline: Boot,
    /// When the drain ends by itself.
    lease_until: Boot,
    /// When the kernel opens the gate by itself; behind `lease_until` until a renewal is confirmed.
    gate_lease: Boot,
    settled_by: Option<SettledBy>,
    /// Whether there may be registries to tell.
    announces: bool,
    /// Whether a registry may believe that the server is gone.
    told: bool,
    /// When the registries had been told.
    announced_at: Option<Boot>,
    /// When settling may be over, at the earliest.
    settle_at: Boot,
    /// When to look again, whatever happens.
    recheck_at: Boot,
    /// A look that began earlier is out of date: it knows nothing of what passed the gate before it was
    /// closed, or a newer one was judged already.
    look_from: Boot,
    /// Beginning of the look that proved zero.
    proven_at: Boot,
    unknown: Option<String>,
    /// How long after the next silent `Unknown` to look again; grows.
    patience: Duration,
    ending: String,
    /// Whether it ends because the deadline passed while settling.
    gave_up: bool,
    endpoint: Endpoint,
    /// Whether it was logged who still connects.
    sources_logged: bool,
    /// When to try again to open the gate; `None` while an attempt is under way.
    reopen_at: Option<Boot>,
    /// When the next round of retiring is due; `None` while one is under way, or if there are none.
    retire_at: Option<Boot>,
    /// When the newest one began.
    round_began: Boot,
    /// Whether flows may be followed and told, which must not outlive the drain.
    restore_due: bool,
    aborting: Aborting,
    history: Vec<(StateName, Boot)>,
    /// See [`Machine::is_held`].
    held_until: Option<Boot>,
}

impl Machine {
    /// A drain that has not begun: serving.
    pub fn new(spec: Spec) -> Self {
        let never = Boot::default();
        Self {
            spec,
            phase: Phase::Serving,
            started: never,
            noticed_from: never,
            deadline: never,
            lease_until: never,
            gate_lease: never,
            settled_by: None,
            announces: false,
            told: false,
            announced_at: None,
            settle_at: never,
            recheck_at: never,
            look_from: never,
            proven_at: never,
            unknown: None,
            patience: SOON,
            ending: String::new(),
            gave_up: false,
            endpoint: Endpoint::default(),
            sources_logged: false,
            reopen_at: None,
            retire_at: None,
            round_began: never,
            restore_due: false,
            aborting: Aborting::NotYet,
            history: Vec::new(),
            held_until: None,
        }
    }

    /// Takes in what happened, and says what is to be done.
    ///
    /// # Errors
    /// The event cannot happen in this phase; nothing has changed then.
    pub fn step(&mut self, event: Event, now: Boot) -> Result<Vec<Action>, IllegalEvent> {
        use Event as E;
        use Phase as P;
        let mut out = Vec::new();
        if self.lease_is_over(now) && !matches!(event, E::GateRenewed { .. } | E::GateClosed { .. })
        {
            self.end("the lease is over".into(), &mut out);
            return Ok(self.finish(out, now));
        }
        match (self.phase, event) {
            (P::Serving, E::Start) => self.start(now, &mut out),

            (P::Guarding, E::Guarded { lease_until }) => self.guarded(lease_until, now, &mut out),
            (P::Announcing, E::Announced) => self.announced(now, &mut out),
            (P::Announcing, E::NotAnnounced(reason)) => self.end_unclosed(reason, &mut out),
            (P::Serving, E::Retracted) => self.told = false,
            (P::Guarding | P::Announcing, E::Timer) => self.recheck_at = now + BACKUP,

            (P::Guarding | P::Announcing | P::Settling | P::Closing, E::Join(other)) => {
                self.joined(&other, now, &mut out)
            }
            (P::Rejecting | P::Drained | P::Expired, E::Join(other)) => {
                self.joined(&other, now, &mut out);
                if self.phase == P::Expired {
                    self.go(P::Rejecting, "joined by another drain, with a new deadline", &mut out);
                }
                self.verify(now, &mut out);
            }
            (phase, E::Renew) if phase.is_under_way() => self.renew_lease(now, &mut out),
            (phase, E::Undrain(reason)) if phase.is_under_way() => self.end(reason, &mut out),
            (P::Settling | P::Closing | P::Rejecting | P::Drained | P::Expired, E::NewInstance) => {
                if !self.spec.keep_closed() {
                    self.end("a new instance listens on the port".into(), &mut out);
                }
            }
            (phase, E::NetnsGone) if phase != P::Serving => self.forget(&mut out),

            (P::Settling, E::Timer) => {
                out.push(Action::ReadArrivals);
                self.verify_if_due(now, &mut out);
                self.retire_if_due(now, &mut out);
                self.settle_at = self.settle_at.max(now + SETTLE_STEP);
            }
            (P::Settling, E::Arrivals(arrivals)) => self.settle(arrivals, now, &mut out),
            (P::Settling, E::Hint) => self.verify(now, &mut out),

            (P::Closing, E::GateClosed { lease_until }) => self.closed(lease_until, now, &mut out),
            (P::Closing, E::GateFailed(reason)) => {
                self.end_unclosed(format!("the gate cannot be closed: {reason}"), &mut out);
            }
            (P::Guarding, E::GateFailed(reason)) => {
                self.end_closed(format!("the lists cannot be put in force: {reason}"), &mut out);
            }
            (P::Closing, E::Timer) => self.recheck_at = now + BACKUP,

            (P::Rejecting | P::Drained | P::Expired, E::Timer) => self.tick(now, &mut out),
            (P::Drained, E::Accepted { at }) if at > self.proven_at => {
                self.came_after_zero(&mut out);
                self.fall_back("a connection was accepted", now, &mut out);
                self.verify(now, &mut out);
            }
            (P::Rejecting | P::Drained | P::Expired, E::Hint | E::Accepted { .. }) => {
                self.verify(now, &mut out);
            }
            (P::Rejecting | P::Drained | P::Expired, E::Judged(judgement)) => {
                self.judged(judgement, now, &mut out);
            }
            (phase, E::GateRenewed { lease_until }) if phase.may_have_a_lease() => {
                self.gate_lease = lease_until;
            }
            // The next recheck tries again; if it stays that way, the old lease ends the drain.
            (phase, E::RenewFailed) if phase.may_have_a_lease() => {}

            (P::Settling | P::Closing | P::Rejecting | P::Drained | P::Expired, E::Retired) => {
                self.retired(now);
            }
            (P::Rejecting | P::Drained | P::Expired, E::Aborted) => self.aborted(now, &mut out),
            (P::Rejecting | P::Drained | P::Expired, E::AbortFailed(reason)) => {
                self.abort_failed(&reason, now, &mut out);
            }

            (P::Opening, E::GateOpened) => {
                let reason = std::mem::take(&mut self.ending);
                self.over(reason, &mut out);
            }
            (P::Opening, E::GateFailed(_)) => self.reopen_at = Some(now + REOPEN),
            (P::Opening, E::Timer) => {
                if self.reopen_at.is_some_and(|at| now >= at) {
                    self.reopen(&mut out);
                }
            }
            (P::Opening, E::Undrain(_)) => {
                if self.reopen_at.is_some() {
                    self.reopen(&mut out);
                }
            }

            (_, E::Held(until)) => self.held(until, now, &mut out),

            (phase, E::Endpoint(endpoint)) if phase != P::Serving => self.endpoint = endpoint,

            // Answers and hints that come too late to matter.
            (
                P::Guarding | P::Announcing | P::Settling | P::Closing | P::Opening,
                E::Judged(_) | E::Accepted { .. },
            )
            | (P::Guarding | P::Announcing | P::Closing | P::Opening, E::Hint)
            | (P::Closing | P::Rejecting | P::Drained | P::Expired | P::Opening, E::Arrivals(_))
            | (
                P::Opening,
                E::Renew
                | E::NewInstance
                | E::Guarded { .. }
                | E::Announced
                | E::NotAnnounced(_)
                | E::GateClosed { .. }
                | E::GateRenewed { .. }
                | E::RenewFailed
                | E::Retired
                | E::Aborted
                | E::AbortFailed(_),
            ) => {}

            (phase, event) => return Err(IllegalEvent { phase, event: event.name() }),
        }
        Ok(self.finish(out, now))
    }

    /// Every drain under way has its next wake-up, whatever happened.
    fn finish(&mut self, mut out: Vec<Action>, now: Boot) -> Vec<Action> {
        self.remember(now);
        let (at, retires) = match self.phase {
            Phase::Serving => return out,
            Phase::Settling => (self.settle_at.min(self.recheck_at).min(self.lease_until), true),
            Phase::Announcing => (self.recheck_at.min(self.lease_until), false),
            Phase::Guarding | Phase::Closing => (self.recheck_at, false),
            Phase::Rejecting => {
                let deadline = self.deadline_due().unwrap_or(self.recheck_at);
                (self.recheck_at.min(deadline).min(self.gate_lease), true)
            }
            Phase::Expired => (self.recheck_at.min(self.gate_lease), true),
            Phase::Drained => (self.recheck_at.min(self.gate_lease), self.carries()),
            Phase::Opening => (self.reopen_at.unwrap_or(now + BACKUP), false),
        };
        let round = self.retire_at.filter(|_| retires).unwrap_or(at);
        out.push(Action::WakeAt(at.min(round)));
        out
    }

    fn start(&mut self, now: Boot, out: &mut Vec<Action>) {
        (self.started, self.noticed_from) = (now, now);
        self.deadline = now + self.spec.timeout();
        self.lease_until = now + self.spec.lease();
        self.settle_at = now + self.spec.min_settle();
        self.recheck_at = now + BACKUP;
        self.retire_at = self.spec.retire().is_any().then_some(now);
        self.guard(now, out);
    }

    fn begin(&mut self, now: Boot, out: &mut Vec<Action>) {
        if self.spec.at_once() {
            // The first round comes once the gate is closed: it must not wait for a look.
            self.close(SettledBy::AtOnce, "a drain began, with quiet 0", out);
        } else {
            self.go(Phase::Settling, "a drain began", out);
            self.watch(false, out);
            self.retire_if_due(now, out);
        }
    }

    fn joined(&mut self, other: &Spec, now: Boot, out: &mut Vec<Action>) {
        self.spec = self.spec.clone().joined_by(other);
        self.deadline = now + self.spec.timeout();
        self.aborting = Aborting::NotYet;
        self.renew_lease(now, out);
    }

    /// The lease begins anew, in the kernel too if there is anything that it could end.
    fn renew_lease(&mut self, now: Boot, out: &mut Vec<Action>) {
        self.lease_until = now + self.spec.lease();
        let in_force = match self.phase {
            Phase::Serving | Phase::Guarding | Phase::Closing | Phase::Opening => false,
            Phase::Announcing | Phase::Settling => self.is_guarded(),
            Phase::Rejecting | Phase::Drained | Phase::Expired => true,
        };
        if in_force {
            out.push(Action::RenewGate { lease_until: self.lease_until });
        }
    }

    fn closed(&mut self, lease_until: Boot, now: Boot, out: &mut Vec<Action>) {
        self.look_from = now;
        self.gate_lease = lease_until;
        self.go(Phase::Rejecting, "the gate is closed", out);
        if self.lease_until > lease_until {
            out.push(Action::RenewGate { lease_until: self.lease_until });
        }
        self.watch(true, out);
        self.verify(now, out);
        self.retire_if_due(now, out);
    }

    /// A wake-up with the gate closed.
    fn tick(&mut self, now: Boot, out: &mut Vec<Action>) {
        if self.phase == Phase::Rejecting && now >= self.deadline {
            self.deadline_passed(now, out);
        }
        self.retire_if_due(now, out);
        if now >= self.recheck_at && self.lease_until > self.gate_lease {
            out.push(Action::RenewGate { lease_until: self.lease_until });
        }
        self.verify_if_due(now, out);
    }

    /// Drained no more.
    fn fall_back(&mut self, reason: &str, now: Boot, out: &mut Vec<Action>) {
        let to = if now >= self.deadline { Phase::Expired } else { Phase::Rejecting };
        self.go(to, reason, out);
    }

    fn go(&mut self, to: Phase, reason: &str, out: &mut Vec<Action>) {
        out.push(Action::Transition { from: self.phase, to, reason: reason.into() });
        self.phase = to;
    }

    fn watch(&self, flows: bool, out: &mut Vec<Action>) {
        let listeners = !self.spec.keep_closed();
        out.push(Action::Watch(Watch { listeners, flows, classes: true }));
    }

    fn verify(&mut self, now: Boot, out: &mut Vec<Action>) {
        self.recheck_at = now + BACKUP;
        out.push(Action::Verify);
    }

    fn verify_if_due(&mut self, now: Boot, out: &mut Vec<Action>) {
        if now >= self.recheck_at {
            self.verify(now, out);
        }
    }
}

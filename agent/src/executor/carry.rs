//! Between machine and kernel: steps a machine, turns its actions into operations and news, and the
//! answers of operations into its next events.

use std::{sync::Arc, time::Duration};

use tracing::{debug, error, info, warn};

use super::{
    DrainError, Status, Update,
    entry::Entry,
    explain,
    ops::{Answer, Op, OpDone},
    task::Task,
    verify::Verification,
};
use crate::{
    drain::{Action, Arrivals, Ending, Event, Judgement, Phase, RetireReport, Service, Verdict},
    kernel::KernelError,
};

/// Time between two attempts at having the next agent find nothing of a drain that is over.
pub(super) const FORGET_AGAIN: Duration = Duration::from_millis(200);

/// How long it can be asked how a drain ended.
pub(super) const REMEMBERED: Duration = Duration::from_secs(60);

impl Task {
    /// Takes the event to the service's machine and carries out what it says.
    pub(super) fn step(&mut self, service: Service, event: Event) {
        let now = self.now();
        let Some(entry) = self.entries.get_mut(&service) else { return };
        match entry.machine.step(event, now) {
            Ok(actions) => {
                self.save(service);
                self.carry_out_all(service, actions);
            }
            Err(illegal) => {
                error!(%service, %illegal, "bug: an event in the wrong phase; ignored");
                debug_assert!(false, "{service}: {illegal}");
            }
        }
    }

    pub(super) fn carry_out_all(&mut self, service: Service, actions: Vec<Action>) {
        for action in actions {
            self.carry_out(service, action);
        }
        if let Some(entry) = self.entries.get_mut(&service) {
            entry.drive(&self.kernel, &self.carrier, &self.threads, &self.done);
        }
    }

    fn carry_out(&mut self, service: Service, action: Action) {
        let Some(entry) = self.entries.get_mut(&service) else { return };
        match action {
            Action::Guard { lease_until } => entry.push(Op::Guard(lease_until)),
            Action::CloseGate { lease_until } => entry.push(Op::Close(lease_until)),
            Action::RenewGate { lease_until } => entry.push(Op::Renew(lease_until)),
            Action::OpenGate => {
                entry.drop_moot();
                entry.push(Op::Open);
            }
            Action::Announce { until } => self.announce(service, until),
            Action::Retract => self.retract(service),
            Action::Forget => {
                entry.push(Op::Forget);
                self.forget_registries(service);
                self.forget_holds_of_the_gone();
            }
            Action::Watch(watch) => {
                entry.watch_failed = None;
                entry.push(Op::Watch(watch));
            }
            Action::ReadArrivals => entry.push(Op::ReadArrivals),
            Action::Verify => entry.push(Op::Verify),
            Action::LogSources => entry.push(Op::LogSources),
            Action::Retire(order) => entry.push(Op::Retire(order)),
            Action::Restore => entry.push(Op::Restore { attempt: 1 }),
            Action::Abort => entry.push(Op::Abort),
            Action::WakeAt(at) => entry.wake_at = Some(at),
            Action::FlowAfterDrained => {
                error!(%service, "a flow appeared in a drained service");
                self.count(|totals| totals.flows_after_drained += 1);
            }
            Action::Transition { from, to, reason } => self.moved(service, from, to, &reason),
            Action::Ended(ending) => self.ended(service, ending),
        }
    }

    fn moved(&mut self, service: Service, from: Phase, to: Phase, reason: &str) {
        let (from_name, to_name) = (from.name(), to.name());
        info!(%service, from = from_name, to = to_name, reason, "drain moves on");
        match (from, to) {
            (_, Phase::Drained) => self.count(|totals| totals.drained += 1),
            (Phase::Rejecting, Phase::Expired) => self.count(|totals| totals.expired += 1),
            // No verification comes any more.
            (_, Phase::Opening | Phase::Serving) => {
                self.answer_provers(service, u64::MAX, |_| None);
            }
            _ => {}
        }
        self.tell(service, None);
    }

    fn ended(&mut self, service: Service, ending: Ending) {
        let now = self.now();
        if ending.at_deadline {
            self.count(|totals| totals.gave_up += 1);
        }
        let Some(entry) = self.entries.get_mut(&service) else { return };
        // What could not be forgotten of it is to be.
        let over = entry.saved.as_ref().filter(|_| entry.machine.standing().is_none());
        entry.wake_at = over.map(|_| now + FORGET_AGAIN);
        entry.drop_moot();
        for reply in entry.undrains.drain(..) {
            // Whoever asked may have gone away.
            let _ = reply.send(Ok(true));
        }
        // Who asked for the drain may not follow it yet.
        self.ended.retain(|_, (_, at)| now.since(*at) < REMEMBERED);
        self.ended.insert(service, (ending.clone(), now));
        self.tell(service, Some(ending));
    }

    pub(super) fn tell(&self, service: Service, ended: Option<Ending>) {
        let status = self.verified_status(service).map(Arc::new);
        // It fails if nobody has subscribed.
        let _ = self.updates.send(Update { service, ended, status });
    }

    /// An operation is done: the machine hears of it, unless it was asked for by an older drain.
    pub(super) fn op_done(&mut self, done: OpDone) {
        let OpDone { service, epoch, op, result } = done;
        let Some(entry) = self.entries.get_mut(&service) else { return };
        entry.finished(op);
        if entry.epoch == epoch && entry.is_draining() {
            match result {
                Ok(answer) => self.succeeded(service, op, answer),
                Err(error) => self.failed(service, op, error),
            }
        } else if let Err(error) = result {
            if let Op::Restore { attempt } = op {
                self.not_restored(service, epoch, attempt);
            }
            let error = explain(&error);
            warn!(%service, ?op, error, "an operation for a drain that is over failed");
        }
        if let Some(entry) = self.entries.get_mut(&service) {
            entry.drive(&self.kernel, &self.carrier, &self.threads, &self.done);
        }
    }

    fn succeeded(&mut self, service: Service, op: Op, mut answer: Answer) {
        if let Answer::HandedOver(takers) = &mut answer {
            self.handed_over(service, std::mem::take(takers));
        }
        match (op, answer) {
            (_, Answer::Verified(found, booked)) => {
                self.verified(service, *found, booked);
            }
            (_, Answer::Retired(retired)) => self.retired(service, retired),
            (_, Answer::Aborted(cut)) => self.aborted(service, cut),
            (_, Answer::Arrivals(arrivals)) => self.step(service, Event::Arrivals(arrivals)),
            (Op::Guard(lease_until), _) => self.step(service, Event::Guarded { lease_until }),
            (Op::Close(lease_until), _) => self.step(service, Event::GateClosed { lease_until }),
            (Op::Renew(lease_until), _) => self.step(service, Event::GateRenewed { lease_until }),
            (Op::Open, _) => self.step(service, Event::GateOpened),
            (Op::TakeStragglers, _) => self.stragglers_taken(service),
            _ => {}
        }
    }

    fn failed(&mut self, service: Service, op: Op, error: KernelError) {
        let reason = explain(&error);
        if let Op::Guard(_) | Op::Close(_) = op {
            self.not_begun(service, op, &error);
        }
        if let KernelError::NoNetns(_) = error {
            return self.step(service, Event::NetnsGone);
        }
        match op {
            Op::Retire(_) => return self.round_failed(service, reason),
            Op::HandOver(_) => return self.not_handed_over(service, reason),
            Op::TakeStragglers => return self.stragglers_not_taken(service, reason),
            _ => {}
        }
        error!(%service, ?op, error = reason, "the kernel refused");
        match op {
            Op::Guard(_) | Op::Close(_) => self.step(service, Event::GateFailed(reason)),
            Op::Renew(_) => self.step(service, Event::RenewFailed),
            Op::Open => self.gate_not_opened(service, reason),
            Op::Watch(watch) => {
                if let Some(entry) = self.entries.get_mut(&service) {
                    entry.watch_failed = Some(watch);
                }
            }
            // A look that panicked.
            Op::Verify => {
                let at = self.now();
                let judgement = Judgement::unknown(reason, at);
                let number = self.entries.get(&service).map_or(0, |entry| entry.verifications);
                self.judged(service, judgement, number);
            }
            Op::ReadArrivals => {
                self.step(service, Event::Arrivals(Arrivals::Unknown));
            }
            Op::Abort => self.step(service, Event::AbortFailed(reason)),
            Op::Restore { attempt } => {
                if let Some(epoch) = self.entries.get(&service).map(|entry| entry.epoch) {
                    self.not_restored(service, epoch, attempt);
                }
            }
            Op::Forget | Op::LogSources | Op::Retire(_) | Op::HandOver(_) | Op::TakeStragglers => {}
        }
    }

    /// The machine tries again; whoever asked learns of it now.
    fn gate_not_opened(&mut self, service: Service, reason: String) {
        if let Some(entry) = self.entries.get_mut(&service) {
            for reply in entry.undrains.drain(..) {
                let error = KernelError::op("open the gate of", service, reason.clone());
                // Whoever asked may have gone away.
                let _ = reply.send(Err(DrainError::Kernel(error)));
            }
            entry.open_failed = Some(reason.clone());
        }
        self.step(service, Event::GateFailed(reason));
    }

    fn verified(&mut self, service: Service, found: Verification, booked: Option<RetireReport>) {
        let Verification { judgement, listeners, disagreed, repairs, outbound, seen, .. } = found;
        self.count(|totals| {
            totals.disagreements += u64::from(disagreed);
            totals.repairs += repairs;
        });
        let Some(entry) = self.entries.get_mut(&service) else { return };
        // Now: what follows may begin the next one.
        let number = entry.verifications;
        entry.outbound = outbound;
        entry.seen = seen;
        let is_booked = booked.is_some_and(|report| self.take_report(service, report));
        let Some(entry) = self.entries.get_mut(&service) else { return };
        let looked = !matches!(judgement.verdict, Verdict::Unknown(_)) || !listeners.is_empty();
        if looked {
            entry.listeners.get_or_insert_with(|| listeners.clone());
            let is_replaced = entry.is_replaced(&listeners);
            self.save(service);
            if is_replaced {
                self.step(service, Event::NewInstance);
            }
        }
        self.judged(service, judgement, number);
        if is_booked {
            self.tell(service, None);
        }
        if let Some(entry) = self.entries.get_mut(&service) {
            entry.seen = None;
        }
    }

    /// `number` is that of the verification.
    fn judged(&mut self, service: Service, judgement: Judgement, number: u64) {
        let verdict = judgement.verdict.clone();
        debug!(%service, ?verdict, "verified");
        if self.is_draining(service) {
            self.step(service, Event::Judged(judgement));
        }
        let Some(entry) = self.entries.get_mut(&service) else { return };
        if let (Verdict::Unknown(reason), true) = (&verdict, is_closed(entry)) {
            if entry.newest_verdict.as_ref() != Some(&verdict) {
                warn!(%service, reason, "the count cannot be verified");
            }
            self.count(|totals| totals.unknown_verdicts += 1);
        }
        self.remember(service, verdict, number);
    }

    /// Tells of a change in what is counted, and answers those who waited for this verification.
    fn remember(&mut self, service: Service, verdict: Verdict, number: u64) {
        let Some(entry) = self.entries.get_mut(&service) else { return };
        let verdict = Some(verdict);
        let changed = entry.newest_verdict != verdict;
        entry.newest_verdict = verdict;
        self.answer_provers(service, number, |task| task.verified_status(service));
        if changed {
            self.tell(service, None);
        }
    }

    /// Answers those who waited for this verification or an earlier one, by another look if there is no status yet.
    fn answer_provers(
        &mut self,
        service: Service,
        number: u64,
        status: impl Fn(&Self) -> Option<Status>,
    ) {
        let Some(entry) = self.entries.get_mut(&service) else { return };
        let all = std::mem::take(&mut entry.provers);
        let (ready, later): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|(from, _)| *from <= number);
        entry.provers = later;
        for (_, reply) in ready {
            match status(self) {
                // Whoever asked may have gone away.
                Some(status) => drop(reply.send(vec![status])),
                None => self.look_for(&[service], reply),
            }
        }
    }
}

/// Whether the gate of a drain is closed, and to stay so.
fn is_closed(entry: &Entry) -> bool {
    matches!(entry.machine.phase(), Phase::Rejecting | Phase::Drained | Phase::Expired)
}

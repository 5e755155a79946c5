//! What comes of the rounds of retiring, of the reset at the deadline, and of restoring the flows.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError},
    time::Duration,
};

use tokio::sync::oneshot;
use tracing::{error, info, warn};

use super::{
    explain,
    ops::{Answer, Op, OpDone},
    rounds::{Cut, Retired},
    task::{Internal, Task},
};
use crate::drain::{Event, Leaving, RetireReport, RetireSet, Service};

/// How often to try to restore the flows of a drain that is over.
const RESTORES: u32 = 5;
/// Time between two attempts.
const RESTORE_PAUSE: Duration = Duration::from_millis(200);

/// Logs who was reset; returns what has become of all.
fn told(service: Service, cut: Cut) -> RetireReport {
    let Cut { report, peers } = cut;
    if !peers.is_empty() {
        let some: Vec<String> =
            peers.iter().take(RetireReport::MOST_CUT).map(ToString::to_string).collect();
        let (flows, peers) = (peers.len(), some.join(", "));
        warn!(%service, flows, peers, "the deadline passed: remaining connections were reset");
    }
    report
}

impl Task {
    pub(super) fn retired(&mut self, service: Service, retired: Retired) {
        let Retired { report, finished, failure } = retired;
        if finished > 0 {
            info!(%service, flows = finished, "sent a FIN to connections that nothing was under way on");
        }
        self.report(service, report);
        match failure {
            Some(error) => self.round_failed(service, explain(&error)),
            None => {
                if let Some(entry) = self.entries.get_mut(&service) {
                    entry.round_failed = None;
                }
                self.step(service, Event::Retired);
            }
        }
    }

    /// The next round tries again; what stays the same is said once.
    pub(super) fn round_failed(&mut self, service: Service, reason: String) {
        if let Some(entry) = self.entries.get_mut(&service)
            && entry.round_failed.as_ref() != Some(&reason)
        {
            error!(%service, error = reason, "connections cannot all be made to leave");
            entry.round_failed = Some(reason);
        }
        self.step(service, Event::Retired);
    }

    pub(super) fn aborted(&mut self, service: Service, cut: Cut) {
        self.report(service, told(service, cut));
        self.step(service, Event::Aborted);
    }

    /// An operation has ended while the agent stops. What became of the flows by it is kept for the next agent.
    pub(super) fn done_while_stopping(&mut self, done: OpDone) {
        let OpDone { service, epoch, op, result } = done;
        let Some(entry) = self.entries.get_mut(&service) else { return };
        entry.finished(op);
        let is_its = entry.epoch == epoch && entry.is_draining();
        let report = match result {
            Ok(Answer::Retired(retired)) => retired.report,
            Ok(Answer::Aborted(cut)) => told(service, cut),
            _ => return,
        };
        if is_its && self.take_report(service, report) {
            self.save(service);
        }
    }

    /// Tells of a change in what has become of the flows.
    fn report(&mut self, service: Service, report: RetireReport) {
        if self.take_report(service, report) {
            self.tell(service, None);
        }
    }

    /// Takes in what has become of the flows, and returns whether that is news.
    pub(super) fn take_report(&mut self, service: Service, report: RetireReport) -> bool {
        let Some(entry) = self.entries.get_mut(&service).filter(|entry| entry.report != report)
        else {
            return false;
        };
        if let (None, Some(reason)) = (&entry.report.lacks, &report.lacks) {
            warn!(
                %service, reason,
                "connections cannot be told to leave here, nor proven to be idle: they leave when they like",
            );
        }
        entry.report = report;
        self.reported(service, self.now());
        true
    }

    /// Of a drain that is over, flows must not be told for longer than necessary. If it cannot be helped, the
    /// kernel programs stop at the end of its lease.
    pub(super) fn not_restored(&mut self, service: Service, epoch: u64, attempt: u32) {
        let Some(entry) = self.entries.get_mut(&service) else { return };
        let newer = entry.epoch != epoch && entry.is_draining();
        if newer && entry.machine.spec().retire().set != RetireSet::NONE {
            // It restores them at its own end.
            return;
        }
        if attempt >= RESTORES {
            error!(%service, "connections are told to leave until the lease of the drain is over");
            return;
        }
        entry.restoring = Some(attempt + 1);
        let epoch = entry.epoch;
        let done = self.done.clone();
        tokio::spawn(async move {
            tokio::time::sleep(RESTORE_PAUSE).await;
            // Nobody is there to take it once the agent has stopped.
            let _ = done.send(Internal::Restore { service, epoch });
        });
    }

    pub(super) fn restore_again(&mut self, service: Service, epoch: u64) {
        let entry = self.entries.get_mut(&service).filter(|entry| entry.epoch == epoch);
        let Some(entry) = entry else { return };
        if let Some(attempt) = entry.restoring.take() {
            entry.push(Op::Restore { attempt });
            entry.drive(&self.kernel, &self.carrier, &self.threads, &self.done);
        }
    }

    /// Answers how each flow is on its way out; copied on a blocking thread, since there may be many.
    pub(super) fn leaving(&self, service: Service, reply: oneshot::Sender<HashMap<u64, Leaving>>) {
        let entry = self.entries.get(&service).filter(|entry| entry.is_draining());
        let ledger = entry.map(|entry| Arc::clone(&entry.ledger));
        tokio::task::spawn_blocking(move || {
            let leaving = ledger
                .map(|ledger| ledger.lock().unwrap_or_else(PoisonError::into_inner).leaving());
            // Whoever asked may have gone away.
            let _ = reply.send(leaving.unwrap_or_default());
        });
    }
}

//! What the executor keeps for one service: the drain's machine, the operations waiting for their turn,
//! and those who wait for an answer.

use std::{
    collections::{BTreeSet, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{
    DrainError, DrainView, Owner, Status,
    ops::{Job, Op, Threads},
    registering::Registrations,
    report::Seen,
    task::Internal,
};
use crate::{
    carry::Carrier,
    drain::{
        Admission, BACKUP, Boot, Lingerers, Machine, Phase, RetireReport, RetireSet, Retirement,
        Service, Spec, Verdict,
    },
    kernel::{Kernel, Watch},
};

/// A service with a drain, or with operations of an ended drain still to be done.
pub(super) struct Entry {
    pub(super) service: Service,
    pub(super) machine: Machine,
    /// Counts the drains of the executor.
    pub(super) epoch: u64,
    pub(super) owner: Owner,
    pub(super) netns_cookie: Option<u64>,
    /// Listeners at the drain's start; `None` until a look has told.
    pub(super) listeners: Option<BTreeSet<u64>>,
    /// Listening sockets that take over the connections.
    pub(super) takers: BTreeSet<u64>,
    /// Why nobody takes them over, if that is so.
    pub(super) handoff_failed: Option<String>,
    /// Why nobody takes its stragglers, which are to be carried or dropped, if that is so: they are refused.
    pub(super) untaken: Option<String>,
    /// When it was last asked who takes over.
    handed_at: Instant,
    pub(super) lingerers: Arc<Mutex<Lingerers>>,
    pub(super) wake_at: Option<Boot>,
    pub(super) newest_verdict: Option<Verdict>,
    /// Why the gate could not be opened at the newest attempt.
    pub(super) open_failed: Option<String>,
    /// A watch that could not be set, to be tried again at the next look.
    pub(super) watch_failed: Option<Watch>,
    pub(super) undrains: Vec<oneshot::Sender<Result<bool, DrainError>>>,
    /// Who waits for verification number so-and-so, or a later one.
    pub(super) provers: Vec<(u64, oneshot::Sender<Vec<Status>>)>,
    /// Number of the newest verification begun.
    pub(super) verifications: u64,
    /// As of the newest verification.
    pub(super) outbound: Vec<(SocketAddr, u64)>,
    /// What it saw, while its answer is dealt with: nobody needs another look then.
    pub(super) seen: Option<Seen>,
    pub(super) ledger: Arc<Mutex<Retirement>>,
    /// As of the newest round.
    pub(super) report: RetireReport,
    /// When that was.
    pub(super) reported: Boot,
    /// What the next agent will find of this drain.
    pub(super) saved: Option<Vec<u8>>,
    /// Why the newest round was not a whole one.
    pub(super) round_failed: Option<String>,
    /// Number of the next attempt at restoring the flows, if it waits for its time.
    pub(super) restoring: Option<u32>,
    pub(super) registrations: Registrations,
    /// Of the newest run that tells its registries.
    pub(super) run_number: u64,
    /// Drains that began together have the same.
    pub(super) group: u64,
    queue: VecDeque<(u64, Op)>,
    /// Whether a verification has passed the round that waits.
    round_passed: bool,
    busy: bool,
    /// Whether flows are being restored. That takes two grace periods of RCU, and gates do not wait for it.
    is_restoring: bool,
}

impl Entry {
    pub(super) fn new(service: Service, spec: Spec, owner: Owner, epoch: u64) -> Self {
        let linger = spec.retire().linger;
        Self {
            service,
            machine: Machine::new(spec),
            epoch,
            owner,
            netns_cookie: None,
            listeners: None,
            takers: BTreeSet::new(),
            handoff_failed: None,
            untaken: None,
            handed_at: Instant::now(),
            lingerers: Arc::new(Mutex::new(Lingerers::new(linger))),
            wake_at: None,
            newest_verdict: None,
            open_failed: None,
            watch_failed: None,
            undrains: Vec::new(),
            provers: Vec::new(),
            verifications: 0,
            outbound: Vec::new(),
            seen: None,
            ledger: Arc::default(),
            report: RetireReport::default(),
            reported: Boot::default(),
            saved: None,
            round_failed: None,
            restoring: None,
            registrations: Registrations::default(),
            run_number: 0,
            group: epoch,
            queue: VecDeque::new(),
            round_passed: false,
            busy: false,
            is_restoring: false,
        }
    }

    /// A new drain of the same service: what the old one left to be done is done first.
    pub(super) fn succeed(self, old: Self) -> Self {
        let mut queue = old.queue;
        queue.extend(old.restoring.map(|attempt| (old.epoch, Op::Restore { attempt })));
        let Self { busy, is_restoring, saved, registrations, run_number, machine: before, .. } =
            old;
        // Whom it has told must be told otherwise at the end of this one.
        let announces = self.machine.announces() || before.standing().is_some();
        let machine = self.machine.announcing(announces).inheriting(&before);
        Self { queue, busy, is_restoring, saved, registrations, run_number, machine, ..self }
    }

    pub(super) fn is_draining(&self) -> bool {
        self.machine.phase() != Phase::Serving
    }

    /// Whether it can be forgotten.
    pub(super) fn is_done(&self) -> bool {
        let at_rest = !self.is_busy() && self.queue.is_empty() && self.restoring.is_none();
        let at_rest = at_rest && self.saved.is_none() && !self.registrations.is_busy();
        at_rest && !self.is_draining()
    }

    /// Puts an operation in the queue. A verification that has not begun yet serves two askers, and a round
    /// that has not begun yet lets the gate pass, and one verification: where one connection after another has it verified, it
    /// would never come to its turn.
    pub(super) fn push(&mut self, op: Op) {
        if op == Op::Verify {
            if self.queue.contains(&(self.epoch, Op::Verify)) {
                return;
            }
            if let Some(watch) = self.watch_failed.take() {
                self.queue.push_back((self.epoch, Op::Watch(watch)));
            }
            if self.untaken.is_some() {
                self.queue.push_back((self.epoch, Op::TakeStragglers));
            }
            if self.handed_at.elapsed() >= BACKUP {
                self.hand_over();
            }
        }
        let urgent = matches!(op, Op::Guard(_) | Op::Close(_) | Op::Renew(_) | Op::Open)
            || op == Op::Verify && !self.round_passed;
        let passed = self.queue.iter().copied().find(|queued| urgent && is_round(queued));
        self.round_passed |= op == Op::Verify && passed.is_some();
        self.queue.retain(|queued| passed != Some(*queued));
        self.queue.push_back((self.epoch, op));
        self.queue.extend(passed);
    }

    /// Has it found out (again) who takes over, if anybody is to.
    pub(super) fn hand_over(&mut self) {
        self.handed_at = Instant::now();
        let handoff = self.machine.spec().new_connections().handoff();
        self.queue.extend(handoff.map(|to| (self.epoch, Op::HandOver(to))));
    }

    /// Drops what a drain that ends has no use for any more.
    pub(super) fn drop_moot(&mut self) {
        let moot = |op: &Op| {
            matches!(op, Op::Verify | Op::ReadArrivals | Op::LogSources | Op::Retire(_))
                || matches!(op, Op::Abort | Op::HandOver(_) | Op::TakeStragglers)
        };
        self.queue.retain(|(_, op)| !moot(op));
        self.round_passed = false;
    }

    /// Begins the next operations, as far as none is under way that they have to wait for.
    pub(super) fn drive(
        &mut self,
        kernel: &Arc<dyn Kernel>,
        carrier: &Carrier,
        threads: &Threads,
        done: &mpsc::UnboundedSender<Internal>,
    ) {
        while let Some((epoch, op)) = self.next() {
            match op {
                Op::Restore { .. } => self.is_restoring = true,
                _ => self.busy = true,
            }
            if op == Op::Verify {
                self.verifications += 1;
            }
            self.job(epoch, op, kernel, carrier).spawn(threads, done.clone());
        }
    }

    fn job(&self, epoch: u64, op: Op, kernel: &Arc<dyn Kernel>, carrier: &Carrier) -> Job {
        let admission = match op {
            Op::Guard(_) => self.machine.spec().admission().clone(),
            _ => Admission::default(),
        };
        let spec = self.machine.spec();
        let books = spec.retire().is_any()
            && matches!(self.machine.phase(), Phase::Rejecting | Phase::Expired);
        // While only handshakes or lingering connections are left, looks are frequent, and what is followed is read by
        // walking the map of all drains.
        let lingers =
            matches!(self.newest_verdict, Some(Verdict::NotEmpty(counts)) if counts.flows == 0);
        Job {
            kernel: Arc::clone(kernel),
            carrier: carrier.clone(),
            new: self.machine.spec().new_connections().clone(),
            owner: self.owner,
            service: self.service,
            epoch,
            op,
            netns_cookie: self.netns_cookie,
            started: self.machine.started(),
            lingerers: Arc::clone(&self.lingerers),
            admission,
            retire: *self.machine.spec().retire(),
            wait_outbound: match op {
                Op::Verify => self.machine.spec().wait_outbound().to_vec(),
                _ => Vec::new(),
            },
            ledger: Arc::clone(&self.ledger),
            books,
            follows: books && spec.retire().set != RetireSet::NONE && !lingers,
        }
    }

    /// Takes the next operation out of the queue, if it may begin: one at a time, and while flows are being restored
    /// nothing that has to do with them. A reset that another drain has put off by joining is none.
    fn next(&mut self) -> Option<(u64, Op)> {
        if self.busy {
            return None;
        }
        if !self.machine.wants_abort() {
            self.queue.retain(|(_, op)| *op != Op::Abort);
        }
        let may_begin = |(_, op): &(u64, Op)| !self.is_restoring || !op.waits_for_restore();
        let first = self.queue.iter().position(may_begin)?;
        let next = self.queue.remove(first);
        self.round_passed &= !next.as_ref().is_some_and(is_round);
        next
    }

    /// Whether an operation is under way.
    pub(super) fn is_busy(&self) -> bool {
        self.busy || self.is_restoring
    }

    /// An operation that was under way is done.
    pub(super) fn finished(&mut self, op: Op) {
        match op {
            Op::Restore { .. } => self.is_restoring = false,
            _ => self.busy = false,
        }
    }

    fn wait_outbound(&self) -> Vec<(SocketAddr, Option<u64>)> {
        let seen = |to: &SocketAddr| {
            let found = self.outbound.iter().find(|(address, _)| address == to);
            (*to, found.map(|(_, connections)| *connections))
        };
        self.machine.spec().wait_outbound().iter().map(seen).collect()
    }

    pub(super) fn view(&self) -> DrainView {
        DrainView {
            started: self.machine.started(),
            history: self.machine.history().to_vec(),
            deadline: self.machine.deadline(),
            lease_until: self.machine.lease_until(),
            keep_closed: self.machine.spec().keep_closed(),
            new: self.machine.spec().new_connections().clone(),
            min_settle: self.machine.spec().min_settle(),
            settled_by: self.machine.settled_by(),
            admission: self.machine.spec().admission().clone(),
            retire: *self.machine.spec().retire(),
            report: self.report.clone(),
            wait_outbound: self.wait_outbound(),
            owner: self.owner,
        }
    }
}

/// Whether this operation in the queue is a round.
fn is_round((_, op): &(u64, Op)) -> bool {
    matches!(op, Op::Retire(_))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{
        super::testing::{OWNER, WEB, at_once},
        *,
    };
    use crate::kernel::RetireOrder;

    #[test]
    fn a_round_lets_the_gate_pass_and_one_verification() {
        let mut entry = Entry::new(WEB, at_once(), OWNER, 1);
        let at = Boot::from_nanos(1);
        let round = Op::Retire(RetireOrder {
            http1: true,
            http2: true,
            carried: false,
            start: at,
            spread: Duration::ZERO,
            patient_until: at,
            until: at,
        });
        let mut next = |push: &[Op]| {
            push.iter().for_each(|op| entry.push(*op));
            entry.next().map(|(_, op)| op)
        };
        for _ in 0..2 {
            assert_eq!(next(&[round, Op::Verify]), Some(Op::Verify));
            assert_eq!(next(&[Op::Open]), Some(Op::Open));
            assert_eq!(next(&[Op::Verify]), Some(round), "it has waited for one already");
            assert_eq!(next(&[]), Some(Op::Verify));
            assert_eq!(next(&[]), None);
        }
    }
}

//! Flows that are made to leave: what clients and servers do on them, the rounds, and what must hold of those.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use rand::{Rng, rngs::SmallRng};

use super::{Faults, Simulation, WEB};
use crate::{
    drain::{Action, AtDeadline, Boot, Event, RetireRequest, RetireSet},
    executor::{rounds::Flows, verify::Proof},
    kernel::{Barrier, Kernel, KernelError, Protocol, RetireOrder, TcpState, fake::Op},
};

/// What became of the flows of a drain, by their cookies.
#[derive(Default)]
pub(super) struct Fates {
    seen: BTreeSet<u64>,
    finished: BTreeSet<u64>,
    reset: BTreeSet<u64>,
}

/// What happened to flows in all runs.
#[derive(Debug, Default)]
pub(super) struct Census {
    told: u64,
    fins: u64,
    fins_of_quiet: u64,
    raced: u64,
    left: u64,
    resets: u64,
}

impl Census {
    /// Whether enough of everything happened in so many runs.
    pub(super) fn is_telling(&self, runs: u64) -> bool {
        let Self { told, fins, fins_of_quiet, raced, left, resets } = *self;
        [told, fins, fins_of_quiet, left, resets].iter().all(|count| *count > runs / 10)
            && raced > 10
    }
}

/// Events of an operation, or that of its failure.
type Outcome = Result<Vec<Event>, (Option<Event>, KernelError)>;

impl Simulation {
    /// Something happens on a flow.
    pub(super) fn talk(&mut self, cookie: u64, state: TcpState) {
        let protocol = match cookie % 6 {
            0..3 => Protocol::Http1,
            3 => Protocol::Http2,
            4 => Protocol::Tls,
            _ => Protocol::Upgraded,
        };
        match self.rng.random_range(0..20) {
            _ if self.kernel.is_told(cookie) && self.rng.random_bool(0.3) => {
                self.say(|| format!("flow {cookie} leaves as it was told"));
                self.kernel.close(cookie);
            }
            0 => self.kernel.set_barrier(cookie, Barrier::ZeroCopy),
            1..8 => self.kernel.request(cookie),
            8.. if state == TcpState::Established => self.kernel.respond(cookie, protocol),
            _ => {}
        }
    }

    /// Before it comes to rest: the newest drain's part.
    pub(super) fn count(&self, census: &mut Census) {
        let report = self.ledger.lock().expect("no test panics while it holds the ledger").report();
        let fins = self.kernel.fins();
        census.told += report.told_by_header + report.told_by_goaway;
        census.fins += fins.len() as u64;
        census.fins_of_quiet += fins.iter().filter(|fin| fin.busy).count() as u64;
        census.raced += report.fin_raced;
        census.left += report.left;
        census.resets += self.kernel.resets().len() as u64;
    }

    fn flows(&self) -> Flows<'_> {
        Flows {
            kernel: &*self.kernel,
            service: WEB,
            started: self.machine.started(),
            netns_cookie: self.netns_cookie,
            retire: self.machine.spec().retire(),
            carried: self.machine.spec().new_connections().carries(),
            ledger: &self.ledger,
        }
    }

    pub(super) fn retire(&mut self, order: &RetireOrder) -> Outcome {
        let sockets = self.kernel.sockets(WEB);
        if self.rng.random_bool(0.3) && !sockets.is_empty() {
            let (cookie, _) = sockets[self.rng.random_range(0..sockets.len())];
            let op = if self.rng.random() { Op::Finish } else { Op::Look };
            self.kernel.hook(op, move |kernel| kernel.request(cookie));
        }
        if self.rng.random_bool(0.2) {
            let op = if self.rng.random() { Op::Followed } else { Op::Look };
            self.kernel.hook(op, |kernel| {
                // The gate may refuse it.
                let _ = kernel.connect(WEB);
            });
        }
        let before = self.kernel.fins().len();
        self.kernel.take_shown();
        let retired = self.flows().round(order).map_err(|e| (Some(Event::Retired), e))?;
        self.fates.seen.append(&mut self.kernel.take_shown());
        self.check_fins(before);
        self.check_fates();
        match retired.failure {
            Some(error) => Err((Some(Event::Retired), error)),
            None => Ok(vec![Event::Retired]),
        }
    }

    /// Zero is proven: what happened since the last round is counted.
    pub(super) fn book(&mut self, proof: Proof, at: Boot) {
        if self.flows().book(proof, at).is_ok() {
            self.fates.seen.append(&mut self.kernel.take_shown());
            self.check_fates();
        }
    }

    pub(super) fn restore(&mut self) -> Outcome {
        if let Err(error) = self.kernel.restore(WEB) {
            self.queue.push_front(Action::Restore);
            return Err((None, error));
        }
        Ok(vec![])
    }

    pub(super) fn abort(&mut self) -> Outcome {
        if !self.machine.wants_abort() {
            return Ok(vec![]);
        }
        let before = self.kernel.resets().len();
        let failed = |e: KernelError| (Some(Event::AbortFailed(e.to_string())), e);
        let cut = self.flows().abort().map_err(failed)?;
        self.aborted = true;
        let kernel = Arc::clone(&self.kernel);
        for (at, service, cookie) in &kernel.resets()[before..] {
            assert_eq!(
                self.machine.spec().retire().at_deadline,
                AtDeadline::Abort,
                "not asked for"
            );
            assert!(*at >= self.machine.deadline(), "before the deadline");
            assert_eq!(*service, WEB, "of another service");
            self.fates.seen.insert(*cookie);
            self.fates.reset.insert(*cookie);
        }
        assert_eq!(cut.peers.len(), kernel.resets().len() - before);
        self.check_fates();
        Ok(vec![Event::Aborted])
    }

    /// Of the FINs sent since there were `before`.
    fn check_fins(&mut self, before: usize) {
        let retire = self.machine.spec().retire();
        for fin in &self.kernel.fins()[before..] {
            let quiet = retire.quiet_flow_after.is_some_and(|after| fin.quiet_for >= after);
            assert!(
                retire.set.idle && !fin.busy || quiet,
                "a FIN in the middle of a request: {fin:?}"
            );
            self.half_closed.insert(fin.cookie, self.kernel.now());
            assert!(self.fates.finished.insert(fin.cookie), "a second FIN: {fin:?}");
        }
    }

    /// Every flow that was ever seen is accounted for once.
    fn check_fates(&self) {
        let ledger = self.ledger.lock().expect("no test panics while it holds the ledger");
        let (report, leaving) = (ledger.report(), ledger.leaving());
        let Fates { seen, finished, reset } = &self.fates;
        assert_eq!((report.fin_sent, report.aborted), (finished.len() as u64, reset.len() as u64));
        if self.faults == Faults::Look {
            return;
        }
        let ours: BTreeSet<&u64> = finished.union(reset).collect();
        let remaining = leaving.keys().filter(|cookie| !ours.contains(cookie)).count();
        let accounted = report.left + ours.len() as u64 + remaining as u64;
        assert_eq!(accounted, seen.len() as u64, "{report:?}, {leaving:?}, {seen:?}");
    }
}

/// Options within their limits.
pub(super) fn random_retire(rng: &mut SmallRng) -> RetireRequest {
    let ms = |rng: &mut SmallRng, most: u64| Duration::from_millis(rng.random_range(0..=most));
    let sets = ["none", "http,idle", "http,idle", "http1", "idle", "http,quiet", "http,idle,quiet"];
    let set: RetireSet = sets[rng.random_range(0..sets.len())].parse().expect("a set");
    let (idle_after, quiet_after, linger) = (ms(rng, 1500), ms(rng, 2000), ms(rng, 3000));
    RetireRequest {
        set: Some(set),
        idle_after: set.idle.then_some(idle_after),
        quiet_flow_after: set.quiet.then_some(quiet_after),
        linger: Some(linger),
        spread: None,
        at_deadline: if rng.random_bool(0.4) { AtDeadline::Abort } else { AtDeadline::Leave },
    }
}

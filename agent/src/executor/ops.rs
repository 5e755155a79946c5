//! Operations on the kernel, one at a time for each service, on blocking threads.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tracing::{field::display, warn};

use super::{
    Owner, explain,
    rounds::{Cut, Flows, Retired},
    straggling::Stragglers,
    task::Internal,
    verify::{Verification, Verify, check_netns},
};
use crate::{
    carry::Carrier,
    drain::{
        Admission, Arrivals, Boot, Handoff, Lingerers, NewConnections, Retire, RetireReport,
        Retirement, Service, Verdict,
    },
    kernel::{Class, Kernel, KernelError, RetireOrder, Watch},
};

/// How many sources of late connections are logged.
const SOURCES: usize = 10;

/// Something to do in the kernel for one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Guard(Boot),
    Close(Boot),
    /// Finds who takes over, and has the gate know them before it closes.
    HandOver(Handoff),
    /// Tries again to take the stragglers of a gate that an earlier agent closed.
    TakeStragglers,
    Renew(Boot),
    Open,
    Forget,
    Watch(Watch),
    ReadArrivals,
    LogSources,
    Verify,
    Retire(RetireOrder),
    /// Attempts are counted from 1.
    Restore {
        attempt: u32,
    },
    Abort,
}

/// What came of an [`Op`].
#[derive(Debug)]
pub(super) enum Answer {
    Done,
    /// Cookies of the listening sockets that take over.
    HandedOver(BTreeSet<u64>),
    Arrivals(Arrivals),
    /// With the flows counted once more if zero is proven, so that whoever waited for it has all of them.
    Verified(Box<Verification>, Option<RetireReport>),
    Retired(Retired),
    Aborted(Cut),
}

/// An [`Op`] and what it needs.
pub(super) struct Job {
    pub(super) kernel: Arc<dyn Kernel>,
    pub(super) carrier: Carrier,
    pub(super) new: NewConnections,
    pub(super) owner: Owner,
    pub(super) service: Service,
    /// Of the drain that asked for it: the answer to an older drain's operation means nothing to a newer one.
    pub(super) epoch: u64,
    pub(super) op: Op,
    pub(super) netns_cookie: Option<u64>,
    pub(super) started: Boot,
    pub(super) lingerers: Arc<Mutex<Lingerers>>,
    /// Of [`Op::Guard`].
    pub(super) admission: Admission,
    pub(super) retire: Retire,
    /// Of [`Op::Verify`].
    pub(super) wait_outbound: Vec<SocketAddr>,
    pub(super) ledger: Arc<Mutex<Retirement>>,
    /// Whether a verification that finds nothing is news.
    pub(super) books: bool,
    /// Of [`Op::Verify`].
    pub(super) follows: bool,
}

/// An [`Op`] is done.
#[derive(Debug)]
pub(super) struct OpDone {
    pub(super) service: Service,
    pub(super) epoch: u64,
    pub(super) op: Op,
    pub(super) result: Result<Answer, KernelError>,
}

/// How many operations that look at sockets or walk maps may be under way at once: many, since most of them wait for the
/// same look. Of the threads that block (see [`crate::daemon`]) others are for statuses, and the rest are for gates.
const LOOKING: usize = 80;

/// Where operations are carried out.
#[derive(Clone)]
pub(super) struct Threads {
    looking: Arc<Semaphore>,
}

impl Default for Threads {
    fn default() -> Self {
        Self { looking: Arc::new(Semaphore::new(LOOKING)) }
    }
}

impl Threads {
    /// Carries out what is quick.
    pub(super) fn spawn(&self, work: impl FnOnce() + Send + 'static) {
        tokio::task::spawn_blocking(work);
    }

    /// Carries out what may take long, in its turn.
    pub(super) fn spawn_looking(&self, work: impl FnOnce() + Send + 'static) {
        let looking = Arc::clone(&self.looking);
        match Arc::clone(&looking).try_acquire_owned() {
            Ok(turn) => self.spawn(|| in_turn(turn, work)),
            Err(_) => drop(tokio::spawn(async move {
                if let Ok(turn) = looking.acquire_owned().await {
                    tokio::task::spawn_blocking(|| in_turn(turn, work));
                }
            })),
        }
    }
}

/// Others get the turn when the work is over, even by a panic.
fn in_turn(turn: OwnedSemaphorePermit, work: impl FnOnce()) {
    work();
    drop(turn);
}

impl Op {
    /// Whether it must not run beside a [`Op::Restore`] of the same service: it reads or changes which flows are
    /// followed or steered, or proves what is left. Gates and leases have nothing to do with that.
    pub(super) fn waits_for_restore(&self) -> bool {
        match self {
            Self::Verify | Self::Retire(_) | Self::Restore { .. } => true,
            Self::Abort | Self::LogSources | Self::HandOver(_) | Self::TakeStragglers => true,
            Self::Guard(_) | Self::Close(_) | Self::Renew(_) | Self::Open | Self::Forget => false,
            Self::Watch(_) | Self::ReadArrivals => false,
        }
    }

    /// Whether it looks at sockets or walks maps.
    fn is_looking(&self) -> bool {
        match self {
            Self::Verify | Self::Retire(_) | Self::Restore { .. } => true,
            Self::Abort | Self::LogSources | Self::HandOver(_) | Self::TakeStragglers => true,
            Self::Guard(_) | Self::Close(_) | Self::Renew(_) | Self::Open | Self::Forget => false,
            Self::Watch(_) | Self::ReadArrivals => false,
        }
    }
}

impl Job {
    /// Carries it out on a blocking thread; the answer comes back through `done`.
    pub(super) fn spawn(self, threads: &Threads, done: mpsc::UnboundedSender<Internal>) {
        let is_looking = self.op.is_looking();
        let work = move || {
            let Self { service, epoch, op, .. } = self;
            // A panic must not leave the service without an answer for ever: no gate would open again.
            let result = catch_unwind(AssertUnwindSafe(|| self.run())).unwrap_or_else(|_| {
                Err(KernelError::op("carry out", format!("{op:?} of {service}"), "it panicked"))
            });
            // Nobody is there to take it once the agent has stopped.
            let _ = done.send(Internal::Done(OpDone { service, epoch, op, result }));
        };
        if is_looking { threads.spawn_looking(work) } else { threads.spawn(work) }
    }

    fn run(&self) -> Result<Answer, KernelError> {
        let (kernel, service) = (&*self.kernel, self.service);
        match self.op {
            Op::Guard(lease_until) => {
                check_netns(kernel, service.netns, self.netns_cookie)?;
                kernel.guard(service, &self.admission, lease_until)?;
            }
            Op::Close(lease_until) => {
                check_netns(kernel, service.netns, self.netns_cookie)?;
                let takers =
                    self.new.handoff().map(|to| kernel.hand_over(service, to)).transpose()?;
                self.stragglers().close_gate(lease_until)?;
                return Ok(takers.map_or(Answer::Done, Answer::HandedOver));
            }
            Op::TakeStragglers => {
                check_netns(kernel, service.netns, self.netns_cookie)?;
                self.stragglers().prepare()?;
            }
            Op::HandOver(to) => {
                check_netns(kernel, service.netns, self.netns_cookie)?;
                return Ok(Answer::HandedOver(kernel.hand_over(service, to)?));
            }
            Op::Renew(lease_until) => kernel.renew_gate(service, lease_until)?,
            Op::Open => self.stragglers().open_gate()?,
            Op::Forget => self.stragglers().forget()?,
            Op::Watch(watch) => kernel.watch(service, watch)?,
            Op::ReadArrivals => return Ok(Answer::Arrivals(self.arrivals())),
            Op::LogSources => self.log_sources()?,
            Op::Verify => {
                let verify = Verify {
                    kernel,
                    service,
                    lingerers: &self.lingerers,
                    netns_cookie: self.netns_cookie,
                    wait_outbound: &self.wait_outbound,
                    follows: self.follows,
                };
                let mut found = verify.run()?;
                let booked = self.book(&mut found);
                return Ok(Answer::Verified(Box::new(found), booked));
            }
            Op::Retire(order) => return Ok(Answer::Retired(self.flows().round(&order)?)),
            Op::Restore { .. } => kernel.restore(service)?,
            Op::Abort => return Ok(Answer::Aborted(self.flows().abort()?)),
        }
        Ok(Answer::Done)
    }

    fn stragglers(&self) -> Stragglers<'_> {
        let Self { kernel, carrier, new, service, owner, .. } = self;
        Stragglers { kernel: &**kernel, carrier, new, service: *service, owner: *owner }
    }

    fn flows(&self) -> Flows<'_> {
        Flows {
            kernel: &*self.kernel,
            service: self.service,
            started: self.started,
            netns_cookie: self.netns_cookie,
            retire: &self.retire,
            carried: self.new.carries(),
            ledger: &self.ledger,
        }
    }

    /// No round comes after zero: what happened since the last one is counted now.
    fn book(&self, found: &mut Verification) -> Option<RetireReport> {
        let proof = found.proof.take().filter(|_| self.books)?;
        // Something else may be waited for.
        if found.judgement.verdict != Verdict::Empty {
            return None;
        }
        let booked = self.flows().book(proof, found.judgement.at);
        booked.inspect_err(|error| self.not_booked(error)).ok()
    }

    fn not_booked(&self, error: &KernelError) {
        let error = explain(error);
        warn!(service = %self.service, error, "connections that left last may not be counted");
    }

    fn arrivals(&self) -> Arrivals {
        match self.kernel.tracked(self.service) {
            Ok(tracked) if tracked.lost > 0 => Arrivals::Unknown,
            Ok(tracked) => tracked.last_new.map_or(Arrivals::Never, Arrivals::Last),
            Err(error) => {
                let error = explain(&error);
                warn!(service = %self.service, error, "cannot tell when the newest connection came");
                Arrivals::Unknown
            }
        }
    }

    /// Logs who still connected while the service was settling.
    fn log_sources(&self) -> Result<(), KernelError> {
        let mut look = self.kernel.look(self.service.netns, Some(self.service.port))?;
        look.sockets.retain(|socket| socket.class == Class::Counted);
        let cookies: Vec<u64> = look.sockets.iter().map(|socket| socket.cookie).collect();
        let established = self.kernel.established_at(&cookies)?;
        let mut counts: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for (socket, at) in look.sockets.iter().zip(established) {
            if at.is_some_and(|at| at >= self.started) {
                *counts.entry(socket.peer.ip()).or_default() += 1;
            }
        }
        // Most have ended already where connections are short: the newest one is always known.
        let newest = self.kernel.tracked(self.service)?.last_peer.map(display);
        let mut sources: Vec<_> = counts.into_iter().collect();
        sources.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        sources.truncate(SOURCES);
        let sources: Vec<_> =
            sources.into_iter().map(|(ip, count)| format!("{ip} ({count})")).collect();
        warn!(
            service = %self.service, newest, still_connected = sources.join(", "),
            "connections still arrived when max-settle was reached: a load balancer may not have noticed",
        );
        Ok(())
    }
}

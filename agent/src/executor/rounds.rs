//! One round of retiring: has the flows of a draining service followed and told, takes in what became of each,
//! and sends a FIN to those that are due. And the reset of those that remain at the deadline. Blocks.

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::verify::{Proof, check_netns};
use crate::{
    drain::{Boot, Retire, RetireReport, RetireSet, Retirement, Round, Service, remaining},
    kernel::{Abort, Class, Followed, Kernel, KernelError, Look, RetireOrder},
};

/// What a round or a reset works on.
#[derive(Clone, Copy)]
pub(super) struct Flows<'a> {
    pub(super) kernel: &'a dyn Kernel,
    pub(super) service: Service,
    /// When the drain began.
    pub(super) started: Boot,
    /// Of the namespace in which the drain began.
    pub(super) netns_cookie: Option<u64>,
    pub(super) retire: &'a Retire,
    /// Whether connections that the agent carries are to leave too.
    pub(super) carried: bool,
    pub(super) ledger: &'a Mutex<Retirement>,
}

/// What came of a round.
#[derive(Debug)]
pub(super) struct Retired {
    pub(super) report: RetireReport,
    /// How many flows got a FIN.
    pub(super) finished: usize,
    /// Why the kernel did not do all of it; the next round tries again.
    pub(super) failure: Option<KernelError>,
}

/// What came of a reset.
#[derive(Debug)]
pub(super) struct Cut {
    pub(super) report: RetireReport,
    /// Whom the flows belonged to.
    pub(super) peers: Vec<SocketAddr>,
}

impl Flows<'_> {
    /// A whole round.
    ///
    /// # Errors
    /// [`KernelError::NoNetns`] if the namespace of the drain is gone, or nothing could be learned.
    pub(super) fn round(&self, order: &RetireOrder) -> Result<Retired, KernelError> {
        check_netns(self.kernel, self.service.netns, self.netns_cookie)?;
        let ordered = match self.retire.set {
            RetireSet::NONE => Ok(()),
            _ => self.kernel.retire(self.service, order),
        };
        let Round { finish, gone } = self.take_in()?;
        let netns = self.service.netns;
        let finished =
            if finish.is_empty() { Ok(vec![]) } else { self.kernel.finish(netns, &finish) };
        let (finished, failed) = match finished {
            Ok(cookies) => (cookies, Ok(())),
            Err(error) => (vec![], Err(error)),
        };
        self.ledger().finished(&finished);
        let failure = ordered.and(failed).and(self.unfollow(&gone)).err();
        Ok(Retired { report: self.report(), finished: finished.len(), failure })
    }

    /// Takes in what had become of the flows by the look that proves zero, which was begun `at`, or by another one if the
    /// kernel programs were not asked before it; and does nothing to them.
    ///
    /// # Errors
    /// As [`Flows::round`].
    pub(super) fn book(&self, proof: Proof, at: Boot) -> Result<RetireReport, KernelError> {
        let round = match proof.followed {
            Some(followed) => self.sort(&followed?, proof.look, at),
            None => self.take_in()?,
        };
        self.unfollow(&round.gone)?;
        Ok(self.report())
    }

    /// Resets all flows that remain.
    ///
    /// # Errors
    /// The look failed or showed another namespace, or the kernel cannot reset connections.
    pub(super) fn abort(&self) -> Result<Cut, KernelError> {
        let Service { netns, port } = self.service;
        let look = self.kernel.look(netns, Some(port))?;
        check_netns(self.kernel, netns, self.netns_cookie)?;
        let flows = remaining(&look);
        let reset = if flows.is_empty() { vec![] } else { self.kernel.abort(netns, &flows)? };
        let reset: HashSet<u64> = reset.into_iter().collect();
        let reset: Vec<Abort> =
            flows.into_iter().filter(|flow| reset.contains(&flow.cookie)).collect();
        self.ledger().aborted(&reset);
        let peers = reset.into_iter().map(|flow| flow.peer).collect();
        Ok(Cut { report: self.report(), peers })
    }

    /// Reads what the kernel programs know, and looks after that: see [`Retirement::round`].
    fn take_in(&self) -> Result<Round, KernelError> {
        let Service { netns, port } = self.service;
        let now = self.kernel.now();
        let followed = match self.retire.set {
            RetireSet::NONE => vec![],
            _ => self.kernel.followed(self.service)?,
        };
        let look = self.kernel.look(netns, Some(port))?;
        // After the look: the cookie is never reused, so the look was taken in the right namespace.
        check_netns(self.kernel, netns, self.netns_cookie)?;
        Ok(self.sort(&followed, look, now))
    }

    fn sort(&self, followed: &[Followed], mut look: Look, now: Boot) -> Round {
        look.sockets.retain(|socket| match socket.class {
            Class::Counted => true,
            Class::Steered => self.carried,
            Class::Ignored | Class::Probe => false,
        });
        self.ledger().round(self.retire, self.started, followed, &look, now)
    }

    fn unfollow(&self, gone: &[u64]) -> Result<(), KernelError> {
        if gone.is_empty() { Ok(()) } else { self.kernel.unfollow(gone) }
    }

    fn report(&self) -> RetireReport {
        let asked = self.retire.set.tells() || self.retire.set.idle;
        let lacks = asked.then(|| self.kernel.retire_lacks().telling).flatten();
        RetireReport { lacks, ..self.ledger().report() }
    }

    fn ledger(&self) -> MutexGuard<'_, Retirement> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! One verification of a service: the independent look, the tracker's opinion, and a repair where they
//! disagree. Blocks.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
};

use tracing::warn;

use crate::{
    drain::{
        Boot, Counts, Judgement, Lingerers, Opinion, Service, Verdict, compare, judge, listeners,
    },
    kernel::{Followed, Kernel, KernelError, Look, Reconciled, Tracked},
};

use super::{
    explain,
    report::{self, Seen},
};

/// How often to look before giving up on an agreement.
const TRIES: u32 = 6;

/// A verification of a service.
pub(super) struct Verify<'a> {
    pub(super) kernel: &'a dyn Kernel,
    pub(super) service: Service,
    pub(super) lingerers: &'a Mutex<Lingerers>,
    /// Of the namespace in which the drain began.
    pub(super) netns_cookie: Option<u64>,
    pub(super) wait_outbound: &'a [SocketAddr],
    /// Whether the kernel programs are asked what they know of the flows, if there may be none left.
    pub(super) follows: bool,
}

/// What a verification found.
#[derive(Debug)]
pub(super) struct Verification {
    pub(super) judgement: Judgement,
    /// Cookies of the sockets that listen.
    pub(super) listeners: BTreeSet<u64>,
    /// Whether tracker and look disagreed.
    pub(super) disagreed: bool,
    /// Tracker entries and counters mended.
    pub(super) repairs: u64,
    /// How many connections of the service's own lead to each address that its drain waits for.
    pub(super) outbound: Vec<(SocketAddr, u64)>,
    /// What was seen, for those who ask for a status; `None` if no look was taken.
    pub(super) seen: Option<Seen>,
    /// If zero is proven.
    pub(super) proof: Option<Proof>,
}

/// The look that proves zero, and what was known of the flows before.
#[derive(Debug)]
pub(super) struct Proof {
    pub(super) look: Look,
    /// `None`: the kernel programs were not asked.
    pub(super) followed: Option<Result<Vec<Followed>, KernelError>>,
}

/// A look and what the tracker said around it.
struct Sight {
    at: Boot,
    followed: Option<Result<Vec<Followed>, KernelError>>,
    look: Look,
    tracked: Tracked,
    counts: Counts,
    opinion: Opinion,
}

/// Whether `netns` is still the namespace with this cookie.
///
/// # Errors
/// [`KernelError::NoNetns`] if it is not, or what else failed.
pub(super) fn check_netns(
    kernel: &dyn Kernel,
    netns: u32,
    cookie: Option<u64>,
) -> Result<(), KernelError> {
    if kernel.netns_cookie(netns)? == cookie { Ok(()) } else { Err(KernelError::NoNetns(netns)) }
}

impl Verify<'_> {
    /// Verifies the service.
    ///
    /// # Errors
    /// [`KernelError::NoNetns`] if its namespace is gone, even if another one has its number now. Everything
    /// else that fails makes the verdict `Unknown`.
    pub(super) fn run(&self) -> Result<Verification, KernelError> {
        let began = self.kernel.now();
        let mut found = Verification {
            judgement: Judgement::unknown("no look was taken", began),
            listeners: BTreeSet::new(),
            disagreed: false,
            repairs: 0,
            outbound: Vec::new(),
            seen: None,
            proof: None,
        };
        match self.look_until_agreed(&mut found) {
            Ok(judgement) => found.judgement = judgement,
            Err(KernelError::NoNetns(netns)) => return Err(KernelError::NoNetns(netns)),
            Err(error) => found.judgement = Judgement::unknown(explain(&error), began),
        }
        if !self.wait_outbound.is_empty() {
            self.look_outbound(&mut found);
        }
        // After the look: the cookie is never reused, so the look was taken in the right namespace.
        match check_netns(self.kernel, self.service.netns, self.netns_cookie) {
            Err(KernelError::NoNetns(netns)) => Err(KernelError::NoNetns(netns)),
            Err(error) => {
                found.judgement = Judgement::unknown(explain(&error), began);
                (found.seen, found.proof) = (None, None);
                Ok(found)
            }
            Ok(()) => Ok(found),
        }
    }

    /// A look that fails is no zero.
    fn look_outbound(&self, found: &mut Verification) {
        let (at, to) = (found.judgement.at, self.wait_outbound);
        found.judgement = match self.kernel.outbound(self.service.netns, to) {
            Ok(counts) => {
                let total = counts.iter().sum();
                found.outbound = to.iter().copied().zip(counts).collect();
                found.judgement.clone().with_outbound(total)
            }
            Err(error) => Judgement::unknown(explain(&error), at),
        };
    }

    fn look_until_agreed(&self, found: &mut Verification) -> Result<Judgement, KernelError> {
        let mut previous = Opinion::Agree;
        let mut tries = 0;
        loop {
            tries += 1;
            let sight = self.look_once()?;
            found.listeners = listeners(&sight.look);
            let settled = match sight.opinion {
                Opinion::Agree => sight.tracked.lost == 0,
                // It is alive and not empty: what it counts will be told by events.
                Opinion::Moved => sight.counts.flows > 0 && sight.tracked.lost == 0,
                Opinion::Disagree { .. } => false,
            };
            let is_full = sight.tracked.lost > 0 && found.disagreed;
            if settled || is_full || tries >= TRIES {
                let judgement = self.distrust_full_map(&sight)?;
                let Sight { look, followed, .. } = sight;
                let lingerers = Some(self.lingerers);
                found.seen = Some(report::see(self.kernel, self.service, Ok(&look), lingerers));
                if judgement.verdict == Verdict::Empty {
                    found.proof = Some(Proof { look, followed });
                }
                return Ok(judgement);
            }
            // Once may be a connection half way between the tracker and the socket table; the same twice is not.
            if sight.tracked.lost > 0
                || (sight.opinion != Opinion::Moved && sight.opinion == previous)
            {
                self.repair(&sight, found)?;
            }
            previous = sight.opinion;
        }
    }

    fn look_once(&self) -> Result<Sight, KernelError> {
        let Self { kernel, service, .. } = *self;
        let at = kernel.now();
        let before = kernel.tracked(service)?;
        // Zero is proven only if the tracker knew of no flow before the look either.
        let may_be_empty = self.follows && before.flows == 0;
        let followed = may_be_empty.then(|| kernel.followed(service));
        let look = kernel.look(service.netns, Some(service.port))?;
        let tracked = kernel.tracked(service)?;
        let mut lingerers = self.lingerers.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = Counts::of(&look, lingerers.observe(&look, kernel.now()));
        let opinion = compare(&before, &look, &tracked);
        Ok(Sight { at, followed, look, tracked, counts, opinion })
    }

    fn repair(&self, sight: &Sight, found: &mut Verification) -> Result<(), KernelError> {
        let mended = self.kernel.reconcile(self.service, &sight.look)?;
        let Reconciled { added, removed, moved, corrected } = mended;
        let repairs = added + removed + corrected.unsigned_abs();
        // A drain sorts the flows that are there when it begins: both know the same ones then.
        found.disagreed |= repairs > 0 || moved == 0;
        found.repairs += repairs;
        if repairs > 0 {
            warn!(
                service = %self.service, tracked = sight.tracked.flows, seen = sight.counts.flows,
                lost = sight.tracked.lost, added, removed, moved, corrected,
                "the tracker disagreed with an independent look and was mended",
            );
        }
        Ok(())
    }

    /// A tracker that never heard of a service agrees with an empty look; it may have had no room for it.
    fn distrust_full_map(&self, sight: &Sight) -> Result<Judgement, KernelError> {
        let judgement = judge(sight.counts, sight.opinion, &sight.tracked, sight.at);
        if judgement.verdict == Verdict::Empty
            && !sight.tracked.known
            && self.kernel.faults()?.services_full > 0
        {
            return Ok(Judgement::unknown(
                "the tracker's map of services was full, and this service is not in it",
                sight.at,
            ));
        }
        Ok(judgement)
    }
}

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
    kernel::{Kernel, KernelError, Look, Reconciled, Tracked},
};

use super::explain;

/// How often to look before giving up on an agreement.
const TRIES: u32 = 6;

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
}

/// A look and what the tracker said around it.
struct Sight {
    at: Boot,
    look: Look,
    tracked: Tracked,
    counts: Counts,
    opinion: Opinion,
}

/// Verifies the service. `netns_cookie` is that of the namespace in which the drain began.
///
/// # Errors
/// [`KernelError::NoNetns`] if that namespace is gone, even if another one has its number now. Everything
/// else that fails makes the verdict `Unknown`.
pub(super) fn verify(
    kernel: &dyn Kernel,
    service: Service,
    lingerers: &Mutex<Lingerers>,
    netns_cookie: Option<u64>,
    wait_outbound: &[SocketAddr],
) -> Result<Verification, KernelError> {
    let began = kernel.now();
    let mut found = Verification {
        judgement: Judgement::unknown("no look was taken", began),
        listeners: BTreeSet::new(),
        disagreed: false,
        repairs: 0,
        outbound: Vec::new(),
    };
    match look_until_agreed(kernel, service, lingerers, &mut found) {
        Ok(judgement) => found.judgement = judgement,
        Err(KernelError::NoNetns(netns)) => return Err(KernelError::NoNetns(netns)),
        Err(error) => found.judgement = Judgement::unknown(explain(&error), began),
    }
    if !wait_outbound.is_empty() {
        look_outbound(kernel, service, wait_outbound, &mut found);
    }
    // After the look: the cookie is never reused, so the look was taken in the right namespace.
    match check_netns(kernel, service.netns, netns_cookie) {
        Err(KernelError::NoNetns(netns)) => Err(KernelError::NoNetns(netns)),
        Err(error) => {
            found.judgement = Judgement::unknown(explain(&error), began);
            Ok(found)
        }
        Ok(()) => Ok(found),
    }
}

/// A look that fails is no zero.
fn look_outbound(
    kernel: &dyn Kernel,
    service: Service,
    to: &[SocketAddr],
    found: &mut Verification,
) {
    let at = found.judgement.at;
    found.judgement = match kernel.outbound(service.netns, to) {
        Ok(counts) => {
            let total = counts.iter().sum();
            found.outbound = to.iter().copied().zip(counts).collect();
            found.judgement.clone().with_outbound(total)
        }
        Err(error) => Judgement::unknown(explain(&error), at),
    };
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

fn look_until_agreed(
    kernel: &dyn Kernel,
    service: Service,
    lingerers: &Mutex<Lingerers>,
    found: &mut Verification,
) -> Result<Judgement, KernelError> {
    let mut previous = Opinion::Agree;
    let mut tries = 0;
    loop {
        tries += 1;
        let sight = look_once(kernel, service, lingerers)?;
        found.listeners = listeners(&sight.look);
        let settled = match sight.opinion {
            Opinion::Agree => sight.tracked.lost == 0,
            // It is alive and not empty: what it counts will be told by events.
            Opinion::Moved => sight.counts.flows > 0 && sight.tracked.lost == 0,
            Opinion::Disagree { .. } => false,
        };
        let is_full = sight.tracked.lost > 0 && found.disagreed;
        if settled || is_full || tries >= TRIES {
            return distrust_full_map(kernel, &sight);
        }
        // Once may be a connection half way between the tracker and the socket table; the same twice is not.
        if sight.tracked.lost > 0 || (sight.opinion != Opinion::Moved && sight.opinion == previous)
        {
            repair(kernel, service, &sight, found)?;
        }
        previous = sight.opinion;
    }
}

fn look_once(
    kernel: &dyn Kernel,
    service: Service,
    lingerers: &Mutex<Lingerers>,
) -> Result<Sight, KernelError> {
    let at = kernel.now();
    let before = kernel.tracked(service)?;
    let look = kernel.look(service.netns, Some(service.port))?;
    let tracked = kernel.tracked(service)?;
    let lingering =
        lingerers.lock().unwrap_or_else(PoisonError::into_inner).observe(&look, kernel.now());
    let counts = Counts::of(&look, lingering);
    let opinion = compare(&before, &look, &tracked);
    Ok(Sight { at, look, tracked, counts, opinion })
}

fn repair(
    kernel: &dyn Kernel,
    service: Service,
    sight: &Sight,
    found: &mut Verification,
) -> Result<(), KernelError> {
    let mended = kernel.reconcile(service, &sight.look)?;
    let Reconciled { added, removed, moved, corrected } = mended;
    let repairs = added + removed + corrected.unsigned_abs();
    // A drain sorts the flows that are there when it begins: both know the same ones then.
    found.disagreed |= repairs > 0 || moved == 0;
    found.repairs += repairs;
    if repairs > 0 {
        warn!(
            %service, tracked = sight.tracked.flows, seen = sight.counts.flows,
            lost = sight.tracked.lost, added, removed, moved, corrected,
            "the tracker disagreed with an independent look and was mended",
        );
    }
    Ok(())
}

/// A tracker that never heard of a service agrees with an empty look; it may have had no room for it.
fn distrust_full_map(kernel: &dyn Kernel, sight: &Sight) -> Result<Judgement, KernelError> {
    let judgement = judge(sight.counts, sight.opinion, &sight.tracked, sight.at);
    if judgement.verdict == Verdict::Empty
        && sight.tracked == Tracked::default()
        && kernel.faults()?.services_full > 0
    {
        return Ok(Judgement::unknown(
            "the tracker's map of services was full, and this service is not in it",
            sight.at,
        ));
    }
    Ok(judgement)
}

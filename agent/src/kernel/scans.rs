//! When the sockets of draining services are scanned for flows to follow.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Mutex,
    time::{Duration, Instant},
};

use super::{KernelError, linux::lock, shared::SharedByNetns};
use crate::drain::Service;

/// A namespace is scanned again for flows that were missed after so long, or after so many times what a scan takes for
/// each namespace that is scanned, if that is longer: all of them take this share of a CPU at most.
const RESCAN: Duration = Duration::from_secs(1);
const RESCAN_SHARE: u32 = 20;
/// But no later than that.
const RESCAN_AT_LAST: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Default)]
pub(super) struct Scans {
    services: Mutex<BTreeMap<Service, Scanned>>,
    /// A scan is of a whole namespace.
    under_way: SharedByNetns<Service, ()>,
}

/// How a service was scanned.
#[derive(Clone, Copy)]
struct Scanned {
    number: u32,
    next: Instant,
}

impl Scans {
    /// Notes a service that is to be scanned; whether it has never been.
    pub(super) fn begin(&self, service: Service) -> bool {
        let first = Scanned { number: 0, next: Instant::now() };
        lock(&self.services).entry(service).or_insert(first).number == 0
    }

    /// A service that is noted is scanned as if it had never been.
    pub(super) fn begin_anew(&self, service: Service) {
        if let Some(scanned) = lock(&self.services).get_mut(&service) {
            *scanned = Scanned { number: 0, next: Instant::now() };
        }
    }

    /// Calls `scan`, which is to scan the namespace, if it is time to: twice at once, then now and then.
    pub(super) fn scan_if_due(
        &self,
        service: Service,
        scan: impl FnOnce() -> Result<u64, KernelError>,
    ) -> Result<(), KernelError> {
        let next = lock(&self.services).get(&service).map(|scanned| scanned.next);
        if next.is_some_and(|next| Instant::now() < next) {
            return Ok(());
        }
        self.under_way.ask(service.netns, service, |asked| {
            let started = Instant::now();
            let joined = scan()?;
            let took = started.elapsed();
            let us = took.as_micros();
            tracing::debug!(%service, joined, us, "scanned for flows to follow");
            self.scanned(service.netns, asked, took);
            Ok(HashMap::new())
        })
    }

    /// A scan of the namespace is over, for those who asked; and for those who have had one.
    fn scanned(&self, netns: u32, asked: &[Service], took: Duration) {
        let mut services = lock(&self.services);
        let mut namespaces: Vec<u32> = services.keys().map(|service| service.netns).collect();
        namespaces.dedup(); // They are sorted.
        let share = RESCAN_SHARE.saturating_mul(namespaces.len() as u32);
        let pause = took.saturating_mul(share).clamp(RESCAN, RESCAN_AT_LAST);
        for (service, scanned) in services.iter_mut().filter(|(service, _)| service.netns == netns)
        {
            if scanned.number == 0 && !asked.contains(service) {
                continue;
            }
            scanned.number = scanned.number.saturating_add(1);
            // Once more soon: what was being established during the first scan may have been missed.
            let pause = if scanned.number == 1 { Duration::ZERO } else { pause };
            scanned.next = Instant::now() + pause;
        }
    }

    /// Forgets a service; whether it was the last one.
    pub(super) fn end(&self, service: Service) -> bool {
        let mut services = lock(&self.services);
        services.remove(&service);
        services.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(netns: u32, port: u16) -> Service {
        Service { netns, port }
    }

    /// Whether it was scanned.
    fn scans(scans: &Scans, service: Service) -> bool {
        let mut scanned = false;
        let scan = || {
            scanned = true;
            Ok(0)
        };
        scans.scan_if_due(service, scan).unwrap();
        scanned
    }

    #[test]
    fn a_service_is_scanned_twice_at_once_and_the_second_may_be_that_of_a_neighbour() {
        let all = Scans::default();
        let (a, b, far) = (service(1, 80), service(1, 81), service(2, 80));
        assert!(all.begin(a) && all.begin(a), "not yet");
        assert!(scans(&all, a) && scans(&all, a) && !scans(&all, a) && !all.begin(a));
        assert!(all.begin(b) && all.begin(far));
        assert!(scans(&all, b), "what was before it began does not count");
        assert!(scans(&all, b) && !scans(&all, b) && !scans(&all, a));
        assert!(scans(&all, far), "another namespace");
        let c = service(2, 81);
        assert!(all.begin(c) && scans(&all, c), "its first, and the second of the other");
        assert!(!scans(&all, far));
        assert!(scans(&all, c));
        assert!(!all.end(a) && !all.end(b) && !all.end(c) && all.end(far));
    }

    #[test]
    fn one_that_is_begun_anew_was_never_scanned() {
        let all = Scans::default();
        let (a, b) = (service(1, 80), service(1, 81));
        all.begin_anew(a);
        assert!(all.end(b), "that notes none");
        assert!(all.begin(a) && scans(&all, a) && scans(&all, a) && !all.begin(a));
        all.begin_anew(a);
        assert!(all.begin(a) && scans(&all, a));
    }

    #[test]
    fn a_scan_that_fails_is_due_again() {
        let all = Scans::default();
        let a = service(1, 80);
        all.begin(a);
        all.scan_if_due(a, || Err(KernelError::NoNetns(1))).unwrap_err();
        assert!(scans(&all, a) && scans(&all, a) && !scans(&all, a));
    }
}

//! What the tracker holds of what is gone.

use std::collections::{BTreeMap, HashSet};

use drainctl_common::{
    ServiceKey, class,
    track::{Flow, ServiceCounts},
};

use super::Tracker;
use crate::{
    drain::{Boot, Service},
    kernel::{KernelError, followed::service_of, loaded::is_missing},
};

impl Tracker {
    /// The flows whose end the kernel programs are not told of, by service.
    pub(crate) fn unseen(&mut self) -> Result<BTreeMap<Service, Vec<u64>>, KernelError> {
        let mut unseen = BTreeMap::<_, Vec<_>>::new();
        if self.may_miss_ends {
            self.for_each_flow(|cookie, flow| {
                if flow.flags & Flow::END_UNSEEN != 0 {
                    unseen.entry(service_of(flow.service)).or_default().push(cookie);
                }
            })?;
            // Until others are adopted.
            self.may_miss_ends = !unseen.is_empty();
        }
        Ok(unseen)
    }

    /// Forgets services of namespaces that are gone, and those nobody used since `before`. A service with
    /// flows, or one that is watched, stays. Returns those forgotten.
    pub(crate) fn forget(&mut self, alive: &HashSet<u32>, before: Boot) -> Vec<Service> {
        let unused =
            |k: &ServiceKey, c: &ServiceCounts| is_unused(c, alive.contains(&k.netns), before);
        let known = self.services.iter().filter_map(Result::ok);
        let stale: Vec<_> = known.filter(|(k, c)| unused(k, c)).map(|(k, _)| k).collect();
        let mut forgotten = Vec::new();
        for k in stale {
            // Again, since the walk took a while: a connection that came meanwhile would go uncounted. One that
            // comes between these two lines does, until a look disagrees and mends it.
            if !matches!(self.services.get(&k, 0), Ok(c) if unused(&k, &c)) {
                continue;
            }
            match self.services.remove(&k) {
                Err(e) if !is_missing(&e) => {
                    tracing::warn!(netns = k.netns, port = k.port, error = %e, "cannot forget a service");
                }
                _ if k.class == class::COUNTED => {
                    forgotten.push(Service { netns: k.netns, port: k.port });
                }
                _ => {} // The service itself is still known.
            }
        }
        forgotten
    }
}

/// Whether a service may be forgotten: it has no flow, nobody watches it, and its namespace is not alive or its
/// newest connection came before `before`.
fn is_unused(counts: &ServiceCounts, alive: bool, before: Boot) -> bool {
    let old = counts.last_new_ns < before.as_nanos();
    counts.flows == 0 && counts.watch == 0 && counts.steer == 0 && (!alive || old)
}

#[cfg(test)]
mod tests {
    use drainctl_common::track::watch;

    use super::*;

    #[test]
    fn what_is_forgotten() {
        let (quiet, busy) = (99, 100);
        #[rustfmt::skip]
        let table = [
            ("nobody used it for long", 0, 0, quiet, true, true),
            ("used lately", 0, 0, busy, true, false),
            ("its namespace is gone", 0, 0, busy, false, true),
            ("it has a flow", 1, 0, quiet, false, false),
            ("its counter is wrong: to be mended, not lost", -1, 0, quiet, true, false),
            ("a drain watches it", 0, watch::LISTENERS, quiet, false, false),
        ];
        for (description, flows, watch, last_new_ns, alive, forgotten) in table {
            let counts = ServiceCounts { flows, watch, last_new_ns, ..ServiceCounts::default() };
            let before = Boot::from_nanos(100);
            assert_eq!(is_unused(&counts, alive, before), forgotten, "{description}");
        }
    }
}

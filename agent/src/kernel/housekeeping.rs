//! What is seen to now and then, on a thread of its own: where the kubelet is, and what the maps hold of what is gone.

use std::{
    collections::HashSet,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use super::{Kernel as _, KernelError, Linux, diag, explain, linux::lock, probes::Probes};
use crate::drain::Service;

/// How often the kubelet is looked for: between its restart and this its probes count.
const SEEK: Duration = Duration::from_secs(10);
/// What is gone is forgotten each so many times.
const SWEEP: u32 = 6;
/// A service without a connection for so long is forgotten too; its next connection makes it known again.
const UNUSED: Duration = Duration::from_secs(600);
/// How long one sweep goes on looking for flows whose end nobody told.
const LOOK_FOR: Duration = Duration::from_millis(200);
/// Services of one look.
const MOST_AT_ONCE: usize = 64;

/// Starts the thread. It ends when the other end of `until` is dropped.
///
/// # Errors
/// There can be no thread.
pub(super) fn start(linux: &Arc<Linux>, until: mpsc::Receiver<()>) -> Result<(), KernelError> {
    let linux = Arc::downgrade(linux);
    let run = move || {
        let mut looked_at = None;
        for round in 1_u32.. {
            let (Err(mpsc::RecvTimeoutError::Timeout), Some(linux)) =
                (until.recv_timeout(SEEK), linux.upgrade())
            else {
                return;
            };
            let on_duty = lock(&linux.on_duty);
            if !*on_duty {
                return; // The next agent may be at work, with what we know in other places by now.
            }
            Probes::seek(&linux.probes, &linux.tracker);
            if round.is_multiple_of(SWEEP) {
                linux.sweep(&mut looked_at);
            }
        }
    };
    let named = std::thread::Builder::new().name("housekeeping".into());
    named.spawn(run).map(drop).map_err(|e| KernelError::op("start thread", "housekeeping", e))
}

impl Linux {
    /// Forgets what is gone. `looked_at` is where the search for flows whose end nobody told goes on.
    pub(super) fn sweep(&self, looked_at: &mut Option<Service>) {
        let Ok(alive) = self.namespaces.all() else { return };
        let alive = alive.into_iter().collect();
        lock(&self.gates).forget_dead(&alive);
        if let Err(error) = self.drop_ended(&alive, looked_at) {
            tracing::warn!(error = %explain(&error), "connections that have ended may still be counted");
        }
        let before = self.now() - UNUSED;
        // The tracker stays locked until both agree: `forgiven` of a service that has been forgotten would hide
        // what is lost later.
        let mut tracker = self.tracker();
        let forgotten = tracker.forget(&alive, before);
        tracing::debug!(services = forgotten.len(), "forgot unused services");
        lock(&self.forgiven).retain(|service, _| !forgotten.contains(service));
        drop(tracker);
        self.peers.forget(&alive);
    }

    /// Before Linux 6.12 no program is told of the end of a connection that is older than the agent. A drain of its service
    /// finds out by its looks; those of all others would stay in the maps for ever, and take the room of new ones.
    fn drop_ended(
        &self,
        alive: &HashSet<u32>,
        looked_at: &mut Option<Service>,
    ) -> Result<(), KernelError> {
        let unseen = self.tracker().unseen()?;
        let dead = unseen.iter().filter(|(service, _)| !alive.contains(&service.netns));
        let mut removed = self.remove_all(dead, &HashSet::new())?;
        let there = unseen.keys().copied().filter(|service| alive.contains(&service.netns));
        let began = Instant::now();
        for group in in_turn(there, *looked_at) {
            if began.elapsed() >= LOOK_FOR {
                break; // The next sweep goes on here.
            }
            let (Some(first), Some(last)) = (group.first(), group.last()) else { continue };
            let ports: Vec<u16> = group.iter().map(|service| service.port).collect();
            *looked_at = Some(*last);
            let look = match self.namespaces.inside(first.netns, || diag::look(&ports, None)) {
                Err(KernelError::NoNetns(_)) => continue, // The next sweep knows that it is dead.
                look => look?,
            };
            let there: HashSet<u64> = look.sockets.iter().map(|socket| socket.cookie).collect();
            let group = group.iter().filter_map(|service| unseen.get_key_value(service));
            removed += self.remove_all(group, &there)?;
        }
        if removed > 0 {
            tracing::debug!(removed, "connections have ended of which nobody was told");
        }
        Ok(())
    }

    /// Uncounts the flows that are not `there`; returns how many.
    fn remove_all<'a>(
        &self,
        flows: impl Iterator<Item = (&'a Service, &'a Vec<u64>)>,
        there: &HashSet<u64>,
    ) -> Result<u64, KernelError> {
        let mut removed = 0;
        for (service, cookies) in flows {
            for cookie in cookies.iter().filter(|cookie| !there.contains(cookie)) {
                removed += u64::from(self.tracker().remove(*service, *cookie)?);
            }
        }
        Ok(removed)
    }
}

/// These services, which are sorted, in groups of one namespace each: those behind `last` first, then those up to it.
fn in_turn(services: impl Iterator<Item = Service>, last: Option<Service>) -> Vec<Vec<Service>> {
    let (mut next, before): (Vec<_>, Vec<_>) = services.partition(|service| Some(*service) > last);
    next.extend(before);
    let same = |a: &Service, b: &Service| a.netns == b.netns;
    let namespaces = next.chunk_by(same);
    namespaces.flat_map(|all| all.chunks(MOST_AT_ONCE)).map(<[_]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_come_in_turn_and_in_groups_of_one_namespace() {
        let service = |netns, port| Service { netns, port };
        let all = [service(1, 80), service(1, 81), service(2, 80), service(3, 80)];
        let groups = |last| in_turn(all.into_iter(), last);
        assert_eq!(groups(None), [all[..2].to_vec(), vec![all[2]], vec![all[3]]]);
        assert_eq!(
            groups(Some(all[0])),
            [vec![all[1]], vec![all[2]], vec![all[3]], vec![all[0]]],
            "those behind the last one first"
        );
        assert_eq!(groups(Some(service(9, 1))), groups(None), "round and round");
        assert_eq!(groups(Some(service(2, 90)))[0], [all[3]], "that one is gone");
        let many = (1..=130).map(|port| service(1, port));
        let sizes: Vec<_> = in_turn(many, None).iter().map(Vec::len).collect();
        assert_eq!(sizes, [64, 64, 2]);
    }
}

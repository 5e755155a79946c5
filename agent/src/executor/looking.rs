//! Looks for those who ask for a status.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::{
    Status,
    carry::REMEMBERED,
    report::{self, Asked, Seen},
    task::{Internal, Task},
};
use crate::drain::{Boot, Event, Phase, Service};

/// How many looks for those who ask for a status may be under way at once; the others wait for their turn. Most of them
/// wait for the same look as others. Threads that block are few, and drains need them.
pub(super) const LOOKS: usize = 32;

impl Task {
    /// Answers with the status, from a look taken now.
    pub(super) fn look_for(&self, services: &[Service], reply: oneshot::Sender<Vec<Status>>) {
        let asked: Vec<Asked> = services
            .iter()
            .map(|service| {
                let entry = self.entries.get(service).filter(|entry| entry.is_draining());
                (*service, entry.map(|entry| Arc::clone(&entry.lingerers)))
            })
            .collect();
        let (kernel, done) = (Arc::clone(&self.kernel), self.done.clone());
        let look = move || {
            // Who asked and went away must not keep a thread busy.
            if reply.is_closed() {
                return;
            }
            let seen = report::look_at(&*kernel, &asked);
            // Nobody is there to take it once the agent has stopped.
            let _ = done.send(Internal::Seen(seen, reply));
        };
        let looks = Arc::clone(&self.looks);
        tokio::spawn(async move {
            // It is never closed. Held until the look is over.
            let _turn = looks.acquire().await;
            // A look that panicked answers nobody.
            let _ = tokio::task::spawn_blocking(look).await;
        });
    }

    pub(super) fn seen(&mut self, seen: Vec<Seen>, reply: oneshot::Sender<Vec<Status>>) {
        let now = self.kernel.now();
        for seen in &seen {
            let drained = self.phase(seen.service) == Phase::Drained;
            if drained && !seen.counts.is_zero() {
                self.step(seen.service, Event::Hint);
            }
        }
        // Whoever asked may have gone away.
        let _ = reply.send(seen.into_iter().map(|seen| self.status(seen, now)).collect());
    }

    fn status(&self, seen: Seen, now: Boot) -> Status {
        let entry = self.entries.get(&seen.service);
        let holds = self.held.of(seen.service, now);
        let ended = self.ended.get(&seen.service);
        let ended = ended.filter(|(_, at)| now.since(*at) < REMEMBERED).cloned();
        Status { holds, ended, ..report::status(seen, entry, now) }
    }

    /// The service as the verification saw it whose answer is dealt with now, if it is.
    pub(super) fn verified_status(&self, service: Service) -> Option<Status> {
        let seen = self.entries.get(&service)?.seen.clone()?;
        Some(self.status(seen, self.now()))
    }
}

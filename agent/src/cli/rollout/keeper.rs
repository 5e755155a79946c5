//! Renews the leases of an instance while its command runs and while it starts.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::{task::JoinHandle, time::sleep};

use super::{shared::Shared, worker::Worker};
use crate::{
    api::protocol::{StateName, StreamEvent},
    cli::{client::Client, services},
};

/// Time between two attempts to follow the drains.
const PAUSE: Duration = Duration::from_secs(1);

/// Renews them until it is dropped.
pub(super) struct Keeper(JoinHandle<()>);

impl Keeper {
    pub(super) fn new(worker: Worker, shared: Arc<Shared>) -> Self {
        Self(tokio::spawn(async move { keep(&worker, &shared).await }))
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Whoever reads the events of a drain keeps its lease alive.
async fn keep(worker: &Worker, shared: &Shared) {
    let mut open = BTreeSet::new();
    while open.len() < worker.instance.ports.len() {
        let (ids, found) = look(worker, &open).await;
        let ended = read(&worker.client, &ids).await;
        let found = found.into_iter().map(|port| (port, "nothing keeps it closed".to_owned()));
        for (port, reason) in found.chain(ended) {
            open.insert(port);
            shared.plan(|plan| plan.leave_open(worker.at));
            let note =
                format!("port {port} has traffic before it is known to be healthy: {reason}");
            shared.note(Some(worker.at), note);
        }
        sleep(PAUSE).await;
    }
}

/// The services that are draining, and the ports that serve although they were closed: a lease may be over because the
/// agent was gone, and a command may put a new network namespace in the place of the one that there was.
async fn look(worker: &Worker, open: &BTreeSet<u16>) -> (Vec<String>, Vec<u16>) {
    let (mut ids, mut found) = (Vec::new(), Vec::new());
    let Ok(target) = worker.target() else { return (ids, found) };
    for &port in worker.instance.ports.iter().filter(|port| !open.contains(port)) {
        match services::find(&worker.client, &target, port).await {
            Ok(service) if service.state == StateName::Serving => found.push(port),
            Ok(service) => ids.push(service.id),
            Err(_) => {}
        }
    }
    (ids, found)
}

/// Follows them until a drain has ended, and says which and why; `None`: the stream has.
async fn read(client: &Client, ids: &[String]) -> Option<(u16, String)> {
    if ids.is_empty() {
        return None;
    }
    let mut events = client.events(ids).await.ok()?;
    loop {
        if let StreamEvent::Ended { service, reason, .. } = events.next().await.ok()?? {
            return Some((service.port, reason));
        }
    }
}

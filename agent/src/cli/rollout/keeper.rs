//! Renews the leases of an instance while its command runs and while it starts.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::{task::JoinHandle, time::sleep};

use super::{shared::Shared, worker::Worker};
use crate::{
    api::protocol::StreamEvent,
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
    let mut over = BTreeSet::new();
    while over.len() < worker.instance.ports.len() {
        let ids = ids(worker, &over).await;
        if let Some((port, reason)) = read(&worker.client, &ids).await {
            over.insert(port);
            let at = Some(worker.at);
            let note =
                format!("the traffic of port {port} came in again before it was to: {reason}");
            shared.note(at, note);
        } else {
            sleep(PAUSE).await;
        }
    }
}

/// Those of its services that can be found now: the agent may restart, and a command may put a new network namespace in
/// the place of the one that there was.
async fn ids(worker: &Worker, over: &BTreeSet<u16>) -> Vec<String> {
    let mut ids = Vec::new();
    let Ok(target) = worker.target() else { return ids };
    for &port in worker.instance.ports.iter().filter(|port| !over.contains(port)) {
        if let Ok(service) = services::find(&worker.client, &target, port).await {
            ids.push(service.id);
        }
    }
    ids
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

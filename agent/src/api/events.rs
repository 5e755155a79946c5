//! `GET /v1/events`: one JSON object a line, the leases kept alive while somebody listens.
//!
//! One task a stream turns the executor's updates into lines. Between it and the client lie a few lines of
//! buffer; a client that does not read them is dropped, and never holds up the executor, whose updates
//! go by in a broadcast channel of fixed size.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, HttpBody},
    extract::State,
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use hyper::body::Frame;
use serde::Deserialize;
use tokio::{
    sync::{
        broadcast::{self, error::TryRecvError},
        mpsc,
    },
    time::Instant,
};

use super::{
    app::App,
    auth::Caller,
    drains::Drains,
    error::ApiError,
    extract::{Calling, FromSegment, Params},
    protocol::{MAX_PORTS, ServiceStatus, StateName, StreamEvent},
};
use crate::{
    drain::{Ending, Service},
    executor::Update,
};

/// Counts of one service are told at most this often; a change of state at once.
const COUNTS_EVERY: Duration = Duration::from_millis(200);
/// A service that is draining and not done is told at least this often.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// Leases are renewed at least this often, and before a third of them has passed.
const RENEW_EVERY: Duration = Duration::from_secs(30);
/// Shortest time between two renewals, however short a lease.
const RENEW_AT_MOST_EVERY: Duration = Duration::from_millis(100);
/// How long a client may leave a full buffer unread.
const UNREAD_FOR: Duration = Duration::from_secs(10);
/// Lines between the task and the client.
const BUFFERED_LINES: usize = 2 * MAX_PORTS;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EventsQuery {
    services: String,
}

/// Answers with a stream that ends when the drains of all its services have ended.
pub(super) async fn events<D: Drains>(
    State(app): State<Arc<App<D>>>,
    Params(query): Params<EventsQuery>,
    Calling(caller): Calling,
) -> Result<Response, ApiError> {
    let services = parse(&query.services)?;
    for service in &services {
        app.authorize_read(&caller, service.netns)?;
    }
    let updates = app.drains.subscribe();
    let (lines, body) = mpsc::channel(BUFFERED_LINES);
    let stream = Stream::new(app, &services, lines);
    // The client has its answer now: where many ask at once, a look may take longer than an answer may.
    tokio::spawn(async move {
        // The only way to fail is that the client is gone, or the agent is stopping.
        let _ = stream.run(&caller, services, updates).await;
    });
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], Body::new(Lines(body))).into_response())
}

/// The services of `ID,ID`, each once.
fn parse(list: &str) -> Result<Vec<Service>, ApiError> {
    let mut services = list.split(',').map(Service::from_segment).collect::<Result<Vec<_>, _>>()?;
    services.sort_unstable();
    services.dedup();
    if services.len() > MAX_PORTS {
        return Err(ApiError::usage(format!("at most {MAX_PORTS} services in one stream")));
    }
    Ok(services)
}

/// Those that the caller may drain: only their leases does it keep alive.
async fn renewable<D: Drains>(app: &App<D>, caller: &Caller, services: &[Service]) -> Vec<Service> {
    let mut renewable = Vec::new();
    for &service in services {
        if matches!(app.may_change(caller, service).await, Ok(Ok(()))) {
            renewable.push(service);
        }
    }
    renewable
}

/// The client's end: what the task sends, as an HTTP body.
struct Lines(mpsc::Receiver<Bytes>);

impl HttpBody for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}

/// The client is gone, or does not read; or the agent is stopping.
struct ClientGone;

struct Stream<D> {
    app: Arc<App<D>>,
    followed: Vec<Followed>,
    keep_alive: Vec<Service>,
    renew_at: Instant,
    lines: mpsc::Sender<Bytes>,
}

/// A service of the stream whose drain has not ended.
struct Followed {
    service: Service,
    /// As last told.
    told: Option<ServiceStatus>,
    told_at: Instant,
    /// Something changed that has not been told.
    changed: bool,
}

impl Followed {
    fn state(&self) -> Option<StateName> {
        self.told.as_ref().map(|status| status.state)
    }

    /// When it is to be told again without being asked.
    fn due(&self) -> Option<Instant> {
        let draining = self.told.as_ref().is_some_and(|status| status.drain.is_some());
        if self.changed {
            Some(self.told_at + COUNTS_EVERY)
        } else if draining && self.state() != Some(StateName::Drained) {
            Some(self.told_at + PROGRESS_EVERY)
        } else {
            None
        }
    }
}

impl<D: Drains> Stream<D> {
    fn new(app: Arc<App<D>>, services: &[Service], lines: mpsc::Sender<Bytes>) -> Self {
        let now = Instant::now();
        let follow =
            |&service: &Service| Followed { service, told: None, told_at: now, changed: false };
        let followed = services.iter().map(follow).collect();
        Self { app, followed, keep_alive: Vec::new(), renew_at: now + RENEW_EVERY, lines }
    }

    async fn run(
        self,
        caller: &Caller,
        services: Vec<Service>,
        updates: broadcast::Receiver<Update>,
    ) -> Result<(), ClientGone> {
        let client = self.lines.clone();
        tokio::select! {
            done = self.follow(caller, services, updates) => done,
            () = client.closed() => Err(ClientGone),
        }
    }

    async fn follow(
        mut self,
        caller: &Caller,
        services: Vec<Service>,
        mut updates: broadcast::Receiver<Update>,
    ) -> Result<(), ClientGone> {
        self.keep_alive = renewable(&self.app, caller, &services).await;
        self.renew().await;
        // It fails only if the agent is stopping.
        for status in self.app.told(services).await.map_err(|_| ClientGone)? {
            self.tell(status).await?;
        }
        while !self.followed.is_empty() {
            tokio::select! {
                update = updates.recv() => match update {
                    Ok(update) => self.on_updates(update, &mut updates).await?,
                    Err(broadcast::error::RecvError::Lagged(_)) => self.on_lag().await?,
                    Err(broadcast::error::RecvError::Closed) => return Ok(()),
                },
                () = tokio::time::sleep_until(self.wake_at()) => self.on_time().await?,
            }
        }
        Ok(())
    }

    fn wake_at(&self) -> Instant {
        let due = self.followed.iter().filter_map(Followed::due);
        due.chain([self.renew_at]).min().unwrap_or(self.renew_at)
    }

    /// Takes this update and all that already wait behind it, so that a burst costs one look at most, and only the newest is
    /// told.
    async fn on_updates(
        &mut self,
        first: Update,
        updates: &mut broadcast::Receiver<Update>,
    ) -> Result<(), ClientGone> {
        let mut newest = BTreeMap::new();
        let mut next = Ok(first);
        while let Ok(Update { service, ended, status }) = next {
            let followed = self.followed.iter_mut().find(|each| each.service == service);
            match (followed, ended) {
                (Some(followed), None) => {
                    followed.changed = true;
                    newest.insert(service, status);
                }
                (Some(_), Some(ending)) => {
                    newest.remove(&service);
                    self.end(service, ending).await?;
                }
                (None, _) => {}
            }
            next = updates.try_recv();
        }
        if let Err(TryRecvError::Lagged(_)) = next {
            return self.on_lag().await;
        }
        let mut unseen = Vec::new();
        for (service, status) in newest {
            match status {
                Some(status) => {
                    let status = self.app.tell(&status).await;
                    self.tell_if_it_cannot_wait(status).await?;
                }
                None => unseen.push(service),
            }
        }
        for status in self.look(unseen).await {
            self.tell_if_it_cannot_wait(status).await?;
        }
        Ok(())
    }

    /// Tells a change of state at once, and counts not too often.
    async fn tell_if_it_cannot_wait(&mut self, status: ServiceStatus) -> Result<(), ClientGone> {
        let followed = self.followed.iter().find(|each| each.service == status.service());
        let may_wait = followed.is_some_and(|each| {
            each.state() == Some(status.state) && Instant::now() < each.told_at + COUNTS_EVERY
        });
        if may_wait { Ok(()) } else { self.tell_if_still_on(status).await }
    }

    /// Updates were missed: whatever drained and does no more has ended.
    async fn on_lag(&mut self) -> Result<(), ClientGone> {
        let all = self.followed.iter().map(|each| each.service).collect();
        for status in self.look(all).await {
            if self.has_vanished(&status) {
                let reason = "it ended while this stream could not follow".to_owned();
                self.end_as(status, Ending { reason, at_deadline: false }).await?;
            } else {
                self.tell(status).await?;
            }
        }
        Ok(())
    }

    async fn on_time(&mut self) -> Result<(), ClientGone> {
        let now = Instant::now();
        if now >= self.renew_at {
            self.renew().await;
            // The new statuses say when to renew next.
            self.followed.iter_mut().for_each(|each| each.changed = true);
        }
        let due = self.followed.iter().filter(|each| each.due().is_some_and(|due| due <= now));
        let due: Vec<_> = due.map(|each| each.service).collect();
        let statuses = self.look(due.clone()).await;
        // Also where the look failed: it is not tried again before the next turn.
        for followed in self.followed.iter_mut().filter(|each| due.contains(&each.service)) {
            (followed.told_at, followed.changed) = (now, false);
        }
        for status in statuses {
            self.tell_if_still_on(status).await?;
        }
        Ok(())
    }

    async fn renew(&mut self) {
        for &service in &self.keep_alive {
            self.app.drains.renew(service).await;
        }
        self.renew_at = Instant::now() + RENEW_EVERY;
    }

    /// The services as they are now; nothing where that cannot be told, which the next turn tries again.
    async fn look(&self, services: Vec<Service>) -> Vec<ServiceStatus> {
        if services.is_empty() {
            return Vec::new();
        }
        self.app.told(services).await.unwrap_or_default()
    }

    /// Whether its drain has ended since it was last told.
    fn has_vanished(&self, status: &ServiceStatus) -> bool {
        let told = self.followed.iter().find(|each| each.service == status.service());
        let drained =
            told.and_then(|each| each.told.as_ref()).is_some_and(|told| told.drain.is_some());
        drained && status.drain.is_none()
    }

    /// Tells a status, but leaves the end of a drain to the update that says why.
    async fn tell_if_still_on(&mut self, status: ServiceStatus) -> Result<(), ClientGone> {
        if self.has_vanished(&status) { Ok(()) } else { self.tell(status).await }
    }

    async fn tell(&mut self, status: ServiceStatus) -> Result<(), ClientGone> {
        if let Some(drain) = &status.drain {
            let third = Duration::from_millis(drain.lease_in_ms / 3).max(RENEW_AT_MOST_EVERY);
            self.renew_at = self.renew_at.min(Instant::now() + third);
        }
        let service = status.service();
        if let Some(followed) = self.followed.iter_mut().find(|each| each.service == service) {
            followed.told = Some(status.clone());
            (followed.told_at, followed.changed) = (Instant::now(), false);
        }
        self.send(&StreamEvent::Status { service: status }).await
    }

    async fn end(&mut self, service: Service, ending: Ending) -> Result<(), ClientGone> {
        let last = self.followed.iter().find(|each| each.service == service);
        let last = last.and_then(|each| each.told.clone());
        match self.look(vec![service]).await.pop().or_else(|| last.map(as_ended)) {
            Some(status) => self.end_as(status, ending).await,
            None => {
                self.followed.retain(|each| each.service != service);
                Ok(())
            }
        }
    }

    async fn end_as(&mut self, service: ServiceStatus, ending: Ending) -> Result<(), ClientGone> {
        self.followed.retain(|each| each.service != service.service());
        self.keep_alive.retain(|&each| each != service.service());
        let Ending { reason, at_deadline } = ending;
        self.send(&StreamEvent::Ended { service, reason, at_deadline }).await
    }

    async fn send(&self, event: &StreamEvent) -> Result<(), ClientGone> {
        let mut line = serde_json::to_vec(event).map_err(|_| ClientGone)?;
        line.push(b'\n');
        let sent = tokio::time::timeout(UNREAD_FOR, self.lines.send(line.into())).await;
        sent.map_err(|_| ClientGone)?.map_err(|_| ClientGone)
    }
}

/// What to tell of a service that cannot be looked at any more, for example because its namespace is gone:
/// what was seen last, and that it is not known now.
fn as_ended(last: ServiceStatus) -> ServiceStatus {
    let unknown = Some("it could not be looked at again after the drain had ended".to_owned());
    ServiceStatus { state: StateName::Serving, drain: None, unknown, ..last }
}

#[cfg(test)]
#[path = "events_tests.rs"]
mod tests;

//! Waits on the agent's event stream until there is a verdict, across lost connections.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::{
    client::{Client, ClientError, Events},
    exit::{Exit, Failure},
    progress::Progress,
    text,
    watched::{Verdict, Watched},
};

/// First pause before a lost agent is tried again; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// Longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// How often the remaining time is redrawn on a terminal.
const REDRAW: Duration = Duration::from_secs(1);

/// Pauses that grow: 20 ms, 40 ms, … 500 ms.
#[derive(Debug)]
pub(super) struct Backoff(Duration);

impl Backoff {
    pub(super) fn new() -> Self {
        Self(FIRST_PAUSE)
    }

    /// Sleeps for the next pause, but not beyond `limit`.
    pub(super) async fn pause(&mut self, limit: Instant) {
        sleep_until((Instant::now() + self.0).min(limit)).await;
        self.0 = (self.0 * 2).min(LONGEST_PAUSE);
    }
}

/// Follows the services until there is a verdict. A lost agent is tried again until the deadline, and is
/// then [`Verdict::Unknown`].
///
/// # Errors
/// The agent refuses to show the services, or speaks another protocol.
pub(super) async fn follow(
    client: &Client,
    watched: &mut Watched,
    progress: &mut Progress<'_, '_>,
) -> Result<Verdict, Failure> {
    let mut backoff = Backoff::new();
    let mut told = false;
    loop {
        if let Some(verdict) = watched.verdict(Instant::now()) {
            return Ok(verdict);
        }
        let lost = match client.events(&watched.ids()).await {
            Ok(mut events) => {
                (backoff, told) = (Backoff::new(), false);
                match read(&mut events, watched, progress).await {
                    Ok(Some(verdict)) => return Ok(verdict),
                    Ok(None) => "it ended the event stream".to_owned(),
                    Err(error) => worth_a_retry(error)?,
                }
            }
            Err(ClientError::Refused { exit: Exit::NoSuchService, .. }) => {
                return Ok(watched.forgotten());
            }
            Err(error) => worth_a_retry(error)?,
        };
        let now = Instant::now();
        let deadline = watched.deadline(now);
        if now >= deadline {
            let agent = client.address();
            return Ok(Verdict::Unknown(format!("the agent at {agent} was lost: {lost}")));
        }
        if !std::mem::replace(&mut told, true) {
            progress.note(&lost_note(client, &lost, deadline - now));
        }
        backoff.pause(deadline).await;
    }
}

fn lost_note(client: &Client, why: &str, left: Duration) -> String {
    format!(
        "lost the agent at {} ({why}); trying again until the deadline, {} from now",
        client.address(),
        text::duration(left.as_millis() as u64)
    )
}

/// Reads events until there is a verdict; `None` if the agent ended the stream before.
async fn read(
    events: &mut Events,
    watched: &mut Watched,
    progress: &mut Progress<'_, '_>,
) -> Result<Option<Verdict>, ClientError> {
    let mut redraw = interval(REDRAW);
    redraw.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let patience = watched.patience(Instant::now());
        tokio::select! {
            event = events.next() => {
                let Some(event) = event? else { return Ok(None) };
                let now = Instant::now();
                if let Some(changed) = watched.apply(event, now) {
                    progress.changed(changed);
                }
                progress.redraw(watched, now);
                if let Some(verdict) = watched.verdict(now) {
                    return Ok(Some(verdict));
                }
            }
            () = sleep_until(patience) => {
                let verdict = watched.verdict(Instant::now());
                return Ok(Some(verdict.unwrap_or_else(|| watched.overdue())));
            }
            _ = redraw.tick(), if progress.is_live() => progress.redraw(watched, Instant::now()),
        }
    }
}

/// In words, what may pass by itself (an agent that restarts); everything else is a failure.
fn worth_a_retry(error: ClientError) -> Result<String, Failure> {
    match error {
        ClientError::Unreachable { why, .. } => Ok(why),
        ClientError::Refused { exit: Exit::Internal | Exit::Unverifiable, message } => Ok(message),
        other => Err(other.into()),
    }
}

/// Asks again while the agent cannot be reached, or has no time for it.
pub(super) async fn patiently<T, F: Future<Output = Result<T, Failure>>>(
    until: Instant,
    ask: impl Fn() -> F,
) -> Result<T, Failure> {
    let mut backoff = Backoff::new();
    loop {
        match ask().await {
            Err(failure) if failure.exit == Exit::Unreachable && Instant::now() < until => {
                backoff.pause(until).await;
            }
            result => return result,
        }
    }
}

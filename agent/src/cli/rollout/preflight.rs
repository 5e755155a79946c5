//! Before anything is touched: every agent answers and lets us, every instance is there and serves.

use std::collections::HashMap;

use tokio::{task::JoinSet, time::Instant};

use super::{
    gate,
    plan::{Course, Pass},
    worker::Worker,
};
use crate::cli::{
    drain,
    exit::{Exit, Failure},
    follow::patiently,
    services,
};

/// What was found of one instance.
struct Found {
    ids: Vec<String>,
    note: Option<String>,
}

/// Asks the agents of all with which something is to be done, at the same time. Returns what a person should know.
///
/// # Errors
/// Something is wrong with at least one: all are named, and the exit code is that of the first.
pub(super) async fn look(
    workers: &[Worker],
    courses: &[Course],
    pass: Pass,
) -> Result<Vec<String>, Failure> {
    let mut asked = JoinSet::new();
    let all = workers.iter().cloned().zip(courses.iter().copied());
    for (worker, course) in all.filter(|(_, course)| !course.is_done(pass)) {
        asked.spawn(async move { (worker.at, look_at(&worker, course).await) });
    }
    let mut found = asked.join_all().await;
    found.sort_by_key(|(at, _)| *at);
    let (mut notes, mut wrong) = (Vec::new(), Vec::new());
    let mut known: HashMap<(String, String), &str> = HashMap::new();
    for (at, result) in found {
        let instance = &workers[at].instance;
        let name = &*instance.name;
        let Found { ids, note } = match result {
            Ok(found) => found,
            Err(failure) => {
                wrong.push(Failure::new(failure.exit, format!("{name}: {failure}")));
                continue;
            }
        };
        notes.extend(note.map(|note| format!("{name}: {note}")));
        for id in ids {
            let other = known.insert((instance.agent.to_string(), id), name);
            if let Some(other) = other.filter(|other| *other != name) {
                let message = format!("{name}: it is the same service as {other}");
                wrong.push(Failure::new(Exit::Usage, message));
            }
        }
    }
    let Some(first) = wrong.first() else { return Ok(notes) };
    let each: Vec<String> = wrong.iter().map(ToString::to_string).collect();
    Err(Failure::new(first.exit, format!("{}; nothing was changed", each.join("\n  "))))
}

async fn look_at(worker: &Worker, course: Course) -> Result<Found, Failure> {
    let target = worker.target()?;
    drain::check_options(&worker.drain_args(&worker.instance.ports), &target)?;
    // It is ours, or was: whether it serves will be seen.
    let is_ours = course.is_out() || course.is_changed();
    let mut ids = Vec::new();
    for &port in &worker.instance.ports {
        match services::find(&worker.client, &target, port).await {
            Ok(service) => {
                if !is_ours {
                    gate::check_serves(&service)?;
                }
                ids.push(service.id);
            }
            Err(failure) if failure.exit == Exit::NoSuchService && is_ours => {}
            Err(failure) => return Err(failure),
        }
    }
    // Also shows that the agent can check, and lets us.
    let until = Instant::now() + gate::IF_UNREACHABLE;
    let sick = patiently(until, || worker.health()).await?.filter(|_| !is_ours);
    Ok(Found {
        ids,
        note: sick.map(|why| format!("is not healthy now, before it is released: {why}")),
    })
}

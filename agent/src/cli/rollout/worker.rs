//! Takes one instance through its steps.

use std::{collections::BTreeMap, io, path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::{
    args::RolloutArgs,
    command::Task,
    inventory::Instance,
    journal::Entry,
    plan::{Mark, Pass, Step},
    shared::Shared,
};
use crate::{
    api::protocol::{CheckRequest, CheckResult, StreamEvent},
    cli::{
        args::DrainArgs,
        client::Client,
        drain,
        exit::{Exit, Failure},
        follow::Backoff,
        new::New,
        ready, services,
        target::Target,
        text::{self, Streams},
        undrain,
        value::IfUnreachable,
    },
};

/// How long an agent that restarts is waited for.
const IF_UNREACHABLE: Duration = Duration::from_secs(5);
/// How long a server may take for one answer.
const CHECK_MS: u64 = 3000;
/// Time between two checks.
const PAUSE: Duration = Duration::from_millis(250);

/// One instance, and what is to be done with it.
#[derive(Clone)]
pub(super) struct Worker {
    pub(super) at: usize,
    pub(super) instance: Instance,
    pub(super) client: Client,
    pub(super) args: Arc<RolloutArgs>,
    /// Where what its commands print goes.
    pub(super) log: PathBuf,
}

impl Worker {
    /// Takes it from where it is to the end. After a failure its traffic is let in again if the version that it had
    /// still works; else it stays as it is.
    ///
    /// # Errors
    /// The step that failed; it has been written down.
    pub(super) async fn run(self, shared: Arc<Shared>) -> Result<(), Failure> {
        let Some(first) = shared.first_step(self.at) else { return Ok(()) };
        let Err(failure) = self.steps(first, &shared).await else { return Ok(()) };
        shared.mark(self.at, Mark::Failed, Some(failure.message.clone()))?;
        let reopens = shared.plan(|plan| plan.course(self.at).may_reopen(plan.pass()));
        if reopens {
            match self.open(&shared).await {
                Ok(()) => shared.mark(self.at, Mark::Reopened, None)?,
                Err(error) if error.exit == Exit::NoSuchService => {
                    shared.mark(self.at, Mark::Reopened, None)?;
                }
                Err(error) => shared
                    .note(Some(self.at), format!("its traffic cannot be let in again: {error}")),
            }
        }
        Err(failure)
    }

    async fn steps(&self, first: Step, shared: &Arc<Shared>) -> Result<(), Failure> {
        let (mut step, mut keeper) = (Some(first), None);
        while let Some(now) = step {
            if now != Step::Close && keeper.is_none() {
                keeper = Some(self.keep_closed(shared).await);
            }
            match now {
                Step::Close => {
                    shared.mark(self.at, Mark::Closing, None)?;
                    self.close(shared).await?;
                    shared.mark(self.at, Mark::Closed, None)?;
                }
                Step::Run => {
                    shared.mark(self.at, Mark::Running, None)?;
                    self.command(shared).await?;
                    shared.mark(self.at, Mark::Ran, None)?;
                }
                Step::Await => {
                    self.become_healthy(shared).await?;
                    shared.mark(self.at, Mark::Healthy, None)?;
                }
                Step::Open => {
                    drop(keeper.take());
                    self.open(shared).await?;
                    shared.mark(self.at, Mark::Done, None)?;
                    return Ok(());
                }
            }
            step = now.next();
        }
        Ok(())
    }

    /// Looked up each time: a release may make a new namespace.
    pub(super) fn target(&self) -> Result<Target, Failure> {
        Target::find(&self.instance.target)
    }

    /// Drains it, unless it is drained, and has it proven once more.
    async fn close(&self, shared: &Shared) -> Result<(), Failure> {
        let target = self.target()?;
        match self.proof(&target).await {
            Ok(Exit::Done) => return Ok(()),
            Err(failure) if failure.exit == Exit::NoSuchService && self.was_changed(shared) => {
                shared.note(Some(self.at), "nothing listens, so there is nothing to be drained");
                return Ok(());
            }
            Ok(_) => {}
            Err(failure) if failure.exit == Exit::Unreachable => {} // The drain waits for it.
            Err(failure) => return Err(failure),
        }
        let (mut out, mut err) = (Lines::new(self.at, shared), Lines::new(self.at, shared));
        let mut streams = Streams { out: &mut out, err: &mut err, live: false };
        let args = self.drain_args();
        let drained =
            drain::run(&args, &self.client, &mut streams, false, std::future::pending()).await?;
        if drained != Exit::Done {
            return Err(Failure::new(drained, format!("it is not drained: {}", err.last_remark)));
        }
        match self.proof(&target).await? {
            Exit::Done => Ok(()),
            exit => Err(Failure::new(exit, "that it is drained cannot be proven again")),
        }
    }

    fn was_changed(&self, shared: &Shared) -> bool {
        shared.plan(|plan| plan.course(self.at).is_changed())
    }

    /// Whether all its ports are drained, proven now.
    async fn proof(&self, target: &Target) -> Result<Exit, Failure> {
        let mut exit = Exit::Done;
        for &port in &self.instance.ports {
            let (this, _) = ready::ask(&self.client, target, port).await?;
            exit = if exit == Exit::Done || this == Exit::Unverifiable { this } else { exit };
        }
        Ok(exit)
    }

    /// What `drain` is to do with it.
    pub(super) fn drain_args(&self) -> DrainArgs {
        let options = &self.args.drain;
        DrainArgs {
            ports: self.instance.ports.clone(),
            quiet: options.quiet,
            min_settle: options.min_settle,
            max_settle: options.max_settle,
            timeout: options.timeout,
            new: vec![New::Reject],
            proxy_protocol: false,
            lease: Some(options.lease),
            keep_closed: true,
            close_anyway: options.close_anyway,
            wait_outbound: Vec::new(),
            no_wait: false,
            if_unreachable: IfUnreachable::Wait(IF_UNREACHABLE),
            admission: self.args.admission.clone(),
            retire: self.args.retire.clone(),
            target: self.instance.target.clone(),
        }
    }

    async fn command(&self, shared: &Shared) -> Result<(), Failure> {
        let (script, what, action) = match shared.pass() {
            Pass::Release => (&self.args.release, "the release command", "release"),
            Pass::Undo => (&self.args.rollback, "the rollback command", "rollback"),
        };
        let mut env = self.env();
        env.insert("DRAINCTL_ACTION".into(), action.into());
        env.insert("DRAINCTL_STAGE".into(), shared.plan(|plan| plan.stage(self.at)));
        let script = script.clone().unwrap_or_default();
        let (log, limit) = (self.log.clone(), self.args.command_timeout);
        let task = Task { script, what, env, log, limit };
        let instance = self.instance.name.clone();
        task.run(|pid, started| shared.write(&Entry::Command { instance, pid, started })).await
    }

    fn env(&self) -> BTreeMap<String, String> {
        let Instance { name, agent, ports, vars, .. } = &self.instance;
        let all: Vec<String> = ports.iter().map(u16::to_string).collect();
        let mut env = vars.clone();
        let ours = [
            ("INSTANCE", name.clone()),
            ("AGENT", agent.to_string()),
            ("TARGET", self.instance.place()),
            ("PORTS", all.join(",")),
        ];
        env.extend(ours.map(|(name, value)| (format!("DRAINCTL_{name}"), value)));
        env
    }

    /// Waits until all its ports accept, and it answers what it is asked.
    async fn become_healthy(&self, shared: &Shared) -> Result<(), Failure> {
        let mut said = String::new();
        let until = Instant::now() + self.args.health.health_timeout;
        loop {
            let why = match self.health().await {
                Ok(None) => return Ok(()),
                Ok(Some(why)) => why,
                Err(failure) if failure.exit == Exit::NotPermitted => return Err(failure),
                Err(failure) => failure.message, // It may be starting, or its agent.
            };
            if Instant::now() + PAUSE > until {
                let limit = text::duration(self.args.health.health_timeout.as_millis() as u64);
                let message = format!("it has not become healthy within {limit}: {why}");
                return Err(Failure::new(Exit::Deadline, message));
            }
            if why != said {
                shared.note(Some(self.at), format!("not healthy yet: {why}"));
                said = why;
            }
            sleep(PAUSE).await;
        }
    }

    /// Why it is not healthy.
    ///
    /// # Errors
    /// The agent cannot tell.
    pub(super) async fn health(&self) -> Result<Option<String>, Failure> {
        let target = self.target()?;
        for request in self.questions() {
            let port = request.port;
            let answer = self.client.post("/v1/checks", &target.fill_check(request)).await?;
            let CheckResult { healthy, why, .. } = answer;
            if !healthy {
                return Ok(Some(format!("port {port}: {}", why.unwrap_or_default())));
            }
        }
        Ok(None)
    }

    fn questions(&self) -> Vec<CheckRequest> {
        let question =
            |port| CheckRequest { port, timeout_ms: Some(CHECK_MS), ..CheckRequest::default() };
        let mut questions: Vec<_> = self.instance.ports.iter().copied().map(question).collect();
        if let Some(health) = &self.args.health.health {
            let port = health.port.unwrap_or(self.instance.ports[0]);
            let (path, host) = (Some(health.path.clone()), health.host.clone());
            questions.push(CheckRequest { path, host, ..question(port) });
        }
        questions
    }

    /// Lets its traffic in again.
    async fn open(&self, shared: &Shared) -> Result<(), Failure> {
        let target = self.target()?;
        for &port in &self.instance.ports {
            let undrained = undrain::undrain(&self.client, &target, port).await?;
            if !undrained.was_draining {
                shared.note(Some(self.at), format!("port {port} was serving already"));
            }
        }
        Ok(())
    }

    /// Renews the leases of its drains for as long as the result is kept.
    async fn keep_closed(&self, shared: &Arc<Shared>) -> Keeper {
        let mut ids = Vec::new();
        if let Ok(target) = self.target() {
            for &port in &self.instance.ports {
                if let Ok(service) = services::find(&self.client, &target, port).await {
                    ids.push(service.id);
                }
            }
        }
        let (client, shared, at) = (self.client.clone(), Arc::clone(shared), self.at);
        Keeper(tokio::spawn(async move {
            if let Some(reason) = keep(&client, &ids).await {
                shared.note(
                    Some(at),
                    format!("its traffic came in again before it was to: {reason}"),
                );
            }
        }))
    }
}

/// Whoever reads the events of a drain keeps its lease alive. Returns why it ended.
async fn keep(client: &Client, ids: &[String]) -> Option<String> {
    if ids.is_empty() {
        return None;
    }
    let mut backoff = Backoff::new();
    loop {
        if let Ok(mut events) = client.events(ids).await {
            backoff = Backoff::new();
            while let Ok(Some(event)) = events.next().await {
                if let StreamEvent::Ended { reason, .. } = event {
                    return Some(reason);
                }
            }
        }
        backoff.pause(Instant::now() + Duration::from_secs(1)).await;
    }
}

/// Ends the task when it is dropped.
struct Keeper(JoinHandle<()>);

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What `drain` prints, as remarks about an instance.
struct Lines<'a> {
    at: usize,
    shared: &'a Shared,
    buffer: Vec<u8>,
    /// The last line that is no part of a table.
    last_remark: String,
}

impl<'a> Lines<'a> {
    fn new(at: usize, shared: &'a Shared) -> Self {
        Self { at, shared, buffer: Vec::new(), last_remark: String::new() }
    }
}

impl io::Write for Lines<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let text = line.trim_end().trim_start_matches("drainctl: ");
            if line.starts_with("drainctl: ") {
                self.last_remark = text.to_owned();
            }
            self.shared.note(Some(self.at), text);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

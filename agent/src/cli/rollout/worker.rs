//! Takes one instance through its steps.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use super::{
    args::RolloutArgs,
    command::Task,
    gate::IF_UNREACHABLE,
    inventory::Instance,
    keeper::Keeper,
    plan::{Mark, Pass, Step},
    shared::Shared,
};
use crate::{
    api::protocol::{CheckRequest, CheckResult},
    cli::{
        args::DrainArgs,
        client::Client,
        exit::{Exit, Failure},
        new::New,
        target::Target,
        text,
        value::IfUnreachable,
    },
};

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
        // It is done, and only that could not be written.
        if shared.first_step(self.at).is_none() {
            return Err(failure);
        }
        if !self.is_out(&shared) {
            shared.note(Some(self.at), format!("nothing was done to it: {failure}"));
            return Err(failure);
        }
        // Should the journal be lost, the gate is opened all the same.
        if let Err(lost) = shared.mark(self.at, Mark::Failed, Some(failure.message.clone())) {
            shared.note(Some(self.at), lost.message);
        }
        // A drain with other options is not for us to end.
        let reopens = failure.exit != Exit::Conflict
            && shared.plan(|plan| plan.course(self.at).may_reopen(plan.pass()));
        if reopens {
            match self.open(&shared).await {
                Err(error) if error.exit != Exit::NoSuchService => {
                    let note = format!("its traffic cannot be let in again: {error}");
                    shared.note(Some(self.at), note);
                }
                _ => drop(shared.mark(self.at, Mark::Reopened, None)),
            }
        }
        Err(failure)
    }

    async fn steps(&self, first: Step, shared: &Arc<Shared>) -> Result<(), Failure> {
        let (mut step, mut keeper) = (Some(first), None);
        while let Some(now) = step {
            if now != Step::Close && keeper.is_none() {
                keeper = Some(Keeper::new(self.clone(), Arc::clone(shared)));
            }
            match now {
                Step::Close => self.closing(shared).await?,
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

    /// The first step, with what is written down about it.
    async fn closing(&self, shared: &Shared) -> Result<(), Failure> {
        if !self.is_out(shared) {
            self.check_is_serving().await?;
        }
        shared.mark(self.at, Mark::Closing, None)?;
        if self.close(shared).await? {
            return shared.mark(self.at, Mark::Closed, None);
        }
        shared.note(
            Some(self.at),
            "nothing listens, so there is nothing to be drained. It is not closed: what the command starts has traffic at \
             once",
        );
        shared.plan(|plan| plan.leave_open(self.at));
        Ok(())
    }

    fn is_out(&self, shared: &Shared) -> bool {
        shared.plan(|plan| plan.course(self.at).is_out())
    }

    /// Looked up each time: a release may make a new namespace.
    pub(super) fn target(&self) -> Result<Target, Failure> {
        Target::find(&self.instance.target)
    }

    /// What `drain` is to do with it.
    pub(super) fn drain_args(&self, ports: &[u16]) -> DrainArgs {
        let options = &self.args.drain;
        DrainArgs {
            ports: ports.to_vec(),
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
        let task = Task { script, what, env, log, limit, ends_with_us: false };
        task.run(|pid, started| shared.began(self.at, pid, started)).await
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
            let (exit, why) = match self.health().await {
                Ok(None) => return Ok(()),
                Ok(Some(why)) => (Exit::Deadline, why),
                Err(failure) if failure.exit == Exit::NotPermitted => return Err(failure),
                // It may be starting, or its agent.
                Err(failure) if failure.exit == Exit::Unreachable => {
                    (Exit::Unreachable, failure.message)
                }
                Err(failure) => (Exit::Deadline, failure.message),
            };
            if Instant::now() + PAUSE > until {
                let limit = text::duration(self.args.health.health_timeout.as_millis() as u64);
                let message = format!("it has not become healthy within {limit}: {why}");
                return Err(Failure::new(exit, message));
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
            let (path, host, tls) = (Some(health.path.clone()), health.host.clone(), health.tls);
            questions.push(CheckRequest { path, host, tls, ..question(port) });
        }
        questions
    }
}

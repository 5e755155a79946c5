//! Does what the plan says, and shows how it goes.

use std::{collections::BTreeMap, io::BufRead as _, path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc::UnboundedReceiver, oneshot},
    task::JoinSet,
    time::sleep,
};

use super::{
    args::RolloutArgs,
    command::{self, Task},
    interrupts::Interrupts,
    journal::Entry,
    plan::{Mark, Next, Pass},
    report::Report,
    shared::{Shared, Shown},
    worker::Worker,
};
use crate::cli::{
    exit::{Exit, Failure},
    text,
};

/// What has ended.
enum Ended {
    /// An instance's way.
    Worker(usize, Result<(), Failure>),
    /// What the canaries were to prove.
    Judged(Result<(), Failure>),
    /// The question whether to begin with an instance.
    Answered(usize, Result<(), Failure>),
}

/// A rollout that is under way.
pub(super) struct Drive<'a, 'b> {
    shared: Arc<Shared>,
    workers: Vec<Worker>,
    args: Arc<RolloutArgs>,
    shown: UnboundedReceiver<Shown>,
    report: Report<'a, 'b>,
    /// Where what the check of the canaries prints goes.
    log: PathBuf,
    under_way: JoinSet<Ended>,
    failure: Option<Failure>,
}

impl<'a, 'b> Drive<'a, 'b> {
    pub(super) fn new(
        shared: Arc<Shared>,
        workers: Vec<Worker>,
        args: Arc<RolloutArgs>,
        shown: UnboundedReceiver<Shown>,
        report: Report<'a, 'b>,
        log: PathBuf,
    ) -> Self {
        let (under_way, failure) = (JoinSet::new(), None);
        Self { shared, workers, args, shown, report, log, under_way, failure }
    }

    /// Goes on until everything is done, or nothing more is to be. At the first interrupt nothing new begins; at the
    /// second it returns at once.
    ///
    /// # Errors
    /// The first thing that went wrong.
    pub(super) async fn run(mut self, mut interrupts: Interrupts) -> Result<Exit, Failure> {
        let mut is_interrupted = false;
        loop {
            match self.shared.plan(|plan| plan.next()) {
                Next::Begin(at) => self.begin(at),
                Next::Ask(at) => self.ask(at),
                Next::Judge => self.judge(),
                Next::Finished | Next::Stopped => break,
                Next::Wait => tokio::select! {
                    biased;
                    Some(shown) = self.shown.recv() => self.show(&shown),
                    Some(ended) = self.under_way.join_next() => self.ended(ended)?,
                    signal = interrupts.next() => {
                        if std::mem::replace(&mut is_interrupted, true) {
                            break;
                        }
                        let message = format!("interrupted by {signal}");
                        self.stop(Failure::new(Exit::Interrupted, message));
                        self.report.note(None, &format!(
                            "{signal}: nothing new is begun; what is under way goes on to its end. Once more: leave at once"
                        ));
                    }
                },
            }
        }
        // Ends the check of the canaries too.
        self.under_way.shutdown().await;
        self.end()
    }

    fn show(&mut self, shown: &Shown) {
        let Self { shared, report, .. } = self;
        shared.plan(|plan| report.show(shown, plan));
    }

    fn begin(&mut self, at: usize) {
        self.shared.plan(|plan| plan.begin(at));
        let (worker, shared) = (self.workers[at].clone(), Arc::clone(&self.shared));
        self.under_way.spawn(async move { Ended::Worker(at, worker.run(shared).await) });
    }

    fn ask(&mut self, at: usize) {
        self.shared.plan(|plan| plan.ask());
        self.report.ask(&format!("begin with {}?", self.workers[at].instance.name));
        self.under_way.spawn(async move { Ended::Answered(at, yes().await) });
    }

    /// Has the canaries prove themselves: by time, by a command, by a person, whichever is wanted, in this order.
    fn judge(&mut self) {
        self.shared.plan(|plan| plan.ask());
        let pace = &self.args.pace;
        let names: Vec<&str> = self.workers.iter().map(|worker| &*worker.instance.name).collect();
        let names = names[..pace.canary.unwrap_or(0).min(names.len())].join(" ");
        let task = pace.canary_check.clone().map(|script| Task {
            script,
            what: "the check of the canaries",
            env: BTreeMap::from([("DRAINCTL_INSTANCES".into(), names.clone())]),
            log: self.log.clone(),
            limit: self.args.command_timeout,
            ends_with_us: true,
        });
        let wait = pace.canary_wait.unwrap_or(Duration::ZERO);
        if !wait.is_zero() {
            let how_long = text::duration(wait.as_millis() as u64);
            self.report
                .note(None, &format!("the canaries are released ({names}); waiting {how_long}"));
        }
        let question =
            pace.canary_ask.then(|| format!("the canaries are released ({names}); go on?"));
        let shared = Arc::clone(&self.shared);
        self.under_way.spawn(async move {
            sleep(wait).await;
            if let Some(task) = task {
                shared.note(None, "the check of the canaries runs");
                if let Err(failure) = task.run(|_, _| Ok(())).await {
                    return Ended::Judged(Err(failure));
                }
            }
            let Some(question) = question else { return Ended::Judged(Ok(())) };
            shared.ask(question);
            Ended::Judged(yes().await)
        });
    }

    fn ended(&mut self, ended: Result<Ended, tokio::task::JoinError>) -> Result<(), Failure> {
        match ended.map_err(|error| Failure::new(Exit::Internal, error.to_string()))? {
            Ended::Worker(at, result) => {
                self.shared.plan(|plan| plan.end(at));
                if let Err(failure) = result {
                    let name = &self.workers[at].instance.name;
                    self.stop(Failure::new(failure.exit, format!("{name}: {failure}")));
                }
            }
            Ended::Answered(at, Ok(())) => self.shared.plan(|plan| plan.grant(at)),
            Ended::Judged(Ok(())) => match self.shared.write(&Entry::Canary) {
                Ok(()) => self.shared.plan(|plan| plan.pass_canaries()),
                Err(failure) => self.stop(failure),
            },
            Ended::Answered(_, Err(failure)) | Ended::Judged(Err(failure)) => self.stop(failure),
        }
        Ok(())
    }

    fn stop(&mut self, failure: Failure) {
        self.shared.plan(|plan| plan.stop());
        self.failure.get_or_insert(failure);
    }

    /// The report, and how to go on.
    fn end(mut self) -> Result<Exit, Failure> {
        while let Ok(shown) = self.shown.try_recv() {
            self.show(&shown);
        }
        self.leave();
        let pass = self.shared.pass();
        if self.failure.is_none() {
            self.failure = self.shared.write(&Entry::Finished { pass }).err();
        }
        let exit = self.failure.as_ref().map_or(Exit::Done, |failure| failure.exit);
        let outcome = match (&self.failure, pass) {
            (Some(_), _) => "stopped",
            (None, Pass::Release) => "finished",
            (None, Pass::Undo) => "undone",
        };
        let Self { shared, report, .. } = &mut self;
        shared.plan(|plan| report.end(plan, outcome, exit.code()));
        let Some(failure) = self.failure else { return Ok(Exit::Done) };
        let out = self.shared.plan(|plan| plan.kept_out());
        Err(Failure::new(
            failure.exit,
            format!("stopped: {failure}. {}", self.args.how_to_go_on(pass, out)),
        ))
    }

    /// Says of those that are left in the middle what goes on without us.
    fn leave(&mut self) {
        let left = self.shared.plan(|plan| plan.left_running());
        for (at, mark) in left {
            let why = match mark {
                Mark::Closing => "left while it was being drained; the drain goes on".to_owned(),
                Mark::Running => match self.shared.command(at) {
                    Some((pid, started)) if command::runs(pid, started) => {
                        format!("left while its command ran, which goes on as process {pid}")
                    }
                    _ => "left while its command ran".to_owned(),
                },
                Mark::Ran => "left before it had become healthy".to_owned(),
                // Why is known.
                Mark::Failed => continue,
                _ => "left between two steps".to_owned(),
            };
            self.report.left(at, why);
        }
    }
}

impl RolloutArgs {
    /// What a person can do now.
    pub(super) fn how_to_go_on(&self, pass: Pass, out: usize) -> String {
        let words: Vec<String> = self.instances.iter().map(|word| text::quoted(word)).collect();
        let which = words.join(" ");
        let (go_on, back) = match pass {
            Pass::Release => (
                "--resume",
                format!(", or take it back: drainctl rollout {which} --undo --rollback …"),
            ),
            Pass::Undo => ("--undo", String::new()),
        };
        let lease = text::duration(self.drain.lease.as_millis() as u64);
        let kept_out = match out {
            0 => String::new(),
            1 => format!(
                " One instance is kept out; after {lease} (--lease) its traffic comes back by itself."
            ),
            some => format!(
                " {some} instances are kept out; after {lease} (--lease) their traffic comes back by itself."
            ),
        };
        format!("To go on, run the same with {go_on}{back}.{kept_out}")
    }
}

/// Reads y from stdin.
///
/// # Errors
/// It was something else, or the end.
async fn yes() -> Result<(), Failure> {
    let (tell, told) = oneshot::channel();
    // A thread that nobody waits for: else drainctl could not end before somebody has pressed a key.
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = std::io::stdin().lock().read_line(&mut line);
        let _ = tell.send(read.map(|_| line));
    });
    let no = |why: String| Err(Failure::new(Exit::Interrupted, why));
    match told.await {
        Ok(Ok(line)) if line.is_empty() => {
            no("nobody answered: stdin is at its end (a person's go needs a terminal or a pipe)"
                .into())
        }
        Ok(Ok(line)) if matches!(line.trim(), "y" | "Y" | "yes") => Ok(()),
        Ok(Ok(_)) => no("the answer was not y".into()),
        Ok(Err(error)) => no(format!("nobody can answer: cannot read stdin: {error}")),
        Err(error) => no(error.to_string()),
    }
}

//! What the tasks of a rollout share: the plan, the journal, and whom to tell.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::mpsc::UnboundedSender;

use super::{
    journal::{Entry, Journal},
    plan::{Mark, Pass, Plan, Step},
};
use crate::cli::exit::Failure;

/// Something to be shown.
#[derive(Clone, Debug)]
pub(super) enum Shown {
    /// An instance has come so far.
    Mark { instance: usize, mark: Mark, why: Option<String> },
    /// A question to a person.
    Ask { question: String },
    /// A remark; of an instance, or of all.
    Note { instance: Option<usize>, text: String },
}

/// See the module.
pub(super) struct Shared {
    names: Vec<String>,
    state: Mutex<State>,
    show: UnboundedSender<Shown>,
}

struct State {
    plan: Plan,
    journal: Journal,
    /// The process of the last command of each instance, and when it began.
    commands: HashMap<usize, (u32, u64)>,
}

impl Shared {
    pub(super) fn new(
        names: Vec<String>,
        plan: Plan,
        journal: Journal,
        show: UnboundedSender<Shown>,
    ) -> Self {
        Self { names, state: Mutex::new(State { plan, journal, commands: HashMap::new() }), show }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the plan, or changes it.
    pub(super) fn plan<T>(&self, with: impl FnOnce(&mut Plan) -> T) -> T {
        with(&mut self.state().plan)
    }

    pub(super) fn pass(&self) -> Pass {
        self.plan(|plan| plan.pass())
    }

    pub(super) fn first_step(&self, instance: usize) -> Option<Step> {
        self.plan(|plan| plan.course(instance).first_step(plan.pass()))
    }

    /// Writes down how far an instance has come, and only then has the plan know. What is so already the plan is told in
    /// any case: the report is to say what is, not what could be written.
    ///
    /// # Errors
    /// It could not be written; then what the mark announces is not to be done.
    pub(super) fn mark(
        &self,
        instance: usize,
        mark: Mark,
        why: Option<String>,
    ) -> Result<(), Failure> {
        let mut state = self.state();
        let (name, pass) = (self.names[instance].clone(), state.plan.pass());
        let step = Entry::Step { instance: name, pass, mark, why: why.clone() };
        let written = state.journal.append(&step);
        if written.is_ok() || mark.is_so_already() {
            state.plan.apply(instance, mark);
            // Nobody may be there any more to be shown it.
            let _ = self.show.send(Shown::Mark { instance, mark, why });
        }
        written
    }

    /// Writes down which process the command of an instance is.
    ///
    /// # Errors
    /// It could not be written.
    pub(super) fn began(&self, instance: usize, pid: u32, started: u64) -> Result<(), Failure> {
        let mut state = self.state();
        let name = self.names[instance].clone();
        state.journal.append(&Entry::Command { instance: name, pid, started })?;
        state.commands.insert(instance, (pid, started));
        Ok(())
    }

    /// The process of the last command of an instance, and when it began.
    pub(super) fn command(&self, instance: usize) -> Option<(u32, u64)> {
        self.state().commands.get(&instance).copied()
    }

    /// Writes down anything else.
    ///
    /// # Errors
    /// It could not be written.
    pub(super) fn write(&self, entry: &Entry) -> Result<(), Failure> {
        self.state().journal.append(entry)
    }

    /// A question to a person.
    pub(super) fn ask(&self, question: String) {
        let _ = self.show.send(Shown::Ask { question });
    }

    /// A remark.
    pub(super) fn note(&self, instance: Option<usize>, text: impl Into<String>) {
        let _ = self.show.send(Shown::Note { instance, text: text.into() });
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::unbounded_channel;

    use super::*;
    use crate::cli::rollout::plan::{Course, Rules};

    #[test]
    fn what_is_so_is_known_although_it_cannot_be_written() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::unwritable(&dir.path().join("journal"));
        let rules = Rules { pass: Pass::Release, canary: 0, batch: 1, max_out: 1, ask: false };
        let plan = Plan::new(rules, vec![Course::default()], true);
        let (show, mut shown) = unbounded_channel();
        let shared = Shared::new(vec!["a".into()], plan, journal, show);
        let table = [
            (Mark::Closing, None),
            (Mark::Running, None),
            (Mark::Done, Some(Mark::Done)),
            (Mark::Healthy, Some(Mark::Done)),
            (Mark::Failed, Some(Mark::Failed)),
            (Mark::Reopened, Some(Mark::Reopened)),
        ];
        for (mark, known) in table {
            let failure = shared.mark(0, mark, None).unwrap_err();
            assert!(failure.message.contains("cannot write the journal"), "{failure}");
            assert_eq!(shared.plan(|plan| plan.course(0).last()), known, "{mark:?}");
            assert_eq!(shown.try_recv().is_ok(), known == Some(mark), "{mark:?}");
        }
    }
}

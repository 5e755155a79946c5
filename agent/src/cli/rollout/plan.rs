//! What to do next: pure. It knows what the journal says of each instance, and what is under way; the rest of this
//! module does what it is told.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// What is done to the instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Pass {
    /// The new version comes.
    Release,
    /// The old version comes back.
    Undo,
}

/// How far an instance has come in a pass. Each is written down before what it names is begun, or once it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Mark {
    /// Its drain is about to be asked for.
    Closing,
    /// It is drained, proven.
    Closed,
    /// The command is about to be run.
    Running,
    /// The command has succeeded.
    Ran,
    /// It answers.
    Healthy,
    /// Its traffic is back.
    Done,
    /// Something went wrong.
    Failed,
    /// Something went wrong before the command was begun, and its traffic is back.
    Reopened,
}

impl Mark {
    /// Whether it says what has happened, and nothing is begun because of it.
    pub(super) fn is_so_already(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Reopened)
    }
}

/// What can be done to an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Drain it, and have it proven.
    Close,
    /// Run the command.
    Run,
    /// Wait until it answers.
    Await,
    /// Let its traffic in again.
    Open,
}

impl Step {
    /// What comes after it.
    pub(super) fn next(self) -> Option<Self> {
        match self {
            Self::Close => Some(Self::Run),
            Self::Run => Some(Self::Await),
            Self::Await => Some(Self::Open),
            Self::Open => None,
        }
    }
}

/// What has been done to one instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Course {
    release: Option<Mark>,
    undo: Option<Mark>,
    /// Whether a command was begun, in this pass or the one before: the old version may be gone.
    changed: bool,
    /// Whether the rollback command was begun.
    undo_begun: bool,
}

impl Course {
    /// Takes in what was done.
    pub(super) fn apply(&mut self, pass: Pass, mark: Mark) {
        match pass {
            Pass::Release => self.release = Some(mark),
            Pass::Undo => self.undo = Some(mark),
        }
        match (pass, mark) {
            (Pass::Release, Mark::Running) => self.changed = true,
            (Pass::Undo, Mark::Running) => self.undo_begun = true,
            (Pass::Undo, Mark::Done) => (self.changed, self.undo_begun) = (false, false),
            _ => {}
        }
    }

    /// The last that was done.
    pub(super) fn last(&self) -> Option<Mark> {
        self.undo.or(self.release)
    }

    /// Whether its traffic is, or may be, kept out.
    pub(super) fn is_out(&self) -> bool {
        !matches!(self.last(), None | Some(Mark::Done | Mark::Reopened))
    }

    /// Whether the old version may be gone.
    pub(super) fn is_changed(&self) -> bool {
        self.changed
    }

    /// Whether it has what the pass is to bring.
    pub(super) fn is_done(&self, pass: Pass) -> bool {
        self.first_step(pass).is_none()
    }

    /// Whether, after a failure, a version that works is still there: then its traffic is let in again.
    pub(super) fn may_reopen(&self, pass: Pass) -> bool {
        match pass {
            Pass::Release => !self.changed,
            Pass::Undo => !self.changed || self.release == Some(Mark::Done) && !self.undo_begun,
        }
    }

    /// Where to begin, or to go on; `None`: there is nothing to do. What was interrupted or has failed begins again
    /// with the drain, which is cheap if it is still in place.
    pub(super) fn first_step(&self, pass: Pass) -> Option<Step> {
        let mark = match pass {
            Pass::Release => self.release,
            Pass::Undo if !self.changed => return self.is_out().then_some(Step::Open),
            Pass::Undo => self.undo,
        };
        match mark {
            Some(Mark::Ran) => Some(Step::Await),
            Some(Mark::Healthy) => Some(Step::Open),
            Some(Mark::Done) => None,
            _ => Some(Step::Close),
        }
    }
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Begin with this instance.
    Begin(usize),
    /// Ask a person whether to.
    Ask(usize),
    /// See whether the canaries are well.
    Judge,
    /// Something is under way.
    Wait,
    /// Everything is done.
    Finished,
    /// There is more to do, and it is not to be done.
    Stopped,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rules {
    pub(super) pass: Pass,
    /// How many come first, and are judged before the others; 0: none.
    pub(super) canary: usize,
    /// How many belong to a batch.
    pub(super) batch: usize,
    /// How many may be out at once.
    pub(super) max_out: usize,
    /// Whether a person is asked before each.
    pub(super) ask: bool,
}

/// The whole rollout.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    rules: Rules,
    courses: Vec<Course>,
    stages: Vec<Vec<usize>>,
    canaries_are_well: bool,
    running: BTreeSet<usize>,
    /// Those that are missing although nothing is closed.
    left_open: BTreeSet<usize>,
    /// A person or a command is being waited for.
    asking: bool,
    /// What a person has said yes to.
    granted: Option<usize>,
    stopped: bool,
}

impl Plan {
    /// A plan for instances of which the journal says so much. What is undone begins with what came last.
    pub(super) fn new(rules: Rules, courses: Vec<Course>, canaries_are_well: bool) -> Self {
        let mut order: Vec<usize> = (0..courses.len()).collect();
        let canaries: Vec<usize> = match rules.pass {
            Pass::Release => order.drain(..rules.canary.min(order.len())).collect(),
            Pass::Undo => {
                order.reverse();
                Vec::new()
            }
        };
        let batches = order.chunks(rules.batch.max(1)).map(<[usize]>::to_vec);
        let first = (!canaries.is_empty()).then_some(canaries);
        let canaries_are_well = canaries_are_well || first.is_none();
        let stages = first.into_iter().chain(batches).collect();
        let (running, left_open) = (BTreeSet::new(), BTreeSet::new());
        let (asking, granted, stopped) = (false, None, false);
        Self {
            rules,
            courses,
            stages,
            canaries_are_well,
            running,
            left_open,
            asking,
            granted,
            stopped,
        }
    }

    pub(super) fn pass(&self) -> Pass {
        self.rules.pass
    }

    pub(super) fn course(&self, instance: usize) -> &Course {
        &self.courses[instance]
    }

    /// The stage that an instance belongs to, in words.
    pub(super) fn stage(&self, instance: usize) -> String {
        let has_canaries = self.rules.pass == Pass::Release && self.rules.canary > 0;
        match self.stages.iter().position(|stage| stage.contains(&instance)) {
            Some(0) if has_canaries => "canary".into(),
            Some(at) => format!("batch-{}", at + usize::from(!has_canaries)),
            None => String::new(),
        }
    }

    /// How many have what the pass is to bring, and how many are out.
    pub(super) fn counts(&self) -> (usize, usize) {
        let done = self.courses.iter().filter(|course| course.is_done(self.rules.pass)).count();
        (done, self.out())
    }

    fn out(&self) -> usize {
        let is_out = |at: &usize| self.courses[*at].is_out() || self.running.contains(at);
        (0..self.courses.len()).filter(is_out).count()
    }

    /// Whether the traffic of an instance is, or may be, kept out by its gate.
    pub(super) fn is_kept_out(&self, instance: usize) -> bool {
        self.courses[instance].is_out() && !self.left_open.contains(&instance)
    }

    /// How many are.
    pub(super) fn kept_out(&self) -> usize {
        (0..self.courses.len()).filter(|at| self.is_kept_out(*at)).count()
    }

    /// It is released without being closed: nothing was there to be drained.
    pub(super) fn leave_open(&mut self, instance: usize) {
        self.left_open.insert(instance);
    }

    /// What to do now. Whoever does it says so first: [`Plan::begin`], [`Plan::ask`].
    pub(super) fn next(&self) -> Next {
        let waits = !self.running.is_empty() || self.asking;
        if self.stopped || self.asking || self.rules.ask && waits {
            return if waits { Next::Wait } else { Next::Stopped };
        }
        let Some(next) = self.candidate() else {
            return match (waits, self.is_done()) {
                (true, _) => Next::Wait,
                (false, true) => Next::Finished,
                (false, false) => Next::Judge,
            };
        };
        if !self.courses[next].is_out() && self.out() >= self.rules.max_out {
            return Next::Wait;
        }
        let is_granted = !self.rules.ask || self.granted == Some(next);
        if is_granted { Next::Begin(next) } else { Next::Ask(next) }
    }

    /// What is out already comes first: it is missed. Then the first stage that is not done.
    fn candidate(&self) -> Option<usize> {
        let todo = |at: &usize| !self.courses[*at].is_done(self.rules.pass);
        let idle = |at: &usize| todo(at) && !self.running.contains(at);
        let out = (0..self.courses.len()).find(|at| idle(at) && self.courses[*at].is_out());
        if out.is_some() {
            return out;
        }
        let at = self.stages.iter().position(|stage| stage.iter().any(todo))?;
        let may_begin = at == 0 || self.canaries_are_well;
        self.stages[at].iter().copied().find(|at| may_begin && idle(at))
    }

    fn is_done(&self) -> bool {
        let is_done = |course: &Course| course.is_done(self.rules.pass);
        self.canaries_are_well && self.courses.iter().all(is_done)
    }

    /// An instance is under way.
    pub(super) fn begin(&mut self, instance: usize) {
        self.running.insert(instance);
        self.granted = None;
    }

    /// Something was done to it.
    pub(super) fn apply(&mut self, instance: usize, mark: Mark) {
        self.courses[instance].apply(self.rules.pass, mark);
    }

    /// What is under way, and how far each has come; not what nothing was done to.
    pub(super) fn left_running(&self) -> Vec<(usize, Mark)> {
        let out = self.running.iter().filter(|at| self.courses[**at].is_out());
        out.filter_map(|at| Some((*at, self.courses[*at].last()?))).collect()
    }

    /// It is not under way any more.
    pub(super) fn end(&mut self, instance: usize) {
        self.running.remove(&instance);
    }

    /// A person is asked, or the canaries are judged.
    pub(super) fn ask(&mut self) {
        self.asking = true;
    }

    /// Yes, do begin with it.
    pub(super) fn grant(&mut self, instance: usize) {
        (self.asking, self.granted) = (false, Some(instance));
    }

    /// The canaries are well.
    pub(super) fn pass_canaries(&mut self) {
        (self.asking, self.canaries_are_well) = (false, true);
    }

    /// Nothing new begins from now on.
    pub(super) fn stop(&mut self) {
        (self.asking, self.stopped) = (false, true);
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;

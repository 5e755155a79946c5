//! The plan, by tables, and by simulations in which the program is killed at random moments.

use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};

use super::*;

fn rules(pass: Pass, canary: usize, batch: usize, max_out: usize) -> Rules {
    Rules { pass, canary, batch, max_out, ask: false }
}

fn course(marks: &[(Pass, Mark)]) -> Course {
    let mut course = Course::default();
    marks.iter().for_each(|(pass, mark)| course.apply(*pass, *mark));
    course
}

fn released() -> Course {
    use Mark::{Closed, Closing, Done, Healthy, Ran, Running};
    course(&[Closing, Closed, Running, Ran, Healthy, Done].map(|mark| (Pass::Release, mark)))
}

/// What was done, where a release and an undo go on, and whether it is out.
type Case<'a> = (&'a [Mark], Option<Step>, Option<Step>, bool);

#[test]
fn where_an_instance_goes_on() {
    use Mark::*;
    use Pass::{Release, Undo};
    let table: &[Case<'_>] = &[
        (&[], Some(Step::Close), None, false),
        (&[Closing], Some(Step::Close), Some(Step::Open), true),
        (&[Closing, Closed], Some(Step::Close), Some(Step::Open), true),
        (&[Closing, Failed], Some(Step::Close), Some(Step::Open), true),
        (&[Closing, Failed, Reopened], Some(Step::Close), None, false),
        (&[Closing, Closed, Running], Some(Step::Close), Some(Step::Close), true),
        (&[Closing, Closed, Running, Failed], Some(Step::Close), Some(Step::Close), true),
        (&[Closing, Closed, Running, Ran], Some(Step::Await), Some(Step::Close), true),
        (&[Closing, Closed, Running, Ran, Failed], Some(Step::Close), Some(Step::Close), true),
        (&[Closing, Closed, Running, Ran, Healthy], Some(Step::Open), Some(Step::Close), true),
        (&[Closing, Closed, Running, Ran, Healthy, Done], None, Some(Step::Close), false),
    ];
    for (marks, release, undo, out) in table {
        let marks: Vec<_> = marks.iter().map(|mark| (Release, *mark)).collect();
        let course = course(&marks);
        assert_eq!(course.first_step(Release), *release, "{marks:?}");
        assert_eq!(course.first_step(Undo), *undo, "{marks:?}");
        assert_eq!(course.is_out(), *out, "{marks:?}");
    }
}

#[test]
fn what_works_is_put_back_and_what_may_not_is_kept_out() {
    use Mark::*;
    use Pass::{Release, Undo};
    let with = |marks: &[(Pass, Mark)]| {
        let mut course = released();
        marks.iter().for_each(|(pass, mark)| course.apply(*pass, *mark));
        course
    };
    let table = [
        ("the drain failed", course(&[(Release, Closing), (Release, Failed)]), Release, true),
        ("the command failed", course(&[(Release, Running), (Release, Failed)]), Release, false),
        ("again, before it ran", course(&[(Release, Running), (Release, Closing)]), Release, false),
        ("the new version is there", with(&[(Undo, Closing), (Undo, Failed)]), Undo, true),
        ("the rollback failed", with(&[(Undo, Running), (Undo, Failed)]), Undo, false),
        ("half released", course(&[(Release, Running), (Undo, Closing)]), Undo, false),
        ("never released", course(&[(Release, Closed)]), Undo, true),
    ];
    for (what, course, pass, reopens) in table {
        assert_eq!(course.may_reopen(pass), reopens, "{what}");
    }
}

/// Has everything that may begin, begin; which ones.
fn begin_all(plan: &mut Plan) -> Vec<usize> {
    let mut begun = Vec::new();
    while let Next::Begin(instance) = plan.next() {
        plan.begin(instance);
        begun.push(instance);
    }
    begun
}

fn finish(plan: &mut Plan, instances: &[usize]) {
    for &instance in instances {
        for mark in [Mark::Closing, Mark::Running, Mark::Done] {
            plan.apply(instance, mark);
        }
        plan.end(instance);
    }
}

#[test]
fn canaries_then_batches() {
    let mut plan = Plan::new(rules(Pass::Release, 2, 3, 3), vec![Course::default(); 7], false);
    assert_eq!(begin_all(&mut plan), [0, 1]);
    assert_eq!(plan.next(), Next::Wait);
    finish(&mut plan, &[0, 1]);
    assert_eq!(plan.next(), Next::Judge);
    plan.ask();
    assert_eq!(plan.next(), Next::Wait);
    plan.pass_canaries();
    assert_eq!(begin_all(&mut plan), [2, 3, 4]);
    finish(&mut plan, &[2]);
    assert_eq!(plan.next(), Next::Wait, "the batch is not done");
    finish(&mut plan, &[3, 4]);
    assert_eq!(begin_all(&mut plan), [5, 6]);
    finish(&mut plan, &[5, 6]);
    assert_eq!(plan.next(), Next::Finished);
    assert_eq!(
        (plan.stage(1), plan.stage(3), plan.stage(6)),
        ("canary".into(), "batch-1".into(), "batch-2".into())
    );
}

#[test]
fn canaries_are_judged_also_where_there_is_nobody_else() {
    let mut plan = Plan::new(rules(Pass::Release, 2, 1, 2), vec![Course::default(); 2], false);
    let begun = begin_all(&mut plan);
    finish(&mut plan, &begun);
    assert_eq!(plan.next(), Next::Judge);
    plan.pass_canaries();
    assert_eq!(plan.next(), Next::Finished);
}

#[test]
fn never_more_out_than_permitted() {
    let mut plan = Plan::new(rules(Pass::Release, 0, 3, 2), vec![Course::default(); 3], false);
    assert_eq!(begin_all(&mut plan), [0, 1]);
    plan.apply(0, Mark::Closing);
    assert_eq!(plan.next(), Next::Wait);
    finish(&mut plan, &[0]);
    assert_eq!(begin_all(&mut plan), [2]);
}

#[test]
fn after_a_failure_nothing_new_begins() {
    let mut plan = Plan::new(rules(Pass::Release, 0, 2, 2), vec![Course::default(); 4], false);
    assert_eq!(begin_all(&mut plan), [0, 1]);
    plan.apply(0, Mark::Running);
    plan.apply(0, Mark::Failed);
    plan.end(0);
    plan.stop();
    assert_eq!(plan.next(), Next::Wait, "what is under way is done to its end");
    finish(&mut plan, &[1]);
    assert_eq!(plan.next(), Next::Stopped);
    assert_eq!(plan.counts(), (1, 1));
}

#[test]
fn what_is_out_comes_first_when_it_goes_on() {
    let mut courses = vec![released(), Course::default(), Course::default(), Course::default()];
    courses[3] = course(&[(Pass::Release, Mark::Running), (Pass::Release, Mark::Failed)]);
    let mut plan = Plan::new(rules(Pass::Release, 1, 1, 1), courses, true);
    assert_eq!(begin_all(&mut plan), [3]);
    finish(&mut plan, &[3]);
    assert_eq!(begin_all(&mut plan), [1]);
}

#[test]
fn one_by_one_a_person_is_asked_each_time() {
    let rules = Rules { ask: true, ..rules(Pass::Release, 0, 3, 3) };
    let mut plan = Plan::new(rules, vec![Course::default(); 2], false);
    assert_eq!(plan.next(), Next::Ask(0));
    plan.ask();
    assert_eq!(plan.next(), Next::Wait);
    plan.grant(0);
    assert_eq!(begin_all(&mut plan), [0]);
    assert_eq!(plan.next(), Next::Wait, "one by one");
    finish(&mut plan, &[0]);
    assert_eq!(plan.next(), Next::Ask(1));
    plan.stop();
    assert_eq!(plan.next(), Next::Stopped);
}

#[test]
fn what_was_released_is_undone_from_its_end() {
    let failed = course(&[(Pass::Release, Mark::Running), (Pass::Release, Mark::Failed)]);
    let drained = course(&[(Pass::Release, Mark::Closed)]);
    let courses = vec![released(), released(), failed, drained, Course::default()];
    let mut plan = Plan::new(rules(Pass::Undo, 1, 1, 2), courses, false);
    assert_eq!(begin_all(&mut plan), [2, 3], "what is out first, and no more");
    finish(&mut plan, &[2, 3]);
    assert_eq!(begin_all(&mut plan), [1]);
    finish(&mut plan, &[1]);
    assert_eq!(begin_all(&mut plan), [0]);
    finish(&mut plan, &[0]);
    assert_eq!(plan.next(), Next::Finished, "no canaries, and what was untouched stays so");
}

/// What is really so of an instance, which the plan must not need to know.
#[derive(Clone, Copy, Debug, Default)]
struct Truth {
    closed: bool,
    /// What it runs: 0 the old version, 1 the new one, 2 something in between.
    version: u8,
}

/// A rollout in a world where programs are killed and commands fail.
struct World {
    rng: SmallRng,
    truth: Vec<Truth>,
    journal: Vec<(usize, Pass, Mark)>,
    well: bool,
    rules: Rules,
    can_fail: bool,
}

impl World {
    fn courses(&self) -> Vec<Course> {
        let mut courses = vec![Course::default(); self.truth.len()];
        self.journal.iter().for_each(|(at, pass, mark)| courses[*at].apply(*pass, *mark));
        courses
    }

    fn note(&mut self, plan: &mut Plan, at: usize, mark: Mark) {
        self.journal.push((at, self.rules.pass, mark));
        plan.apply(at, mark);
    }

    /// One step of one instance; the next one. `None`: its end.
    fn step(&mut self, plan: &mut Plan, at: usize, step: Step) -> Option<Step> {
        let fails = self.can_fail && self.rng.random_ratio(1, 20);
        let wanted = if self.rules.pass == Pass::Release { 1 } else { 0 };
        match step {
            Step::Close => {
                self.note(plan, at, Mark::Closing);
                self.truth[at].closed = true;
                if fails {
                    return self.fail(plan, at);
                }
                self.note(plan, at, Mark::Closed);
            }
            Step::Run => {
                assert!(self.truth[at].closed, "the command ran while traffic came in");
                self.note(plan, at, Mark::Running);
                self.truth[at].version = if fails { 2 } else { wanted };
                if fails {
                    return self.fail(plan, at);
                }
                self.note(plan, at, Mark::Ran);
            }
            Step::Await if fails => return self.fail(plan, at),
            Step::Await => self.note(plan, at, Mark::Healthy),
            Step::Open => {
                assert_ne!(self.truth[at].version, 2, "traffic meets half a version");
                self.truth[at].closed = false;
                self.note(plan, at, Mark::Done);
            }
        }
        step.next()
    }

    fn fail(&mut self, plan: &mut Plan, at: usize) -> Option<Step> {
        self.note(plan, at, Mark::Failed);
        if plan.course(at).may_reopen(self.rules.pass) {
            assert_ne!(self.truth[at].version, 2, "traffic meets half a version");
            self.truth[at].closed = false;
            self.note(plan, at, Mark::Reopened);
        }
        plan.stop();
        None
    }

    /// Runs until it ends or is killed; whether it is finished.
    fn run(&mut self) -> bool {
        let mut plan = Plan::new(self.rules.clone(), self.courses(), self.well);
        let mut running: Vec<(usize, Step)> = Vec::new();
        loop {
            match plan.next() {
                Next::Begin(at) => {
                    let first = plan.course(at).first_step(self.rules.pass);
                    plan.begin(at);
                    running.push((at, first.expect("there is something to do")));
                }
                Next::Judge => {
                    plan.pass_canaries();
                    self.well = true;
                }
                Next::Finished => return true,
                Next::Stopped => return false,
                Next::Ask(_) => unreachable!("nobody is asked here"),
                Next::Wait => {
                    assert!(!running.is_empty(), "nothing is under way: {plan:?}");
                    let (at, step) = running.remove(self.rng.random_range(0..running.len()));
                    match self.step(&mut plan, at, step) {
                        Some(next) => running.push((at, next)),
                        None => plan.end(at),
                    }
                }
            }
            let out = self.truth.iter().filter(|truth| truth.closed).count();
            assert!(out <= self.rules.max_out, "{out} are out: {:?}", self.truth);
            let others = self.truth.iter().skip(self.rules.canary);
            let begun = others.filter(|truth| truth.version != 0).count();
            assert!(
                self.rules.pass == Pass::Undo || self.well || self.rules.canary == 0 || begun == 0
            );
            if self.can_fail && self.rng.random_ratio(1, 30) {
                return false; // Killed, at any moment between two steps.
            }
        }
    }
}

#[test]
fn it_ends_well_however_often_it_was_killed() {
    for seed in 0..3000 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let count = rng.random_range(1..9);
        let canary = rng.random_range(0..=count);
        let (batch, max_out) = (rng.random_range(1..5), rng.random_range(1..5));
        let rules = rules(Pass::Release, canary, batch, max_out);
        let truth = vec![Truth::default(); count];
        let can_fail = true;
        let mut world = World { rng, truth, journal: Vec::new(), well: false, rules, can_fail };
        let rounds = world.rng.random_range(0..20);
        let finished = (0..rounds).any(|_| world.run());
        let undone = !finished && world.rng.random_ratio(1, 2);
        if undone {
            world.rules.pass = Pass::Undo;
            let rounds = world.rng.random_range(0..5);
            (0..rounds).for_each(|_| {
                world.run();
            });
        }
        world.can_fail = false;
        assert!(world.run(), "seed {seed}: {:?}", world.journal);
        let version = u8::from(!undone);
        let well = |truth: &Truth| !truth.closed && truth.version == version;
        assert!(world.truth.iter().all(well), "seed {seed}: {:?}", world.truth);
    }
}

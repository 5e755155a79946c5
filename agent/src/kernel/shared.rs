//! Slow questions that many ask at once: one run answers all who asked before it began.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex},
    thread::{self, Thread},
};

use super::linux::lock;

/// Runs one thing at a time. Whoever asks meanwhile waits for the next run, which serves all of them: an answer
/// is never from a run that began before it was asked for.
pub(super) struct Shared<Q, A>(Mutex<State<Q, A>>);

struct State<Q, A> {
    running: bool,
    /// Number of the newest asker.
    newest: u64,
    /// Who waits for the next run.
    next: Vec<Asker<Q>>,
    /// Of runs that are over, for those who have not fetched them yet; `None`: that run failed.
    answers: HashMap<u64, Option<A>>,
}

/// Who waits, and is woken when it is over.
struct Asker<Q> {
    number: u64,
    question: Q,
    thread: Thread,
}

impl<Q, A> Default for Shared<Q, A> {
    fn default() -> Self {
        let state =
            State { running: false, newest: 0, next: Vec::new(), answers: HashMap::default() };
        Self(Mutex::new(state))
    }
}

impl<Q: Copy + Eq + Hash, A: Clone + Default> Shared<Q, A> {
    /// The answer to `question` from a run that begins after this was called: by this thread, with everything that is
    /// asked by then, or by another one. What a run leaves out has the default answer.
    ///
    /// # Errors
    /// That of a run by this thread. A run that failed answers nobody else: they have their own.
    pub(super) fn ask<E>(
        &self,
        question: Q,
        run: impl FnOnce(&[Q]) -> Result<HashMap<Q, A>, E>,
    ) -> Result<A, E> {
        let mut state = lock(&self.0);
        state.newest += 1;
        let number = state.newest;
        let me = || Asker { number, question, thread: thread::current() };
        state.next.push(me());
        while state.running {
            drop(state);
            thread::park();
            state = lock(&self.0);
            match state.answers.remove(&number) {
                Some(Some(answer)) => return Ok(answer),
                Some(None) => state.next.push(me()),
                None => {}
            }
        }
        state.running = true;
        let asked = std::mem::take(&mut state.next);
        drop(state);
        let questions: Vec<Q> = asked.iter().map(|asker| asker.question).collect();
        let others = asked.into_iter().filter(|asker| asker.number != number).collect();
        let mut run_of = Run { shared: self, others, answers: None };
        let mut answers = run(&questions)?;
        let answer = if run_of.others.iter().any(|other| other.question == question) {
            answers.get(&question).cloned()
        } else {
            answers.remove(&question)
        };
        run_of.answers = Some(answers);
        Ok(answer.unwrap_or_default())
    }
}

/// One [`Shared`] for each network namespace in which anything is asked.
pub(super) struct SharedByNetns<Q, A>(Mutex<HashMap<u32, Arc<Shared<Q, A>>>>);

impl<Q, A> Default for SharedByNetns<Q, A> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<Q: Copy + Eq + Hash, A: Clone + Default> SharedByNetns<Q, A> {
    /// See [`Shared::ask`].
    pub(super) fn ask<E>(
        &self,
        netns: u32,
        question: Q,
        run: impl FnOnce(&[Q]) -> Result<HashMap<Q, A>, E>,
    ) -> Result<A, E> {
        let shared = Arc::clone(lock(&self.0).entry(netns).or_default());
        let answer = shared.ask(question, run);
        let mut all = lock(&self.0);
        // Nobody else asks: one is ours, one is the map's.
        if Arc::strong_count(&shared) == 2 {
            all.remove(&netns);
        }
        answer
    }
}

/// A run under way. When it is dropped, even by a panic, the others have what it found, and the next one begins.
struct Run<'a, Q: Copy + Eq + Hash, A: Clone + Default> {
    shared: &'a Shared<Q, A>,
    others: Vec<Asker<Q>>,
    /// `None`: it failed.
    answers: Option<HashMap<Q, A>>,
}

impl<Q: Copy + Eq + Hash, A: Clone + Default> Drop for Run<'_, Q, A> {
    fn drop(&mut self) {
        let all = self.answers.take();
        let answer = |other: &Asker<Q>| {
            let of_question = |all: &HashMap<Q, A>| all.get(&other.question).cloned();
            (other.number, all.as_ref().map(|all| of_question(all).unwrap_or_default()))
        };
        let answers: Vec<_> = self.others.iter().map(answer).collect();
        let mut state = lock(&self.shared.0);
        state.answers.extend(answers);
        state.running = false;
        // Whoever comes first begins the next run: this one, or somebody who asks only now.
        let next = state.next.first().map(|asker| asker.thread.clone());
        drop(state);
        self.others.iter().map(|other| &other.thread).chain(&next).for_each(Thread::unpark);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::{
            atomic::{AtomicU32, Ordering},
            mpsc,
        },
        thread,
    };

    use super::*;

    /// Waits until so many wait for the next run.
    fn until_asked(shared: &Shared<u16, u32>, number: usize) {
        while lock(&shared.0).next.len() < number {
            thread::yield_now();
        }
    }

    #[test]
    fn a_run_serves_all_who_asked_before_it_and_nobody_who_asked_later() {
        let shared = Shared::default();
        let runs = AtomicU32::new(0);
        let (finish, finished) = mpsc::channel::<()>();
        let ask = |question: u16, wait: Option<mpsc::Receiver<()>>| {
            let run = |questions: &[u16]| {
                let number = runs.fetch_add(1, Ordering::SeqCst) + 1;
                wait.iter().for_each(|wait| wait.recv().unwrap());
                let answer = |question: &u16| (*question, number * 100 + u32::from(*question));
                Ok::<_, Infallible>(questions.iter().map(answer).collect())
            };
            shared.ask(question, run).unwrap()
        };
        thread::scope(|scope| {
            let first = scope.spawn(|| ask(1, Some(finished)));
            while runs.load(Ordering::SeqCst) == 0 {
                thread::yield_now();
            }
            // They may not have what the first one found: it began before they asked.
            let later = [1, 2, 2, 3].map(|question| scope.spawn(move || ask(question, None)));
            until_asked(&shared, 4);
            finish.send(()).unwrap();
            assert_eq!(first.join().unwrap(), 101);
            assert_eq!(later.map(|asker| asker.join().unwrap()), [201, 202, 202, 203]);
        });
        assert_eq!(runs.load(Ordering::SeqCst), 2);
        assert!(lock(&shared.0).answers.is_empty(), "nothing is kept");
        assert_eq!(ask(4, None), 304);
    }

    #[test]
    fn a_run_that_fails_or_panics_leaves_the_others_to_their_own() {
        let shared = Shared::default();
        let (finish, finished) = mpsc::channel::<()>();
        let (begin, begun) = mpsc::channel::<()>();
        thread::scope(|scope| {
            let asker = &shared;
            let first = scope.spawn(move || {
                asker.ask(1, |_| {
                    begin.send(()).unwrap();
                    finished.recv().unwrap();
                    Err("first")
                })
            });
            begun.recv().unwrap();
            let others = [2, 3].map(|question| {
                let shared = &shared;
                scope.spawn(move || shared.ask(question, |_| Err("own")))
            });
            let panics =
                scope.spawn(|| shared.ask(4, |_| -> Result<_, &str> { panic!("expected") }));
            until_asked(&shared, 3);
            finish.send(()).unwrap();
            assert_eq!(first.join().unwrap(), Err("first"));
            assert_eq!(others.map(|asker| asker.join().unwrap()), [Err("own"), Err("own")]);
            assert!(panics.join().is_err());
        });
        assert_eq!(shared.ask(5, |_| Ok::<_, &str>(HashMap::from([(5, 50)]))), Ok(50));
        assert_eq!(shared.ask(5, |_| Ok::<_, &str>(HashMap::new())), Ok(0), "the default");
    }
}

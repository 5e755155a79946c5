//! The executor's part: operations are carried out one at a time, and answers and events arrive late, or in
//! another order.

use std::{os::fd::AsFd as _, sync::Arc};

use rand::Rng;

use super::{Simulation, WEB};
use crate::{
    drain::{Action, Arrivals, Event, NewConnections, Phase, is_new_instance},
    executor::verify::{Verify, check_netns},
    kernel::{
        EventKind, Kernel, KernelError, Listening,
        fake::{FakeKernel, Op},
    },
};

impl Simulation {
    /// Begins the next operation, once the answer of the one before has been delivered.
    pub(super) fn executor(&mut self) {
        if self.answer.is_some() {
            return;
        }
        let Some(action) = self.queue.pop_front() else { return };
        self.say(|| format!("  carries out {action:?}"));
        if action == Action::Verify && self.rng.random_bool(0.3) {
            let sockets = self.kernel.sockets(WEB);
            if let Some((cookie, _)) = sockets.first().copied() {
                self.kernel.hook(Op::Look, move |kernel| kernel.close(cookie));
            }
        }
        let verdict = action == Action::Verify;
        let answer = self.carry_out(action).unwrap_or_else(|error| match error {
            (_, KernelError::NoNetns(_)) => vec![Event::NetnsGone],
            (event, _) => event.into_iter().collect(),
        });
        if verdict {
            self.verdicts.push(answer);
        } else {
            self.answer = Some(answer);
        }
    }

    /// Events of the answer, or that of a failure.
    fn carry_out(&mut self, action: Action) -> Result<Vec<Event>, (Option<Event>, KernelError)> {
        let kernel = &*Arc::clone(&self.kernel);
        let failed = |error: KernelError| (Some(Event::GateFailed(error.to_string())), error);
        Ok(match action {
            Action::Guard { lease_until } => {
                check_netns(kernel, WEB.netns, self.netns_cookie).map_err(failed)?;
                let admission = self.machine.spec().admission();
                kernel.guard(WEB, admission, lease_until).map_err(failed)?;
                vec![Event::Guarded { lease_until }]
            }
            Action::CloseGate { lease_until } => {
                check_netns(kernel, WEB.netns, self.netns_cookie).map_err(failed)?;
                self.steer(kernel).map_err(failed)?;
                kernel.close_gate(WEB, lease_until).map_err(failed)?;
                self.gate_lease = lease_until;
                vec![Event::GateClosed { lease_until }]
            }
            Action::Announce { .. } => {
                self.registered_as_gone = true;
                if self.rng.random_bool(0.1) {
                    vec![Event::NotAnnounced("no registry answers".into())]
                } else {
                    self.announced = true;
                    vec![Event::Announced]
                }
            }
            Action::Retract => {
                let closed = kernel.gate_is_closed(WEB);
                assert!(!closed || self.netns_lost, "clients are sent to a closed gate");
                self.registered_as_gone = false;
                vec![Event::Retracted]
            }
            Action::RenewGate { lease_until } => {
                kernel.renew_gate(WEB, lease_until).map_err(|e| (Some(Event::RenewFailed), e))?;
                self.gate_lease = lease_until;
                vec![Event::GateRenewed { lease_until }]
            }
            Action::OpenGate => {
                kernel.open_gate(WEB).map_err(failed)?;
                vec![Event::GateOpened]
            }
            Action::Forget => {
                self.registered_as_gone = false;
                kernel.open_gate(WEB).map(|()| vec![]).map_err(|e| (None, e))?
            }
            Action::Watch(watch) => {
                kernel.watch(WEB, watch).map(|()| vec![]).map_err(|e| (None, e))?
            }
            Action::ReadArrivals => match kernel.tracked(WEB) {
                Ok(tracked) => {
                    self.newest = tracked.last_new;
                    vec![Event::Arrivals(tracked.last_new.map_or(Arrivals::Never, Arrivals::Last))]
                }
                Err(_) => {
                    self.newest = Some(kernel.now());
                    vec![Event::Arrivals(Arrivals::Unknown)]
                }
            },
            Action::Retire(order) => self.retire(&order)?,
            Action::Restore => self.restore()?,
            Action::Abort => self.abort()?,
            Action::Verify => {
                self.kernel.take_shown();
                let follows = self.rng.random();
                let mut found = self.verify(follows).run().map_err(|e| (None, e))?;
                if let Some(proof) = found.proof.take() {
                    self.book(proof, found.judgement.at);
                }
                let at_start = self.listeners.get_or_insert_with(|| found.listeners.clone());
                let new = is_new_instance(at_start, &found.listeners).then_some(Event::NewInstance);
                new.into_iter().chain([Event::Judged(found.judgement)]).collect()
            }
            other => unreachable!("{other:?} is no operation"),
        })
    }

    fn verify(&self, follows: bool) -> Verify<'_> {
        Verify {
            kernel: &*self.kernel,
            service: WEB,
            lingerers: &self.lingerers,
            netns_cookie: self.netns_cookie,
            wait_outbound: &[],
            follows,
        }
    }

    /// Whoever is to get new connections is known before the gate closes.
    fn steer(&self, kernel: &FakeKernel) -> Result<(), KernelError> {
        match self.machine.spec().new_connections() {
            NewConnections::Handoff(to) => kernel.hand_over(WEB, *to).map(drop),
            NewConnections::Drop => {
                let listener = kernel.open_listener(WEB.netns, Listening::Silent)?;
                kernel.steer(WEB, &[listener.socket.as_fd()])
            }
            NewConnections::Reject | NewConnections::Forward(_) => Ok(()),
        }
    }

    pub(super) fn deliver(&mut self) {
        let mut answers: Vec<Event> = self.answer.take().into_iter().flatten().collect();
        if !self.verdicts.is_empty() && self.rng.random() {
            let any = self.rng.random_range(0..self.verdicts.len());
            answers.extend(self.verdicts.remove(any));
        }
        for event in answers {
            // An answer to a drain that is over means nothing, but what was taken back is.
            if (self.machine.phase() == Phase::Serving) == (event == Event::Retracted) {
                self.step(event);
            }
        }
    }

    pub(super) fn kernel_event(&mut self) {
        let Ok(event) = self.events.try_recv() else { return };
        if self.machine.phase() != Phase::Serving {
            self.step(match event.kind {
                EventKind::Accepted => Event::Accepted { at: event.at },
                _ => Event::Hint,
            });
        }
    }
}

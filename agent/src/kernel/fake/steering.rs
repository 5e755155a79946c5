//! Connections that the fake kernel gives to other listeners than the service's.

use std::{collections::BTreeSet, net::IpAddr};

use super::{FakeKernel, model::Model};
use crate::{
    drain::{Handoff, Service},
    kernel::{Class, HandoffError, KernelError, TcpState},
};

/// What tests ask.
impl FakeKernel {
    /// Whether connections of the service are given to others, or will be.
    pub(crate) fn is_steered(&self, service: Service) -> bool {
        self.model().steering.contains_key(&service)
    }
}

impl Model {
    /// Whether a closed gate gives connections to other listeners.
    pub(super) fn steers(&self, service: Service) -> bool {
        self.steering.get(&service).is_some_and(|targets| *targets > 0)
            && self.gate_is_closed(service)
    }

    /// A connection that another listener accepts, or its handshake: the tracker does not count it.
    pub(super) fn add_steered(&mut self, service: Service, state: TcpState, client: IpAddr) -> u64 {
        let cookie = self.add_socket(service, state, client);
        if let Some((_, socket)) = self.sockets.get_mut(&cookie) {
            socket.class = Class::Steered;
        }
        cookie
    }

    /// Nobody takes what was given to the agent.
    pub(super) fn close_own_listeners(&mut self) {
        for service in std::mem::take(&mut self.steered_to_agent) {
            self.steering.entry(service).and_modify(|targets| *targets = 0);
        }
    }

    pub(super) fn count_steered(&self, service: Service) -> usize {
        let ours = self.sockets.values().filter(|(of, _)| *of == service);
        ours.filter(|(_, socket)| socket.class == Class::Steered && socket.state.is_flow()).count()
    }

    /// Any process listens on the port of its number.
    pub(super) fn takers(
        &self,
        service: Service,
        to: Handoff,
    ) -> Result<BTreeSet<u64>, KernelError> {
        let port = match to {
            Handoff::Port(port) => port,
            Handoff::Pid(pid) | Handoff::Successor(pid) => pid as u16,
        };
        let listeners = self.listeners.get(&Service { port, ..service });
        let cookies: BTreeSet<u64> = listeners.into_iter().flatten().map(|l| l.cookie).collect();
        if cookies.is_empty() {
            let who = format!("{to:?}");
            return Err(HandoffError::NoListener { who, netns: service.netns }.into());
        }
        Ok(cookies)
    }

    /// What was steered counts from now on.
    pub(super) fn end_steering(&mut self, service: Service) {
        self.steered_to_agent.remove(&service);
        if self.steering.remove(&service).is_none() {
            return;
        }
        let now = self.now;
        let tracker = self.tracker.entry(service).or_default();
        let steered = self.sockets.values_mut().filter(|(of, _)| *of == service);
        for (_, socket) in steered.filter(|(_, socket)| socket.class == Class::Steered) {
            socket.class = Class::Counted;
            if socket.state.is_flow() {
                tracker.flows.insert(socket.cookie, now);
            }
        }
    }
}

//! What is to be seen, and what keys do to it: no terminal, no agent, no clock.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::rates::Rates;
use crate::api::protocol::{FlowClass, FlowStatus, ServiceStatus, StateName};

/// Rows that a page key goes.
const PAGE: usize = 10;

/// A key that means something here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
    Enter,
    Escape,
    Backspace,
    Interrupt,
    Letter(char),
}

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    GoOn,
    /// Another service is chosen: ask for its connections now.
    Ask,
    Quit,
}

/// The connections of a service, or why they cannot be listed.
pub(super) type Flows = Result<Vec<FlowStatus>, String>;

/// All of it.
#[derive(Debug)]
pub(super) struct Screen {
    /// Those that drain first, the longest draining first of all; then as the agent lists them.
    services: Vec<ServiceStatus>,
    rates: HashMap<String, Rates>,
    /// The id of the service that the lower half is about.
    chosen: Option<String>,
    /// Connections of that service, or why they cannot be listed.
    flows: Flows,
    filter: String,
    /// Whether letters go to the filter.
    is_typing: bool,
    /// Whether the lower half has everything.
    is_wide: bool,
    answered_at: Option<Instant>,
    /// Why there is no connection, if there is none.
    lost: Option<String>,
    has_colour: bool,
}

impl Screen {
    pub(super) fn new(has_colour: bool) -> Self {
        Self {
            services: Vec::new(),
            rates: HashMap::new(),
            chosen: None,
            flows: Ok(Vec::new()),
            filter: String::new(),
            is_typing: false,
            is_wide: false,
            answered_at: None,
            lost: None,
            has_colour,
        }
    }

    /// The agent has answered; `flows` are those of the chosen service, if there is one.
    pub(super) fn answered(
        &mut self,
        mut services: Vec<ServiceStatus>,
        flows: Flows,
        now: Instant,
    ) {
        let age = |service: &ServiceStatus| service.drain.as_ref().map(|drain| drain.age_ms);
        services.sort_by_key(|service| std::cmp::Reverse(age(service)));
        let mut before = std::mem::take(&mut self.rates);
        for service in &services {
            let rates = match before.remove(&service.id) {
                Some(mut rates) => {
                    rates.add(service, now);
                    rates
                }
                None => Rates::new(service, now),
            };
            self.rates.insert(service.id.clone(), rates);
        }
        (self.services, self.flows) = (services, flows);
        (self.answered_at, self.lost) = (Some(now), None);
        self.choose_one();
    }

    /// The agent has not answered, and why.
    pub(super) fn lost(&mut self, why: String) {
        self.lost = Some(why);
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost.is_some()
    }

    /// Takes a key.
    pub(super) fn press(&mut self, key: Key) -> Then {
        match key {
            Key::Interrupt => return Then::Quit,
            Key::Letter('q') if !self.is_typing => return Then::Quit,
            Key::Letter('/') if !self.is_typing => self.is_typing = true,
            Key::Letter(letter) if self.is_typing => self.filter.push(letter),
            Key::Letter('k') | Key::Up => return self.go(-1),
            Key::Letter('j') | Key::Down => return self.go(1),
            Key::PageUp => return self.go(-(PAGE as isize)),
            Key::PageDown => return self.go(PAGE as isize),
            Key::Home => return self.go(isize::MIN),
            Key::End => return self.go(isize::MAX),
            Key::Backspace if self.is_typing => drop(self.filter.pop()),
            Key::Enter if self.is_typing => self.is_typing = false,
            Key::Enter => self.is_wide = !self.is_wide,
            Key::Escape if self.is_wide && !self.is_typing => self.is_wide = false,
            Key::Escape => {
                self.is_typing = false;
                self.filter.clear();
            }
            Key::Backspace | Key::Letter(_) => {}
        }
        self.choose_one()
    }

    /// Moves the choice by so many rows.
    fn go(&mut self, by: isize) -> Then {
        let shown = self.shown();
        let Some(last) = shown.len().checked_sub(1) else { return Then::GoOn };
        let to = self.row().unwrap_or(0).saturating_add_signed(by).min(last);
        let id = shown[to].id.clone();
        self.choose(Some(id))
    }

    /// If what was chosen is not shown, the first row is.
    fn choose_one(&mut self) -> Then {
        if self.row().is_some() {
            return Then::GoOn;
        }
        let first = self.shown().first().map(|service| service.id.clone());
        self.choose(first)
    }

    fn choose(&mut self, id: Option<String>) -> Then {
        if self.chosen == id {
            return Then::GoOn;
        }
        self.chosen = id;
        self.flows = Ok(Vec::new());
        Then::Ask
    }

    /// The services that the filter lets through: each of its words is in the name, the id or the state.
    pub(super) fn shown(&self) -> Vec<&ServiceStatus> {
        let words: Vec<String> = self.filter.split_whitespace().map(str::to_lowercase).collect();
        let fits = |service: &&ServiceStatus| {
            let text = format!("{} {} {}", name(service), service.id, service.state.as_str());
            let text = text.to_lowercase();
            words.iter().all(|word| text.contains(word))
        };
        self.services.iter().filter(fits).collect()
    }

    /// The id of the chosen service.
    pub(super) fn chosen(&self) -> Option<&str> {
        self.chosen.as_deref()
    }

    /// In which row of those shown it is.
    pub(super) fn row(&self) -> Option<usize> {
        self.shown().iter().position(|service| Some(&service.id) == self.chosen.as_ref())
    }

    /// The service that the lower half is about.
    pub(super) fn service(&self) -> Option<&ServiceStatus> {
        self.services.iter().find(|service| Some(&service.id) == self.chosen.as_ref())
    }

    /// Its connections that block zero.
    pub(super) fn blocking(&self) -> impl Iterator<Item = &FlowStatus> {
        self.flows.iter().flatten().filter(|flow| flow.class == FlowClass::Counted)
    }

    /// Why its connections cannot be listed, if they cannot.
    pub(super) fn unlisted(&self) -> Option<&str> {
        self.flows.as_ref().err().map(String::as_str)
    }

    pub(super) fn rates(&self, id: &str) -> Option<&Rates> {
        self.rates.get(id)
    }

    pub(super) fn is_wide(&self) -> bool {
        self.is_wide
    }

    pub(super) fn has_colour(&self) -> bool {
        self.has_colour
    }

    /// What is typed for the filter, while it is.
    pub(super) fn typed(&self) -> Option<&str> {
        self.is_typing.then_some(&*self.filter)
    }

    /// What rows are shown for.
    pub(super) fn filter(&self) -> &str {
        &self.filter
    }

    /// For how long there has been no connection, and why; `None` if there is one.
    pub(super) fn outage(&self, now: Instant) -> Option<(Duration, &str)> {
        let why = self.lost.as_deref()?;
        let since = self.answered_at.map(|at| now.saturating_duration_since(at));
        Some((since.unwrap_or_default(), why))
    }

    /// Services, those that drain, and those past their deadline.
    pub(super) fn totals(&self) -> (usize, usize, usize) {
        let draining = self.services.iter().filter(|service| service.drain.is_some()).count();
        let late = self.services.iter().filter(|service| service.state == StateName::Expired);
        (self.services.len(), draining, late.count())
    }
}

/// A service as people know it.
pub(super) fn name(service: &ServiceStatus) -> String {
    match &service.pod {
        Some(pod) => format!("{pod} :{}", service.port),
        None => format!("netns {} :{}", service.netns, service.port),
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;

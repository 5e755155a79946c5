//! Which target takes a straggler. Pure.

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use tokio::time::Instant;

/// How long a target that did not answer is tried last.
const AVOIDED: Duration = Duration::from_secs(5);
/// How often one straggler may be tried, if there are fewer targets. A service's address leads to any of its
/// endpoints, and one of them may be the one that is drained: of two, one in 16 million stragglers finds no other.
const ATTEMPTS: usize = 24;

/// All targets, and which one is next.
#[derive(Debug)]
pub(super) struct Targets {
    all: Vec<Target>,
    next: usize,
}

#[derive(Debug)]
struct Target {
    addr: SocketAddr,
    failed: Option<Instant>,
}

/// The targets for one straggler, in the order in which they are to be tried.
#[derive(Debug)]
pub(super) struct Choice {
    order: VecDeque<SocketAddr>,
    left: usize,
}

impl Targets {
    /// Each of them takes its turn.
    pub(super) fn new(addrs: &[SocketAddr]) -> Self {
        let all = addrs.iter().map(|addr| Target { addr: *addr, failed: None }).collect();
        Self { all, next: 0 }
    }

    /// The order for the next straggler: in turn, but last those that did not answer a moment ago.
    pub(super) fn choose(&mut self, now: Instant) -> Choice {
        let count = self.all.len();
        let mut order: Vec<_> = (0..count).map(|i| &self.all[(self.next + i) % count]).collect();
        order.sort_by_key(|target| target.is_avoided(now));
        let order: VecDeque<_> = order.into_iter().map(|target| target.addr).collect();
        self.next = (self.next + 1) % count.max(1);
        Choice { left: ATTEMPTS.max(order.len()), order }
    }

    /// This target did not answer.
    pub(super) fn failed(&mut self, addr: SocketAddr, now: Instant) {
        self.set(addr, Some(now));
    }

    /// This target answered.
    pub(super) fn answered(&mut self, addr: SocketAddr) {
        self.set(addr, None);
    }

    fn set(&mut self, addr: SocketAddr, failed: Option<Instant>) {
        if let Some(target) = self.all.iter_mut().find(|target| target.addr == addr) {
            target.failed = failed;
        }
    }
}

impl Target {
    fn is_avoided(&self, now: Instant) -> bool {
        self.failed.is_some_and(|failed| now.saturating_duration_since(failed) < AVOIDED)
    }
}

impl Choice {
    /// The next target to try; none: there is nobody to carry the straggler to.
    pub(super) fn next(&mut self) -> Option<SocketAddr> {
        self.left = self.left.checked_sub(1)?;
        self.order.pop_front()
    }

    /// The target led back to us: it may lead elsewhere when it is asked again, after the others.
    pub(super) fn again(&mut self, addr: SocketAddr) {
        self.order.push_back(addr);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(port: u16) -> SocketAddr {
        ([192, 0, 2, 1], port).into()
    }

    fn ports(mut choice: Choice) -> Vec<u16> {
        std::iter::from_fn(|| choice.next()).map(|addr| addr.port()).collect()
    }

    #[test]
    fn targets_take_turns_and_those_that_failed_come_last_for_a_while() {
        let mut targets = Targets::new(&[addr(1), addr(2), addr(3)]);
        let now = Instant::now();
        assert_eq!(ports(targets.choose(now)), [1, 2, 3]);
        assert_eq!(ports(targets.choose(now)), [2, 3, 1]);
        targets.failed(addr(3), now);
        assert_eq!(ports(targets.choose(now)), [1, 2, 3]);
        assert_eq!(ports(targets.choose(now)), [1, 2, 3]);
        let later = now + AVOIDED;
        assert_eq!(ports(targets.choose(later)), [2, 3, 1]);
        targets.failed(addr(3), later);
        targets.answered(addr(3));
        assert_eq!(ports(targets.choose(later)), [3, 1, 2]);
    }

    #[test]
    fn what_comes_back_is_tried_again_but_not_for_ever() {
        let mut targets = Targets::new(&[addr(1), addr(2)]);
        let mut choice = targets.choose(Instant::now());
        let mut tried = vec![];
        while let Some(target) = choice.next() {
            tried.push(target.port());
            if target.port() == 1 {
                choice.again(target);
            }
        }
        let expected = [&[1, 2][..], &[1; ATTEMPTS - 2]].concat();
        assert_eq!(tried, expected, "one of them refused, the other came back");
    }

    #[test]
    fn many_targets_are_all_tried() {
        let many: Vec<_> = (1..=50).map(addr).collect();
        assert_eq!(ports(Targets::new(&many).choose(Instant::now())).len(), 50);
    }
}

//! Seeded simulation: the machine and the verification against a network that does everything it may, with
//! operations and events that are late, lost or fail. Invariants are checked after every step, and the
//! seed is printed when one is broken; `DRAINCTL_SEED=N` runs that seed alone.

mod invariants;
mod leaving;
mod operations;
mod world;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{Arc, Mutex},
};

use rand::{Rng, SeedableRng, rngs::SmallRng};
use tokio::sync::mpsc::UnboundedReceiver;

use self::{
    leaving::{Census, Fates},
    world::random_spec,
};
use crate::{
    drain::{
        Action, BACKUP, Boot, Endpoint, Event, Lingerers, Machine, Phase, Retirement, Service,
    },
    kernel::{
        self, EventKind, Kernel,
        fake::{FakeKernel, Op},
    },
};

const WEB: Service = Service { netns: 7, port: 8080 };
/// Where the new server of a handoff listens.
const NEXT: Service = Service { netns: WEB.netns, port: 8081 };
const SEEDS: u64 = 3000;
const STEPS: u32 = 300;

#[test]
fn invariants_hold_in_every_run() {
    if let Ok(seed) = std::env::var("DRAINCTL_SEED") {
        let seed = seed.parse().expect("DRAINCTL_SEED is a number");
        Simulation::new(seed, true).run(&mut Census::default());
        return;
    }
    let mut reached = HashMap::new();
    let mut census = Census::default();
    for seed in 0..SEEDS {
        let printer = Printer(seed);
        let phases = Simulation::new(seed, false).run(&mut census);
        std::mem::forget(printer);
        for phase in phases {
            *reached.entry(phase).or_insert(0_u32) += 1;
        }
    }
    for phase in Phase::ALL {
        let runs = reached.get(&phase).copied().unwrap_or(0);
        assert!(runs > 100, "only {runs} runs reached {}: they prove little", phase.name());
    }
    assert!(census.is_telling(SEEDS), "too little happened to flows: {census:?}");
}

/// Says which seed panicked.
struct Printer(u64);

impl Drop for Printer {
    fn drop(&mut self) {
        eprintln!("simulation failed; replay it with DRAINCTL_SEED={}", self.0);
    }
}

/// What may break in a run. Where the look and the tracker miss the same flow, nobody can know of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Faults {
    None,
    Look,
    Others,
}

struct Simulation {
    rng: SmallRng,
    kernel: Arc<FakeKernel>,
    events: UnboundedReceiver<kernel::Event>,
    machine: Machine,
    queue: VecDeque<Action>,
    /// An operation that is carried out, its answer still on its way.
    answer: Option<Vec<Event>>,
    /// Verdicts on their way: operations of the gate may overtake them.
    verdicts: Vec<Vec<Event>>,
    /// Beginning of the newest look that was judged, or when the gate closed.
    newest_look: Boot,
    wake_at: Boot,
    lingerers: Mutex<Lingerers>,
    ledger: Mutex<Retirement>,
    fates: Fates,
    listeners: Option<BTreeSet<u64>>,
    netns_cookie: Option<u64>,
    /// The registries of this drain know, or were given up.
    announced: bool,
    /// A registry may believe that the server is gone.
    registered_as_gone: bool,
    /// Until when the kernel was told to keep the gate closed.
    gate_lease: Boot,
    /// When the newest connection came, as `ReadArrivals` saw it.
    newest: Option<Boot>,
    half_closed: HashMap<u64, Boot>,
    /// A flow came through a closed gate.
    intruded: bool,
    /// What remained at a deadline was reset since the drain began.
    aborted: bool,
    /// Until when something holds the service.
    held_until: Option<Boot>,
    /// What the machine was told of its pod.
    endpoint: Endpoint,
    /// The namespace died since the drain began.
    netns_lost: bool,
    /// What may break: nothing, the look, or everything but the look.
    faults: Faults,
    phases: BTreeSet<Phase>,
    trace: bool,
}

impl Simulation {
    fn new(seed: u64, trace: bool) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let (kernel, events) = FakeKernel::with_manual_clock();
        kernel.add_netns(WEB.netns);
        kernel.listen(WEB);
        kernel.listen(NEXT);
        let now = kernel.now();
        let faults = [Faults::None, Faults::Look, Faults::Others, Faults::Others];
        let faults = faults[rng.random_range(0..faults.len())];
        Self {
            machine: Machine::new(random_spec(&mut rng)),
            rng,
            kernel,
            events,
            queue: VecDeque::new(),
            answer: None,
            verdicts: Vec::new(),
            newest_look: now,
            wake_at: now,
            lingerers: Mutex::default(),
            ledger: Mutex::default(),
            fates: Fates::default(),
            listeners: None,
            netns_cookie: None,
            announced: false,
            registered_as_gone: false,
            gate_lease: now,
            newest: None,
            half_closed: HashMap::new(),
            intruded: false,
            aborted: false,
            held_until: None,
            endpoint: Endpoint::default(),
            netns_lost: false,
            faults,
            phases: BTreeSet::new(),
            trace,
        }
    }

    fn run(mut self, census: &mut Census) -> BTreeSet<Phase> {
        for _ in 0..STEPS {
            match self.rng.random_range(0..100) {
                0..32 => self.network(),
                32..34 if self.faults == Faults::Others => self.break_something(),
                32..34 if self.faults == Faults::Look => {
                    let looks = self.rng.random_range(1..8);
                    self.kernel.set_look_misses(looks);
                }
                34..37 => self.people(),
                37..52 => self.executor(),
                52..66 => self.deliver(),
                66..74 => self.kernel_event(),
                _ => self.time(),
            }
            self.check();
        }
        self.come_to_rest();
        self.count(census);
        self.phases
    }

    fn say(&self, text: impl FnOnce() -> String) {
        if self.trace {
            let ms = self.kernel.now().as_nanos() / 1_000_000;
            println!("{ms} {:9} {}", self.machine.phase().name(), text());
        }
    }

    fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.answer.is_none() && self.verdicts.is_empty()
    }

    fn step(&mut self, event: Event) {
        let now = self.kernel.now();
        self.say(|| format!("{event:?}"));
        let before = self.machine.phase();
        let timer = event == Event::Timer;
        let not_zero = self.is_news_of_something(&event, now);
        let actions = self.machine.step(event, now).expect("the simulation sends legal events");
        let after = self.machine.phase();
        self.check_step(before, after, now);
        assert!(!not_zero || after != Phase::Drained, "drained, but not empty or unknown");
        if timer {
            self.check_timer(now);
        }
        let mut woken = after == Phase::Serving;
        for action in actions {
            match action {
                Action::WakeAt(at) => {
                    assert!(at <= now + BACKUP, "it looks after itself at least once a second");
                    self.wake_at = at;
                    woken = true;
                }
                Action::Transition { .. } | Action::Ended(_) => {}
                Action::LogSources | Action::FlowAfterDrained => {}
                Action::Verify if self.queue.contains(&Action::Verify) => {}
                Action::Guard { .. }
                | Action::CloseGate { .. }
                | Action::RenewGate { .. }
                | Action::OpenGate => {
                    let is_round = |queued: &Action| matches!(queued, Action::Retire(_));
                    let at = self.queue.iter().position(is_round).unwrap_or(self.queue.len());
                    self.queue.insert(at, action);
                }
                operation => self.queue.push_back(operation),
            }
        }
        assert!(woken, "a drain under way is always woken again");
        self.phases.insert(after);
    }

    /// Nothing fails any more and no client comes: every drain must end in one way or another.
    fn come_to_rest(&mut self) {
        for op in Op::ALL {
            self.kernel.mend(op);
        }
        self.kernel.set_tracker_full(false);
        self.kernel.set_tracker_blind(false);
        self.kernel.set_look_misses(0);
        self.hold(None);
        let patience = self.machine.deadline().max(self.kernel.now()) + BACKUP * 3;
        self.rest_until(patience);
        let phase = self.machine.phase();
        let rest = [Phase::Serving, Phase::Drained, Phase::Expired];
        assert!(rest.contains(&phase), "still {} after the deadline", phase.name());
        for (cookie, _) in self.kernel.sockets(WEB) {
            self.kernel.close(cookie);
        }
        let linger = self.machine.spec().retire().linger;
        self.rest_until(self.kernel.now() + linger + BACKUP * 3);
        let phase = self.machine.phase();
        let empty = [Phase::Serving, Phase::Drained].contains(&phase);
        assert!(empty, "{} although nothing is left: {:?}", phase.name(), self.machine.unknown());
        self.kernel.advance(self.machine.lease_until().since(self.kernel.now()));
        self.rest_until(self.kernel.now() + BACKUP);
        assert_eq!(self.machine.phase(), Phase::Serving, "the lease is over");
        assert!(!self.kernel.gate_is_closed(WEB));
        while !self.is_idle() {
            self.executor();
            self.deliver();
        }
        assert!(!self.registered_as_gone, "registries know that it is back");
        assert!(!self.kernel.is_guarded(WEB), "all clients are treated alike");
        assert!(!self.kernel.is_steered(WEB), "nobody takes over any more");
        assert_eq!(self.kernel.order(WEB), None, "nobody is told any more");
    }

    fn rest_until(&mut self, until: Boot) {
        let mut turns = 0;
        loop {
            turns += 1;
            assert!(turns < 100_000, "it never comes to rest");
            while !self.is_idle() {
                turns += 1;
                assert!(turns < 100_000, "it never comes to rest");
                self.executor();
                self.deliver();
                self.check();
            }
            let now = self.kernel.now();
            if now >= until || self.machine.phase() == Phase::Serving {
                return;
            }
            self.kernel.advance(self.wake_at.since(now).min(until.since(now)));
            while let Ok(event) = self.events.try_recv() {
                if self.machine.phase() != Phase::Serving && event.kind != EventKind::Accepted {
                    self.step(Event::Hint);
                }
            }
            if self.machine.phase() != Phase::Serving {
                self.step(Event::Timer);
            }
            self.check();
        }
    }
}

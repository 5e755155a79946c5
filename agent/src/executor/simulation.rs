//! Seeded simulation: the machine and the verification against a network that does everything it may, with
//! operations and events that are late, lost or fail. Invariants are checked after every step, and the
//! seed is printed when one is broken; `DRAINCTL_SEED=N` runs that seed alone.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::SmallRng};
use tokio::sync::mpsc::UnboundedReceiver;

use super::verify::{check_netns, verify};
use crate::{
    drain::{
        Action, Arrivals, BACKUP, Boot, Event, LINGER, Lingerers, Machine, Phase, Service, Spec,
        SpecRequest, Verdict, is_new_instance, listeners,
    },
    kernel::{
        self, EventKind, Kernel, KernelError, TcpState,
        fake::{FakeKernel, Op},
    },
};

const WEB: Service = Service { netns: 7, port: 8080 };
const SEEDS: u64 = 3000;
const STEPS: u32 = 300;
/// How late a timer may come.
const JITTER: Duration = Duration::from_millis(5);

#[test]
fn invariants_hold_in_every_run() {
    if let Ok(seed) = std::env::var("DRAINCTL_SEED") {
        Simulation::new(seed.parse().expect("DRAINCTL_SEED is a number"), true).run();
        return;
    }
    let mut reached = HashMap::new();
    for seed in 0..SEEDS {
        let printer = Printer(seed);
        let phases = Simulation::new(seed, false).run();
        std::mem::forget(printer);
        for phase in phases {
            *reached.entry(phase).or_insert(0_u32) += 1;
        }
    }
    for phase in Phase::ALL {
        let runs = reached.get(&phase).copied().unwrap_or(0);
        assert!(runs > 100, "only {runs} runs reached {}: they prove little", phase.name());
    }
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
    listeners: Option<BTreeSet<u64>>,
    netns_cookie: Option<u64>,
    /// Until when the kernel was told to keep the gate closed.
    gate_lease: Boot,
    /// When the newest connection came, as `ReadArrivals` saw it.
    newest: Option<Boot>,
    half_closed: HashMap<u64, Boot>,
    /// A flow came through a closed gate.
    intruded: bool,
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
            listeners: None,
            netns_cookie: None,
            gate_lease: now,
            newest: None,
            half_closed: HashMap::new(),
            intruded: false,
            netns_lost: false,
            faults,
            phases: BTreeSet::new(),
            trace,
        }
    }

    fn run(mut self) -> BTreeSet<Phase> {
        for _ in 0..STEPS {
            match self.rng.random_range(0..100) {
                0..35 => self.network(),
                35..38 if self.faults == Faults::Others => self.break_something(),
                35..38 if self.faults == Faults::Look => {
                    let looks = self.rng.random_range(1..8);
                    self.kernel.set_look_misses(looks);
                }
                38..42 => self.people(),
                42..60 => self.executor(),
                60..75 => self.deliver(),
                75..85 => self.kernel_event(),
                _ => self.time(),
            }
            self.check();
        }
        self.come_to_rest();
        self.phases
    }

    fn say(&self, text: impl FnOnce() -> String) {
        if self.trace {
            let ms = self.kernel.now().as_nanos() / 1_000_000;
            println!("{ms} {:9} {}", self.machine.phase().name(), text());
        }
    }

    /// Clients and servers.
    fn network(&mut self) {
        let kernel = Arc::clone(&self.kernel);
        let sockets = kernel.sockets(WEB);
        let any = (!sockets.is_empty()).then(|| sockets[self.rng.random_range(0..sockets.len())]);
        match (self.rng.random_range(0..100), any) {
            (0..20, _) => drop(kernel.connect(WEB)),
            (20..30, _) => drop(kernel.syn(WEB)),
            (30..60, Some((cookie, TcpState::SynRecv))) => drop(kernel.establish(cookie)),
            (30..75, Some((cookie, _))) => kernel.close(cookie),
            (75..85, Some((cookie, state))) if state != TcpState::SynRecv => {
                let held = self.rng.random_bool(0.7);
                kernel.set_state(cookie, TcpState::FinWait2, held);
                if held {
                    self.half_closed.entry(cookie).or_insert(kernel.now());
                } else {
                    self.half_closed.remove(&cookie);
                }
            }
            (85..90, Some((cookie, state))) if state.is_flow() => {
                kernel.set_state(cookie, TcpState::CloseWait, true);
            }
            (90..92, _) => kernel.unlisten(WEB),
            (92..94, _) => drop(kernel.listen(WEB)),
            (94, _) if self.rng.random_bool(0.2) => {
                self.say(|| "the namespace dies".into());
                kernel.kill_netns(WEB.netns);
                self.netns_lost = true;
                if self.rng.random() {
                    kernel.add_netns(WEB.netns);
                    kernel.listen(WEB);
                }
            }
            _ => {}
        }
    }

    fn break_something(&mut self) {
        let kernel = Arc::clone(&self.kernel);
        match self.rng.random_range(0..6) {
            0 => kernel.set_tracker_blind(self.rng.random()),
            1 => kernel.set_tracker_full(self.rng.random()),
            2 => kernel.corrupt(WEB, self.rng.random_range(-2..=2)),
            3 => kernel.set_events_lost(self.rng.random()),
            4 if self.rng.random_bool(0.1) => {
                self.say(|| "an intruder".into());
                kernel.intrude(WEB);
                self.intruded = true;
            }
            _ => {
                let op = Op::ALL[self.rng.random_range(0..Op::ALL.len())];
                kernel.fail(op, self.rng.random_range(1..3), self.rng.random_range(1..4));
            }
        }
    }

    /// Who drains, joins, renews and undrains.
    fn people(&mut self) {
        let now = self.kernel.now();
        match (self.machine.phase(), self.rng.random_range(0..10)) {
            (Phase::Serving, _) if self.is_idle() => self.begin(),
            (Phase::Serving, _) => {}
            (_, 0) => self.step(Event::Undrain("undrained".into())),
            (phase, 1..3) if phase != Phase::Opening && !self.machine.lease_is_over(now) => {
                self.step(Event::Join);
            }
            (_, 3..6) => self.step(Event::Renew),
            _ => self.step(Event::Hint),
        }
    }

    fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.answer.is_none() && self.verdicts.is_empty()
    }

    fn begin(&mut self) {
        let Ok(cookie) = self.kernel.netns_cookie(WEB.netns) else {
            self.kernel.add_netns(WEB.netns);
            self.kernel.listen(WEB);
            return;
        };
        self.machine = Machine::new(random_spec(&mut self.rng));
        self.netns_cookie = cookie;
        self.netns_lost = false;
        self.intruded = false;
        self.lingerers = Mutex::default();
        self.listeners = self.kernel.look(WEB.netns, Some(WEB.port)).ok().map(|l| listeners(&l));
        self.step(Event::Start);
    }

    /// Begins the next operation, once the answer of the one before has been delivered.
    fn executor(&mut self) {
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
        let kernel = &*self.kernel;
        let failed = |error: KernelError| (Some(Event::GateFailed(error.to_string())), error);
        Ok(match action {
            Action::CloseGate { lease_until } => {
                check_netns(kernel, WEB.netns, self.netns_cookie).map_err(failed)?;
                kernel.close_gate(WEB, lease_until).map_err(failed)?;
                self.gate_lease = lease_until;
                vec![Event::GateClosed { lease_until }]
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
            Action::Forget => kernel.open_gate(WEB).map(|()| vec![]).map_err(|e| (None, e))?,
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
            Action::Verify => {
                let found = verify(kernel, WEB, &self.lingerers, self.netns_cookie);
                let found = found.map_err(|e| (None, e))?;
                let at_start = self.listeners.get_or_insert_with(|| found.listeners.clone());
                let new = is_new_instance(at_start, &found.listeners).then_some(Event::NewInstance);
                new.into_iter().chain([Event::Judged(found.judgement)]).collect()
            }
            other => unreachable!("{other:?} is no operation"),
        })
    }

    fn deliver(&mut self) {
        let mut answers: Vec<Event> = self.answer.take().into_iter().flatten().collect();
        if !self.verdicts.is_empty() && self.rng.random() {
            let any = self.rng.random_range(0..self.verdicts.len());
            answers.extend(self.verdicts.remove(any));
        }
        for event in answers {
            if self.machine.phase() != Phase::Serving {
                self.step(event);
            }
        }
    }

    fn kernel_event(&mut self) {
        let Ok(event) = self.events.try_recv() else { return };
        if self.machine.phase() != Phase::Serving {
            self.step(match event.kind {
                EventKind::Accepted => Event::Accepted { at: event.at },
                _ => Event::Hint,
            });
        }
    }

    /// Time passes: a little, or until the next timer; never past a timer that has not come.
    fn time(&mut self) {
        let now = self.kernel.now();
        let due = self.wake_at.since(now) + self.rng.random_range(Duration::ZERO..JITTER);
        if self.rng.random_bool(0.02) {
            // The machine was suspended.
            self.kernel.advance(Duration::from_secs(self.rng.random_range(20..80)));
        }
        let little = self.rng.random_range(Duration::from_millis(1)..Duration::from_millis(400));
        let draining = self.machine.phase() != Phase::Serving;
        self.kernel.advance(if draining && self.rng.random() { due } else { little.min(due) });
        if draining && self.kernel.now() >= self.wake_at {
            self.step(Event::Timer);
        }
    }

    fn step(&mut self, event: Event) {
        let now = self.kernel.now();
        self.say(|| format!("{event:?}"));
        let before = self.machine.phase();
        let timer = event == Event::Timer;
        let not_zero = self.is_news_of_something(&event, now);
        let actions = self.machine.step(event, now).expect("the simulation sends legal events");
        let after = self.machine.phase();
        assert!(!not_zero || after != Phase::Drained, "drained, but not empty or unknown");
        if timer {
            let late = now >= self.machine.deadline();
            assert!(!(late && after == Phase::Rejecting), "it expires by its deadline");
            assert!(!self.machine.lease_is_over(now), "the lease is over and nothing happens");
        }
        if after == Phase::Drained && before != Phase::Drained {
            self.check_half_closed(now);
        }
        if before == Phase::Settling && after == Phase::Closing {
            self.check_settled(now);
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
                operation => self.queue.push_back(operation),
            }
        }
        assert!(woken, "a drain under way is always woken again");
        self.phases.insert(after);
    }

    /// Whether this is a verdict other than zero, newer than all before it.
    fn is_news_of_something(&mut self, event: &Event, now: Boot) -> bool {
        match event {
            Event::GateClosed { .. } => self.newest_look = now,
            Event::Judged(judgement) if judgement.at >= self.newest_look => {
                self.newest_look = judgement.at;
                return judgement.verdict != Verdict::Empty;
            }
            _ => {}
        }
        false
    }

    fn check_half_closed(&self, now: Boot) {
        for (cookie, state) in self.kernel.sockets(WEB) {
            let since = self.half_closed.get(&cookie).filter(|_| state == TcpState::FinWait2);
            let young = since.is_some_and(|since| now.since(*since) < LINGER);
            assert!(!young || self.is_excused(now), "a half-closed request may still be executing");
        }
    }

    fn check_settled(&self, now: Boot) {
        let (spec, age) = (self.machine.spec(), now.since(self.machine.started()));
        if spec.at_once() || age >= spec.max_settle() {
            return;
        }
        assert!(age >= spec.min_settle(), "settled before min-settle");
        let quiet = self.newest.is_none_or(|newest| now.since(newest) >= spec.quiet());
        assert!(quiet, "settled while connections arrive");
    }

    /// Whether the gate has a reason not to hold.
    fn is_excused(&self, now: Boot) -> bool {
        self.intruded || self.netns_lost || now >= self.gate_lease
    }

    fn check(&self) {
        let now = self.kernel.now();
        let (phase, closed) = (self.machine.phase(), self.kernel.gate_is_closed(WEB));
        match phase {
            Phase::Rejecting | Phase::Drained | Phase::Expired => {
                let excused = self.netns_lost || now >= self.gate_lease;
                assert!(closed || excused, "{} with an open gate", phase.name());
            }
            Phase::Serving | Phase::Settling => {
                let excused = self.netns_lost || self.queue.contains(&Action::Forget);
                assert!(!closed || excused, "{} with a closed gate", phase.name());
            }
            Phase::Closing | Phase::Opening => {}
        }
        if phase == Phase::Drained {
            let truth = self.kernel.truth(WEB);
            assert!(truth.is_zero() || self.is_excused(now), "drained with {truth}");
        }
    }

    /// Nothing fails any more and no client comes: every drain must end in one way or another.
    fn come_to_rest(&mut self) {
        for op in Op::ALL {
            self.kernel.mend(op);
        }
        self.kernel.set_tracker_full(false);
        self.kernel.set_tracker_blind(false);
        self.kernel.set_look_misses(0);
        let patience = self.machine.deadline().max(self.kernel.now()) + BACKUP * 3;
        self.rest_until(patience);
        let phase = self.machine.phase();
        let rest = [Phase::Serving, Phase::Drained, Phase::Expired];
        assert!(rest.contains(&phase), "still {} after the deadline", phase.name());
        for (cookie, _) in self.kernel.sockets(WEB) {
            self.kernel.close(cookie);
        }
        self.rest_until(self.kernel.now() + LINGER + BACKUP * 3);
        let phase = self.machine.phase();
        let empty = [Phase::Serving, Phase::Drained].contains(&phase);
        assert!(empty, "{} although nothing is left: {:?}", phase.name(), self.machine.unknown());
        self.kernel.advance(self.machine.lease_until().since(self.kernel.now()));
        self.rest_until(self.kernel.now() + BACKUP);
        assert_eq!(self.machine.phase(), Phase::Serving, "the lease is over");
        assert!(!self.kernel.gate_is_closed(WEB));
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

fn random_spec(rng: &mut SmallRng) -> Spec {
    let ms =
        |rng: &mut SmallRng, most: u64| Some(Duration::from_millis(rng.random_range(0..=most)));
    let request = SpecRequest {
        quiet: if rng.random() { Some(Duration::ZERO) } else { ms(rng, 1000) },
        min_settle: ms(rng, 2500),
        max_settle: rng.random_bool(0.3).then_some(Duration::from_millis(2600)),
        timeout: Some(Duration::from_millis(rng.random_range(3000..8000))),
        lease: Some(Duration::from_secs(68)),
        keep_closed: rng.random_bool(0.3),
        ..SpecRequest::default()
    };
    Spec::try_from(request).expect("within its limits")
}

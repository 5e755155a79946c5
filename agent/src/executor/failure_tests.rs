//! Every kernel operation fails in turn, at its first, second, … call, and for a while: whatever happens,
//! zero is never said falsely, and no gate stays closed that the kernel would have opened.

use std::{collections::HashMap, time::Duration};

use rand::{Rng, SeedableRng, rngs::SmallRng};

use tokio::task::JoinSet;

use super::{
    testing::{ADMIN, NETNS, OWNER, WEB, at_once, reach, spec, state, world},
    *,
};
use crate::{
    drain::{AtDeadline, Forward, Handoff, NewConnections},
    kernel::{
        Protocol,
        fake::{FakeKernel, Op},
    },
};

/// Where the new server listens.
const NEXT: Service = Service { netns: NETNS, port: 8081 };

/// One drain from its start to its end, with `op` failing from its `nth` call for `times` calls. Returns
/// how often `op` was called.
async fn drain_with_failure(op: Op, nth: u64, times: u64, spec: Spec) -> u64 {
    let (executor, kernel) = world();
    kernel.listen(ADMIN);
    kernel.listen(NEXT);
    let flow = kernel.connect(WEB).expect("serving");
    kernel.fail(op, nth, times);
    let what = format!("{op:?} fails at calls {nth} to {}", nth + times - 1);
    let mut updates = executor.subscribe();
    match executor.drain(vec![WEB, ADMIN], spec, OWNER).await {
        Ok(_) => {
            tokio::time::sleep(Duration::from_secs(5)).await;
            // If it has ended by now, then because its gate could not be closed, and it says so.
            let draining = executor.draining().await.expect("running");
            let ended = all_ended(&mut updates);
            for service in [WEB, ADMIN].iter().filter(|service| !draining.contains(service)) {
                let reason = ended.get(service).expect("it said why");
                let why = ["cannot be closed", "cannot be put in force"];
                assert!(why.iter().any(|why| reason.contains(why)), "{what}: {reason}");
            }
            never_drained_with_a_flow(&executor, &kernel, &what).await;
            kernel.close(flow);
            tokio::time::sleep(Duration::from_secs(5)).await;
            let _ = executor.prove(WEB).await.expect("running");
            if times == 1 && executor.draining().await.expect("running").contains(&WEB) {
                reach(&executor, WEB, StateName::Drained).await;
            }
        }
        Err(DrainError::Kernel(_)) => {
            let open = |service| !kernel.gate_is_closed(service) && !kernel.is_guarded(service);
            let all_open = open(WEB) && open(ADMIN);
            assert!(all_open || op == Op::OpenGate, "{what}: refused, but a gate is closed");
        }
        Err(other) => panic!("{what}: {other}"),
    }
    for service in [WEB, ADMIN] {
        undrain(&executor, &kernel, service, op, &what).await;
    }
    kernel.calls(op)
}

fn all_ended(updates: &mut broadcast::Receiver<Update>) -> HashMap<Service, String> {
    let news = std::iter::from_fn(|| updates.try_recv().ok());
    news.filter_map(|update| Some((update.service, update.ended?.reason))).collect()
}

async fn never_drained_with_a_flow(executor: &Executor, kernel: &FakeKernel, what: &str) {
    let status = executor.prove(WEB).await.expect("running");
    let zero = kernel.truth(WEB).is_zero();
    assert!(status.state != StateName::Drained || zero, "{what}");
}

/// It opens the gate, or says that the kernel refused, and then opens it as soon as that works.
async fn undrain(executor: &Executor, kernel: &FakeKernel, service: Service, op: Op, what: &str) {
    match executor.undrain(service).await {
        Ok(_) => {}
        Err(DrainError::Kernel(_)) => assert_eq!(op, Op::OpenGate, "{what}"),
        Err(other) => panic!("{what}: {other}"),
    }
    reach(executor, service, StateName::Serving).await;
    assert!(!kernel.gate_is_closed(service), "{what}: the gate stayed closed");
    assert!(!kernel.is_guarded(service), "{what}: lists stayed in force");
    assert!(!kernel.is_steered(service), "{what}: connections are still handed over");
}

/// Each operation fails in turn, at each of its calls, so many times.
async fn each_fails(specs: &[Spec], times: &[u64]) {
    for (spec, op) in specs.iter().flat_map(|spec| Op::ALL.map(|op| (spec, op))) {
        for &times in times {
            let mut nth = 1;
            while nth < 25 {
                let run = drain_with_failure(op, nth, times, spec.clone());
                let limit = Duration::from_secs(7200);
                let Ok(calls) = tokio::time::timeout(limit, run).await else {
                    panic!("{op:?} fails at calls {nth} to {}: no end", nth + times - 1);
                };
                if calls < nth {
                    break;
                }
                nth += 1;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn any_operation_may_fail_at_any_call() {
    each_fails(&[at_once(), spec(|_| ()), aborting(), guarded()], &[1, 3, 20]).await;
}

#[tokio::test(start_paused = true)]
async fn any_may_fail_while_a_port_is_handed_over() {
    each_fails(&[handing_over(0), handing_over(1000)], &[1, 3, 20]).await;
}

#[tokio::test(start_paused = true)]
async fn any_may_fail_while_stragglers_are_taken() {
    each_fails(&taking(), &[1, 20]).await;
}

/// Drains of every kind.
fn specs() -> Vec<Spec> {
    let some = [at_once(), spec(|_| ()), aborting(), guarded()];
    let others = [handing_over(0), handing_over(1000)];
    some.into_iter().chain(others).chain(taking()).collect()
}

/// Stragglers are dropped, or carried to a peer.
fn taking() -> [Spec; 2] {
    let to = vec!["192.0.2.9".parse().expect("an address")];
    let forward = NewConnections::Forward(Forward { to, proxy_protocol: false });
    [NewConnections::Drop, forward].map(|new| {
        spec(|options| {
            options.quiet = Some(Duration::ZERO);
            options.new = new;
        })
    })
}

/// Hands over to [`NEXT`] after a quiet time in milliseconds.
fn handing_over(quiet_ms: u64) -> Spec {
    spec(|options| {
        options.quiet = Some(Duration::from_millis(quiet_ms));
        options.new = NewConnections::Handoff(Handoff::Port(NEXT.port));
    })
}

/// Resets what remains after two seconds.
fn aborting() -> Spec {
    spec(|options| {
        options.timeout = Some(Duration::from_secs(2));
        options.quiet = Some(Duration::ZERO);
        options.retire.at_deadline = AtDeadline::Abort;
    })
}

/// With clients that are treated by their address.
fn guarded() -> Spec {
    spec(|options| {
        options.quiet = Some(Duration::ZERO);
        options.admission.ignore = vec!["198.51.100.0/24".parse().expect("a prefix")];
        options.admission.keep_clients = Some(Duration::from_secs(2));
    })
}

/// Many clients of the executor, and a network and a kernel that misbehave, at random.
async fn chaos(seed: u64) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let (executor, kernel) = world();
    kernel.listen(ADMIN);
    kernel.listen(NEXT);
    let mut asked = JoinSet::new();
    for _ in 0..150 {
        let service = if rng.random() { WEB } else { ADMIN };
        match rng.random_range(0..12) {
            0 => drop(kernel.connect(service)),
            1 | 2 => {
                if let Some((cookie, _)) = kernel.sockets(service).first() {
                    kernel.close(*cookie);
                }
            }
            3 => drop(kernel.syn(service)),
            4 => {
                let services = if rng.random() { vec![service] } else { vec![WEB, ADMIN] };
                let specs = specs();
                let spec = specs[rng.random_range(0..specs.len())].clone();
                let executor = executor.clone();
                asked.spawn(async move { drop(executor.drain(services, spec, OWNER).await) });
            }
            5 => {
                let executor = executor.clone();
                asked.spawn(async move { drop(executor.undrain(service).await) });
            }
            6 => executor.renew(service).await,
            7 if rng.random_bool(0.3) => {
                kernel.unlisten(service);
                kernel.listen(service);
            }
            8 => {
                let op = Op::ALL[rng.random_range(0..Op::ALL.len())];
                kernel.fail(op, rng.random_range(1..4), rng.random_range(1..3));
            }
            9 if rng.random_bool(0.05) => {
                kernel.kill_netns(NETNS);
                kernel.add_netns(NETNS);
                kernel.listen(WEB);
            }
            10 => tokio::time::sleep(Duration::from_millis(rng.random_range(1..20))).await,
            11 if rng.random() => {
                for (cookie, _) in kernel.sockets(service) {
                    kernel.respond(cookie, Protocol::Http1);
                }
            }
            _ => tokio::time::sleep(Duration::from_millis(rng.random_range(1..1500))).await,
        }
        let status = executor.prove(service).await.expect("running");
        let zero = kernel.truth(service).is_zero();
        // What was handed over, handshakes too, counts again if somebody undrained it right after the answer.
        let hands_over =
            status.drain.as_ref().is_some_and(|drain| drain.new != NewConnections::Reject);
        let undrained = hands_over && !kernel.is_steered(service);
        assert!(status.state != StateName::Drained || zero || undrained, "seed {seed}: {status:?}");
        if status.state == StateName::Drained && !kernel.gate_is_closed(service) {
            // Somebody undrained it right after the answer.
            let now = state(&executor, service).await;
            assert_ne!(now, StateName::Drained, "seed {seed}");
        }
    }
    for op in Op::ALL {
        kernel.mend(op);
    }
    // A drain that was asked for must not begin behind what follows.
    while asked.join_next().await.is_some() {}
    for service in [WEB, ADMIN] {
        let _ = executor.undrain(service).await.expect("nothing fails any more");
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    for service in [WEB, ADMIN] {
        assert!(!kernel.is_saved(service), "seed {seed}: the next agent would drain it again");
        assert!(!kernel.gate_is_closed(service), "seed {seed}: a gate stayed closed");
        assert!(!kernel.is_steered(service), "seed {seed}: connections are still handed over");
        assert_eq!(kernel.order(service), None, "seed {seed}: flows are still told to leave");
        assert!(!kernel.is_guarded(service), "seed {seed}: lists stayed in force");
    }
}

#[tokio::test(start_paused = true)]
async fn many_clients_and_failures_at_random() {
    for seed in 0..60 {
        chaos(seed).await;
    }
}

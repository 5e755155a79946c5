//! The executor on a fake kernel, under virtual time: what its callers ask for, and how a drain goes.

use std::time::Duration;

use super::{
    DrainError, Status,
    testing::{ADMIN, NETNS, OWNER, WEB, at_once, ended, reach, spec, state, world},
};
use crate::{
    drain::{Endpoint, Service, SettledBy, StateName},
    kernel::{Kernel, KernelError, fake::Op},
};

#[tokio::test(start_paused = true)]
async fn a_service_is_settled_rejecting_and_drained_when_its_last_flow_ends() {
    let (executor, kernel) = world();
    let flow = kernel.connect(WEB).expect("serving");
    let started = kernel.now();
    assert!(!executor.drain(vec![WEB], spec(|_| ()), OWNER).await.expect("accepted"));
    assert_eq!(state(&executor, WEB).await, StateName::Settling);
    assert!(!kernel.gate_is_closed(WEB));
    reach(&executor, WEB, StateName::Rejecting).await;
    assert_eq!(kernel.now().since(started).as_secs(), 3, "min-settle");
    assert!(kernel.connect(WEB).is_err());
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let before = kernel.now();
    kernel.close(flow);
    reach(&executor, WEB, StateName::Drained).await;
    let took = kernel.now().since(before);
    assert!(took < Duration::from_millis(2), "an event wakes it, not the recheck: {took:?}");
    let proof = executor.prove(WEB).await.expect("running");
    assert_eq!((proof.state, proof.flows, proof.rejected), (StateName::Drained, 0, 1));
    let drain = proof.drain.expect("draining");
    assert_eq!(drain.settled_by, Some(SettledBy::Quiet));
    assert!(executor.undrain(WEB).await.expect("opened"));
    assert!(!kernel.gate_is_closed(WEB));
    assert_eq!(state(&executor, WEB).await, StateName::Serving);
    assert!(!executor.undrain(WEB).await.expect("nothing to do"));
    let totals = executor.totals();
    assert_eq!((totals.drains, totals.drained, totals.expired, totals.gave_up), (1, 1, 0, 0));
    assert_eq!((totals.disagreements, totals.unknown_verdicts), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn connections_that_go_on_arriving_are_cut_off_by_max_settle() {
    let (executor, kernel) = world();
    let started = kernel.now();
    executor.drain(vec![WEB], spec(|_| ()), OWNER).await.expect("accepted");
    while let Ok(flow) = kernel.connect(WEB) {
        tokio::time::sleep(Duration::from_millis(300)).await;
        kernel.close(flow);
    }
    assert_eq!(kernel.now().since(started).as_secs(), 15);
    reach(&executor, WEB, StateName::Drained).await;
    let status = executor.prove(WEB).await.expect("running");
    assert_eq!(status.drain.and_then(|drain| drain.settled_by), Some(SettledBy::MaxSettle));
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_must_stay_open_gives_up_and_is_counted() {
    let (executor, kernel) = world();
    executor.drain(vec![WEB], spec(|_| ()), OWNER).await.expect("accepted");
    executor.endpoint(WEB, Endpoint::Staying { alone: true }).await;
    reach(&executor, WEB, StateName::Serving).await;
    assert!(!kernel.gate_is_closed(WEB));
    let totals = executor.totals();
    assert_eq!((totals.drains, totals.gave_up, totals.expired, totals.drained), (1, 1, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn one_namespace_cannot_take_the_room_of_all() {
    let (executor, kernel) = world();
    let in_netns = |netns| (1..=129).map(move |port| Service { netns, port });
    let (ours, next, host) = (in_netns(NETNS), NETNS + 1, kernel.host_netns());
    [next, host].iter().for_each(|netns| kernel.add_netns(*netns));
    let all = ours.clone().chain(in_netns(next)).chain(in_netns(host));
    for service in all {
        kernel.listen(service);
    }
    let ours: Vec<Service> = ours.collect();
    let (last, fitting) = ours.split_last().expect("some");
    for services in fitting.chunks(64) {
        executor.drain(services.to_vec(), at_once(), OWNER).await.expect("there is room");
    }
    let refused = executor.drain(vec![ours[0], *last], at_once(), OWNER).await;
    assert!(matches!(refused, Err(DrainError::TooMany { netns: NETNS, most: 128, .. })));
    assert!(!kernel.gate_is_closed(*last));
    assert!(executor.drain(vec![ours[0]], at_once(), OWNER).await.expect("it is one of them"));
    for services in [next, host].map(|netns| in_netns(netns).take(64).collect::<Vec<_>>()) {
        executor.drain(services, at_once(), OWNER).await.expect("others have theirs");
    }
    let host: Vec<Service> = in_netns(host).skip(64).collect();
    executor.drain(host, at_once(), OWNER).await.expect("the host has room for more");
    executor.undrain(ours[0]).await.expect("running");
    executor.drain(vec![*last], at_once(), OWNER).await.expect("there is room again");
}

#[tokio::test(start_paused = true)]
async fn quiet_0_returns_with_all_gates_closed() {
    let (executor, kernel) = world();
    kernel.listen(ADMIN);
    let before = kernel.now();
    executor.drain(vec![WEB, ADMIN, WEB], at_once(), OWNER).await.expect("accepted");
    assert!(kernel.gate_is_closed(WEB) && kernel.gate_is_closed(ADMIN));
    assert!(kernel.now().since(before) < Duration::from_millis(1), "no timer is involved");
    assert_eq!(executor.totals().drains, 2, "a port named twice is one drain");
}

#[tokio::test(start_paused = true)]
async fn one_service_that_is_none_and_nothing_begins() {
    let (executor, kernel) = world();
    let error = executor.drain(vec![WEB, ADMIN], at_once(), OWNER).await.expect_err("no such port");
    assert!(matches!(error, DrainError::NoSuchService(ADMIN)), "{error}");
    assert_eq!(state(&executor, WEB).await, StateName::Serving);
    assert_eq!(kernel.calls(Op::CloseGate), 0);
    let nowhere = Service { netns: 99, port: 80 };
    let error = executor.drain(vec![WEB, nowhere], at_once(), OWNER).await.expect_err("no netns");
    assert!(matches!(error, DrainError::Kernel(KernelError::NoNetns(99))), "{error}");
    assert!(executor.draining().await.expect("running").is_empty());
}

#[tokio::test(start_paused = true)]
async fn one_gate_that_cannot_close_and_none_stays_closed() {
    let (executor, kernel) = world();
    kernel.listen(ADMIN);
    kernel.fail(Op::CloseGate, 2, 1);
    let error = executor.drain(vec![WEB, ADMIN], at_once(), OWNER).await.expect_err("refused");
    assert!(matches!(error, DrainError::Kernel(_)), "{error}");
    assert!(!kernel.gate_is_closed(WEB) && !kernel.gate_is_closed(ADMIN));
    assert!(executor.draining().await.expect("running").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_second_drain_joins_and_a_different_one_conflicts() {
    let (executor, kernel) = world();
    let _flow = kernel.connect(WEB);
    executor.drain(vec![WEB], at_once(), OWNER).await.expect("accepted");
    let deadline = |status: &[Status]| status[0].drain.as_ref().expect("draining").deadline;
    let first = deadline(&executor.status(vec![WEB]).await.expect("running"));
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(executor.drain(vec![WEB], at_once(), OWNER).await.expect("joined"));
    let second = deadline(&executor.status(vec![WEB]).await.expect("running"));
    assert_eq!(second.since(first).as_secs(), 10, "a join renews the deadline");
    let longer = spec(|r| r.timeout = Some(Duration::from_secs(60)));
    assert!(executor.drain(vec![WEB], longer, OWNER).await.expect("settling is over"));
    let third = deadline(&executor.status(vec![WEB]).await.expect("running"));
    assert_eq!(third.since(second).as_secs(), 35, "who joins may wait longer");
    assert!(executor.drain(vec![WEB], at_once(), OWNER).await.expect("joined"));
    let fourth = deadline(&executor.status(vec![WEB]).await.expect("running"));
    assert_eq!(fourth, third, "and who waits less takes nothing from the others");
    let other = spec(|r| r.keep_closed = true);
    let error = executor.drain(vec![WEB], other, OWNER).await.expect_err("conflict");
    assert!(matches!(&error, DrainError::Conflict { service: WEB, .. }), "{error}");
    assert!(error.to_string().contains("--keep-closed is not set"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn how_a_drain_ended_can_be_asked_for_a_minute() {
    let (executor, _kernel) = world();
    let ended = async || {
        let status = executor.status(vec![WEB]).await.expect("running").remove(0);
        status.ended.map(|(ending, _)| ending.reason)
    };
    for _ in 0..2 {
        executor.drain(vec![WEB], at_once(), OWNER).await.expect("accepted");
        assert_eq!(ended().await, None, "it is draining");
        executor.undrain(WEB).await.expect("open");
        assert_eq!(ended().await.as_deref(), Some("undrained"));
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(ended().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_flow_that_stays_makes_it_expire_and_later_drained() {
    let (executor, kernel) = world();
    let flow = kernel.connect(WEB).expect("serving");
    let started = kernel.now();
    executor.drain(vec![WEB], at_once(), OWNER).await.expect("accepted");
    reach(&executor, WEB, StateName::Expired).await;
    assert_eq!(kernel.now().since(started).as_secs(), 25);
    assert!(kernel.gate_is_closed(WEB));
    kernel.close(flow);
    reach(&executor, WEB, StateName::Drained).await;
    let totals = executor.totals();
    assert_eq!((totals.expired, totals.drained), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn the_lease_ends_a_drain_nobody_renews() {
    let (executor, kernel) = world();
    let mut updates = executor.subscribe();
    let started = kernel.now();
    executor.drain(vec![WEB], at_once(), OWNER).await.expect("accepted");
    tokio::time::sleep(Duration::from_secs(400)).await;
    executor.renew(WEB).await;
    assert_eq!(ended(&mut updates).await, "the lease is over");
    assert_eq!(kernel.now().since(started).as_secs(), 1000);
    assert_eq!(state(&executor, WEB).await, StateName::Serving);
    assert!(!kernel.gate_is_closed(WEB));
}

#[tokio::test(start_paused = true)]
async fn a_restarted_server_opens_the_gate() {
    for (description, keep_closed, expected) in [
        ("the new instance takes over", false, StateName::Serving),
        ("unless it is told not to", true, StateName::Drained),
    ] {
        let (executor, kernel) = world();
        let spec = spec(|options| {
            (options.quiet, options.keep_closed) = (Some(Duration::ZERO), keep_closed)
        });
        executor.drain(vec![WEB], spec, OWNER).await.expect("accepted");
        reach(&executor, WEB, StateName::Drained).await;
        kernel.unlisten(WEB);
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(state(&executor, WEB).await, StateName::Drained, "{description}");
        kernel.listen(WEB);
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert_eq!(state(&executor, WEB).await, expected, "{description}");
        assert_eq!(kernel.gate_is_closed(WEB), keep_closed, "{description}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_dies_or_is_replaced_ends_the_drain() {
    for (description, replaced) in [("it dies", false), ("its number is used again", true)] {
        let (executor, kernel) = world();
        let mut updates = executor.subscribe();
        executor.drain(vec![WEB], at_once(), OWNER).await.expect("accepted");
        kernel.kill_netns(NETNS);
        if replaced {
            kernel.add_netns(NETNS);
        }
        assert_eq!(ended(&mut updates).await, "the network namespace is gone", "{description}");
        assert!(executor.draining().await.expect("running").is_empty(), "{description}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_gate_that_cannot_be_opened_is_reported_and_tried_again() {
    let (executor, kernel) = world();
    let mut updates = executor.subscribe();
    executor.drain(vec![WEB], at_once(), OWNER).await.expect("accepted");
    reach(&executor, WEB, StateName::Drained).await;
    kernel.fail(Op::OpenGate, 1, 3);
    executor.undrain(WEB).await.expect_err("the kernel refuses");
    assert_eq!(state(&executor, WEB).await, StateName::Rejecting, "neither drained nor serving");
    executor.drain(vec![WEB], at_once(), OWNER).await.expect_err("the old drain is not over");
    assert_eq!(ended(&mut updates).await, "undrained");
    assert!(!kernel.gate_is_closed(WEB));
    assert!(!executor.drain(vec![WEB], at_once(), OWNER).await.expect("accepted"), "a new drain");
}

#[tokio::test(start_paused = true)]
async fn undrain_and_drain_at_the_same_time_end_in_a_new_drain() {
    let (executor, kernel) = world();
    executor.drain(vec![WEB], at_once(), OWNER).await.expect("accepted");
    let other = spec(|options| options.timeout = Some(Duration::from_secs(30)));
    let (undrained, drained) =
        tokio::join!(executor.undrain(WEB), executor.drain(vec![WEB], other, OWNER));
    assert!(undrained.expect("opened"));
    assert!(!drained.expect("accepted"));
    reach(&executor, WEB, StateName::Drained).await;
    assert!(kernel.gate_is_closed(WEB));
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_fails_is_tried_again_in_time() {
    let (executor, kernel) = world();
    executor.drain(vec![WEB], at_once(), OWNER).await.expect("accepted");
    tokio::time::sleep(Duration::from_secs(500)).await;
    kernel.fail(Op::RenewGate, 1, 20);
    executor.renew(WEB).await;
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert_eq!(state(&executor, WEB).await, StateName::Drained, "past the first lease");
    assert!(kernel.gate_is_closed(WEB));
}

#[tokio::test(start_paused = true)]
async fn who_asks_a_stopped_executor_is_told_so() {
    let (executor, kernel) = world();
    executor.drain(vec![WEB], at_once(), OWNER).await.expect("accepted");
    executor.stop().await;
    assert!(kernel.gate_is_closed(WEB), "the next one opens it");
    let error = executor.drain(vec![WEB], at_once(), OWNER).await.expect_err("stopped");
    assert!(matches!(error, DrainError::Stopping));
    assert!(executor.status(vec![WEB]).await.is_err());
}

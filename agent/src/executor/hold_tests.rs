//! Holds: what they hold, and that no agent forgets them.

use std::{sync::Arc, time::Duration};

use super::super::{
    Executor, HoldRequest,
    testing::{NETNS, OWNER, WEB, at_once, reach, restart, spec, state, world},
};
use crate::{
    drain::{HOLD_TTL, Hold, HoldName, MOST_HOLDS, Service, StateName},
    executor::{DrainError, Owner},
    kernel::{
        Kernel,
        fake::{FakeKernel, Op},
    },
};

fn name(text: &str) -> HoldName {
    text.parse().expect("a name")
}

fn request(kernel: &FakeKernel, service: Service, text: &str, seconds: u64) -> HoldRequest {
    HoldRequest {
        service,
        name: name(text),
        ttl: Duration::from_secs(seconds),
        unless_draining: false,
        owner: OWNER,
        netns_cookie: kernel.netns_cookie(service.netns).expect("it exists"),
    }
}

async fn hold(executor: &Executor, kernel: &FakeKernel, text: &str, seconds: u64) {
    let held = executor.hold(request(kernel, WEB, text, seconds)).await;
    held.expect("it can be held");
}

async fn holds(executor: &Executor) -> Vec<(HoldName, Hold<Owner>)> {
    executor.status(vec![WEB]).await.expect("running").remove(0).holds
}

/// Gives everything that is under way its time.
async fn a_while() {
    tokio::time::sleep(Duration::from_secs(3)).await;
}

#[tokio::test(start_paused = true)]
async fn an_empty_service_that_is_held_is_not_drained_until_it_is_released() {
    let (executor, kernel) = world();
    hold(&executor, &kernel, "a", 300).await;
    hold(&executor, &kernel, "b", 300).await;
    executor.drain(vec![WEB], at_once(), OWNER).await.expect("accepted");
    a_while().await;
    assert_eq!(state(&executor, WEB).await, StateName::Rejecting);
    assert!(executor.release(WEB, name("a")).await.expect("released"));
    assert!(!executor.release(WEB, name("a")).await.expect("there is none any more"));
    a_while().await;
    assert_eq!(state(&executor, WEB).await, StateName::Rejecting, "b holds it");
    assert!(executor.release(WEB, name("b")).await.expect("released"));
    reach(&executor, WEB, StateName::Drained).await;
    let late = executor.hold(request(&kernel, WEB, "c", 300)).await;
    assert!(matches!(late, Err(DrainError::HoldTooLate(WEB))), "{late:?}");
}

#[tokio::test(start_paused = true)]
async fn a_hold_that_nobody_renews_ends_by_itself() {
    let (executor, kernel) = world();
    hold(&executor, &kernel, "job", 2).await;
    executor.drain(vec![WEB], at_once(), OWNER).await.expect("accepted");
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(state(&executor, WEB).await, StateName::Rejecting);
    hold(&executor, &kernel, "job", 2).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(state(&executor, WEB).await, StateName::Rejecting, "it was renewed");
    reach(&executor, WEB, StateName::Drained).await;
    assert_eq!(holds(&executor).await, []);
    assert_eq!(kernel.saved_holds().expect("readable"), [], "nor does the next agent know it");
}

#[tokio::test(start_paused = true)]
async fn the_deadline_passes_all_the_same() {
    let (executor, kernel) = world();
    hold(&executor, &kernel, "job", 3600).await;
    executor.drain(vec![WEB], at_once(), OWNER).await.expect("accepted");
    reach(&executor, WEB, StateName::Expired).await;
    executor.release(WEB, name("job")).await.expect("released");
    reach(&executor, WEB, StateName::Drained).await;
}

#[tokio::test(start_paused = true)]
async fn the_next_agent_knows_of_holds_before_it_says_drained() {
    let (executor, kernel) = world();
    hold(&executor, &kernel, "job", 300).await;
    executor.drain(vec![WEB], at_once(), OWNER).await.expect("accepted");
    let before = holds(&executor).await;
    let executor = restart(executor, &kernel);
    a_while().await;
    assert_eq!(state(&executor, WEB).await, StateName::Rejecting);
    assert_eq!(holds(&executor).await, before, "with the same times");
    let executor = restart(executor, &kernel);
    executor.release(WEB, name("job")).await.expect("released");
    reach(&executor, WEB, StateName::Drained).await;
}

#[tokio::test(start_paused = true)]
async fn holds_that_cannot_be_read_hold_for_a_while() {
    let (executor, kernel) = world();
    kernel.save_holds(WEB, Some(b"{spoilt")).expect("saved");
    let executor = restart(executor, &kernel);
    executor.drain(vec![WEB], at_once(), OWNER).await.expect("accepted");
    a_while().await;
    assert_eq!(state(&executor, WEB).await, StateName::Rejecting);
    assert_eq!(holds(&executor).await[0].0, name("unreadable"));
    tokio::time::sleep(HOLD_TTL).await;
    reach(&executor, WEB, StateName::Drained).await;
}

#[tokio::test(start_paused = true)]
async fn no_agent_starts_that_cannot_learn_of_them_and_no_hold_is_set_that_it_would_not() {
    let (executor, kernel) = world();
    kernel.fail(Op::SaveHolds, 1, 2);
    let refused = executor.hold(request(&kernel, WEB, "job", 300)).await;
    assert!(matches!(refused, Err(DrainError::Kernel(_))), "{refused:?}");
    assert_eq!(holds(&executor).await, []);
    kernel.fail(Op::SavedHolds, 1, 1);
    assert!(super::Held::adopt(&*(Arc::clone(&kernel) as Arc<dyn Kernel>)).is_err());
}

#[tokio::test(start_paused = true)]
async fn who_is_refused() {
    let (executor, kernel) = world();
    for number in 0..MOST_HOLDS {
        hold(&executor, &kernel, &format!("job-{number}"), 300).await;
    }
    let refused = executor.hold(request(&kernel, WEB, "one-more", 300)).await;
    assert!(matches!(refused, Err(DrainError::TooManyHolds { .. })), "{refused:?}");
    assert!(executor.hold(request(&kernel, WEB, "job-0", 9)).await.expect("renewed"));
    for port in 1..super::MOST_HELD as u16 {
        let other = Service { netns: NETNS, port };
        executor.hold(request(&kernel, other, "job", 300)).await.expect("there is room");
    }
    let other = Service { netns: NETNS, port: 60_000 };
    let refused = executor.hold(request(&kernel, other, "job", 300)).await;
    assert!(matches!(refused, Err(DrainError::TooManyHolds { .. })), "{refused:?}");
    executor.drain(vec![WEB], at_once(), OWNER).await.expect("accepted");
    executor.release(WEB, name("job-1")).await.expect("released");
    let unless = HoldRequest { unless_draining: true, ..request(&kernel, WEB, "new-work", 300) };
    let refused = executor.hold(unless.clone()).await;
    assert!(matches!(refused, Err(DrainError::HoldWhileDraining(WEB))), "{refused:?}");
    let known = HoldRequest { name: name("job-2"), ..unless };
    assert!(executor.hold(known).await.expect("work that has begun goes on"));
    hold(&executor, &kernel, "second-phase", 300).await;
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_has_the_number_of_one_that_is_gone_is_not_held() {
    let (executor, kernel) = world();
    hold(&executor, &kernel, "job", 300).await;
    kernel.kill_netns(NETNS);
    kernel.add_netns(NETNS);
    kernel.listen(WEB);
    executor.drain(vec![WEB], at_once(), OWNER).await.expect("accepted");
    reach(&executor, WEB, StateName::Drained).await;
}

#[tokio::test(start_paused = true)]
async fn holds_of_a_namespace_that_is_gone_take_nobodys_room() {
    let (executor, kernel) = world();
    hold(&executor, &kernel, "job", 300).await;
    executor.drain(vec![WEB], at_once(), OWNER).await.expect("accepted");
    a_while().await;
    kernel.kill_netns(NETNS);
    reach(&executor, WEB, StateName::Serving).await;
    assert_eq!(kernel.saved_holds().expect("readable"), [], "its drain has noticed");
    kernel.add_netns(NETNS);
    for port in 1..=super::MOST_HELD as u16 {
        let old = Service { netns: NETNS, port };
        executor.hold(request(&kernel, old, "job", 300)).await.expect("there is room");
    }
    kernel.kill_netns(NETNS);
    kernel.add_netns(NETNS);
    hold(&executor, &kernel, "another", 300).await;
    assert_eq!(kernel.saved_holds().expect("readable").len(), 1);
    // One that does not fit into the map may do so when others have left it.
    kernel.kill_netns(NETNS);
    kernel.add_netns(8);
    kernel.fail(Op::SaveHolds, 1, 1);
    executor.hold(request(&kernel, Service { netns: 8, port: 1 }, "job", 300)).await.expect("room");
    assert_eq!(kernel.saved_holds().expect("readable").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_hold_makes_a_service_of_a_port_that_nobody_listens_on() {
    let (executor, kernel) = world();
    let worker = Service { netns: NETNS, port: 1 };
    let drained = executor.drain(vec![worker], at_once(), OWNER).await;
    assert!(matches!(drained, Err(DrainError::NoSuchService(_))), "{drained:?}");
    executor.hold(request(&kernel, worker, "queue", 300)).await.expect("held");
    executor.drain(vec![worker], at_once(), OWNER).await.expect("accepted");
    a_while().await;
    assert_eq!(state(&executor, worker).await, StateName::Rejecting);
    executor.release(worker, name("queue")).await.expect("released");
    reach(&executor, worker, StateName::Drained).await;
}

#[tokio::test(start_paused = true)]
async fn connections_of_its_own_are_waited_for_and_a_look_that_fails_is_no_zero() {
    let (executor, kernel) = world();
    let to = "10.0.0.9:5672".parse().expect("an address");
    kernel.set_outbound(NETNS, to, 2);
    let options = spec(|options| {
        options.quiet = Some(Duration::ZERO);
        options.wait_outbound = vec![to];
    });
    executor.drain(vec![WEB], options, OWNER).await.expect("accepted");
    a_while().await;
    let seen = executor.status(vec![WEB]).await.expect("running").remove(0);
    assert_eq!((seen.state, seen.flows), (StateName::Rejecting, 0));
    assert_eq!(seen.drain.expect("a drain").wait_outbound, [(to, Some(2))]);
    kernel.fail(Op::Outbound, 1, 10);
    kernel.set_outbound(NETNS, to, 0);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(state(&executor, WEB).await, StateName::Rejecting);
    reach(&executor, WEB, StateName::Drained).await;
    kernel.set_outbound(NETNS, to, 1);
    reach(&executor, WEB, StateName::Rejecting).await;
}

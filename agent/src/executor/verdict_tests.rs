//! The executor on a fake kernel, under virtual time: when a service is drained, when it is not (any more), and
//! when that cannot be told.

use std::{sync::mpsc, time::Duration};

use super::{
    StateName,
    testing::{OWNER, WEB, at_once, reach, spec, state, world},
};
use crate::{
    drain::{BACKUP, RetireSet},
    kernel::{Kernel, TcpState, fake::Op},
};

#[tokio::test(start_paused = true)]
async fn no_event_is_needed_only_time() {
    let (executor, kernel) = world();
    kernel.set_events_lost(true);
    let flow = kernel.connect(WEB).expect("serving");
    executor.drain(vec![WEB], at_once(), OWNER).await.expect("accepted");
    kernel.close(flow);
    let before = kernel.now();
    reach(&executor, WEB, StateName::Drained).await;
    assert!(kernel.now().since(before) <= BACKUP + Duration::from_millis(1));
}

#[tokio::test(start_paused = true)]
async fn the_look_that_proves_zero_is_the_only_one_that_it_takes() {
    let (executor, kernel) = world();
    let flow = kernel.connect(WEB).expect("serving");
    let without_rounds = spec(|options| {
        options.quiet = Some(Duration::ZERO);
        options.retire.set = Some(RetireSet::NONE);
    });
    executor.drain(vec![WEB], without_rounds, OWNER).await.expect("accepted");
    executor.prove(WEB).await.expect("running");
    let (mut updates, looks) = (executor.subscribe(), kernel.calls(Op::Look));
    kernel.close(flow);
    let drained = loop {
        let status = updates.recv().await.expect("running").status.expect("it was just seen");
        if status.state == StateName::Drained {
            break status;
        }
    };
    assert_eq!(kernel.calls(Op::Look) - looks, 1);
    assert_eq!((drained.flows, drained.listeners), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_for_a_proof_gets_one_that_began_later() {
    let (executor, kernel) = world();
    kernel.set_events_lost(true);
    executor.drain(vec![WEB], at_once(), OWNER).await.expect("accepted");
    reach(&executor, WEB, StateName::Drained).await;
    // A verification that has looked, and is not over yet.
    let ((looked, has_looked), (end, ends)) = (mpsc::channel(), mpsc::channel::<()>());
    kernel.hook(Op::Rejected, move |_| {
        looked.send(()).expect("the test waits");
        ends.recv().expect("the test ends it");
    });
    let ask = || {
        let executor = executor.clone();
        tokio::spawn(async move { executor.prove(WEB).await.expect("running") })
    };
    let before = ask();
    while has_looked.try_recv().is_err() {
        tokio::task::yield_now().await;
    }
    kernel.intrude(WEB);
    let later = ask();
    tokio::task::yield_now().await;
    executor.draining().await.expect("it has heard of the second question then");
    end.send(()).expect("the verification waits");
    assert_eq!(before.await.expect("answered").flows, 0);
    let later = later.await.expect("answered");
    assert_eq!((later.state, later.flows), (StateName::Rejecting, 1));
}

#[tokio::test(start_paused = true)]
async fn zero_waits_for_handshakes_and_for_the_linger_time() {
    let (executor, kernel) = world();
    let handshake = kernel.syn(WEB).expect("serving");
    let half_closed = kernel.connect(WEB).expect("serving");
    kernel.set_state(half_closed, TcpState::FinWait2, true);
    let started = kernel.now();
    executor.drain(vec![WEB], at_once(), OWNER).await.expect("accepted");
    tokio::time::sleep(Duration::from_millis(1900)).await;
    let status = executor.prove(WEB).await.expect("running");
    assert_eq!((status.flows, status.handshakes, status.lingering), (0, 1, 1));
    tokio::time::sleep(Duration::from_millis(1000)).await;
    assert_eq!(executor.prove(WEB).await.expect("running").lingering, 0, "two seconds are over");
    assert_eq!(state(&executor, WEB).await, StateName::Rejecting, "the handshake remains");
    let flow = kernel.establish(handshake).expect("it passes the closed gate");
    tokio::time::sleep(Duration::from_millis(1000)).await;
    assert_eq!(state(&executor, WEB).await, StateName::Rejecting);
    kernel.close(flow);
    let before = kernel.now();
    reach(&executor, WEB, StateName::Drained).await;
    assert!(
        kernel.now().since(before) <= Duration::from_millis(250),
        "an old FIN_WAIT2 hides zero"
    );
    assert!(kernel.now().since(started).as_secs() < 25);
}

#[tokio::test(start_paused = true)]
async fn a_tracker_that_is_wrong_is_mended_and_never_believed() {
    let (executor, kernel) = world();
    let flow = kernel.connect(WEB).expect("serving");
    kernel.corrupt(WEB, -1);
    executor.drain(vec![WEB], at_once(), OWNER).await.expect("accepted");
    let status = executor.prove(WEB).await.expect("running");
    assert_eq!((status.state, status.flows), (StateName::Rejecting, 1));
    kernel.corrupt(WEB, 3);
    kernel.close(flow);
    reach(&executor, WEB, StateName::Drained).await;
    let totals = executor.totals();
    assert_eq!((totals.disagreements, totals.repairs), (2, 4));
}

#[tokio::test(start_paused = true)]
async fn a_full_map_is_unknown_until_all_its_flows_are_gone() {
    let (executor, kernel) = world();
    kernel.set_tracker_full(true);
    let flow = kernel.connect(WEB).expect("serving");
    executor.drain(vec![WEB], at_once(), OWNER).await.expect("accepted");
    kernel.close(flow);
    let status = executor.prove(WEB).await.expect("running");
    assert_eq!(status.state, StateName::Rejecting);
    assert!(status.unknown.is_some_and(|reason| reason.contains("--max-flows")));
    kernel.set_tracker_full(false);
    reach(&executor, WEB, StateName::Drained).await;
    assert!(executor.totals().unknown_verdicts > 0);

    let (executor, kernel) = world();
    kernel.set_services_full();
    executor.drain(vec![WEB], at_once(), OWNER).await.expect("accepted");
    let status = executor.prove(WEB).await.expect("running");
    assert_eq!(status.state, StateName::Rejecting, "a service the tracker may not know");
    assert!(status.unknown.is_some_and(|reason| reason.contains("map of services")));
}

#[tokio::test(start_paused = true)]
async fn a_map_of_services_that_was_full_says_nothing_of_a_service_that_is_in_it() {
    let (executor, kernel) = world();
    executor.drain(vec![WEB], at_once(), OWNER).await.expect("accepted");
    reach(&executor, WEB, StateName::Drained).await;
    kernel.set_services_full();
    let status = executor.prove(WEB).await.expect("running");
    assert_eq!((status.state, status.unknown), (StateName::Drained, None));
}

#[tokio::test(start_paused = true)]
async fn a_flow_that_closes_during_the_look_is_no_disagreement() {
    let (executor, kernel) = world();
    let flow = kernel.connect(WEB).expect("serving");
    executor.drain(vec![WEB], at_once(), OWNER).await.expect("accepted");
    executor.prove(WEB).await.expect("running");
    kernel.hook(Op::Look, move |kernel| kernel.close(flow));
    executor.prove(WEB).await.expect("running");
    assert_eq!(state(&executor, WEB).await, StateName::Drained);
    assert_eq!(executor.totals().disagreements, 0);
}

#[tokio::test(start_paused = true)]
async fn a_flow_in_a_drained_service_is_counted_and_it_is_drained_no_more() {
    for (description, events_lost) in [("the tracker tells", false), ("a look finds it", true)] {
        let (executor, kernel) = world();
        executor.drain(vec![WEB], at_once(), OWNER).await.expect("accepted");
        reach(&executor, WEB, StateName::Drained).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        kernel.set_events_lost(events_lost);
        let flow = kernel.intrude(WEB);
        assert_ne!(state(&executor, WEB).await, StateName::Drained, "{description}");
        reach(&executor, WEB, StateName::Rejecting).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(executor.totals().flows_after_drained, 1, "{description}");
        kernel.close(flow);
        reach(&executor, WEB, StateName::Drained).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_status_that_cannot_be_had_is_unknown() {
    let (executor, kernel) = world();
    executor.drain(vec![WEB], at_once(), OWNER).await.expect("accepted");
    reach(&executor, WEB, StateName::Drained).await;
    kernel.fail(Op::Look, 1, u64::MAX);
    let status = executor.prove(WEB).await.expect("running");
    assert_eq!(status.state, StateName::Rejecting);
    assert!(status.unknown.is_some());
    kernel.mend(Op::Look);
    reach(&executor, WEB, StateName::Drained).await;
}

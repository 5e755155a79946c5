//! Stragglers that are carried or dropped, on the fake kernel: who takes them, and when.

use std::time::Duration;

use super::{
    testing::{OWNER, WEB, reach, restart, spec, start, state, world},
    *,
};
use crate::{
    drain::{Forward, NewConnections},
    kernel::fake::{FakeKernel, Op},
};

fn drains(new: NewConnections) -> Spec {
    spec(|options| {
        options.quiet = Some(Duration::ZERO);
        options.new = new;
    })
}

fn both() -> [NewConnections; 2] {
    let to = vec!["192.0.2.9".parse().expect("an address")];
    [NewConnections::Drop, NewConnections::Forward(Forward { to, proxy_protocol: false })]
}

async fn takers(executor: &Executor) -> u64 {
    executor.status(vec![WEB]).await.expect("running")[0].steered.targets
}

/// A drain with [`Executor`] and kernel that takes stragglers.
async fn taking(new: NewConnections) -> (Executor, Arc<FakeKernel>) {
    let (executor, kernel) = world();
    let _flow = kernel.connect(WEB).expect("serving");
    executor.drain(vec![WEB], drains(new), OWNER).await.expect("accepted");
    assert_eq!((state(&executor, WEB).await, takers(&executor).await), (StateName::Rejecting, 1));
    kernel.connect(WEB).expect("it is taken");
    (executor, kernel)
}

#[tokio::test(start_paused = true)]
async fn the_next_agent_takes_stragglers_before_it_serves_anybody() {
    for new in both() {
        let (executor, kernel) = taking(new).await;
        let executor = restart(executor, &kernel);
        kernel.connect(WEB).expect("it is taken");
        assert_eq!(takers(&executor).await, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_cannot_take_them_refuses_and_tries_again() {
    for new in both() {
        for op in [Op::OpenListener, Op::Steer] {
            let (executor, kernel) = taking(new.clone()).await;
            executor.kill();
            kernel.fail(op, 1, 3);
            let executor =
                start(&kernel).expect("the gate stays closed, and that is worth something");
            assert!(kernel.gate_is_closed(WEB) && kernel.connect(WEB).is_err(), "{op:?}");
            assert_eq!(takers(&executor).await, 0, "{op:?}");
            let mut updates = executor.subscribe();
            let taken = async {
                while takers(&executor).await == 0 {
                    updates.recv().await.expect("running");
                }
            };
            let limit = Duration::from_secs(60);
            tokio::time::timeout(limit, taken).await.expect("it tries again");
            kernel.connect(WEB).expect("it is taken");
            assert!(kernel.gate_is_closed(WEB), "{op:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_taken_any_more_is_not_tried_after_undrain() {
    let (executor, kernel) = taking(NewConnections::Drop).await;
    executor.kill();
    kernel.fail(Op::OpenListener, 1, 1000);
    let executor = start(&kernel).expect("adopts");
    executor.undrain(WEB).await.expect("opened");
    reach(&executor, WEB, StateName::Serving).await;
    kernel.mend(Op::OpenListener);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(!kernel.is_steered(WEB) && !kernel.gate_is_closed(WEB));
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_stops_leaves_nothing_under_way() {
    let (executor, kernel) = world();
    let (release, wait) = std::sync::mpsc::channel::<()>();
    let (begun, mut begins) = mpsc::unbounded_channel();
    kernel.hook(Op::CloseGate, move |_| {
        // Nobody is there any more if the test has failed.
        let _ = begun.send(());
        let _ = wait.recv();
    });
    let running = executor.clone();
    let asked = tokio::spawn(async move {
        drop(running.drain(vec![WEB], drains(NewConnections::Reject), OWNER).await)
    });
    begins.recv().await.expect("the gate is being closed");
    let stopping = executor.clone();
    let stop = tokio::spawn(async move { stopping.stop().await });
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert!(!stop.is_finished(), "the next agent would start in the middle of it");
    drop(release);
    stop.await.expect("it stops");
    assert!(kernel.gate_is_closed(WEB) && kernel.is_saved(WEB));
    asked.await.expect("it was told that the agent stops");
}

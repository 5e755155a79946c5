//! Handing a port over to a new server, on the fake kernel.

use std::time::Duration;

use super::{
    testing::{NETNS, OWNER, WEB, reach, spec, state, world},
    *,
};
use crate::{
    drain::{Handoff, NewConnections},
    kernel::HandoffError,
};

/// Where the new server listens.
const NEXT: Service = Service { netns: NETNS, port: 8081 };

fn handing_over(quiet_ms: Option<u64>) -> Spec {
    spec(|options| {
        options.quiet = quiet_ms.map(Duration::from_millis);
        options.new = NewConnections::Handoff(Handoff::Port(NEXT.port));
    })
}

#[tokio::test(start_paused = true)]
async fn what_is_handed_over_does_not_count_until_undrain() {
    let (executor, kernel) = world();
    kernel.listen(NEXT);
    let old = kernel.connect(WEB).expect("serving");
    executor.drain(vec![WEB], handing_over(None), OWNER).await.expect("somebody takes over");
    assert_eq!(state(&executor, WEB).await, StateName::Rejecting, "nobody is waited for");
    kernel.connect(WEB).expect("handed over");
    let status = executor.prove(WEB).await.expect("running");
    assert_eq!((status.flows, status.exempt.steered, status.steered.targets), (1, 1, 1));
    kernel.close(old);
    reach(&executor, WEB, StateName::Drained).await;
    executor.undrain(WEB).await.expect("it can be opened");
    let status = executor.prove(WEB).await.expect("running");
    assert_eq!((status.flows, status.exempt.steered), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn without_a_new_server_nothing_begins() {
    let (executor, kernel) = world();
    let refused = executor.drain(vec![WEB], handing_over(None), OWNER).await;
    let Err(DrainError::Kernel(KernelError::Handoff(error))) = refused else {
        panic!("{refused:?}");
    };
    assert!(matches!(error, HandoffError::NoListener { .. }), "{error}");
    assert_eq!(state(&executor, WEB).await, StateName::Serving);
    assert!(!kernel.is_steered(WEB));
}

#[tokio::test(start_paused = true)]
async fn undrain_while_settling_leaves_nothing_prepared() {
    let (executor, kernel) = world();
    kernel.listen(NEXT);
    executor.drain(vec![WEB], handing_over(Some(1000)), OWNER).await.expect("accepted");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(state(&executor, WEB).await, StateName::Settling);
    assert!(kernel.is_steered(WEB), "prepared from the first moment on");
    executor.undrain(WEB).await.expect("it can be opened");
    assert!(!kernel.is_steered(WEB));
    kernel.connect(WEB).expect("serving");
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_is_done_outlives_its_lease_as_long_as_somebody_takes_over() {
    let (executor, kernel) = world();
    kernel.listen(NEXT);
    executor.drain(vec![WEB], handing_over(None), OWNER).await.expect("accepted");
    reach(&executor, WEB, StateName::Drained).await;
    kernel.unlisten(WEB);
    tokio::time::sleep(Duration::from_secs(7200)).await;
    kernel.connect(WEB).expect("handed over");
    assert_eq!(state(&executor, WEB).await, StateName::Drained);
    // Nobody is there any more, so the lease is over some time.
    kernel.unlisten(NEXT);
    reach(&executor, WEB, StateName::Serving).await;
}

//! Clients that are treated by their address, from before the drain's first moment until its end.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Duration,
};

use super::{
    testing::{ADMIN, OWNER, WEB, reach, spec, state, world},
    *,
};
use crate::{
    drain::{AdmissionRequest, Forward, NewConnections},
    kernel::fake::Op,
};

const CLIENT: [u8; 4] = [192, 0, 2, 1];
const PROBER: [u8; 4] = [198, 51, 100, 7];

fn with(change: impl FnOnce(&mut AdmissionRequest), quiet: Duration) -> Spec {
    spec(|options| {
        change(&mut options.admission);
        options.quiet = Some(quiet);
    })
}

fn prober() -> Vec<crate::drain::Cidr> {
    vec!["198.51.100.0/24".parse().expect("a prefix")]
}

fn from(addr: [u8; 4]) -> IpAddr {
    IpAddr::from(addr)
}

const SETTLING: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn health_checks_fail_while_users_are_served() {
    let (executor, kernel) = world();
    kernel.connect_from(WEB, from(PROBER)).expect("serving");
    let spec = with(|lists| lists.fail_health_from = prober(), SETTLING);
    executor.drain(vec![WEB], spec, OWNER).await.expect("accepted");
    kernel.connect_from(WEB, from(PROBER)).expect_err("from the first moment on");
    kernel.connect_from(WEB, from(CLIENT)).expect("still settling");
    let status = executor.status(vec![WEB]).await.expect("running").remove(0);
    assert_eq!((status.state, status.admitted.failed_health), (StateName::Settling, 1));
    assert!(executor.undrain(WEB).await.expect("running"));
    assert!(!kernel.is_guarded(WEB), "undrained while settling");
    kernel.connect_from(WEB, from(PROBER)).expect("all clients are alike again");
}

#[tokio::test(start_paused = true)]
async fn lists_of_one_namespace_cannot_take_the_room_of_all() {
    let (executor, kernel) = world();
    kernel.listen(ADMIN);
    let lists = |count: u8| {
        let prefixes = move || (1..=count).map(|n| format!("10.{n}.0.0/16").parse().expect("one"));
        let change = |list: &mut AdmissionRequest| list.ignore = prefixes().collect();
        with(change, SETTLING)
    };
    let many: Vec<_> = (1..=8).map(|port| Service { port, ..WEB }).collect();
    for service in &many {
        kernel.listen(*service);
    }
    executor.drain(many, lists(60), OWNER).await.expect("480 of 512");
    executor.drain(vec![ADMIN], lists(32), OWNER).await.expect("512");
    let refused = executor.drain(vec![WEB], lists(1), OWNER).await;
    assert!(matches!(refused, Err(DrainError::TooMany { most: 512, .. })));
    executor.drain(vec![WEB], with(|_| (), SETTLING), OWNER).await.expect("it has no lists");
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_a_proof_does_not_wait_until_lists_are_in_force() {
    let (executor, kernel) = world();
    let (end, ends) = mpsc::channel();
    let in_force = Arc::new(AtomicBool::new(false));
    let guarded = Arc::clone(&in_force);
    kernel.hook(Op::Guard, move |_| {
        // Should nobody end it, this test fails instead of hanging.
        let _ = ends.recv_timeout(Duration::from_secs(10));
        guarded.store(true, Ordering::Relaxed);
    });
    let drain = executor.clone();
    let spec = with(|lists| lists.ignore = prober(), SETTLING);
    let drain = tokio::spawn(async move { drain.drain(vec![WEB], spec, OWNER).await });
    while kernel.calls(Op::Guard) == 0 {
        tokio::task::yield_now().await;
    }
    let status = executor.prove(WEB).await.expect("running");
    assert!(!in_force.load(Ordering::Relaxed), "it has waited");
    assert_eq!(status.state, StateName::Settling);
    end.send(()).expect("it waits for that");
    drain.await.expect("no panic").expect("accepted");
}

#[tokio::test(start_paused = true)]
async fn ignored_connections_are_not_waited_for() {
    let (executor, kernel) = world();
    let old = kernel.connect_from(WEB, from(PROBER)).expect("serving");
    let spec = with(|lists| lists.ignore = prober(), Duration::ZERO);
    executor.drain(vec![WEB], spec, OWNER).await.expect("accepted");
    reach(&executor, WEB, StateName::Drained).await;
    kernel.connect_from(WEB, from(PROBER)).expect("it passes the gate");
    kernel.connect_from(WEB, from(CLIENT)).expect_err("nobody else does");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let status = executor.prove(WEB).await.expect("running");
    assert_eq!((status.state, status.exempt.ignored, status.flows), (StateName::Drained, 2, 0));
    assert_eq!(kernel.calls(Op::Reconcile), 0, "tracker and look agree all the time");
    executor.undrain(WEB).await.expect("running");
    let status = executor.prove(WEB).await.expect("running");
    assert_eq!((status.exempt.ignored, status.flows), (0, 2), "they count again");
    kernel.close(old);
}

#[tokio::test(start_paused = true)]
async fn who_is_let_in_after_zero_is_waited_for_and_is_no_bug() {
    for keep in [false, true] {
        let (executor, kernel) = world();
        let known = kernel.connect_from(WEB, from(PROBER)).expect("serving");
        let lists = |lists: &mut AdmissionRequest| match keep {
            true => lists.keep_clients = Some(Duration::from_secs(600)),
            false => lists.allow = prober(),
        };
        executor.drain(vec![WEB], with(lists, Duration::ZERO), OWNER).await.expect("accepted");
        kernel.close(known);
        reach(&executor, WEB, StateName::Drained).await;
        kernel.connect_from(WEB, from(CLIENT)).expect_err("a stranger");
        let back = kernel.connect_from(WEB, from(PROBER)).expect("let in");
        reach(&executor, WEB, StateName::Rejecting).await;
        assert_eq!(executor.totals().flows_after_drained, 0);
        kernel.close(back);
        reach(&executor, WEB, StateName::Drained).await;
    }
}

#[tokio::test(start_paused = true)]
async fn lists_that_cannot_be_put_in_force_begin_no_drain() {
    let (executor, kernel) = world();
    kernel.listen(ADMIN);
    kernel.fail(Op::Guard, 2, 1);
    let spec = with(|lists| lists.ignore = prober(), SETTLING);
    let error = executor.drain(vec![WEB, ADMIN], spec, OWNER).await.expect_err("refused");
    assert!(matches!(error, DrainError::Kernel(_)), "{error}");
    for service in [WEB, ADMIN] {
        assert_eq!(state(&executor, service).await, StateName::Serving);
        assert!(!kernel.is_guarded(service), "{service}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_history_no_client_can_be_kept() {
    let (executor, kernel) = world();
    kernel.set_forgetful();
    let spec = with(|lists| lists.keep_clients = Some(Duration::from_secs(600)), SETTLING);
    let error = executor.drain(vec![WEB], spec, OWNER).await.expect_err("refused");
    assert!(error.to_string().contains("--client-history"), "{error}");
    assert_eq!(state(&executor, WEB).await, StateName::Serving);
}

#[tokio::test(start_paused = true)]
async fn other_lists_are_a_conflict_and_none_cost_nothing() {
    let (executor, kernel) = world();
    executor.drain(vec![WEB], with(|_| (), SETTLING), OWNER).await.expect("accepted");
    assert_eq!(kernel.calls(Op::Guard), 0);
    let other = with(|lists| lists.allow = prober(), SETTLING);
    let error = executor.drain(vec![WEB], other, OWNER).await.expect_err("refused");
    assert!(matches!(error, DrainError::Conflict { .. }), "{error}");
    assert!(error.to_string().contains("--allow is empty, not 198.51.100.0/24"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn the_longest_lists_are_saved_and_what_could_not_be_is_refused() {
    let prefixes = |first: u16| -> Vec<_> {
        let text = |i| format!("2001:db8:{first:x}:ffff:ffff:ffff:{i:x}:ffff/128");
        (0x1000..0x1040).map(|i| text(i).parse().expect("a prefix")).collect()
    };
    let text = |i| format!("[2001:db8:ffff:ffff:ffff:ffff:{i:x}:ffff]:10000");
    let to = (0x1000..0x1040).map(|i| text(i).parse().expect("an address")).collect();
    let spec = spec(|options| {
        options.quiet = Some(Duration::ZERO);
        options.admission.ignore = prefixes(0x1000);
        options.admission.allow = prefixes(0x2000);
        options.admission.fail_health_from = prefixes(0x3000);
        options.new = NewConnections::Forward(Forward { to, proxy_protocol: false });
    });
    let (executor, kernel) = world();
    executor.drain(vec![WEB], spec.clone(), OWNER).await.expect("there is room");
    assert!(kernel.is_saved(WEB));
    let (executor, kernel) = world();
    for _ in 0..500 {
        kernel.listen(WEB);
    }
    let refused = executor.drain(vec![WEB], spec, OWNER).await;
    assert!(matches!(refused, Err(DrainError::NoRoom)), "{refused:?}");
    assert!(!kernel.is_saved(WEB) && !kernel.is_guarded(WEB) && !kernel.gate_is_closed(WEB));
}

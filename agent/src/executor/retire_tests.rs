//! The executor on a fake kernel, under virtual time: flows that are made to leave.

use std::time::Duration;

use super::{
    DrainError, Executor, StateName,
    testing::{ADMIN, OWNER, WEB, at_once, reach, spec, state, world},
};
use crate::{
    drain::{AtDeadline, LINGER, RetireReport, RetireRequest, RetireSet, Spec},
    kernel::{Kernel, Protocol, ToldBy, fake::Op},
};

/// Closes the gate at once.
fn retiring(words: &str, at_deadline: AtDeadline) -> Spec {
    let set: RetireSet = words.parse().expect("a set");
    let quiet_flow_after = set.quiet.then_some(Duration::from_secs(5));
    let retire =
        RetireRequest { set: Some(set), quiet_flow_after, at_deadline, ..RetireRequest::default() };
    spec(|options| (options.quiet, options.retire) = (Some(Duration::ZERO), retire))
}

async fn report(executor: &Executor) -> RetireReport {
    let status = executor.status(vec![WEB]).await.expect("running");
    status[0].drain.clone().expect("draining").report
}

async fn sleep(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

#[tokio::test(start_paused = true)]
async fn flows_that_are_told_leave_and_all_of_them_are_counted_when_zero_is_said() {
    let (executor, kernel) = world();
    let [one, two, silent] = [0; 3].map(|_| kernel.connect(WEB).expect("serving"));
    executor.drain(vec![WEB], spec(|_| ()), OWNER).await.expect("accepted");
    sleep(3100).await;
    for (flow, protocol) in [(one, Protocol::Http1), (two, Protocol::Http2)] {
        kernel.request(flow);
        kernel.respond(flow, protocol);
        assert!(kernel.is_told(flow));
    }
    sleep(300).await;
    let leaving = executor.leaving(WEB).await.expect("running");
    let how = |cookie| leaving.get(&cookie).map(|flow| (flow.protocol, flow.told, flow.idle));
    assert_eq!(how(one), Some((Protocol::Http1, Some(ToldBy::Header), true)));
    assert_eq!(how(two), Some((Protocol::Http2, Some(ToldBy::Goaway), false)));
    assert_eq!(how(silent), Some((Protocol::Unknown, None, false)));
    kernel.close(one);
    kernel.close(two);
    sleep(1100).await;
    kernel.close(silent);
    reach(&executor, WEB, StateName::Drained).await;
    let report = report(&executor).await;
    assert_eq!((report.told_by_header, report.told_by_goaway, report.left), (1, 1, 3));
    assert_eq!(
        (report.fin_sent, kernel.following()),
        (0, 0),
        "those that are gone are not followed"
    );
    executor.undrain(WEB).await.expect("opened");
    sleep(1).await;
    assert_eq!(kernel.order(WEB), None);
    assert!(executor.leaving(WEB).await.expect("running").is_empty());
}

#[tokio::test(start_paused = true)]
async fn idle_flows_get_a_fin_and_busy_ones_do_not() {
    for (description, request_in_between) in [("idle", false), ("a request just came", true)] {
        let (executor, kernel) = world();
        let flow = kernel.connect(WEB).expect("serving");
        executor
            .drain(vec![WEB], retiring("http,idle", AtDeadline::Leave), OWNER)
            .await
            .expect("accepted");
        sleep(10).await;
        kernel.respond(flow, Protocol::Http1);
        if request_in_between {
            kernel.hook(Op::Finish, move |kernel| kernel.request(flow));
        }
        sleep(1600).await;
        let (fins, reported) = (kernel.fins().len(), report(&executor).await.fin_sent);
        let expected = if request_in_between { (0, 0) } else { (1, 1) };
        assert_eq!((fins, reported), expected, "{description}");
        assert!(kernel.calls(Op::Finish) > 0, "{description}: it was tried");
        kernel.close(flow);
        reach(&executor, WEB, StateName::Drained).await;
        assert_eq!(report(&executor).await.left, u64::from(request_in_between), "{description}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_remains_at_the_deadline_is_reset_if_that_was_asked_for() {
    let (executor, kernel) = world();
    kernel.listen(ADMIN);
    let (flow, other) = (kernel.connect(WEB), kernel.connect(ADMIN).expect("serving"));
    let started = kernel.now();
    executor.drain(vec![WEB], retiring("none", AtDeadline::Abort), OWNER).await.expect("accepted");
    reach(&executor, WEB, StateName::Drained).await;
    assert_eq!(kernel.now().since(started).as_secs(), 25);
    let report = report(&executor).await;
    assert_eq!((report.aborted, report.cut.len(), report.left), (1, 1, 0));
    let resets: Vec<u64> = kernel.resets().iter().map(|(_, _, cookie)| *cookie).collect();
    assert_eq!(resets, [flow.expect("serving")]);
    assert_eq!(kernel.sockets(ADMIN).len(), 1, "{other} is of another service");
    assert_eq!((executor.totals().expired, kernel.calls(Op::Retire)), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_reset_that_fails_leaves_it_expired() {
    let (executor, kernel) = world();
    let _flow = kernel.connect(WEB);
    kernel.fail(Op::Abort, 1, 1);
    executor.drain(vec![WEB], retiring("idle", AtDeadline::Abort), OWNER).await.expect("accepted");
    reach(&executor, WEB, StateName::Expired).await;
    sleep(5000).await;
    assert_eq!((state(&executor, WEB).await, kernel.calls(Op::Abort)), (StateName::Expired, 1));
    assert!(kernel.gate_is_closed(WEB));
}

#[tokio::test(start_paused = true)]
async fn quiet_flows_get_a_fin_only_if_they_are_named() {
    for (words, fins) in [("http,idle", 0), ("http,quiet", 1)] {
        let (executor, kernel) = world();
        let flow = kernel.connect(WEB).expect("serving");
        executor
            .drain(vec![WEB], retiring(words, AtDeadline::Leave), OWNER)
            .await
            .expect("accepted");
        sleep(10).await;
        kernel.respond(flow, Protocol::Tls);
        sleep(4900).await;
        assert_eq!(kernel.fins().len(), 0, "{words}: not quiet for long enough");
        sleep(500).await;
        assert_eq!(kernel.fins().len(), fins, "{words}");
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_can_be_told_on_this_machine() {
    let (executor, kernel) = world();
    kernel.set_retire_lacks("no sk_msg");
    let flow = kernel.connect(WEB).expect("serving");
    executor.drain(vec![WEB], at_once(), OWNER).await.expect("accepted");
    sleep(10).await;
    kernel.respond(flow, Protocol::Http1);
    sleep(3000).await;
    let report = report(&executor).await;
    assert_eq!((report.lacks.as_deref(), report.told_by_header), (Some("no sk_msg"), 0));
    assert!(kernel.fins().is_empty(), "nothing is proven of it");
    kernel.close(flow);
    reach(&executor, WEB, StateName::Drained).await;
}

#[tokio::test(start_paused = true)]
async fn the_gate_never_waits_for_a_round() {
    let (executor, kernel) = world();
    kernel.hook(Op::CloseGate, |kernel| assert_eq!(kernel.calls(Op::Retire), 0));
    executor.drain(vec![WEB], at_once(), OWNER).await.expect("accepted");
    assert!(kernel.gate_is_closed(WEB));
    reach(&executor, WEB, StateName::Drained).await;
    sleep(1000).await;
    assert_eq!(kernel.calls(Op::Retire), 1, "and where nobody is left, there are none");
}

#[tokio::test(start_paused = true)]
async fn a_round_that_fails_is_tried_again_and_the_drain_goes_on() {
    for op in [Op::Retire, Op::Followed, Op::Unfollow, Op::Finish] {
        let (executor, kernel) = world();
        let (flow, gone) = (kernel.connect(WEB).expect("serving"), kernel.connect(WEB));
        kernel.fail(op, 1, 4);
        executor.drain(vec![WEB], at_once(), OWNER).await.expect("accepted");
        sleep(1500).await;
        kernel.respond(flow, Protocol::Http1);
        kernel.close(gone.expect("serving"));
        sleep(3000).await;
        assert_eq!((kernel.fins().len(), kernel.following()), (1, 1), "{op:?}");
        kernel.close(flow);
        reach(&executor, WEB, StateName::Drained).await;
        let report = report(&executor).await;
        assert_eq!((report.fin_sent, report.left), (1, 1), "{op:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn flows_are_restored_when_that_works_again() {
    let (executor, kernel) = world();
    executor.drain(vec![WEB], at_once(), OWNER).await.expect("accepted");
    reach(&executor, WEB, StateName::Drained).await;
    sleep(10).await;
    assert!(kernel.order(WEB).is_some());
    kernel.fail(Op::Restore, 1, 3);
    executor.undrain(WEB).await.expect("the gate is open, that is what was asked for");
    sleep(1000).await;
    assert_eq!((kernel.order(WEB), kernel.calls(Op::Restore)), (None, 4));

    executor.drain(vec![WEB], at_once(), OWNER).await.expect("accepted");
    sleep(10).await;
    kernel.fail(Op::Restore, 1, 2);
    executor.undrain(WEB).await.expect("opened");
    executor.drain(vec![WEB], retiring("none", AtDeadline::Leave), OWNER).await.expect("accepted");
    sleep(1000).await;
    assert_eq!(kernel.order(WEB), None, "a drain that comes meanwhile does not leave it so");
}

#[tokio::test(start_paused = true)]
async fn who_joins_may_let_flows_linger_longer_but_not_change_what_is_done_to_them() {
    let (executor, kernel) = world();
    let flow = kernel.connect(WEB).expect("serving");
    let lingering = |linger| {
        let retire = RetireRequest { linger: Some(linger), ..RetireRequest::default() };
        spec(|options| (options.quiet, options.retire) = (Some(Duration::ZERO), retire))
    };
    executor.drain(vec![WEB], lingering(LINGER), OWNER).await.expect("accepted");
    let other = retiring("none", AtDeadline::Leave);
    let error = executor.drain(vec![WEB], other, OWNER).await.expect_err("conflict");
    assert!(matches!(&error, DrainError::Conflict { service: WEB, .. }), "{error}");
    assert!(error.to_string().contains("--retire is http,idle, not none"), "{error}");
    executor.drain(vec![WEB], lingering(LINGER * 3), OWNER).await.expect("joined");
    sleep(10).await;
    kernel.respond(flow, Protocol::Http1);
    let before = kernel.now();
    reach(&executor, WEB, StateName::Drained).await;
    let took = kernel.now().since(before).as_secs();
    assert!((7..9).contains(&took), "idle for 1 s, and lingering for 6: {took} s");
}

#[tokio::test(start_paused = true)]
async fn the_gate_of_the_next_drain_does_not_wait_until_flows_are_restored_but_its_rounds_do() {
    let (executor, kernel) = world();
    kernel.connect(WEB).expect("serving");
    executor.drain(vec![WEB], at_once(), OWNER).await.expect("accepted");
    sleep(10).await;
    let rounds = kernel.calls(Op::Retire);
    assert!(rounds > 0);
    let (go_on, wait) = std::sync::mpsc::channel::<()>();
    kernel.hook(Op::Restore, move |_| wait.recv().expect("the gate closes meanwhile"));
    executor.undrain(WEB).await.expect("opened");
    assert!(!kernel.gate_is_closed(WEB));
    executor.drain(vec![WEB], at_once(), OWNER).await.expect("accepted");
    assert!(kernel.gate_is_closed(WEB));
    assert_eq!((kernel.calls(Op::Restore), kernel.calls(Op::Retire)), (1, rounds));
    go_on.send(()).expect("somebody waits");
    sleep(10).await;
    assert_eq!(kernel.calls(Op::Retire), rounds + 1, "the flows are followed again");
    assert!(kernel.order(WEB).is_some());
}

//! The stream against a fake executor, in virtual time.

use super::*;
use crate::api::testing::{Asked, FakeDrains, WEB, app_user, draining, node_admin, serving};

const OTHER: Service = Service { netns: WEB.netns, port: 9090 };

/// A stream that keeps the leases of `services` alive, and the lines it writes.
async fn start(drains: &FakeDrains, services: &[Service]) -> mpsc::Receiver<Bytes> {
    let (lines, written) = mpsc::channel(BUFFERED_LINES);
    let updates = drains.subscribe();
    let (stream, services) = (Stream::new(drains.app(), services, lines), services.to_vec());
    tokio::spawn(async move { stream.run(&node_admin(), services, updates).await.is_ok() });
    written
}

async fn next(written: &mut mpsc::Receiver<Bytes>) -> StreamEvent {
    let line = written.recv().await.expect("the stream has ended");
    assert!(line.ends_with(b"\n"));
    serde_json::from_slice(&line).unwrap()
}

async fn next_status(written: &mut mpsc::Receiver<Bytes>) -> (StateName, u64) {
    match next(written).await {
        StreamEvent::Status { service } => (service.state, service.flows),
        ended @ StreamEvent::Ended { .. } => panic!("{ended:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_of_state_is_told_at_once_and_counts_a_little_later() {
    use StateName::{Drained, Rejecting};
    let drains = FakeDrains::new();
    drains.set(draining(WEB, Rejecting, 9));
    let mut written = start(&drains, &[WEB]).await;
    assert_eq!(next_status(&mut written).await, (Rejecting, 9));
    let told_at = Instant::now();
    drains.set(draining(WEB, Rejecting, 8));
    drains.set(draining(WEB, Rejecting, 7));
    assert_eq!(next_status(&mut written).await, (Rejecting, 7));
    assert!(told_at.elapsed() >= COUNTS_EVERY);
    let told_at = Instant::now();
    drains.set(draining(WEB, Drained, 0));
    assert_eq!(next_status(&mut written).await, (Drained, 0));
    assert!(told_at.elapsed() < Duration::from_millis(5));
}

#[tokio::test(start_paused = true)]
async fn a_status_that_comes_with_an_update_is_told_without_a_look() {
    use StateName::{Drained, Rejecting};
    let drains = FakeDrains::new();
    drains.set(draining(WEB, Rejecting, 1));
    let mut written = start(&drains, &[WEB]).await;
    next(&mut written).await;
    drains.looks_take(Duration::from_secs(10));
    let told_at = Instant::now();
    drains.say_with(draining(WEB, Rejecting, 0));
    drains.say_with(draining(WEB, Drained, 0));
    assert_eq!(next_status(&mut written).await, (Drained, 0));
    assert!(told_at.elapsed() < Duration::from_millis(5));
}

#[tokio::test(start_paused = true)]
async fn a_status_that_something_has_changed_since_is_not_told() {
    use StateName::{Drained, Rejecting};
    let drains = FakeDrains::new();
    drains.set(draining(WEB, Rejecting, 1));
    let mut written = start(&drains, &[WEB]).await;
    next(&mut written).await;
    drains.say_with(draining(WEB, Drained, 0));
    drains.set(draining(WEB, Rejecting, 2));
    assert_eq!(next_status(&mut written).await, (Rejecting, 2));
    drains.say_with(draining(WEB, Drained, 0));
    drains.set_unsaid(serving(WEB));
    drains.say(WEB, Some("undrained"));
    assert!(matches!(next(&mut written).await, StreamEvent::Ended { .. }));
}

#[tokio::test(start_paused = true)]
async fn progress_is_told_each_second_without_any_update() {
    let drains = FakeDrains::new();
    drains.set(draining(WEB, StateName::Rejecting, 9));
    let mut written = start(&drains, &[WEB]).await;
    next(&mut written).await;
    let begin = Instant::now();
    drains.set_unsaid(draining(WEB, StateName::Rejecting, 4));
    assert_eq!(next_status(&mut written).await, (StateName::Rejecting, 4));
    assert!(begin.elapsed().abs_diff(PROGRESS_EVERY) < Duration::from_millis(5));
}

#[tokio::test(start_paused = true)]
async fn it_ends_when_every_drain_has_ended() {
    let drains = FakeDrains::new();
    drains.set(draining(WEB, StateName::Settling, 1));
    drains.set(draining(OTHER, StateName::Settling, 1));
    let mut written = start(&drains, &[WEB, OTHER]).await;
    next(&mut written).await;
    next(&mut written).await;
    for service in [WEB, OTHER] {
        drains.set_unsaid(serving(service));
        drains.say(service, Some("undrained"));
        loop {
            match next(&mut written).await {
                StreamEvent::Status { .. } => {}
                StreamEvent::Ended { service: ended, reason, .. } => {
                    assert_eq!((ended.service(), reason.as_str()), (service, "undrained"));
                    assert_eq!(ended.state, StateName::Serving);
                    break;
                }
            }
        }
    }
    assert!(written.recv().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn the_end_is_told_by_the_update_that_says_why() {
    let drains = FakeDrains::new();
    drains.set(draining(WEB, StateName::Rejecting, 1));
    let mut written = start(&drains, &[WEB]).await;
    next(&mut written).await;
    drains.set_unsaid(serving(WEB));
    // The turn that comes after a second sees that the drain is gone, and says nothing.
    tokio::time::advance(PROGRESS_EVERY * 2).await;
    drains.say(WEB, Some("its lease is over"));
    assert!(
        matches!(next(&mut written).await, StreamEvent::Ended { reason, .. } if reason == "its lease is over")
    );
}

#[tokio::test(start_paused = true)]
async fn an_end_that_was_missed_is_told_all_the_same() {
    let drains = FakeDrains::new();
    drains.set(draining(WEB, StateName::Rejecting, 1));
    let mut written = start(&drains, &[WEB]).await;
    next(&mut written).await;
    drains.set_unsaid(serving(WEB));
    drains.say(WEB, Some("this one falls out of the channel"));
    (0..10).for_each(|_| drains.say(OTHER, None));
    assert!(matches!(next(&mut written).await, StreamEvent::Ended { .. }));
    assert!(written.recv().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn leases_are_renewed_before_a_third_has_passed() {
    let drains = FakeDrains::new();
    // Drained, so that no progress is told: the lease of nine seconds alone sets the pace.
    drains.set(draining(WEB, StateName::Drained, 0));
    let mut written = start(&drains, &[WEB]).await;
    next(&mut written).await;
    let begin = Instant::now();
    for renewals in 1..=3_u32 {
        next(&mut written).await;
        let asked = drains.asked();
        assert_eq!(asked, vec![Asked::Renew(WEB); 1 + renewals as usize]);
        assert!(begin.elapsed() <= (Duration::from_secs(3) + COUNTS_EVERY) * renewals);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_dropped() {
    let drains = FakeDrains::new();
    drains.set(draining(WEB, StateName::Rejecting, 1));
    let (lines, mut written) = mpsc::channel(1);
    let updates = drains.subscribe();
    let stream = Stream::new(drains.app(), &[WEB], lines);
    let begin = Instant::now();
    assert!(stream.run(&node_admin(), vec![WEB], updates).await.is_err());
    assert!(begin.elapsed() >= UNREAD_FOR);
    assert!(written.recv().await.is_some());
    assert!(written.recv().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn it_ends_when_the_client_goes() {
    let drains = FakeDrains::new();
    let (lines, written) = mpsc::channel(BUFFERED_LINES);
    let stream = Stream::new(drains.app(), &[WEB], lines);
    let updates = drains.subscribe();
    let running =
        tokio::spawn(async move { stream.run(&node_admin(), vec![WEB], updates).await.is_err() });
    drop(written);
    assert!(running.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn it_is_answered_before_its_first_look_which_ends_when_the_client_goes() {
    let drains = FakeDrains::new();
    drains.looks_take(Duration::from_secs(60));
    let begin = Instant::now();
    let ask = async || {
        let query = EventsQuery { services: WEB.to_string() };
        events(State(drains.app()), Params(query), Calling(app_user())).await.unwrap().into_body()
    };
    let mut body = std::pin::pin!(ask().await);
    assert!(begin.elapsed() < Duration::from_secs(1));
    let frame = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await;
    assert!(frame.unwrap().unwrap().is_data() && begin.elapsed() >= Duration::from_secs(60));
    body.set(Body::empty());
    drop(ask().await);
    let asked = Instant::now();
    while drains.followers() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await; // virtual
    }
    assert!(asked.elapsed() < Duration::from_secs(1), "before the look was over");
}

#[tokio::test]
async fn only_who_may_drain_keeps_leases_alive() {
    let drains = FakeDrains::new();
    let roots = crate::api::testing::ROOTS;
    let renewable = renewable(&drains.app(), &app_user(), &[WEB, roots]).await;
    assert_eq!(renewable, [WEB]);
}

#[test]
fn lists_of_services() {
    assert_eq!(parse("7:80,7:81,7:80").unwrap().len(), 2);
    let ids =
        |count: u16| (1..=count).map(|port| format!("7:{port}")).collect::<Vec<_>>().join(",");
    assert!(parse(&ids(64)).is_ok());
    for bad in ["", "7:80,", "80", &ids(65)] {
        assert!(parse(bad).is_err(), "{bad:?}");
    }
}

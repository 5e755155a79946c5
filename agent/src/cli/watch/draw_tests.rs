//! What is on a screen of this size.

use std::time::Duration;

use ratatui::{Terminal, backend::TestBackend};

use super::*;
use crate::{
    api::protocol::{Entered, HoldStatus, OutboundStatus, RegistryFailure, RegistryStatus},
    cli::fake::{flow, service},
    registries::Told,
};

fn rejecting() -> ServiceStatus {
    let mut service = service(8080, StateName::Rejecting);
    (service.flows, service.rejected, service.accepted) = (2, 12, 500);
    let drain = service.drain.as_mut().unwrap();
    (drain.age_ms, drain.deadline_in_ms) = (4000, 4000);
    let entered = |state, ago_ms| Entered { state, ago_ms };
    drain.history = vec![entered(StateName::Settling, 4000), entered(StateName::Rejecting, 2000)];
    drain.retire.what = vec![crate::api::protocol::RetireKind::Http];
    (drain.retire.told_by_header, drain.retire.left) = (3, 1);
    service
}

fn with(services: Vec<ServiceStatus>) -> Screen {
    let mut screen = Screen::new(false);
    let start = Instant::now();
    for second in 0..2 {
        screen.answered(
            services.clone(),
            Ok(vec![flow(); 30]),
            start + Duration::from_secs(second),
        );
    }
    screen
}

fn drawn(shown: &Screen, width: u16, height: u16, now: Instant) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| screen(shown, frame, now)).unwrap();
    terminal.backend().to_string()
}

#[test]
fn a_drain_on_the_smallest_terminal() {
    let screen = with(vec![service(80, StateName::Serving), rejecting()]);
    let text = drawn(&screen, 80, 24, Instant::now());
    for words in [
        "2 services, 1 draining   live",
        "> netns 4026531840 :8080  rejecting      2",
        "  netns 4026531840 :80    serving        0",
        "░ settling 2.0s   ▒ rejecting 2.0s",
        "left: 2 connections, 0 handshakes, 0 lingering; refused 12",
        "3 told (3 header, 0 GOAWAY), 0 FIN, 1 gone by themselves, 0 aborted",
        "10.0.0.1:40000",
        "and 26 more",
        HELP,
    ] {
        assert!(text.contains(words), "{words:?} in\n{text}");
    }
    let bar = "░".repeat(20) + &"▒".repeat(20) + &"·".repeat(40);
    assert!(text.contains(&bar), "a quarter, a quarter, and the rest until the deadline:\n{text}");
}

#[test]
fn what_a_drain_waits_for_beside_connections_is_named() {
    let mut held = rejecting();
    let batch = HoldStatus { name: "batch-42".parse().unwrap(), age_ms: 1, left_ms: 5000, uid: 0 };
    held.holds.push(batch);
    let broker = OutboundStatus { to: "10.0.0.9:5672".into(), connections: Some(3) };
    held.drain.as_mut().unwrap().wait_outbound.push(broker);
    let failure = Some(RegistryFailure { event: Told::Drain, why: "refused".into() });
    held.registries.push(RegistryStatus { name: "consul".into(), told: false, failure });
    let mut screen = Screen::new(false);
    // The first answer chooses the service, whose flows come with the second.
    for _ in 0..2 {
        screen.answered(vec![held.clone()], Err("it is slow".into()), Instant::now());
    }
    let text = drawn(&screen, 80, 24, Instant::now());
    for words in [
        "waits for: hold batch-42 (5.0s left), 3 connections to 10.0.0.9:5672",
        "registry \"consul\" cannot be told that it leaves: refused",
        "its connections cannot be listed: it is slow",
    ] {
        assert!(text.contains(words), "{words:?} in\n{text}");
    }
}

#[test]
fn enter_gives_the_drain_all_the_room() {
    let mut screen = with(vec![rejecting()]);
    screen.press(super::super::state::Key::Enter);
    let text = drawn(&screen, 120, 50, Instant::now());
    assert_eq!(text.matches("10.0.0.1:40000").count(), 30, "{text}");
}

#[test]
fn old_figures_are_not_taken_for_new_ones() {
    let mut screen = with(vec![rejecting()]);
    screen.lost("nobody listens on the socket".into());
    let text = drawn(&screen, 80, 24, Instant::now() + Duration::from_secs(13));
    assert!(text.contains("NO CONNECTION for 1") && !text.contains("live"), "{text}");
}

#[test]
fn no_size_is_too_small_and_many_services_fit() {
    let many: Vec<_> = (1..=1000).map(|port| service(port, StateName::Serving)).collect();
    let mut screen = with(many);
    screen.press(super::super::state::Key::End);
    assert!(drawn(&screen, 80, 24, Instant::now()).contains("> netns 4026531840 :1000"));
    let screen = with(vec![rejecting()]);
    for (width, height) in [(1, 1), (5, 3), (20, 5), (300, 2), (10, 100)] {
        drawn(&screen, width, height, Instant::now());
    }
}

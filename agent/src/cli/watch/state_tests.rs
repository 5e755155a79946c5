//! Keys and answers.

use super::*;
use crate::cli::fake::{flow, service};

fn screen() -> Screen {
    let mut screen = Screen::new(true);
    let mut young = service(82, StateName::Settling);
    let mut old = service(83, StateName::Expired);
    for (service, age) in [(&mut young, 1000), (&mut old, 9000)] {
        service.drain.as_mut().unwrap().age_ms = age;
    }
    let services =
        vec![service(80, StateName::Serving), service(81, StateName::Serving), young, old];
    screen.answered(services, Ok(vec![flow()]), Instant::now());
    screen
}

fn ports(screen: &Screen) -> Vec<u16> {
    screen.shown().iter().map(|service| service.port).collect()
}

fn chosen(screen: &Screen) -> u16 {
    screen.service().expect("one is chosen").port
}

#[test]
fn drains_come_first_and_the_oldest_is_chosen() {
    let screen = screen();
    assert_eq!(ports(&screen), [83, 82, 80, 81]);
    assert_eq!((chosen(&screen), screen.totals()), (83, (4, 2, 1)));
}

#[test]
fn keys_move_the_choice_and_ask_for_its_connections() {
    let mut screen = screen();
    for (key, port, then) in [
        (Key::Up, 83, Then::GoOn),
        (Key::Down, 82, Then::Ask),
        (Key::Letter('j'), 80, Then::Ask),
        (Key::End, 81, Then::Ask),
        (Key::Down, 81, Then::GoOn),
        (Key::PageUp, 83, Then::Ask),
    ] {
        assert_eq!((screen.press(key), chosen(&screen)), (then, port), "{key:?}");
    }
    assert_eq!(screen.press(Key::Letter('q')), Then::Quit);
    assert_eq!(screen.press(Key::Interrupt), Then::Quit);
}

#[test]
fn a_filter_is_typed_and_given_up() {
    let mut screen = screen();
    screen.press(Key::Letter('/'));
    for letter in "serving :8q".chars() {
        assert_ne!(screen.press(Key::Letter(letter)), Then::Quit);
    }
    assert_eq!((ports(&screen), screen.typed()), (vec![], Some("serving :8q")));
    assert!(screen.service().is_none());
    assert_eq!(screen.press(Key::Backspace), Then::Ask);
    assert_eq!((ports(&screen), chosen(&screen)), (vec![80, 81], 80));
    screen.press(Key::Enter);
    assert_eq!((screen.typed(), screen.filter()), (None, "serving :8"));
    screen.press(Key::Enter);
    assert!(screen.is_wide());
    screen.press(Key::Escape);
    screen.press(Key::Escape);
    assert_eq!((ports(&screen).len(), chosen(&screen), screen.is_wide()), (4, 80, false));
}

#[test]
fn a_choice_outlives_answers_until_it_is_gone() {
    let mut screen = screen();
    screen.press(Key::End);
    screen.answered(vec![service(81, StateName::Serving)], Ok(vec![flow()]), Instant::now());
    assert_eq!((chosen(&screen), screen.blocking().count()), (81, 1));
    screen.answered(vec![service(90, StateName::Serving)], Ok(vec![flow()]), Instant::now());
    assert_eq!((chosen(&screen), screen.blocking().count()), (90, 0), "those are another's");
}

#[test]
fn what_is_old_is_known_to_be_old() {
    let mut screen = screen();
    let now = Instant::now();
    assert!(screen.outage(now).is_none());
    screen.lost("it is gone".into());
    let (since, why) = screen.outage(now + Duration::from_secs(60)).expect("there is one");
    assert!(since >= Duration::from_secs(60) && why == "it is gone");
    screen.answered(Vec::new(), Ok(Vec::new()), now);
    assert!(!screen.is_lost() && screen.service().is_none());
}

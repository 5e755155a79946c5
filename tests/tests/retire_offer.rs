//! A GOAWAY that the agent offers to an HTTP/2 flow whose server is silent: sent at a good moment only, and no harm is
//! done to what the server writes afterwards.

mod retiring;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use drainctl_agent::kernel::{Finish, Kernel, RetireOrder};
use drainctl_tests::{
    frames::{GOAWAY, data, headers, last_data, ping, settings},
    held::Held,
    script::{GET, OK, Step, ask, goaway, head, play, preface, same, say},
    wire::Wire,
};
use retiring::Retiring;

/// Offers a GOAWAY to one flow; returns whether it was sent.
fn offer(retiring: &Retiring, wire: &Wire) -> Result<bool> {
    let cookie = wire.cookie()?;
    let look = retiring.linux.look(retiring.service.netns, Some(retiring.service.port))?;
    let socket = look.sockets.iter().find(|socket| socket.cookie == cookie).context("no flow")?;
    let received = socket.info.context("no tcp_info")?.bytes_received;
    let flow = Finish { cookie, inode: socket.inode, received };
    let told = retiring.linux.offer_goaway(retiring.service.netns, &[flow])?;
    ensure!(told.is_empty() || told == [cookie], "{told:?}");
    Ok(!told.is_empty())
}

/// What is said before an offer that is not taken, and what is said after it.
fn cases() -> Vec<(&'static str, Vec<Step>, Vec<Step>)> {
    let answer = [settings(), headers(1)].concat();
    let half = [settings(), data(1, &[0; 100])[..50].to_vec()].concat();
    vec![
        (
            "a stream is open",
            vec![preface(), say(&[same(answer)])],
            vec![say(&[same(data(1, b"a"))]), say(&[same(last_data(1, b"b")), goaway()])],
        ),
        (
            "in the middle of a frame",
            vec![preface(), say(&[same(half)])],
            vec![say(&[same([0; 59])]), say(&[same(last_data(1, b"b")), goaway()])],
        ),
        (
            "it was told already",
            vec![preface(), say(&[same(settings()), goaway()])],
            vec![say(&[same(ping())])],
        ),
        ("nothing was said", vec![], vec![preface(), say(&[same(settings()), goaway()])]),
        ("it is HTTP/1", vec![ask(GET), say(&[head(OK), same("o")])], vec![say(&[same("k")])]),
        ("it is no HTTP", vec![ask("a"), say(&[same("b")])], vec![ask("a"), say(&[same("b")])]),
        (
            "a message like the offer",
            vec![preface(), say(&[same([settings(), headers(1)].concat())])],
            vec![
                say(&[same(data(1, &GOAWAY)[..9].to_vec())]),
                say(&[same(GOAWAY)]),
                say(&[same(ping())]),
            ],
        ),
    ]
}

#[test]
fn an_offer_that_comes_at_a_bad_moment_changes_nothing() -> Result<()> {
    let retiring = Retiring::new()?;
    let order = retiring.at_once();
    let patient_until = order.start + Duration::from_secs(300);
    retiring.order(&RetireOrder { patient_until, ..order })?;
    let mut alone = retiring.connect()?;
    let expected = play(&mut alone, &[say(&[same([settings(), headers(1)].concat())])])?;
    ensure!(!offer(&retiring, &alone)?, "no process of the namespace has it");
    retiring.check(alone, &expected)?;
    for (what, before, after) in cases() {
        let Held { mut wire, holder } = Held::new(&retiring.netns, retiring.pair()?)?;
        let mut expected = play(&mut wire, &before)?;
        ensure!(!offer(&retiring, &wire)?, "{what}: told");
        expected.extend(play(&mut wire, &after).context(what)?);
        retiring.check(wire, &expected).context(what)?;
        drop(holder);
    }
    Ok(())
}

#[test]
fn an_offer_at_a_good_moment_is_taken_once() -> Result<()> {
    let retiring = Retiring::new()?;
    let order = retiring.at_once();
    // Not yet: it is told nothing by what it says itself.
    retiring.order(&RetireOrder { http2: false, ..order })?;
    let Held { mut wire, holder } = Held::new(&retiring.netns, retiring.pair()?)?;
    let mut expected = play(&mut wire, &[preface(), say(&[same(settings())])])?;
    ensure!(!offer(&retiring, &wire)?, "HTTP/2 is to be left alone");
    expected.extend(play(&mut wire, &[say(&[same(ping())])])?);
    retiring.tell()?;
    ensure!(offer(&retiring, &wire)?, "nothing is under way");
    expected.extend(GOAWAY);
    ensure!(!offer(&retiring, &wire)?, "once is enough");
    expected.extend(play(&mut wire, &[say(&[same(ping())]), say(&[same(ping())])])?);
    retiring.check(wire, &expected)?;
    drop(holder);
    Ok(())
}

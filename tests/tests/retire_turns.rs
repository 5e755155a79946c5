//! When flows are told: each at its turn, as long as the order holds, and only as asked for.

use std::time::Duration;

use crate::retiring::Retiring;
use anyhow::{Result, ensure};
use drainctl_agent::kernel::{Kernel, Protocol, RetireOrder};
use drainctl_tests::{
    script::{GET, OK, play, told, untold},
    wait::{LIMIT, eventually},
    wire::difference,
};

#[test]
fn flows_are_told_from_their_turn_on_and_not_before() -> Result<()> {
    const SPREAD: Duration = Duration::from_secs(4);
    let retiring = Retiring::new()?;
    let mut wires = (0..40).map(|_| retiring.connect()).collect::<Result<Vec<_>>>()?;
    let order = RetireOrder { spread: SPREAD, ..retiring.at_once() };
    retiring.order(&order)?;
    // Those that come while the turns are given get one too.
    wires.extend((0..40).map(|_| retiring.connect()).collect::<Result<Vec<_>>>()?);
    let mut early = 0;
    for mut wire in wires {
        let turn = retiring.followed(&wire)?.turn;
        ensure!(turn >= order.start && turn <= order.start + SPREAD, "{turn:?} in {order:?}");
        let mut expected = Vec::new();
        if retiring.linux.now() < turn {
            wire.ask(GET.as_bytes())?;
            let before = [OK, "ok"].concat();
            wire.say(before.as_bytes())?;
            if retiring.linux.now() < turn {
                ensure!(retiring.followed(&wire)?.told.is_none(), "told before its turn");
                expected.extend(before.bytes());
                early += 1;
            } else {
                continue; // It had its turn meanwhile: nothing can be said.
            }
        }
        eventually(LIMIT, "its turn", || Ok(retiring.linux.now() >= turn))?;
        expected.extend(play(&mut wire, &told())?);
        ensure!(retiring.check(wire, &expected)?.told.is_some_and(|told| told.at >= turn));
    }
    ensure!(early > 0, "no flow was seen before its turn");
    Ok(())
}

#[test]
fn turns_are_spread_evenly() -> Result<()> {
    const SPREAD: Duration = Duration::from_secs(300);
    let retiring = Retiring::new()?;
    let wires = (0..100).map(|_| retiring.connect()).collect::<Result<Vec<_>>>()?;
    let order = RetireOrder { spread: SPREAD, ..retiring.at_once() };
    retiring.order(&order)?;
    let mut thirds = [0; 3];
    for wire in &wires {
        let after = retiring.followed(wire)?.turn.since(order.start);
        thirds[(after.as_secs() / 100).min(2) as usize] += 1;
    }
    ensure!(thirds.iter().all(|third| *third >= 15), "{thirds:?}");
    Ok(())
}

#[test]
fn what_is_not_asked_for_is_not_done() -> Result<()> {
    let retiring = Retiring::new()?;
    let mut wire = retiring.connect()?;
    let mut expected = play(&mut wire, &untold())?;
    retiring.order(&RetireOrder { http1: false, ..retiring.at_once() })?;
    expected.extend(play(&mut wire, &untold())?);
    ensure!(retiring.followed(&wire)?.protocol == Protocol::Http1, "it is followed");
    let past = retiring.linux.now();
    retiring.order(&RetireOrder { until: past, ..retiring.at_once() })?;
    expected.extend(play(&mut wire, &untold())?);
    ensure!(retiring.followed(&wire)?.told.is_none(), "the order was over");
    retiring.tell()?;
    expected.extend(play(&mut wire, &told())?);
    ensure!(retiring.followed(&wire)?.told.is_some());
    retiring.linux.restore(retiring.service)?;
    ensure!(retiring.linux.followed(retiring.service)?.is_empty());
    expected.extend(play(&mut wire, &untold())?);
    let seen = wire.close()?;
    ensure!(seen.arrived == expected, "{}", difference(&expected, &seen.arrived));
    Ok(())
}

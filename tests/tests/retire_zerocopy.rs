//! Flows whose server asks for zero-copy sending only after we have taken them in: they leave again, and then all is
//! as it was before, notifications included.

use std::{net::TcpStream, os::fd::AsFd, process};

use crate::retiring::Retiring;
use anyhow::{Context, Result, ensure};
use drainctl_agent::kernel::{Barrier, Followed, Kernel};
use drainctl_tests::{
    bpf::AgentMaps,
    options::ask_for_zero_copy,
    script::{play, talk, told, untold},
    wait::{LIMIT, eventually, eventually_some},
    wire::{Wire, noise},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{SendFlags, send},
};

/// What is sent without a copy.
const BODY: usize = 10_000;

#[test]
fn a_flow_that_asks_for_zero_copy_later_leaves_at_the_next_scan() -> Result<()> {
    let retiring = Retiring::new()?;
    retiring.tell()?;
    let maps = AgentMaps::of(process::id())?;
    for before in [&told()[..], &[]] {
        let mut plain = retiring.connect()?;
        let mut wire = retiring.connect()?;
        for wire in [&plain, &wire] {
            await_joined(&retiring, &maps, wire)?;
        }
        talk(&mut wire, before)?;

        ask_for_zero_copy(wire.server())?;
        let flow = await_barrier(&retiring, &wire)?;
        ensure!(flow.barrier == Some(Barrier::ZeroCopy), "{flow:?}");
        ensure!(flow.told.is_some() != before.is_empty(), "what was said stays said: {flow:?}");
        ensure!(!maps.has_socket(wire.cookie()?)?, "it is in the sockhash: {flow:?}");
        talk(&mut wire, &untold())?;
        send_without_copy(&mut wire)?;

        // It does not come back.
        retiring.tell()?;
        ensure!(!maps.has_socket(wire.cookie()?)?, "it is in the sockhash again");
        let transcript = wire.close()?;
        let changed = transcript.written != transcript.arrived;
        ensure!(changed != before.is_empty(), "changed: {changed}");
        retiring.forget(&flow)?;

        let expected = play(&mut plain, &told())?;
        ensure!(maps.has_socket(plain.cookie()?)?, "the plain one beside it stays");
        retiring.check(plain, &expected)?;
    }
    Ok(())
}

/// Waits until a new flow is in the sockhash.
fn await_joined(retiring: &Retiring, maps: &AgentMaps, wire: &Wire) -> Result<()> {
    let cookie = wire.cookie()?;
    retiring.followed(wire)?;
    eventually(LIMIT, "a new flow is in the sockhash", || maps.has_socket(cookie))
}

/// Scans until the flow has something that keeps it from being told.
fn await_barrier(retiring: &Retiring, wire: &Wire) -> Result<Followed> {
    let cookie = wire.cookie()?;
    eventually_some(LIMIT, "a scan finds that the flow cannot be told", || {
        retiring.tell()?;
        let flows = retiring.linux.followed(retiring.service)?;
        let flow = flows.into_iter().find(|flow| flow.cookie == cookie);
        Ok(Some(flow.context("the flow is not followed")?).filter(|flow| flow.barrier.is_some()))
    })
}

/// Sends without a copy, and is told when that is done: from a sockhash nobody ever is.
fn send_without_copy(wire: &mut Wire) -> Result<()> {
    let body = noise(3, BODY);
    let flags = SendFlags::from_bits_retain(u32::try_from(libc::MSG_ZEROCOPY)?);
    wire.say_by(&body, |server| {
        ensure!(send(&*server, &body, flags)? == BODY);
        Ok(())
    })?;
    ensure!(wire.hear(BODY)? == body, "something else arrived than was sent");
    ensure!(is_notified(wire.server())?, "no notification of a zero-copy send");
    Ok(())
}

/// Waits for something in the queue of errors, where notifications come.
fn is_notified(server: &TcpStream) -> Result<bool> {
    let mut fds = [PollFd::from_borrowed_fd(server.as_fd(), PollFlags::empty())];
    poll(&mut fds, Some(&Timespec::try_from(LIMIT)?))?;
    Ok(fds[0].revents().contains(PollFlags::ERR))
}

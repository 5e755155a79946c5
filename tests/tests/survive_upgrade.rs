//! An agent with other kernel programs takes over while connections come and go, are handed over and are carried: nobody
//! notices, and the counts are right.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use drainctl_agent::kernel::VERSION;
use drainctl_tests::{
    cluster::PORT,
    ctl::Service,
    fixture::{await_agreement, serve},
    http,
    load::{Load, Manner, Plan},
    net::{Acceptor, Attempt, attempt},
    nginx::{BODY, Nginx},
    wait::{LIMIT, eventually},
    world::World,
};

use Attempt::Connected;

/// Where a new server listens.
const OTHER: u16 = 8081;

#[test]
fn a_handoff_goes_on_through_an_upgrade_of_the_kernel_programs() -> Result<()> {
    let mut world = World::new()?;
    let (new, held) = (serve(world.pod(), OTHER)?, world.served_by(&world.old)?);
    world.drain(&[&format!("--new=handoff=port:{OTHER}")])?;
    let handed = world.served_by(&new)?;
    world.await_counts(1, 1)?;
    let _new = Acceptor::start(new);
    world.agent.stop()?;
    world.agent.set_program(env!("CARGO_BIN_EXE_agent"));
    let (stop, client) = (AtomicBool::new(false), Arc::clone(&world.cluster.client));
    let addr = world.pod().addr();
    thread::scope(|scope| {
        let probe = scope.spawn(|| {
            let mut connected = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                let got = attempt(&client, addr, LIMIT)?;
                ensure!(got == Connected, "after {connected} connections: {got:?}");
                connected += 1;
            }
            Ok(connected)
        });
        let version = (VERSION + 1).to_string();
        let launched = world.agent.launch(&["--abi", &version]);
        stop.store(true, Ordering::Relaxed);
        let connected = probe.join().map_err(|_| anyhow!("the probe panicked"))??;
        ensure!(connected > 10, "it tried {connected} times only");
        launched
    })?;
    let handed_over = |s: &Service| s.drain.as_ref().is_some_and(|drain| drain.handed_over > 0);
    world.ctl().await_service(PORT, "our own gate hands over", handed_over)?;
    // What the new server had got before is still its own.
    drop(held);
    world.ctl().await_state(PORT, "drained")?;
    world.await_counts(0, 1)?;
    drop(handed);
    world.await_counts(0, 0)?;
    world.ensure_agreed()?;
    world.ensure_nothing_is_left()
}

/// Requests for a server, by clients that never retry.
fn load(world: &World, port: u16, path: &'static str, manner: Manner) -> Load {
    let target = SocketAddr::new(world.pod().v4.into(), port);
    let (pace, at_most, workers) = (Duration::from_millis(10), u64::MAX, 2);
    let plan = Plan { target, path, body: BODY, manner, workers, pace, at_most };
    Load::start(&world.cluster.client, plan)
}

#[test]
fn under_load_nobody_notices_and_the_old_process_carries_to_the_end() -> Result<()> {
    let mut world = World::new()?;
    let peer = Nginx::start(&world.cluster.pods[1])?;
    let served = Nginx::start_on(Arc::clone(&world.pod().netns), &[OTHER])?;
    world.drain(&[&format!("--new=forward={}", world.cluster.pods[1].v4)])?;
    let mut carried = http::Client::connect(&world.cluster.client, world.pod().addr())?;
    ensure!(carried.get("/ok")?.body == BODY);
    let loads = [
        load(&world, PORT, "/ok", Manner::OneRequest),
        load(&world, OTHER, "/ok", Manner::OneRequest),
        load(&world, OTHER, "/kept", Manner::KeepAlive),
    ];
    let go_on = || {
        loads.iter().try_for_each(|load| {
            let enough = load.sent() + 30;
            eventually(LIMIT, "requests were sent", || Ok(load.sent() > enough))
        })
    };
    go_on()?;
    let mut before = world.agent.hand_on()?;
    eventually(LIMIT, "it says what", || Ok(world.agent.log().contains("still carries")))?;
    go_on()?;
    world.agent.set_program(env!("CARGO_BIN_EXE_agent"));
    world.agent.launch(&["--abi", &(VERSION + 1).to_string()])?;
    go_on()?;
    ensure!(world.agent.metric("carried_total")? > 0, "the new agent carries none");
    ensure!(carried.get("/ok")?.body == BODY, "the old one goes on");
    for load in loads {
        let tally = load.finish()?;
        ensure!(tally.failed() == 0 && tally.ok > 60, "{tally}");
    }
    ensure!(served.served()? > 0 && peer.served()? > 0);
    world
        .await_counts(0, 1)
        .context("what the old one carries is no flow of the drained server")?;
    await_agreement(&world.agent, world.pod(), OTHER)?;
    world.ensure_agreed()?;
    // Nothing in the kernel is needed for it.
    world.ensure_nothing_is_left()?;
    ensure!(before.exited()?.is_none() && carried.get("/ok")?.body == BODY);
    drop(carried);
    ensure!(before.wait(LIMIT)?.success(), "{}", world.agent.log());
    Ok(())
}

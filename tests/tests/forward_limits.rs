//! What `--new forward` may take: no service all the room there is, and no descriptors that are not there.

use std::{
    io::{ErrorKind, Write as _},
    net::SocketAddr,
};

use anyhow::{Context, Result, ensure};
use drainctl_tests::{
    cluster::PORT,
    fixture::serve,
    held::descriptors,
    net::{Pair, connect},
    wait::{LIMIT, eventually},
    world::{World, forwarding},
};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

/// Another service of the pod.
const OTHER: u16 = 8081;

#[test]
fn one_service_leaves_room_for_the_next() -> Result<()> {
    let mut world = World::with(&["--max-carried", "4"])?;
    let (_other, peer) = (serve(world.pod(), OTHER)?, serve(&world.cluster.pods[1], PORT)?);
    let to = format!("--new=forward={}:80", world.cluster.pods[1].v4);
    world.drain(&[&to])?;
    let drain = ["drain", "--port=8081", "--quiet=0s", "--no-wait", "--retire=none", &to];
    world.ctl().expect(0, &drain)?;
    let carried = |port: u16| -> Result<Pair> {
        let addr = SocketAddr::new(world.pod().v4.into(), port);
        let client = connect(&world.cluster.client, addr)?;
        let mut pair = Pair { client, server: peer.accept()? };
        pair.exchange()?;
        Ok(pair)
    };
    let held = [carried(PORT)?, carried(PORT)?];
    // Whether it has noticed that it was connected or not.
    let third = connect(&world.cluster.client, world.pod().addr());
    eventually(LIMIT, "the third is one too many", || {
        Ok(world.agent.metric("carried_over_limit_total")? == 1)
    })?;
    drop(third);
    carried(OTHER)?;
    ensure!(
        world.agent.metric("carried_total")? == 3
            && world.agent.metric("carried_over_limit_total")? == 1
    );
    drop(held);
    world.ensure_nothing_is_left()
}

#[test]
fn without_descriptors_it_is_reset_and_said_and_nothing_spins() -> Result<()> {
    let (mut world, peer) = forwarding()?;
    let mut pair = world.served_by(&peer)?;
    world.await_counts(0, 1)?;
    let pid = world.agent.pid()?;
    let agent = Pid::from_raw(i32::try_from(pid)?).context("a process has a pid")?;
    let open = descriptors(pid)?.len() as u64;
    // Fewer than it has: whatever it wants to open now, it cannot.
    let few = Rlimit { current: Some(open / 2), maximum: getrlimit(Resource::Nofile).maximum };
    let usual = prlimit(Some(agent), Resource::Nofile, few)?;
    let broken = loop {
        if let Err(error) = pair.client.write_all(b"more") {
            break error;
        }
    };
    let kinds = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
    ensure!(kinds.contains(&broken.kind()), "{broken}");
    ensure!(world.agent.log().contains("no room for its bytes"), "{}", world.agent.log());
    prlimit(Some(agent), Resource::Nofile, usual)?;
    let got = std::io::copy(&mut pair.server, &mut std::io::sink());
    ensure!(got.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
    world.served_by(&peer)?.exchange().context("it goes on")?;
    world.ensure_nothing_is_left()
}

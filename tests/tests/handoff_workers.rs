//! A new server with more listening sockets than the gate tries for one connection, for each address family its own.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    os::fd::OwnedFd,
};

use anyhow::{Context, Result, ensure};
use drainctl_tests::{
    cluster::PORT,
    net::connect,
    netns::Netns,
    wait::{LIMIT, eventually},
    world::World,
};
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, ipproto, listen, socket_with, sockopt,
};

const OTHER: u16 = 8081;
/// Of each family; the gate tries 32 of both together.
const WORKERS: usize = 20;

/// One of several sockets that listen on this address.
fn worker(netns: &Netns, addr: SocketAddr) -> Result<TcpListener> {
    netns.run(|| {
        let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd: OwnedFd = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
        sockopt::set_socket_reuseport(&fd, true)?;
        if addr.is_ipv6() {
            sockopt::set_ipv6_v6only(&fd, true)?;
        }
        bind(&fd, &addr)?;
        listen(&fd, 64)?;
        Ok(TcpListener::from(fd))
    })
}

#[test]
fn every_worker_socket_of_both_families_takes_its_share() -> Result<()> {
    let mut world = World::new()?;
    let any: [SocketAddr; 2] =
        [(Ipv4Addr::UNSPECIFIED, OTHER).into(), (Ipv6Addr::UNSPECIFIED, OTHER).into()];
    let addrs = any.iter().flat_map(|addr| [*addr; WORKERS]);
    let workers = addrs.map(|addr| worker(&world.pod().netns, addr)).collect::<Result<Vec<_>>>()?;
    world.drain(&["--new=handoff=port:8081"])?;
    let drain = world.ctl().service(PORT)?.drain.context("it drains")?;
    ensure!(drain.takers == 2 * WORKERS as u64, "{drain:?}");
    let mut clients = Vec::new();
    for _ in 0..10 * WORKERS {
        for addr in [world.pod().addr(), world.pod().addr6()] {
            clients.push(connect(&world.cluster.client, addr)?);
        }
    }
    let mut taken = vec![0; workers.len()];
    eventually(LIMIT, "all are accepted", || {
        for (worker, taken) in workers.iter().zip(&mut taken) {
            while worker.accept().is_ok() {
                *taken += 1;
            }
        }
        Ok(taken.iter().sum::<usize>() == clients.len())
    })?;
    for family in taken.chunks(WORKERS) {
        let idle = family.iter().filter(|taken| **taken == 0).count();
        ensure!(family.iter().sum::<usize>() == clients.len() / 2 && idle <= 1, "{taken:?}");
    }
    ensure!(world.ctl().service(PORT)?.rejected == 0);
    drop(clients);
    world.ensure_nothing_is_left()
}

//! What the tests of retiring on the kernel layer start from: a server in a namespace of its own whose flows are
//! told, with no agent in between.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use drainctl_agent::{
    drain::Service,
    kernel::{self, Config, Event, Followed, Kernel, Linux, PinDir, Protocol, RetireOrder, ToldBy},
};
use drainctl_tests::{
    bpffs::Bpffs,
    net::{Listening, Pair, Server},
    netns::Netns,
    wire::{Wire, difference},
};
use tokio::sync::mpsc::UnboundedReceiver;

const PORT: u16 = 8080;

/// A server in a namespace of its own.
pub(crate) struct Retiring {
    pub(crate) linux: Arc<Linux>,
    pub(crate) service: Service,
    pub(crate) server: Server,
    pub(crate) netns: Netns,
}

impl Retiring {
    /// Nobody is told yet.
    pub(crate) fn new() -> Result<Self> {
        let linux = shared()?;
        let netns = Netns::new()?;
        let server = Server::start(&netns, Listening::on(Ipv4Addr::LOCALHOST, PORT))?;
        let service = Service { netns: netns.inode(), port: PORT };
        Ok(Self { linux, service, server, netns })
    }

    /// Has all flows told from now on, those that come included.
    pub(crate) fn tell(&self) -> Result<()> {
        self.order(&self.at_once())
    }

    /// Carries out an order.
    pub(crate) fn order(&self, order: &RetireOrder) -> Result<()> {
        self.linux.retire(self.service, order)?;
        ensure!(self.linux.retire_lacks().telling.is_none(), "nobody can be told on this kernel");
        Ok(())
    }

    /// Everybody is told, without spread, and no GOAWAY waits.
    pub(crate) fn at_once(&self) -> RetireOrder {
        let now = self.linux.now();
        let (spread, until) = (Duration::ZERO, now + Duration::from_secs(600));
        let carried = false;
        RetireOrder {
            http1: true,
            http2: true,
            carried,
            start: now,
            spread,
            patient_until: now,
            until,
        }
    }

    /// A new connection.
    pub(crate) fn connect(&self) -> Result<Wire> {
        Wire::new(self.pair()?)
    }

    /// Both its ends.
    pub(crate) fn pair(&self) -> Result<Pair> {
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
        self.server.pairs(&self.netns, addr, 1)?.pop().context("no connection")
    }

    /// What the kernel knows of a flow; an error if it does not follow it.
    pub(crate) fn followed(&self, wire: &Wire) -> Result<Followed> {
        let cookie = wire.cookie()?;
        let flows = self.linux.followed(self.service)?;
        let flow = flows.into_iter().find(|flow| flow.cookie == cookie);
        let flow = flow.context("the flow is not followed")?;
        ensure!(flow.barrier.is_none(), "the flow cannot be told: {:?}", flow.barrier);
        Ok(flow)
    }

    /// Closes a connection, and checks that the client got exactly this and the kernel knows whether it
    /// was told.
    pub(crate) fn check(&self, wire: Wire, expected: &[u8]) -> Result<Followed> {
        let flow = self.followed(&wire)?;
        let seen = wire.close()?;
        ensure!(seen.arrived == expected, "{}", difference(expected, &seen.arrived));
        let changed = seen.arrived != seen.written;
        ensure!(flow.told.is_some() == changed, "changed: {changed}, but {flow:?}");
        let by_goaway = flow.told.is_some_and(|told| told.by == ToldBy::Goaway);
        ensure!(!by_goaway || flow.protocol == Protocol::Http2, "{flow:?}");
        ensure!(flow.sent.is_some(), "our program has not run: {flow:?}");
        self.forget(&flow)?;
        Ok(flow)
    }

    /// Makes room.
    pub(crate) fn forget(&self, flow: &Followed) -> Result<()> {
        Ok(self.linux.unfollow(&[flow.cookie])?)
    }
}

impl Drop for Retiring {
    /// The number of a namespace that is gone is given to another.
    fn drop(&mut self) {
        if let Err(error) = self.linux.restore(self.service) {
            println!("restore {}: {error}", self.service);
        }
    }
}

/// A set of kernel programs.
struct Shared {
    linux: Arc<Linux>,
    _events: UnboundedReceiver<Event>,
    _pins: (PinDir, Bpffs),
}

/// One set for all tests of a file: loading them is the slow part.
fn shared() -> Result<Arc<Linux>> {
    static SHARED: Mutex<Option<Shared>> = Mutex::new(None);
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(shared) = &*shared {
        return Ok(Arc::clone(&shared.linux));
    }
    let config = Config {
        cgroup: None,
        probe_cgroup: None,
        max_flows: 65_536,
        max_services: 16_384,
        client_history: 64,
        version: None,
    };
    let bpffs = Bpffs::mount()?;
    let pin_dir = PinDir::claim(&bpffs.pin_dir())?;
    let (linux, events) = kernel::open(&config, &pin_dir)?;
    let (returned, pins) = (Arc::clone(&linux), (pin_dir, bpffs));
    *shared = Some(Shared { linux, _events: events, _pins: pins });
    Ok(returned)
}

//! The flows that the retire programs follow, and what became of each.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Mutex,
};

use drainctl_common::{
    ServiceKey,
    retire::{self, barrier, protocol, told},
};

use super::{
    Barrier, Followed, KernelError, Protocol, Told, ToldBy, linux::lock, loaded::is_missing,
    shared::Shared, tracker::key, walk::Walkable,
};
use crate::drain::{Boot, Service};

/// The map `FOLLOWED`.
pub(super) struct Flows {
    map: Mutex<Walkable<u64, retire::Followed>>,
    /// The map is of the whole node: one walk serves all drains that ask meanwhile.
    walks: Shared<Service, Vec<Followed>>,
}

impl Flows {
    pub(super) fn new(map: Walkable<u64, retire::Followed>) -> Self {
        Self { map: Mutex::new(map), walks: Shared::default() }
    }

    /// All flows of the service that are or were followed, from a walk that begins after this was called.
    pub(super) fn of(&self, service: Service) -> Result<Vec<Followed>, KernelError> {
        self.walks.ask(service, |services| {
            let keys: HashMap<ServiceKey, Service> =
                services.iter().map(|service| (key(*service), *service)).collect();
            let mut flows: HashMap<Service, Vec<Followed>> = HashMap::new();
            lock(&self.map).for_each("FOLLOWED", |cookie, flow: retire::Followed| {
                if let Some(service) = keys.get(&flow.service) {
                    flows.entry(*service).or_default().push(told_of(cookie, &flow));
                }
            })?;
            Ok(flows)
        })
    }

    /// Services that have any.
    pub(super) fn services(&self) -> Result<BTreeSet<Service>, KernelError> {
        let mut services = BTreeSet::new();
        lock(&self.map).for_each("FOLLOWED", |_, flow: retire::Followed| {
            services.insert(service_of(flow.service));
        })?;
        Ok(services)
    }

    /// Forgets flows, which must have ended or be out of the sockhash.
    pub(super) fn forget(&self, cookies: &[u64]) -> Result<(), KernelError> {
        let map = &mut lock(&self.map).map;
        for cookie in cookies {
            match map.remove(cookie) {
                Err(e) if !is_missing(&e) => {
                    return Err(KernelError::op("remove from map FOLLOWED flow", cookie, e));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The service with this key in the maps.
pub(super) fn service_of(key: ServiceKey) -> Service {
    Service { netns: key.netns, port: key.port }
}

/// A flow as the rest of the agent sees it.
fn told_of(cookie: u64, flow: &retire::Followed) -> Followed {
    let by = match flow.told {
        0 => None,
        bits if bits & told::HEADER != 0 => Some(ToldBy::Header),
        _ => Some(ToldBy::Goaway),
    };
    Followed {
        cookie,
        protocol: match flow.protocol {
            protocol::HTTP1 => Protocol::Http1,
            protocol::HTTP2 => Protocol::Http2,
            protocol::TLS => Protocol::Tls,
            protocol::UPGRADED => Protocol::Upgraded,
            _ => Protocol::Unknown,
        },
        barrier: match flow.barrier {
            barrier::NONE => None,
            barrier::FOREIGN => Some(Barrier::Foreign),
            barrier::ULP => Some(Barrier::Ulp),
            barrier::UNSUPPORTED => Some(Barrier::Mptcp),
            barrier::ZEROCOPY => Some(Barrier::ZeroCopy),
            barrier::NO_ROOM => Some(Barrier::NoRoom),
            _ => Some(Barrier::Refused),
        },
        told: by.map(|by| Told { by, at: Boot::from_nanos(flow.told_ns) }),
        closes: flow.flags & retire::Followed::CLOSES != 0,
        answered: flow.responses.is_idle() && !flow.responses.pipelines(),
        turn: Boot::from_nanos(flow.turn_ns),
        sent: (flow.sent_ns != 0).then(|| Boot::from_nanos(flow.sent_ns)),
        received: flow.received,
        sent_in_all: flow.sent_in_all,
        received_in_all: (flow.received_in_all != 0).then_some(flow.received_in_all),
    }
}

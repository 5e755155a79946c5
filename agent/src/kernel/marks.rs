//! Marks of sockets: which connections another listener has accepted, in the drain of which service.
//!
//! A listener is marked by way of its descriptor, and the kernel copies the mark to what it accepts. A mark means
//! something as long as its drain goes on: the next one has another, so that none has to be taken off.

use std::{
    collections::{BTreeSet, HashMap},
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    sync::Mutex,
};

use aya::maps::{Map, MapData, MapError, SkStorage};
use drainctl_common::{ServiceKey, track::Repair};
use netlink_packet_core::{NLA_TYPE_MASK, Nla as _, NlasIterator};
use netlink_packet_sock_diag::inet::nlas::Nla;

use super::{HandoffError, KernelError, linux::lock, loaded::is_missing, tracker::key};
use crate::drain::{Boot, Service};

/// `INET_DIAG_REQ_SK_BPF_STORAGES` and `INET_DIAG_SK_BPF_STORAGES` (`include/uapi/linux/inet_diag.h`, Linux 5.7).
const REQ_SK_BPF_STORAGES: u16 = 2;
const SK_BPF_STORAGES: u16 = 20;
/// Attributes in them (`include/uapi/linux/sock_diag.h`).
const REQ_MAP_FD: u16 = 1;
const STORAGE: u16 = 1;
const MAP_VALUE: u16 = 3;
/// A netlink attribute's header.
const HEADER: u16 = 4;

/// The mark of each service that has one, as the next agent finds it, of whatever version.
pub(super) type Marked = aya::maps::HashMap<MapData, ServiceKey, u32>;

/// The map of marks, and which of them mean something.
pub(super) struct Marks {
    map: Mutex<SkStorage<MapData, u32>>,
    /// The map once more, for inet_diag.
    fd: OwnedFd,
    /// What the next agent goes on with.
    marked: Mutex<Marked>,
    active: Mutex<Active>,
}

#[derive(Default)]
struct Active {
    newest: u32,
    services: HashMap<Service, u32>,
    takers: HashMap<Service, BTreeSet<u64>>,
}

/// What inet_diag is to be asked about the services of one namespace.
pub(super) struct Asked<'a> {
    map: BorrowedFd<'a>,
    /// The mark of each port that has one.
    ports: HashMap<u16, u32>,
}

impl Marks {
    /// Takes over the maps, and goes on with the marks that an earlier agent gave.
    pub(super) fn new(map: MapData, marked: Marked) -> Result<Self, KernelError> {
        let fd = map.fd().as_fd().try_clone_to_owned();
        let fd = fd.map_err(|e| KernelError::op("use map", "MARKS", e))?;
        let map = SkStorage::try_from(Map::SkStorage(map))
            .map_err(|e| KernelError::op("use map", "MARKS", e))?;
        let of =
            |(key, mark): (ServiceKey, u32)| (Service { netns: key.netns, port: key.port }, mark);
        let services: Result<HashMap<Service, u32>, MapError> =
            marked.iter().map(|entry| entry.map(of)).collect();
        let services = services.map_err(|e| KernelError::op("read map", "MARKED", e))?;
        let newest = services.values().copied().max().unwrap_or_default();
        let active = Mutex::new(Active { newest, services, takers: HashMap::new() });
        Ok(Self { map: Mutex::new(map), fd, marked: Mutex::new(marked), active })
    }

    /// Services of which some flows may be marked, and their marks.
    pub(super) fn services(&self) -> HashMap<Service, u32> {
        lock(&self.active).services.clone()
    }

    /// The mark of the drain of this service, a new one if it has none. No two drains ever have the same.
    pub(super) fn begin(&self, service: Service, now: Boot) -> Result<u32, KernelError> {
        let mut active = lock(&self.active);
        if let Some(mark) = active.services.get(&service) {
            return Ok(*mark);
        }
        let mark = after(active.newest, now);
        let kept = lock(&self.marked).insert(key(service), mark, 0);
        kept.map_err(|e| KernelError::op("write to map MARKED the mark of", service, e))?;
        active.newest = mark;
        active.services.insert(service, mark);
        Ok(mark)
    }

    /// The mark of the drain of this service, if it has one.
    pub(super) fn of(&self, service: Service) -> Option<u32> {
        lock(&self.active).services.get(&service).copied()
    }

    /// The drain is over.
    pub(super) fn end(&self, service: Service) -> Result<(), KernelError> {
        match lock(&self.marked).remove(&key(service)) {
            Err(e) if !is_missing(&e) => {
                return Err(KernelError::op("remove from map MARKED the mark of", service, e));
            }
            _ => {}
        }
        let mut active = lock(&self.active);
        active.services.remove(&service);
        active.takers.remove(&service);
        Ok(())
    }

    /// The listening sockets that take over, as they were noted last.
    pub(super) fn takers(&self, service: Service) -> Option<BTreeSet<u64>> {
        lock(&self.active).takers.get(&service).cloned()
    }

    /// Notes which listening sockets take over.
    pub(super) fn set_takers(&self, service: Service, takers: BTreeSet<u64>) {
        lock(&self.active).takers.insert(service, takers);
    }

    /// Marks a socket, and what it accepts from now on.
    ///
    /// # Errors
    /// It has the mark of another drain that is under way: a connection it accepts could be of either.
    pub(super) fn put(
        &self,
        service: Service,
        mark: u32,
        socket: BorrowedFd<'_>,
    ) -> Result<(), KernelError> {
        let mut map = lock(&self.map);
        let before = match map.get(&socket, 0) {
            Ok(before) => before,
            Err(e) if is_missing(&e) => 0,
            Err(e) => return Err(fail(service, e)),
        };
        let other = |(of, m): (&Service, &u32)| (*m == before && *of != service).then_some(*of);
        if let Some(other) = lock(&self.active).services.iter().find_map(other) {
            return Err(HandoffError::Taken { port: service.port, other: other.port }.into());
        }
        map.insert(&socket, mark, 0).map_err(|e| fail(service, e))
    }

    /// What a look at this port, or at all, is to ask; `None` if nothing there has a mark that means something.
    pub(super) fn asked(&self, netns: u32, port: Option<u16>) -> Option<Asked<'_>> {
        let active = lock(&self.active);
        let here = active.services.iter().filter(|(service, _)| {
            service.netns == netns && port.is_none_or(|port| port == service.port)
        });
        let ports: HashMap<u16, u32> = here.map(|(service, mark)| (service.port, *mark)).collect();
        (!ports.is_empty()).then(|| Asked { map: self.fd.as_fd(), ports })
    }
}

fn fail(service: Service, error: MapError) -> KernelError {
    KernelError::op("mark a socket for", service, error)
}

/// A mark that was not used before: by this agent since it is not `newest` nor any before that, by an older one since
/// those were taken from the clock too (10 ms, so that it takes 497 days to come round).
fn after(newest: u32, now: Boot) -> u32 {
    let mut mark = (now.as_nanos() / 10_000_000) as u32;
    // Wrapping: what is a little behind the newest one was used.
    if newest != 0 && newest.wrapping_sub(mark) < u32::MAX / 2 {
        mark = newest.wrapping_add(1);
    }
    if mark == 0 || mark == Repair::KEEP { 1 } else { mark }
}

impl Asked<'_> {
    /// The attribute that is added to a request.
    pub(super) fn attribute(&self) -> Vec<u8> {
        let map = self.map.as_raw_fd().to_ne_bytes();
        let inner = [HEADER + map.len() as u16, REQ_MAP_FD].map(u16::to_ne_bytes).concat();
        let length = 2 * HEADER + map.len() as u16;
        let outer = [length, REQ_SK_BPF_STORAGES].map(u16::to_ne_bytes).concat();
        [outer, inner, map.to_vec()].concat()
    }

    /// Whether a connection of this local port, with these attributes, was accepted by another listener.
    pub(super) fn is_steered(&self, port: u16, attributes: &[Nla]) -> bool {
        let mark = attributes.iter().find_map(mark);
        mark.is_some() && mark == self.ports.get(&port).copied()
    }
}

/// The mark in an attribute, if it has one.
fn mark(attribute: &Nla) -> Option<u32> {
    let Nla::Other(other) = attribute else { return None };
    // The crate leaves the flags in (NLA_F_NESTED).
    if other.kind() & NLA_TYPE_MASK != SK_BPF_STORAGES {
        return None;
    }
    let mut bytes = vec![0; other.value_len()];
    other.emit_value(&mut bytes);
    let storage = inside(&bytes, STORAGE)?;
    Some(u32::from_ne_bytes(inside(&storage, MAP_VALUE)?.try_into().ok()?))
}

/// The first attribute of this kind in another.
fn inside(bytes: &[u8], kind: u16) -> Option<Vec<u8>> {
    let attributes = NlasIterator::new(bytes).filter_map(Result::ok);
    let mut found = attributes.filter(|attribute| attribute.kind() == kind);
    found.next().map(|attribute| attribute.value().to_vec())
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{DefaultNla, NLA_F_NESTED};

    use super::*;

    #[test]
    fn no_mark_comes_twice() {
        let at = |seconds: u64| Boot::from_nanos(seconds * 1_000_000_000);
        assert_eq!(after(0, at(5)), 500);
        assert_eq!(after(500, at(5)), 501, "in the same moment");
        assert_eq!(after(501, at(4)), 502, "the clock stands");
        assert_eq!(after(501, at(60)), 6000);
        for (newest, seconds) in [(0, 0), (u32::MAX - 1, 42_949_672), (u32::MAX - 2, 42_949_671)] {
            let mark = after(newest, at(seconds));
            assert!(mark != 0 && mark != Repair::KEEP && mark != newest, "{mark}");
        }
    }

    #[test]
    fn the_request_names_the_map() {
        let map = std::fs::File::open("/dev/null").unwrap();
        let asked = Asked { map: map.as_fd(), ports: HashMap::new() };
        let fd = map.as_raw_fd().to_ne_bytes();
        let expected = [&[12, 0, 2, 0, 8, 0, 1, 0][..], &fd].concat();
        assert_eq!(asked.attribute(), expected);
    }

    #[test]
    fn only_the_mark_of_the_ports_own_drain_counts() {
        let map = std::fs::File::open("/dev/null").unwrap();
        let asked = Asked { map: map.as_fd(), ports: HashMap::from([(80, 7), (81, 8)]) };
        let answer = |mark: u32| {
            let value = [&[8, 0, 3, 0][..], &mark.to_ne_bytes()].concat();
            let id = [8, 0, 2, 0, 9, 9, 9, 9];
            let storage = [&[20, 0, 1, 0x80][..], &id, &value].concat();
            Nla::Other(DefaultNla::new(SK_BPF_STORAGES | NLA_F_NESTED, storage))
        };
        assert!(asked.is_steered(80, &[answer(7)]));
        assert!(!asked.is_steered(80, &[answer(8)]), "of another port");
        assert!(!asked.is_steered(82, &[answer(7)]), "not draining");
        assert!(!asked.is_steered(80, &[]), "accepted by the old listener");
        let empty = Nla::Other(DefaultNla::new(SK_BPF_STORAGES, vec![]));
        assert!(!asked.is_steered(80, &[empty]), "asked, and none there");
    }
}

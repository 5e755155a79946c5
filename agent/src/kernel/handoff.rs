//! Finding out who takes over the connections of a port: listening sockets of another process on the same machine.

mod error;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
};

pub use self::error::HandoffError;
use super::{
    Class, KernelError, Listener, Look, Socket, diag,
    holders::{Place, borrow, holders, lives_in, processes, sockets},
    linux::lock,
    netns,
    steer::Parts,
    sys,
};
use crate::{
    drain::{Boot, Handoff, Service},
    failpoint,
};

/// What was found.
struct Found {
    listeners: Vec<(u64, Place)>,
    /// Connections of the service that the process accepted before it got any from us.
    flows: Vec<(u64, Place)>,
}

/// Listening sockets of the namespace (cookies).
struct Serving {
    /// On the service's own port.
    on_port: BTreeSet<u64>,
    /// For IPv4 only.
    v4: HashSet<u64>,
}

impl Parts<'_> {
    /// See [`Kernel::takers`](super::Kernel::takers).
    pub(super) fn takers(
        &self,
        service: Service,
        to: Handoff,
    ) -> Result<BTreeSet<u64>, KernelError> {
        Ok(cookies(&self.find(service, to)?.0.listeners))
    }

    /// See [`Kernel::hand_over`](super::Kernel::hand_over).
    pub(super) fn hand_over(
        &self,
        service: Service,
        to: Handoff,
        now: Boot,
    ) -> Result<BTreeSet<u64>, KernelError> {
        let (found, serving) = self.find(service, to)?;
        let takers = cookies(&found.listeners);
        let known = lock(self.gates).targets(service)? == takers.len() as u64
            && self.marks.takers(service).as_ref() == Some(&takers);
        if !known {
            let listeners = lend(service, &found.listeners)?;
            let listeners = mixed(listeners, |cookie| serving.v4.contains(&cookie));
            let targets: Vec<BorrowedFd<'_>> = listeners.iter().map(|(_, fd)| fd.as_fd()).collect();
            self.steer(service, &targets, now)?;
            self.marks.set_takers(service, listeners.iter().map(|(cookie, _)| *cookie).collect());
        }
        let alone = serving.on_port.is_subset(&takers);
        lock(self.gates).set_taken_over(service, alone)?;
        failpoint::pass("hand over: targets known");
        for (cookie, flow) in lend(service, &found.flows)? {
            self.mark(service, &[flow.as_fd()], now)?;
            lock(self.tracker).move_to(service, cookie, Class::Steered)?;
        }
        Ok(takers)
    }

    fn find(&self, service: Service, to: Handoff) -> Result<(Found, Serving), KernelError> {
        let asked = self.marks.asked(service.netns, Some(service.port));
        let look = self.namespaces.inside(service.netns, || diag::look(&[], asked.as_ref()))?;
        let found = match to {
            Handoff::Port(port) => of_port(service, port, &look)?,
            Handoff::Pid(pid) => of_process(service, pid, Ports::OwnOrOnly, &look)?,
            Handoff::Successor(pid) => of_process(service, pid, Ports::Own, &look)?,
        };
        let on_port =
            look.listeners.iter().filter(|listener| listener.local.port() == service.port);
        let on_port = on_port.map(|listener| listener.cookie).collect();
        let v4 = look.listeners.iter().filter(|listener| listener.local.is_ipv4());
        Ok((found, Serving { on_port, v4: v4.map(|listener| listener.cookie).collect() }))
    }
}

/// The same with the address families in turn: the kernel program tries a limited number of neighbours until it comes to
/// one that takes the client's family.
fn mixed<T>(listeners: Vec<(u64, T)>, is_v4: impl Fn(u64) -> bool) -> Vec<(u64, T)> {
    let (v4, v6): (Vec<_>, Vec<_>) = listeners.into_iter().partition(|(cookie, _)| is_v4(*cookie));
    let (mut v4, mut v6) = (v4.into_iter(), v6.into_iter());
    let mut mixed = Vec::new();
    loop {
        let pair = [v4.next(), v6.next()];
        if pair.iter().all(Option::is_none) {
            return mixed;
        }
        mixed.extend(pair.into_iter().flatten());
    }
}

fn cookies(found: &[(u64, Place)]) -> BTreeSet<u64> {
    found.iter().map(|(cookie, _)| *cookie).collect()
}

/// Borrows sockets. Those that were closed meanwhile are left out.
fn lend(service: Service, places: &[(u64, Place)]) -> Result<Vec<(u64, OwnedFd)>, KernelError> {
    let mut borrowed = Vec::new();
    for (cookie, place) in places {
        match borrow(*place) {
            // The number of a descriptor may belong to another socket by now.
            Ok(fd) if sys::socket_cookie(fd.as_fd()).is_ok_and(|found| found == *cookie) => {
                borrowed.push((*cookie, fd));
            }
            Ok(_) | Err(rustix::io::Errno::SRCH | rustix::io::Errno::BADF) => {}
            Err(e) => return Err(KernelError::op("borrow a socket to take over", service, e)),
        }
    }
    Ok(borrowed)
}

fn of_port(service: Service, port: u16, look: &Look) -> Result<Found, KernelError> {
    if port == service.port {
        return Err(HandoffError::SamePort(port).into());
    }
    let wanted: HashMap<u32, u64> = look
        .listeners
        .iter()
        .filter(|listener| listener.local.port() == port)
        .map(|listener| (listener.inode, listener.cookie))
        .collect();
    let is_wanted = |inode: u32| wanted.contains_key(&inode);
    let here = |pid| lives_in(pid, service.netns);
    let mut places = holders(here, is_wanted, wanted.len())?;
    if places.len() < wanted.len() {
        // A server may have left the namespace, or have got its sockets from one that lives elsewhere.
        places.extend(holders(|pid| !here(pid), is_wanted, wanted.len() - places.len())?);
    }
    let listeners =
        places.into_iter().filter_map(|(inode, place)| Some((*wanted.get(&inode)?, place)));
    let none = || HandoffError::NoListener { who: format!("port {port}"), netns: service.netns };
    Ok(Found { listeners: some(listeners.collect(), none)?, flows: Vec::new() })
}

/// By which ports a process takes over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ports {
    /// The drained one.
    Own,
    /// The drained one if it listens there, else its only one.
    OwnOrOnly,
}

fn of_process(service: Service, pid: u32, by: Ports, look: &Look) -> Result<Found, KernelError> {
    let path = format!("/proc/{pid}/ns/net");
    let lives_in = netns::inode(Path::new(&path)).map_err(|_| HandoffError::NoProcess(pid))?;
    if lives_in != service.netns {
        return Err(HandoffError::OtherNetns { pid, lives_in, service }.into());
    }
    let family = descendants(pid as i32)?;
    let held: HashMap<u32, Place> = family.iter().flat_map(|pid| sockets(*pid)).collect();
    let listeners = choose(service, pid, by, &held, look)?;
    check_shared(service, pid, &family, &listeners)?;
    let port = service.port;
    let of_port = |socket: &&Socket| socket.local.port() == port;
    let flows = look.sockets.iter().filter(of_port);
    let old_listener =
        look.listeners.iter().any(|l| l.local.port() == port && !held.contains_key(&l.inode));
    let old_flow = flows.clone().any(|f| f.is_held() && !held.contains_key(&f.inode));
    if !old_listener && !old_flow && listeners.iter().any(|l| l.local.port() == port) {
        return Err(HandoffError::Itself { pid, port }.into());
    }
    let flows: Vec<&Socket> = flows
        .filter(|flow| held.contains_key(&flow.inode) && flow.class == Class::Counted)
        .collect();
    let inherited = held_by_others(&family, &flows)?;
    let flows = flows.into_iter().filter(|flow| !inherited.contains(&flow.inode));
    Ok(Found {
        flows: flows.filter_map(|f| Some((f.cookie, *held.get(&f.inode)?))).collect(),
        listeners: listeners
            .iter()
            .filter_map(|l| Some((l.cookie, *held.get(&l.inode)?)))
            .collect(),
    })
}

/// Those of its listeners that are meant.
fn choose<'a>(
    service: Service,
    pid: u32,
    by: Ports,
    held: &HashMap<u32, Place>,
    look: &'a Look,
) -> Result<Vec<&'a Listener>, KernelError> {
    let own: Vec<&Listener> =
        look.listeners.iter().filter(|listener| held.contains_key(&listener.inode)).collect();
    let ports: BTreeSet<u16> = own.iter().map(|listener| listener.local.port()).collect();
    let port = match ports.len() {
        _ if by == Ports::Own || ports.contains(&service.port) => service.port,
        0 | 1 => ports.first().copied().unwrap_or_default(),
        _ => {
            let ports = ports.into_iter().collect();
            return Err(HandoffError::Ambiguous { pid, port: service.port, ports }.into());
        }
    };
    let none = || HandoffError::NoListener { who: format!("process {pid}"), netns: service.netns };
    Ok(some(own.into_iter().filter(|listener| listener.local.port() == port).collect(), none)?)
}

/// What listens on the drained port must be the new server's alone: the old one would go on accepting from it.
fn check_shared(
    service: Service,
    pid: u32,
    family: &HashSet<i32>,
    listeners: &[&Listener],
) -> Result<(), KernelError> {
    let inodes: HashSet<u32> = listeners
        .iter()
        .filter(|listener| listener.local.port() == service.port)
        .map(|listener| listener.inode)
        .collect();
    if inodes.is_empty() {
        return Ok(());
    }
    let others = processes()?.into_iter().filter(|other| !family.contains(other));
    for other in others.filter(|other| lives_in(*other, service.netns)) {
        let shares = || sockets(other).any(|(inode, _)| inodes.contains(&inode));
        // A server that is starting may have started it since we looked, and it may have ended since.
        if shares() && !descendants(pid as i32)?.contains(&other) && shares() {
            return Err(HandoffError::Shared { pid, port: service.port, other }.into());
        }
    }
    Ok(())
}

/// Which of these connections others than the family hold too: inherited from the old server, they may be its own.
fn held_by_others(family: &HashSet<i32>, flows: &[&Socket]) -> Result<HashSet<u32>, KernelError> {
    if flows.is_empty() {
        return Ok(HashSet::new());
    }
    let wanted: HashSet<u32> = flows.iter().map(|flow| flow.inode).collect();
    let others = |pid| !family.contains(&pid);
    Ok(holders(others, |inode| wanted.contains(&inode), wanted.len())?.into_keys().collect())
}

fn some<T>(found: Vec<T>, none: impl FnOnce() -> HandoffError) -> Result<Vec<T>, HandoffError> {
    if found.is_empty() { Err(none()) } else { Ok(found) }
}

/// A process and all that descend from it: workers, and theirs.
fn descendants(pid: i32) -> Result<HashSet<i32>, KernelError> {
    let parent =
        |pid: &i32| Some((*pid, procfs::process::Process::new(*pid).ok()?.stat().ok()?.ppid));
    let parents: Vec<(i32, i32)> = processes()?.iter().filter_map(parent).collect();
    let mut family = HashSet::from([pid]);
    loop {
        let before = family.len();
        let children = parents.iter().filter(|(_, parent)| family.contains(parent));
        let children: Vec<i32> = children.map(|(child, _)| *child).collect();
        family.extend(children);
        if family.len() == before {
            return Ok(family);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn look_here() -> Look {
        diag::look(&[], None).unwrap()
    }

    fn here(port: u16) -> Service {
        Service { netns: netns::inode(Path::new("/proc/self/ns/net")).unwrap(), port }
    }

    fn found(result: Result<Found, KernelError>) -> Result<usize, HandoffError> {
        match result {
            Ok(found) => Ok(found.listeners.len()),
            Err(KernelError::Handoff(error)) => Err(error),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_port_that_somebody_listens_on_can_take_over() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let service = here(if port == 80 { 81 } else { 80 });
        assert_eq!(found(of_port(service, port, &look_here())), Ok(1));
        drop(listener);
        let error = found(of_port(service, port, &look_here())).unwrap_err();
        assert!(error.is_missing() && error.to_string().contains("start the new server first"));
        assert_eq!(
            found(of_port(service, service.port, &look_here())),
            Err(HandoffError::SamePort(service.port))
        );
    }

    #[test]
    fn a_process_that_is_gone_or_lives_elsewhere_cannot() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        child.wait().unwrap();
        assert_eq!(
            found(of_process(here(80), pid, Ports::OwnOrOnly, &Look::default())),
            Err(HandoffError::NoProcess(pid))
        );
        let nowhere = Service { netns: 1, port: 80 };
        let look = Look::default();
        let error = found(of_process(nowhere, std::process::id(), Ports::OwnOrOnly, &look));
        assert!(matches!(error, Err(HandoffError::OtherNetns { .. })), "{error:?}");
    }

    #[test]
    fn which_of_its_sockets_are_meant() {
        let listener = |inode: u32, port: u16| Listener {
            cookie: u64::from(inode),
            local: ([0, 0, 0, 0], port).into(),
            uid: 0,
            inode,
            backlog: 0,
        };
        let held: HashMap<u32, Place> = (1..=9).map(|inode| (inode, (7, 3))).collect();
        let meant_by = |by, ports: &[(u32, u16)]| {
            let listeners = ports.iter().map(|(inode, port)| listener(*inode, *port)).collect();
            let look = Look { listeners, ..Look::default() };
            match choose(here(80), 7, by, &held, &look) {
                Ok(chosen) => Ok(chosen.iter().map(|listener| listener.inode).collect::<Vec<_>>()),
                Err(KernelError::Handoff(error)) => Err(error),
                Err(other) => panic!("{other:?}"),
            }
        };
        let meant = |ports: &[(u32, u16)]| meant_by(Ports::OwnOrOnly, ports);
        assert_eq!(meant(&[(1, 8081), (2, 8081), (20, 80)]), Ok(vec![1, 2]), "one for each worker");
        let successor = |ports: &[(u32, u16)]| meant_by(Ports::Own, ports);
        assert_eq!(successor(&[(1, 9090), (2, 80), (20, 80)]), Ok(vec![2]));
        for not_yet in [&[(1, 9090), (20, 80)][..], &[(1, 9090), (2, 443)], &[]] {
            assert!(successor(not_yet).unwrap_err().is_missing(), "{not_yet:?}");
        }
        assert_eq!(
            meant(&[(1, 80), (2, 443), (20, 80)]),
            Ok(vec![1]),
            "the port itself is preferred"
        );
        assert!(meant(&[(20, 80)]).unwrap_err().is_missing(), "somebody else's");
        let several = meant(&[(1, 8081), (2, 8082)]).unwrap_err();
        assert!(several.to_string().contains("8081, 8082"), "{several}");
    }
}

//! Which connections the kubelet has opened: attaches the program that sees them, and reads what it noted. Checks of
//! our own ([`super::checks`]) are noted beside them.

use std::{
    collections::HashSet,
    fs, io,
    net::SocketAddr,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Mutex,
};

use aya::maps::MapError;
use drainctl_common::probe::{ProbeKey, count};

use super::{
    Class, KernelError, Look, ProbeCounts, Socket, TcpState, cgroup,
    kubelet::Kubelet,
    linux::lock,
    loaded::is_missing,
    pins::{Pins, detach},
    tracker::{ProbeMaps, Tracker, number},
};

/// The program that notes them.
const PROGRAM: &str = "probe";
/// In the value of a connection that is a check of ours, beside its time: an agent that died has left it.
const CHECK: u64 = 1 << 63;
/// A walk of the map has at most so many steps: four times what it holds.
const STEPS: usize = 1 << 14;

/// The kubelet's connections. They are noted on when this is dropped.
pub(super) struct Probes {
    /// `--probe-cgroup`.
    named: Option<PathBuf>,
    /// Where cgroup v2 is mounted.
    root: PathBuf,
    pins: Pins,
    maps: ProbeMaps,
    attached: Option<Attached>,
    /// What was said last of why there is nothing to attach to.
    said: Option<String>,
    /// Checks of ours that are noted.
    checks: u64,
}

/// The program at work.
struct Attached {
    /// None if the cgroup was named.
    kubelet: Option<Kubelet>,
    folder: PathBuf,
    /// Tells a new cgroup of the same name.
    inode: u64,
}

/// The kubelet, unless its cgroup was named, and its cgroup.
type Found = (Option<Kubelet>, PathBuf);

/// Where to attach.
fn find(named: Option<PathBuf>, root: &Path) -> Result<Found, String> {
    if let Some(folder) = named {
        return Ok((None, folder));
    }
    let kubelet = Kubelet::find().ok_or("no kubelet runs on this node")?;
    let folder = kubelet.folder(root)?;
    Ok((Some(kubelet), folder))
}

impl Probes {
    /// Attaches to the kubelet's cgroup if there is one.
    ///
    /// # Errors
    /// A cgroup that was named cannot be used.
    pub(super) fn start(
        named: Option<PathBuf>,
        root: PathBuf,
        pins: Pins,
        tracker: &mut Tracker,
    ) -> Result<Self, KernelError> {
        let maps = tracker.take_probes()?;
        let mut probes = Self { named, root, pins, maps, attached: None, said: None, checks: 0 };
        probes.forget(|noted| noted & CHECK != 0)?;
        probes.say_checks()?;
        match probes.named.clone() {
            Some(folder) => probes.attach(None, folder, tracker)?,
            None => {
                let found = find(None, &probes.root);
                probes.attach_to(found, tracker);
            }
        }
        Ok(probes)
    }

    /// Attaches again if the kubelet has another cgroup now. Nothing is locked while it is looked for among all processes.
    pub(super) fn seek(probes: &Mutex<Self>, tracker: &Mutex<Tracker>) {
        let (named, root) = {
            let probes = lock(probes);
            if probes.attached.as_ref().is_some_and(Attached::is_current) {
                return;
            }
            (probes.named.clone(), probes.root.clone())
        };
        let found = find(named, &root);
        lock(probes).attach_to(found, &mut lock(tracker));
    }

    fn attach_to(&mut self, found: Result<Found, String>, tracker: &mut Tracker) {
        let attached = found.and_then(|(kubelet, folder)| {
            self.attach(kubelet, folder, tracker).map_err(|error| super::explain(&error))
        });
        if let Err(why) = attached
            && self.said.as_ref() != Some(&why)
        {
            tracing::info!(why, "connections of a kubelet are not told from others: they count");
            self.said = Some(why);
        }
    }

    fn attach(
        &mut self,
        kubelet: Option<Kubelet>,
        folder: PathBuf,
        tracker: &mut Tracker,
    ) -> Result<(), KernelError> {
        let fail = |e: io::Error| {
            KernelError::op("use as the kubelet's cgroup (--probe-cgroup)", folder.display(), e)
        };
        let inode = cgroup::inode(&folder, &self.root).map_err(fail)?;
        self.attached = None;
        if !self.pins.link(PROGRAM, inode).exists() {
            // What another cgroup's sockets have noted nobody takes back once it is detached.
            self.pins.links(PROGRAM)?.iter().try_for_each(|path| detach(path))?;
            self.forget(|noted| noted & CHECK == 0)?;
        }
        tracker.attach(PROGRAM, PROGRAM, &folder, &self.pins)?;
        tracing::info!(cgroup = %folder.display(), "connections that are opened in the kubelet's cgroup do not count");
        self.attached = Some(Attached { kubelet, folder, inode });
        self.said = None;
        Ok(())
    }

    /// Every connection of the kubelet that is open.
    fn all(&self) -> Result<HashSet<ProbeKey>, KernelError> {
        let mut all = HashSet::new();
        // The walk starts over when the entry it stands on is removed. What it does not come to counts.
        for key in self.maps.open.keys().take(STEPS) {
            match key {
                Ok(key) => {
                    all.insert(key);
                }
                Err(MapError::KeyNotFound) => {}
                Err(e) => return Err(KernelError::op("walk map", "PROBES", e)),
            }
        }
        Ok(all)
    }

    /// Forgets those whose value is so.
    fn forget(&mut self, which: impl Fn(u64) -> bool) -> Result<(), KernelError> {
        for key in self.all()? {
            if self.maps.open.get(&key, 0).is_ok_and(&which) {
                self.remove(&key)?;
            }
        }
        Ok(())
    }

    fn remove(&mut self, key: &ProbeKey) -> Result<(), KernelError> {
        match self.maps.open.remove(key) {
            Err(e) if !is_missing(&e) => Err(KernelError::op("remove from map", "PROBES", e)),
            _ => Ok(()),
        }
    }

    /// A connection that we are about to open is a check: it passes closed gates, and does not count. The one place
    /// where this process writes the map.
    pub(super) fn note_check(
        &mut self,
        client: SocketAddr,
        server: SocketAddr,
        netns: u32,
    ) -> Result<ProbeKey, KernelError> {
        let key = ProbeKey::new(end(client), end(server), netns);
        self.checks += 1;
        let noted = self.say_checks().and_then(|()| {
            let inserted = self.maps.open.insert(key, CHECK, 0);
            inserted.map_err(|e| KernelError::op("write map", "PROBES", e))
        });
        if noted.is_err() {
            self.checks -= 1;
        }
        noted.map(|()| key)
    }

    /// The check has ended: who uses the same ports next is none.
    pub(super) fn forget_check(&mut self, key: &ProbeKey) {
        self.checks -= 1;
        if let Err(error) = self.remove(key).and_then(|()| self.say_checks()) {
            tracing::error!(%error, "a check stays noted");
        }
    }

    /// Tells the kernel programs whether they have to look for checks.
    fn say_checks(&mut self) -> Result<(), KernelError> {
        let said = self.maps.checks.set(0, self.checks, 0);
        said.map_err(|e| KernelError::op("write map", "CHECKS", e))
    }

    /// See [`super::Kernel::is_kubelets`].
    pub(super) fn has(
        &self,
        client: SocketAddr,
        server: SocketAddr,
        netns: u32,
    ) -> Result<bool, KernelError> {
        if self.attached.is_none() {
            return Ok(false);
        }
        match self.maps.open.get(&ProbeKey::new(end(client), end(server), netns), 0) {
            Ok(noted) => Ok(noted & CHECK == 0),
            Err(e) if is_missing(&e) => Ok(false),
            Err(e) => Err(KernelError::op("read map", "PROBES", e)),
        }
    }

    /// See [`super::Kernel::probes`].
    pub(super) fn counts(&self) -> Result<ProbeCounts, KernelError> {
        let get = |index| {
            self.maps
                .counts
                .get(&index, 0)
                .map_err(|e| KernelError::op("read map PROBE_COUNTS at", index, e))
        };
        let cgroup = self.attached.as_ref().map(|attached| attached.folder.clone());
        Ok(ProbeCounts { cgroup, opened: get(count::OPENED)?, passed: get(count::PASSED)? })
    }
}

impl Attached {
    /// Whether the kubelet is still in this cgroup. One of the same name may be a new one.
    fn is_current(&self) -> bool {
        let is_same = fs::metadata(&self.folder).is_ok_and(|folder| folder.ino() == self.inode);
        is_same && self.kubelet.as_ref().is_none_or(Kubelet::is_there)
    }
}

/// Finds the kubelet's connections in a look at a network namespace.
pub(super) fn mark(
    probes: &Mutex<Probes>,
    tracker: &Mutex<Tracker>,
    netns: u32,
    look: &mut Look,
) -> Result<(), KernelError> {
    let open = {
        let probes = lock(probes);
        if probes.attached.is_none() && probes.checks == 0 {
            return Ok(());
        }
        probes.all()?
    };
    for socket in &mut look.sockets {
        if open.contains(&key(socket, netns)) || was_probe(tracker, socket)? {
            socket.class = Class::Probe;
        }
    }
    Ok(())
}

/// Whether the peer has closed a connection that the tracker knows as a probe: the kubelet gave up, and nobody
/// waits for the answer.
fn was_probe(tracker: &Mutex<Tracker>, socket: &Socket) -> Result<bool, KernelError> {
    if !matches!(socket.state, TcpState::CloseWait | TcpState::LastAck | TcpState::Closing) {
        return Ok(false);
    }
    let flow = lock(tracker).flow(socket.cookie)?;
    Ok(flow.is_some_and(|flow| flow.service.class == number(Class::Probe)))
}

fn key(socket: &Socket, netns: u32) -> ProbeKey {
    ProbeKey::new(end(socket.peer), end(socket.local), netns)
}

/// An address and port as the kernel programs write them.
fn end(address: SocketAddr) -> ([u32; 4], u16) {
    let bytes = match address {
        SocketAddr::V4(v4) => v4.ip().to_ipv6_mapped().octets(),
        SocketAddr::V6(v6) => v6.ip().octets(),
    };
    let word = |i: usize| u32::from_ne_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
    ([word(0), word(4), word(8), word(12)], address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_the_kernel_does() {
        let v4 = end("10.1.2.3:80".parse().unwrap());
        assert_eq!(v4, ([0, 0, 0xffff_u32.to_be(), 0x0a01_0203_u32.to_be()], 80));
        let v6 = end("[fd00::1]:443".parse().unwrap());
        assert_eq!(v6, ([0xfd00_0000_u32.to_be(), 0, 0, 1_u32.to_be()], 443));
    }
}

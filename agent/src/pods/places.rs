//! Which processes, network namespaces and cgroups belong together, as /proc has it.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use super::{
    cgroup::{self, Place},
    pod::NetnsId,
};

/// A container of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerRef {
    /// Uid of the pod, as the kubelet has it.
    pub pod_uid: String,
    /// Id of the container, or of the pod's sandbox; `None` for a process that is in the pod's own cgroup.
    pub container_id: Option<String>,
}

/// A process that is in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) pid: u32,
    /// When it was started, in clock ticks since boot: with `pid` it means one process for ever.
    start: u64,
    pub(super) netns: NetnsId,
    pub(super) place: Place,
}

impl Seen {
    /// The process, unless it is gone or in no container.
    fn look(proc: &Path, pid: u32) -> Option<Self> {
        let start = start_of(proc, pid)?;
        let place = of_process(proc, pid)?;
        let meta = fs::metadata(proc.join(pid.to_string()).join("ns/net")).ok()?;
        let netns = NetnsId::try_from(meta.ino()).ok()?;
        // It may have ended meanwhile, and another have its number.
        (start_of(proc, pid) == Some(start)).then_some(Self { pid, start, netns, place })
    }

    /// Whether it is there still, in the same container and namespace.
    pub(super) fn is_there(&self, proc: &Path) -> bool {
        Self::look(proc, self.pid).as_ref() == Some(self)
    }
}

/// Where this process lives; `None` if it is gone, or in no container.
pub(super) fn of_process(proc: &Path, pid: u32) -> Option<Place> {
    let text = fs::read_to_string(proc.join(pid.to_string()).join("cgroup")).ok()?;
    cgroup::parse(&text)
}

/// Field 22 of /proc/PID/stat (proc_pid_stat(5)), counted from behind the name, which may contain anything.
fn start_of(proc: &Path, pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(proc.join(pid.to_string()).join("stat")).ok()?;
    let (_, behind_name) = stat.rsplit_once(')')?;
    behind_name.split_whitespace().nth(19)?.parse().ok()
}

/// All processes that are in containers, at one moment; those that were started first come first.
///
/// A container may enter or make other namespaces, but its first process is where the runtime put it.
#[derive(Clone, Debug, Default)]
pub(super) struct Places(Vec<Seen>);

impl Places {
    /// Looks through /proc: some ten microseconds a process.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn look(proc: &Path) -> io::Result<Self> {
        let entries = fs::read_dir(proc)?.flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let mut seen: Vec<Seen> = pids.filter_map(|pid| Seen::look(proc, pid)).collect();
        seen.sort_by_key(|seen| (seen.start, seen.pid));
        Ok(Self(seen))
    }

    /// The first process of a pod in each namespace, but for `host`, which belongs to no pod.
    pub(super) fn pods(self, host: NetnsId) -> HashMap<NetnsId, Seen> {
        let mut first = HashMap::new();
        for seen in self.0 {
            if seen.netns != host && seen.place.pod.is_some() {
                first.entry(seen.netns).or_insert(seen);
            }
        }
        first
    }

    /// The first process of this pod. Those in no container do not count: the runtime's own may be among them.
    pub(super) fn of_pod(&self, uid: &str) -> Option<&Seen> {
        self.0
            .iter()
            .find(|seen| seen.place.pod.as_deref() == Some(uid) && seen.place.container.is_some())
    }

    /// The first process of each container whose id begins so.
    pub(super) fn of_container(&self, id: &str) -> Vec<&Seen> {
        let mut first: BTreeMap<&str, &Seen> = BTreeMap::new();
        for seen in &self.0 {
            if let Some(container) = seen.place.container.as_deref().filter(|c| c.starts_with(id)) {
                first.entry(container).or_insert(seen);
            }
        }
        first.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_process_is_one_for_ever() {
        let pid = std::process::id();
        let proc = Path::new("/proc");
        let start = start_of(proc, pid).expect("we run");
        assert!(start > 0 && start_of(proc, pid) == Some(start));
        assert_eq!(start_of(proc, u32::MAX), None);
    }
}

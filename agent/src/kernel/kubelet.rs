//! Finding the kubelet: the process whose connections are probes.

use std::{
    fs,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Component, Path, PathBuf},
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::netns::node_process;

/// A kubelet that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubelet {
    /// Its process id, as this process sees it.
    pub pid: u32,
    /// Its cgroup as the kernel names it, beginning with a slash: a path below the root of cgroup v2.
    pub cgroup: PathBuf,
}

impl Kubelet {
    /// Looks through /proc for the kubelet of this node: root's, in the namespaces of the node itself. A process
    /// in a container may call itself what it likes.
    pub fn find() -> Option<Self> {
        as_the_node_sees(|| Self::find_in(Path::new("/proc")))
    }

    fn find_in(proc: &Path) -> Option<Self> {
        let processes = fs::read_dir(proc).ok()?.flatten();
        let pids = processes.filter_map(|process| process.file_name().to_str()?.parse().ok());
        let mut pids: Vec<u32> = pids.collect();
        pids.sort_unstable();
        pids.into_iter().find_map(|pid| Self::at(proc, pid))
    }

    /// Whether it is there still, in the same cgroup.
    pub fn is_there(&self) -> bool {
        as_the_node_sees(|| Self::at(Path::new("/proc"), self.pid)).as_ref() == Some(self)
    }

    /// Its cgroup below the root of cgroup v2, which is mounted at `root`, or why its connections cannot be told
    /// from others.
    ///
    /// # Errors
    /// It shares the root's cgroup, or is outside of what can be seen.
    pub fn folder(&self, root: &Path) -> Result<PathBuf, String> {
        let cgroup = self.cgroup.display();
        let below = self.cgroup.strip_prefix("/").unwrap_or(&self.cgroup);
        if below.components().any(|part| part == Component::ParentDir) {
            return Err(format!("its cgroup {cgroup} is outside of this cgroup namespace"));
        }
        if below.as_os_str().is_empty() {
            return Err("it has no cgroup (v2) of its own".into());
        }
        Ok(root.join(below))
    }

    fn at(proc: &Path, pid: u32) -> Option<Self> {
        let process = proc.join(pid.to_string());
        if fs::read_to_string(process.join("comm")).ok()?.trim_end() != "kubelet" {
            return None;
        }
        let is_roots = fs::metadata(&process).ok()?.uid() == 0;
        let same = |kind: &str| {
            let of = |process: &Path| fs::read_link(process.join("ns").join(kind)).ok();
            of(&process).is_some_and(|ns| of(&node_process(proc)) == Some(ns))
        };
        if !is_roots || !same("net") || !same("pid") {
            return None;
        }
        let cgroups = fs::read_to_string(process.join("cgroup")).ok()?;
        let cgroup = cgroups.lines().find_map(|line| line.strip_prefix("0::"))?;
        Some(Self { pid, cgroup: cgroup.into() })
    }
}

/// Runs `look` where cgroups have the names that the node knows them by. Container runtimes give containers a cgroup
/// namespace of their own (on cgroup v2), where the kernel names all others as `/../..` (cgroup_namespaces(7)).
fn as_the_node_sees<T: Send>(look: impl FnOnce() -> T + Send) -> T {
    let inside = || {
        let path = node_process(Path::new("/proc")).join("ns/cgroup");
        let entered = fs::File::open(path).and_then(|ns| {
            let kind = Some(LinkNameSpaceType::ControlGroup);
            Ok(move_into_link_name_space(ns.as_fd(), kind)?)
        });
        // Where it may not be entered, what cannot be told is said of the kubelet that is found.
        drop(entered);
        look()
    };
    thread::scope(|scope| {
        let looked = scope.spawn(inside).join();
        looked.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A process in a /proc of our own.
    fn process(proc: &Path, pid: u32, comm: &str, net: &str, cgroup: &str) {
        let dir = proc.join(pid.to_string());
        fs::create_dir_all(dir.join("ns")).unwrap();
        fs::write(dir.join("comm"), format!("{comm}\n")).unwrap();
        fs::write(dir.join("cgroup"), format!("1:cpu:/elsewhere\n{cgroup}\n")).unwrap();
        symlink(net, dir.join("ns/net")).unwrap();
        symlink("pid:[1]", dir.join("ns/pid")).unwrap();
    }

    #[test]
    fn only_the_nodes_own_kubelet_is_found() {
        let proc = tempfile::tempdir().unwrap();
        let proc = proc.path();
        process(proc, 1, "systemd", "net:[1]", "0::/init.scope");
        process(proc, 20, "kubelet", "net:[2]", "0::/kubepods/pod1"); // In a pod.
        process(proc, 30, "kubelet-wrapper", "net:[1]", "0::/other");
        assert_eq!(Kubelet::find_in(proc), None);
        process(proc, 40, "kubelet", "net:[1]", "0::/system.slice/kubelet.service");
        let found = Kubelet::find_in(proc).unwrap_or_else(|| panic!("run this test as root"));
        let cgroup = "/system.slice/kubelet.service".into();
        assert_eq!(found, Kubelet { pid: 40, cgroup });
        let folder = found.folder(Path::new("/sys/fs/cgroup/unified")).unwrap();
        assert_eq!(folder, Path::new("/sys/fs/cgroup/unified/system.slice/kubelet.service"));
    }

    #[test]
    fn a_cgroup_that_others_share_or_nobody_sees_is_not_taken() {
        for (cgroup, why) in [("/", "no cgroup"), ("/../../kubelet", "namespace")] {
            let kubelet = Kubelet { pid: 1, cgroup: cgroup.into() };
            let error = kubelet.folder(Path::new("/sys/fs/cgroup")).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}

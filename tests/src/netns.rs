//! A network namespace that lives as long as its guard.

use std::{
    fs::{self, File},
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::PathBuf,
    process,
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use anyhow::{Context, Result, anyhow};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{cmd, process::kill};

/// New links have their link-local IPv6 address at once: while it is looked for duplicates, for a second or two, neighbours
/// are not found. A kernel without IPv6 has nothing to be set.
const NO_DAD: &str = "cd /proc/sys/net/ipv6/conf 2>/dev/null || exit 0; echo 0 >default/accept_dad; echo 0 >all/accept_dad";

const PREFIX: &str = "drainctl-t-";

/// A network namespace: one of our own, gone when this is dropped, or the host's.
#[derive(Debug)]
pub struct Netns {
    name: String,
    path: PathBuf,
    file: File,
    inode: u32,
    owned: bool,
}

impl Netns {
    /// Makes a namespace with a name nobody else has, loopback up.
    pub fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        static SWEEP: Once = Once::new();
        SWEEP.call_once(sweep);
        let name = format!("{PREFIX}{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        cmd::run("ip", &["netns", "add", &name])?;
        let path = PathBuf::from("/run/netns").join(&name);
        let netns = Self::open(name, path, true)?;
        cmd::run("ip", &["netns", "exec", &netns.name, "sh", "-c", NO_DAD])?;
        cmd::run("ip", &["-n", &netns.name, "link", "set", "lo", "up"])?;
        Ok(netns)
    }

    /// The namespace this process runs in.
    pub fn host() -> Result<Self> {
        Self::open("host".into(), format!("/proc/{}/ns/net", process::id()).into(), false)
    }

    /// One that somebody else has made, and removes.
    pub fn at(path: PathBuf) -> Result<Self> {
        Self::open(path.display().to_string(), path, false)
    }

    fn open(name: String, path: PathBuf, owned: bool) -> Result<Self> {
        let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        let inode = u32::try_from(file.metadata()?.ino()).context("inode of a namespace")?;
        Ok(Self { name, path, file, inode, owned })
    }

    /// The name `ip netns` knows it by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A file that stands for it.
    pub fn path(&self) -> &PathBuf {
        &self.path
    }

    /// The number that identifies it.
    pub fn inode(&self) -> u32 {
        self.inode
    }

    /// Moves the calling thread into the namespace, for good.
    pub fn enter(&self) -> Result<()> {
        move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("enter network namespace {}", self.name))
    }

    /// Runs `work` on a thread inside the namespace. Sockets and child processes made there stay
    /// in the namespace, wherever they are used later.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.enter()?;
                work()
            });
            inside.join().map_err(|_| anyhow!("the work inside {} panicked", self.name))?
        })
    }

    /// Sets a sysctl of the namespace, for example `net/ipv4/ip_forward`.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        self.run(|| {
            fs::write(format!("/proc/sys/{key}"), value).with_context(|| format!("{key}={value}"))
        })
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if self.owned {
            remove(&self.name);
        }
    }
}

/// Ends what still runs inside (only what this harness started can) and removes the name.
fn remove(name: &str) {
    let pids = cmd::run("ip", &["netns", "pids", name]).unwrap_or_default();
    for pid in pids.split_whitespace().filter_map(|pid| pid.parse().ok()) {
        kill(pid);
    }
    if let Err(error) = cmd::run("ip", &["netns", "del", name]) {
        eprintln!("a namespace stays behind: {error:#}");
    }
}

/// Removes the namespaces of test processes that were killed before their guards could run.
fn sweep() {
    let Ok(entries) = fs::read_dir("/run/netns") else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if pid.is_some_and(|pid| !PathBuf::from("/proc").join(pid).exists()) {
            remove(&name);
        }
    }
}

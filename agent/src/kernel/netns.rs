//! Finding network namespaces and doing things inside them.
//!
//! A namespace is known by its inode number. No descriptor is kept: that would keep a dead pod's
//! namespace alive. What is kept is a path that led to it last time.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use rustix::{
    fs::{Mode, OFlags, fstat, fstatfs, open},
    io::Errno,
    net::{AddressFamily, SocketType, socket},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use super::{KernelError, sys};

/// `NSFS_MAGIC` (`include/uapi/linux/magic.h`).
const NSFS_MAGIC: u64 = 0x6e73_6673;
/// Where `ip netns` keeps its names.
const NAMED: &str = "/run/netns";

/// The namespace of this thread.
const OWN: &str = "/proc/thread-self/ns/net";

/// How a path is opened that may lead to a namespace, or to a FIFO, which must not keep us waiting.
const LOOK: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK);

/// Paths that led to namespaces.
#[derive(Default)]
pub(super) struct Namespaces {
    paths: Mutex<HashMap<u32, PathBuf>>,
}

impl Namespaces {
    /// Inode numbers of all that can be reached now.
    pub(super) fn all(&self) -> Result<Vec<u32>, KernelError> {
        let found = scan()?;
        let numbers = found.keys().copied().collect();
        // Not added to what was there: paths of the dead would stay for ever.
        *self.lock() = found.into_iter().collect();
        Ok(numbers)
    }

    /// Opens a namespace.
    ///
    /// # Errors
    /// [`KernelError::NoNetns`] if no process and no name leads to it.
    pub(super) fn open(&self, netns: u32) -> Result<OwnedFd, KernelError> {
        let try_open = |path: Option<&PathBuf>| match path {
            Some(path) => open_if(path, netns)
                .map_err(|e| KernelError::op("open network namespace", netns, e)),
            None => Ok(None),
        };
        let known = self.lock().get(&netns).cloned();
        if let Some(fd) = try_open(known.as_ref())? {
            return Ok(fd);
        }
        let found = scan()?;
        let fd = try_open(found.get(&netns))?;
        let mut paths = self.lock();
        *paths = found.into_iter().collect();
        fd.ok_or(KernelError::NoNetns(netns))
    }

    /// Runs `f` with this thread inside the namespace. A thread of its own for each call would cost more than most of
    /// what is done there: its stack is mapped and unmapped, for which all others have to wait. The main thread has one
    /// all the same: where that is, the whole process seems to live (`/proc/PID/ns/net`), and whoever ends all that
    /// lives in a namespace would end the agent.
    pub(super) fn inside<T: Send>(
        &self,
        netns: u32,
        f: impl FnOnce() -> Result<T, KernelError> + Send,
    ) -> Result<T, KernelError> {
        let fd = self.open(netns)?;
        let visit = || {
            let home =
                open(OWN, LOOK, Mode::empty()).map_err(|e| KernelError::op("open", OWN, e))?;
            enter(&fd).map_err(|e| KernelError::op("enter network namespace", netns, e))?;
            let _back = Back(home);
            f()
        };
        if rustix::thread::gettid() != rustix::process::getpid() {
            return visit();
        }
        std::thread::scope(|scope| {
            let joined = scope.spawn(visit).join();
            joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// See [`super::Kernel::netns_cookie`].
    pub(super) fn cookie(&self, netns: u32) -> Result<Option<u64>, KernelError> {
        self.inside(netns, || {
            let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)
                .map_err(|e| KernelError::op("open a socket in network namespace", netns, e))?;
            Ok(sys::netns_cookie(socket.as_fd()).ok())
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u32, PathBuf>> {
        self.paths.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Brings this thread back to where it was when it is dropped, even by a panic.
struct Back(OwnedFd);

impl Drop for Back {
    fn drop(&mut self) {
        if let Err(error) = enter(&self.0) {
            // What needs a namespace enters it first. But this one would live as long as the thread.
            tracing::error!(%error, "a thread cannot leave a network namespace");
        }
    }
}

/// Has this thread live in a namespace.
fn enter(netns: &OwnedFd) -> rustix::io::Result<()> {
    move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))
}

/// Inode number of the node's own namespace.
pub(super) fn host() -> Result<u32, KernelError> {
    let path = node_process(Path::new("/proc")).join("ns/net");
    inode(&path).map_err(|e| KernelError::op("open", path.display(), e))
}

/// A process that lives in the node's own namespaces: `kthreadd` (pid 2) does on every machine, and unlike pid 1
/// it may be looked at without all the capabilities that pid 1 has.
pub(super) fn node_process(proc: &Path) -> PathBuf {
    let kthreadd = proc.join("2");
    let is_it =
        fs::read_to_string(kthreadd.join("comm")).is_ok_and(|name| name.trim() == "kthreadd");
    if is_it { kthreadd } else { proc.join("1") }
}

/// Inode number of the namespace at `path`, if it is one.
pub(super) fn inode(path: &Path) -> io::Result<u32> {
    let fd = open(path, LOOK, Mode::empty())?;
    if fstatfs(&fd)?.f_type as u64 != NSFS_MAGIC {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a namespace"));
    }
    // The kernel's inode numbers of namespaces are 32 bits wide.
    Ok(fstat(&fd)?.st_ino as u32)
}

/// Opens what is at `path` if it is this namespace.
///
/// # Errors
/// It cannot be told, for want of descriptors or memory.
fn open_if(path: &Path, netns: u32) -> io::Result<Option<OwnedFd>> {
    let fd = match open(path, LOOK, Mode::empty()) {
        Ok(fd) => fd,
        Err(e) if is_want(e) => return Err(e.into()),
        Err(_) => return Ok(None),
    };
    let is_it = fstat(&fd).is_ok_and(|s| s.st_ino == u64::from(netns))
        && fstatfs(&fd).is_ok_and(|s| s.f_type as u64 == NSFS_MAGIC);
    Ok(is_it.then_some(fd))
}

/// Whether this process, or the node, has no descriptor or no memory left. That says nothing about what was to be
/// opened: a namespace must not be taken for gone because of it.
fn is_want(errno: Errno) -> bool {
    matches!(errno, Errno::MFILE | Errno::NFILE | Errno::NOMEM)
}

/// Every namespace that has a name or a process, with a path to it; names first, since they outlive
/// processes.
///
/// # Errors
/// It cannot be told which there are.
fn scan() -> Result<BTreeMap<u32, PathBuf>, KernelError> {
    let fail = |path: &Path, e: io::Error| KernelError::op("read", path.display(), e);
    let wants = |e: &io::Error| Errno::from_io_error(e).is_some_and(is_want);
    let mut found = BTreeMap::new();
    let mut add = |path: PathBuf| match inode(&path) {
        Ok(n) => {
            found.entry(n).or_insert(path);
            Ok(())
        }
        Err(e) if wants(&e) => Err(fail(&path, e)),
        // It has ended since, or is no namespace.
        Err(_) => Ok(()),
    };
    let named = Path::new(NAMED);
    match fs::read_dir(named) {
        Ok(names) => {
            for name in names {
                add(name.map_err(|e| fail(named, e))?.path())?;
            }
        }
        Err(e) if wants(&e) => return Err(fail(named, e)),
        Err(_) => {} // Nobody has named any, for us.
    }
    let proc = Path::new("/proc");
    for process in fs::read_dir(proc).map_err(|e| fail(proc, e))? {
        let process = process.map_err(|e| fail(proc, e))?;
        if process.file_name().as_encoded_bytes().first().is_some_and(u8::is_ascii_digit) {
            add(process.path().join("ns/net"))?;
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use rustix::{
        fs::{CWD, FileType, mknodat},
        process::{Resource, Rlimit, getrlimit, setrlimit},
    };

    use super::*;

    #[test]
    fn only_a_namespace_has_a_namespace_number() {
        let own = inode(Path::new("/proc/self/ns/net")).unwrap();
        assert_eq!(u64::from(own), fs::metadata("/proc/self/ns/net").map(|m| m.ino()).unwrap());
        let dir = tempfile::tempdir().unwrap();
        let (file, fifo) = (dir.path().join("file"), dir.path().join("fifo"));
        fs::write(&file, "").unwrap();
        mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR, 0).unwrap();
        for path in [&file, &fifo] {
            assert_eq!(inode(path).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{path:?}");
            assert!(open_if(path, own).unwrap().is_none());
        }
        assert!(inode(&dir.path().join("nothing")).is_err());
    }

    #[test]
    fn a_path_that_leads_elsewhere_now_is_not_taken() {
        let path = Path::new("/proc/self/ns/net");
        let own = inode(path).unwrap();
        assert!(open_if(path, own).unwrap().is_some());
        assert!(open_if(path, own ^ 1).unwrap().is_none());
    }

    #[test]
    fn a_namespace_that_died_is_forgotten_and_cannot_be_opened() {
        let namespaces = Namespaces::default();
        let nowhere = 1; // The kernel's inode numbers of namespaces begin far above.
        namespaces.lock().insert(nowhere, "/proc/self/ns/net".into());
        assert!(matches!(namespaces.open(nowhere), Err(KernelError::NoNetns(1))));
        namespaces.lock().insert(nowhere, "/proc/self/ns/net".into());
        let own = inode(Path::new("/proc/self/ns/net")).unwrap();
        assert!(namespaces.all().unwrap().contains(&own));
        assert!(!namespaces.lock().contains_key(&nowhere));
    }

    /// In a process of its own, which has no descriptors left.
    #[test]
    fn without_descriptors_no_namespace_is_said_to_be_gone() {
        const ALONE: &str = "DRAINCTL_TEST_ALONE";
        if std::env::var_os(ALONE).is_none() {
            let name = "kernel::netns::tests::without_descriptors_no_namespace_is_said_to_be_gone";
            let mut test = std::process::Command::new(std::env::current_exe().unwrap());
            let done = test.args(["--exact", name]).env(ALONE, "1").output().unwrap();
            let said = String::from_utf8_lossy(&done.stdout);
            assert!(done.status.success() && said.contains("1 passed"), "{said}");
            return;
        }
        let namespaces = Namespaces::default();
        let own = inode(Path::new(OWN)).unwrap();
        assert!(namespaces.all().unwrap().contains(&own));
        let few = Rlimit { current: Some(64), ..getrlimit(Resource::Nofile) };
        setrlimit(Resource::Nofile, few).unwrap();
        let mut taken = Vec::new();
        while let Ok(file) = fs::File::open("/dev/null") {
            taken.push(file);
        }
        // With no descriptor, not even the list of processes can be read; with one, none of them can be looked at.
        for left in [0, 1] {
            taken.truncate(taken.len() - left);
            assert!(matches!(namespaces.all(), Err(KernelError::Op { .. })), "{left} left");
            let gone = Namespaces::default().open(own);
            assert!(matches!(gone, Err(KernelError::Op { .. })), "{left} left: {gone:?}");
        }
        taken.clear();
        assert!(namespaces.all().unwrap().contains(&own) && namespaces.open(own).is_ok());
    }
}

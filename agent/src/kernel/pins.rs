//! What outlives the agent: maps, and links that keep programs attached, pinned in a bpffs.
//!
//! Below the pin directory each version of the kernel programs ([`ABI`]) has a folder of its own:
//! `v2/FLOWS` and so on for maps, `v2/track_INODE` for the link of the tracker (or `probe_INODE`) to a cgroup, and
//! `v2/gates/SLOT_NETNS_COOKIE` for the link of each gate.

use std::{
    fs::{self, DirBuilder},
    io,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::fs::DirBuilderExt as _,
    },
    path::{Path, PathBuf},
};

use aya::{EbpfLoader, maps::MapData, programs::links::FdLink};
use drainctl_common::ABI;
use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock, fstat, open, statfs},
    io::Errno,
    mount::{MountFlags, mount},
    process::geteuid,
};

use super::{KernelError, sys};
use crate::failpoint;

/// `BPF_FS_MAGIC` (`include/uapi/linux/magic.h`).
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
/// Where a bpffs is mounted on every machine that has one.
const USUAL: &str = "/sys/fs/bpf";

/// A pin directory that belongs to this process, as long as this value lives.
#[derive(Debug)]
pub struct PinDir {
    path: PathBuf,
    /// Holds the lock.
    _dir: OwnedFd,
}

/// Why a pin directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PinDirError {
    /// Somebody else holds its lock.
    #[error(
        "another agent is running on the pin directory {}; stop it, or give --pin-dir another path",
        .0.display()
    )]
    InUse(PathBuf),
    /// Nothing can be pinned there.
    #[error(
        "{} is not on a bpffs, where kernel objects can be kept; mount one (mount -t bpf bpf FOLDER), and \
         give --pin-dir a path below it",
        .0.display()
    )]
    NotBpffs(PathBuf),
    /// Somebody else could take away what is kept there.
    #[error(
        "{} belongs to another user, or others may enter it; remove it, or make it 0700 and owned by the user of the agent",
        .0.display()
    )]
    NotOurs(PathBuf),
    /// A system call failed.
    #[error("cannot {op} {}", path.display())]
    Io {
        /// What was tried.
        op: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl PinDir {
    /// Makes the directory if it is not there, and takes its lock. Mounts a bpffs at `/sys/fs/bpf` if the
    /// directory is below it and nothing is mounted there.
    ///
    /// # Errors
    /// Another process has the lock, it is no bpffs, or a system call failed.
    pub fn claim(path: &Path) -> Result<Self, PinDirError> {
        if path.starts_with(USUAL) && !is_bpffs(path)? {
            let done = mount("bpf", USUAL, "bpf", MountFlags::empty(), Some(c"mode=0700"));
            done.map_err(|e| fail("mount a bpffs at", USUAL.as_ref())(e.into()))?;
            tracing::info!("mounted a bpffs at {USUAL}");
        }
        if !is_bpffs(path)? {
            return Err(PinDirError::NotBpffs(path.to_owned()));
        }
        // Nobody else's: who can open it could hold the lock and keep us from starting.
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(fail("create folder", path))?;
        Self::lock(path)
    }

    /// The same for a directory that is there; `None` if it is not.
    ///
    /// # Errors
    /// See [`PinDir::claim`].
    pub fn claim_existing(path: &Path) -> Result<Option<Self>, PinDirError> {
        match path.try_exists() {
            Err(e) => Err(fail("look at", path)(e)),
            Ok(false) => Ok(None),
            Ok(true) if !is_bpffs(path)? => Err(PinDirError::NotBpffs(path.to_owned())),
            Ok(true) => Self::lock(path).map(Some),
        }
    }

    fn lock(path: &Path) -> Result<Self, PinDirError> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
        let dir = open(path, flags, Mode::empty()).map_err(|e| fail("open", path)(e.into()))?;
        let stat = fstat(&dir).map_err(|e| fail("look at", path)(e.into()))?;
        if stat.st_uid != geteuid().as_raw() || stat.st_mode & 0o077 != 0 {
            return Err(PinDirError::NotOurs(path.to_owned()));
        }
        // A bpffs holds no files of ours, but the lock of its folder will do.
        match flock(&dir, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => return Err(PinDirError::InUse(path.to_owned())),
            locked => locked.map_err(|e| fail("lock", path)(e.into()))?,
        }
        Ok(Self { path: path.to_owned(), _dir: dir })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of this version of the kernel programs, made if it is not there.
    pub(super) fn of_version(&self, abi: u32) -> Result<Pins, KernelError> {
        let pins = Pins { dir: self.path.join(format!("v{abi}")) };
        let gates = pins.dir.join(GATES);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&gates);
        made.map_err(|e| KernelError::op("create folder", gates.display(), e))?;
        Ok(pins)
    }

    /// The folders of all other versions that are there.
    pub(super) fn other_versions(&self, abi: u32) -> Result<Vec<Pins>, KernelError> {
        let mut pins = self.versions()?;
        pins.retain(|pins| pins.dir != self.path.join(format!("v{abi}")));
        Ok(pins)
    }

    /// The folders of all versions that are there.
    pub(super) fn versions(&self) -> Result<Vec<Pins>, KernelError> {
        let is_ours = |name: &String| {
            name.strip_prefix('v').is_some_and(|version| version.parse::<u32>().is_ok())
        };
        let all = names(&self.path)?.into_iter().filter(is_ours);
        Ok(all.map(|name| Pins { dir: self.path.join(name) }).collect())
    }
}

/// Whether a path, or what there is of it, is on a bpffs.
fn is_bpffs(path: &Path) -> Result<bool, PinDirError> {
    let there = path.ancestors().find(|part| part.exists()).unwrap_or(Path::new("/"));
    let stat = statfs(there).map_err(|e| fail("look at", there)(e.into()))?;
    Ok(stat.f_type as u64 == BPF_FS_MAGIC)
}

fn fail(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PinDirError {
    let path = path.to_owned();
    move |source| PinDirError::Io { op, path, source }
}

/// The version that this agent's programs have.
pub const VERSION: u32 = ABI;

const GATES: &str = "gates";

/// The folder of one version.
#[derive(Clone, Debug)]
pub(super) struct Pins {
    dir: PathBuf,
}

/// A gate that is attached to a network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GatePin {
    pub(super) slot: u32,
    pub(super) netns: u32,
    /// Of the namespace, where the kernel has such a thing.
    pub(super) cookie: Option<u64>,
}

impl Pins {
    /// Has these maps of an object found where they are pinned, or pinned if they are new.
    pub(super) fn share<'a>(&self, loader: &mut EbpfLoader<'a>, maps: &[&'a str]) {
        for name in maps {
            loader.map_pin_path(name, self.path(name));
        }
    }

    /// Where the object called `name` is pinned.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Where this gate is pinned.
    pub(super) fn gate(&self, pin: &GatePin) -> PathBuf {
        self.dir.join(GATES).join(pin.name())
    }

    /// All gates that are pinned. Files with names that are none of ours are removed: nobody knows what is
    /// behind them.
    pub(super) fn gates(&self) -> Result<Vec<GatePin>, KernelError> {
        let mut pins = Vec::new();
        let folder = self.dir.join(GATES);
        for name in names(&folder)? {
            match GatePin::parse(&name) {
                Some(pin) => pins.push(pin),
                None => detach(&folder.join(name))?,
            }
        }
        Ok(pins)
    }

    /// Links of a program to cgroups.
    pub(super) fn links(&self, program: &str) -> Result<Vec<PathBuf>, KernelError> {
        let prefix = format!("{program}_");
        let is_link = |name: &String| {
            name.strip_prefix(&prefix).is_some_and(|cgroup| cgroup.parse::<u64>().is_ok())
        };
        let all = names(&self.dir)?.into_iter().filter(is_link);
        Ok(all.map(|name| self.dir.join(name)).collect())
    }

    /// Where the link of a program to the cgroup with this inode number is pinned.
    pub(super) fn link(&self, program: &str, cgroup: u64) -> PathBuf {
        self.dir.join(format!("{program}_{cgroup}"))
    }

    /// How many entries the map called `name` has room for.
    pub(super) fn max_entries(&self, name: &str) -> Result<u32, KernelError> {
        let fail = |e| KernelError::op("read the size of map", name, e);
        let info = MapData::from_pin(self.path(name)).and_then(|map| map.info()).map_err(fail)?;
        Ok(info.max_entries())
    }

    /// Has a map of another version, which is the same in each, be ours too, unless we have one of this name.
    pub(super) fn take_over(&self, name: &'static str, other: &Self) -> Result<(), KernelError> {
        let (ours, theirs) = (self.path(name), other.path(name));
        if ours.exists() || !theirs.exists() {
            return Ok(());
        }
        let fail =
            |e: Box<dyn std::error::Error + Send + Sync>| KernelError::op("pin map", name, e);
        let map = MapData::from_pin(theirs).map_err(|e| fail(e.into()))?;
        map.pin(ours).map_err(|e| fail(e.into()))
    }

    /// A map of this version, if it has one of this name.
    pub(super) fn map(&self, name: &'static str) -> Result<Option<aya::maps::Map>, KernelError> {
        let path = self.path(name);
        if !path.exists() {
            return Ok(None);
        }
        let map = MapData::from_pin(path).and_then(aya::maps::Map::from_map_data);
        map.map(Some).map_err(|e| KernelError::op("open map", name, e))
    }

    /// Detaches every program; gates first, so that traffic comes back even if the rest fails.
    pub(super) fn detach(&self) -> Result<(), KernelError> {
        let gates = self.dir.join(GATES);
        for name in names(&gates)? {
            detach(&gates.join(name))?;
        }
        for program in ATTACHED {
            self.links(program)?.iter().try_for_each(|path| detach(path))?;
        }
        Ok(())
    }

    /// Removes every object.
    pub(super) fn remove(&self) -> Result<(), KernelError> {
        fs::remove_dir_all(&self.dir)
            .map_err(|e| KernelError::op("remove folder", self.dir.display(), e))
    }
}

/// Programs that are attached to cgroups.
const ATTACHED: [&str; 2] = ["track", "probe"];

impl GatePin {
    fn name(&self) -> String {
        format!("{}_{}_{}", self.slot, self.netns, self.cookie.unwrap_or(0))
    }

    fn parse(name: &str) -> Option<Self> {
        let mut parts = name.split('_');
        let (slot, netns) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let cookie: u64 = parts.next()?.parse().ok()?;
        // The kernel counts them from 1.
        Some(Self { slot, netns, cookie: (cookie != 0).then_some(cookie) })
            .filter(|pin| parts.next().is_none() && pin.name() == name)
    }
}

/// Pins a new link; if that fails, it is detached again.
pub(super) fn keep(link: FdLink, path: &Path) -> Result<(), KernelError> {
    link.pin(path).map(drop).map_err(|e| KernelError::op("pin", path.display(), e))
}

/// Puts another program behind a pinned link, in one step; false if what the link was for is gone (`ENOLINK`).
pub(super) fn replace(path: &Path, program: BorrowedFd<'_>) -> Result<bool, KernelError> {
    let link = sys::pinned(path);
    match link.and_then(|link| sys::update_link(link.as_fd(), program)) {
        Ok(()) => Ok(true),
        Err(e) if Errno::from_io_error(&e) == Some(Errno::NOLINK) => Ok(false),
        Err(e) => Err(KernelError::op("replace the program of", path.display(), e)),
    }
}

/// Detaches a pinned link and removes it. When it returns, its program does not run any more for new packets: to
/// remove the file is not enough, since the kernel detaches the program some time after that.
pub(super) fn detach(path: &Path) -> Result<(), KernelError> {
    let fail = |op| move |e: io::Error| KernelError::op(op, path.display(), e);
    match sys::pinned(path).and_then(|link| sys::detach_link(link.as_fd())) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        done => done.map_err(fail("detach"))?,
    }
    failpoint::pass("pins: detached");
    fs::remove_file(path).map_err(fail("remove"))
}

fn names(folder: &Path) -> Result<Vec<String>, KernelError> {
    let fail = |e: io::Error| KernelError::op("read folder", folder.display(), e);
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(fail)?,
    };
    entries
        .map(|entry| Ok(entry.map_err(fail)?.file_name().to_string_lossy().into_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_gate_says_whose_it_is() {
        for pin in [
            GatePin { slot: 0, netns: 4_026_531_840, cookie: None },
            GatePin { slot: u32::MAX, netns: 1, cookie: Some(u64::MAX) },
        ] {
            assert_eq!(GatePin::parse(&pin.name()), Some(pin));
        }
        for name in ["", "1", "1_2", "1_2_x", "1_2_3_4", "01_2_3", "-1_2_3", "1_4294967296_3"] {
            assert_eq!(GatePin::parse(name), None, "{name}");
        }
    }

    #[test]
    fn what_is_no_bpffs_is_refused_with_the_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pins");
        let error = PinDir::claim(&path).unwrap_err();
        assert!(matches!(error, PinDirError::NotBpffs(_)), "{error}");
        assert!(error.to_string().contains("mount -t bpf"), "{error}");
        assert!(!path.exists());
        assert!(PinDir::claim_existing(&path).unwrap().is_none());
    }
}

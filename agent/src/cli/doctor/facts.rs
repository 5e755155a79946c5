//! What can be seen of this machine. Gathering only looks, and never fails: what cannot be seen is a fact too.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use rustix::thread::{CapabilitySet, capabilities};

use crate::{
    cli::{
        agent::AgentAddress,
        client::{Client, ClientError},
        target::Target,
    },
    kernel::{
        kubelet::Kubelet,
        probe::{SkLookupLink, sk_lookup_links},
    },
};

/// `PROC_USER_INIT_INO` in include/linux/proc_ns.h: the initial user namespace.
const INITIAL_USER_NAMESPACE: u64 = 0xEFFF_FFFD;

/// `PROC_PID_INIT_INO`: the initial pid namespace.
const INITIAL_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// Something looked up, or why it could not be.
pub(super) type Seen<T> = Result<T, String>;

/// Everything `doctor` judges by.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// Release (`uname -r`), and its first two numbers.
    pub(super) kernel: Seen<(String, (u16, u16))>,
    /// What the kernel's type information lists; absent features are known to be absent.
    pub(super) btf: Seen<BtfNames>,
    /// Effective capabilities, and whether they count in the initial user namespace.
    pub(super) capabilities: Seen<(CapabilitySet, bool)>,
    /// Where bpffs is mounted.
    pub(super) bpffs: Seen<Option<PathBuf>>,
    /// Where cgroup v2 is mounted, and whether that is its real root.
    pub(super) cgroup2: Seen<Option<(PathBuf, bool)>>,
    /// The kubelet's process and cgroup, if one runs here.
    pub(super) kubelet: Seen<Option<(u32, PathBuf)>>,
    /// Whether net_cls or net_prio (cgroup v1) is mounted.
    pub(super) net_cls: Seen<bool>,
    /// How many processes' network namespaces can be opened.
    pub(super) netns_access: Seen<NetnsAccess>,
    /// Whether this is the initial pid namespace.
    pub(super) host_pids: Seen<bool>,
    /// sk_lookup programs of other owners; of one namespace, if a target was given.
    pub(super) sk_lookup: Seen<Vec<SkLookupLink>>,
    /// The sysctl `net.core.bpf_jit_enable`.
    pub(super) jit: Seen<u32>,
    /// Whether the agent answers; where it was looked for.
    pub(super) agent: Seen<AgentAddress>,
}

/// How the attempt to open the network namespace of every process went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct NetnsAccess {
    /// Processes whose namespace can be opened.
    pub(super) opened: usize,
    /// Processes whose namespace may not be opened.
    pub(super) refused: usize,
}

/// Names found in the kernel's BTF, which tell what was built in better than a version does: distributions
/// carry features back to older versions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct BtfNames {
    /// `BPF_PROG_TYPE_SK_LOOKUP`.
    pub(super) sk_lookup: bool,
    /// `BPF_MAP_TYPE_RINGBUF`.
    pub(super) ring_buffer: bool,
    /// `bpf_iter__tcp`.
    pub(super) tcp_iterator: bool,
    /// `BPF_LINK_TYPE_CGROUP`.
    pub(super) cgroup_link: bool,
    /// `TCP_BPF_SOCK_OPS_CB_FLAGS`.
    pub(super) late_callbacks: bool,
    /// `sk_psock_msg_verdict`: programs on what sockets of a sockmap send (`CONFIG_NET_SOCK_MSG`).
    pub(super) sk_msg: bool,
    /// `BPF_FUNC_loop`.
    pub(super) loops: bool,
}

impl Facts {
    /// Looks at this machine, from where the caller stands.
    pub(super) async fn gather(client: &Client, target: &Target) -> Self {
        Self {
            kernel: kernel(),
            btf: fs::read("/sys/kernel/btf/vmlinux").map_err(said).map(|blob| btf_names(&blob)),
            capabilities: effective_capabilities(),
            bpffs: mount_point("bpf"),
            cgroup2: cgroup2(),
            kubelet: kubelet(),
            net_cls: net_cls(),
            netns_access: netns_access(),
            host_pids: namespace("pid").map(|inode| inode == INITIAL_PID_NAMESPACE),
            sk_lookup: foreign_sk_lookup(target),
            jit: read_number("/proc/sys/net/core/bpf_jit_enable"),
            agent: agent(client).await,
        }
    }
}

fn said(error: io::Error) -> String {
    error.to_string()
}

fn kernel() -> Seen<(String, (u16, u16))> {
    let path = "/proc/sys/kernel/osrelease";
    let release = fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    let release = release.trim().to_owned();
    let version = version(&release).ok_or_else(|| format!("release {release:?} has no version"))?;
    Ok((release, version))
}

/// The first two numbers of a release such as `6.1.0-21-amd64`.
pub(super) fn version(release: &str) -> Option<(u16, u16)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Looks for names in the string section of a BTF blob, where each ends with a NUL.
pub(super) fn btf_names(blob: &[u8]) -> BtfNames {
    let mut names = BtfNames::default();
    for name in blob.split(|byte| *byte == 0) {
        match name {
            b"BPF_PROG_TYPE_SK_LOOKUP" => names.sk_lookup = true,
            b"BPF_MAP_TYPE_RINGBUF" => names.ring_buffer = true,
            b"bpf_iter__tcp" => names.tcp_iterator = true,
            b"BPF_LINK_TYPE_CGROUP" => names.cgroup_link = true,
            b"TCP_BPF_SOCK_OPS_CB_FLAGS" => names.late_callbacks = true,
            b"sk_psock_msg_verdict" => names.sk_msg = true,
            b"BPF_FUNC_loop" => names.loops = true,
            _ => {}
        }
    }
    names
}

/// Processes that exit meanwhile are left out.
fn netns_access() -> Seen<NetnsAccess> {
    let mut access = NetnsAccess::default();
    let entries = fs::read_dir("/proc").map_err(|error| format!("/proc: {error}"))?;
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().parse::<u32>().is_err() {
            continue;
        }
        match File::open(entry.path().join("ns/net")) {
            Ok(_) => access.opened += 1,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => access.refused += 1,
            Err(_) => {}
        }
    }
    Ok(access)
}

fn effective_capabilities() -> Seen<(CapabilitySet, bool)> {
    let sets = capabilities(None).map_err(|error| said(error.into()))?;
    Ok((sets.effective, namespace("user")? == INITIAL_USER_NAMESPACE))
}

/// Inode number of one of our own namespaces.
fn namespace(kind: &str) -> Seen<u64> {
    use std::os::unix::fs::MetadataExt;
    let path = format!("/proc/self/ns/{kind}");
    fs::metadata(&path).map(|meta| meta.ino()).map_err(|error| format!("{path}: {error}"))
}

fn mount_point(kind: &str) -> Seen<Option<PathBuf>> {
    let mounts = procfs::mounts().map_err(|error| error.to_string())?;
    let found = mounts.into_iter().find(|mount| mount.fs_vfstype == kind);
    Ok(found.map(|mount| PathBuf::from(mount.fs_file)))
}

/// The real root has `cgroup.procs` and no `cgroup.type` (Documentation/admin-guide/cgroup-v2.rst); the root
/// that a cgroup namespace shows has both.
fn cgroup2() -> Seen<Option<(PathBuf, bool)>> {
    let Some(path) = mount_point("cgroup2")? else { return Ok(None) };
    let real = is_there(&path.join("cgroup.procs"))? && !is_there(&path.join("cgroup.type"))?;
    Ok(Some((path, real)))
}

fn is_there(path: &Path) -> Seen<bool> {
    path.try_exists().map_err(|error| format!("{}: {error}", path.display()))
}

/// As the agent looks for it.
fn kubelet() -> Seen<Option<(u32, PathBuf)>> {
    let Some(kubelet) = Kubelet::find() else { return Ok(None) };
    let root = mount_point("cgroup2")?.ok_or("cgroup v2 is not mounted")?;
    let folder = kubelet.folder(&root);
    folder
        .map(|folder| Some((kubelet.pid, folder)))
        .map_err(|why| format!("process {}: {why}", kubelet.pid))
}

fn net_cls() -> Seen<bool> {
    let mounts = procfs::mounts().map_err(|error| error.to_string())?;
    Ok(mounts.iter().any(|mount| {
        mount.fs_vfstype == "cgroup"
            && ["net_cls", "net_prio"].iter().any(|name| mount.fs_mntops.contains_key(*name))
    }))
}

/// Programs of the agent have names that begin with `gate` (the room they are written in).
fn foreign_sk_lookup(target: &Target) -> Seen<Vec<SkLookupLink>> {
    let mut links = sk_lookup_links().map_err(|error| {
        let source = std::error::Error::source(&error).map(ToString::to_string);
        format!("{error}: {}", source.unwrap_or_default())
    })?;
    links.retain(|link| {
        !link.name.starts_with("gate") && target.inode().is_none_or(|inode| inode == link.netns)
    });
    Ok(links)
}

fn read_number(path: &str) -> Seen<u32> {
    let text = fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    text.trim().parse().map_err(|_| format!("{path} holds {text:?}"))
}

async fn agent(client: &Client) -> Seen<AgentAddress> {
    match client.get_raw("/healthz").await {
        Ok((status, _)) if status.is_success() => Ok(client.address().clone()),
        Ok((status, _)) => Err(format!("{} answers {status}", client.address())),
        Err(ClientError::Unreachable { why, .. }) => Err(format!("{why}: {}", client.address())),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_releases() {
        let table = [
            ("6.18.44-fc-v669", Some((6, 18))),
            ("5.10.0-28-amd64", Some((5, 10))),
            ("7.3-rc1", Some((7, 3))),
            ("next", None),
        ];
        for (release, expected) in table {
            assert_eq!(version(release), expected, "{release}");
        }
    }

    #[test]
    fn names_are_whole() {
        let blob = b"\0BPF_PROG_TYPE_SK_LOOKUP\0BPF_MAP_TYPE_RINGBUFFER\0bpf_iter__tcp\0";
        let names = BtfNames { sk_lookup: true, tcp_iterator: true, ..BtfNames::default() };
        assert_eq!(btf_names(blob), names);
    }
}

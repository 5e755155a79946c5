//! Which network namespace a command is about. The command line's words become an inode number here, by
//! looking from where the caller stands: a process id means one in the caller's own pid namespace.

use std::{
    fmt,
    fs::File,
    io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::Path,
};

use super::{
    args::TargetArgs,
    exit::{Exit, Failure},
    text::quoted,
};
use crate::{
    api::protocol::{CheckRequest, DrainRequest, HoldRequest, NetnsName, NetnsRef, PodName},
    kernel::probe,
};

/// `NSFS_MAGIC` in include/uapi/linux/magic.h.
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// A network namespace, found and held.
#[derive(Debug)]
pub(super) struct Target {
    args: TargetArgs,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// The caller's own: nothing is sent, the agent knows who is calling.
    Own,
    /// By inode number. The file stays open, so that the number cannot come to mean another namespace.
    Inode(u32, #[expect(dead_code, reason = "held, not read")] File),
    /// The node's.
    Host,
    /// Of a pod, which the agent finds.
    Pod(PodName),
    /// Of a container, which the agent finds.
    Container(String),
}

impl Target {
    /// Finds the namespace.
    ///
    /// # Errors
    /// The process is gone (6), its namespace may not be looked at (5), or the file is no network
    /// namespace (2).
    pub(super) fn find(args: &TargetArgs) -> Result<Self, Failure> {
        let kind = match (args.pid, &args.netns) {
            (Some(pid), _) => of_process(pid)?,
            (None, Some(path)) => of_file(path)?,
            (None, None) if args.host => Kind::Host,
            (None, None) => match (&args.pod, &args.container) {
                (Some(pod), _) => Kind::Pod(pod.clone()),
                (None, Some(id)) => Kind::Container(bare(id)?),
                (None, None) => Kind::Own,
            },
        };
        Ok(Self { args: args.clone(), kind })
    }

    /// Has the request be about it.
    pub(super) fn fill(&self, request: DrainRequest) -> DrainRequest {
        let (netns, pod, container) = self.place();
        DrainRequest { netns, pod, container, ..request }
    }

    /// The same for a check.
    pub(super) fn fill_check(&self, request: CheckRequest) -> CheckRequest {
        let (netns, pod, container) = self.place();
        CheckRequest { netns, pod, container, ..request }
    }

    fn place(&self) -> (Option<NetnsRef>, Option<PodName>, Option<String>) {
        match &self.kind {
            Kind::Own => (None, None, None),
            Kind::Inode(inode, _) => (Some(NetnsRef::Inode(*inode)), None, None),
            Kind::Host => (Some(NetnsRef::Named(NetnsName::Host)), None, None),
            Kind::Pod(pod) => (None, Some(pod.clone()), None),
            Kind::Container(id) => (None, None, Some(id.clone())),
        }
    }

    /// Has the request for a hold be about it.
    pub(super) fn fill_hold(&self, request: HoldRequest) -> HoldRequest {
        match &self.kind {
            Kind::Own => request,
            Kind::Inode(inode, _) => {
                HoldRequest { netns: Some(NetnsRef::Inode(*inode)), ..request }
            }
            Kind::Host => HoldRequest { netns: Some(NetnsRef::Named(NetnsName::Host)), ..request },
            Kind::Pod(pod) => HoldRequest { pod: Some(pod.clone()), ..request },
            Kind::Container(id) => HoldRequest { container: Some(id.clone()), ..request },
        }
    }

    /// The namespace's number, if one was looked up.
    pub(super) fn inode(&self) -> Option<u32> {
        match self.kind {
            Kind::Inode(inode, _) => Some(inode),
            Kind::Own | Kind::Host | Kind::Pod(_) | Kind::Container(_) => None,
        }
    }

    /// As a query names it, for example `netns=4026531840`.
    pub(super) fn query(&self) -> Option<String> {
        match &self.kind {
            Kind::Own => None,
            Kind::Inode(inode, _) => Some(format!("netns={inode}")),
            Kind::Host => Some("netns=host".into()),
            Kind::Pod(pod) => Some(format!("pod={pod}")),
            Kind::Container(id) => Some(format!("container={id}")),
        }
    }

    /// The options that led here, with a space before, ready to be pasted into a shell; empty for the
    /// caller's own namespace.
    pub(super) fn options(&self) -> String {
        match (self.args.pid, &self.args.netns) {
            (Some(pid), _) => format!(" --pid {pid}"),
            (None, Some(path)) => format!(" --netns {}", quoted(&path.display().to_string())),
            (None, None) if self.args.host => " --host".into(),
            (None, None) => match &self.kind {
                Kind::Pod(pod) => format!(" --pod {pod}"),
                Kind::Container(id) => format!(" --container {id}"),
                _ => String::new(),
            },
        }
    }
}

/// Whether this can be asked of an agent that may be on another machine, where our namespaces, processes and paths
/// mean nothing.
///
/// # Errors
/// It cannot (exit code 2).
pub(super) fn check_from_afar(args: &TargetArgs) -> Result<(), Failure> {
    if args.host || args.pod.is_some() || args.container.is_some() {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Usage,
        "an agent that is asked over TCP may be on another machine, so say what you mean there: --pod, --container \
         or --host; nothing was changed",
    ))
}

/// As in a sentence: "in …".
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.args.pid, &self.args.netns) {
            (Some(pid), _) => write!(f, "the network namespace of process {pid}"),
            (None, Some(path)) => write!(f, "the network namespace {}", path.display()),
            (None, None) if self.args.host => f.write_str("the host's network namespace"),
            (None, None) => match &self.kind {
                Kind::Pod(pod) => write!(f, "pod {pod}"),
                Kind::Container(id) => write!(f, "container {id}"),
                _ => f.write_str("this network namespace"),
            },
        }
    }
}

/// The id without the runtime's name before it, as `kubectl` shows it. What is no id must not get into an address.
fn bare(id: &str) -> Result<String, Failure> {
    let bare = id.split_once("://").map_or(id, |(_, id)| id);
    if bare.is_empty() || !bare.bytes().all(|b| b.is_ascii_alphanumeric()) {
        let message = format!(
            "{} is no container; write its id, or the first 12 digits of it; nothing was changed",
            quoted(id)
        );
        return Err(Failure::new(Exit::Usage, message));
    }
    Ok(bare.to_owned())
}

fn of_process(pid: u32) -> Result<Kind, Failure> {
    let path = format!("/proc/{pid}/ns/net");
    match File::open(&path) {
        Ok(file) => inode_of(file).map_err(|error| cannot_look(pid, &error)),
        Err(error) => Err(cannot_look(pid, &error)),
    }
}

/// Why the namespace of a process was not found.
fn cannot_look(pid: u32, error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::NotFound if !Path::new("/proc/self").exists() => Failure::new(
            Exit::Internal,
            "/proc is not mounted here, so --pid cannot be looked up; use --netns or --host",
        ),
        // ESRCH: it exited between the lookup of its folder and that of the link.
        _ if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
            || error.kind() == io::ErrorKind::NotFound =>
        {
            Failure::new(
                Exit::NoSuchService,
                format!(
                    "there is no process {pid} in this pid namespace (any more); nothing was changed"
                ),
            )
        }
        io::ErrorKind::PermissionDenied => Failure::new(
            Exit::NotPermitted,
            format!(
                "not permitted to look at the network namespace of process {pid}; \
                 be root, or the same user as that process"
            ),
        ),
        _ => Failure::new(Exit::Internal, format!("cannot open /proc/{pid}/ns/net: {error}")),
    }
}

fn of_file(path: &Path) -> Result<Kind, Failure> {
    let shown = path.display();
    let file = File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => {
            Failure::new(Exit::NotPermitted, format!("not permitted to open {shown}"))
        }
        _ => {
            Failure::new(Exit::Usage, format!("cannot open {shown}: {error}; nothing was changed"))
        }
    })?;
    let magic = rustix::fs::fstatfs(&file).map(|statfs| statfs.f_type as u64);
    let is_net = magic == Ok(NSFS_MAGIC)
        && probe::is_network_namespace(file.as_fd()).is_ok_and(|is_net| is_net);
    if !is_net {
        return Err(Failure::new(
            Exit::Usage,
            format!(
                "{shown} is not a network namespace (one would be /run/netns/NAME or /proc/PID/ns/net); \
                 nothing was changed"
            ),
        ));
    }
    inode_of(file)
        .map_err(|error| Failure::new(Exit::Internal, format!("cannot stat {shown}: {error}")))
}

/// The key of the namespace: `ns.inum`, which fits 32 bits.
fn inode_of(file: File) -> io::Result<Kind> {
    let inode = u32::try_from(file.metadata()?.ino()).map_err(io::Error::other)?;
    Ok(Kind::Inode(inode, file))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn netns(path: &str) -> TargetArgs {
        TargetArgs { netns: Some(path.into()), ..TargetArgs::default() }
    }

    #[test]
    fn own_process_own_namespace() {
        let inode = std::fs::metadata("/proc/self/ns/net").unwrap().ino();
        let args = TargetArgs { pid: Some(std::process::id()), ..TargetArgs::default() };
        let target = Target::find(&args).unwrap();
        assert_eq!(target.query(), Some(format!("netns={inode}")));
        assert_eq!(target.options(), format!(" --pid {}", std::process::id()));
        let by_path = Target::find(&netns("/proc/self/ns/net")).unwrap();
        assert_eq!(by_path.query(), target.query());
    }

    #[test]
    fn nothing_is_sent_for_the_own_namespace() {
        let target = Target::find(&TargetArgs::default()).unwrap();
        assert_eq!((target.query(), target.options()), (None, String::new()));
        assert_eq!(target.fill(DrainRequest::default()), DrainRequest::default());
    }

    #[test]
    fn host_is_a_name() {
        let target = Target::find(&TargetArgs { host: true, ..TargetArgs::default() }).unwrap();
        let request = serde_json::to_value(target.fill(DrainRequest::default())).unwrap();
        assert_eq!(request["netns"], "host");
        assert_eq!(target.query().as_deref(), Some("netns=host"));
    }

    #[test]
    fn pods_and_containers_are_the_agents_to_find() {
        let pod =
            TargetArgs { pod: Some("default/web-0".parse().unwrap()), ..TargetArgs::default() };
        let target = Target::find(&pod).unwrap();
        assert_eq!(target.query().as_deref(), Some("pod=default/web-0"));
        assert_eq!(
            (target.to_string(), target.options()),
            ("pod default/web-0".into(), " --pod default/web-0".into())
        );
        assert_eq!(target.fill(DrainRequest::default()).pod, pod.pod);

        let container =
            |id: &str| TargetArgs { container: Some(id.into()), ..TargetArgs::default() };
        let target = Target::find(&container("containerd://3f8a1c5e7d9b")).unwrap();
        assert_eq!(target.query().as_deref(), Some("container=3f8a1c5e7d9b"));
        assert_eq!(target.options(), " --container 3f8a1c5e7d9b");
        for wrong in ["", "containerd://", "a b", "x&netns=host"] {
            assert_eq!(Target::find(&container(wrong)).unwrap_err().exit, Exit::Usage, "{wrong}");
        }
    }

    #[test]
    fn a_vanished_process_is_no_such_service() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        child.wait().unwrap();
        let args = TargetArgs { pid: Some(pid), ..TargetArgs::default() };
        let failure = Target::find(&args).unwrap_err();
        assert_eq!(failure.exit, Exit::NoSuchService, "{failure}");
    }

    #[test]
    fn what_is_no_network_namespace_is_a_usage_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let file = file.path().display().to_string();
        for path in [&*file, "/proc/self/ns/mnt", "/nonexistent", "/dev/null", "/tmp"] {
            let failure = Target::find(&netns(path)).unwrap_err();
            assert_eq!(failure.exit, Exit::Usage, "{path}: {failure}");
        }
        let failure = Target::find(&netns("/proc/self/ns/mnt")).unwrap_err();
        assert!(failure.message.contains("is not a network namespace"), "{failure}");
    }
}

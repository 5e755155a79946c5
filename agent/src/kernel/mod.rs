//! What the agent wants of the kernel: one narrow trait, so that the core and the executor never see an
//! aya, netlink or libc type, and can be tested with a fake that fails at any operation.
//!
//! All calls block for microseconds to a few milliseconds; async code calls them on a blocking thread.

mod cgroup;
mod checks;
mod counts;
mod destroy;
mod diag;
mod error;
mod events;
#[cfg(test)]
pub(crate) mod fake;
mod finish;
mod followed;
mod gate;
mod guard;
mod handoff;
mod handshakes;
mod holders;
mod hop;
mod housekeeping;
pub mod kubelet;
mod linux;
mod loaded;
mod look;
mod looks;
mod losses;
mod marks;
mod mend;
mod netns;
mod objects;
mod offsets;
mod outbound;
pub mod peer;
mod peers;
mod pins;
pub mod probe;
mod probes;
mod records;
mod report;
mod retire;
mod retiring;
mod scans;
mod settle;
mod shared;
mod slots;
mod start;
mod steer;
mod straggling;
mod sys;
mod tracker;
mod walk;

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    os::fd::{BorrowedFd, OwnedFd},
};

pub use checks::{Check, CheckNote};
pub use counts::{Admitted, Faults, ProbeCounts, Reconciled, Steered, Tracked};
pub use error::KernelError;
pub use linux::{Config, Linux};
pub use look::{Class, Listener, Look, Socket, SocketInfo, TcpState};
pub(crate) use looks::by_port;
pub use pins::{PinDir, PinDirError, VERSION};
pub use report::{Event, EventKind, Watch};
pub use retiring::{
    Abort, Barrier, Finish, Followed, Protocol, RetireLacks, RetireOrder, Told, ToldBy,
};
pub use start::{open, uninstall};
pub use sys::give_memory_back;

pub use handoff::HandoffError;
pub use straggling::{Listener as OwnListener, Listening, Outgoing, reset_at_close, saved_syn};

pub(crate) use error::explain;

use crate::drain::{Admission, Boot, Handoff, Service};

/// The kernel, as far as drainctl needs it.
pub trait Kernel: Send + Sync + 'static {
    /// Boot time now.
    fn now(&self) -> Boot;

    /// Inode number of the host's (the node's) network namespace.
    fn host_netns(&self) -> u32;

    /// Inode numbers of all network namespaces that a process lives in or that `ip netns` names.
    ///
    /// # Errors
    /// /proc cannot be read.
    fn namespaces(&self) -> Result<Vec<u32>, KernelError>;

    /// A number that identifies this namespace for as long as the machine runs (`SO_NETNS_COOKIE`, Linux
    /// 5.14), unlike its inode number, which is reused. `None` where the kernel has no such number.
    ///
    /// # Errors
    /// [`KernelError::NoNetns`] if the namespace is gone.
    fn netns_cookie(&self, netns: u32) -> Result<Option<u64>, KernelError>;

    /// The independent look: all TCP sockets with this local port, or with any (`None`), asked from
    /// inet_diag inside the namespace itself. Shares no map and no counter with the tracker. Sockets in
    /// TIME_WAIT, CLOSE and SYN_SENT are left out.
    ///
    /// # Errors
    /// The namespace is gone, or the dump failed or was interrupted too often to be whole.
    fn look(&self, netns: u32, port: Option<u16>) -> Result<Look, KernelError>;

    /// Whether anything listens on the service's port. What [`Kernel::look`] shows of listeners, for those who ask again and
    /// again: the kernel does not go through the connections of the node for it.
    ///
    /// # Errors
    /// As [`Kernel::look`].
    fn listens(&self, service: Service) -> Result<bool, KernelError>;

    /// How many connections of the namespace lead to each of these addresses, from SYN_SENT until our last byte and FIN
    /// are acked; whoever opened them. Asked as [`Kernel::look`] asks.
    ///
    /// # Errors
    /// As [`Kernel::look`].
    fn outbound(&self, netns: u32, to: &[SocketAddr]) -> Result<Vec<u64>, KernelError>;

    /// The tracker's counts; all zero for a service it never saw.
    ///
    /// # Errors
    /// The map cannot be read.
    fn tracked(&self, service: Service) -> Result<Tracked, KernelError>;

    /// When the tracker saw these connections (socket cookies) being established; `None` for those it
    /// does not know or only adopted later.
    ///
    /// # Errors
    /// The map cannot be read.
    fn established_at(&self, cookies: &[u64]) -> Result<Vec<Option<Boot>>, KernelError>;

    /// Makes the tracker agree with a look at the same service: takes in what it misses, drops what is no
    /// longer there and corrects counters that differ from the flows it holds.
    ///
    /// # Errors
    /// A map or program failed; what was mended until then stays mended.
    fn reconcile(&self, service: Service, look: &Look) -> Result<Reconciled, KernelError>;

    /// What the tracker is to report for this service as [`Event`]s from now on.
    ///
    /// # Errors
    /// The map cannot be written.
    fn watch(&self, service: Service, watch: Watch) -> Result<(), KernelError>;

    /// Has these listening sockets take the connections that a closed gate does not let pass, until
    /// [`Kernel::open_gate`]: each client always the same one, spread evenly. To be called before
    /// [`Kernel::close_gate`]; called again it replaces the sockets. From now on, what they accept of the service is
    /// [`Class::Steered`], and [`EventKind::Unsteered`] is reported. The descriptors may be closed afterwards. A socket
    /// that is closed takes no more; if none is left, connections are refused.
    ///
    /// # Errors
    /// One of them does not listen, or lives in another namespace than the service, or takes the connections of another
    /// service, or is no plain TCP socket (Multipath TCP); or a map or program failed. Then nothing is steered that was
    /// not before.
    fn steer(&self, service: Service, targets: &[BorrowedFd<'_>]) -> Result<(), KernelError>;

    /// What has come of [`Kernel::steer`]; all zero for a service that is not steered.
    ///
    /// # Errors
    /// A map cannot be read.
    fn steered(&self, service: Service) -> Result<Steered, KernelError>;

    /// Treats clients of the service by their address from now on, until `lease_until` or [`Kernel::open_gate`]:
    /// `--ignore` makes connections that come, and those that are there, ones of [`Class::Ignored`], and
    /// `--fail-health-from` refuses at once. Nobody else is refused before [`Kernel::close_gate`], after which
    /// `--allow` and `--keep-clients` let in. On error nothing is in force.
    ///
    /// # Errors
    /// The namespace is gone, or a map or program failed.
    fn guard(
        &self,
        service: Service,
        admission: &Admission,
        lease_until: Boot,
    ) -> Result<(), KernelError>;

    /// The listening sockets (cookies) that are to take over the connections of the service. Changes nothing.
    ///
    /// # Errors
    /// [`KernelError::Handoff`] if there are none, or it is not clear which.
    fn takers(&self, service: Service, to: Handoff) -> Result<BTreeSet<u64>, KernelError>;

    /// [`Kernel::steer`] to them; connections of the service that the process has accepted already become
    /// [`Class::Steered`] too. Called again it takes in what has come since.
    ///
    /// # Errors
    /// As [`Kernel::takers`] and [`Kernel::steer`]; what was steered before still is.
    fn hand_over(&self, service: Service, to: Handoff) -> Result<BTreeSet<u64>, KernelError>;

    /// Refuses new connections of the service from now on, until `lease_until` or [`Kernel::open_gate`].
    /// When it returns, no connection attempt that passed the gate before is still on its way in: what it
    /// let through is visible to [`Kernel::look`]. On error the gate is as it was.
    ///
    /// # Errors
    /// The namespace is gone, or the program cannot be attached.
    fn close_gate(&self, service: Service, lease_until: Boot) -> Result<(), KernelError>;

    /// Moves the lease of a closed gate, or of a service that is guarded.
    ///
    /// # Errors
    /// It is neither, or the map cannot be written.
    fn renew_gate(&self, service: Service, lease_until: Boot) -> Result<(), KernelError>;

    /// Lets new connections in again, treats all clients alike, and ends [`Kernel::steer`]: flows that were steered
    /// count from now on. Of an open gate, or of a namespace that is gone, it is no error.
    ///
    /// # Errors
    /// A map cannot be written; called again it goes on.
    fn open_gate(&self, service: Service) -> Result<(), KernelError>;

    /// Connection attempts refused since the gate closed (looked up in the kernel: SYN retransmissions and
    /// stray ACKs count too); 0 for an open gate.
    ///
    /// # Errors
    /// The map cannot be read.
    fn rejected(&self, service: Service) -> Result<u64, KernelError>;

    /// What became of connection attempts because of their client's address since [`Kernel::guard`]; all zero
    /// without.
    ///
    /// # Errors
    /// The map cannot be read.
    fn admitted(&self, service: Service) -> Result<Admitted, KernelError>;

    /// Whether it is remembered when each client last had a connection, which `--keep-clients` needs.
    fn remembers_clients(&self) -> bool;

    /// Opens a listener of ours in the namespace: on a port that the kernel chooses, for connections that the gate
    /// steers there, or on a named one.
    ///
    /// # Errors
    /// The namespace is gone, the port is taken, or the kernel cannot do what carrying needs: then with the reason.
    fn open_listener(&self, netns: u32, how: Listening) -> Result<OwnListener, KernelError>;

    /// A TCP socket in the namespace that is not connected yet, for a connection to `target`. Not blocking.
    ///
    /// # Errors
    /// The namespace is gone, or there are no more descriptors.
    fn open_socket(&self, netns: u32, target: SocketAddr) -> Result<OwnedFd, KernelError>;

    /// Begins to connect to `target` from inside the namespace, as the user `uid` (in the initial user namespace) would:
    /// rules that go by the user, of firewalls and routes, treat it as that user's. The SYNs carry `token`, so that
    /// [`saved_syn`] has it should the connection come back.
    ///
    /// # Errors
    /// The namespace is gone, the target cannot be reached at all, or there are no more descriptors.
    fn open_connection(
        &self,
        netns: u32,
        target: SocketAddr,
        token: u64,
        uid: u32,
    ) -> Result<Outgoing, KernelError>;

    /// Whether connections can be opened for this user, see [`Kernel::open_connection`].
    ///
    /// # Errors
    /// They cannot.
    fn can_act_as(&self, uid: u32) -> Result<(), KernelError>;

    /// Which of these addresses are the namespace's own, loopback included.
    ///
    /// # Errors
    /// The namespace is gone.
    fn own_addresses(&self, netns: u32, addrs: &[IpAddr]) -> Result<Vec<IpAddr>, KernelError>;

    /// Has the flows of the service followed and told to leave, those that still arrive included. Called
    /// again it renews the order and takes in the flows that were missed. Without [`Kernel::retire_lacks`] of
    /// telling, that is; else flows are not followed, and this is no error.
    ///
    /// # Errors
    /// The namespace is gone, or a map or program failed. Flows taken in until then stay so until
    /// [`Kernel::restore`].
    fn retire(&self, service: Service, order: &RetireOrder) -> Result<(), KernelError>;

    /// Every flow of the service that is, or was, followed since [`Kernel::retire`]; those that ended stay
    /// until [`Kernel::unfollow`].
    ///
    /// # Errors
    /// The map cannot be read.
    fn followed(&self, service: Service) -> Result<Vec<Followed>, KernelError>;

    /// Forgets flows that have ended.
    ///
    /// # Errors
    /// The map cannot be written.
    fn unfollow(&self, cookies: &[u64]) -> Result<(), KernelError>;

    /// Leaves all flows of the service alone again: from when this returns on, the kernel sends what their
    /// servers write. Of a service that does not retire, or a namespace that is gone, it is no error.
    ///
    /// # Errors
    /// A map cannot be written; called again it goes on.
    fn restore(&self, service: Service) -> Result<(), KernelError>;

    /// Sends a FIN on these flows, as their server would at a keep-alive timeout (`shutdown(SHUT_WR)` on a
    /// borrowed descriptor, which is closed at once). Returns the cookies of those that got one; the others
    /// have moved, ended, or have no process any more.
    ///
    /// # Errors
    /// The namespace is gone, /proc cannot be read, or the kernel cannot borrow descriptors
    /// (`pidfd_getfd`, Linux 5.6).
    fn finish(&self, netns: u32, flows: &[Finish]) -> Result<Vec<u64>, KernelError>;

    /// Resets these flows (`SOCK_DESTROY`). Returns the cookies of those that were reset; the others ended by
    /// themselves.
    ///
    /// # Errors
    /// The namespace is gone, or the kernel has no `SOCK_DESTROY` (`CONFIG_INET_DIAG_DESTROY`).
    fn abort(&self, netns: u32, flows: &[Abort]) -> Result<Vec<u64>, KernelError>;

    /// Every drain that was saved, by this agent or an earlier one, and not forgotten.
    ///
    /// # Errors
    /// The map cannot be read.
    fn saved_drains(&self) -> Result<Vec<(Service, Vec<u8>)>, KernelError>;

    /// Keeps what the next agent needs to go on with the drain of this service, in the place of what was saved
    /// before. A matter of microseconds.
    ///
    /// # Errors
    /// It is too long, or the map cannot be written; what was saved before is still there.
    fn save_drain(&self, service: Service, drain: &[u8]) -> Result<(), KernelError>;

    /// The drain of this service is over. Of one that was not saved it is no error.
    ///
    /// # Errors
    /// The map cannot be written.
    fn forget_drain(&self, service: Service) -> Result<(), KernelError>;

    /// What was saved of every service that is held, by this agent or an earlier one.
    ///
    /// # Errors
    /// The map cannot be read.
    fn saved_holds(&self) -> Result<Vec<(Service, Vec<u8>)>, KernelError>;

    /// Keeps what the next agent must know of the holds of this service, in the place of what was saved before;
    /// `None`: there are none any more.
    ///
    /// # Errors
    /// It is too long, there are too many, or the map cannot be written; what was saved before is still there.
    fn save_holds(&self, service: Service, holds: Option<&[u8]>) -> Result<(), KernelError>;

    /// Undoes whatever an earlier agent has left in the kernel of services other than these: opens their
    /// gates, leaves their flows alone. Returns those whose gate was closed. Called once, before anything else
    /// begins and when the gates of these services are as they are to be.
    ///
    /// # Errors
    /// Something could not be undone.
    fn release_others(&self, drains: &[Service]) -> Result<Vec<Service>, KernelError>;

    /// Does nothing by itself any more: when this returns, the next agent may start, and what this process still does
    /// it is asked for.
    fn rest(&self);

    /// What this kernel lacks for retiring.
    fn retire_lacks(&self) -> RetireLacks;

    /// What went wrong in the kernel programs, for the whole node.
    ///
    /// # Errors
    /// The map cannot be read.
    fn faults(&self) -> Result<Faults, KernelError>;

    /// What is known of the kubelet's connections.
    ///
    /// # Errors
    /// The map cannot be read.
    fn probes(&self) -> Result<ProbeCounts, KernelError>;

    /// Whether the kubelet of this node has opened this connection, which has been accepted in the namespace `netns`
    /// and is still open. False also where no kubelet is known.
    ///
    /// # Errors
    /// The map cannot be read.
    fn is_kubelets(
        &self,
        netns: u32,
        client: SocketAddr,
        server: SocketAddr,
    ) -> Result<bool, KernelError>;

    /// Begins to connect to a service at one of its own addresses, from inside its namespace, to see whether it
    /// answers. The connection passes a closed gate and is [`Class::Probe`]. Its note is to be given back
    /// ([`Kernel::close_check`]).
    ///
    /// # Errors
    /// The namespace is gone, nobody listens at this address, or a map cannot be written.
    fn open_check(&self, service: Service, at: IpAddr) -> Result<Check, KernelError>;

    /// Ends a check, with a RST if it has not ended. May wait a moment until the server's side is gone.
    fn close_check(&self, note: CheckNote);
}

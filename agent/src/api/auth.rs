//! Who may do what: pure decisions on facts that [`super::peer`] has gathered.
//!
//! | where | who may read | who may drain, undrain and keep a lease alive |
//! | --- | --- | --- |
//! | the caller's own network namespace | everybody in it | who has CAP_NET_ADMIN over it, owns every listening socket of the port, or started the drain |
//! | the node's network namespace | everybody in it | who owns every listening socket of the port and shares a cgroup with a process that holds it |
//! | any other | node admins | node admins |
//!
//! A node admin is root of the initial user and pid namespace, and may do everything. A pod with hostPID
//! and uid 0 is one, and so is who has shown a token or a certificate over TCP ([`super::tcp`]). The node's own namespace is stricter than others because everybody who is in no
//! container, and every hostNetwork pod, lives in it.

use crate::executor::Owner;

/// Inode number of the initial user namespace (`USER_NS_INIT_INO`, include/uapi/linux/nsfs.h).
pub const INITIAL_USERNS: u64 = 0xEFFF_FFFD;
/// Inode number of the initial pid namespace (`PID_NS_INIT_INO`).
pub const INITIAL_PIDNS: u64 = 0xEFFF_FFFC;

/// What somebody wants to do with a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// See its status, its connections and its events.
    Read,
    /// Drain or undrain it, or keep its lease alive.
    Change,
}

/// A process that asks for something, as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Process id, in the agent's pid namespace.
    pub pid: i32,
    /// Effective user id when it connected, in the initial user namespace.
    pub uid: u32,
    /// Inode number of its network namespace; 0, which none has, if it asks over TCP.
    pub netns: u32,
    /// Inode number of its user namespace.
    pub userns: u64,
    /// Inode number of its pid namespace.
    pub pidns: u64,
    /// Whether CAP_NET_ADMIN is effective, and was not gained by executing a privileged program.
    pub net_admin: bool,
    /// Inode numbers of the user namespace that owns `netns`, and of all above it.
    pub netns_owners: Vec<u64>,
    /// Its cgroup (v2), as the agent sees it; `None` if it is in none.
    pub cgroup: Option<String>,
}

/// What is known of the service that somebody wants to act on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// Inode number of its network namespace.
    pub netns: u32,
    /// Inode number of the node's network namespace.
    pub host_netns: u32,
    /// Every socket that listens on the port.
    pub listeners: Vec<ListenerFacts>,
    /// Who started its drain, if there is one.
    pub drain_owner: Option<Owner>,
}

/// A listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerFacts {
    /// User id that owns it, in the initial user namespace.
    pub uid: u32,
    /// Whether a process in the caller's cgroup holds it. Only asked for in the node's namespace.
    pub in_callers_cgroup: bool,
}

/// Why somebody may not do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Reaches into another namespace.
    #[error(
        "it lives in network namespace {lives_in}, and only root of the node's initial user and pid namespace may \
         reach into another one; run it inside the target's namespace, or as root on the node"
    )]
    OtherNamespace {
        /// The caller's own namespace.
        lives_in: u32,
    },
    /// Has no authority over its own namespace.
    #[error(
        "it has no CAP_NET_ADMIN over its network namespace, does not own every listening socket of the port, and \
         did not start the drain; run it as the server's user, or with CAP_NET_ADMIN"
    )]
    NoAuthority,
    /// Has no authority over a port of the node.
    #[error(
        "in the node's own network namespace only root of the initial user and pid namespace may do this, or the \
         owner of every listening socket of the port, from the cgroup of a process that holds it; run it as root \
         on the node, or as the server's user in its unit or container"
    )]
    NoAuthorityOnNode,
    /// Would have connections of the agent made in the node's namespace.
    #[error(
        "in the node's own network namespace only root of the initial user and pid namespace may have new connections \
         carried (--new forward): the agent makes them, and firewalls would take them for its own; run it as root on \
         the node, or use --new handoff"
    )]
    ForwardOnNode,
    /// Would give connections to somebody else's server.
    #[error(
        "a listening socket that is to take over belongs to user {owner}, and only who has CAP_NET_ADMIN over the \
         namespace (in the node's: root of the initial user and pid namespace) may hand connections to another \
         user's server; run the new server as the same user"
    )]
    SocketOfAnother {
        /// User id that owns it.
        owner: u32,
    },
}

impl Caller {
    /// An operator who asks over TCP, and is no process of this node.
    pub fn remote() -> Self {
        Self {
            pid: 0,
            uid: 0,
            netns: 0,
            userns: INITIAL_USERNS,
            pidns: INITIAL_PIDNS,
            net_admin: false,
            netns_owners: Vec::new(),
            cgroup: None,
        }
    }

    /// Whether it asks over TCP.
    pub fn is_remote(&self) -> bool {
        self.netns == 0
    }

    /// Whether it is root of the initial user and pid namespace.
    pub fn is_node_admin(&self) -> bool {
        self.uid == 0 && self.userns == INITIAL_USERNS && self.pidns == INITIAL_PIDNS
    }

    /// Whether it has CAP_NET_ADMIN over its own network namespace: a capability counts in the user
    /// namespace it is held in and in all below (`cap_capable()`, security/commoncap.c).
    fn rules_its_netns(&self) -> bool {
        self.net_admin && self.netns_owners.contains(&self.userns)
    }
}

impl Target {
    /// What can be said of a namespace without looking into it. Never permits more than the full facts.
    pub fn unseen(netns: u32, host_netns: u32) -> Self {
        Self { netns, host_netns, ..Self::default() }
    }

    fn owned_by(&self, uid: u32) -> bool {
        !self.listeners.is_empty() && self.listeners.iter().all(|listener| listener.uid == uid)
    }

    fn shares_cgroup(&self) -> bool {
        self.listeners.iter().all(|listener| listener.in_callers_cgroup)
    }
}

/// Whether the caller may do this.
///
/// # Errors
/// It may not, and why.
pub fn may(action: Action, caller: &Caller, target: &Target) -> Result<(), Denied> {
    if caller.is_node_admin() {
        return Ok(());
    }
    if caller.netns != target.netns {
        return Err(Denied::OtherNamespace { lives_in: caller.netns });
    }
    match action {
        Action::Read => Ok(()),
        Action::Change if target.netns == target.host_netns => may_change_on_node(caller, target),
        Action::Change => may_change_own(caller, target),
    }
}

/// Whether the caller, who may drain the service, may also have its new connections carried by the agent.
///
/// # Errors
/// It may not, and why.
pub fn may_forward(caller: &Caller, netns: u32, host_netns: u32) -> Result<(), Denied> {
    let may = caller.is_node_admin() || netns != host_netns;
    if may { Ok(()) } else { Err(Denied::ForwardOnNode) }
}

/// Whether the caller, who may drain a service of this namespace, may also give its new connections to listening
/// sockets of these users.
///
/// # Errors
/// It may not, and why.
pub fn may_hand_over(
    caller: &Caller,
    netns: u32,
    host_netns: u32,
    owners: impl IntoIterator<Item = u32>,
) -> Result<(), Denied> {
    let rules = caller.netns == netns && netns != host_netns && caller.rules_its_netns();
    if caller.is_node_admin() || rules {
        return Ok(());
    }
    let other = owners.into_iter().find(|owner| *owner != caller.uid);
    other.map_or(Ok(()), |owner| Err(Denied::SocketOfAnother { owner }))
}

fn may_change_own(caller: &Caller, target: &Target) -> Result<(), Denied> {
    let started_it = target.drain_owner == Some(Owner { uid: caller.uid, netns: caller.netns });
    if caller.rules_its_netns() || target.owned_by(caller.uid) || started_it {
        return Ok(());
    }
    Err(Denied::NoAuthority)
}

fn may_change_on_node(caller: &Caller, target: &Target) -> Result<(), Denied> {
    if target.owned_by(caller.uid) && target.shares_cgroup() {
        return Ok(());
    }
    Err(Denied::NoAuthorityOnNode)
}

#[cfg(test)]
#[path = "auth_tests.rs"]
mod tests;

//! Which network namespace a request is about, in whatever way it says so.

use super::{
    app::App,
    auth::{Caller, Denied},
    drains::Drains,
    error::ApiError,
    protocol::{NetnsName, NetnsRef, PodName},
};

/// What a request says; nothing means the caller's own namespace.
#[derive(Clone, Debug, Default)]
pub(super) struct Place {
    pub(super) netns: Option<NetnsRef>,
    pub(super) pod: Option<PodName>,
    pub(super) container: Option<String>,
}

impl<D: Drains> App<D> {
    /// The namespace that a request means. Pods and containers are looked up for node admins only: to others their
    /// names are nobody's business, but for that of the pod they are in themselves.
    pub(super) async fn place(&self, place: Place, caller: &Caller) -> Result<u32, ApiError> {
        match place {
            Place { netns: Some(netns), pod: None, container: None } => Ok(self.numbered(netns)),
            Place { netns: None, pod: Some(pod), container: None } => {
                self.place_of_pod(&pod, caller).await
            }
            Place { netns: None, pod: None, container: Some(id) } => {
                if !caller.is_node_admin() {
                    return Err(denied(caller, &format!("container {id}")));
                }
                Ok(self.pods.container(&id).await?.netns)
            }
            Place { netns: None, pod: None, container: None } if caller.is_remote() => {
                Err(ApiError::usage(
                    "over TCP nobody has a network namespace of its own: name one (netns=host, netns=NUMBER or \
                     pod=NAMESPACE/NAME)",
                ))
            }
            Place { netns: None, pod: None, container: None } => Ok(caller.netns),
            _ => Err(ApiError::usage("netns, pod and container name one place: give one of them")),
        }
    }

    fn numbered(&self, netns: NetnsRef) -> u32 {
        match netns {
            NetnsRef::Inode(inode) => inode,
            NetnsRef::Named(NetnsName::Host) => self.kernel.host_netns(),
        }
    }

    async fn place_of_pod(&self, name: &PodName, caller: &Caller) -> Result<u32, ApiError> {
        if caller.is_node_admin() {
            return Ok(self.pods.named(name).await?.netns);
        }
        let own = self.pods.in_netns(caller.netns).await;
        if own.is_some_and(|own| own.full_name() == *name) {
            return Ok(caller.netns);
        }
        Err(denied(caller, &format!("pod {name}")))
    }
}

fn denied(caller: &Caller, target: &str) -> ApiError {
    let why = Denied::OtherNamespace { lives_in: caller.netns };
    ApiError::denied(caller, "look into", target, why)
}

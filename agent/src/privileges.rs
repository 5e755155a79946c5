//! What the agent must be allowed to do, for the agent itself, which refuses to start without, and for
//! `drainctl doctor`. docs/security.md says which feature needs which.

use rustix::thread::{CapabilitySet, capabilities};

/// A capability.
#[derive(Clone, Copy, Debug)]
pub struct Privilege {
    /// As capabilities(7) calls it.
    pub name: &'static str,
    /// It, and those that do in its place.
    pub any_of: CapabilitySet,
    /// Whether the agent does not start without.
    pub required: bool,
    /// What cannot be done without.
    pub cost: &'static str,
}

/// All of them.
pub const PRIVILEGES: [Privilege; 7] = [
    Privilege {
        name: "CAP_BPF",
        any_of: CapabilitySet::BPF.union(CapabilitySet::SYS_ADMIN),
        required: true,
        cost: "the kernel programs cannot be loaded",
    },
    Privilege {
        name: "CAP_PERFMON",
        any_of: CapabilitySet::PERFMON.union(CapabilitySet::SYS_ADMIN),
        required: true,
        cost: "the TCP iterator cannot be loaded, so connections older than the agent are not counted",
    },
    Privilege {
        name: "CAP_NET_ADMIN",
        any_of: CapabilitySet::NET_ADMIN,
        required: true,
        cost: "the tracker cannot be attached before Linux 5.8, and no connection can be reset, nor told from those of \
               another server that a gate has given them to",
    },
    Privilege {
        name: "CAP_SYS_ADMIN",
        any_of: CapabilitySet::SYS_ADMIN,
        required: true,
        cost: "other network namespaces (pods) cannot be entered, so only the agent's own can be drained",
    },
    Privilege {
        name: "CAP_SYS_PTRACE",
        any_of: CapabilitySet::SYS_PTRACE,
        required: true,
        cost: "the network namespaces of other users' processes cannot be found, nor can callers be identified",
    },
    Privilege {
        name: "CAP_DAC_READ_SEARCH",
        any_of: CapabilitySet::DAC_READ_SEARCH.union(CapabilitySet::DAC_OVERRIDE),
        required: false,
        cost: "idle connections of servers that do not run as root get no FIN, and a port of the node can be drained \
               by root only: whose a socket is cannot be looked up",
    },
    Privilege {
        name: "CAP_SETUID",
        any_of: CapabilitySet::SETUID,
        required: false,
        cost: "--new forward is refused to all but root: what is carried for somebody cannot be opened as that user",
    },
];

/// The agent may not do what it has to.
#[derive(Debug, thiserror::Error)]
#[error(
    "{}; give the agent these capabilities (in Kubernetes: securityContext.capabilities.add; with systemd: \
     AmbientCapabilities= and CapabilityBoundingSet=), see docs/security.md",
    .0.iter().map(|lack| format!("without {} {}", lack.name, lack.cost)).collect::<Vec<_>>().join("; ")
)]
pub struct Unprivileged(Vec<Privilege>);

/// Checks what this thread may do; what is not required and not there is logged.
///
/// # Errors
/// Something required is missing.
pub fn check() -> Result<(), Unprivileged> {
    // Who cannot even ask finds out at the first step.
    let Ok(sets) = capabilities(None) else { return Ok(()) };
    let (required, optional): (Vec<_>, Vec<_>) =
        lacking(sets.effective).into_iter().partition(|lack| lack.required);
    for Privilege { name, cost, .. } in optional {
        tracing::warn!(capability = name, "off: {cost}");
    }
    if required.is_empty() { Ok(()) } else { Err(Unprivileged(required)) }
}

fn lacking(effective: CapabilitySet) -> Vec<Privilege> {
    PRIVILEGES.into_iter().filter(|each| !effective.intersects(each.any_of)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_its_cost() {
        let names = |set| lacking(set).iter().map(|each| each.name).collect::<Vec<_>>();
        let all = CapabilitySet::all();
        assert!(names(all).is_empty());
        // What could be done in its place is there.
        assert!(names(all - CapabilitySet::BPF - CapabilitySet::PERFMON).is_empty());
        assert_eq!(names(all - CapabilitySet::NET_ADMIN), ["CAP_NET_ADMIN"]);
        let without = all - CapabilitySet::SYS_ADMIN - CapabilitySet::BPF;
        assert_eq!(names(without), ["CAP_BPF", "CAP_SYS_ADMIN"]);
        let error = Unprivileged(lacking(without)).to_string();
        assert!(error.contains("CAP_BPF the kernel programs cannot be loaded"), "{error}");
        assert!(error.contains("docs/security.md"), "{error}");
    }
}

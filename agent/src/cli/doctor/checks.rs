//! Judges facts. Pure: what is required, what is missing, and what that costs.

use serde::Serialize;

use super::facts::{BtfNames, Facts, Seen};
use crate::privileges::{PRIVILEGES, Privilege};

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    /// What was looked at.
    pub(super) name: &'static str,
    /// Whether the agent cannot do its work without it.
    pub(super) required: bool,
    /// True: there. False: missing. Null: cannot be told from here.
    pub(super) ok: Option<bool>,
    /// What was seen.
    pub(super) found: String,
    /// What is lost without it, in one sentence; null if it is there.
    pub(super) cost: Option<String>,
}

impl Check {
    fn new(name: &'static str, ok: Option<bool>, found: impl Into<String>, cost: &str) -> Self {
        let cost = (ok != Some(true)).then(|| cost.to_owned());
        Self { name, required: true, ok, found: found.into(), cost }
    }

    /// A check of something that was seen, or not.
    fn of<T>(
        name: &'static str,
        seen: &Seen<T>,
        judge: impl FnOnce(&T) -> (bool, String),
        cost: &str,
    ) -> Self {
        match seen {
            Ok(seen) => {
                let (ok, found) = judge(seen);
                Self::new(name, Some(ok), found, cost)
            }
            Err(why) => Self::new(name, None, why.clone(), cost),
        }
    }

    fn optional(mut self) -> Self {
        self.required = false;
        self
    }
}

/// Every check, in the order of the report.
pub(super) fn evaluate(facts: &Facts) -> Vec<Check> {
    let mut checks = vec![kernel(facts)];
    checks.extend(FEATURES.iter().map(|feature| feature.check(facts)));
    checks.push(btf(facts));
    checks.extend(capabilities(facts));
    checks.extend([cgroup_root(facts), net_cls(facts), netns_access(facts), host_pids(facts)]);
    checks.extend([other_sk_lookup(facts), kubelet(facts), jit(facts), bpffs(facts), agent(facts)]);
    checks
}

/// Something that came with a version of Linux.
struct Feature {
    name: &'static str,
    since: (u16, u16),
    listed: fn(&BtfNames) -> bool,
    required: bool,
    cost: &'static str,
}

/// What it costs if the retire programs cannot be loaded.
const CANNOT_TELL: &str = "connections that are there cannot be told to leave, nor proven to be idle; only --retire quiet \
    ends them";

const FEATURES: [Feature; 7] = [
    Feature {
        name: "sk_lookup programs",
        since: (5, 9),
        listed: |names| names.sk_lookup,
        required: true,
        cost: "new connections cannot be refused in a network namespace, so nothing can be drained",
    },
    Feature {
        name: "ring buffer",
        since: (5, 8),
        listed: |names| names.ring_buffer,
        required: true,
        cost: "the kernel cannot tell the agent that the last connection ended",
    },
    Feature {
        name: "TCP iterator",
        since: (5, 9),
        listed: |names| names.tcp_iterator,
        required: true,
        cost: "connections that are older than the agent cannot be taken into the count",
    },
    Feature {
        name: "cgroup links",
        since: (5, 7),
        listed: |names| names.cgroup_link,
        required: true,
        cost: "the sock_ops program that counts connections cannot be attached",
    },
    Feature {
        name: "sk_msg programs",
        since: (4, 20),
        listed: |names| names.sk_msg,
        required: false,
        cost: CANNOT_TELL,
    },
    Feature {
        name: "loops with callbacks",
        since: (5, 17),
        listed: |names| names.loops,
        required: false,
        cost: CANNOT_TELL,
    },
    Feature {
        name: "callbacks for old flows",
        since: (6, 12),
        listed: |names| names.late_callbacks,
        required: false,
        cost: "the end of connections older than the agent is found by looking again, not by an event, so a \
               drain that waits for them may end a little later",
    },
];

impl Feature {
    /// By what the kernel lists where that can be read, else by its version.
    fn check(&self, facts: &Facts) -> Check {
        let (ok, found) = match (&facts.btf, &facts.kernel) {
            (Ok(names), _) => (Some((self.listed)(names)), "by the kernel's BTF".to_owned()),
            (Err(_), Ok((release, version))) => {
                (Some(*version >= self.since), format!("by its version, {release}"))
            }
            (Err(_), Err(_)) => (None, "neither BTF nor version can be read".into()),
        };
        let cost = format!("{} (it came with Linux {}.{})", self.cost, self.since.0, self.since.1);
        Check { required: self.required, ..Check::new(self.name, ok, found, &cost) }
    }
}

fn kernel(facts: &Facts) -> Check {
    Check::of(
        "kernel",
        &facts.kernel,
        |(release, version)| (*version >= (5, 10), format!("Linux {release}")),
        "drainctl is tested from Linux 5.10 on; the next lines say whether this one has what is needed",
    )
    .optional()
}

/// The file is open to all: unreadable is missing, not untold.
fn btf(facts: &Facts) -> Check {
    let path = "/sys/kernel/btf/vmlinux";
    let (ok, found) = match &facts.btf {
        Ok(_) => (true, path.to_owned()),
        Err(why) => (false, format!("{path}: {why}")),
    };
    Check::new(
        "BTF",
        Some(ok),
        found,
        "the agent cannot find the kernel's structures and does not start; use a kernel with \
         CONFIG_DEBUG_INFO_BTF, and mount /sys",
    )
}

fn capabilities(facts: &Facts) -> impl Iterator<Item = Check> {
    PRIVILEGES.into_iter().map(|Privilege { name, any_of, required, cost }| {
        let check = Check::of(
            name,
            &facts.capabilities,
            |(effective, initial)| match (effective.intersects(any_of), initial) {
                (true, true) => (true, "effective".into()),
                (true, false) => {
                    (false, "only inside a user namespace, where BPF ignores it".into())
                }
                (false, _) => (false, "not effective".into()),
            },
            cost,
        );
        if required { check } else { check.optional() }
    })
}

fn cgroup_root(facts: &Facts) -> Check {
    Check::of(
        "cgroup v2 root",
        &facts.cgroup2,
        |mounted| match mounted {
            Some((path, true)) => (true, path.display().to_string()),
            Some((path, false)) => (false, format!("{} is not the real root", path.display())),
            None => (false, "not mounted".into()),
        },
        "connections of processes outside the part that can be seen are not counted; mount the host's \
         cgroup v2 root (in a container: the host's cgroup namespace)",
    )
}

/// Before Linux 5.15 (commit 8520e224f547) a socket forgot its v2 cgroup once a v1 one was set.
fn net_cls(facts: &Facts) -> Check {
    let fixed = facts.kernel.as_ref().is_ok_and(|(_, version)| *version >= (5, 15));
    Check::of(
        "no net_cls/net_prio",
        &facts.net_cls,
        |mounted| match (mounted, fixed) {
            (false, _) => (true, "not mounted".into()),
            (true, true) => (true, "mounted, harmless since Linux 5.15".into()),
            (true, false) => (false, "mounted".into()),
        },
        "before Linux 5.15, connections of processes in a net_cls or net_prio group (cgroup v1) may escape \
         the tracker; they are found by the second look only, later",
    )
    .optional()
}

/// Refusals are missing, not untold: the agent would be refused too. A few processes with more rights than
/// root here (process 1 of some machines) are no obstacle to draining the others.
fn netns_access(facts: &Facts) -> Check {
    let few = facts.netns_access.as_ref().is_ok_and(|access| access.refused < access.opened);
    let check = Check::of(
        "netns access",
        &facts.netns_access,
        |access| {
            let all = access.opened + access.refused;
            (access.refused == 0, format!("{} of {all} processes", access.opened))
        },
        "services in the network namespaces of the other processes can be neither seen nor drained; give the \
         agent CAP_SYS_PTRACE and, in a container, hostPID",
    );
    Check { required: !few || check.ok == Some(true), ..check }
}

fn host_pids(facts: &Facts) -> Check {
    Check::of(
        "host's pid namespace",
        &facts.host_pids,
        |initial| (*initial, if *initial { "this one" } else { "another one" }.into()),
        "callers from other pid namespaces have no pid here, so they cannot be identified and are refused; \
         in Kubernetes give the agent hostPID",
    )
}

fn other_sk_lookup(facts: &Facts) -> Check {
    Check::of(
        "no other sk_lookup",
        &facts.sk_lookup,
        |links| {
            let each = links.iter().map(|link| {
                format!("program {} {:?} in netns {}", link.program, link.name, link.netns)
            });
            let all = each.collect::<Vec<_>>().join(", ");
            (links.is_empty(), if all.is_empty() { "none attached".into() } else { all })
        },
        "where another sk_lookup program selects a socket, that wins over our gate: new connections may get \
         in during a drain there (they are counted, so \"drained\" stays true)",
    )
    .optional()
}

fn jit(facts: &Facts) -> Check {
    Check::of(
        "BPF JIT",
        &facts.jit,
        |value| (*value != 0, format!("net.core.bpf_jit_enable = {value}")),
        "the kernel programs are interpreted, several times slower; set net.core.bpf_jit_enable to 1",
    )
    .optional()
}

/// A machine that is no node of Kubernetes has none, and lacks nothing.
fn kubelet(facts: &Facts) -> Check {
    Check::of(
        "kubelet",
        &facts.kubelet,
        |kubelet| match kubelet {
            Some((pid, folder)) => (true, format!("process {pid} in {}", folder.display())),
            None => (true, "none runs here that can be seen".into()),
        },
        "its probes cannot be told from other connections: they keep a service from being drained, and a closed \
         gate refuses them; name its cgroup with drain-agent --probe-cgroup",
    )
    .optional()
}

fn bpffs(facts: &Facts) -> Check {
    Check::of(
        "bpffs",
        &facts.bpffs,
        |path| match path {
            Some(path) => (true, path.display().to_string()),
            None => (false, "not mounted".into()),
        },
        "gates, counts and drains are kept there; outside of a container the agent mounts it itself, and in one it is \
         the node's that has to be mounted (mount -t bpf bpf /sys/fs/bpf)",
    )
    .optional()
}

fn agent(facts: &Facts) -> Check {
    let (ok, found) = match &facts.agent {
        Ok(address) => (true, format!("answers at {address}")),
        Err(why) => (false, why.clone()),
    };
    Check::new(
        "agent",
        Some(ok),
        found,
        "every verb but doctor exits with 4 until drain-agent runs and its socket can be reached from here",
    )
    .optional()
}

#[cfg(test)]
#[path = "checks_tests.rs"]
mod tests;

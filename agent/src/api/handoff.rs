//! A process that is to take over, as the agent knows it: the caller named it in its own pid namespace.

use std::os::unix::fs::MetadataExt as _;

use procfs::process::{Process, all_processes};

use super::{
    app::App,
    auth::{Caller, may_forward, may_hand_over},
    drains::Drains,
    error::ApiError,
    protocol::NewConnections,
};
use crate::{
    drain::{Handoff, Service},
    kernel::{HandoffError, KernelError},
};

/// The same with the process id that the agent has for it.
///
/// # Errors
/// There is no such process.
pub(super) async fn as_the_agent_names_it(
    new: NewConnections,
    caller: &Caller,
) -> Result<NewConnections, ApiError> {
    let NewConnections::Handoff(Handoff::Pid(pid) | Handoff::Successor(pid)) = new else {
        return Ok(new);
    };
    let pidns = caller.pidns;
    let found = tokio::task::spawn_blocking(move || find(pid, pidns)).await;
    let found = found.map_err(|error| ApiError::internal(&error))?;
    let found = found.ok_or(KernelError::Handoff(HandoffError::NoProcess(pid)))?;
    let known = match new {
        NewConnections::Handoff(Handoff::Successor(_)) => Handoff::Successor(found),
        _ => Handoff::Pid(found),
    };
    Ok(NewConnections::Handoff(known))
}

/// Checks that the caller, who may drain the service, may also have its new connections treated like this: nobody is to
/// get more than they have, be it from the agent or from another user's server.
pub(super) async fn authorize<D: Drains>(
    app: &App<D>,
    caller: &Caller,
    service: Service,
    new: &NewConnections,
) -> Result<(), ApiError> {
    let (netns, host) = (service.netns, app.kernel.host_netns());
    let may = match new {
        NewConnections::Reject | NewConnections::Drop => Ok(()),
        NewConnections::Forward(_) => may_forward(caller, netns, host),
        NewConnections::Handoff(to) => {
            let to = *to;
            let owners = app.kernel(move |kernel| {
                let takers = kernel.takers(service, to)?;
                let listeners = kernel.look(netns, None)?.listeners.into_iter();
                let takers = listeners.filter(|listener| takers.contains(&listener.cookie));
                Ok(takers.map(|listener| listener.uid).collect::<Vec<u32>>())
            });
            may_hand_over(caller, netns, host, owners.await?)
        }
    };
    may.map_err(|why| ApiError::denied(caller, "drain", &format!("{service} like this"), why))
}

/// The id that process `pid` of the pid namespace with this inode number has in our own.
fn find(pid: u32, pidns: u64) -> Option<u32> {
    if pid_namespace(&Process::myself().ok()?) == Some(pidns) {
        return Some(pid);
    }
    let asked = i32::try_from(pid).ok()?;
    let is_it = |process: &Process| {
        pid_namespace(process) == Some(pidns)
            // The last is its id in the innermost namespace, its own (pid_namespaces(7)).
            && process.status().is_ok_and(|s| s.nspid.and_then(|ids| ids.last().copied()) == Some(asked))
    };
    let found = all_processes().ok()?.filter_map(Result::ok).find(is_it)?;
    u32::try_from(found.pid).ok()
}

fn pid_namespace(process: &Process) -> Option<u64> {
    Some(process.open_relative("ns/pid").ok()?.metadata().ok()?.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_named_in_the_callers_pid_namespace() {
        let own = pid_namespace(&Process::myself().unwrap()).unwrap();
        assert_eq!(find(4711, own), Some(4711), "who is in ours names it as we do");
        assert_eq!(find(1, 0), None, "no process is in that namespace");
    }
}

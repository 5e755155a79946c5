//! A process that is to take over, as the agent knows it: the caller named it in its own pid namespace.

use std::os::unix::fs::MetadataExt as _;

use procfs::process::{Process, all_processes};

use super::{auth::Caller, error::ApiError, protocol::NewConnections};
use crate::{
    drain::Handoff,
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
    let NewConnections::Handoff(Handoff::Pid(pid)) = new else { return Ok(new) };
    let pidns = caller.pidns;
    let found = tokio::task::spawn_blocking(move || find(pid, pidns)).await;
    let found = found.map_err(|error| ApiError::internal(&error))?;
    let found = found.ok_or(KernelError::Handoff(HandoffError::NoProcess(pid)))?;
    Ok(NewConnections::Handoff(Handoff::Pid(found)))
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

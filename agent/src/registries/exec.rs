//! A program of the admin's, executed as the agent itself: no shell is in between.

use std::{ffi::OsStr, process::Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Command;

use super::{Subject, Told};

/// A process group that ends when this is dropped, unless its program has ended by itself.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // It may be gone by now.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

/// Executes it, and waits. If the future is dropped, it is killed, and whatever it has started with it.
pub(super) async fn execute(
    command: &[String],
    subject: &Subject,
    told: Told,
) -> Result<(), String> {
    let [program, args @ ..] = command else { return Err("there is no command".into()) };
    let Subject { service, pod } = subject;
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).process_group(0).kill_on_drop(true);
    command.env("DRAINCTL_EVENT", told.name());
    command.env("DRAINCTL_PORT", service.port.to_string());
    command.env("DRAINCTL_NETNS", service.netns.to_string());
    for (key, value) in [
        ("DRAINCTL_POD", pod.as_ref().map(|pod| &pod.name)),
        ("DRAINCTL_POD_NAMESPACE", pod.as_ref().map(|pod| &pod.namespace)),
    ] {
        command.env(key, value.map_or(OsStr::new(""), OsStr::new));
    }
    let fail = |error| format!("cannot execute {program}: {error}");
    let mut child = command.spawn().map_err(fail)?;
    let mut group = Group(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)));
    let status = child.wait().await.map_err(fail)?;
    group.0 = None;
    if status.success() { Ok(()) } else { Err(format!("{program} ended with {status}")) }
}

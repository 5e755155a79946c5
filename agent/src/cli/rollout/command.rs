//! Commands that a rollout runs. What they print goes to a file, so that they do not notice should drainctl be killed.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{process::Command, time::timeout};

use crate::cli::{
    exit::{Exit, Failure},
    text,
};

/// How much of the end of what a command has printed is told when it failed.
const TAIL: u64 = 600;

/// A command to be run.
#[derive(Clone, Debug)]
pub(super) struct Task {
    /// For `sh -c`.
    pub(super) script: String,
    /// As the options call it, for messages.
    pub(super) what: &'static str,
    pub(super) env: BTreeMap<String, String>,
    /// Where what it prints is appended.
    pub(super) log: PathBuf,
    pub(super) limit: Duration,
    /// Whether it is killed when nobody waits for it any more. Else it goes on.
    pub(super) ends_with_us: bool,
}

impl Task {
    /// Runs it to its end. `started` is told its process before anything else happens.
    ///
    /// # Errors
    /// It cannot be run, or did not end with 0 in time (exit code 1); then with what it printed last.
    pub(super) async fn run(
        &self,
        started: impl FnOnce(u32, u64) -> Result<(), Failure> + Send,
    ) -> Result<(), Failure> {
        let fail = |why: String| Failure::new(Exit::Internal, format!("{}: {why}", self.what));
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log =
            log.map_err(|error| fail(format!("cannot write {}: {error}", self.log.display())))?;
        let before = log.metadata().map_or(0, |file| file.len());
        let mut command = Command::new("sh");
        // A group of its own: Ctrl-C in a terminal is for drainctl, which lets what is under way end.
        command.arg("-c").arg(&self.script).envs(&self.env).process_group(0).stdin(Stdio::null());
        let both = log.try_clone().and_then(|out| Ok((out, log.try_clone()?)));
        let (out, err) = both.map_err(|error| fail(error.to_string()))?;
        let mut child = command
            .stdout(out)
            .stderr(err)
            .spawn()
            .map_err(|error| fail(format!("cannot run sh: {error}")))?;
        let pid = child.id().unwrap_or(0);
        let group = self.ends_with_us.then(|| Group(pid));
        if let Err(failure) = started(pid, began(pid).unwrap_or(0)) {
            // Nobody would know of it: the next run could begin a second one beside it.
            std::mem::forget(group);
            kill_group(pid);
            let _ = child.wait().await;
            return Err(failure);
        }
        let status = match timeout(self.limit, child.wait()).await {
            Ok(status) => status.map_err(|error| fail(error.to_string()))?,
            Err(_) => {
                std::mem::forget(group);
                kill_group(pid);
                let _ = child.wait().await;
                let limit = text::duration(self.limit.as_millis() as u64);
                return Err(fail(format!(
                    "was killed after {limit} (--command-timeout){}",
                    tail(&self.log, before)
                )));
            }
        };
        // Its number may be another's from now on.
        std::mem::forget(group);
        if status.success() {
            return Ok(());
        }
        Err(fail(format!("ended with {status}{}", tail(&self.log, before))))
    }
}

/// Killed when it is dropped.
struct Group(u32);

impl Drop for Group {
    fn drop(&mut self) {
        kill_group(self.0);
    }
}

/// Whether the process that began then still runs.
pub(super) fn runs(pid: u32, started: u64) -> bool {
    started != 0 && began(pid) == Some(started)
}

/// When a process began, in clock ticks after the machine; `None` if it has ended.
fn began(pid: u32) -> Option<u64> {
    let stat = procfs::process::Process::new(i32::try_from(pid).ok()?).ok()?.stat().ok()?;
    (stat.state != 'Z').then_some(stat.starttime)
}

fn kill_group(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may have ended just now.
        let _ = kill_process_group(pid, Signal::KILL);
    }
}

/// The end of what was printed since, on one line.
fn tail(log: &Path, since: u64) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let end = file.metadata()?.len();
        file.seek(SeekFrom::Start(since.max(end.saturating_sub(TAIL))))?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = lines.len().saturating_sub(3);
    if lines.is_empty() { String::new() } else { format!(": {}", lines[last..].join(" | ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(dir: &Path, script: &str, limit: Duration) -> Task {
        let env = BTreeMap::from([("DRAINCTL_INSTANCE".into(), "web-1".into())]);
        Task {
            script: script.into(),
            what: "the release command",
            env,
            log: dir.join("log"),
            limit,
            ends_with_us: false,
        }
    }

    /// A script that has written its process group to the log, and stays.
    const STAYS: &str = "echo $$; sleep 600 & wait";

    async fn await_end(pid: u32) {
        while began(pid).is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn one_that_cannot_be_written_down_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let mut ran = 0;
        let task = task(dir.path(), STAYS, Duration::from_secs(60));
        let lost = task.run(|pid, _| {
            ran = pid;
            Err(Failure::new(Exit::Internal, "no room"))
        });
        assert_eq!(lost.await.unwrap_err().message, "no room");
        assert_eq!(began(ran), None);
    }

    #[tokio::test]
    async fn one_that_ends_with_us_does() {
        let dir = tempfile::tempdir().unwrap();
        let task = Task { ends_with_us: true, ..task(dir.path(), STAYS, Duration::from_secs(60)) };
        let (tell, told) = tokio::sync::oneshot::channel();
        let runs = tokio::spawn(async move {
            let started = |pid, _| {
                tell.send(pid).unwrap();
                Ok(())
            };
            task.run(started).await
        });
        let pid = told.await.unwrap();
        assert!(began(pid).is_some());
        runs.abort();
        await_end(pid).await;
    }

    #[tokio::test]
    async fn it_has_its_variables_and_what_it_prints_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let long = Duration::from_secs(60);
        let mut seen = (0, 0);
        let script = "echo \"$DRAINCTL_INSTANCE\"; test -z \"$(cat)\"";
        let ours = task(dir.path(), script, long);
        let ran = ours.run(|pid, started| {
            assert!(runs(pid, started) || started == 0);
            seen = (pid, started);
            Ok(())
        });
        ran.await.unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("log")).unwrap(), "web-1\n");
        assert!(!runs(seen.0, seen.1), "it has ended");
        let failure = task(dir.path(), "echo no disk >&2; exit 3", long)
            .run(|_, _| Ok(()))
            .await
            .unwrap_err();
        assert_eq!(failure.exit, Exit::Internal);
        assert!(failure.message.contains("exit status: 3: no disk"), "{failure}");
        assert!(!failure.message.contains("web-1"), "another's words: {failure}");
    }

    #[tokio::test]
    async fn one_that_hangs_is_killed_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let script = "sleep 600 & echo $!; wait";
        let failure = task(dir.path(), script, Duration::from_millis(300))
            .run(|_, _| Ok(()))
            .await
            .unwrap_err();
        assert!(failure.message.contains("was killed after"), "{failure}");
    }
}

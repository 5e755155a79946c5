//! Processes that drainctl runs, and signals for them.

use std::{
    collections::{HashSet, VecDeque},
    ffi::OsString,
    io::{self, stdin},
    process::Command,
    task::Poll,
};

use rustix::{
    process::{Pid, Signal, WaitOptions, getpgrp, getpid, kill_process, set_child_subreaper, wait},
    termios::tcgetpgrp,
};
use tokio::signal::unix::{self, SignalKind, signal};

use super::exit::{Exit, Failure};

/// Signals that are passed on, or mean something to us.
const SIGNALS: [Signal; 7] = [
    Signal::TERM,
    Signal::INT,
    Signal::HUP,
    Signal::QUIT,
    Signal::USR1,
    Signal::USR2,
    Signal::WINCH,
];

/// Exit codes of a command that does not run, as shells have them (POSIX, 2.8.2).
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

/// Something that happens to a process that runs others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Happened {
    /// One of ours has ended, with this exit code, or 128 and the number of the signal that ended it.
    Ended(Pid, u8),
    /// A signal for us came.
    Told(Signal),
}

/// The processes that this one runs. It adopts what they leave behind, and reaps that too, as the first process of a
/// container has to.
pub(super) struct Children {
    ours: HashSet<Pid>,
    ended: VecDeque<(Pid, u8)>,
    some_ended: unix::Signal,
    told: Vec<(Signal, unix::Signal)>,
}

impl Children {
    /// None yet. From now on signals do not end this process any more.
    ///
    /// # Errors
    /// Signals cannot be caught.
    pub(super) fn new() -> Result<Self, Failure> {
        let fail = |error: io::Error| {
            Failure::new(Exit::Internal, format!("cannot catch signals: {error}"))
        };
        let caught = |number: Signal| {
            let caught = signal(SignalKind::from_raw(number.as_raw()));
            Ok((number, caught.map_err(fail)?))
        };
        let told = SIGNALS.into_iter().map(caught).collect::<Result<Vec<_>, Failure>>()?;
        let some_ended = signal(SignalKind::child()).map_err(fail)?;
        // Without it (Linux 3.4), orphans are somebody else's.
        let _ = set_child_subreaper(Some(getpid()));
        Ok(Self { ours: HashSet::new(), ended: VecDeque::new(), some_ended, told })
    }

    /// Runs a command, with our environment and files.
    ///
    /// # Errors
    /// It cannot be run: exit code 127 if it is not there, else 126.
    pub(super) fn spawn(&mut self, command: &[OsString]) -> Result<Pid, Failure> {
        let (program, arguments) = command.split_first().ok_or_else(|| {
            Failure::new(Exit::Usage, "there is no command behind --; nothing was changed")
        })?;
        // Its end is noticed by reaping all there is; dropping the handle does nothing.
        let child = Command::new(program).args(arguments).spawn().map_err(|error| {
            let is_missing = error.kind() == io::ErrorKind::NotFound;
            let code = if is_missing { NOT_FOUND } else { NOT_EXECUTABLE };
            let message = format!("cannot run {}: {error}", program.display());
            Failure::new(Exit::Command(code), message)
        })?;
        let pid = Pid::from_child(&child);
        self.ours.insert(pid);
        Ok(pid)
    }

    /// Sends a signal to one of them, unless it has ended.
    pub(super) fn tell(&self, child: Pid, signal: Signal) {
        // Its number is its own until it is reaped, which only `ended` does.
        if self.ours.contains(&child) {
            // It fails if the process has another user by now, and is none of our business.
            let _ = kill_process(child, signal);
        }
    }

    /// Whether it has not ended, as far as was told.
    pub(super) fn is_running(&self, child: Pid) -> bool {
        self.ours.contains(&child)
    }

    /// What happens next. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Happened {
        loop {
            self.reap();
            if let Some((child, code)) = self.ended.pop_front() {
                return Happened::Ended(child, code);
            }
            let told = std::future::poll_fn(|context| {
                for (number, caught) in &mut self.told {
                    if caught.poll_recv(context).is_ready() {
                        return Poll::Ready(Some(*number));
                    }
                }
                self.some_ended.poll_recv(context).map(|_| None)
            });
            if let Some(number) = told.await {
                return Happened::Told(number);
            }
        }
    }

    /// Takes in all that have ended. One signal may stand for several of them.
    fn reap(&mut self) {
        while let Ok(Some((child, status))) = wait(WaitOptions::NOHANG) {
            let by_signal = status.terminating_signal().map(|number| 128 + number);
            let Some(code) = status.exit_status().or(by_signal) else { continue };
            // Of orphans that have come to us nobody asks.
            if self.ours.remove(&child) {
                self.ended.push_back((child, u8::try_from(code).unwrap_or(u8::MAX)));
            }
        }
    }
}

/// Whether this signal has come to our children too, by the terminal at which we and they are.
pub(super) fn comes_from_the_terminal(signal: Signal) -> bool {
    let from_keys = matches!(signal, Signal::INT | Signal::QUIT | Signal::WINCH);
    from_keys && tcgetpgrp(stdin()).is_ok_and(|group| group == getpgrp())
}

/// The exit code of what this signal has ended, as shells have it.
pub(super) fn exit_code_of(signal: Signal) -> u8 {
    u8::try_from(128 + signal.as_raw()).unwrap_or(u8::MAX)
}

/// A signal's name.
pub(super) fn name(signal: Signal) -> &'static str {
    match signal {
        Signal::TERM => "SIGTERM",
        Signal::INT => "SIGINT",
        Signal::HUP => "SIGHUP",
        Signal::QUIT => "SIGQUIT",
        Signal::USR1 => "SIGUSR1",
        Signal::USR2 => "SIGUSR2",
        _ => "SIGWINCH",
    }
}

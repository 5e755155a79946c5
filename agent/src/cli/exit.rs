//! The exit codes of `drainctl`: a contract with scripts and preStop hooks, so a number never changes its
//! meaning.

use std::process::ExitCode;

use crate::api::protocol::ErrorCode;

/// How `drainctl` ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Exit {
    /// Done; of `drain`, `ready` and `wait`: the state asked for is reached (for `drained`: proven).
    Done,
    /// A bug, or a failure nobody foresaw; of `doctor`: something that is required is missing.
    Internal,
    /// The command line makes no sense, or asks for something that is not built.
    Usage,
    /// The deadline passed and flows remain; of `ready`: not drained yet.
    Deadline,
    /// The agent cannot be reached.
    Unreachable,
    /// The caller may not do this.
    NotPermitted,
    /// No listener, flow or drain there; or no such process.
    NoSuchService,
    /// The count cannot be verified, or the agent was lost until the deadline: not to be taken for zero.
    Unverifiable,
    /// Another drain of the service has other options, or too many services of its namespace are draining.
    Conflict,
    /// The drain ended before the service was drained: undrain, lease over, namespace gone, new instance.
    Ended,
    /// Ctrl-C; the drain stays in place.
    Interrupted,
    /// The command that `run` or `hold` ran has ended with this code.
    Command(u8),
}

/// Shown at the end of every `--help`.
pub(super) const TABLE: &str = "\
Exit codes:
    0  done; of drain, ready and wait: the state is reached, and \"drained\" is proven
    1  internal error; of doctor: something required is missing; of rollout: a command failed
    2  usage: the command line makes no sense, nothing was sent or changed
    3  the deadline passed and connections remain; of ready: not drained yet; of rollout: or not healthy in time
    4  the agent cannot be reached
    5  not permitted
    6  no such service: nothing listens there, and there is no connection and no drain
    7  the count cannot be verified, or the agent was lost: do not take it for zero
    8  conflict: the service is already draining with other options, or too many of its namespace are; of
       hold: drained already (with --unless-draining: or draining), or too many holds; of rollout: draining
       already, or the journal is in use or not at its end
    9  the drain ended before the service was drained (undrain, lease, new instance, ...), or a registry
       that says \"abort\" could not be told
  any  of run and of hold -- COMMAND: that of the command; 127 or 126 if it could not be started
  130  interrupted by Ctrl-C (of rollout: or by SIGTERM, or by a no); the drain stays in place";

impl Exit {
    /// The number the process exits with.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Internal => 1,
            Self::Usage => 2,
            Self::Deadline => 3,
            Self::Unreachable => 4,
            Self::NotPermitted => 5,
            Self::NoSuchService => 6,
            Self::Unverifiable => 7,
            Self::Conflict => 8,
            Self::Ended => 9,
            Self::Interrupted => 130,
            Self::Command(code) => code,
        }
    }

    /// The name in JSON errors.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Internal => "internal",
            Self::Usage => "usage",
            Self::Deadline => "deadline",
            Self::Unreachable => "unreachable",
            Self::NotPermitted => "not_permitted",
            Self::NoSuchService => "no_such_service",
            Self::Unverifiable => "unverifiable",
            Self::Conflict => "conflict",
            Self::Ended => "ended",
            Self::Interrupted => "interrupted",
            Self::Command(_) => "command",
        }
    }
}

impl From<ErrorCode> for Exit {
    fn from(code: ErrorCode) -> Self {
        match code {
            ErrorCode::Internal => Self::Internal,
            ErrorCode::Usage => Self::Usage,
            ErrorCode::NotPermitted => Self::NotPermitted,
            ErrorCode::NoSuchService => Self::NoSuchService,
            ErrorCode::Unverifiable => Self::Unverifiable,
            ErrorCode::Conflict => Self::Conflict,
            ErrorCode::Ended => Self::Ended,
            ErrorCode::Stopping => Self::Unreachable,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a verb did not come to a result: what the user reads, and how the process exits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(super) struct Failure {
    /// Exit code.
    pub(super) exit: Exit,
    /// For people: what happened, and what to do next.
    pub(super) message: String,
}

impl Failure {
    /// A failure with this exit code.
    pub(super) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_of_the_agent_has_its_documented_code() {
        let table = [
            (ErrorCode::Internal, 1),
            (ErrorCode::Usage, 2),
            (ErrorCode::NotPermitted, 5),
            (ErrorCode::NoSuchService, 6),
            (ErrorCode::Unverifiable, 7),
            (ErrorCode::Conflict, 8),
            (ErrorCode::Ended, 9),
        ];
        for (code, number) in table {
            assert_eq!(Exit::from(code).code(), number, "{code:?}");
            let json = serde_json::to_value(code).unwrap();
            assert_eq!(json, Exit::from(code).name(), "one name for {code:?} on both sides");
        }
    }

    #[test]
    fn help_lists_every_code() {
        for exit in [Exit::Done, Exit::Deadline, Exit::Unreachable, Exit::Ended, Exit::Interrupted]
        {
            let line = format!("{:>5}  ", exit.code());
            assert!(TABLE.lines().any(|l| l.starts_with(&line)), "{exit:?}");
        }
    }
}

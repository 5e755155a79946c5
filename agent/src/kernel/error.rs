//! Why the kernel layer could not do what was asked.

use std::fmt;

use super::HandoffError;

/// Why the kernel layer could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// No process and no name leads to this network namespace.
    #[error("network namespace {0} does not exist (any more)")]
    NoNetns(u32),
    /// The running kernel lacks something.
    #[error("this kernel has no {feature} (it came with Linux {since})")]
    TooOld {
        /// What is missing.
        feature: &'static str,
        /// The version that has it.
        since: &'static str,
    },
    /// This binary was built without the kernel programs.
    #[error(
        "this drain-agent was built without its kernel programs, so it cannot count or refuse anything; \
         build it with `cargo xtask build`"
    )]
    NoPrograms,
    /// Nobody can take over the connections.
    #[error(transparent)]
    Handoff(#[from] HandoffError),
    /// An operation failed.
    #[error("{op} {object}")]
    Op {
        /// What was tried, as a verb.
        op: &'static str,
        /// On what.
        object: String,
        /// What the kernel, or the library in between, said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl KernelError {
    /// An operation on an object failed with `source`.
    pub fn op(
        op: &'static str,
        object: impl fmt::Display,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Op { op, object: object.to_string(), source: source.into() }
    }
}

/// An error and its causes in one line, for texts that outlive the error.
pub(crate) fn explain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

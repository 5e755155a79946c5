//! Places at which tests kill the agent, so that it dies in the middle of a step. Only in builds with the feature
//! `failpoints`, which no build for users has.

/// Ends the process here, as SIGKILL would, if the environment variable `DRAINCTL_FAILPOINT` has this name.
#[cfg(feature = "failpoints")]
pub(crate) fn pass(name: &str) {
    if std::env::var_os("DRAINCTL_FAILPOINT").is_some_and(|wanted| wanted == name) {
        std::process::abort();
    }
}

/// Does nothing.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub(crate) fn pass(_name: &str) {}

//! How a client's requests went.

use std::{cell::RefCell, fmt::Display};

use drainctl_tests::peers::{Posts, Summary};

/// First failures that are kept in words.
const SAMPLES: usize = 5;

/// How a request failed.
pub(crate) enum Failure {
    /// It was answered completely, and wrong.
    Wrong(String),
    /// Any other way.
    Error(String),
}

impl Failure {
    /// With every cause.
    pub(crate) fn of(error: &dyn std::error::Error) -> Self {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            text.push_str(&format!(": {error}"));
            cause = error.source();
        }
        Self::Error(text)
    }
}

/// One thread runs all.
#[derive(Default)]
pub(crate) struct Tally {
    summary: RefCell<Summary>,
}

impl Tally {
    pub(crate) fn responses(&self) -> u64 {
        self.summary.borrow().responses
    }

    /// A new id for a request with a side effect.
    pub(crate) fn sent(&self) -> String {
        let Posts { sent, .. } = &mut self.summary.borrow_mut().posts;
        *sent += 1;
        format!("{}-{sent}", std::process::id())
    }

    pub(crate) fn judge(&self, what: impl Display, post: bool, outcome: Result<(), Failure>) {
        let summary = &mut *self.summary.borrow_mut();
        let (list, count, text) = match outcome {
            Ok(()) => {
                summary.responses += 1;
                summary.posts.answered += u64::from(post);
                return;
            }
            Err(Failure::Wrong(text)) => (&mut summary.bad, &mut summary.bad_count, text),
            Err(Failure::Error(text)) => (&mut summary.errors, &mut summary.error_count, text),
        };
        *count += 1;
        if list.len() < SAMPLES {
            list.push(format!("{what}: {text}"));
        }
    }

    /// The one line at the end.
    pub(crate) fn print(&self) -> serde_json::Result<()> {
        println!("{}", serde_json::to_string(&*self.summary.borrow())?);
        Ok(())
    }
}

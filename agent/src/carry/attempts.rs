//! The connections that we are opening now, by the token in their SYNs: one that arrives at a listener of ours has
//! come back.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::timeout};

/// See the module.
#[derive(Default)]
pub(super) struct Attempts {
    /// Makes tokens that nobody can guess.
    secret: RandomState,
    number: AtomicU64,
    open: Mutex<HashMap<u64, Arc<Notify>>>,
}

/// One attempt; over when it is dropped.
pub(super) struct Attempt {
    attempts: Arc<Attempts>,
    pub(super) token: u64,
    came_back: Arc<Notify>,
}

impl Attempts {
    /// A new attempt, with a token of its own.
    pub(super) fn begin(self: &Arc<Self>) -> Attempt {
        let token = self.secret.hash_one(self.number.fetch_add(1, Ordering::Relaxed));
        let came_back = Arc::new(Notify::new());
        self.lock().insert(token, Arc::clone(&came_back));
        Attempt { attempts: Arc::clone(self), token, came_back }
    }

    /// A connection with this token was accepted.
    pub(super) fn arrived(&self, token: u64) {
        if let Some(came_back) = self.lock().get(&token) {
            // Is remembered if nobody waits yet.
            came_back.notify_one();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<Notify>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attempt {
    /// Ready if the attempt comes back to us; once.
    pub(super) async fn came_back(&self) {
        self.came_back.notified().await;
    }

    /// Whether the attempt has come back to us by now.
    pub(super) async fn has_come_back(&self) -> bool {
        timeout(Duration::ZERO, self.came_back()).await.is_ok()
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.attempts.lock().remove(&self.token);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_attempt_hears_of_its_own_return_only_and_is_forgotten_with_it() {
        let attempts = Arc::new(Attempts::default());
        let (one, other) = (attempts.begin(), attempts.begin());
        assert_ne!(one.token, other.token);
        attempts.arrived(one.token);
        one.came_back().await;
        assert!(!other.has_come_back().await, "only one has");
        attempts.arrived(other.token);
        assert!(other.has_come_back().await);
        drop((one, other));
        assert!(attempts.lock().is_empty());
    }
}

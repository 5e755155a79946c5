//! How operations of the fake kernel fail, and what tests do in the middle of them.

use std::sync::MutexGuard;

use super::{FakeKernel, model::Model};
use crate::kernel::KernelError;

/// Operations of [`Kernel`](crate::kernel::Kernel) that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Op {
    Namespaces,
    NetnsCookie,
    Look,
    Tracked,
    EstablishedAt,
    Reconcile,
    Watch,
    Steer,
    Steered,
    Guard,
    Takers,
    HandOver,
    CloseGate,
    RenewGate,
    OpenGate,
    Rejected,
    Admitted,
    Faults,
    Retire,
    Followed,
    Unfollow,
    Restore,
    Finish,
    Abort,
    OpenListener,
    OpenConnection,
    OwnAddresses,
    SavedDrains,
    SaveDrain,
    ForgetDrain,
    ReleaseOthers,
    SavedHolds,
    SaveHolds,
    Outbound,
}

impl Op {
    /// All of them.
    pub(crate) const ALL: [Self; 34] = [
        Self::Namespaces,
        Self::NetnsCookie,
        Self::Look,
        Self::Tracked,
        Self::EstablishedAt,
        Self::Reconcile,
        Self::Watch,
        Self::Steer,
        Self::Steered,
        Self::Guard,
        Self::Takers,
        Self::HandOver,
        Self::CloseGate,
        Self::RenewGate,
        Self::OpenGate,
        Self::Rejected,
        Self::Admitted,
        Self::Faults,
        Self::Retire,
        Self::Followed,
        Self::Unfollow,
        Self::Restore,
        Self::Finish,
        Self::Abort,
        Self::OpenListener,
        Self::OpenConnection,
        Self::OwnAddresses,
        Self::SavedDrains,
        Self::SaveDrain,
        Self::ForgetDrain,
        Self::ReleaseOthers,
        Self::SavedHolds,
        Self::SaveHolds,
        Self::Outbound,
    ];
}

/// What a test does in the middle of an operation.
pub(super) type Hook = Box<dyn FnOnce(&FakeKernel) + Send>;

impl FakeKernel {
    /// Calls number `from` (counted from 1, from now on) to `from + times - 1` of `op` fail.
    pub(crate) fn fail(&self, op: Op, from: u64, times: u64) {
        let mut model = self.model();
        let so_far = model.calls.get(&op).copied().unwrap_or(0);
        model.failing.insert(op, (so_far + from, times));
    }

    /// From now on, `op` works again.
    pub(crate) fn mend(&self, op: Op) {
        self.model().failing.remove(&op);
    }

    /// Runs `hook` at the beginning of the next call of `op` that has no hook yet.
    pub(crate) fn hook(&self, op: Op, hook: impl FnOnce(&Self) + Send + 'static) {
        self.model().hooks.entry(op).or_default().push(Box::new(hook));
    }

    /// How often `op` was called.
    pub(crate) fn calls(&self, op: Op) -> u64 {
        self.model().calls.get(&op).copied().unwrap_or(0)
    }

    /// Every operation begins with this: hooks first, then the failure asked for.
    pub(super) fn enter(&self, op: Op) -> Result<MutexGuard<'_, Model>, KernelError> {
        let hook = {
            let mut model = self.model();
            *model.calls.entry(op).or_default() += 1;
            model.hooks.get_mut(&op).filter(|hooks| !hooks.is_empty()).map(|hooks| hooks.remove(0))
        };
        if let Some(hook) = hook {
            hook(self);
        }
        let model = self.model();
        let call = model.calls.get(&op).copied().unwrap_or(0);
        if model
            .failing
            .get(&op)
            .is_some_and(|(from, times)| call >= *from && call - *from < *times)
        {
            return Err(KernelError::op("fail", format!("{op:?}, call {call}"), "as asked for"));
        }
        Ok(model)
    }
}

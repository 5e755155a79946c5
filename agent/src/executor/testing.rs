//! What the executor's tests share: an executor on a fake kernel, under virtual time.

use std::{sync::Arc, time::Duration};

use tokio::sync::broadcast;

use super::{Executor, Owner, StateName, Update};
use crate::{
    carry::MAX_CARRIED,
    drain::{Service, Spec, SpecRequest},
    kernel::{Kernel, KernelError, fake::FakeKernel},
    registries::Registries,
};

pub(super) const NETNS: u32 = 7;
pub(super) const WEB: Service = Service { netns: NETNS, port: 8080 };
pub(super) const ADMIN: Service = Service { netns: NETNS, port: 9090 };
pub(super) const OWNER: Owner = Owner { uid: 0, netns: NETNS };

/// A spec from options in milliseconds.
pub(super) fn spec(change: impl FnOnce(&mut SpecRequest)) -> Spec {
    let mut request = SpecRequest::default();
    change(&mut request);
    Spec::try_from(request).expect("tests use valid options")
}

pub(super) fn at_once() -> Spec {
    spec(|options| options.quiet = Some(Duration::ZERO))
}

/// An executor and its kernel, with one server that listens on [`WEB`].
pub(super) fn world() -> (Executor, Arc<FakeKernel>) {
    let (kernel, events) = FakeKernel::new();
    kernel.add_netns(NETNS);
    kernel.listen(WEB);
    let kernel_layer = Arc::clone(&kernel) as Arc<dyn Kernel>;
    let registries = Registries::new(vec![], Arc::clone(&kernel_layer));
    let executor = Executor::spawn(kernel_layer, events, MAX_CARRIED, registries).expect("adopts");
    (executor, kernel)
}

/// Kills the executor, and starts another one that finds what it has left. As with a process that is killed, what
/// it had begun may have been done or not.
pub(super) fn restart(executor: Executor, kernel: &Arc<FakeKernel>) -> Executor {
    executor.kill();
    start(kernel).expect("adopts")
}

/// Another executor, or why it does not start.
pub(super) fn start(kernel: &Arc<FakeKernel>) -> Result<Executor, KernelError> {
    let kernel_layer = Arc::clone(kernel) as Arc<dyn Kernel>;
    let registries = Registries::new(vec![], Arc::clone(&kernel_layer));
    Executor::spawn(kernel_layer, kernel.reopen(), MAX_CARRIED, registries)
}

pub(super) async fn state(executor: &Executor, service: Service) -> StateName {
    executor.status(vec![service]).await.expect("running")[0].state
}

/// Waits for a state; the limit is virtual time.
pub(super) async fn reach(executor: &Executor, service: Service, wanted: StateName) {
    let mut updates = executor.subscribe();
    let wait = async {
        while state(executor, service).await != wanted {
            updates.recv().await.expect("running");
        }
    };
    let limit = Duration::from_secs(3600);
    if tokio::time::timeout(limit, wait).await.is_err() {
        panic!("{service} is not {}, but {:?}", wanted.as_str(), state(executor, service).await);
    }
}

/// The reason of the next end of a drain.
pub(super) async fn ended(updates: &mut broadcast::Receiver<Update>) -> String {
    loop {
        if let Some(reason) = updates.recv().await.expect("running").ended {
            return reason.reason;
        }
    }
}

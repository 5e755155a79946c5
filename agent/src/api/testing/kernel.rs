//! A kernel in which nothing happens, with a few services to be asked for.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    os::fd::{BorrowedFd, OwnedFd},
};

use super::{FOREIGN, HOST, NOW, OTHER_POD, POD, ROOTS, WEB};
use crate::{
    drain::{Admission, Boot, Handoff, Service},
    kernel::{
        Abort, Admitted, Check, CheckNote, Faults, Finish, Followed, Kernel, KernelError, Listener,
        Listening, Look, Outgoing, OwnListener, ProbeCounts, Reconciled, RetireLacks, RetireOrder,
        Socket, Steered, Tracked, Watch,
    },
};

/// Three services: [`WEB`], [`ROOTS`] and [`FOREIGN`].
pub(in crate::api) struct FakeKernel {
    /// Connections of every service.
    pub(in crate::api) sockets: Vec<Socket>,
    /// Whether looks fail.
    pub(in crate::api) blind: bool,
}

fn listener(service: Service) -> Listener {
    let uid = if service == ROOTS { 0 } else { 1000 };
    let local = ([0, 0, 0, 0], service.port).into();
    Listener { cookie: 1, local, uid, inode: 1, backlog: 0 }
}

impl Kernel for FakeKernel {
    fn now(&self) -> Boot {
        NOW
    }
    fn host_netns(&self) -> u32 {
        HOST
    }
    fn namespaces(&self) -> Result<Vec<u32>, KernelError> {
        Ok(vec![HOST, POD, OTHER_POD])
    }
    fn netns_cookie(&self, _: u32) -> Result<Option<u64>, KernelError> {
        Ok(None)
    }
    fn look(&self, netns: u32, port: Option<u16>) -> Result<Look, KernelError> {
        if self.blind {
            return Err(KernelError::op("dump", "sockets", "interrupted"));
        }
        let here = [WEB, ROOTS, FOREIGN].into_iter().filter(|each| each.netns == netns);
        let asked = here.filter(|each| port.is_none_or(|port| port == each.port));
        let listeners = asked.map(listener).collect();
        Ok(Look { listeners, sockets: self.sockets.clone() })
    }
    fn listens(&self, service: Service) -> Result<bool, KernelError> {
        Ok([WEB, ROOTS, FOREIGN].contains(&service))
    }
    fn outbound(&self, _: u32, to: &[SocketAddr]) -> Result<Vec<u64>, KernelError> {
        Ok(vec![0; to.len()])
    }
    fn tracked(&self, _: Service) -> Result<Tracked, KernelError> {
        Ok(Tracked::default())
    }
    fn established_at(&self, cookies: &[u64]) -> Result<Vec<Option<Boot>>, KernelError> {
        Ok(vec![Some(NOW); cookies.len()])
    }
    fn reconcile(&self, _: Service, _: &Look) -> Result<Reconciled, KernelError> {
        Ok(Reconciled::default())
    }
    fn watch(&self, _: Service, _: Watch) -> Result<(), KernelError> {
        Ok(())
    }
    fn steer(&self, _: Service, _: &[BorrowedFd<'_>]) -> Result<(), KernelError> {
        Ok(())
    }
    fn steered(&self, _: Service) -> Result<Steered, KernelError> {
        Ok(Steered::default())
    }
    fn guard(&self, _: Service, _: &Admission, _: Boot) -> Result<(), KernelError> {
        Ok(())
    }
    fn takers(&self, _: Service, _: Handoff) -> Result<BTreeSet<u64>, KernelError> {
        Ok(BTreeSet::new())
    }
    fn hand_over(&self, _: Service, _: Handoff) -> Result<BTreeSet<u64>, KernelError> {
        Ok(BTreeSet::new())
    }
    fn saved_drains(&self) -> Result<Vec<(Service, Vec<u8>)>, KernelError> {
        Ok(vec![])
    }
    fn save_drain(&self, _: Service, _: &[u8]) -> Result<(), KernelError> {
        Ok(())
    }
    fn forget_drain(&self, _: Service) -> Result<(), KernelError> {
        Ok(())
    }
    fn saved_holds(&self) -> Result<Vec<(Service, Vec<u8>)>, KernelError> {
        Ok(vec![])
    }
    fn save_holds(&self, _: Service, _: Option<&[u8]>) -> Result<(), KernelError> {
        Ok(())
    }
    fn release_others(&self, _: &[Service]) -> Result<Vec<Service>, KernelError> {
        Ok(vec![])
    }
    fn close_gate(&self, _: Service, _: Boot) -> Result<(), KernelError> {
        Ok(())
    }
    fn renew_gate(&self, _: Service, _: Boot) -> Result<(), KernelError> {
        Ok(())
    }
    fn open_gate(&self, _: Service) -> Result<(), KernelError> {
        Ok(())
    }
    fn rejected(&self, _: Service) -> Result<u64, KernelError> {
        Ok(0)
    }
    fn admitted(&self, _: Service) -> Result<Admitted, KernelError> {
        Ok(Admitted::default())
    }
    fn remembers_clients(&self) -> bool {
        true
    }
    fn retire(&self, _: Service, _: &RetireOrder) -> Result<(), KernelError> {
        Ok(())
    }
    fn followed(&self, _: Service) -> Result<Vec<Followed>, KernelError> {
        Ok(Vec::new())
    }
    fn unfollow(&self, _: &[u64]) -> Result<(), KernelError> {
        Ok(())
    }
    fn restore(&self, _: Service) -> Result<(), KernelError> {
        Ok(())
    }
    fn finish(&self, _: u32, _: &[Finish]) -> Result<Vec<u64>, KernelError> {
        Ok(Vec::new())
    }
    fn abort(&self, _: u32, _: &[Abort]) -> Result<Vec<u64>, KernelError> {
        Ok(Vec::new())
    }
    fn open_listener(&self, netns: u32, _: Listening) -> Result<OwnListener, KernelError> {
        Err(KernelError::NoNetns(netns))
    }
    fn open_socket(&self, netns: u32, _: SocketAddr) -> Result<OwnedFd, KernelError> {
        Err(KernelError::NoNetns(netns))
    }
    fn open_connection(
        &self,
        netns: u32,
        _: SocketAddr,
        _: u64,
        _: u32,
    ) -> Result<Outgoing, KernelError> {
        Err(KernelError::NoNetns(netns))
    }
    fn can_act_as(&self, _: u32) -> Result<(), KernelError> {
        Ok(())
    }
    fn own_addresses(&self, _: u32, _: &[IpAddr]) -> Result<Vec<IpAddr>, KernelError> {
        Ok(Vec::new())
    }
    fn rest(&self) {}

    fn retire_lacks(&self) -> RetireLacks {
        RetireLacks::default()
    }
    fn is_kubelets(&self, _: u32, _: SocketAddr, _: SocketAddr) -> Result<bool, KernelError> {
        Ok(false)
    }

    fn open_check(&self, _: Service, at: IpAddr) -> Result<Check, KernelError> {
        Err(KernelError::op("connect to", at, "connection refused"))
    }
    fn close_check(&self, _: CheckNote) {}
    fn probes(&self) -> Result<ProbeCounts, KernelError> {
        Ok(ProbeCounts::default())
    }

    fn faults(&self) -> Result<Faults, KernelError> {
        Ok(Faults { events_lost: 3, ..Faults::default() })
    }
}

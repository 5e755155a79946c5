//! The operations of the fake kernel.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    os::fd::{BorrowedFd, OwnedFd},
};

use rustix::net::connect;

use super::{
    FakeKernel, NO_COOKIE, Op,
    gates::{Gate, Guard},
    model::Tracker,
};
use crate::{
    drain::{Admission, Boot, Handoff, Service},
    kernel::{
        Abort, Admitted, Check, CheckNote, Class, Faults, Finish, Followed, Kernel, KernelError,
        Listening, Look, Outgoing, OwnListener, ProbeCounts, Reconciled, RetireLacks, RetireOrder,
        Steered, TcpState, Tracked, Watch,
        straggling::{listen_here, socket_for},
    },
};

impl Kernel for FakeKernel {
    fn now(&self) -> Boot {
        self.model().now
    }

    fn host_netns(&self) -> u32 {
        1
    }

    fn namespaces(&self) -> Result<Vec<u32>, KernelError> {
        Ok(self.enter(Op::Namespaces)?.netns.keys().copied().collect())
    }

    fn netns_cookie(&self, netns: u32) -> Result<Option<u64>, KernelError> {
        let model = self.enter(Op::NetnsCookie)?;
        model.netns_exists(netns)?;
        Ok(model.netns.get(&netns).copied().filter(|cookie| *cookie != NO_COOKIE))
    }

    fn look(&self, netns: u32, port: Option<u16>) -> Result<Look, KernelError> {
        let mut model = self.enter(Op::Look)?;
        model.netns_exists(netns)?;
        let mut look = model.look(netns, port);
        if model.look_misses > 0 {
            model.look_misses -= 1;
            if let Some(missed) = look.sockets.iter().position(|socket| socket.state.is_flow()) {
                look.sockets.remove(missed);
            }
        }
        let counted = look.sockets.iter().filter(|socket| socket.class == Class::Counted);
        let flows = counted.filter(|socket| socket.state.is_flow());
        model.show(flows.map(|socket| socket.cookie));
        Ok(look)
    }

    fn listens(&self, service: Service) -> Result<bool, KernelError> {
        let model = self.enter(Op::Look)?;
        model.netns_exists(service.netns)?;
        Ok(!model.look(service.netns, Some(service.port)).listeners.is_empty())
    }

    fn outbound(&self, netns: u32, to: &[SocketAddr]) -> Result<Vec<u64>, KernelError> {
        let model = self.enter(Op::Outbound)?;
        model.netns_exists(netns)?;
        let count = |to: &SocketAddr| model.outbound.get(&(netns, *to)).copied().unwrap_or(0);
        Ok(to.iter().map(count).collect())
    }

    fn tracked(&self, service: Service) -> Result<Tracked, KernelError> {
        let model = self.enter(Op::Tracked)?;
        Ok(model.tracker.get(&service).map(Tracker::counts).unwrap_or_default())
    }

    fn established_at(&self, cookies: &[u64]) -> Result<Vec<Option<Boot>>, KernelError> {
        let model = self.enter(Op::EstablishedAt)?;
        let at = |cookie| model.tracker.values().find_map(|tracker| tracker.flows.get(cookie));
        Ok(cookies.iter().map(|cookie| at(cookie).copied()).collect())
    }

    fn reconcile(&self, service: Service, look: &Look) -> Result<Reconciled, KernelError> {
        Ok(self.enter(Op::Reconcile)?.reconcile(service, look))
    }

    fn watch(&self, service: Service, watch: Watch) -> Result<(), KernelError> {
        let mut model = self.enter(Op::Watch)?;
        model.watches.insert(service, watch);
        if model.faults.services_full == 0 {
            model.tracker.entry(service).or_default();
        }
        Ok(())
    }

    fn steer(&self, service: Service, targets: &[BorrowedFd<'_>]) -> Result<(), KernelError> {
        let mut model = self.enter(Op::Steer)?;
        model.netns_exists(service.netns)?;
        model.steering.insert(service, targets.len());
        model.steered_to_agent.insert(service);
        Ok(())
    }

    fn steered(&self, service: Service) -> Result<Steered, KernelError> {
        let model = self.enter(Op::Steered)?;
        let targets = model.steering.get(&service).copied().unwrap_or_default() as u64;
        Ok(Steered { attempts: model.count_steered(service) as u64, targets })
    }

    fn guard(
        &self,
        service: Service,
        admission: &Admission,
        lease_until: Boot,
    ) -> Result<(), KernelError> {
        let mut model = self.enter(Op::Guard)?;
        model.netns_exists(service.netns)?;
        let admitted = Admitted::default();
        let guard = Guard { admission: admission.clone(), lease_until, admitted };
        model.guards.insert(service, guard);
        model.sort(service);
        Ok(())
    }

    fn takers(&self, service: Service, to: Handoff) -> Result<BTreeSet<u64>, KernelError> {
        let model = self.enter(Op::Takers)?;
        model.takers(service, to)
    }

    fn hand_over(&self, service: Service, to: Handoff) -> Result<BTreeSet<u64>, KernelError> {
        let mut model = self.enter(Op::HandOver)?;
        let takers = model.takers(service, to)?;
        model.steering.insert(service, takers.len());
        Ok(takers)
    }

    fn close_gate(&self, service: Service, lease_until: Boot) -> Result<(), KernelError> {
        let mut model = self.enter(Op::CloseGate)?;
        model.netns_exists(service.netns)?;
        let rejected = model.gates.get(&service).map_or(0, |gate| gate.rejected);
        model.gates.insert(service, Gate { lease_until, rejected });
        if let Some(guard) = model.guards.get_mut(&service) {
            guard.lease_until = lease_until;
        }
        Ok(())
    }

    fn renew_gate(&self, service: Service, lease_until: Boot) -> Result<(), KernelError> {
        let model = &mut *self.enter(Op::RenewGate)?;
        let gate = model.gates.get_mut(&service).map(|gate| &mut gate.lease_until);
        let guard = model.guards.get_mut(&service).map(|guard| &mut guard.lease_until);
        if gate.is_none() && guard.is_none() {
            return Err(KernelError::op("renew", "gate", "it is not closed"));
        }
        gate.into_iter().chain(guard).for_each(|lease| *lease = lease_until);
        Ok(())
    }

    fn open_gate(&self, service: Service) -> Result<(), KernelError> {
        let mut model = self.enter(Op::OpenGate)?;
        model.gates.remove(&service);
        model.end_steering(service);
        if model.guards.remove(&service).is_some() {
            model.sort(service);
        }
        Ok(())
    }

    fn rejected(&self, service: Service) -> Result<u64, KernelError> {
        Ok(self.enter(Op::Rejected)?.gates.get(&service).map_or(0, |gate| gate.rejected))
    }

    fn admitted(&self, service: Service) -> Result<Admitted, KernelError> {
        let model = self.enter(Op::Admitted)?;
        Ok(model.guards.get(&service).map(|guard| guard.admitted).unwrap_or_default())
    }

    fn remembers_clients(&self) -> bool {
        !self.model().forgetful
    }

    fn open_listener(&self, netns: u32, how: Listening) -> Result<OwnListener, KernelError> {
        self.enter(Op::OpenListener)?.netns_exists(netns)?;
        let socket = listen_here(how).map_err(|e| KernelError::op("listen in", netns, e))?;
        Ok(OwnListener { socket, with: Box::new(()) })
    }

    fn open_socket(&self, netns: u32, target: SocketAddr) -> Result<OwnedFd, KernelError> {
        self.enter(Op::OpenConnection)?.netns_exists(netns)?;
        socket_for(target).map_err(|e| KernelError::op("open a socket for", target, e))
    }

    fn open_connection(
        &self,
        _netns: u32,
        target: SocketAddr,
        _token: u64,
        _uid: u32,
    ) -> Result<Outgoing, KernelError> {
        drop(self.enter(Op::OpenConnection)?);
        let fail = |e: rustix::io::Errno| KernelError::op("connect to", target, e);
        let socket = socket_for(target).map_err(fail)?;
        match connect(&socket, &target) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
            Err(e) => return Err(fail(e)),
        }
        Ok(Outgoing { socket, mark: Box::new(()) })
    }

    fn can_act_as(&self, _: u32) -> Result<(), KernelError> {
        Ok(())
    }

    fn own_addresses(&self, netns: u32, addrs: &[IpAddr]) -> Result<Vec<IpAddr>, KernelError> {
        self.enter(Op::OwnAddresses)?.netns_exists(netns)?;
        Ok(addrs.iter().copied().filter(IpAddr::is_loopback).collect())
    }

    fn retire(&self, service: Service, order: &RetireOrder) -> Result<(), KernelError> {
        let mut model = self.enter(Op::Retire)?;
        model.netns_exists(service.netns)?;
        model.retire(service, *order);
        Ok(())
    }

    fn followed(&self, service: Service) -> Result<Vec<Followed>, KernelError> {
        Ok(self.enter(Op::Followed)?.followed(service))
    }

    fn unfollow(&self, cookies: &[u64]) -> Result<(), KernelError> {
        self.enter(Op::Unfollow)?.unfollow(cookies);
        Ok(())
    }

    fn restore(&self, service: Service) -> Result<(), KernelError> {
        self.enter(Op::Restore)?.restore(service);
        Ok(())
    }

    fn finish(&self, netns: u32, flows: &[Finish]) -> Result<Vec<u64>, KernelError> {
        let mut model = self.enter(Op::Finish)?;
        model.netns_exists(netns)?;
        let cookies = flows.iter().filter(|flow| model.finish(netns, flow)).map(|flow| flow.cookie);
        let cookies: Vec<u64> = cookies.collect();
        for cookie in &cookies {
            self.move_to(&mut model, *cookie, TcpState::FinWait2, true);
        }
        Ok(cookies)
    }

    fn abort(&self, netns: u32, flows: &[Abort]) -> Result<Vec<u64>, KernelError> {
        let mut model = self.enter(Op::Abort)?;
        model.netns_exists(netns)?;
        let cookies = flows.iter().filter(|flow| model.abort(netns, flow)).map(|flow| flow.cookie);
        let cookies: Vec<u64> = cookies.collect();
        for cookie in &cookies {
            self.remove(&mut model, *cookie);
        }
        Ok(cookies)
    }

    fn saved_drains(&self) -> Result<Vec<(Service, Vec<u8>)>, KernelError> {
        Ok(self.enter(Op::SavedDrains)?.drains.clone().into_iter().collect())
    }

    fn save_drain(&self, service: Service, drain: &[u8]) -> Result<(), KernelError> {
        self.enter(Op::SaveDrain)?.drains.insert(service, drain.to_vec());
        Ok(())
    }

    fn forget_drain(&self, service: Service) -> Result<(), KernelError> {
        self.enter(Op::ForgetDrain)?.drains.remove(&service);
        Ok(())
    }

    fn saved_holds(&self) -> Result<Vec<(Service, Vec<u8>)>, KernelError> {
        Ok(self.enter(Op::SavedHolds)?.holds.clone().into_iter().collect())
    }

    fn save_holds(&self, service: Service, holds: Option<&[u8]>) -> Result<(), KernelError> {
        let mut model = self.enter(Op::SaveHolds)?;
        match holds {
            Some(holds) => drop(model.holds.insert(service, holds.to_vec())),
            None => drop(model.holds.remove(&service)),
        }
        Ok(())
    }

    fn release_others(&self, drains: &[Service]) -> Result<Vec<Service>, KernelError> {
        let mut model = self.enter(Op::ReleaseOthers)?;
        let left: Vec<Service> = model.gates.keys().copied().collect();
        let left: Vec<Service> = left.into_iter().filter(|of| !drains.contains(of)).collect();
        let closed = left.iter().copied().filter(|of| model.gate_is_closed(*of)).collect();
        for service in left {
            model.gates.remove(&service);
        }
        model.watches.retain(|service, _| drains.contains(service));
        model.guards.retain(|service, _| drains.contains(service));
        model.release_others(drains);
        Ok(closed)
    }

    fn rest(&self) {}

    fn retire_lacks(&self) -> RetireLacks {
        RetireLacks { telling: self.model().retiring.lacks.clone() }
    }

    fn is_kubelets(&self, _: u32, _: SocketAddr, _: SocketAddr) -> Result<bool, KernelError> {
        Ok(false)
    }

    fn open_check(&self, _: Service, at: IpAddr) -> Result<Check, KernelError> {
        Err(KernelError::op("connect to", at, "the executor makes no checks"))
    }

    fn close_check(&self, _: CheckNote) {}

    fn probes(&self) -> Result<ProbeCounts, KernelError> {
        Ok(ProbeCounts::default())
    }

    fn faults(&self) -> Result<Faults, KernelError> {
        Ok(self.enter(Op::Faults)?.faults)
    }
}

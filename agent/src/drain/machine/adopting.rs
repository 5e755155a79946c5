//! Going on with a drain that another process began.

use serde::{Deserialize, Serialize};

use super::{BACKUP, Machine, retiring::Aborting};
use crate::drain::{
    Action, Admission, Boot, Endpoint, NewConnections, Phase, RetireSet, SettledBy, Spec, StateName,
};

/// What of a drain outlives the process that carries it out: all that cannot be asked of the kernel.
///
/// Its serialized form is read by agents of other versions: a field that is added has `#[serde(default)]`, and one
/// that is there keeps its meaning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    spec: Spec,
    phase: Phase,
    started: Boot,
    deadline: Boot,
    lease_until: Boot,
    gate_lease: Boot,
    settled_by: Option<SettledBy>,
    aborting: Aborting,
    /// Why it is ending, if it is.
    ending: String,
    #[serde(default)]
    gave_up: bool,
    #[serde(default)]
    endpoint: Endpoint,
    #[serde(default)]
    history: Vec<(StateName, Boot)>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    announces: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    told: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    announced_at: Option<Boot>,
}

impl Standing {
    /// Until when the gate is to be closed by now, if it is.
    pub fn closed_until(&self) -> Option<Boot> {
        let closed = matches!(self.phase, Phase::Rejecting | Phase::Drained | Phase::Expired);
        closed.then_some(self.gate_lease)
    }

    /// Whether the drain has ended, and only registries are still to be told so.
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Serving
    }

    /// The same, if the drain ended now; `None` if no registry is to be told so.
    pub fn over(&self) -> Option<Self> {
        self.told.then(|| Self { phase: Phase::Serving, ..self.clone() })
    }

    /// Which clients are treated differently from the others.
    pub fn admission(&self) -> &Admission {
        self.spec.admission()
    }

    /// What becomes of new connections once it is closed.
    pub fn new_connections(&self) -> &NewConnections {
        self.spec.new_connections()
    }

    /// Until when clients are treated differently.
    pub fn guarded_until(&self) -> Boot {
        self.closed_until().unwrap_or(self.lease_until)
    }
}

impl Machine {
    /// Where the drain stands; `None` if there is none, and nothing to be taken back of one that is over.
    pub fn standing(&self) -> Option<Standing> {
        (self.phase != Phase::Serving || self.told).then(|| Standing {
            spec: self.spec.clone(),
            phase: self.phase,
            started: self.started,
            deadline: self.deadline,
            lease_until: self.lease_until,
            gate_lease: self.gate_lease,
            settled_by: self.settled_by,
            aborting: self.aborting,
            ending: self.ending.clone(),
            gave_up: self.gave_up,
            endpoint: self.endpoint,
            history: self.history.clone(),
            announces: self.announces,
            told: self.told,
            announced_at: self.announced_at,
        })
    }

    /// A drain that another process began, and what is to be done first. Its gate is closed if
    /// [`Standing::closed_until`] says so.
    ///
    /// Nothing is believed that can be looked at: whether the service was drained is proven again, and an
    /// operation on the gate whose answer was not seen is repeated, which does no harm.
    pub fn adopt(standing: Standing, now: Boot) -> (Self, Vec<Action>) {
        let mut machine = Self::new(standing.spec);
        machine.phase = standing.phase;
        (machine.started, machine.noticed_from) = (standing.started, now);
        machine.deadline = standing.deadline;
        machine.lease_until = standing.lease_until;
        machine.gate_lease = standing.gate_lease;
        machine.settled_by = standing.settled_by;
        machine.aborting = standing.aborting;
        machine.ending = standing.ending;
        machine.gave_up = standing.gave_up;
        machine.endpoint = standing.endpoint;
        machine.history = standing.history;
        (machine.announces, machine.told) = (standing.announces, standing.told);
        machine.announced_at = standing.announced_at;
        let out = machine.resume(now);
        let out = machine.finish(out, now);
        (machine, out)
    }

    fn resume(&mut self, now: Boot) -> Vec<Action> {
        let mut out = Vec::new();
        // The flows that were told stay so, until somebody leaves them alone.
        self.restore_due = self.spec.retire().set != RetireSet::NONE;
        self.retire_at = self.spec.retire().is_any().then_some(now);
        // A look of before knows nothing of what has happened since.
        self.look_from = now;
        self.recheck_at = now;
        self.settle_at = now;
        match self.phase {
            Phase::Serving => self.retract(&mut out),
            Phase::Announcing => {
                self.recheck_at = now + BACKUP;
                self.tell_registries(now, &mut out);
            }
            Phase::Guarding => out.push(Action::Guard { lease_until: self.lease_until }),
            Phase::Settling => self.watch(false, &mut out),
            Phase::Closing => out.push(Action::CloseGate { lease_until: self.lease_until }),
            Phase::Rejecting | Phase::Drained | Phase::Expired => {
                if self.phase == Phase::Drained {
                    let late = now >= self.deadline;
                    self.phase = if late { Phase::Expired } else { Phase::Rejecting };
                }
                // Nobody knows how far a reset got that was under way; flows that remain have their turn again.
                if self.aborting == Aborting::UnderWay {
                    self.aborting = Aborting::NotYet;
                }
                self.watch(true, &mut out);
            }
            Phase::Opening => {
                self.reopen(&mut out);
                self.restore(&mut out);
            }
        }
        out
    }
}

//! Clients that a drain treats by their address, as it goes over the socket.

use serde::{Deserialize, Serialize};

use super::Cidr;
use crate::{
    drain::{Admission, List},
    kernel::{Admitted, Class},
};

/// Which clients a drain treats differently from the others, and what became of their connection attempts since it
/// began. Of several prefixes that hold an address the longest decides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdmissionStatus {
    /// Clients that are neither counted nor refused.
    pub ignore: Vec<Cidr>,
    /// Clients that are counted, and not refused.
    pub allow: Vec<Cidr>,
    /// Clients that are refused from the drain's first moment on.
    pub fail_health_from: Vec<Cidr>,
    /// Clients that had a connection so lately are not refused; null: they are.
    pub keep_clients_ms: Option<u64>,
    /// Let in by `ignore`.
    pub ignored: u64,
    /// Let in by `allow`.
    pub allowed: u64,
    /// Refused by `fail_health_from`; not in `rejected`.
    pub failed_health: u64,
    /// Let in by the closed gate because of `keep_clients_ms`.
    pub kept: u64,
}

impl AdmissionStatus {
    /// What was asked for, and what came of it.
    pub(crate) fn new(admission: &Admission, admitted: &Admitted) -> Self {
        let Admitted { ignored, allowed, failed_health, kept } = *admitted;
        Self {
            ignore: admission.list(List::Ignore),
            allow: admission.list(List::Allow),
            fail_health_from: admission.list(List::FailHealthFrom),
            // A day at most.
            keep_clients_ms: admission.keep_clients().map(|keep| keep.as_millis() as u64),
            ignored,
            allowed,
            failed_health,
            kept,
        }
    }
}

/// What a connection means to a drain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlowClass {
    /// It must be gone before the service is drained.
    #[default]
    Counted,
    /// `ignore` names its client: it does not count.
    Ignored,
    /// The kubelet opened it: it does not count.
    Probe,
    /// The gate gave it to another listener, which serves it: it does not count.
    Steered,
}

impl FlowClass {
    /// As in JSON and in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counted => "counted",
            Self::Ignored => "ignored",
            Self::Probe => "probe",
            Self::Steered => "steered",
        }
    }
}

impl From<Class> for FlowClass {
    fn from(class: Class) -> Self {
        match class {
            Class::Counted => Self::Counted,
            Class::Ignored => Self::Ignored,
            Class::Probe => Self::Probe,
            Class::Steered => Self::Steered,
        }
    }
}

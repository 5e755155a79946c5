//! Registries that are told of drains.

use serde::{Deserialize, Serialize};

use crate::{executor::RegistryView, registries::Told};

/// A registry of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryStatus {
    /// Its name in the agent's file.
    pub name: String,
    /// Whether it was told that the server leaves, or may have been, and not yet that it is back.
    pub told: bool,
    /// What could not be told to it; null if the newest attempt worked.
    pub failure: Option<RegistryFailure>,
}

/// Something that a registry could not be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryFailure {
    /// `drain`: that the server leaves, and the drain went on without; `undrain`: that it is back, which is tried again
    /// and again.
    pub event: Told,
    /// Why not, in words.
    pub why: String,
}

impl From<&RegistryView> for RegistryStatus {
    fn from(view: &RegistryView) -> Self {
        let failure = view.failure.clone().map(|(event, why)| RegistryFailure { event, why });
        Self { name: view.name.clone(), told: view.told, failure }
    }
}

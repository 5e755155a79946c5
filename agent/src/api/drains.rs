//! What the HTTP interface wants of the executor; tests put a fake in its place.

use std::collections::HashMap;

use tokio::sync::broadcast;

use crate::{
    carry::CarryCounts,
    drain::{HoldName, Leaving, Service, Spec},
    executor::{DrainError, Executor, HoldRequest, Owner, Stand, Status, Totals, Update},
    registries::RegistryCounts,
};

/// The owner of all drains, as far as the HTTP interface needs it. Each method is that of [`Executor`].
#[expect(missing_docs, reason = "documented at Executor")]
pub trait Drains: Send + Sync + 'static {
    fn drain(
        &self,
        services: Vec<Service>,
        spec: Spec,
        owner: Owner,
    ) -> impl Future<Output = Result<bool, DrainError>> + Send;
    fn undrain(&self, service: Service) -> impl Future<Output = Result<bool, DrainError>> + Send;
    fn status(
        &self,
        services: Vec<Service>,
    ) -> impl Future<Output = Result<Vec<Status>, DrainError>> + Send;
    fn stand(
        &self,
        service: Service,
    ) -> impl Future<Output = Result<Option<Stand>, DrainError>> + Send;
    fn prove(&self, service: Service) -> impl Future<Output = Result<Status, DrainError>> + Send;
    fn leaving(
        &self,
        service: Service,
    ) -> impl Future<Output = Result<HashMap<u64, Leaving>, DrainError>> + Send;
    fn hold(&self, request: HoldRequest) -> impl Future<Output = Result<bool, DrainError>> + Send;
    fn release(
        &self,
        service: Service,
        name: HoldName,
    ) -> impl Future<Output = Result<bool, DrainError>> + Send;
    fn held(&self) -> impl Future<Output = Result<Vec<Service>, DrainError>> + Send;
    fn draining(&self) -> impl Future<Output = Result<Vec<Service>, DrainError>> + Send;
    fn renew(&self, service: Service) -> impl Future<Output = ()> + Send;
    fn subscribe(&self) -> broadcast::Receiver<Update>;
    fn totals(&self) -> Totals;
    fn carried(&self) -> CarryCounts;
    fn registries(&self) -> RegistryCounts;
}

impl Drains for Executor {
    async fn drain(
        &self,
        services: Vec<Service>,
        spec: Spec,
        owner: Owner,
    ) -> Result<bool, DrainError> {
        Self::drain(self, services, spec, owner).await
    }

    async fn undrain(&self, service: Service) -> Result<bool, DrainError> {
        Self::undrain(self, service).await
    }

    async fn status(&self, services: Vec<Service>) -> Result<Vec<Status>, DrainError> {
        Self::status(self, services).await
    }

    async fn stand(&self, service: Service) -> Result<Option<Stand>, DrainError> {
        Self::stand(self, service).await
    }

    async fn prove(&self, service: Service) -> Result<Status, DrainError> {
        Self::prove(self, service).await
    }

    async fn leaving(&self, service: Service) -> Result<HashMap<u64, Leaving>, DrainError> {
        Self::leaving(self, service).await
    }

    async fn hold(&self, request: HoldRequest) -> Result<bool, DrainError> {
        Self::hold(self, request).await
    }

    async fn release(&self, service: Service, name: HoldName) -> Result<bool, DrainError> {
        Self::release(self, service, name).await
    }

    async fn held(&self) -> Result<Vec<Service>, DrainError> {
        Self::held(self).await
    }

    async fn draining(&self) -> Result<Vec<Service>, DrainError> {
        Self::draining(self).await
    }

    async fn renew(&self, service: Service) {
        Self::renew(self, service).await;
    }

    fn subscribe(&self) -> broadcast::Receiver<Update> {
        Self::subscribe(self)
    }

    fn totals(&self) -> Totals {
        Self::totals(self)
    }

    fn carried(&self) -> CarryCounts {
        Self::carried(self)
    }

    fn registries(&self) -> RegistryCounts {
        Self::registries(self)
    }
}

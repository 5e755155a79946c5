//! `/v1/holds`: work that keeps a service from being drained.

use std::{sync::Arc, time::Duration};

use axum::{Json, extract::State};

use super::{
    app::App,
    auth::Caller,
    drains::Drains,
    error::ApiError,
    extract::{Body, Calling, Segments},
    place::Place,
    protocol::{HoldAccepted, HoldName, HoldRequest, Released, ServiceStatus},
};
use crate::{
    drain::{HOLD_TTL, Service, check_ttl},
    executor::{self, Owner},
};

/// `POST /v1/holds`.
pub(super) async fn hold<D: Drains>(
    State(app): State<Arc<App<D>>>,
    Calling(caller): Calling,
    Body(request): Body<HoldRequest>,
) -> Result<Json<HoldAccepted>, ApiError> {
    let HoldRequest { port, netns, pod, container, name, ttl_ms, unless_draining } = request;
    let netns = app.place(Place { netns, pod, container }, &caller).await?;
    if port == 0 {
        return Err(ApiError::usage("0 is no port; it is 1 to 65535"));
    }
    let ttl = check_ttl(ttl_ms.map_or(HOLD_TTL, Duration::from_millis));
    let ttl = ttl.map_err(|error| ApiError::usage(error.to_string()))?;
    let service = Service { netns, port };
    authorize(&app, &caller, service, &name).await?;
    let netns_cookie = app.kernel(move |kernel| kernel.netns_cookie(netns)).await?;
    let owner = Owner { uid: caller.uid, netns: caller.netns };
    let request =
        executor::HoldRequest { service, name, ttl, unless_draining, owner, netns_cookie };
    let renewed = app.drains.hold(request).await?;
    Ok(Json(HoldAccepted { service: now(&app, service).await?, renewed }))
}

/// `DELETE /v1/holds/{service id}/{name}`.
pub(super) async fn release<D: Drains>(
    State(app): State<Arc<App<D>>>,
    Segments(service, name): Segments<Service, HoldName>,
    Calling(caller): Calling,
) -> Result<Json<Released>, ApiError> {
    authorize(&app, &caller, service, &name).await?;
    let was_held = app.drains.release(service, name).await?;
    Ok(Json(Released { service: now(&app, service).await?, was_held }))
}

/// Who may drain the service may hold it; and whoever holds it may go on doing so, and stop.
async fn authorize<D: Drains>(
    app: &App<D>,
    caller: &Caller,
    service: Service,
    name: &HoldName,
) -> Result<(), ApiError> {
    let ours = Owner { uid: caller.uid, netns: caller.netns };
    // Who lives elsewhere learns nothing of it.
    if caller.netns == service.netns {
        let status = app.drains.status(vec![service]).await?;
        let mut held = status.iter().flat_map(|status| &status.holds);
        if held.any(|(known, hold)| known == name && hold.owner == ours) {
            return Ok(());
        }
    }
    app.authorize_change(caller, service).await
}

async fn now<D: Drains>(app: &App<D>, service: Service) -> Result<ServiceStatus, ApiError> {
    let told = app.told(vec![service]).await?.into_iter().next();
    told.ok_or_else(|| ApiError::no_such_service(service))
}

//! The routes, as [`super::protocol`] documents them.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{StatusCode, header::CONTENT_TYPE},
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use serde::Deserialize;

use super::{
    app::App,
    auth::Caller,
    browser,
    checks::check,
    drains::Drains,
    error::ApiError,
    events::events,
    extract::{Body, Calling, NetnsQuery, Params, PlaceQuery, Port, Segment},
    handoff, holds, metrics, page,
    place::Place,
    protocol::{
        DrainAccepted, DrainRequest, FlowList, MAX_PORTS, PodName, ServiceList, ServiceStatus,
        StateName, Undrained,
    },
    status::{Retiring, exists, flow_list},
    timeout::{Timed, timed},
};
use crate::{
    drain::Service,
    executor::{Owner, Status},
    kernel::KernelError,
};

/// How long the head of an answer may take, the request's body included.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// A handler's answer.
type Answer<T> = Result<Json<T>, ApiError>;

/// All routes. Each request must carry an `Arc<dyn Identify>` as an extension.
pub fn router<D: Drains>(app: Arc<App<D>>) -> Router {
    Router::new()
        .route("/v1/drains", post(start_drain::<D>))
        .route("/v1/drains/{id}", delete(end_drain::<D>))
        .route("/v1/checks", post(check::<D>))
        .route("/v1/holds", post(holds::hold::<D>))
        .route("/v1/holds/{id}/{name}", delete(holds::release::<D>))
        .route("/v1/services", get(list_services::<D>))
        .route("/v1/services/{id}", get(one_service::<D>))
        .route("/v1/services/{id}/flows", get(flows::<D>))
        .route("/v1/events", get(events::<D>))
        .route("/drained/{port}", get(drained::<D>))
        .route("/serving/{port}", get(serving::<D>))
        .route("/", get(page::page))
        .route("/metrics", get(metrics_text::<D>))
        .route("/healthz", get(async || "ok\n"))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(from_fn(browser::of_one_origin))
        .layer(from_fn(in_time))
        .layer(from_fn_with_state(Arc::clone(&app), counted::<D>))
        .with_state(app)
}

async fn no_such_path(request: Request) -> ApiError {
    let message = format!("there is no {}; see GET /v1/services", request.uri().path());
    ApiError::bad_request(StatusCode::NOT_FOUND, message)
}

async fn no_such_method(request: Request) -> ApiError {
    let message = format!("{} does not take {}", request.uri().path(), request.method());
    ApiError::bad_request(StatusCode::METHOD_NOT_ALLOWED, message)
}

#[derive(Debug, thiserror::Error)]
#[error("there was no answer within {} s; try again, and see the agent's log", ANSWER_WITHIN.as_secs())]
struct TooSlow;

/// No request may hold on to the agent for ever.
async fn in_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(ANSWER_WITHIN, next.run(request)).await {
        Ok(response) => response,
        Err(_) => ApiError::internal(&TooSlow).into_response(),
    }
}

async fn counted<D: Drains>(
    State(app): State<Arc<App<D>>>,
    request: Request,
    next: Next,
) -> Response {
    let response = next.run(request).await;
    app.requests.count(response.status());
    response
}

async fn start_drain<D: Drains>(
    State(app): State<Arc<App<D>>>,
    Calling(caller): Calling,
    Body(request): Body<DrainRequest>,
) -> Result<(StatusCode, Json<DrainAccepted>), ApiError> {
    let DrainRequest { netns, pod, container, .. } = request.clone();
    let netns = app.place(Place { netns, pod, container }, &caller).await?;
    let services = services_of(&request.ports, netns)?;
    let may_know = caller.is_node_admin() || netns == caller.netns;
    let pod = if may_know { app.pods.in_netns(netns).await } else { None };
    timed((&request).into(), pod.as_ref(), SystemTime::now())?;
    for &service in &services {
        app.authorize_change(&caller, service).await?;
    }
    // Only now: it reads all of /proc, and its answer is nobody else's business.
    let new = handoff::as_the_agent_names_it(request.new.clone(), &caller).await?;
    for &service in &services {
        handoff::authorize(&app, &caller, service, &new).await?;
    }
    let request = DrainRequest { new, ..request };
    let pod = match pod {
        Some(pod) => Some(app.pods.fresh(&pod).await),
        None => None,
    };
    let Timed { spec, from, notes } = timed((&request).into(), pod.as_ref(), SystemTime::now())?;
    let timeout_ms = u64::try_from(spec.timeout().as_millis()).unwrap_or(u64::MAX);
    let owner = Owner { uid: caller.uid, netns: caller.netns };
    let joined = app.drains.drain(services.clone(), spec, owner).await?;
    let pod = pod.map(|pod| tracing::field::display(pod.full_name()));
    tracing::info!(pid = caller.pid, uid = caller.uid, netns, pod, ports = ?request.ports, joined, timeout_ms, ?notes, "drain accepted");
    let services = app.told(services).await?;
    let accepted = DrainAccepted { services, joined, timeout_ms, timeout_from: from, notes };
    Ok((StatusCode::ACCEPTED, Json(accepted)))
}

/// The services that a drain of these ports means, each once, in the order asked for.
fn services_of(ports: &[u16], netns: u32) -> Result<Vec<Service>, ApiError> {
    if ports.is_empty() || ports.len() > MAX_PORTS {
        let message = format!("a drain has 1 to {MAX_PORTS} ports, and this has {}", ports.len());
        return Err(ApiError::usage(message));
    }
    if ports.contains(&0) {
        return Err(ApiError::usage("0 is no port; it is 1 to 65535"));
    }
    let mut seen = BTreeSet::new();
    let once = ports.iter().filter(|&&port| seen.insert(port));
    Ok(once.map(|&port| Service { netns, port }).collect())
}

async fn end_drain<D: Drains>(
    State(app): State<Arc<App<D>>>,
    Segment(service): Segment<Service>,
    Calling(caller): Calling,
) -> Answer<Undrained> {
    app.authorize_change(&caller, service).await?;
    let was_draining = app.drains.undrain(service).await?;
    tracing::info!(pid = caller.pid, uid = caller.uid, %service, was_draining, "undrain");
    let status = app.drains.status(vec![service]).await?;
    // A drain can outlive its listener and its connections, so what it leaves behind may be nothing.
    let status = status.first().filter(|status| was_draining || exists(status));
    let status = status.ok_or_else(|| ApiError::no_such_service(service))?;
    Ok(Json(Undrained { service: app.tell(status).await, was_draining }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    netns: Option<NetnsQuery>,
    pod: Option<PodName>,
    container: Option<String>,
    port: Option<u16>,
}

async fn list_services<D: Drains>(
    State(app): State<Arc<App<D>>>,
    Params(query): Params<ListQuery>,
    Calling(caller): Calling,
) -> Answer<ServiceList> {
    let every = query.netns == Some(NetnsQuery::All);
    let namespaces = if every {
        app.kernel(|k| k.namespaces()).await?
    } else {
        let place = PlaceQuery { netns: query.netns, pod: query.pod, container: query.container };
        vec![app.place(place.one()?, &caller).await?]
    };
    for &netns in &namespaces {
        app.authorize_read(&caller, netns)?;
    }
    if let (Some(port), [netns]) = (query.port, namespaces.as_slice()) {
        if port == 0 {
            return Err(ApiError::usage("0 is no port; it is 1 to 65535"));
        }
        let status = app.existing(Service { netns: *netns, port }).await?;
        let services = vec![app.tell(&status).await];
        return Ok(Json(ServiceList { services, hooks_missing: Vec::new() }));
    }
    let mut services = listening(&app, namespaces.clone(), every).await?;
    let known = app.known().await?;
    services.extend(known.into_iter().filter(|service| namespaces.contains(&service.netns)));
    services.retain(|service| query.port.is_none_or(|port| port == service.port));
    let services = app.told(services.into_iter().collect()).await?;
    let hooks_missing = app.hooks().missing(|netns| match netns {
        Some(netns) => namespaces.contains(&netns),
        None => every,
    });
    Ok(Json(ServiceList { services, hooks_missing }))
}

/// Every port that is listened on, or has connections left of a listener that is gone. With `skip_gone`, namespaces that vanish meanwhile are left out.
async fn listening<D: Drains>(
    app: &App<D>,
    namespaces: Vec<u32>,
    skip_gone: bool,
) -> Result<BTreeSet<Service>, ApiError> {
    app.kernel(move |kernel| {
        let mut services = BTreeSet::new();
        for netns in namespaces {
            let look = match kernel.look(netns, None) {
                Err(KernelError::NoNetns(_)) if skip_gone => continue,
                look => look?,
            };
            let service = |port| Service { netns, port };
            services.extend(look.listeners.iter().map(|each| service(each.local.port())));
            let others: BTreeSet<_> =
                look.sockets.iter().map(|each| service(each.local.port())).collect();
            for other in others {
                // The tracker counts accepted connections only, not those that began here.
                if !services.contains(&other) && kernel.tracked(other)?.flows > 0 {
                    services.insert(other);
                }
            }
        }
        Ok(services)
    })
    .await
}

async fn one_service<D: Drains>(
    State(app): State<Arc<App<D>>>,
    Segment(service): Segment<Service>,
    Calling(caller): Calling,
) -> Answer<ServiceStatus> {
    app.authorize_read(&caller, service.netns)?;
    let status = app.existing(service).await?;
    Ok(Json(app.tell(&status).await))
}

async fn flows<D: Drains>(
    State(app): State<Arc<App<D>>>,
    Segment(service): Segment<Service>,
    Calling(caller): Calling,
) -> Answer<FlowList> {
    app.authorize_read(&caller, service.netns)?;
    let retiring = match app.existing(service).await?.drain {
        Some(drain) => Some(Retiring { drain, leaving: app.drains.leaving(service).await? }),
        None => None,
    };
    let list = app.kernel_result(move |kernel| {
        let look = kernel.look(service.netns, Some(service.port))?;
        let cookies: Vec<_> = look.sockets.iter().map(|socket| socket.cookie).collect();
        let established = kernel.established_at(&cookies)?;
        Ok(flow_list(&look, &established, retiring.as_ref(), kernel.now()))
    });
    match list.await? {
        Ok(list) => Ok(Json(FlowList { pod: app.pod(service.netns).await, ..list })),
        Err(error @ KernelError::NoNetns(_)) => Err(error.into()),
        Err(error) => Err(ApiError::unverifiable(&error)),
    }
}

async fn drained<D: Drains>(
    State(app): State<Arc<App<D>>>,
    Segment(Port(port)): Segment<Port>,
    Params(query): Params<PlaceQuery>,
    Calling(caller): Calling,
) -> Result<(StatusCode, Json<ServiceStatus>), ApiError> {
    let service = readable(&app, query, &caller, port).await?;
    let status = app.there(app.drains.prove(service).await?).await?;
    let proven = status.state == StateName::Drained && status.unknown.is_none();
    Ok(yes_or_no(&app, &status, proven).await)
}

async fn serving<D: Drains>(
    State(app): State<Arc<App<D>>>,
    Segment(Port(port)): Segment<Port>,
    Params(query): Params<PlaceQuery>,
    Calling(caller): Calling,
) -> Result<(StatusCode, Json<ServiceStatus>), ApiError> {
    let service = readable(&app, query, &caller, port).await?;
    let status = app.existing(service).await?;
    Ok(yes_or_no(&app, &status, status.state == StateName::Serving).await)
}

/// The service that is asked about, if the caller may know.
async fn readable<D: Drains>(
    app: &App<D>,
    query: PlaceQuery,
    caller: &Caller,
    port: u16,
) -> Result<Service, ApiError> {
    let netns = app.place(query.one()?, caller).await?;
    app.authorize_read(caller, netns)?;
    Ok(Service { netns, port })
}

/// 200 or 503, both with the status.
async fn yes_or_no<D: Drains>(
    app: &App<D>,
    status: &Status,
    yes: bool,
) -> (StatusCode, Json<ServiceStatus>) {
    let code = if yes { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(app.tell(status).await))
}

async fn metrics_text<D: Drains>(State(app): State<Arc<App<D>>>) -> Result<Response, ApiError> {
    let text = metrics::text(&app).await?;
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

#[cfg(test)]
#[path = "routes_tests.rs"]
mod tests;

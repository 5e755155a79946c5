//! Finds services by port, the way every verb except `drain` does it.

use super::{
    client::Client,
    exit::{Exit, Failure},
    target::Target,
};
use crate::api::protocol::{ServiceList, ServiceStatus};

/// `GET /v1/services` of the target; only this port, if one is given.
///
/// # Errors
/// As the agent says.
pub(super) async fn list(
    client: &Client,
    target: &Target,
    port: Option<u16>,
) -> Result<ServiceList, Failure> {
    let query: Vec<String> =
        target.query().into_iter().chain(port.map(|port| format!("port={port}"))).collect();
    let mark = if query.is_empty() { "" } else { "?" };
    Ok(client.get(&format!("/v1/services{mark}{}", query.join("&"))).await?)
}

/// The service of one port.
///
/// # Errors
/// Nothing is there (6), or as the agent says.
pub(super) async fn find(
    client: &Client,
    target: &Target,
    port: u16,
) -> Result<ServiceStatus, Failure> {
    let services = list(client, target, Some(port)).await?.services;
    services.into_iter().find(|service| service.port == port).ok_or_else(|| nothing(target, port))
}

/// Nothing listens there, and there is no connection and no drain either.
pub(super) fn nothing(target: &Target, port: u16) -> Failure {
    Failure::new(
        Exit::NoSuchService,
        format!(
            "nothing listens on port {port} in {target}, and it has no connection and no drain"
        ),
    )
}

//! Clients in Python.

use anyhow::Result;

use crate::peers::{Client, Kind, Launch, Place, Protocol};

pub(super) const CLIENTS: &[Client] = &[Client {
    name: "http.client",
    protocols: &[Protocol::Http1],
    kinds: &Kind::ALL,
    launch: http_client,
}];

fn http_client(place: &Place, _: Protocol) -> Result<Vec<Launch>> {
    let script = place.source("python/http_client.py");
    Ok(vec![place.client(place.built("python/bin/python")?, &[&script])])
}

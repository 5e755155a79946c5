//! Servers in Python.

use anyhow::Result;

use crate::peers::{Kind, Launch, Place, Protocol, Server};

pub(super) const SERVERS: &[Server] = &[Server {
    name: "http.server",
    protocols: &[Protocol::Http1],
    kinds: &Kind::ALL,
    launch: http_server,
}];

fn http_server(place: &Place, _: Protocol) -> Result<Launch> {
    Ok(place.server(place.built("python/bin/python")?, &[&place.source("python/http_server.py")]))
}

//! Servers that say goodbye by themselves, as drainctl makes others do: what fails with them is the
//! client's own way to take a goodbye. They take part only when they are named.

use anyhow::Result;

use crate::peers::{Kind, Launch, Place, Protocol, Server};

/// Their name in reports and filters.
pub(in crate::peers) const NAME: &str = "goodbye";

pub(super) const SERVERS: &[Server] = &[Server {
    name: NAME,
    protocols: &[Protocol::Http1, Protocol::Http2],
    kinds: &Kind::ALL,
    launch,
}];

fn launch(place: &Place, protocol: Protocol) -> Result<Launch> {
    let http2 = protocol == Protocol::Http2;
    let script = if http2 { "python/goodbye_http2.py" } else { "python/goodbye_http.py" };
    Ok(place.server(place.built("python/bin/python")?, &[&place.source(script)]))
}

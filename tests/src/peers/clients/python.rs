//! Clients in Python.

use std::path::Path;

use anyhow::Result;

use crate::peers::{Client, Kind, Launch, Place, Protocol};

pub(super) const CLIENTS: &[Client] = &[
    Client {
        name: "http.client",
        protocols: &[Protocol::Http1],
        kinds: &Kind::ALL,
        launch: |place, _| Ok(vec![http_client(place)?]),
    },
    Client {
        name: "httpx",
        protocols: &[Protocol::Http1, Protocol::Http2],
        kinds: &Kind::ALL,
        launch: httpx,
    },
    Client {
        name: "websockets",
        protocols: &[Protocol::WebSocket],
        kinds: &[],
        launch: |place, _| Ok(vec![script(place, "python/websocket_client.py", &[])?]),
    },
];

/// The plainest client there is, also for use behind something else.
pub(super) fn http_client(place: &Place) -> Result<Launch> {
    script(place, "python/http_client.py", &[])
}

/// A script of `tests/peers`, with flags before what the contract has.
pub(super) fn script(place: &Place, path: &str, flags: &[&Path]) -> Result<Launch> {
    let script = place.source(path);
    let first = [&[script.as_path()], flags].concat();
    Ok(place.client(place.built("python/bin/python")?, &first))
}

fn httpx(place: &Place, protocol: Protocol) -> Result<Vec<Launch>> {
    let http2 = protocol == Protocol::Http2;
    let flag: &[&Path] = if http2 { &[Path::new("--http2")] } else { &[] };
    Ok(vec![script(place, "python/httpx_client.py", flag)?])
}

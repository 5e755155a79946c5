//! Servers in Python.

use anyhow::Result;

use crate::peers::{Kind, Launch, Place, Protocol, Server};

pub(super) const SERVERS: &[Server] = &[
    Server {
        name: "http.server",
        protocols: &[Protocol::Http1],
        kinds: &Kind::ALL,
        launch: |place, _| script(place, "python/http_server.py"),
    },
    Server {
        name: "uvicorn",
        protocols: &[Protocol::Http1],
        kinds: &Kind::ALL,
        launch: |place, _| script(place, "python/asgi.py"),
    },
    Server {
        name: "websockets",
        protocols: &[Protocol::WebSocket],
        kinds: &[],
        launch: |place, _| script(place, "python/websocket_server.py"),
    },
];

fn script(place: &Place, path: &str) -> Result<Launch> {
    Ok(place.server(place.built("python/bin/python")?, &[&place.source(path)]))
}

//! Servers in Node, without a package.

use anyhow::Result;

use crate::peers::{Kind, Launch, Place, Protocol, Server};

pub(super) const SERVERS: &[Server] = &[
    Server {
        name: "node-http",
        protocols: &[Protocol::Http1],
        kinds: &Kind::ALL,
        launch: |place, _| script(place, "node/http_server.mjs"),
    },
    Server {
        name: "node-http2",
        protocols: &[Protocol::Http2],
        kinds: &Kind::ALL,
        launch: |place, _| script(place, "node/http2_server.mjs"),
    },
];

fn script(place: &Place, path: &str) -> Result<Launch> {
    Ok(place.server("node", &[&place.source(path)]))
}

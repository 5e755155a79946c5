//! Clients in Node, without a package: its fetch is undici.

use anyhow::Result;

use crate::peers::{Client, Kind, Launch, Place, Protocol};

pub(super) const CLIENTS: &[Client] = &[
    Client {
        name: "node-http",
        protocols: &[Protocol::Http1],
        kinds: &Kind::ALL,
        launch: |place, _| script(place, "node/http_client.mjs"),
    },
    Client {
        name: "node-fetch",
        protocols: &[Protocol::Http1],
        kinds: &Kind::ALL,
        launch: |place, _| script(place, "node/fetch_client.mjs"),
    },
    Client {
        name: "node-http2",
        protocols: &[Protocol::Http2],
        kinds: &Kind::ALL,
        launch: |place, _| script(place, "node/http2_client.mjs"),
    },
];

fn script(place: &Place, path: &str) -> Result<Vec<Launch>> {
    Ok(vec![place.client("node", &[&place.source(path)])])
}

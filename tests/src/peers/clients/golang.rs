//! net/http of Go.

use std::path::Path;

use anyhow::Result;

use crate::peers::{Client, Kind, Launch, Place, Protocol};

pub(super) const CLIENTS: &[Client] = &[Client {
    name: "go",
    protocols: &[Protocol::Http1, Protocol::Http2],
    kinds: &Kind::ALL,
    launch,
}];

fn launch(place: &Place, protocol: Protocol) -> Result<Vec<Launch>> {
    let http2 = protocol == Protocol::Http2;
    let flag: &[&Path] = if http2 { &[Path::new("--http2")] } else { &[] };
    Ok(vec![place.client(place.built("go/http_client")?, flag)])
}

//! hyper, Rust's HTTP library: a program of this crate.

use std::path::Path;

use anyhow::Result;

use crate::peers::{Client, Kind, Launch, Place, Protocol};

pub(super) const CLIENTS: &[Client] = &[Client {
    name: "hyper",
    protocols: &[Protocol::Http1, Protocol::Http2],
    kinds: &Kind::ALL,
    launch,
}];

fn launch(place: &Place, protocol: Protocol) -> Result<Vec<Launch>> {
    let http2 = protocol == Protocol::Http2;
    let role = Path::new("client");
    let flags: &[&Path] = if http2 { &[role, Path::new("--http2")] } else { &[role] };
    Ok(vec![place.client(place.sibling("hyper")?, flags)])
}

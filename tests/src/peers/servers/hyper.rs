//! hyper, Rust's HTTP library: a program of this crate.

use std::path::Path;

use crate::peers::{Kind, Protocol, Server};

pub(super) const SERVERS: &[Server] = &[Server {
    name: "hyper",
    protocols: &[Protocol::Http1, Protocol::Http2],
    kinds: &Kind::ALL,
    launch: |place, _| Ok(place.server(place.sibling("hyper")?, &[Path::new("server")])),
}];

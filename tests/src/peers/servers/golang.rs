//! net/http of Go.

use crate::peers::{Kind, Protocol, Server};

pub(super) const SERVERS: &[Server] = &[Server {
    name: "go",
    protocols: &[Protocol::Http1, Protocol::Http2, Protocol::Http2Upgrade],
    kinds: &Kind::ALL,
    launch: |place, _| Ok(place.server(place.built("go/http_server")?, &[])),
}];

//! Programs off the shelf, each behind a script that keeps the contract.

use std::path::Path;

use anyhow::Result;

use super::python;
use crate::peers::{
    Client,
    Kind::{self, Body, Chunked, Slow, Status},
    Launch, Place, Protocol,
};

pub(super) const CLIENTS: &[Client] = &[
    Client {
        name: "curl",
        protocols: &[Protocol::Http1, Protocol::Http2, Protocol::Http2Upgrade],
        kinds: &Kind::ALL,
        launch: curl,
    },
    Client {
        name: "h2load",
        protocols: &[Protocol::Http2],
        // It tells sums only, and so asks for one size; it has no pace, and cannot tell a begun response.
        kinds: &[Body, Chunked],
        launch: |place, _| Ok(vec![python::script(place, "tools/h2load.py", &[])?]),
    },
    Client {
        name: "wrk",
        protocols: &[Protocol::Http1],
        // It breaks off what is under way when it is stopped, and cannot read the answer to HEAD.
        kinds: &[Body, Chunked, Status, Slow],
        launch: |place, _| Ok(vec![python::script(place, "tools/wrk.py", &[])?]),
    },
];

fn curl(place: &Place, protocol: Protocol) -> Result<Vec<Launch>> {
    let flag: &[&Path] = match protocol {
        Protocol::Http2 => &[Path::new("--http2")],
        Protocol::Http2Upgrade => &[Path::new("--upgrade")],
        _ => &[],
    };
    Ok(vec![python::script(place, "tools/curl.py", flag)?])
}

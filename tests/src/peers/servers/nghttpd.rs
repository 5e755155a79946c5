//! nghttpd, nghttp2's own server, serving files.

use std::process::Command;

use anyhow::Result;

use crate::peers::{
    Kind::{Body, Head, Slow},
    Launch, Place, Protocol, Server, contract,
};

pub(super) const SERVERS: &[Server] = &[Server {
    name: "nghttpd",
    protocols: &[Protocol::Http2],
    kinds: &[Body, Head, Slow],
    launch,
}];

fn launch(place: &Place, _: Protocol) -> Result<Launch> {
    contract::write_files(&place.dir)?;
    let port = place.addr.port();
    let mut command = Command::new("nghttpd");
    command.args(["--no-tls", "--htdocs"]).arg(&place.dir).arg(port.to_string());
    Ok(Launch { command, listens: Some(port) })
}

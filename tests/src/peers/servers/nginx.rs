//! nginx serving files.

use std::process::Command;

use anyhow::Result;

use crate::peers::{
    Kind,
    Kind::{Body, Head, Slow, Status},
    Launch, Place, Protocol, Server, contract,
};

const KINDS: &[Kind] = &[Body, Head, Status, Slow];

pub(super) const SERVERS: &[Server] = &[Server {
    name: "nginx",
    protocols: &[Protocol::Http1, Protocol::Http2],
    kinds: KINDS,
    launch,
}];

fn launch(place: &Place, protocol: Protocol) -> Result<Launch> {
    contract::write_files(&place.dir)?;
    let listen = if protocol == Protocol::Http2 { " http2" } else { "" };
    let config = place.fill("nginx/server.conf", &[("http2", listen)])?;
    let mut command = Command::new("nginx");
    command.arg("-p").arg(&place.dir).arg("-c").arg(config);
    command.arg("-e").arg(place.dir.join("error.log"));
    Ok(Launch { command, listens: Some(place.addr.port()) })
}

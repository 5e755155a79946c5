//! Reverse proxies in front of the server: they are its clients, and http.client is theirs.

use std::process::Command;

use anyhow::Result;

use super::python;
use crate::peers::{Client, Kind, Launch, Place, Protocol};

/// Where proxies listen, in the client's namespace.
const FRONT: u16 = 8081;

pub(super) const CLIENTS: &[Client] = &[
    Client { name: "nginx-proxy", protocols: &[Protocol::Http1], kinds: &Kind::ALL, launch: nginx },
    Client {
        name: "haproxy",
        protocols: &[Protocol::Http1, Protocol::Http2],
        kinds: &Kind::ALL,
        launch: haproxy,
    },
];

fn nginx(place: &Place, _: Protocol) -> Result<Vec<Launch>> {
    let front = place.beside("front", FRONT)?;
    let config = front.fill("nginx/proxy.conf", &[("server", &place.addr.to_string())])?;
    let mut command = Command::new("nginx");
    command.arg("-p").arg(&front.dir).arg("-c").arg(config);
    command.arg("-e").arg(front.dir.join("error.log"));
    Ok(vec![Launch { command, listens: Some(FRONT) }, python::http_client(&front)?])
}

fn haproxy(place: &Place, protocol: Protocol) -> Result<Vec<Launch>> {
    let front = place.beside("front", FRONT)?;
    let server = place.addr.to_string();
    let proto = if protocol == Protocol::Http2 { "proto h2" } else { "" };
    let config = front.fill("haproxy/haproxy.cfg", &[("server", &server), ("proto", proto)])?;
    let mut command = Command::new("haproxy");
    command.args(["-db", "-f"]).arg(config);
    Ok(vec![Launch { command, listens: Some(FRONT) }, python::http_client(&front)?])
}

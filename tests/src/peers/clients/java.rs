//! java.net.http, the client of the JDK.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::peers::{Client, Kind, Launch, Place, Protocol};

pub(super) const CLIENTS: &[Client] = &[Client {
    name: "java",
    // It knows no prior knowledge.
    protocols: &[Protocol::Http1, Protocol::Http2Upgrade],
    kinds: &Kind::ALL,
    launch,
}];

/// The arguments of `java` before those of a class of ours.
pub(in crate::peers) fn class(place: &Place, name: &str) -> Result<[PathBuf; 3]> {
    let mut path = place.built("java/classes")?.into_os_string();
    path.push(":");
    path.push(place.built("java/lib")?.join("*"));
    Ok(["-cp".into(), path.into(), format!("peers.{name}").into()])
}

fn launch(place: &Place, protocol: Protocol) -> Result<Vec<Launch>> {
    let [option, path, class] = class(place, "Client")?;
    let http2 = protocol == Protocol::Http2Upgrade;
    let version = Path::new(if http2 { "--version=HTTP_2" } else { "--version=HTTP_1_1" });
    Ok(vec![place.client("java", &[&option, &path, &class, version])])
}

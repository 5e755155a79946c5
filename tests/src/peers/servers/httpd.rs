//! Apache httpd serving files.

use std::{fs, process::Command};

use anyhow::Result;

use crate::peers::{
    Kind::{Body, Head, Slow, Status},
    Launch, Place, Protocol, Server, contract,
};

/// Where Debian has its modules.
const MODULES: &str = "/usr/lib/apache2/modules";

pub(super) const SERVERS: &[Server] = &[Server {
    name: "httpd",
    protocols: &[Protocol::Http1, Protocol::Http2, Protocol::Http2Upgrade],
    kinds: &[Body, Head, Status, Slow],
    launch,
}];

fn launch(place: &Place, _: Protocol) -> Result<Launch> {
    contract::write_files(&place.dir)?;
    let status = place.dir.join("status");
    fs::create_dir_all(&status)?;
    for (code, text) in [("204", "No Content"), ("304", "Not Modified")] {
        fs::write(status.join(code), format!("Status: {code} {text}\n\n"))?;
    }
    let config = place.fill("httpd/httpd.conf", &[("modules", MODULES)])?;
    let mut command = Command::new("apache2");
    command.args(["-D", "FOREGROUND", "-f"]).arg(config);
    Ok(Launch { command, listens: Some(place.addr.port()) })
}

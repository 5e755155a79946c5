//! Tomcat.

use crate::peers::{Kind, Protocol, Server, clients::java};

pub(super) const SERVERS: &[Server] = &[Server {
    name: "tomcat",
    protocols: &[Protocol::Http1, Protocol::Http2, Protocol::Http2Upgrade],
    kinds: &Kind::ALL,
    launch: |place, _| {
        let [option, path, class] = java::class(place, "Server")?;
        Ok(place.server("java", &[&option, &path, &class]))
    },
}];

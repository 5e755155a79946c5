//! Clients, a file for each family.

mod golang;
mod grpc;
mod hyper;
pub(super) mod java;
mod node;
mod proxy;
mod python;
mod tools;

use super::{Client, Kind, Protocol};

/// Clients that can end a connection with a reset when they have read all of its last response: HAProxy so as
/// not to have it in TIME_WAIT; the others close it at once after GOAWAY, and what the server then still says
/// (an answer to a PING, a GOAWAY of its own) is answered with a reset.
pub(super) const END_WITH_RESETS: [&str; 6] =
    ["haproxy", "go", "hyper", "java", "grpcio", "grpc-go"];

/// Clients that break off requests under way at any GOAWAY, so that no server can send one without harm; they
/// may keep a connection that is of no more use, too.
/// docs/clients.md names them.
pub(super) const ABORT_AT_GOAWAY: [(Protocol, &str); 3] =
    [(Protocol::Http2, "httpx"), (Protocol::Http2, "h2load"), (Protocol::Http2Upgrade, "java")];

/// What a server and a client cannot do together, with or without drainctl, and so is not asked for: curl 7.88
/// does not send its data when the server's SETTINGS come between its HEADERS and them.
pub(super) const IMPOSSIBLE: [(Protocol, &str, &str, Kind); 1] =
    [(Protocol::Http2, "hyper", "curl", Kind::Post)];

/// Pairs that prove nothing, since they fail with or without drainctl: Tomcat 10.1 answers 500 now and then to these
/// clients over HTTP/2 (an IOException of its own while it reads frames), also where nothing is retired; the JDK's
/// client hangs in a body of httpd's after an upgrade, before any drain. And curl opens a connection for each request
/// over HTTP/2, so that often none is there when nghttpd, which has no slow response, is drained. docs/clients.md
/// says so.
pub(super) const BROKEN: [(Protocol, &str, &str); 4] = [
    (Protocol::Http2, "nghttpd", "curl"),
    (Protocol::Http2, "tomcat", "curl"),
    (Protocol::Http2, "tomcat", "haproxy"),
    (Protocol::Http2Upgrade, "httpd", "java"),
];

/// Every client, in the order of the report.
pub(super) fn all() -> Vec<Client> {
    let first = [python::CLIENTS, node::CLIENTS, tools::CLIENTS, proxy::CLIENTS];
    let more = [golang::CLIENTS, hyper::CLIENTS, java::CLIENTS, grpc::CLIENTS];
    [first.concat(), more.concat()].concat()
}

//! Clients, a file for each family.

mod golang;
mod grpc;
mod hyper;
pub(super) mod java;
mod node;
mod proxy;
mod python;
mod tools;

use super::{Client, Protocol};

/// Clients that can end a connection with a reset when they have read all of its last response: HAProxy so as
/// not to have it in TIME_WAIT; the others close it at once after GOAWAY, and what the server then still says
/// (an answer to a PING, a GOAWAY of its own) is answered with a reset.
pub(super) const END_WITH_RESETS: [&str; 4] = ["haproxy", "go", "grpcio", "grpc-go"];

/// Clients that break off requests under way at any GOAWAY, so that no server can send one without harm; they
/// may keep a connection that is of no more use, too.
/// docs/clients.md names them.
pub(super) const ABORT_AT_GOAWAY: [(Protocol, &str); 3] =
    [(Protocol::Http2, "httpx"), (Protocol::Http2, "h2load"), (Protocol::Http2Upgrade, "java")];

/// Every client, in the order of the report.
pub(super) fn all() -> Vec<Client> {
    let first = [python::CLIENTS, node::CLIENTS, tools::CLIENTS, proxy::CLIENTS];
    let more = [golang::CLIENTS, hyper::CLIENTS, java::CLIENTS, grpc::CLIENTS];
    [first.concat(), more.concat()].concat()
}

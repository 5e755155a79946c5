//! Clients, a file for each family.

mod golang;
mod grpc;
mod node;
mod proxy;
mod python;
mod tools;

use super::{Client, Protocol};

/// Clients that end a connection with a reset when they have read all of its last response, so as not to
/// have it in TIME_WAIT.
pub(super) const END_WITH_RESETS: [&str; 1] = ["haproxy"];

/// Clients that break off requests under way at any GOAWAY, so that no server can send one without harm; they
/// may keep a connection that is of no more use, too.
/// docs/clients.md names them.
pub(super) const ABORT_AT_GOAWAY: [(Protocol, &str); 1] = [(Protocol::Http2, "httpx")];

/// Every client, in the order of the report.
pub(super) fn all() -> Vec<Client> {
    [python::CLIENTS, node::CLIENTS, tools::CLIENTS, proxy::CLIENTS, golang::CLIENTS, grpc::CLIENTS]
        .concat()
}

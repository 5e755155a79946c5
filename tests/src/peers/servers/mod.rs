//! Servers, a file for each family.

mod golang;
pub(super) mod goodbye;
mod grpc;
mod httpd;
mod hyper;
mod java;
mod nghttpd;
mod nginx;
mod node;
mod python;

use super::Server;

/// Servers that close a connection at once when the client says GOAWAY, and answer what it then still says
/// with a reset: Node says GOAWAY twice, for one.
pub(super) const END_WITH_RESETS: [&str; 2] = ["hyper", "nghttpd"];

/// Every server, in the order of the report.
pub(super) fn all() -> Vec<Server> {
    let first = [nginx::SERVERS, httpd::SERVERS, node::SERVERS, python::SERVERS, golang::SERVERS];
    let more = [hyper::SERVERS, java::SERVERS, nghttpd::SERVERS, grpc::SERVERS, goodbye::SERVERS];
    [first.concat(), more.concat()].concat()
}

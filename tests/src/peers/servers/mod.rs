//! Servers, a file for each family.

mod golang;
pub(super) mod goodbye;
mod grpc;
mod httpd;
mod nginx;
mod node;
mod python;

use super::Server;

/// Every server, in the order of the report.
pub(super) fn all() -> Vec<Server> {
    let first = [nginx::SERVERS, httpd::SERVERS, node::SERVERS, python::SERVERS, golang::SERVERS];
    let more = [grpc::SERVERS, goodbye::SERVERS];
    [first.concat(), more.concat()].concat()
}

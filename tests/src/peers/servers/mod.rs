//! Servers, a file for each family.

mod golang;
pub(super) mod goodbye;
mod grpc;
mod httpd;
mod nghttpd;
mod nginx;
mod node;
mod python;

use super::Server;

/// Every server, in the order of the report.
pub(super) fn all() -> Vec<Server> {
    let first = [nginx::SERVERS, httpd::SERVERS, node::SERVERS, python::SERVERS, golang::SERVERS];
    let more = [nghttpd::SERVERS, grpc::SERVERS, goodbye::SERVERS];
    [first.concat(), more.concat()].concat()
}

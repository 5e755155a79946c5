//! Servers, a file for each family.

mod golang;
mod grpc;
mod httpd;
mod nginx;
mod node;
mod python;

use super::Server;

/// Every server, in the order of the report.
pub(super) fn all() -> Vec<Server> {
    [nginx::SERVERS, httpd::SERVERS, node::SERVERS, python::SERVERS, golang::SERVERS, grpc::SERVERS]
        .concat()
}

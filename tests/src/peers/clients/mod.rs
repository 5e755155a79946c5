//! Clients, a file for each family.

mod golang;
mod grpc;
mod node;
mod proxy;
mod python;
mod tools;

use super::Client;

/// Every client, in the order of the report.
pub(super) fn all() -> Vec<Client> {
    [python::CLIENTS, node::CLIENTS, tools::CLIENTS, proxy::CLIENTS, golang::CLIENTS, grpc::CLIENTS]
        .concat()
}

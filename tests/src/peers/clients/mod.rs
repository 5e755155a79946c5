//! Clients, a file for each family.

mod node;
mod proxy;
mod python;
mod tools;

use super::Client;

/// Clients that end a connection with a reset when they have read all of its last response, so as not to
/// have it in TIME_WAIT.
pub(super) const END_WITH_RESETS: [&str; 1] = ["haproxy"];

/// Every client, in the order of the report.
pub(super) fn all() -> Vec<Client> {
    [python::CLIENTS, node::CLIENTS, tools::CLIENTS, proxy::CLIENTS].concat()
}

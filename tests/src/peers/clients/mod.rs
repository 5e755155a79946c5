//! Clients, a file for each family.

mod node;
mod python;

use super::Client;

/// Every client, in the order of the report.
pub(super) fn all() -> Vec<Client> {
    [python::CLIENTS, node::CLIENTS].concat()
}

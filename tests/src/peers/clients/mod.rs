//! Clients, a file for each family.

mod python;

use super::Client;

/// Every client, in the order of the report.
pub(super) fn all() -> Vec<Client> {
    [python::CLIENTS].concat()
}

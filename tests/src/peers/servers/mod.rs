//! Servers, a file for each family.

mod nginx;
mod python;

use super::Server;

/// Every server, in the order of the report.
pub(super) fn all() -> Vec<Server> {
    [nginx::SERVERS, python::SERVERS].concat()
}

//! The HTTP interface (HTTP/1.1 and JSON on a Unix socket): types shared with the command line, the
//! server, and who may do what.
//!
//! [`server`] accepts connections and limits what they may cost, [`peer`] asks the kernel who calls,
//! [`auth`] decides whether they may, `routes` answers, and `events` streams. `page` is what a browser shows, and
//! `browser` keeps pages of others out. `activity`,
//! `retiring` and `status` are pure: from the kernel's and the executor's view to the words of [`protocol`].

mod activity;
mod app;
pub mod auth;
mod browser;
mod checks;
pub(crate) mod connection;
mod drains;
mod error;
mod events;
mod extract;
mod handoff;
mod holds;
mod metrics;
mod page;
pub mod peer;
mod place;
pub mod protocol;
mod retiring;
mod routes;
mod seats;
pub mod server;
mod stalled;
mod status;
pub mod tcp;
#[cfg(test)]
mod testing;
mod timeout;

pub use app::App;
pub use connection::Connections;
pub use drains::Drains;
pub use routes::router;
pub use seats::Seats;

//! drainctl takes an unmodified TCP server out of service so that no client sees an error, and says
//! when it is safe to stop it. The library behind the two programs `drain-agent` and `drainctl`.
//!
//! The rooms, from the inside out: [`drain`] is the pure core (no I/O, no clock), [`kernel`] the only
//! place that talks to eBPF and netlink, [`executor`] carries out what the core decides, [`api`] is the
//! HTTP interface, [`carry`] takes late
//! connections to a peer, [`registries`] tells registries of drains, [`pods`] knows which pod is which, [`daemon`] the agent's life from start to stop, [`flags`] its options, and [`cli`] the command line.
pub mod api;
pub mod carry;
pub mod cli;
pub mod daemon;
pub mod drain;
pub mod executor;
mod failpoint;
pub mod flags;
pub mod hook;
pub mod install;
pub mod kernel;
pub mod pods;
pub mod privileges;
pub mod registries;

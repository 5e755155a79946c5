//! hyper as a peer: `hyper server …` and `hyper client …`. The contract is in `tests/peers/README.md`.

mod client;
mod server;
mod tally;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// A server of HTTP/1.1 and of HTTP/2 with prior knowledge, or a client of one of them.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    Server(server::Options),
    Client(client::Options),
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match cli.role {
        Role::Server(options) => runtime.block_on(server::run(options)),
        Role::Client(options) => runtime.block_on(client::run(options)),
    }
}

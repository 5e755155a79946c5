//! Real servers and clients in pairs, while the server is drained: those that need little to be installed.
//! `cargo xtask test peers` runs all.

use anyhow::{Result, ensure};
use drainctl_tests::{
    agent::Agent,
    peers::{self, Settings},
};

/// Drains each pair's server and insists that its client noticed nothing.
fn all_pass(names: &[&str]) -> Result<()> {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let agent = Agent::start()?;
    let mut failed = Vec::new();
    for pair in peers::pairs(&names)? {
        let outcome = peers::run(&agent, pair, Settings::default());
        let line = peers::line(&pair, &outcome);
        println!("{line}");
        if !outcome.is_ok_and(|cell| cell.complaints.is_empty()) {
            failed.push(line);
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}

#[test]
fn nginx_loses_no_client() -> Result<()> {
    all_pass(&["http1/nginx/http.client", "http1/nginx/node-http", "http2/nginx/node-http2"])
}

#[test]
fn node_loses_no_client() -> Result<()> {
    all_pass(&[
        "http1/node-http/http.client",
        "http1/node-http/node-http",
        "http1/node-http/nginx-proxy",
        "http2/node-http2/node-http2",
    ])
}

#[test]
fn a_websocket_comes_to_its_own_end() -> Result<()> {
    all_pass(&["websocket"])
}

/// The servers called goodbye do by themselves what drainctl makes others do: the harness can pass.
#[test]
fn clients_leave_a_server_that_says_goodbye() -> Result<()> {
    all_pass(&["http1/goodbye/http.client", "http2/goodbye/node-http2"])
}

#[test]
fn go_loses_no_client() -> Result<()> {
    // Not Go as a client of HTTP/2: a GOAWAY that finds it without a stream leaves the connection open (docs/clients.md).
    all_pass(&["http1/go/go", "http2/go/node-http2", "http1/nginx/go"])
}

#[test]
fn grpc_loses_no_call() -> Result<()> {
    all_pass(&["grpc/grpcio/grpc-go", "grpc/grpc-go/grpcio", "grpc/grpc-go/grpc-go"])
}

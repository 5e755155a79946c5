//! The report: a table for each protocol, servers down and clients across, and the reasons below.

use std::fmt::{self, Display};

use anyhow::Error;

use super::{Cell, Pair, Protocol};

/// Mark of a pair whose client breaks off its requests at any GOAWAY, and did.
const ABORTS: &str = "aborts";

/// What came out of all pairs.
#[derive(Debug, Default)]
pub struct Matrix {
    rows: Vec<(Pair, Result<Cell, Error>)>,
}

impl Matrix {
    /// Takes the outcomes, in the order of the report.
    pub fn new(rows: Vec<(Pair, Result<Cell, Error>)>) -> Self {
        Self { rows }
    }

    /// Whether all have passed, and there were any.
    pub fn passed(&self) -> bool {
        !self.rows.is_empty() && self.rows.iter().all(|(_, outcome)| complaints(outcome).is_empty())
    }

    fn table(&self, protocol: Protocol, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows: Vec<_> = self.rows.iter().filter(|(pair, _)| pair.protocol == protocol).collect();
        let (mut servers, mut clients) = (Vec::new(), Vec::new());
        for (pair, _) in &rows {
            if !servers.contains(&pair.server.name) {
                servers.push(pair.server.name);
            }
        }
        for client in super::clients::all() {
            if rows.iter().any(|(pair, _)| pair.client.name == client.name) {
                clients.push(client.name);
            }
        }
        if rows.is_empty() {
            return Ok(());
        }
        writeln!(f, "| {} | {} |", protocol.name(), clients.join(" | "))?;
        writeln!(f, "| --- |{}", " --- |".repeat(clients.len()))?;
        for server in servers {
            let cells: Vec<&str> = clients
                .iter()
                .map(|client| {
                    let same =
                        |pair: &Pair| (pair.server.name, pair.client.name) == (server, client);
                    rows.iter().find(|(pair, _)| same(pair)).map_or("", |(_, cell)| mark(cell))
                })
                .collect();
            writeln!(f, "| {server} | {} |", cells.join(" | "))?;
        }
        writeln!(f)
    }
}

impl Display for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Protocol::ALL.iter().try_for_each(|protocol| self.table(*protocol, f))?;
        let failed: Vec<_> =
            self.rows.iter().filter(|(_, outcome)| !complaints(outcome).is_empty()).collect();
        for (pair, outcome) in &failed {
            writeln!(f, "FAIL {}: {}", pair.name(), complaints(outcome).join("; "))?;
        }
        let aborted: Vec<_> =
            self.rows.iter().filter(|(_, outcome)| mark(outcome) == ABORTS).collect();
        for (pair, outcome) in &aborted {
            let known = outcome.as_ref().map_or(&[][..], |cell| &cell.known);
            writeln!(f, "{ABORTS} {}: {}", pair.name(), one_line(&known.join("; ")))?;
        }
        let (failed, aborted) = (failed.len(), aborted.len());
        let passed = self.rows.len() - failed - aborted;
        writeln!(f, "{passed} pairs passed, {failed} failed, {aborted} with a client that")?;
        writeln!(f, "breaks off its requests at any GOAWAY (pass*: without POST)")
    }
}

/// One line about a pair, as soon as it is through.
pub fn line(pair: &Pair, outcome: &Result<Cell, Error>) -> String {
    let figures = outcome.as_ref().map_or_else(
        |_| String::new(),
        |cell| {
            let Cell { summary, flows, took, .. } = cell;
            let (responses, posts) = (summary.responses, summary.posts.sent);
            let refused = match summary.refused {
                0 => String::new(),
                refused => format!(", {refused} sent again after GOAWAY"),
            };
            format!(
                "{responses} responses, {posts} POSTs, {flows} flows, drained in {:.1} s{refused}",
                took.as_secs_f64()
            )
        },
    );
    let complaints = complaints(outcome).join("; ");
    format!("{:10} {:45} {figures} {complaints}", mark(outcome), pair.name())
}

fn mark(outcome: &Result<Cell, Error>) -> &'static str {
    match outcome {
        Ok(cell) if !cell.complaints.is_empty() => "FAIL",
        Ok(cell) if !cell.known.is_empty() => ABORTS,
        Ok(cell) if cell.has_posts() => "pass",
        Ok(_) => "pass*",
        Err(_) => "FAIL",
    }
}

fn complaints(outcome: &Result<Cell, Error>) -> Vec<String> {
    match outcome {
        Ok(cell) => cell.complaints.iter().map(|text| one_line(text)).collect(),
        Err(error) => vec![one_line(&format!("could not be run: {error:#}"))],
    }
}

/// Messages of programs can be long; what they begin with tells most.
fn one_line(text: &str) -> String {
    const LONGEST: usize = 600;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(LONGEST).collect()
}

//! Real servers and clients of other projects, in pairs, while drainctl takes the server out of service.
//! What a program has to do to take part is in `tests/peers/README.md`; here is who takes part, and how
//! one pair is run and judged.

mod cell;
mod clients;
mod contract;
mod matrix;
mod place;
mod resets;
mod servers;

use anyhow::{Result, ensure};

pub use self::{
    cell::{Cell, Settings, run},
    contract::{Posts, SIZES, SLOW, Summary, body},
    matrix::{Matrix, line},
    place::{Launch, Place},
};

/// What a pair talks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// HTTP/1.1 in clear text.
    Http1,
    /// HTTP/2 in clear text, with prior knowledge.
    Http2,
    /// HTTP/2 in clear text, entered by `Upgrade: h2c`.
    Http2Upgrade,
    /// gRPC in clear text.
    Grpc,
    /// WebSocket in clear text.
    WebSocket,
}

impl Protocol {
    /// All, in the order of the report.
    pub const ALL: [Self; 5] =
        [Self::Http1, Self::Http2, Self::Http2Upgrade, Self::Grpc, Self::WebSocket];

    /// Its name in reports and filters.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Http2Upgrade => "h2c-upgrade",
            Self::Grpc => "grpc",
            Self::WebSocket => "websocket",
        }
    }
}

/// What clients can ask of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `GET /body/<size>`, with a Content-Length.
    Body,
    /// `GET /chunked/<size>`, without one.
    Chunked,
    /// `HEAD /body/<size>`.
    Head,
    /// `POST /count/<id>`, with a side effect that is counted.
    Post,
    /// `GET /status/204` and `GET /status/304`.
    Status,
    /// `GET /slow/<size>`, in pieces with pauses.
    Slow,
}

impl Kind {
    /// All there are.
    pub const ALL: [Self; 6] =
        [Self::Body, Self::Chunked, Self::Head, Self::Post, Self::Status, Self::Slow];

    /// Its name on a client's command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Body => "body",
            Self::Chunked => "chunked",
            Self::Head => "head",
            Self::Post => "post",
            Self::Status => "status",
            Self::Slow => "slow",
        }
    }
}

/// A server that takes part.
#[derive(Clone, Copy, Debug)]
pub struct Server {
    /// Its name in reports and filters.
    pub name: &'static str,
    /// What it talks; each is a pair of its own with every client.
    pub protocols: &'static [Protocol],
    /// What it answers; empty for gRPC and WebSocket, where all do the same.
    pub kinds: &'static [Kind],
    /// How to start it.
    pub launch: fn(&Place, Protocol) -> Result<Launch>,
}

/// A client that takes part.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    /// Its name in reports and filters.
    pub name: &'static str,
    /// What it talks.
    pub protocols: &'static [Protocol],
    /// What it can ask for and check.
    pub kinds: &'static [Kind],
    /// How to start it; `Place` knows the address to ask.
    pub launch: fn(&Place, Protocol) -> Result<Vec<Launch>>,
}

/// A server and a client that talk the same protocol.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    /// What they talk.
    pub protocol: Protocol,
    /// Who is drained.
    pub server: Server,
    /// Who must not notice.
    pub client: Client,
}

impl Pair {
    /// What the client asks for: all it can, of what the server answers.
    pub fn kinds(&self) -> Vec<Kind> {
        let together = |kind| (self.protocol, self.server.name, self.client.name, kind);
        let both = |kind: &Kind| {
            self.server.kinds.contains(kind) && !clients::IMPOSSIBLE.contains(&together(*kind))
        };
        self.client.kinds.iter().copied().filter(both).collect()
    }

    /// Its name in reports and filters.
    pub fn name(&self) -> String {
        format!("{}/{}/{}", self.protocol.name(), self.server.name, self.client.name)
    }
}

/// Every pair whose `protocol/server/client` matches one of the filters, in the order of the report. A
/// filter is such a name, where a part may be `*` or missing at the end; or the name of a protocol, a
/// server or a client alone.
///
/// # Errors
/// A filter that matches nothing: a typing error must not look like a pass.
pub fn pairs(filters: &[String]) -> Result<Vec<Pair>> {
    let mut all = Vec::new();
    for protocol in Protocol::ALL {
        for server in servers::all().into_iter().filter(|peer| peer.protocols.contains(&protocol)) {
            let clients = clients::all().into_iter();
            let clients = clients.filter(|peer| peer.protocols.contains(&protocol));
            let works =
                |client: &Client| !clients::BROKEN.contains(&(protocol, server.name, client.name));
            let clients = clients.filter(works);
            all.extend(clients.map(|client| Pair { protocol, server, client }));
        }
    }
    for filter in filters {
        ensure!(all.iter().any(|pair| matches(filter, pair)), "no pair is called {filter:?}");
    }
    all.retain(|pair| match filters {
        [] => pair.server.name != servers::goodbye::NAME,
        _ => filters.iter().any(|filter| matches(filter, pair)),
    });
    Ok(all)
}

fn matches(filter: &str, pair: &Pair) -> bool {
    let parts = [pair.protocol.name(), pair.server.name, pair.client.name];
    if filter.contains('/') {
        let mut wanted = filter.split('/').zip(parts);
        return wanted.all(|(wanted, part)| wanted == "*" || wanted.is_empty() || wanted == part);
    }
    // The servers that are a control are never meant by the name of a protocol or a client.
    let control = pair.server.name == servers::goodbye::NAME;
    if control { filter == pair.server.name } else { parts.contains(&filter) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut names: Vec<String> =
            pairs(&[]).expect("all pairs").iter().map(Pair::name).collect();
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn filters_find_pairs() {
        let found = |filter: &str| pairs(&[filter.to_owned()]).map(|pairs| pairs.len());
        assert!(found("nginx").is_ok_and(|count| count > 0));
        assert!(found("http1/nginx/http.client").is_ok_and(|count| count == 1));
        assert!(found("http1/*/http.client").is_ok_and(|count| count > 1));
        assert!(found("http1/nginx").is_ok_and(|count| count > 0));
        assert!(found("no-such-server").is_err());
    }
}

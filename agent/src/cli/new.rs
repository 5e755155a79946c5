//! `--new`: what happens to new connections, and the names of the peers that may take them.

use std::{net::IpAddr, str::FromStr, time::Duration};

use hickory_resolver::Resolver;
use tokio::time::timeout;

use super::{
    exit::{Exit, Failure},
    value,
};
use crate::api::protocol::{Forward, Handoff, NewConnections, Peer};

/// How long a name may take to be resolved.
const RESOLVE_WITHIN: Duration = Duration::from_secs(5);

/// One `--new`, as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum New {
    Reject,
    Drop,
    Forward(To),
    Handoff(Handoff),
}

/// Where to, as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum To {
    Peer(Peer),
    Name(String, Option<u16>),
}

impl FromStr for New {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            None if text == "reject" => Ok(Self::Reject),
            None if text == "drop" => Ok(Self::Drop),
            Some(("forward", to)) => to.parse().map(Self::Forward),
            Some(("handoff", to)) => handoff(to).map(Self::Handoff),
            _ => Err(
                "either reject, drop, forward=ADDR[:PORT], handoff=pid:N or handoff=port:N, for example forward=web-next:8080"
                    .into(),
            ),
        }
    }
}

/// `pid:N` or `port:N`.
fn handoff(text: &str) -> Result<Handoff, String> {
    match text.split_once(':') {
        Some(("pid", pid)) => value::pid(pid).map(Handoff::Pid),
        Some(("port", port)) => value::port(port).map(Handoff::Port),
        _ => Err("either handoff=pid:N or handoff=port:N, for example handoff=port:8081".into()),
    }
}

impl FromStr for To {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(peer) = text.parse() {
            return Ok(Self::Peer(peer));
        }
        let (name, port) = match text.split_once(':') {
            None => (text, None),
            Some((name, port)) => (name, Some(value::port(port)?)),
        };
        let is_name = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        if name.is_empty() || !name.chars().all(is_name) {
            return Err(
                "an address or a name, and a port if it is not the service's own, for example \
                        10.0.0.2, [2001:db8::2]:8080 or web-next:8080"
                    .into(),
            );
        }
        Ok(Self::Name(name.to_owned(), port))
    }
}

/// What all `--new` together mean. Names are resolved here and now, by the resolver that this process has.
///
/// # Errors
/// They contradict each other, or a name has no address.
pub(super) async fn connections(
    all: &[New],
    proxy_protocol: bool,
) -> Result<NewConnections, Failure> {
    let mut to = Vec::new();
    for new in all {
        match (new, all) {
            (New::Forward(To::Peer(peer)), _) => to.push(*peer),
            (New::Forward(To::Name(name, port)), _) => to.extend(resolve(name, *port).await?),
            (_, [_]) => {}
            _ => return Err(usage("only --new forward=… can be given more than once")),
        }
    }
    match all {
        [New::Forward(_), ..] if !all.iter().all(|new| matches!(new, New::Forward(_))) => {
            Err(usage("only --new forward=… can be given more than once"))
        }
        [New::Forward(_), ..] => Ok(NewConnections::Forward(Forward { to, proxy_protocol })),
        _ if proxy_protocol => Err(usage("--proxy-protocol only goes with --new forward=…")),
        [New::Drop] => Ok(NewConnections::Drop),
        [New::Handoff(to)] => Ok(NewConnections::Handoff(*to)),
        _ => Ok(NewConnections::Reject),
    }
}

/// All addresses of a name.
async fn resolve(name: &str, port: Option<u16>) -> Result<Vec<Peer>, Failure> {
    let found = addresses(name).await;
    let found = found.map_err(|why| usage(&format!("{why} (--new forward)")))?;
    Ok(found.into_iter().map(|ip| Peer { ip, port }).collect())
}

/// All addresses of a name, as the resolver of this process has them.
///
/// # Errors
/// It has none, in words.
pub(crate) async fn addresses(name: &str) -> Result<Vec<IpAddr>, String> {
    let fail =
        |why: &dyn std::fmt::Display| format!("cannot find out the address of {name}: {why}");
    let resolver = Resolver::builder_tokio().and_then(|builder| builder.build());
    let resolver = resolver.map_err(|e| fail(&e))?;
    let found = timeout(RESOLVE_WITHIN, resolver.lookup_ip(name)).await;
    let found = found.map_err(|_| fail(&"no answer within 5s"))?.map_err(|e| fail(&e))?;
    Ok(found.iter().collect())
}

fn usage(message: &str) -> Failure {
    Failure::new(Exit::Usage, format!("{message}; nothing was changed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn meant(all: &[&str], proxy_protocol: bool) -> Result<NewConnections, String> {
        let all: Result<Vec<New>, String> = all.iter().map(|text| text.parse()).collect();
        connections(&all?, proxy_protocol).await.map_err(|failure| {
            assert_eq!(failure.exit, Exit::Usage);
            failure.message
        })
    }

    #[tokio::test]
    async fn what_may_be_said_and_what_it_means() {
        let forward = |to: &[&str], proxy_protocol| {
            let to = to.iter().map(|peer| peer.parse().unwrap()).collect();
            NewConnections::Forward(Forward { to, proxy_protocol })
        };
        let two = ["forward=10.0.0.2", "forward=[::1]:80"];
        #[rustfmt::skip]
        let table = [
            (&["reject"][..], false, NewConnections::Reject),
            (&["drop"], false, NewConnections::Drop),
            (&["handoff=pid:4711"], false, NewConnections::Handoff(Handoff::Pid(4711))),
            (&["handoff=port:8081"], false, NewConnections::Handoff(Handoff::Port(8081))),
            (&["forward=10.0.0.2:81"], true, forward(&["10.0.0.2:81"], true)),
            (&two, false, forward(&["10.0.0.2", "[::1]:80"], false)),
            (&["forward=localhost:81"], false, forward(&["127.0.0.1:81", "[::1]:81"], false)),
        ];
        for (all, proxy_protocol, expected) in table {
            let mut got = meant(all, proxy_protocol).await.unwrap();
            if let (NewConnections::Forward(got), ["forward=localhost:81"]) = (&mut got, all) {
                assert!(got.to.iter().all(|peer| peer.ip.is_loopback() && peer.port == Some(81)));
                continue;
            }
            assert_eq!(got, expected, "{all:?}");
        }
        #[rustfmt::skip]
        let table = [
            (&["forget"][..], false, "either reject"),
            (&["handoff"], false, "either reject"),
            (&["handoff=8081"], false, "either handoff=pid:N"),
            (&["handoff=unit:web"], false, "either handoff=pid:N"),
            (&["handoff=port:0"], false, "a TCP port"),
            (&["handoff=port:70000"], false, "a TCP port"),
            (&["handoff=pid:0"], false, "a process id"),
            (&["handoff=pid:4294967295"], false, "a process id"),
            (&["handoff=pid:1", "handoff=pid:2"], false, "more than once"),
            (&["forward="], false, "an address or a name"),
            (&["forward=web:x"], false, "a TCP port"),
            (&["forward=10.0.0.2:0"], false, "a TCP port"),
            (&["reject", "forward=10.0.0.2"], false, "more than once"),
            (&["forward=10.0.0.2", "drop"], false, "more than once"),
            (&["drop", "drop"], false, "more than once"),
            (&["reject"], true, "only goes with"),
        ];
        for (all, proxy_protocol, expected) in table {
            let error = meant(all, proxy_protocol).await.unwrap_err();
            assert!(error.contains(expected), "{all:?}: {error}");
        }
    }
}

//! What happens to new connections once the gate is closed.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// Most targets of one drain.
pub const MAX_TARGETS: usize = 64;

/// What happens to new connections once the gate is closed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NewConnections {
    /// The kernel answers the SYN with a RST: connect() fails at once.
    #[default]
    Reject,
    /// Nothing answers the SYN: the client repeats it until it gives up, or gets in.
    Drop,
    /// The agent carries them to a peer and back.
    Forward(Forward),
    /// The kernel gives them to the listening sockets of the process that takes over, on the same machine.
    Handoff(Handoff),
}

/// Who takes over the connections of a port: another process in the same network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Handoff {
    /// The process with this id, and its descendants.
    Pid(u32),
    /// The same, but by what they listen on on the drained port itself: they are to have its place.
    Successor(u32),
    /// Whoever listens on this port, which is another one.
    Port(u16),
}

/// Where the agent carries new connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// Peers, which take turns; one to [`MAX_TARGETS`].
    pub to: Vec<Peer>,
    /// Whether the peer is told who the client is, in a header of the PROXY protocol, version 2.
    #[serde(default)]
    pub proxy_protocol: bool,
}

/// A peer's address: `10.0.0.2`, `10.0.0.2:8080`, `2001:db8::2` or `[2001:db8::2]:8080`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Peer {
    /// Its IP address.
    pub ip: IpAddr,
    /// Its port, 1 to 65535; `None`: that of the drained service.
    pub port: Option<u16>,
}

/// A text that is no address of a [`Peer`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is no address of a peer; right would be 10.0.0.2, 10.0.0.2:8080, 2001:db8::2 or [2001:db8::2]:8080"
)]
pub struct NoPeer(String);

/// Why nothing can be carried to these peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForwardError {
    /// There is no peer.
    #[error("--new forward needs at least one address")]
    NoPeer,
    /// There are too many.
    #[error("--new forward takes at most {MAX_TARGETS} addresses, not {0}")]
    TooMany(usize),
}

impl NewConnections {
    /// Who takes them over, if anybody does.
    pub fn handoff(&self) -> Option<Handoff> {
        match self {
            Self::Handoff(to) => Some(*to),
            Self::Reject | Self::Drop | Self::Forward(_) => None,
        }
    }

    /// Whether the agent itself has to take them.
    pub fn takes_stragglers(&self) -> bool {
        matches!(self, Self::Drop | Self::Forward(_))
    }

    /// Whether the agent carries them to a peer.
    pub fn carries(&self) -> bool {
        matches!(self, Self::Forward(_))
    }

    /// The same, however it was written: which peer comes first, or twice, makes no difference.
    pub(super) fn normalized(mut self) -> Self {
        if let Self::Forward(forward) = &mut self {
            forward.to.sort();
            forward.to.dedup();
        }
        self
    }

    /// Whether somebody serves them, so that no client notices that the gate is closed.
    pub fn are_served(&self) -> bool {
        matches!(self, Self::Forward(_) | Self::Handoff(_))
    }

    /// Checks what types cannot say.
    pub(super) fn check(&self) -> Result<(), ForwardError> {
        match self {
            Self::Forward(forward) if forward.to.is_empty() => Err(ForwardError::NoPeer),
            Self::Forward(forward) if forward.to.len() > MAX_TARGETS => {
                Err(ForwardError::TooMany(forward.to.len()))
            }
            _ => Ok(()),
        }
    }
}

impl Forward {
    /// The peers of a service on this port.
    pub fn targets(&self, port: u16) -> Vec<SocketAddr> {
        let target = |peer: &Peer| SocketAddr::new(peer.ip, peer.port.unwrap_or(port));
        self.to.iter().map(target).collect()
    }
}

/// As on the command line.
impl fmt::Display for NewConnections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reject => f.write_str("reject"),
            Self::Drop => f.write_str("drop"),
            Self::Forward(Forward { to, proxy_protocol }) => {
                let to: Vec<_> = to.iter().map(|peer| format!("forward={peer}")).collect();
                let suffix = if *proxy_protocol { " with --proxy-protocol" } else { "" };
                write!(f, "{}{suffix}", to.join(" "))
            }
            Self::Handoff(Handoff::Pid(pid) | Handoff::Successor(pid)) => {
                write!(f, "handoff=pid:{pid}")
            }
            Self::Handoff(Handoff::Port(port)) => write!(f, "handoff=port:{port}"),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.ip, port).fmt(f),
            None => self.ip.fmt(f),
        }
    }
}

impl FromStr for Peer {
    type Err = NoPeer;

    fn from_str(text: &str) -> Result<Self, NoPeer> {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if let Ok(ip) = bare.unwrap_or(text).parse() {
            return Ok(Self { ip, port: None });
        }
        match text.parse::<SocketAddr>() {
            Ok(addr) if addr.port() > 0 => Ok(Self { ip: addr.ip(), port: Some(addr.port()) }),
            _ => Err(NoPeer(text.to_owned())),
        }
    }
}

impl TryFrom<String> for Peer {
    type Error = NoPeer;

    fn try_from(text: String) -> Result<Self, NoPeer> {
        text.parse()
    }
}

impl From<Peer> for String {
    fn from(peer: Peer) -> Self {
        peer.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_with_and_without_a_port() {
        #[rustfmt::skip]
        let table = [
            ("10.0.0.2", "10.0.0.2", "10.0.0.2:80"),
            ("10.0.0.2:8080", "10.0.0.2:8080", "10.0.0.2:8080"),
            ("::1", "::1", "[::1]:80"),
            ("[2001:db8::2]", "2001:db8::2", "[2001:db8::2]:80"),
            ("[2001:db8::2]:8080", "[2001:db8::2]:8080", "[2001:db8::2]:8080"),
        ];
        for (text, shown, target) in table {
            let peer: Peer = text.parse().unwrap();
            assert_eq!(peer.to_string(), shown);
            let forward = Forward { to: vec![peer], proxy_protocol: false };
            assert_eq!(forward.targets(80), [target.parse().unwrap()]);
        }
        for wrong in ["", "web", "10.0.0.2:0", "10.0.0.2:", "10.0.0.2:99999", "[::1", "::1]:80"] {
            assert!(wrong.parse::<Peer>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn in_json_it_is_a_word_or_an_object() {
        let forward = Forward { to: vec!["10.0.0.2:8080".parse().unwrap()], proxy_protocol: true };
        #[rustfmt::skip]
        let table = [
            (NewConnections::Reject, r#""reject""#),
            (NewConnections::Drop, r#""drop""#),
            (NewConnections::Forward(forward), r#"{"forward":{"to":["10.0.0.2:8080"],"proxy_protocol":true}}"#),
        ];
        for (new, json) in table {
            assert_eq!(serde_json::to_string(&new).unwrap(), json);
            assert_eq!(serde_json::from_str::<NewConnections>(json).unwrap(), new);
        }
        for wrong in [r#"{"forward":{"to":["web"]}}"#, r#"{"forward":{"to":[],"tls":true}}"#] {
            assert!(serde_json::from_str::<NewConnections>(wrong).is_err(), "{wrong}");
        }
    }
}

//! Which clients a drain treats differently from the others, by their address.

use std::{collections::BTreeMap, fmt, net::IpAddr, str::FromStr, time::Duration};

use humantime::format_duration;
use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

/// Most prefixes of one list.
const MAX_PREFIXES: usize = 64;
/// Shortest `--keep-clients`: connections that are there are noted again about once a second.
const SHORTEST_KEEP: Duration = Duration::from_secs(2);

/// An address prefix without host bits; IPv4 is IPv4, also where it was written as v4-mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr(IpNet);

/// Why a text is no prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// It is no address, or no prefix.
    #[error(
        "\"{0}\" is neither an address nor a prefix; write for example 10.0.0.0/8, 192.0.2.7 or 2001:db8::/32"
    )]
    Malformed(String),
    /// There are bits set behind the prefix.
    #[error("\"{text}\" has bits set behind the prefix; the network it lies in is {meant}")]
    HostBits {
        /// What was written.
        text: String,
        /// The prefix it lies in.
        meant: Cidr,
    },
}

impl Cidr {
    /// Length of the prefix in bits.
    pub fn prefix_len(self) -> u8 {
        self.0.prefix_len()
    }

    /// First address of the prefix.
    pub fn addr(self) -> IpAddr {
        self.0.addr()
    }

    /// Whether the address, which is not v4-mapped, lies in it.
    pub fn contains(self, addr: IpAddr) -> bool {
        self.0.contains(&addr)
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let malformed = || CidrError::Malformed(text.to_owned());
        let net = match text.parse::<IpAddr>() {
            Ok(addr) => IpNet::from(addr),
            Err(_) => text.parse().map_err(|_| malformed())?,
        };
        let net = canonical(net);
        let meant = Self(net.trunc());
        if meant.0 != net {
            return Err(CidrError::HostBits { text: text.to_owned(), meant });
        }
        Ok(meant)
    }
}

/// A prefix of v4-mapped addresses as one of IPv4 addresses.
fn canonical(net: IpNet) -> IpNet {
    let IpNet::V6(v6) = net else { return net };
    let mapped = v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(96));
    let v4 = mapped.and_then(|(addr, len)| Ipv4Net::new(addr, len).ok());
    v4.map_or(net, IpNet::V4)
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<String> for Cidr {
    type Error = CidrError;

    fn try_from(text: String) -> Result<Self, CidrError> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> Self {
        cidr.to_string()
    }
}

/// A list of clients, by the option that names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum List {
    /// Neither counted nor refused.
    Ignore,
    /// Counted, and not refused.
    Allow,
    /// Refused from the drain's first moment on.
    FailHealthFrom,
}

impl List {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ignore, Self::Allow, Self::FailHealthFrom];

    /// The option.
    pub fn option(self) -> &'static str {
        match self {
            Self::Ignore => "--ignore",
            Self::Allow => "--allow",
            Self::FailHealthFrom => "--fail-health-from",
        }
    }
}

/// The options as a person or a program gave them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdmissionRequest {
    /// Clients that are neither counted nor refused.
    pub ignore: Vec<Cidr>,
    /// Clients that are counted, and not refused.
    pub allow: Vec<Cidr>,
    /// Clients that are refused from the drain's first moment on.
    pub fail_health_from: Vec<Cidr>,
    /// Clients that had a connection so lately are not refused.
    pub keep_clients: Option<Duration>,
}

/// Which clients a drain treats differently from the others, validated. Of several prefixes that hold an address
/// the longest decides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Admission {
    lists: BTreeMap<Cidr, List>,
    keep_clients: Option<Duration>,
}

/// Why options make no drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdmissionError {
    /// It cannot be told what is wanted.
    #[error("{cidr} is named by {} and by {}: leave it out of one of them", .first.option(), .second.option())]
    TwoLists {
        /// The prefix.
        cidr: Cidr,
        /// A list it is in.
        first: List,
        /// Another.
        second: List,
    },
    /// There is no room.
    #[error("{} names {count} prefixes: at most {MAX_PREFIXES} are possible, so join some to shorter ones", .list.option())]
    TooMany {
        /// The list.
        list: List,
        /// How many it has.
        count: usize,
    },
    /// Nothing would be drained, or everybody refused without settling.
    #[error("{} {cidr} would {}", .list.option(), everybody(*.list))]
    Everybody {
        /// The list.
        list: List,
        /// The prefix of no bits.
        cidr: Cidr,
    },
    /// Too short to be kept track of.
    #[error("--keep-clients {} is too short: at least {} is possible; to keep none, leave it out", format_duration(*.0), format_duration(SHORTEST_KEEP))]
    KeepTooShort(Duration),
}

/// What a list does that names everybody.
fn everybody(list: List) -> &'static str {
    match list {
        List::Ignore => {
            "ignore everybody, so that nothing would be waited for: name only the clients that do not matter"
        }
        List::Allow => {
            "let everybody in, so that nothing would be drained: name only the clients that must get in"
        }
        List::FailHealthFrom => {
            "refuse everybody from the first moment on: that is --quiet 0s, and this is for health checkers only"
        }
    }
}

impl AdmissionRequest {
    /// The validated options.
    ///
    /// # Errors
    /// They contradict each other, or leave nothing to be drained.
    pub fn validate(&self) -> Result<Admission, AdmissionError> {
        let given = [
            (List::Ignore, &self.ignore),
            (List::Allow, &self.allow),
            (List::FailHealthFrom, &self.fail_health_from),
        ];
        let mut lists = BTreeMap::new();
        for (list, cidrs) in given {
            let count = cidrs.len();
            if count > MAX_PREFIXES {
                return Err(AdmissionError::TooMany { list, count });
            }
            for &cidr in cidrs {
                if cidr.prefix_len() == 0 {
                    return Err(AdmissionError::Everybody { list, cidr });
                }
                match lists.insert(cidr, list) {
                    Some(first) if first != list => {
                        return Err(AdmissionError::TwoLists { cidr, first, second: list });
                    }
                    _ => {}
                }
            }
        }
        match self.keep_clients {
            Some(keep) if keep < SHORTEST_KEEP => Err(AdmissionError::KeepTooShort(keep)),
            keep_clients => Ok(Admission { lists, keep_clients }),
        }
    }
}

impl Admission {
    /// Whether all clients are treated alike.
    pub fn is_empty(&self) -> bool {
        self.lists.is_empty() && self.keep_clients.is_none()
    }

    /// Whether some clients are named by their address.
    pub fn has_lists(&self) -> bool {
        !self.lists.is_empty()
    }

    /// Each prefix, and which list it is in.
    pub fn lists(&self) -> impl Iterator<Item = (Cidr, List)> {
        self.lists.iter().map(|(cidr, list)| (*cidr, *list))
    }

    /// The prefixes of one list.
    pub fn list(&self, wanted: List) -> Vec<Cidr> {
        self.lists().filter(|(_, list)| *list == wanted).map(|(cidr, _)| cidr).collect()
    }

    /// Which list names this client; v4-mapped addresses are IPv4.
    pub fn list_of(&self, client: IpAddr) -> Option<List> {
        let client = client.to_canonical();
        let holding = self.lists().filter(|(cidr, _)| cidr.contains(client));
        holding.max_by_key(|(cidr, _)| cidr.prefix_len()).map(|(_, list)| list)
    }

    /// Clients that had a connection so lately are not refused.
    pub fn keep_clients(&self) -> Option<Duration> {
        self.keep_clients
    }

    /// Whether connections that count may come although the gate is closed.
    pub fn lets_in(&self) -> bool {
        self.keep_clients.is_some() || self.lists.values().any(|list| *list == List::Allow)
    }

    /// In which options the other differs, in words.
    pub(super) fn contradictions(&self, other: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        for list in List::ALL {
            let (ours, theirs) = (self.list(list), other.list(list));
            if ours != theirs {
                let (ours, theirs) = (words(&ours), words(&theirs));
                differences.push(format!("{} is {ours}, not {theirs}", list.option()));
            }
        }
        if self.keep_clients != other.keep_clients {
            let word = |keep: Option<Duration>| {
                keep.map_or("not set".to_owned(), |keep| format_duration(keep).to_string())
            };
            let (ours, theirs) = (word(self.keep_clients), word(other.keep_clients));
            differences.push(format!("--keep-clients is {ours}, not {theirs}"));
        }
        differences
    }
}

/// `10.0.0.0/8,2001:db8::/32`, or `empty`.
fn words(cidrs: &[Cidr]) -> String {
    match cidrs {
        [] => "empty".to_owned(),
        _ => cidrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
    }
}

#[cfg(test)]
#[path = "admission_tests.rs"]
mod tests;

//! How much one peer may ask for, so that nobody locks the others out.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::time::Instant;

/// Most connections at once, and of one peer.
const MAX_OPEN: usize = 512;
const MAX_OPEN_OF_ONE: usize = 32;
/// Requests a second that a peer may make for ever, and at once after a pause.
const REQUESTS_A_SECOND: f64 = 50.0;
const BURST: f64 = 200.0;
/// Most peers that are remembered; beyond it, debts of those who have no connection are forgotten.
const MAX_PEERS: usize = 4096;

/// The peers. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Pace(Arc<Mutex<HashMap<IpAddr, Peer>>>);

struct Peer {
    open: usize,
    /// Requests that it may still make, as of `at`.
    left: f64,
    at: Instant,
}

/// An open connection; it counts until this is dropped.
pub(super) struct Visit {
    pace: Pace,
    key: IpAddr,
}

/// Why there is no connection.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Full {
    #[error("{MAX_OPEN} connections are open over TCP")]
    Total,
    #[error("this peer has {MAX_OPEN_OF_ONE} connections open")]
    Peer,
}

impl Pace {
    /// Takes note of a connection.
    pub(super) fn enter(&self, ip: IpAddr) -> Result<Visit, Full> {
        let key = key(ip);
        let mut peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if peers.values().map(|peer| peer.open).sum::<usize>() >= MAX_OPEN {
            return Err(Full::Total);
        }
        if peers.len() >= MAX_PEERS {
            peers.retain(|_, peer| peer.open > 0);
        }
        let peer = peers.entry(key).or_insert_with(Peer::new);
        if peer.open >= MAX_OPEN_OF_ONE {
            return Err(Full::Peer);
        }
        peer.open += 1;
        Ok(Visit { pace: self.clone(), key })
    }

    /// Whether the peer may ask something that costs as much as `cost` requests. What it may not do costs nothing.
    pub(super) fn spend(&self, ip: IpAddr, cost: f64) -> bool {
        let mut peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        peers.entry(key(ip)).or_insert_with(Peer::new).spend(cost)
    }
}

impl Peer {
    fn new() -> Self {
        Self { open: 0, left: BURST, at: Instant::now() }
    }

    fn spend(&mut self, cost: f64) -> bool {
        let now = Instant::now();
        let earned = now.duration_since(self.at).as_secs_f64() * REQUESTS_A_SECOND;
        self.left = (self.left + earned).min(BURST);
        self.at = now;
        let may = self.left >= cost;
        if may {
            self.left -= cost;
        }
        may
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut peers = self.pace.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = peers.get_mut(&self.key) {
            peer.open -= 1;
        }
    }
}

/// Of IPv6 whoever has one address has the other 2^64 of its network too.
fn key(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => {
            let network = u128::from(v6) & !u128::from(u64::MAX);
            IpAddr::V6(network.into())
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_peer_does_not_take_all_connections() {
        let pace = Pace::default();
        let enter = |address: &str| pace.enter(ip(address));
        let one: Vec<_> = (0..MAX_OPEN_OF_ONE)
            .map(|n| enter(&format!("2001:db8::{n:x}")).ok().unwrap())
            .collect();
        assert_eq!(enter("2001:db8::ffff:ffff:0:1").err(), Some(Full::Peer));
        assert!(enter("2001:db8:0:1::1").is_ok() && enter("192.0.2.1").is_ok());
        drop(one);
        assert!(enter("2001:db8::1").is_ok());
        let all: Vec<_> = (0..MAX_OPEN)
            .map(|n| {
                pace.enter(IpAddr::from(u32::try_from(n).unwrap().to_be_bytes())).ok().unwrap()
            })
            .collect();
        assert_eq!(enter("192.0.2.1").err(), Some(Full::Total));
        drop(all);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_has_a_burst_and_then_a_rate() {
        let pace = Pace::default();
        let (one, other) = (ip("192.0.2.1"), ip("192.0.2.2"));
        let spent = |peer| (0..1000).take_while(|_| pace.spend(peer, 1.0)).count();
        assert_eq!(spent(one), BURST as usize);
        assert!(pace.spend(other, 10.0));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(spent(one), REQUESTS_A_SECOND as usize);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(spent(one), BURST as usize);
    }
}

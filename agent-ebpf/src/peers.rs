//! Clients by their address: maps that the gate and the tracker share, by pinning.

use aya_ebpf::{
    macros::map,
    maps::{LpmTrie, LruHashMap, lpm_trie::Key},
};
use drainctl_common::peers::{Peer, PeerKey};

/// How the drains under way treat clients, by the longest prefix; written by the agent.
#[map]
static PEERS: LpmTrie<PeerKey, Peer> = LpmTrie::with_max_entries(65_536, 0);

/// When each client last had a flow, boot time in nanoseconds. Written by the tracker. Sized by the agent
/// (`--client-history`); the oldest make room.
#[map]
pub(crate) static CLIENTS: LruHashMap<PeerKey, u64> = LruHashMap::with_max_entries(65_536, 0);

/// How the drain of the service treats this client: one of `peers::verdict`, or 0.
#[inline(always)]
pub(crate) fn verdict(client: PeerKey) -> u32 {
    PEERS.get(Key::new(PeerKey::ALL_BITS, client)).map_or(0, |peer| peer.verdict)
}

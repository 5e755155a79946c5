//! The agent's BPF maps from outside, by bpftool: to check that the tracker itself has counted, and
//! to spoil its counts on purpose.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::cmd;

/// The tracker's maps of one agent.
#[derive(Clone, Debug)]
pub struct AgentMaps {
    slots: u32,
    flows: u32,
    services: u32,
    followed: Option<u32>,
    /// A process of tests may have several agents' maps.
    sockets: Vec<u32>,
    peers: Option<u32>,
    targets: Option<u32>,
}

/// One flow, of `SLOTS` or `FLOWS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Its map.
    map: u32,
    /// Its key there.
    key: Vec<u8>,
    is_in_slot: bool,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// TCP port.
    pub port: u16,
}

/// One entry of `SERVICES`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Flows now.
    pub flows: i64,
    /// Connections ever accepted.
    pub accepted: u64,
    /// Accepted while `FLOWS` was full.
    pub lost: u64,
    rest: Vec<u8>,
}

impl AgentMaps {
    /// Finds the maps of the agent with this process id by its file descriptors.
    pub fn of(pid: u32) -> Result<Self> {
        let (mut slots, mut flows, mut services, mut followed) = (None, None, None, None);
        let (mut sockets, mut peers, mut targets) = (Vec::new(), None, None);
        let ids = map_ids(pid)?;
        let names = names()?;
        for id in ids {
            // Those of another test in this process may be gone by now.
            let Some(name) = names.get(&id) else { continue };
            match name.as_str() {
                "SLOTS" => slots = Some(id),
                "FLOWS" => flows = Some(id),
                "SERVICES" => services = Some(id),
                "FOLLOWED" => followed = Some(id),
                "SOCKETS" => sockets.push(id),
                "PEERS" => peers = Some(id),
                "TARGETS" => targets = Some(id),
                _ => {}
            }
        }
        let slots = slots.context("the agent has no map SLOTS")?;
        let flows = flows.context("the agent has no map FLOWS")?;
        let services = services.context("the agent has no map SERVICES")?;
        Ok(Self { slots, flows, services, followed, sockets, peers, targets })
    }

    /// Flows of one service.
    pub fn flows(&self, netns: u32, port: u16) -> Result<Vec<Flow>> {
        let mut flows = Vec::new();
        for (map, is_in_slot) in [(self.slots, true), (self.flows, false)] {
            for (key, value) in dump(map)? {
                // A slot begins with its owner, who is zero if there is none.
                let at = if is_in_slot { 8 } else { 0 };
                let is_there = !is_in_slot || u64::from_ne_bytes(part(&value, 0)?) != 0;
                let netns_of = u32::from_ne_bytes(part(&value, at)?);
                let port_of = u16::from_ne_bytes(part(&value, at + 4)?);
                if is_there && (netns_of, port_of) == (netns, port) {
                    flows.push(Flow { map, key, is_in_slot, netns, port });
                }
            }
        }
        Ok(flows)
    }

    /// When it is the turn (boot time, nanoseconds) of each flow that is followed, by cookie.
    pub fn turns(&self) -> Result<BTreeMap<u64, u64>> {
        let entries = dump(self.followed.context("the agent has no map FOLLOWED")?)?;
        let turn = |(key, value): (Vec<u8>, Vec<u8>)| {
            Ok((u64::from_ne_bytes(part(&key, 0)?), u64::from_ne_bytes(part(&value, 8)?)))
        };
        entries.into_iter().map(turn).collect()
    }

    /// How many prefixes of clients are in force, of all services.
    pub fn peers(&self) -> Result<usize> {
        Ok(dump(self.peers.context("the agent has no map PEERS")?)?.len())
    }

    /// How many listening sockets closed gates give connections to, of all services.
    pub fn targets(&self) -> Result<usize> {
        Ok(keys_of_sockets(self.targets.context("the agent has no map TARGETS")?)?.len())
    }

    /// How many sockets send through the program that tells clients.
    pub fn sockets(&self) -> Result<usize> {
        Ok(self.cookies()?.len())
    }

    /// Whether this socket, by its cookie, is one of them.
    pub fn has_socket(&self, cookie: u64) -> Result<bool> {
        Ok(self.cookies()?.contains(&cookie))
    }

    fn cookies(&self) -> Result<Vec<u64>> {
        // Those of another test may be gone by now.
        let maps: Vec<_> =
            self.sockets.iter().filter_map(|map| keys_of_sockets(*map).ok()).collect();
        ensure!(!maps.is_empty(), "the agent has no map SOCKETS that can be read");
        maps.iter().flatten().map(|key| Ok(u64::from_ne_bytes(part(key, 0)?))).collect()
    }

    /// Forgets a flow behind the tracker's back.
    pub fn delete_flow(&self, flow: &Flow) -> Result<()> {
        let (map, key) = (flow.map.to_string(), hex(&flow.key));
        let verb = if flow.is_in_slot { "update" } else { "delete" };
        let mut args = vec!["map", verb, "id", &map, "key", "hex"];
        args.extend(key.iter().map(String::as_str));
        if flow.is_in_slot {
            args.extend(["value", "hex"]);
            args.extend(["00"; 32]);
        }
        cmd::run("bpftool", &args).map(drop)
    }

    /// Counters of one service.
    pub fn counts(&self, netns: u32, port: u16) -> Result<Option<Counts>> {
        self.counts_of(netns, port, 0)
    }

    /// Counters of its flows of one class, by the number that the kernel programs know it by.
    pub fn counts_of(&self, netns: u32, port: u16, class: u16) -> Result<Option<Counts>> {
        let mut wanted = service_key(netns, port);
        wanted[6..].copy_from_slice(&class.to_ne_bytes());
        for (key, value) in dump(self.services)? {
            if key == wanted {
                return Ok(Some(Counts {
                    flows: i64::from_ne_bytes(part(&value, 0)?),
                    accepted: u64::from_ne_bytes(part(&value, 8)?),
                    lost: u64::from_ne_bytes(part(&value, 16)?),
                    rest: value[24..].to_vec(),
                }));
            }
        }
        Ok(None)
    }

    /// Overwrites the counters of one service.
    pub fn set_counts(&self, netns: u32, port: u16, counts: &Counts) -> Result<()> {
        let key = hex(&service_key(netns, port));
        let mut value = Vec::new();
        value.extend(counts.flows.to_ne_bytes());
        value.extend(counts.accepted.to_ne_bytes());
        value.extend(counts.lost.to_ne_bytes());
        value.extend(&counts.rest);
        let value = hex(&value);
        let id = self.services.to_string();
        let mut args = vec!["map", "update", "id", &id, "key", "hex"];
        args.extend(key.iter().map(String::as_str));
        args.extend(["value", "hex"]);
        args.extend(value.iter().map(String::as_str));
        cmd::run("bpftool", &args).map(drop)
    }
}

fn service_key(netns: u32, port: u16) -> Vec<u8> {
    let mut key = netns.to_ne_bytes().to_vec();
    key.extend(port.to_ne_bytes());
    key.extend([0, 0]);
    key
}

/// The maps that a process has descriptors of.
fn map_ids(pid: u32) -> Result<BTreeSet<u32>> {
    let mut ids = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        // Descriptors come and go while the agent works.
        let Ok(info) = fs::read_to_string(entry?.path()) else { continue };
        let id = info.lines().find_map(|line| line.strip_prefix("map_id:"));
        ids.extend(id.and_then(|id| id.trim().parse::<u32>().ok()));
    }
    Ok(ids)
}

/// The names of all maps of this machine, asked for at once: each call of bpftool looks through all processes.
fn names() -> Result<BTreeMap<u32, String>> {
    let text = cmd::run("bpftool", &["-j", "map", "show"])?;
    let maps: Vec<Value> = serde_json::from_str(&text).context("bpftool map show")?;
    let pair = |map: &Value| {
        let id = u32::try_from(map["id"].as_u64()?).ok()?;
        Some((id, map["name"].as_str()?.to_owned()))
    };
    Ok(maps.iter().filter_map(pair).collect())
}

/// Keys and values of a map.
fn dump(id: u32) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let text = cmd::run("bpftool", &["-j", "map", "dump", "id", &id.to_string()])?;
    let entries: Value = serde_json::from_str(&text).context("bpftool map dump")?;
    let mut pairs = Vec::new();
    for entry in entries.as_array().context("a map that is no list")? {
        // An entry that left while the map was walked has an error instead of a value.
        if let (Some(key), Some(value)) = (entry["key"].as_array(), entry["value"].as_array()) {
            pairs.push((bytes(key)?, bytes(value)?));
        }
    }
    Ok(pairs)
}

/// Keys of a map of sockets.
fn keys_of_sockets(id: u32) -> Result<Vec<Vec<u8>>> {
    let text = cmd::run("bpftool", &["-j", "map", "dump", "id", &id.to_string()])?;
    let entries: Value = serde_json::from_str(&text).context("bpftool map dump")?;
    let entries = entries.as_array().context("a map that is no list")?;
    // A socket cannot be shown, so that each is an error, with its key.
    let key = |entry: &Value| bytes(entry["key"].as_array().context("an entry without a key")?);
    entries.iter().map(key).collect()
}

fn bytes(list: &[Value]) -> Result<Vec<u8>> {
    list.iter()
        .map(|byte| {
            let digits = byte.as_str().and_then(|byte| byte.strip_prefix("0x"));
            Ok(u8::from_str_radix(digits.context("a byte of bpftool")?, 16)?)
        })
        .collect()
}

fn hex(bytes: &[u8]) -> Vec<String> {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn part<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    match bytes.get(at..at + N).and_then(|part| part.try_into().ok()) {
        Some(part) => Ok(part),
        None => bail!("{} bytes where {} are needed", bytes.len(), at + N),
    }
}

//! A small cluster on one machine: a client, a node that routes and carries kube-proxy's rules, and
//! pods, each in its own network namespace, joined by veth pairs.

use std::{
    fmt::Write,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    sync::Arc,
};

use anyhow::Result;

use crate::{
    cmd,
    kubeproxy::{KubeProxy, Mode, ServicePort},
    netns::Netns,
    wait::{LIMIT, eventually_some},
};

/// Address and port of the service, as clients know it.
pub const SERVICE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 96, 0, 10), 80);

/// The port every pod's server listens on.
pub const PORT: u16 = 80;

/// The service's second port, where every pod's gRPC server listens, if it has one.
pub const RPC_PORT: u16 = 50051;

/// The service's second port, as clients know it.
pub const RPC_SERVICE: SocketAddrV4 = SocketAddrV4::new(*SERVICE.ip(), RPC_PORT);

/// Nobody has found out yet whether somebody else has the address (`include/uapi/linux/if_addr.h`).
const IFA_F_TENTATIVE: u32 = 0x40;

/// What the rules are about.
const PORTS: &[ServicePort] =
    &[ServicePort { name: "http", port: PORT }, ServicePort { name: "grpc", port: RPC_PORT }];

/// One pod.
#[derive(Debug)]
pub struct Pod {
    /// Its network namespace.
    pub netns: Arc<Netns>,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
}

impl Pod {
    /// Its server's IPv4 address and port.
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from((self.v4, PORT))
    }

    /// Its gRPC server's address and port.
    pub fn rpc_addr(&self) -> SocketAddr {
        SocketAddr::from((self.v4, RPC_PORT))
    }

    /// Its server's IPv6 address and port.
    pub fn addr6(&self) -> SocketAddr {
        SocketAddr::from((self.v6, PORT))
    }

    /// Its server's link-local address and port, for itself and its neighbours, once it may be used.
    ///
    /// # Errors
    /// It has none.
    pub fn link_local(&self) -> Result<SocketAddr> {
        eventually_some(LIMIT, "a link-local address", || {
            // Address, interface, prefix length, scope and flags, all in hexadecimal, and the interface's name.
            let table =
                self.netns.run(|| Ok(fs::read_to_string("/proc/thread-self/net/if_inet6")?))?;
            let usable = |line: &str| {
                let words: Vec<_> = line.split_whitespace().collect();
                let [address, interface, _, _, flags, _] = words[..] else { return None };
                let address = Ipv6Addr::from(u128::from_str_radix(address, 16).ok()?);
                let number = |text| u32::from_str_radix(text, 16).ok();
                let usable =
                    address.is_unicast_link_local() && number(flags)? & IFA_F_TENTATIVE == 0;
                usable.then_some(SocketAddrV6::new(address, PORT, 0, number(interface)?).into())
            };
            Ok(table.lines().find_map(usable))
        })
    }
}

/// Client, node and pods.
#[derive(Debug)]
pub struct Cluster {
    /// Where requests come from: a pod without a server.
    pub client: Arc<Netns>,
    /// The router in the middle.
    pub node: Arc<Netns>,
    /// The servers' places.
    pub pods: Vec<Pod>,
    proxy: KubeProxy,
}

impl Cluster {
    /// Builds a cluster of `pods` pods; the service has every pod as an endpoint.
    pub fn new(pods: usize, mode: Mode) -> Result<Self> {
        let node = Arc::new(Netns::new()?);
        for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
            node.sysctl(key, "1")?;
        }
        let client = attach(&node, 0)?.netns;
        // One request per connection needs many source ports, each free again at once.
        client.sysctl("net/ipv4/ip_local_port_range", "1024 65535")?;
        client.sysctl("net/ipv4/tcp_tw_reuse", "1")?;
        let pods = (1..=pods).map(|index| attach(&node, index)).collect::<Result<Vec<_>>>()?;
        let proxy = KubeProxy::new(Arc::clone(&node), mode, *SERVICE.ip(), PORTS)?;
        let cluster = Self { client, node, pods, proxy };
        let all: Vec<usize> = (0..cluster.pods.len()).collect();
        cluster.set_endpoints(&all)?;
        Ok(cluster)
    }

    /// Two namespaces with a wire between them are enough for most tests.
    pub fn single() -> Result<Self> {
        Self::new(1, Mode::Iptables)
    }

    /// Makes kube-proxy's rules name exactly these pods (by index) for both ports, as one transaction.
    pub fn set_endpoints(&self, pods: &[usize]) -> Result<()> {
        let endpoints: Vec<_> = pods.iter().map(|pod| self.pods[*pod].v4).collect();
        self.proxy.set_endpoints(&endpoints)
    }
}

/// Makes a namespace and wires it to the node; index 0 is the client.
fn attach(node: &Netns, index: usize) -> Result<Pod> {
    let index = u8::try_from(index)?;
    let netns = Arc::new(Netns::new()?);
    let v4 = Ipv4Addr::new(10, 244, index, 2);
    let v6 = Ipv6Addr::new(0xfd00, 0x244, u16::from(index), 0, 0, 0, 0, 2);
    let (gateway4, gateway6) = (Ipv4Addr::new(10, 244, index, 1), gateway(v6));
    let node_side = format!("pod{index}");
    let mut outside = String::new();
    writeln!(outside, "link add {node_side} type veth peer name eth0 netns {}", netns.name())?;
    writeln!(outside, "addr add {gateway4}/24 dev {node_side}")?;
    writeln!(outside, "addr add {gateway6}/64 dev {node_side} nodad")?;
    writeln!(outside, "link set {node_side} up")?;
    batch(node, &outside)?;
    let mut inside = String::new();
    writeln!(inside, "addr add {v4}/24 dev eth0")?;
    writeln!(inside, "addr add {v6}/64 dev eth0 nodad")?;
    writeln!(inside, "link set eth0 up")?;
    writeln!(inside, "route add default via {gateway4}")?;
    writeln!(inside, "route add default via {gateway6}")?;
    batch(&netns, &inside)?;
    Ok(Pod { netns, v4, v6 })
}

fn gateway(pod: Ipv6Addr) -> IpAddr {
    let mut segments = pod.segments();
    segments[7] = 1;
    Ipv6Addr::from(segments).into()
}

fn batch(netns: &Netns, lines: &str) -> Result<()> {
    cmd::run_with_input("ip", &["-n", netns.name(), "-batch", "-"], lines).map(drop)
}

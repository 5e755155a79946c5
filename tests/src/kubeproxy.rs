//! The rules kube-proxy writes for the ports of a ClusterIP service, in its real structure: chain by chain for
//! iptables (pkg/proxy/iptables), table, map and chains for nftables (pkg/proxy/nftables). Each change is one
//! transaction, and established connections go on by conntrack, as on a real node. In its IPVS mode, kube-proxy itself
//! is run.

mod api;
mod real;

use std::{
    collections::BTreeSet,
    fmt::Write,
    hash::{DefaultHasher, Hash, Hasher},
    net::{Ipv4Addr, SocketAddrV4},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Result;

use self::real::Real;
use crate::{cmd, netns::Netns};

const SERVICE: &str = "default/web";
const POD_CIDR: &str = "10.244.0.0/16";

/// Which of its modes kube-proxy runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `--proxy-mode=iptables`
    Iptables,
    /// `--proxy-mode=nftables`
    Nftables,
    /// `--proxy-mode=ipvs`, by kube-proxy itself: not every machine's kernel has it; `cargo xtask vm` boots some that do.
    Ipvs,
}

/// A port of the service; pods listen on the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name in the Service object.
    pub name: &'static str,
    /// Its number.
    pub port: u16,
}

/// kube-proxy on one node, with one service.
#[derive(Debug)]
pub struct KubeProxy {
    node: Arc<Netns>,
    writer: Writer,
    ip: Ipv4Addr,
    ports: &'static [ServicePort],
    /// What the rules name now; chains of endpoints that leave are to be deleted.
    current: Mutex<BTreeSet<Ipv4Addr>>,
}

/// Who writes the rules.
#[derive(Debug)]
enum Writer {
    Iptables,
    Nftables,
    Ipvs(Real),
}

impl KubeProxy {
    /// Of the service at `ip` on `node`; there are no rules before the first [`Self::set_endpoints`].
    pub fn new(
        node: Arc<Netns>,
        mode: Mode,
        ip: Ipv4Addr,
        ports: &'static [ServicePort],
    ) -> Result<Self> {
        let writer = match mode {
            Mode::Iptables => Writer::Iptables,
            Mode::Nftables => Writer::Nftables,
            Mode::Ipvs => Writer::Ipvs(Real::start(&node, ip, ports)?),
        };
        Ok(Self { node, writer, ip, ports, current: Mutex::default() })
    }

    /// Renders the rules for these pods and applies them at once, for all ports together; or has kube-proxy do so.
    pub fn set_endpoints(&self, pods: &[Ipv4Addr]) -> Result<()> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted: BTreeSet<_> = pods.iter().copied().collect();
        let gone: Vec<_> = current.difference(&wanted).copied().collect();
        let targets: Vec<_> =
            self.ports.iter().map(|port| Target::new(self.ip, *port, pods, &gone)).collect();
        match &self.writer {
            Writer::Iptables => {
                let rules = iptables(&targets)?;
                let args = ["--noflush", "--counters", "--wait", "5"];
                self.node.run(|| cmd::run_with_input("iptables-restore", &args, &rules))?;
            }
            Writer::Nftables => {
                let rules = nftables(&targets)?;
                self.node.run(|| cmd::run_with_input("nft", &["-f", "-"], &rules))?;
            }
            Writer::Ipvs(real) => real.set_endpoints(&self.node, self.ports, &wanted)?,
        }
        *current = wanted;
        Ok(())
    }
}

/// One port of the service, and where it leads.
struct Target {
    name: &'static str,
    addr: SocketAddrV4,
    endpoints: Vec<SocketAddrV4>,
    gone: Vec<SocketAddrV4>,
}

impl Target {
    fn new(ip: Ipv4Addr, port: ServicePort, pods: &[Ipv4Addr], gone: &[Ipv4Addr]) -> Self {
        let ServicePort { name, port } = port;
        let at = |ips: &[Ipv4Addr]| ips.iter().map(|ip| SocketAddrV4::new(*ip, port)).collect();
        let addr = SocketAddrV4::new(ip, port);
        Self { name, addr, endpoints: at(pods), gone: at(gone) }
    }

    /// As iptables' comments and hashes have it.
    fn name(&self) -> String {
        format!("{SERVICE}:{}", self.name)
    }

    /// As nftables' chains have it.
    fn nft_name(&self) -> String {
        format!("{SERVICE}/tcp/{}", self.name)
    }

    fn chain(&self) -> String {
        format!("KUBE-SVC-{}", hash(&self.name()))
    }

    fn endpoint_chain(&self, endpoint: &SocketAddrV4) -> String {
        format!("KUBE-SEP-{}", hash(&format!("{}{endpoint}", self.name())))
    }

    fn nft_chain(&self) -> String {
        format!("service-{}-{}", &hash(&self.name())[..8], self.nft_name())
    }

    fn nft_endpoint(&self, endpoint: &SocketAddrV4) -> String {
        let (ip, port, name) = (endpoint.ip(), endpoint.port(), self.nft_name());
        let hash = hash(&format!("{name}{endpoint}"));
        format!("endpoint-{}-{name}__{ip}/{port}", &hash[..8])
    }
}

/// Input for `iptables-restore --noflush`: a chain that is declared is emptied first, all others stay.
fn iptables(targets: &[Target]) -> Result<String> {
    let mut out = String::from("*nat\n");
    let fixed = [
        "PREROUTING",
        "OUTPUT",
        "POSTROUTING",
        "KUBE-SERVICES",
        "KUBE-POSTROUTING",
        "KUBE-MARK-MASQ",
    ];
    for chain in fixed {
        writeln!(out, ":{chain} {} [0:0]", if chain.starts_with("KUBE") { "-" } else { "ACCEPT" })?;
    }
    for target in targets {
        writeln!(out, ":{} - [0:0]", target.chain())?;
        for endpoint in target.endpoints.iter().chain(&target.gone) {
            writeln!(out, ":{} - [0:0]", target.endpoint_chain(endpoint))?;
        }
    }
    out += "-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
        -A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
        -A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING\n\
        -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
        -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n\
        -A KUBE-POSTROUTING -j MASQUERADE --random-fully\n\
        -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n";
    for target in targets {
        iptables_port(&mut out, target)?;
    }
    for target in targets {
        for endpoint in &target.gone {
            writeln!(out, "-X {}", target.endpoint_chain(endpoint))?;
        }
    }
    out += "COMMIT\n";
    Ok(out)
}

/// The rules of one port.
fn iptables_port(out: &mut String, target: &Target) -> Result<()> {
    let (name, svc, endpoints) = (target.name(), target.chain(), &target.endpoints);
    let (ip, port) = (target.addr.ip(), target.addr.port());
    writeln!(
        out,
        "-A KUBE-SERVICES -m comment --comment \"{name} cluster IP\" \
         -m tcp -p tcp -d {ip} --dport {port} -j {svc}"
    )?;
    writeln!(
        out,
        "-A {svc} -m comment --comment \"{name} cluster IP\" \
         -m tcp -p tcp -d {ip} --dport {port} ! -s {POD_CIDR} -j KUBE-MARK-MASQ"
    )?;
    for (index, endpoint) in endpoints.iter().enumerate() {
        let chain = target.endpoint_chain(endpoint);
        write!(out, "-A {svc} -m comment --comment \"{name} -> {endpoint}\" ")?;
        let left = endpoints.len() - index;
        if left > 1 {
            let probability = 1.0 / f64::from(u32::try_from(left)?);
            write!(out, "-m statistic --mode random --probability {probability:.10} ")?;
        }
        writeln!(out, "-j {chain}")?;
        let from = endpoint.ip();
        writeln!(out, "-A {chain} -m comment --comment {name} -s {from} -j KUBE-MARK-MASQ")?;
        writeln!(
            out,
            "-A {chain} -m comment --comment {name} -m tcp -p tcp \
             -j DNAT --to-destination {endpoint}"
        )?;
    }
    Ok(())
}

/// Input for `nft -f`, which is one transaction.
fn nftables(targets: &[Target]) -> Result<String> {
    let mut out = nftables_base(targets)?;
    for target in targets {
        nftables_port(&mut out, target)?;
    }
    Ok(out)
}

/// The rules of one port.
fn nftables_port(out: &mut String, target: &Target) -> Result<()> {
    let svc = target.nft_chain();
    let (ip, port) = (target.addr.ip(), target.addr.port());
    writeln!(
        out,
        "add rule ip kube-proxy {svc} ip daddr {ip} tcp dport {port} \
         ip saddr != {POD_CIDR} jump mark-for-masquerade"
    )?;
    let mut targets = Vec::new();
    for (index, endpoint) in target.endpoints.iter().enumerate() {
        let chain = target.nft_endpoint(endpoint);
        writeln!(out, "add chain ip kube-proxy {chain}\nflush chain ip kube-proxy {chain}")?;
        let from = endpoint.ip();
        writeln!(out, "add rule ip kube-proxy {chain} ip saddr {from} jump mark-for-masquerade")?;
        writeln!(out, "add rule ip kube-proxy {chain} meta l4proto tcp dnat to {endpoint}")?;
        targets.push(format!("{index} : goto {chain}"));
    }
    if !targets.is_empty() {
        let (count, targets) = (targets.len(), targets.join(" , "));
        writeln!(
            out,
            "add rule ip kube-proxy {svc} numgen random mod {count} vmap {{ {targets} }}"
        )?;
    }
    writeln!(out, "add element ip kube-proxy service-ips {{ {ip} . tcp . {port} : goto {svc} }}")?;
    for endpoint in &target.gone {
        let chain = target.nft_endpoint(endpoint);
        writeln!(out, "flush chain ip kube-proxy {chain}\ndelete chain ip kube-proxy {chain}")?;
    }
    Ok(())
}

/// The chains that every service shares, and the emptied chains of ours.
fn nftables_base(targets: &[Target]) -> Result<String> {
    let mut out = String::from(
        "add table ip kube-proxy { comment \"rules for kube-proxy\" ; }\n\
         add map ip kube-proxy service-ips \
         { type ipv4_addr . inet_proto . inet_service : verdict ; }\n\
         add chain ip kube-proxy nat-prerouting { type nat hook prerouting priority dstnat ; }\n\
         add chain ip kube-proxy nat-output { type nat hook output priority -100 ; }\n\
         add chain ip kube-proxy nat-postrouting { type nat hook postrouting priority srcnat ; }\n",
    );
    let own = targets.iter().map(Target::nft_chain);
    let shared = ["services", "masquerading", "mark-for-masquerade"].map(str::to_owned);
    let chains: Vec<String> = shared.into_iter().chain(own).collect();
    for chain in &chains {
        writeln!(out, "add chain ip kube-proxy {chain}")?;
    }
    let hooks = ["nat-prerouting", "nat-output", "nat-postrouting"];
    for chain in hooks.into_iter().chain(chains.iter().map(String::as_str)) {
        writeln!(out, "flush chain ip kube-proxy {chain}")?;
    }
    out += "add rule ip kube-proxy nat-prerouting jump services\n\
         add rule ip kube-proxy nat-output jump services\n\
         add rule ip kube-proxy nat-postrouting jump masquerading\n\
         add rule ip kube-proxy masquerading mark and 0x4000 == 0 return\n\
         add rule ip kube-proxy masquerading mark set mark xor 0x4000\n\
         add rule ip kube-proxy masquerading masquerade fully-random\n\
         add rule ip kube-proxy mark-for-masquerade mark set mark or 0x4000\n\
         add rule ip kube-proxy services ip daddr . meta l4proto . th dport vmap @service-ips\n";
    Ok(out)
}

/// Sixteen letters and digits, as in kube-proxy's chain names.
fn hash(text: &str) -> String {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    format!("{:016X}", hasher.finish())
}

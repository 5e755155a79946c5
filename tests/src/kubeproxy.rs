//! The rules kube-proxy writes for one ClusterIP service, in its real structure: chain by chain for
//! iptables (pkg/proxy/iptables), table, map and chains for nftables (pkg/proxy/nftables). Each change
//! is one transaction, and established connections go on by conntrack, as on a real node.

use std::{
    collections::BTreeSet,
    fmt::Write,
    hash::{DefaultHasher, Hash, Hasher},
    net::SocketAddrV4,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Result;

use crate::{cmd, netns::Netns};

const NAME: &str = "default/web:http";
const NFT_NAME: &str = "default/web/tcp/http";
const POD_CIDR: &str = "10.244.0.0/16";

/// Which of its modes kube-proxy runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `--proxy-mode=iptables`
    Iptables,
    /// `--proxy-mode=nftables`
    Nftables,
}

/// kube-proxy on one node, with one service.
#[derive(Debug)]
pub struct KubeProxy {
    node: Arc<Netns>,
    mode: Mode,
    service: SocketAddrV4,
    /// What the rules name now; chains of endpoints that leave are to be deleted.
    current: Mutex<BTreeSet<SocketAddrV4>>,
}

impl KubeProxy {
    /// Of `service` on `node`; there are no rules before the first [`Self::set_endpoints`].
    pub fn new(node: Arc<Netns>, mode: Mode, service: SocketAddrV4) -> Self {
        Self { node, mode, service, current: Mutex::default() }
    }

    /// Renders the rules for `endpoints` and applies them at once.
    pub fn set_endpoints(&self, endpoints: &[SocketAddrV4]) -> Result<()> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted: BTreeSet<_> = endpoints.iter().copied().collect();
        let gone: Vec<_> = current.difference(&wanted).copied().collect();
        match self.mode {
            Mode::Iptables => {
                let rules = iptables(self.service, endpoints, &gone)?;
                let args = ["--noflush", "--counters", "--wait", "5"];
                self.node.run(|| cmd::run_with_input("iptables-restore", &args, &rules))?;
            }
            Mode::Nftables => {
                let rules = nftables(self.service, endpoints, &gone)?;
                self.node.run(|| cmd::run_with_input("nft", &["-f", "-"], &rules))?;
            }
        }
        *current = wanted;
        Ok(())
    }
}

/// Input for `iptables-restore --noflush`: a chain that is declared is emptied first, all others stay.
fn iptables(
    service: SocketAddrV4,
    endpoints: &[SocketAddrV4],
    gone: &[SocketAddrV4],
) -> Result<String> {
    let svc = format!("KUBE-SVC-{}", hash(NAME));
    let sep = |endpoint: &SocketAddrV4| format!("KUBE-SEP-{}", hash(&format!("{NAME}{endpoint}")));
    let mut out = String::from("*nat\n");
    let fixed = [
        "PREROUTING",
        "OUTPUT",
        "POSTROUTING",
        "KUBE-SERVICES",
        "KUBE-POSTROUTING",
        "KUBE-MARK-MASQ",
    ];
    for chain in fixed.into_iter().chain([svc.as_str()]) {
        writeln!(out, ":{chain} {} [0:0]", if chain.starts_with("KUBE") { "-" } else { "ACCEPT" })?;
    }
    for endpoint in endpoints.iter().chain(gone) {
        writeln!(out, ":{} - [0:0]", sep(endpoint))?;
    }
    out += "-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
        -A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
        -A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING\n\
        -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
        -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n\
        -A KUBE-POSTROUTING -j MASQUERADE --random-fully\n\
        -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n";
    let (ip, port) = (service.ip(), service.port());
    writeln!(
        out,
        "-A KUBE-SERVICES -m comment --comment \"{NAME} cluster IP\" \
         -m tcp -p tcp -d {ip} --dport {port} -j {svc}"
    )?;
    writeln!(
        out,
        "-A {svc} -m comment --comment \"{NAME} cluster IP\" \
         -m tcp -p tcp -d {ip} --dport {port} ! -s {POD_CIDR} -j KUBE-MARK-MASQ"
    )?;
    for (index, endpoint) in endpoints.iter().enumerate() {
        let chain = sep(endpoint);
        write!(out, "-A {svc} -m comment --comment \"{NAME} -> {endpoint}\" ")?;
        let left = endpoints.len() - index;
        if left > 1 {
            let probability = 1.0 / f64::from(u32::try_from(left)?);
            write!(out, "-m statistic --mode random --probability {probability:.10} ")?;
        }
        writeln!(out, "-j {chain}")?;
        let from = endpoint.ip();
        writeln!(out, "-A {chain} -m comment --comment {NAME} -s {from} -j KUBE-MARK-MASQ")?;
        writeln!(
            out,
            "-A {chain} -m comment --comment {NAME} -m tcp -p tcp \
             -j DNAT --to-destination {endpoint}"
        )?;
    }
    for endpoint in gone {
        writeln!(out, "-X {}", sep(endpoint))?;
    }
    out += "COMMIT\n";
    Ok(out)
}

/// Input for `nft -f`, which is one transaction.
fn nftables(
    service: SocketAddrV4,
    endpoints: &[SocketAddrV4],
    gone: &[SocketAddrV4],
) -> Result<String> {
    let svc = format!("service-{}-{NFT_NAME}", &hash(NAME)[..8]);
    let (ip, port) = (service.ip(), service.port());
    let mut out = nftables_base(&svc)?;
    writeln!(
        out,
        "add rule ip kube-proxy {svc} ip daddr {ip} tcp dport {port} \
         ip saddr != {POD_CIDR} jump mark-for-masquerade"
    )?;
    let mut targets = Vec::new();
    for (index, endpoint) in endpoints.iter().enumerate() {
        let chain = nft_endpoint(endpoint);
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
    for endpoint in gone {
        let chain = nft_endpoint(endpoint);
        writeln!(out, "flush chain ip kube-proxy {chain}\ndelete chain ip kube-proxy {chain}")?;
    }
    Ok(out)
}

/// The chains that every service shares, and the emptied chain of ours.
fn nftables_base(svc: &str) -> Result<String> {
    let mut out = String::from(
        "add table ip kube-proxy { comment \"rules for kube-proxy\" ; }\n\
         add map ip kube-proxy service-ips \
         { type ipv4_addr . inet_proto . inet_service : verdict ; }\n\
         add chain ip kube-proxy nat-prerouting { type nat hook prerouting priority dstnat ; }\n\
         add chain ip kube-proxy nat-output { type nat hook output priority -100 ; }\n\
         add chain ip kube-proxy nat-postrouting { type nat hook postrouting priority srcnat ; }\n",
    );
    let chains = ["services", "masquerading", "mark-for-masquerade", svc];
    for chain in chains {
        writeln!(out, "add chain ip kube-proxy {chain}")?;
    }
    for chain in ["nat-prerouting", "nat-output", "nat-postrouting"].into_iter().chain(chains) {
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

fn nft_endpoint(endpoint: &SocketAddrV4) -> String {
    let (ip, port) = (endpoint.ip(), endpoint.port());
    let hash = hash(&format!("{NFT_NAME}{endpoint}"));
    format!("endpoint-{}-{NFT_NAME}__{ip}/{port}", &hash[..8])
}

/// Sixteen letters and digits, as in kube-proxy's chain names.
fn hash(text: &str) -> String {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    format!("{:016X}", hasher.finish())
}

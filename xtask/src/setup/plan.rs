//! From what is here to what has to be installed: pure, so that machines we do not have can be tested.

use std::fmt;

use anyhow::{Result, bail};

use super::facts::Facts;
use crate::toolchain::OLDEST;

/// What the setup is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    /// `cargo xtask build`.
    Build,
    /// `cargo xtask demo` as well.
    Demo,
    /// `cargo xtask test` and benchmarks as well.
    Everything,
    /// Also what a node of a cluster runs, for `cargo xtask test kube`.
    Kube,
    /// Also what boots other kernels, for `cargo xtask vm`.
    Machines,
    /// Also the servers and clients that only `cargo xtask test peers` runs.
    Peers,
}

impl Scope {
    /// Whether it is for that too. Nodes and machines are matters of their own.
    fn includes(self, other: Self) -> bool {
        other == self || other < self && !matches!(other, Self::Kube | Self::Machines)
    }
}

/// Something to be installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Debian packages.
    Packages(Vec<String>),
    /// Components of the rustup toolchain in use.
    Components(Vec<&'static str>),
    /// bpf-linker for this LLVM, or for one that will be known when the compiler is installed.
    Linker {
        /// Major version.
        llvm: Option<u32>,
    },
}

impl Action {
    /// Whether only root can do it.
    pub(super) fn needs_root(&self) -> bool {
        matches!(self, Self::Packages(_))
    }

    /// Whether it can be done now.
    pub(super) fn is_known(&self) -> bool {
        *self != Self::Linker { llvm: None }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Packages(names) => write!(f, "Debian packages (as root): {}", names.join(" ")),
            Self::Components(names) => write!(f, "rustup components: {}", names.join(" ")),
            Self::Linker { llvm: Some(llvm) } => {
                write!(f, "bpf-linker for LLVM {llvm}, built from source (one to two minutes)")
            }
            Self::Linker { llvm: None } => {
                write!(f, "bpf-linker for the LLVM of that compiler, built from source")
            }
        }
    }
}

/// A program that tests, demo or benchmarks run, and the Debian package that has it.
pub(super) struct Tool {
    /// Name of the program.
    pub(super) program: &'static str,
    package: &'static str,
    scope: Scope,
}

impl Tool {
    /// For `Scope::Demo`.
    const fn demo(program: &'static str, package: &'static str) -> Self {
        Self { program, package, scope: Scope::Demo }
    }

    /// For `Scope::Everything`.
    const fn new(program: &'static str, package: &'static str) -> Self {
        Self { program, package, scope: Scope::Everything }
    }

    /// For `Scope::Kube`.
    const fn node(program: &'static str, package: &'static str) -> Self {
        Self { program, package, scope: Scope::Kube }
    }

    /// For `Scope::Machines`.
    const fn machine(program: &'static str, package: &'static str) -> Self {
        Self { program, package, scope: Scope::Machines }
    }

    /// For `Scope::Peers`.
    const fn peer(program: &'static str, package: &'static str) -> Self {
        Self { program, package, scope: Scope::Peers }
    }
}

/// No program: Python's module for environments, which Debian has in a package of its own.
pub(super) const VENV: &str = "python3 -m venv";

/// No program on PATH: one of the network plugins that a container runtime runs.
pub(super) const CNI: &str = "/usr/lib/cni/bridge";

/// All of them.
pub(super) const TOOLS: [Tool; 36] = [
    Tool::demo("nginx", "nginx-light"),
    Tool::demo("iptables", "iptables"),
    Tool::new("nft", "nftables"),
    Tool::demo("ip", "iproute2"),
    Tool::new("curl", "curl"),
    Tool::new("dnsmasq", "dnsmasq-base"),
    Tool::new("wrk", "wrk"),
    Tool::new("bpftool", "bpftool"),
    Tool::new("node", "nodejs"),
    Tool::demo(VENV, "python3-venv"),
    Tool::new("go", "golang-go"),
    Tool::new("promtool", "prometheus"),
    Tool::node("etcd", "etcd-server"),
    Tool::node("containerd", "containerd"),
    Tool::node("runc", "runc"),
    Tool::node(CNI, "containernetworking-plugins"),
    Tool::node("openssl", "openssl"),
    Tool::node("unshare", "util-linux"),
    Tool::machine("qemu-system-x86_64", "qemu-system-x86"),
    Tool::machine("busybox", "busybox-static"),
    Tool::machine("cpio", "cpio"),
    Tool::machine("modprobe", "kmod"),
    Tool::machine("ipvsadm", "ipvsadm"),
    Tool::machine("ipset", "ipset"),
    Tool::machine("lz4", "lz4"),
    Tool::machine("zstd", "zstd"),
    Tool::machine("xz", "xz-utils"),
    Tool::peer("apache2", "apache2-bin"),
    Tool::new("haproxy", "haproxy"),
    Tool::new("chromium", "chromium"),
    Tool::new("chromedriver", "chromium-driver"),
    Tool::new("tmux", "tmux"),
    Tool::peer("javac", "default-jdk-headless"),
    Tool::peer("mvn", "maven"),
    Tool::peer("nghttpd", "nghttp2-server"),
    Tool::peer("h2load", "nghttp2-client"),
];

/// The programs that `scope` needs.
pub(super) fn tools(scope: Scope) -> impl Iterator<Item = &'static str> {
    TOOLS.iter().filter(move |tool| scope.includes(tool.scope)).map(|tool| tool.program)
}

/// Debian's Rust, as new as its browsers need it.
const RUST_PACKAGES: [&str; 3] = ["rustc-web", "rust-web-src", "cargo-web"];

/// What bpf-linker is built with.
pub(super) fn llvm_packages(llvm: u32) -> [String; 3] {
    [format!("llvm-{llvm}-dev"), format!("libpolly-{llvm}-dev"), "libzstd-dev".to_owned()]
}

/// What has to be installed, in this order; nothing if all is here.
///
/// # Errors
/// Something is missing that setup does not know how to install here.
pub(super) fn plan(facts: &Facts, scope: Scope) -> Result<Vec<Action>> {
    let mut packages: Vec<String> = Vec::new();
    if !facts.has_cc {
        packages.extend(["gcc".to_owned(), "libc6-dev".to_owned()]);
    }
    let linker = kernel_side(facts, &mut packages);
    if scope >= Scope::Demo {
        let missing = TOOLS.iter().filter(|tool| facts.missing_tools.contains(&tool.program));
        packages.extend(missing.map(|tool| tool.package.to_owned()));
    }
    if !facts.apt && (linker.is_some() || !packages.is_empty()) {
        bail!("{}", without_apt(facts, linker.is_some()));
    }
    let mut actions = Vec::new();
    if !packages.is_empty() {
        actions.push(Action::Packages(packages));
    }
    if scope >= Scope::Everything && !facts.missing_components.is_empty() {
        if !facts.rustup {
            bail!(
                "cargo has no {}; install it beside your cargo",
                facts.missing_components.join(", ")
            );
        }
        actions.push(Action::Components(facts.missing_components.clone()));
    }
    actions.extend(linker);
    Ok(actions)
}

/// The linker to build, if no toolchain is complete, and the packages which that takes first.
fn kernel_side(facts: &Facts, packages: &mut Vec<String>) -> Option<Action> {
    if facts.toolchain().is_some() {
        return None;
    }
    let usable = facts
        .system
        .as_ref()
        .filter(|rust| rust.version.release >= OLDEST && rust.cargo.is_some() && rust.has_src);
    let Some(rust) = usable else {
        packages.extend(RUST_PACKAGES.map(str::to_owned));
        return Some(Action::Linker { llvm: None });
    };
    let llvm = rust.version.llvm;
    packages.extend(llvm_packages(llvm).into_iter().filter(|name| !facts.packages.contains(name)));
    Some(Action::Linker { llvm: Some(llvm) })
}

fn without_apt(facts: &Facts, toolchain: bool) -> String {
    let mut text =
        "this is no Debian, and setup knows no other package manager; missing:".to_owned();
    if !facts.has_cc {
        text.push_str("\n- a C compiler called cc");
    }
    if toolchain {
        text.push_str(
            "\n- a toolchain for the kernel programs: \
             `rustup toolchain install nightly --component rust-src`, and a bpf-linker on PATH \
             that was built for the same LLVM (see `rustc +nightly -vV`)",
        );
    }
    for tool in &facts.missing_tools {
        text.push_str(&format!("\n- {tool}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toolchain::{Compiler, Version};

    fn rust(name: &'static str) -> Compiler {
        Compiler {
            name,
            rustc: "/r/rustc".into(),
            cargo: Some("/r/cargo".into()),
            version: Version { release: (1, 96), llvm: 22, host: "h".into() },
            has_src: true,
            linker: Some("/l".into()),
        }
    }

    fn ready() -> Facts {
        Facts {
            root: true,
            apt: true,
            rustup: true,
            has_cc: true,
            nightly: None,
            system: Some(rust("system")),
            packages: llvm_packages(22).to_vec(),
            missing_tools: Vec::new(),
            missing_components: Vec::new(),
        }
    }

    fn packages(actions: &[Action]) -> Vec<&str> {
        actions
            .iter()
            .flat_map(|action| match action {
                Action::Packages(names) => names.iter().map(String::as_str).collect(),
                _ => Vec::new(),
            })
            .collect()
    }

    #[test]
    fn nothing_is_done_where_nothing_is_missing() {
        assert_eq!(plan(&ready(), Scope::Everything).expect("a plan"), []);
    }

    #[test]
    fn a_complete_nightly_comes_first() {
        let facts = Facts { nightly: Some(rust("nightly")), ..ready() };
        assert_eq!(facts.toolchain().map(|found| found.name), Some("nightly"));
    }

    #[test]
    fn a_nightly_without_rust_src_is_passed_over() {
        let nightly = Compiler { has_src: false, ..rust("nightly") };
        let facts = Facts { nightly: Some(nightly), ..ready() };
        assert_eq!(facts.toolchain().map(|found| found.name), Some("system"));
    }

    #[test]
    fn a_fresh_debian_gets_the_compiler_first_and_then_a_linker_for_it() {
        let missing_tools = TOOLS.iter().map(|tool| tool.program).collect();
        let facts = Facts { system: None, packages: Vec::new(), missing_tools, ..ready() };
        let actions = plan(&facts, Scope::Everything).expect("a plan");
        let names = packages(&actions);
        assert!(names.starts_with(&RUST_PACKAGES), "{names:?}");
        assert!(names.contains(&"nginx-light"), "{names:?}");
        assert_eq!(actions.last(), Some(&Action::Linker { llvm: None }));
    }

    #[test]
    fn the_linker_is_built_for_the_compiler_s_llvm() {
        let mut system = Compiler { linker: None, ..rust("system") };
        system.version.llvm = 23;
        let facts = Facts { system: Some(system), packages: vec!["libzstd-dev".into()], ..ready() };
        let actions = plan(&facts, Scope::Build).expect("a plan");
        assert_eq!(packages(&actions), ["llvm-23-dev", "libpolly-23-dev"]);
        assert_eq!(actions.last(), Some(&Action::Linker { llvm: Some(23) }));
    }

    #[test]
    fn an_old_system_compiler_is_replaced() {
        let mut system = rust("system");
        system.version.release = (1, 63);
        let facts = Facts { system: Some(system), ..ready() };
        assert_eq!(packages(&plan(&facts, Scope::Build).expect("a plan")), RUST_PACKAGES);
    }

    #[test]
    fn building_needs_no_test_tools() {
        let facts =
            Facts { missing_tools: vec!["wrk"], missing_components: vec!["fmt"], ..ready() };
        assert_eq!(plan(&facts, Scope::Build).expect("a plan"), []);
        let actions = plan(&facts, Scope::Everything).expect("a plan");
        let components = Action::Components(vec!["fmt"]);
        assert_eq!(actions, [Action::Packages(vec!["wrk".into()]), components]);
    }

    #[test]
    fn the_demo_needs_its_servers_and_clients_only() {
        let missing_tools: Vec<_> = tools(Scope::Demo).collect();
        assert!(missing_tools.contains(&VENV) && !missing_tools.contains(&"wrk"));
        let facts = Facts { missing_tools, missing_components: vec!["clippy"], ..ready() };
        let actions = plan(&facts, Scope::Demo).expect("a plan");
        assert_eq!(packages(&actions), ["nginx-light", "iptables", "iproute2", "python3-venv"]);
        assert_eq!(actions.len(), 1);
    }

    #[test]
    fn only_the_test_of_peers_needs_all_of_them() {
        assert!(tools(Scope::Everything).any(|tool| tool == "node"));
        assert!(!tools(Scope::Everything).any(|tool| tool == "javac"));
        assert!(tools(Scope::Peers).any(|tool| tool == "node"));
        assert!(tools(Scope::Peers).any(|tool| tool == "javac"));
        assert_eq!(tools(Scope::Build).count(), 0);
    }

    #[test]
    fn elsewhere_the_missing_things_are_named() {
        let facts = Facts { apt: false, system: None, missing_tools: vec!["nft"], ..ready() };
        let text = plan(&facts, Scope::Everything).expect_err("no apt").to_string();
        assert!(text.contains("rust-src") && text.contains("- nft"), "{text}");
    }

    #[test]
    fn only_packages_take_root() {
        assert!(Action::Packages(Vec::new()).needs_root());
        assert!(!Action::Linker { llvm: Some(22) }.needs_root());
    }
}

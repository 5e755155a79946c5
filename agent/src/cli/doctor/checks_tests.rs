use rustix::thread::CapabilitySet;

use super::*;
use crate::{
    cli::{agent::AgentAddress, doctor::facts::NetnsAccess},
    kernel::probe::SkLookupLink,
};

fn all_there() -> Facts {
    Facts {
        kernel: Ok(("6.18.1".into(), (6, 18))),
        btf: Ok(BtfNames {
            sk_lookup: true,
            ring_buffer: true,
            tcp_iterator: true,
            cgroup_link: true,
            late_callbacks: true,
            sk_msg: true,
            loops: true,
        }),
        capabilities: Ok((CapabilitySet::all(), true)),
        bpffs: Ok(Some("/sys/fs/bpf".into())),
        cgroup2: Ok(Some(("/sys/fs/cgroup".into(), true))),
        kubelet: Ok(Some((7, "/sys/fs/cgroup/system.slice/kubelet.service".into()))),
        net_cls: Ok(false),
        netns_access: Ok(NetnsAccess { opened: 9, refused: 0 }),
        host_pids: Ok(true),
        sk_lookup: Ok(vec![]),
        jit: Ok(1),
        agent: Ok(AgentAddress::default()),
    }
}

fn check(facts: &Facts, name: &str) -> Check {
    evaluate(facts).into_iter().find(|check| check.name == name).unwrap()
}

#[test]
fn nothing_costs_where_everything_is_there() {
    for check in evaluate(&all_there()) {
        assert_eq!((check.ok, &check.cost), (Some(true), &None), "{check:?}");
    }
}

#[test]
fn each_missing_thing_is_found_and_has_its_cost() {
    type Break = fn(&mut Facts);
    const YES: bool = true;
    const NO: bool = false;
    #[rustfmt::skip]
    let table: [(&str, bool, Option<bool>, Break); 23] = [
        // check, whether it is required, its result, what is broken
        ("kernel", NO, Some(false), |f| f.kernel = Ok(("5.4".into(), (5, 4)))),
        ("sk_lookup programs", YES, Some(false), |f| f.btf = Ok(BtfNames::default())),
        ("ring buffer", YES, Some(false), |f| f.btf = Ok(BtfNames::default())),
        ("TCP iterator", YES, Some(false), |f| f.btf = Ok(BtfNames::default())),
        ("cgroup links", YES, Some(false), |f| f.btf = Ok(BtfNames::default())),
        ("callbacks for old flows", NO, Some(false), |f| f.btf = Ok(BtfNames::default())),
        ("BTF", YES, Some(false), |f| f.btf = Err("No such file".into())),
        ("CAP_BPF", YES, Some(false), |f| f.capabilities = Ok((CapabilitySet::empty(), true))),
        ("CAP_NET_ADMIN", YES, Some(false), |f| f.capabilities = Ok((CapabilitySet::SYS_ADMIN, true))),
        ("CAP_SYS_PTRACE", YES, Some(false), |f| f.capabilities = Ok((CapabilitySet::all(), false))),
        ("CAP_DAC_READ_SEARCH", NO, Some(false), |f| f.capabilities = Ok((CapabilitySet::BPF, true))),
        ("CAP_SYS_ADMIN", YES, None, |f| f.capabilities = Err("no /proc".into())),
        ("kubelet", NO, None, |f| f.kubelet = Err("it has no cgroup".into())),
        ("cgroup v2 root", YES, Some(false), |f| f.cgroup2 = Ok(None)),
        ("cgroup v2 root", YES, Some(false), |f| f.cgroup2 = Ok(Some(("/c".into(), false)))),
        ("no net_cls/net_prio", NO, Some(false), |f| (f.net_cls, f.kernel) = (Ok(true), Ok(("5.10".into(), (5, 10))))),
        ("netns access", YES, Some(false), |f| f.netns_access = Ok(NetnsAccess { opened: 1, refused: 8 })),
        ("netns access", NO, Some(false), |f| f.netns_access = Ok(NetnsAccess { opened: 8, refused: 1 })),
        ("host's pid namespace", YES, Some(false), |f| f.host_pids = Ok(false)),
        ("no other sk_lookup", NO, None, |f| f.sk_lookup = Err("not permitted".into())),
        ("BPF JIT", NO, Some(false), |f| f.jit = Ok(0)),
        ("bpffs", NO, Some(false), |f| f.bpffs = Ok(None)),
        ("agent", NO, Some(false), |f| f.agent = Err("nobody listens".into())),
    ];
    for (name, required, ok, break_it) in table {
        let mut facts = all_there();
        break_it(&mut facts);
        let check = check(&facts, name);
        assert_eq!((check.required, check.ok), (required, ok), "{check:?}");
        assert!(check.cost.is_some_and(|cost| cost.len() > 20), "{name} says its cost");
    }
}

#[test]
fn other_sk_lookup_programs_are_named() {
    let link = SkLookupLink { program: 7, name: "cilium".into(), netns: 42 };
    let check = check(&Facts { sk_lookup: Ok(vec![link]), ..all_there() }, "no other sk_lookup");
    assert_eq!(check.ok, Some(false));
    assert_eq!(check.found, "program 7 \"cilium\" in netns 42");
}

#[test]
fn features_go_by_version_without_btf() {
    let old = Facts {
        btf: Err("No such file".into()),
        kernel: Ok(("5.8.0".into(), (5, 8))),
        ..all_there()
    };
    assert_eq!(check(&old, "ring buffer").ok, Some(true));
    assert_eq!(check(&old, "sk_lookup programs").ok, Some(false));
}

#[test]
fn sys_admin_stands_in_for_the_newer_capabilities() {
    let facts = Facts { capabilities: Ok((CapabilitySet::SYS_ADMIN, true)), ..all_there() };
    assert_eq!(check(&facts, "CAP_BPF").ok, Some(true));
    assert_eq!(check(&facts, "CAP_PERFMON").ok, Some(true));
}

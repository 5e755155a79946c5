//! Every rule of the table in `auth.rs`, from both sides.

use super::*;

const HOST: u32 = 4_026_531_840;
const POD: u32 = 4_026_532_100;
const OTHER_POD: u32 = 4_026_532_200;
const POD_PIDNS: u64 = 4_026_532_101;
const POD_USERNS: u64 = 4_026_532_102;

/// An unprivileged process in the pod.
fn in_pod() -> Caller {
    Caller {
        pid: 4242,
        uid: 1000,
        netns: POD,
        userns: INITIAL_USERNS,
        pidns: POD_PIDNS,
        net_admin: false,
        netns_owners: vec![INITIAL_USERNS],
        cgroup: Some("/kubepods/a".into()),
    }
}

/// An unprivileged process on the node.
fn on_node() -> Caller {
    Caller { netns: HOST, pidns: INITIAL_PIDNS, cgroup: Some("/user.slice".into()), ..in_pod() }
}

fn node_admin() -> Caller {
    Caller { uid: 0, net_admin: true, ..on_node() }
}

fn target(netns: u32, listeners: &[(u32, bool)]) -> Target {
    let facts = |&(uid, in_callers_cgroup): &(u32, bool)| ListenerFacts { uid, in_callers_cgroup };
    Target { listeners: listeners.iter().map(facts).collect(), ..Target::unseen(netns, HOST) }
}

fn drained_by(uid: u32, netns: u32, target: Target) -> Target {
    Target { drain_owner: Some(Owner { uid, netns }), ..target }
}

const NO_AUTHORITY: Result<(), Denied> = Err(Denied::NoAuthority);
const NOT_ON_NODE: Result<(), Denied> = Err(Denied::NoAuthorityOnNode);
const LIVES_IN_POD: Result<(), Denied> = Err(Denied::OtherNamespace { lives_in: POD });

type Case = (&'static str, Action, Caller, Target, Result<(), Denied>);

fn check(cases: Vec<Case>) {
    for (what, action, caller, target, expected) in cases {
        assert_eq!(may(action, &caller, &target), expected, "{what}");
    }
}

#[test]
fn own_namespace() {
    use Action::{Change, Read};
    let admin = Caller { net_admin: true, ..in_pod() };
    let userns_root = Caller { userns: POD_USERNS, ..admin.clone() };
    let owners = vec![POD_USERNS, INITIAL_USERNS];
    let root_of_owner = Caller { netns_owners: owners.clone(), ..userns_root.clone() };
    let above_owner = Caller { netns_owners: owners, ..admin.clone() };
    let others = target(POD, &[(0, true)]);
    let own = target(POD, &[(1000, false), (1000, false)]);
    let mixed = target(POD, &[(1000, true), (0, true)]);
    let gone = target(POD, &[]);
    check(vec![
        ("anybody in it reads", Read, in_pod(), others.clone(), Ok(())),
        ("CAP_NET_ADMIN over it", Change, admin, others.clone(), Ok(())),
        ("no capability, another's listener", Change, in_pod(), others.clone(), NO_AUTHORITY),
        ("capability in its owning namespace", Change, root_of_owner, others.clone(), Ok(())),
        ("capability in a namespace above", Change, above_owner, others.clone(), Ok(())),
        ("capability in a namespace below", Change, userns_root, others.clone(), NO_AUTHORITY),
        ("owns every listener", Change, in_pod(), own, Ok(())),
        ("owns only one of two", Change, in_pod(), mixed, NO_AUTHORITY),
        ("there is no listener to own", Change, in_pod(), gone.clone(), NO_AUTHORITY),
        ("started the drain", Change, in_pod(), drained_by(1000, POD, gone.clone()), Ok(())),
        ("another user did", Change, in_pod(), drained_by(0, POD, gone.clone()), NO_AUTHORITY),
        ("same uid, another pod", Change, in_pod(), drained_by(1000, HOST, gone), NO_AUTHORITY),
    ]);
}

#[test]
fn the_nodes_namespace() {
    use Action::{Change, Read};
    let cap = Caller { net_admin: true, ..on_node() };
    let host_network_root = Caller { uid: 0, pidns: POD_PIDNS, net_admin: true, ..on_node() };
    let userns_root = Caller { uid: 0, userns: POD_USERNS, ..on_node() };
    let ssh = target(HOST, &[(0, false)]);
    let own = target(HOST, &[(1000, true)]);
    let own_elsewhere = target(HOST, &[(1000, false)]);
    let half_elsewhere = target(HOST, &[(1000, true), (1000, false)]);
    let gone = drained_by(1000, HOST, target(HOST, &[]));
    check(vec![
        ("anybody in it reads", Read, on_node(), ssh.clone(), Ok(())),
        ("a pod does not", Read, in_pod(), ssh.clone(), LIVES_IN_POD),
        ("root of the node", Change, node_admin(), ssh.clone(), Ok(())),
        ("an unprivileged user", Change, on_node(), ssh.clone(), NOT_ON_NODE),
        ("CAP_NET_ADMIN is not enough", Change, cap, ssh.clone(), NOT_ON_NODE),
        ("uid 0 of another pid namespace", Change, host_network_root, ssh.clone(), NOT_ON_NODE),
        ("uid 0 of another user namespace", Change, userns_root, ssh, NOT_ON_NODE),
        ("its owner in the same cgroup", Change, on_node(), own, Ok(())),
        ("its owner in another cgroup", Change, on_node(), own_elsewhere, NOT_ON_NODE),
        ("one of two in another cgroup", Change, on_node(), half_elsewhere, NOT_ON_NODE),
        ("started the drain, no listener", Change, on_node(), gone, NOT_ON_NODE),
    ]);
}

#[test]
fn nobody_gets_more_than_they_have() {
    let admin = Caller { net_admin: true, ..in_pod() };
    let no_forward = Err(Denied::ForwardOnNode);
    let another = |owner| Err(Denied::SocketOfAnother { owner });
    let cap = Caller { net_admin: true, ..on_node() };
    #[rustfmt::skip]
    let table = [
        // who, where, whose sockets take over, forward, handoff
        ("a user of a pod, its own server", in_pod(), POD, vec![1000, 1000], Ok(()), Ok(())),
        ("a user of a pod, another's", in_pod(), POD, vec![1000, 0], Ok(()), another(0)),
        ("CAP_NET_ADMIN in a pod", admin, POD, vec![0], Ok(()), Ok(())),
        ("a user of the node, its own server", on_node(), HOST, vec![1000], no_forward, Ok(())),
        ("a user of the node, another's", on_node(), HOST, vec![33], no_forward, another(33)),
        ("CAP_NET_ADMIN on the node", cap, HOST, vec![33], no_forward, another(33)),
        ("root of the node", node_admin(), HOST, vec![33], Ok(()), Ok(())),
        ("root of the node, in a pod", node_admin(), POD, vec![33], Ok(()), Ok(())),
    ];
    for (what, caller, netns, owners, forward, handoff) in table {
        assert_eq!(may_forward(&caller, netns, HOST), forward, "{what}");
        assert_eq!(may_hand_over(&caller, netns, HOST, owners), handoff, "{what}");
    }
}

#[test]
fn another_namespace() {
    use Action::{Change, Read};
    let lives_on_node = Err(Denied::OtherNamespace { lives_in: HOST });
    let pod_root = Caller { uid: 0, net_admin: true, ..in_pod() };
    let host_pid_pod = Caller { pidns: INITIAL_PIDNS, ..pod_root.clone() };
    let other = target(OTHER_POD, &[(1000, true)]);
    check(vec![
        ("root of the node reads", Read, node_admin(), other.clone(), Ok(())),
        ("root of the node changes", Change, node_admin(), other.clone(), Ok(())),
        ("a pod with hostPID and uid 0", Change, host_pid_pod, other.clone(), Ok(())),
        ("root of a pod reads", Read, pod_root.clone(), other.clone(), LIVES_IN_POD),
        ("root of a pod changes", Change, pod_root, other.clone(), LIVES_IN_POD),
        ("the same uid elsewhere", Change, in_pod(), other.clone(), LIVES_IN_POD),
        ("a user of the node reads", Read, on_node(), other.clone(), lives_on_node),
        ("a user of the node changes", Change, on_node(), other, lives_on_node),
    ]);
}

#[test]
fn an_unseen_target_permits_no_more_than_a_seen_one() {
    for caller in [in_pod(), on_node(), node_admin(), Caller { net_admin: true, ..in_pod() }] {
        for netns in [HOST, POD, OTHER_POD] {
            let seen = target(netns, &[(7, false)]);
            let unseen = Target::unseen(netns, HOST);
            if may(Action::Change, &caller, &unseen).is_ok() {
                assert_eq!(may(Action::Change, &caller, &seen), Ok(()), "{caller:?}");
            }
        }
    }
}

use super::*;

const UID: &str = "f47ac10b-58cc-4372-a567-0e02b2c3d479";
const UID_: &str = "f47ac10b_58cc_4372_a567_0e02b2c3d479";
const HASH: &str = "d4f0a2c1b3e596877a8b9c0d1e2f3a4b";
const ID: &str = "3f8a1c5e7d9b2046f8e1a3c5d7b9f0e2a4c6e8d0b1f3a5c7e9d2b4f6a8c0e1d3";

/// The texts as /proc/PID/cgroup has them, with POD, _POD_, HASH and ID in place of the real ones.
const TABLE: [(&str, &str, Option<&str>, bool); 22] = [
    // Description, text, uid, whether there is a container.
    (
        "v2, systemd, containerd",
        "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod_POD_.slice/cri-containerd-ID.scope",
        Some(UID),
        true,
    ),
    (
        "v2, systemd, CRI-O",
        "0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod_POD_.slice/crio-ID.scope",
        Some(UID),
        true,
    ),
    (
        "v2, systemd, CRI-O with a cgroup for the container's own",
        "0::/kubepods.slice/kubepods-pod_POD_.slice/crio-ID.scope/container",
        Some(UID),
        true,
    ),
    (
        "v2, systemd, Docker by cri-dockerd",
        "0::/kubepods.slice/kubepods-pod_POD_.slice/docker-ID.scope",
        Some(UID),
        true,
    ),
    ("v2, cgroupfs, guaranteed", "0::/kubepods/podPOD/ID", Some(UID), true),
    ("v2, cgroupfs, burstable", "0::/kubepods/burstable/podPOD/ID", Some(UID), true),
    ("v2, cgroupfs, CRI-O", "0::/kubepods/besteffort/podPOD/crio-ID", Some(UID), true),
    (
        "v2, kind: the kubelet has a root of its own",
        "0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod_POD_.slice/cri-containerd-ID.scope",
        Some(UID),
        true,
    ),
    ("v2, minikube: Docker around it", "0::/docker/OTHER/kubepods/burstable/podPOD/ID", None, true),
    (
        "v2, seen from another pod's cgroup namespace",
        "0::/../../kubepods-burstable-pod_POD_.slice/cri-containerd-ID.scope",
        Some(UID),
        true,
    ),
    ("v2, seen from another pod, cgroupfs", "0::/../../../besteffort/podPOD/ID", Some(UID), true),
    (
        "v2, k3s: containerd in systemd's form on cgroupfs",
        "0::/system.slice/containerd.service/kubepods-burstable-pod_POD_.slice:cri-containerd:ID",
        Some(UID),
        true,
    ),
    (
        "v2, a static pod",
        "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podHASH.slice/cri-containerd-ID.scope",
        Some(HASH),
        true,
    ),
    ("v2, the pod itself", "0::/kubepods/burstable/podPOD", Some(UID), false),
    (
        "v2, CRI-O's monitor",
        "0::/kubepods.slice/kubepods-pod_POD_.slice/crio-conmon-ID.scope",
        Some(UID),
        false,
    ),
    (
        "v1, cgroupfs, Docker",
        "11:memory:/kubepods/burstable/podPOD/ID\n4:cpu,cpuacct:/kubepods/burstable/podPOD/ID\n1:name=systemd:/kubepods/burstable/podPOD/ID\n0::/",
        Some(UID),
        true,
    ),
    (
        "v1, systemd, containerd",
        "12:pids:/kubepods.slice/kubepods-podHASH.slice/cri-containerd-ID.scope\n1:name=systemd:/kubepods.slice/kubepods-podHASH.slice/cri-containerd-ID.scope\n0::/system.slice/containerd.service",
        Some(HASH),
        true,
    ),
    (
        "v1, a hierarchy that ends at the pod",
        "3:rdma:/kubepods/podPOD\n2:memory:/kubepods/podPOD/ID",
        Some(UID),
        true,
    ),
    ("Docker without Kubernetes, v2", "0::/system.slice/docker-ID.scope", None, true),
    ("Docker without Kubernetes, v1", "5:memory:/docker/ID\n0::/", None, true),
    ("Podman", "0::/machine.slice/libpod-ID.scope/container", None, true),
    (
        "a container in a pod that calls a cgroup of its own by another's name",
        "0::/kubepods/burstable/podPOD/ID/kubepods/pod00000000-0000-0000-0000-000000000000/ID",
        Some(UID),
        true,
    ),
];

#[test]
fn real_forms() {
    for (description, text, pod, has_container) in TABLE {
        let text = text
            .replace("OTHER", &ID.chars().rev().collect::<String>())
            .replace("_POD_", UID_)
            .replace("POD", UID)
            .replace("HASH", HASH)
            .replace("ID", ID);
        let place = parse(&text).unwrap_or_else(|| panic!("{description}: nothing in {text}"));
        assert_eq!(place.pod.as_deref(), pod, "{description}");
        assert_eq!(place.container.is_some(), has_container, "{description}");
        if pod.is_some() && has_container {
            assert_eq!(place.container.as_deref(), Some(ID), "{description}");
        }
    }
}

#[test]
fn what_is_in_no_pod() {
    let table = [
        ("a service", "0::/system.slice/nginx.service".to_owned()),
        ("a session", "0::/user.slice/user-1000.slice/session-3.scope".to_owned()),
        ("the root", "0::/".to_owned()),
        ("all pods", "0::/kubepods.slice/kubepods-burstable.slice".to_owned()),
        ("podman's own", "0::/user.slice/podman-1234.scope".to_owned()),
        ("not quite a uid", "0::/kubepods/pod1234-5678".to_owned()),
        ("upper case", format!("0::/kubepods/pod{}", UID.to_uppercase())),
        ("nothing", String::new()),
        (
            "two pods at once",
            format!("2:cpu:/kubepods/pod{UID}/{ID}\n1:pids:/kubepods/pod{HASH}/{ID}"),
        ),
    ];
    for (description, text) in table {
        assert_eq!(parse(&text), None, "{description}");
    }
}

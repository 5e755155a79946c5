//! The pod and the container of a process, by the name of its cgroup. The kubelet names a pod's cgroup, and the
//! container runtime those below it:
//!
//! | | pod | container below it |
//! | --- | --- | --- |
//! | cgroupfs | `pod<uid>` | `<id>` |
//! | systemd | `…-pod<uid, with _ for ->.slice` | `cri-containerd-<id>.scope`, `crio-<id>.scope`, `docker-<id>.scope` |
//! | systemd's form, made by containerd on cgroupfs | `…-pod<uid>.slice:cri-containerd:<id>`, one name | |
//!
//! Where they begin depends on the machine (kind and others have a root of their own, and an agent in a cgroup
//! namespace sees paths that begin with `/../..`), so the first component that fits is taken. A container can make
//! cgroups below its own only, so the first one is none of its making.

/// Length of a container's id.
const CONTAINER_ID: usize = 64;
/// Length of the hash that a static pod has for its uid.
const CONFIG_HASH: usize = 32;

/// Where a process lives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// Uid of its pod.
    pub(super) pod: Option<String>,
    /// Id of its container, or of the pod's sandbox.
    pub(super) container: Option<String>,
}

/// Reads `/proc/PID/cgroup` (cgroups(7)): one line for each hierarchy of version 1, and one for version 2. `None` if
/// it belongs to no pod and no container, or if hierarchies contradict each other.
pub(super) fn parse(text: &str) -> Option<Place> {
    let paths = text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let mut found: Option<Place> = None;
    for place in paths.filter_map(of_path) {
        match &mut found {
            None => found = Some(place),
            Some(known) if known.pod != place.pod => return None,
            // A hierarchy that the runtime does not use ends at the pod.
            Some(known) if known.container.is_none() => known.container = place.container,
            Some(known) if place.container.is_some() && known.container != place.container => {
                return None;
            }
            Some(_) => {}
        }
    }
    found
}

fn of_path(path: &str) -> Option<Place> {
    let mut components = path.split('/');
    while let Some(component) = components.next() {
        if let Some((slice, id)) = in_one_name(component) {
            return Some(Place { pod: pod(slice), container: Some(id.to_owned()) });
        }
        if let Some(uid) = pod(component) {
            let container = components.next().and_then(container);
            return Some(Place { pod: Some(uid), container });
        }
        // Without Kubernetes: Docker, or Podman.
        if let Some(id) = container(component) {
            return Some(Place { pod: None, container: Some(id) });
        }
    }
    None
}

/// `kubepods-burstable-pod<uid>.slice:cri-containerd:<id>`, taken apart.
fn in_one_name(component: &str) -> Option<(&str, &str)> {
    let (slice, rest) = component.split_once(':')?;
    let (_, id) = rest.split_once(':')?;
    (pod(slice).is_some() && is_hex(id, CONTAINER_ID)).then_some((slice, id))
}

/// The uid of the pod whose cgroup is called so.
fn pod(component: &str) -> Option<String> {
    if let Some(uid) = component.strip_prefix("pod") {
        return is_uid(uid).then(|| uid.to_owned());
    }
    // systemd takes a dash for a level of its own, so uids have underscores there.
    let (_, uid) = component.strip_suffix(".slice")?.rsplit_once("-pod")?;
    let uid = uid.replace('_', "-");
    is_uid(&uid).then_some(uid)
}

/// The id of the container whose cgroup is called so.
fn container(component: &str) -> Option<String> {
    let name = component.strip_suffix(".scope").unwrap_or(component);
    // CRI-O's monitor of a container is not in it.
    if name.starts_with("crio-conmon-") || name.starts_with("libpod-conmon-") {
        return None;
    }
    let id = name.rsplit_once('-').map_or(name, |(_, id)| id);
    is_hex(id, CONTAINER_ID).then(|| id.to_owned())
}

/// A UUID, or the hash of a static pod's file.
fn is_uid(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    match groups.as_slice() {
        [hash] => is_hex(hash, CONFIG_HASH),
        groups => {
            groups.len() == 5
                && groups.iter().zip([8, 4, 4, 4, 12]).all(|(group, len)| is_hex(group, len))
        }
    }
}

fn is_hex(text: &str, len: usize) -> bool {
    text.len() == len && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
#[path = "cgroup_tests.rs"]
mod tests;

//! What is known of all pods, put together from the sources.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use super::pod::{Pod, PodList, PodName};

/// Every pod once, by its uid: as the best source has it that knows it. Sources come best first.
pub(super) fn merge<'a>(sources: impl IntoIterator<Item = &'a [Arc<Pod>]>) -> PodList {
    let mut pods: BTreeMap<&str, &Arc<Pod>> = BTreeMap::new();
    for pod in sources.into_iter().flatten() {
        if let Entry::Vacant(entry) = pods.entry(&pod.uid) {
            entry.insert(pod);
        }
    }
    let mut pods: Vec<_> = pods.into_values().map(Arc::clone).collect();
    pods.sort_by(|a, b| (&a.namespace, &a.name, &a.uid).cmp(&(&b.namespace, &b.name, &b.uid)));
    Arc::new(pods)
}

/// The pod of this uid.
pub(super) fn by_uid(pods: &[Arc<Pod>], uid: &str) -> Option<Arc<Pod>> {
    pods.iter().find(|pod| pod.uid == uid).cloned()
}

/// The pods of this name: of a pod that died and came again there may be two for a while.
pub(super) fn named(pods: &[Arc<Pod>], name: &PodName) -> Vec<Arc<Pod>> {
    let is_it = |pod: &&Arc<Pod>| pod.namespace == name.namespace && pod.name == name.name;
    pods.iter().filter(is_it).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::{Grace, GraceSource};

    fn pod(uid: &str, name: &str, source: GraceSource) -> Arc<Pod> {
        let grace = Grace { seconds: 30, source };
        let (uid, namespace, name) = (uid.into(), "default".into(), name.into());
        Arc::new(Pod { uid, namespace, name, grace, ..Pod::default() })
    }

    #[test]
    fn the_better_source_wins_for_each_pod() {
        use GraceSource::{Api, Cri, Default};
        let api = [pod("1", "web", Api)];
        let cri = [pod("1", "web", Cri), pod("2", "static", Cri)];
        let logs =
            [pod("0", "web", Default), pod("1", "web", Default), pod("2", "static", Default)];
        let pods = merge([&api[..], &cri, &logs]);
        let told: Vec<_> = pods.iter().map(|p| (&*p.name, &*p.uid, p.grace.source)).collect();
        assert_eq!(told, [("static", "2", Cri), ("web", "0", Default), ("web", "1", Api)]);
        let name = "default/web".parse().unwrap();
        let uids: Vec<_> = named(&pods, &name).iter().map(|p| p.uid.clone()).collect();
        assert_eq!(uids, ["0", "1"], "a pod that came again is another one");
        assert_eq!(by_uid(&pods, "2").unwrap().name, "static");
        assert_eq!(by_uid(&pods, "3"), None);
    }
}

//! From the API's object to a [`Pod`].

use std::time::SystemTime;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod as PodObject, PodStatus};

use crate::pods::pod::{Grace, GraceSource, Pod};

/// On the API's copy of a static pod: the uid that the kubelet knows it by.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// What of it matters here; `None` if it has no name, which no pod lacks.
pub(super) fn pod(object: PodObject) -> Option<Pod> {
    let (meta, spec) = (object.metadata, object.spec.unwrap_or_default());
    let status = object.status.unwrap_or_default();
    let annotations = meta.annotations.unwrap_or_default();
    let uid = annotations.get(MIRROR).cloned().or(meta.uid)?;
    // That of a deletion may be shorter, or longer, than what the pod itself says.
    let seconds = meta.deletion_grace_period_seconds.or(spec.termination_grace_period_seconds);
    let gates = spec.readiness_gates.unwrap_or_default();
    let gates = gates.into_iter().map(|gate| {
        let holds = condition(&status, &gate.condition_type);
        (gate.condition_type, holds)
    });
    Some(Pod {
        uid,
        namespace: meta.namespace?,
        name: meta.name?,
        labels: meta.labels.unwrap_or_default(),
        annotations,
        grace: Grace {
            seconds: seconds.map_or(Grace::default().seconds, |s| u64::try_from(s).unwrap_or(0)),
            source: GraceSource::Api,
        },
        deleting: meta.deletion_timestamp.map(|at| SystemTime::from(at.0)),
        host_network: spec.host_network == Some(true),
        containers: containers(&status),
        gates: gates.collect(),
    })
}

/// Whether the condition holds; `None` if nobody has said so yet.
fn condition(status: &PodStatus, condition_type: &str) -> Option<bool> {
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let condition = conditions.iter().find(|condition| condition.type_ == condition_type)?;
    Some(condition.status == "True")
}

fn containers(status: &PodStatus) -> Vec<String> {
    let all = [&status.init_container_statuses, &status.container_statuses];
    let ids = all
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|c: &ContainerStatus| c.container_id.as_deref());
    ids.map(|id| id.split_once("://").map_or(id, |(_, id)| id).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(change: impl FnOnce(&mut Value)) -> Pod {
        let mut object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "web-0", "namespace": "default", "uid": "f47ac10b-58cc-4372-a567-0e02b2c3d479",
                "labels": {"app": "web"}, "annotations": {"drainctl.dev/prestop-port": "9876"},
            },
            "spec": {
                "containers": [{"name": "web"}], "terminationGracePeriodSeconds": 60,
                "readinessGates": [{"conditionType": "drainctl.dev/serving"}, {"conditionType": "other"}],
            },
            "status": {
                "conditions": [{"type": "other", "status": "True"}, {"type": "Ready", "status": "False"}],
                "containerStatuses": [{"name": "web", "containerID": "containerd://3f8a", "image": "", "imageID": "", "ready": true, "restartCount": 0}],
            },
        });
        change(&mut object);
        pod(serde_json::from_value(object).expect("it is a pod")).expect("it has a name")
    }

    #[test]
    fn what_matters_is_taken_over() {
        let pod = read(|_| ());
        assert_eq!(pod.full_name().to_string(), "default/web-0");
        assert_eq!(pod.labels["app"], "web");
        assert_eq!(pod.annotations["drainctl.dev/prestop-port"], "9876");
        assert_eq!(pod.grace, Grace { seconds: 60, source: GraceSource::Api });
        assert_eq!(pod.containers, ["3f8a"]);
        assert_eq!((pod.gates["drainctl.dev/serving"], pod.gates["other"]), (None, Some(true)));
        assert_eq!((pod.deleting, pod.host_network), (None, false));
    }

    #[test]
    fn a_deletion_has_a_grace_period_of_its_own() {
        let pod = read(|object| {
            object["metadata"]["deletionGracePeriodSeconds"] = json!(5);
            object["metadata"]["deletionTimestamp"] = json!("1970-01-01T00:01:40Z");
        });
        assert_eq!(pod.grace.seconds, 5);
        let at = pod.deleting.unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(at.as_secs(), 100);
    }

    #[test]
    fn a_static_pod_has_the_kubelets_uid() {
        let hash = "d4f0a2c1b3e596877a8b9c0d1e2f3a4b";
        let pod = read(|object| {
            object["metadata"]["annotations"][MIRROR] = json!(hash);
            object["spec"]["hostNetwork"] = json!(true);
            object["spec"]["terminationGracePeriodSeconds"] = Value::Null;
        });
        assert_eq!((&*pod.uid, pod.host_network, pod.grace.seconds), (hash, true, 30));
    }
}

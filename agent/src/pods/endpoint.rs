//! What a pod is to the Services that choose it. Pure: EndpointSlices come in.

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use super::{SERVING, pod::Pod};

/// The label that says which Service a slice belongs to.
const SERVICE: &str = "kubernetes.io/service-name";

/// The Service that has nobody but this pod to serve it on this port, if there is one.
pub(super) fn alone(slices: &[EndpointSlice], pod: &Pod, port: u16) -> Option<String> {
    let mine = slices.iter().filter(|slice| {
        serves(slice, port) && slice.endpoints.iter().any(|endpoint| counts(endpoint, pod))
    });
    let mut services = mine.filter_map(service);
    services.find(|name| !others(slices, name, pod)).map(str::to_owned)
}

/// Whether it gets traffic on this port of its endpoints. No number means all.
fn serves(slice: &EndpointSlice, port: u16) -> bool {
    let ports = slice.ports.as_deref().unwrap_or_default();
    ports.iter().any(|each| each.port.is_none_or(|each| each == i32::from(port)))
}

fn service(slice: &EndpointSlice) -> Option<&str> {
    Some(slice.metadata.labels.as_ref()?.get(SERVICE)?.as_str())
}

/// Whether it is this pod, and would get traffic but for us: of one that is not ready for a reason of its own nobody
/// expects anything.
fn counts(endpoint: &Endpoint, pod: &Pod) -> bool {
    is(endpoint, pod) && (is_ready(endpoint) || pod.gates.get(SERVING) == Some(&Some(false)))
}

fn is(endpoint: &Endpoint, pod: &Pod) -> bool {
    endpoint.target_ref.as_ref().is_some_and(|target| {
        target.kind.as_deref() == Some("Pod") && target.name.as_deref() == Some(&pod.name)
    })
}

/// Nothing said means yes.
fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().is_none_or(|conditions| conditions.ready != Some(false))
}

fn others(slices: &[EndpointSlice], name: &str, pod: &Pod) -> bool {
    let slices = slices.iter().filter(|slice| service(slice) == Some(name));
    slices.flat_map(|slice| &slice.endpoints).any(|e| !is(e, pod) && is_ready(e))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn slice(service: &str, port: Value, endpoints: &[(&str, Option<bool>)]) -> EndpointSlice {
        let endpoints: Vec<Value> = endpoints
            .iter()
            .map(|(name, ready)| {
                json!({
                    "addresses": ["10.0.0.1"], "conditions": {"ready": ready},
                    "targetRef": {"kind": "Pod", "name": name, "namespace": "default"},
                })
            })
            .collect();
        serde_json::from_value(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": format!("{service}-x"), "labels": {SERVICE: service}},
            "ports": [{"port": port}], "endpoints": endpoints,
        }))
        .expect("it is a slice")
    }

    #[test]
    fn the_last_one_that_serves_is_alone() {
        let (yes, no) = (Some(true), Some(false));
        let p = json!(8080);
        let all = Value::Null;
        let drained = [(SERVING.to_owned(), Some(false))].into();
        let drained = Pod { name: "web-0".into(), gates: drained, ..Pod::default() };
        let web = Pod { gates: [].into(), ..drained.clone() };
        #[rustfmt::skip]
        let table = [
            ("no Service chooses it", vec![], &web, None),
            ("it is the only one", vec![slice("web", p.clone(), &[("web-0", yes)])], &web, Some("web")),
            ("nothing said of it means ready", vec![slice("web", p.clone(), &[("web-0", None)])], &web, Some("web")),
            ("another one is ready", vec![slice("web", p.clone(), &[("web-0", yes), ("web-1", yes)])], &web, None),
            ("the other one is not", vec![slice("web", p.clone(), &[("web-0", yes), ("web-1", no)])], &web, Some("web")),
            ("the other one is in another slice", vec![slice("web", p.clone(), &[("web-0", yes)]), slice("web", p.clone(), &[("web-1", yes)])], &web, None),
            ("the other one is of another Service", vec![slice("web", p.clone(), &[("web-0", yes)]), slice("api", p.clone(), &[("web-1", yes)])], &web, Some("web")),
            ("it is about another port", vec![slice("web", json!(9090), &[("web-0", yes)])], &web, None),
            ("it is about all ports", vec![slice("web", all, &[("web-0", yes)])], &web, Some("web")),
            ("one of two Services has nobody else", vec![slice("web", p.clone(), &[("web-0", yes), ("web-1", yes)]), slice("api", p.clone(), &[("web-0", yes)])], &web, Some("api")),
            ("it is not ready for a reason of its own", vec![slice("web", p.clone(), &[("web-0", no)])], &web, None),
            ("it is not ready because it is being drained", vec![slice("web", p.clone(), &[("web-0", no)])], &drained, Some("web")),
        ];
        for (description, slices, pod, expected) in table {
            assert_eq!(alone(&slices, pod, 8080).as_deref(), expected, "{description}");
        }
    }
}

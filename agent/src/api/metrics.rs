//! `/metrics`: what docs/metrics.md lists. Values of services are read when asked for, and only for those
//! that are draining or held, so that a node with thousands of ports stays cheap to scrape.

mod hooks;
mod registries;
mod retiring;
mod waiting;

use std::{collections::HashMap, fmt, sync::Arc};

use axum::http::StatusCode;
use prometheus_client::{
    collector::Collector,
    encoding::{
        DescriptorEncoder, EncodeLabel, EncodeLabelSet, EncodeMetric, LabelSetEncoder, text::encode,
    },
    metrics::{counter::ConstCounter, counter::Counter, family::Family, gauge::ConstGauge},
    registry::Registry,
};

use super::{
    app::App,
    drains::Drains,
    error::ApiError,
    protocol::{PodRef, StateName},
    status::exists,
};
use crate::{
    carry::CarryCounts,
    drain::Service,
    executor::{Status, Totals},
    kernel::{Admitted, Faults, ProbeCounts},
};

/// Media type of the text format.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabel {
    code: u16,
}

/// Requests answered, by HTTP status.
#[derive(Default)]
pub(super) struct Requests(Family<CodeLabel, Counter>);

impl Requests {
    /// Counts one answer.
    pub(super) fn count(&self, status: StatusCode) {
        self.0.get_or_create(&CodeLabel { code: status.as_u16() }).inc();
    }
}

/// All metrics in the OpenMetrics text format.
pub(super) async fn text<D: Drains>(app: &App<D>) -> Result<String, ApiError> {
    let (faults, probes) = app.kernel(|kernel| Ok((kernel.faults()?, kernel.probes()?))).await?;
    let known = app.known().await?.into_iter().collect();
    // A namespace that ends meanwhile must not cost the other metrics.
    let services = app.drains.status(known).await.unwrap_or_default();
    let services: Vec<Status> = services.into_iter().filter(exists).collect();
    let mut pods = HashMap::new();
    for Status { service, .. } in &services {
        pods.extend(app.pod(service.netns).await.map(|pod| (service.netns, pod)));
    }
    let mut registry = Registry::with_prefix("drainctl");
    let requests = app.requests.0.clone();
    registry.register("http_requests", "Requests answered, by HTTP status", requests);
    registry.register_collector(Box::new(Snapshot {
        totals: app.drains.totals(),
        carried: app.drains.carried(),
        faults,
        probes,
        services,
        pods,
    }));
    registry.register_collector(Box::new(hooks::Hooks(Arc::clone(&app.hooks))));
    registry.register_collector(Box::new(registries::Registries(app.drains.registries())));
    let mut text = String::new();
    encode(&mut text, &registry).map_err(|error| ApiError::internal(&error))?;
    Ok(text)
}

/// Everything that is read at the moment of a scrape.
#[derive(Debug)]
struct Snapshot {
    totals: Totals,
    carried: CarryCounts,
    faults: Faults,
    probes: ProbeCounts,
    services: Vec<Status>,
    /// Pods of the namespaces of the services.
    pods: HashMap<u32, PodRef>,
}

#[derive(Debug, EncodeLabelSet)]
struct BuildLabels {
    version: &'static str,
}

/// Labels of every series of a service.
#[derive(Clone, Debug, EncodeLabelSet)]
struct ServiceLabels {
    netns: u32,
    port: u16,
    #[prometheus(flatten)]
    pod: PodLabels,
}

/// `namespace` and `pod`, where the pod is known.
#[derive(Clone, Debug)]
struct PodLabels(Option<PodRef>);

impl EncodeLabelSet for PodLabels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let Some(PodRef { namespace, name, .. }) = &self.0 else { return Ok(()) };
        ("namespace", namespace.as_str()).encode(encoder.encode_label())?;
        ("pod", name.as_str()).encode(encoder.encode_label())
    }
}

#[derive(Debug, EncodeLabelSet)]
struct StateLabels {
    #[prometheus(flatten)]
    service: ServiceLabels,
    state: &'static str,
}

#[derive(Debug, EncodeLabelSet)]
struct HowLabels {
    #[prometheus(flatten)]
    service: ServiceLabels,
    how: &'static str,
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.encode_build(&mut encoder)?;
        self.encode_counters(&mut encoder)?;
        self.encode_kubelet(&mut encoder)?;
        self.encode_carried(&mut encoder)?;
        self.encode_services(&mut encoder)?;
        self.encode_retiring(&mut encoder)
    }
}

impl Snapshot {
    fn encode_build(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let one = ConstGauge::new(1_i64);
        let help = "The running agent";
        let mut metric = encoder.encode_descriptor("build_info", help, None, one.metric_type())?;
        one.encode(metric.encode_family(&BuildLabels { version: env!("CARGO_PKG_VERSION") })?)
    }

    /// Name, help and value of every counter; `_total` is appended.
    fn counters(&self) -> [(&'static str, &'static str, u64); 19] {
        let Totals {
            drains,
            drained,
            expired,
            gave_up,
            disagreements,
            repairs,
            flows_after_drained,
            unknown_verdicts,
        } = self.totals;
        let Faults { flows_full, services_full, events_lost, no_netns } = self.faults;
        let CarryCounts { now: _, total, refused, loops, over_limit, strangers } = self.carried;
        [
            ("drains", "Drains accepted", drains),
            ("drained", "Services proven empty", drained),
            ("expired", "Drains whose deadline passed with connections remaining", expired),
            ("gave_up", "Drains that had to stay open until their deadline", gave_up),
            ("disagreements", "Times tracker and independent look disagreed", disagreements),
            ("repairs", "Entries and counters of the tracker mended", repairs),
            ("flows_after_drained", "Connections in a drained service", flows_after_drained),
            ("unknown_verdicts", "Counts that could not be verified", unknown_verdicts),
            ("tracker_flows_full", "Connections that found the map of flows full", flows_full),
            (
                "tracker_services_full",
                "Connections that found the map of services full",
                services_full,
            ),
            ("tracker_events_lost", "Events that found the ring buffer full", events_lost),
            ("tracker_no_netns", "Connections whose namespace could not be read", no_netns),
            ("probes_opened", "Connections opened by the kubelet", self.probes.opened),
            ("probes_passed", "Probes that closed gates let pass", self.probes.passed),
            ("carried", "Connections taken to be carried to a peer", total),
            ("carried_refused", "Connections reset because no peer answered", refused),
            ("carried_loops", "Connections reset because they had been carried already", loops),
            ("carried_over_limit", "Connections reset because too many were carried", over_limit),
            ("carried_strangers", "Connections reset because they were not steered", strangers),
        ]
    }

    fn encode_counters(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help, value) in self.counters() {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(
                name,
                help,
                None,
                counter.metric_type(),
            )?)?;
        }
        Ok(())
    }

    fn encode_kubelet(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let there = ConstGauge::new(i64::from(self.probes.cgroup.is_some()));
        let help = "1 if the kubelet's connections are told from others";
        there.encode(encoder.encode_descriptor("kubelet_known", help, None, there.metric_type())?)
    }

    fn encode_carried(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let now = gauge(self.carried.now as u64);
        let help = "Connections being carried to a peer now";
        now.encode(encoder.encode_descriptor("carrying", help, None, now.metric_type())?)
    }

    fn encode_services(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        self.encode_gauge(encoder, "service_flows", "Established connections", |s| s.flows)?;
        self.encode_gauge(encoder, "service_handshakes", "Handshakes in progress", |s| {
            s.handshakes
        })?;
        self.encode_gauge(
            encoder,
            "service_lingering",
            "Connections closed on our side only",
            |s| s.lingering,
        )?;
        self.encode_gauge(
            encoder,
            "service_probes",
            "Connections opened by the kubelet, which do not count",
            |s| s.exempt.probes,
        )?;
        self.encode_gauge(
            encoder,
            "service_rejected",
            "Connection attempts refused since the gate closed",
            |s| s.rejected,
        )?;
        self.encode_gauge(
            encoder,
            "service_ignored",
            "Connections of clients that --ignore names",
            |s| s.exempt.ignored,
        )?;
        self.encode_waiting(encoder)?;
        self.encode_admitted(encoder)?;
        self.encode_gauge(
            encoder,
            "service_steered",
            "Connections that another listener serves, to which the gate gave them",
            |s| s.exempt.steered,
        )?;
        self.encode_gauge(
            encoder,
            "service_handed_over",
            "Connection attempts given to another listener since the drain began",
            |s| s.steered.attempts,
        )?;
        self.encode_state(encoder)
    }

    fn encode_admitted(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let kind = ConstGauge::new(0_i64).metric_type();
        let help = "Connection attempts that the client's address decided";
        let mut metric = encoder.encode_descriptor("drain_admitted", help, None, kind)?;
        for status in &self.services {
            let Admitted { ignored, allowed, failed_health, kept } = status.admitted;
            let by = [
                ("ignore", ignored),
                ("allow", allowed),
                ("fail_health_from", failed_health),
                ("keep_clients", kept),
            ];
            for (how, attempts) in by {
                let labels = HowLabels { service: self.labels(status.service), how };
                gauge(attempts).encode(metric.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn encode_gauge(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &'static str,
        help: &str,
        value: impl Fn(&Status) -> u64,
    ) -> fmt::Result {
        let kind = ConstGauge::new(0_i64).metric_type();
        let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
        for status in &self.services {
            let labels = self.labels(status.service);
            gauge(value(status)).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn labels(&self, service: Service) -> ServiceLabels {
        let Service { netns, port } = service;
        ServiceLabels { netns, port, pod: PodLabels(self.pods.get(&netns).cloned()) }
    }

    /// One time series for each state, 1 for the one that holds.
    fn encode_state(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        use StateName::{Drained, Expired, Rejecting, Serving, Settling};
        let kind = ConstGauge::new(0_i64).metric_type();
        let help = "1 for the state the service is in";
        let mut metric = encoder.encode_descriptor("service_state", help, None, kind)?;
        for status in &self.services {
            for state in [Serving, Settling, Rejecting, Drained, Expired] {
                let labels =
                    StateLabels { service: self.labels(status.service), state: state.as_str() };
                let holds = i64::from(status.state == state);
                ConstGauge::new(holds).encode(metric.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

fn gauge(value: u64) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
}

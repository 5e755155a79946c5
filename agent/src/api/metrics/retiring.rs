//! What became of the connections of services that are draining.

use std::fmt;

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::gauge::ConstGauge,
};

use super::{HowLabels, ServiceLabels, Snapshot, gauge};
use crate::{
    api::protocol::UntellableFlows,
    drain::{RetireReport, Service},
};

#[derive(Debug, EncodeLabelSet)]
struct ReasonLabels {
    #[prometheus(flatten)]
    service: ServiceLabels,
    reason: &'static str,
}

impl Snapshot {
    /// The services that have a drain, with what became of their connections.
    fn reports(&self) -> impl Iterator<Item = (Service, &RetireReport)> {
        self.services
            .iter()
            .filter_map(|status| Some((status.service, &status.drain.as_ref()?.report)))
    }

    pub(super) fn encode_retiring(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        self.encode_told(encoder)?;
        self.encode_report(encoder, "drain_fin_sent", "Connections given a FIN", |r| r.fin_sent)?;
        self.encode_report(
            encoder,
            "drain_fin_raced",
            "Connections whose client sent something after our FIN",
            |r| r.fin_raced,
        )?;
        self.encode_report(
            encoder,
            "drain_left",
            "Connections that ended without a FIN or reset of ours",
            |r| r.left,
        )?;
        self.encode_report(encoder, "drain_aborted", "Connections reset at the deadline", |r| {
            r.aborted
        })?;
        self.encode_untellable(encoder)
    }

    fn encode_report(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &'static str,
        help: &str,
        value: impl Fn(&RetireReport) -> u64,
    ) -> fmt::Result {
        let kind = ConstGauge::new(0_i64).metric_type();
        let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
        for (service, report) in self.reports() {
            gauge(value(report)).encode(metric.encode_family(&self.labels(service))?)?;
        }
        Ok(())
    }

    fn encode_told(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let kind = ConstGauge::new(0_i64).metric_type();
        let help = "Connections told to leave";
        let mut metric = encoder.encode_descriptor("drain_told", help, None, kind)?;
        for (service, report) in self.reports() {
            let by = [("header", report.told_by_header), ("goaway", report.told_by_goaway)];
            for (how, told) in by {
                let labels = HowLabels { service: self.labels(service), how };
                gauge(told).encode(metric.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn encode_untellable(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let kind = ConstGauge::new(0_i64).metric_type();
        let help = "Connections there are now that cannot be told to leave";
        let mut metric = encoder.encode_descriptor("drain_untellable", help, None, kind)?;
        for (service, report) in self.reports() {
            for (barrier, flows) in UntellableFlows::from(&report.untellable).by_reason() {
                let labels =
                    ReasonLabels { service: self.labels(service), reason: barrier.as_str() };
                gauge(flows).encode(metric.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

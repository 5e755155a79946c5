//! What registries were told of drains.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};

use crate::registries::RegistryCounts;

/// Read at the moment of a scrape.
#[derive(Debug)]
pub(super) struct Registries(pub(super) RegistryCounts);

#[derive(Debug, EncodeLabelSet)]
struct Labels {
    event: &'static str,
    result: &'static str,
}

impl Collector for Registries {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let RegistryCounts { left, back, left_failed, back_failed, behind } = self.0;
        let behind = ConstGauge::new(i64::try_from(behind).unwrap_or(i64::MAX));
        let help = "Registries that do not know yet that a server is back";
        let kind = behind.metric_type();
        behind.encode(encoder.encode_descriptor("registries_behind", help, None, kind)?)?;
        let kind = ConstCounter::new(0_u64).metric_type();
        let help = "Attempts to tell a registry that a server leaves (drain) or is back (undrain)";
        let mut metric = encoder.encode_descriptor("registry_attempts", help, None, kind)?;
        for (event, result, value) in [
            ("drain", "done", left),
            ("drain", "failed", left_failed),
            ("undrain", "done", back),
            ("undrain", "failed", back_failed),
        ] {
            ConstCounter::new(value).encode(metric.encode_family(&Labels { event, result })?)?;
        }
        Ok(())
    }
}

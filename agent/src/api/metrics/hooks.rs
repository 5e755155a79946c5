//! What became of preStop hooks.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};

use crate::hook::Counts;

/// Read at the moment of a scrape.
#[derive(Debug)]
pub(super) struct Hooks(pub(super) Arc<Counts>);

#[derive(Debug, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

impl Collector for Hooks {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let read = |value: &std::sync::atomic::AtomicU64| value.load(Ordering::Relaxed);
        let counts = &self.0;
        let listeners = [
            ("hook_listeners", "Pods whose preStop hook is served", read(&counts.open)),
            (
                "hook_missing",
                "Pods that ask for a preStop hook and have none",
                counts.closed() as u64,
            ),
        ];
        for (name, help, value) in listeners {
            let value = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            value.encode(encoder.encode_descriptor(name, help, None, value.metric_type())?)?;
        }
        let results = [
            ("drained", read(&counts.drained)),
            ("not_drained", read(&counts.not_drained)),
            ("failed", read(&counts.failed)),
            ("denied", read(&counts.denied)),
        ];
        let kind = ConstCounter::new(0_u64).metric_type();
        let help = "preStop hooks answered; denied: connections that the kubelet did not open";
        let mut metric = encoder.encode_descriptor("hook_requests", help, None, kind)?;
        for (result, value) in results {
            let labels = ResultLabel { result };
            ConstCounter::new(value).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

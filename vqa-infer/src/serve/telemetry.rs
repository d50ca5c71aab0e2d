//! The metrics of a server.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// The metrics of a server, named by Prometheus's conventions.
pub(super) struct Telemetry {
    pub requests: Family<RequestLabels, Counter>,
    pub request_seconds: Histogram,
    pub connections: Gauge,
    pub waiting: Gauge,
    pub queue_seconds: Histogram,
    pub model_seconds: Histogram,
    pub batch_questions: Histogram,
    pub extract_seconds: Histogram,
    pub cache_hits: Counter,
    pub cache_misses: Counter,
    pub cache_bytes: Gauge,
    registry: Registry,
}

/// The labels of the request counter.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RequestLabels {
    /// The route as declared, so that clients cannot create new label values.
    pub route: String,
    pub status: u16,
}

impl Telemetry {
    pub fn new() -> Telemetry {
        // From 0.5 ms to about 16 s.
        let seconds = || Histogram::new(exponential_buckets(0.0005, 2.0, 16));
        let mut registry = Registry::with_prefix("vqa");
        let telemetry = Telemetry {
            requests: Family::default(),
            request_seconds: seconds(),
            connections: Gauge::default(),
            waiting: Gauge::default(),
            queue_seconds: seconds(),
            model_seconds: seconds(),
            batch_questions: Histogram::new(exponential_buckets(1.0, 2.0, 10)),
            extract_seconds: seconds(),
            cache_hits: Counter::default(),
            cache_misses: Counter::default(),
            cache_bytes: Gauge::default(),
            registry: Registry::default(),
        };
        registry.register("http_requests", "Requests by route and status", telemetry.requests.clone());
        for (name, help, histogram) in [
            ("http_request_duration", "From the head of a request to its answer", &telemetry.request_seconds),
            ("queue_duration", "How long questions wait for the model", &telemetry.queue_seconds),
            ("model_duration", "How long the model takes for a batch", &telemetry.model_seconds),
            ("extract_duration", "How long a new picture takes", &telemetry.extract_seconds),
        ] {
            registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
        }
        registry.register("batch_questions", "Questions in a batch", telemetry.batch_questions.clone());
        registry.register("connections", "Open connections", telemetry.connections.clone());
        registry.register("waiting_requests", "Requests that wait for the model", telemetry.waiting.clone());
        registry.register("cache_hits", "Pictures that were remembered", telemetry.cache_hits.clone());
        registry.register("cache_misses", "Pictures that were not remembered", telemetry.cache_misses.clone());
        registry.register_with_unit("cache", "What is remembered", Unit::Bytes, telemetry.cache_bytes.clone());
        Telemetry { registry, ..telemetry }
    }

    /// All metrics in the OpenMetrics text format.
    pub fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("a string can be written to");
        text
    }
}

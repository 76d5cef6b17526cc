//! The counters behind `/metrics`, in Prometheus' text form.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// What the gate made of an inbound update.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum UpdateOutcome {
    Accepted,
    Echo,
    Gap,
    Refused,
    Repaired,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub(crate) struct OutcomeLabel {
    outcome: &'static str,
}

/// All metrics of one server.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) connections: Gauge,
    pub(crate) participants: Gauge,
    pub(crate) rooms: Gauge,
    pub(crate) documents: Gauge,
    pub(crate) messages_received: Counter,
    pub(crate) broadcasts: Counter,
    pub(crate) deliveries: Counter,
    pub(crate) catch_ups: Counter,
    pub(crate) refused_handshakes: Counter,
    pub(crate) refused_requests: Counter,
    pub(crate) commit_failures: Counter,
    pub(crate) committed_writes: Counter,
    pub(crate) commit_seconds: Histogram,
    updates: Family<OutcomeLabel, Counter>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("meshagent");
        let connections = gauge(&mut registry, "connections", "WebSocket connections");
        let participants = gauge(
            &mut registry,
            "participants",
            "Participants that joined a room",
        );
        let rooms = gauge(&mut registry, "rooms", "Rooms in memory");
        let documents = gauge(&mut registry, "documents", "Documents in memory");
        let messages_received = counter(
            &mut registry,
            "messages_received",
            "Messages that clients sent",
        );
        let broadcasts = counter(
            &mut registry,
            "broadcasts",
            "Changes of documents sent out, each counted once however many readers it has",
        );
        let deliveries = counter(
            &mut registry,
            "deliveries",
            "Changes of documents queued, counted for each reader",
        );
        let catch_ups = counter(
            &mut registry,
            "catch_ups",
            "Readers brought up to date by one merged change after they fell behind",
        );
        let refused_handshakes = counter(
            &mut registry,
            "refused_handshakes",
            "Connections refused before they joined a room",
        );
        let refused_requests = counter(
            &mut registry,
            "refused_requests",
            "Requests answered with an error",
        );
        let commit_failures = counter(
            &mut registry,
            "commit_failures",
            "Transactions that the store refused",
        );
        let committed_writes = counter(
            &mut registry,
            "committed_writes",
            "Writes handed to the store",
        );
        let commit_seconds = Histogram::new(exponential_buckets(0.000_1, 2.0, 16));
        registry.register(
            "commit_seconds",
            "Time of one transaction, until it is durable",
            commit_seconds.clone(),
        );
        let updates = Family::<OutcomeLabel, Counter>::default();
        registry.register(
            "updates",
            "Inbound updates by what the gate made of them",
            updates.clone(),
        );
        Self {
            registry,
            connections,
            participants,
            rooms,
            documents,
            messages_received,
            broadcasts,
            deliveries,
            catch_ups,
            refused_handshakes,
            refused_requests,
            commit_failures,
            committed_writes,
            commit_seconds,
            updates,
        }
    }

    pub(crate) fn count_update(&self, outcome: UpdateOutcome) {
        let outcome = match outcome {
            UpdateOutcome::Accepted => "accepted",
            UpdateOutcome::Echo => "echo",
            UpdateOutcome::Gap => "gap",
            UpdateOutcome::Refused => "refused",
            UpdateOutcome::Repaired => "repaired",
        };
        self.updates.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// The text of `/metrics`.
    pub(crate) fn render(&self) -> String {
        let mut text = String::new();
        // Writing into a string cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

fn gauge(registry: &mut Registry, name: &str, help: &str) -> Gauge {
    let gauge = Gauge::default();
    registry.register(name, help, gauge.clone());
    gauge
}

fn counter(registry: &mut Registry, name: &str, help: &str) -> Counter {
    let counter = Counter::default();
    registry.register(name, help, counter.clone());
    counter
}

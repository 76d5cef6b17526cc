//! The metrics behind `/metrics`, in the text format of `OpenMetrics`.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// How the gate handled an inbound update.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum UpdateOutcome {
    Accepted,
    Echo,
    Gap,
    Refused,
    Repaired,
}

impl UpdateOutcome {
    const ALL: [Self; 5] = [
        Self::Accepted,
        Self::Echo,
        Self::Gap,
        Self::Refused,
        Self::Repaired,
    ];

    fn label(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Echo => "echo",
            Self::Gap => "gap",
            Self::Refused => "refused",
            Self::Repaired => "repaired",
        }
    }
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub(crate) struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct KindLabel {
    kind: &'static str,
}

/// All metrics of one server.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) connections: Gauge,
    pub(crate) http_connections: Gauge,
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
    pub(crate) heavy_seconds: Histogram,
    pub(crate) room_panics: Counter,
    pub(crate) delays: Counter,
    pub(crate) open_bytes: Gauge,
    pub(crate) queued_bytes: Gauge,
    pub(crate) received_bytes: Gauge,
    pub(crate) schema_bytes: Gauge,
    pub(crate) shared_bytes: Gauge,
    pub(crate) stored_documents: Gauge,
    pub(crate) streams: Gauge,
    pub(crate) state_encodings: Counter,
    pub(crate) snapshots: Counter,
    pub(crate) echoes_unread: Counter,
    pub(crate) merged_updates: Counter,
    pub(crate) wal_bytes: Gauge,
    pub(crate) update_conflicts: Counter,
    pub(crate) clients_ahead: Counter,
    pub(crate) erased_operations: Counter,
    /// One counter for each outcome, in the order of [`UpdateOutcome::ALL`].
    updates: [Counter; UpdateOutcome::ALL.len()],
    held_bytes: Family<KindLabel, Gauge>,
}

/// Counts something in a gauge while it exists.
#[derive(Debug)]
pub(crate) struct Counted<'a>(&'a Gauge);

impl<'a> Counted<'a> {
    pub(crate) fn new(gauge: &'a Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("meshagent");
        let connections = gauge(&mut registry, "connections", "WebSocket connections");
        let http_connections = gauge(
            &mut registry,
            "http_connections",
            "Connections that are in a handshake, or speak HTTP",
        );
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
        let heavy_seconds = Histogram::new(exponential_buckets(0.000_1, 2.0, 16));
        registry.register(
            "heavy_work_seconds",
            "Time of one piece of work that was done where it keeps no other room waiting",
            heavy_seconds.clone(),
        );
        let room_panics = counter(
            &mut registry,
            "room_panics",
            "Rooms that panicked and were started again; each is a defect, please report it",
        );
        let delays = counter(
            &mut registry,
            "delayed_messages",
            "How often reading from clients that were too fast was put off",
        );
        let queued_bytes = gauge(
            &mut registry,
            "queued_bytes",
            "Bytes queued towards connections that are their own; what they share is counted apart",
        );
        let received_bytes = gauge(
            &mut registry,
            "received_bytes",
            "Bytes of large messages that were received, or are expected, and not handled yet",
        );
        let open_bytes = gauge(
            &mut registry,
            "open_bytes",
            "Bytes of memory that the documents in memory take, about",
        );
        let schema_bytes = gauge(
            &mut registry,
            "schema_bytes",
            "Bytes of memory that schemas take, about",
        );
        let shared_bytes = gauge(
            &mut registry,
            "shared_bytes",
            "Bytes of encoded states and changes that are alive, however many connections share \
             them",
        );
        let stored_documents = gauge(&mut registry, "stored_documents", "Documents in the store");
        let streams = gauge(&mut registry, "streams", "Streamed calls that are open");
        let state_encodings = counter(
            &mut registry,
            "state_encodings",
            "Whole states encoded for those who open a document or are far behind",
        );
        let snapshots = counter(
            &mut registry,
            "snapshots",
            "Logs of documents folded into snapshots",
        );
        let echoes_unread = counter(
            &mut registry,
            "echoes_unread",
            "Echoes known by their bytes, without a look inside",
        );
        let merged_updates = counter(
            &mut registry,
            "merged_updates",
            "Updates stored as part of another's write, because they waited for the disk together",
        );
        let wal_bytes = gauge(
            &mut registry,
            "wal_bytes",
            "Bytes of the store's log, which grows while something holds the database open for \
             reading",
        );
        let update_conflicts = counter(
            &mut registry,
            "update_conflicts",
            "Updates refused because they name operations that are others here, or use another \
             participant's client id",
        );
        let clients_ahead = counter(
            &mut registry,
            "clients_ahead",
            "Opens and open documents whose client has operations that the server lacks",
        );
        let erased_operations = counter(
            &mut registry,
            "erased_operations",
            "Operations that came with content and are deleted here, so that it was neither kept \
             nor compared",
        );
        let updates_by_outcome = Family::<OutcomeLabel, Counter>::default();
        registry.register(
            "updates",
            "Inbound updates by what the gate made of them",
            updates_by_outcome.clone(),
        );
        let held_bytes = Family::<KindLabel, Gauge>::default();
        registry.register(
            "held_bytes",
            "Bytes held for clients, by what for",
            held_bytes.clone(),
        );
        Self {
            registry,
            connections,
            http_connections,
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
            heavy_seconds,
            room_panics,
            delays,
            open_bytes,
            queued_bytes,
            received_bytes,
            schema_bytes,
            shared_bytes,
            stored_documents,
            streams,
            state_encodings,
            snapshots,
            echoes_unread,
            merged_updates,
            wal_bytes,
            update_conflicts,
            clients_ahead,
            erased_operations,
            // All counters exist from the start, so that rates and alerts see the first event.
            updates: UpdateOutcome::ALL.map(|outcome| {
                let outcome = outcome.label();
                let counter = updates_by_outcome.get_or_create(&OutcomeLabel { outcome });
                counter.clone()
            }),
            held_bytes,
        }
    }

    pub(crate) fn count_update(&self, outcome: UpdateOutcome) {
        self.updates[outcome as usize].inc();
    }

    /// Sets the bytes held for clients of one kind.
    pub(crate) fn set_held(&self, kind: &'static str, bytes: i64) {
        self.held_bytes
            .get_or_create(&KindLabel { kind })
            .set(bytes);
    }

    /// Renders the text of `/metrics`.
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

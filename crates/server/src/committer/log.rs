//! The length of the store's log, for the metrics and a warning.

use meshagent_store::AsyncStore;

use crate::metrics::Metrics;

/// Length of the store's log that causes a warning, repeated whenever the length has doubled. A
/// store keeps its log below 64 MiB unless a reader holds it.
const LONG_LOG: u64 = 256 << 20;

/// Watches the length of the store's log.
#[derive(Default)]
pub(super) struct Log {
    warned_at: u64,
}

impl Log {
    pub(super) fn measure(&mut self, store: &dyn AsyncStore, metrics: &Metrics) {
        let bytes = store.log_bytes();
        metrics
            .wal_bytes
            .set(i64::try_from(bytes).unwrap_or(i64::MAX));
        if bytes >= LONG_LOG.max(self.warned_at.saturating_mul(2)) {
            tracing::warn!(
                bytes,
                "the store's log grows: something holds the database open for reading, such as a \
                 backup that does not end"
            );
            self.warned_at = bytes;
        } else if bytes < LONG_LOG {
            self.warned_at = 0;
        }
    }
}

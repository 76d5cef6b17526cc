//! The turns of connections that are always ready: after a number of bytes, others go first.

/// Bytes that a connection reads or writes before it yields to the other connections on its thread.
pub(super) const TURN_BYTES: usize = 16 << 10;

/// Bytes that a connection has read or written since it last yielded. A socket may deliver or
/// accept megabytes without blocking, and hundreds of sockets may be ready together.
#[derive(Default)]
pub(super) struct Turn {
    bytes: usize,
}

impl Turn {
    /// Counts bytes and yields after each [`TURN_BYTES`]. Returns whether it yielded.
    pub(super) async fn take(&mut self, bytes: usize) -> bool {
        self.bytes += bytes;
        let is_over = self.bytes >= TURN_BYTES;
        if is_over {
            self.bytes = 0;
            tokio::task::yield_now().await;
        }
        is_over
    }
}

//! What an operator can set: limits and durations, with the defaults that suit one machine.

use std::time::Duration;

/// The bounds that keep one peer from costing the others.
///
/// Every bound has a flag of `meshagent serve`; beside each stands what happens beyond it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of one message while it is put together from its packets. Beyond it: error 1002 for that message.
    ///
    /// It has to stay above the largest document's state in base64, because published clients send
    /// a document's whole state back after opening it.
    pub max_message_bytes: usize,
    /// Bytes of messages that were received and not handled yet, of all connections together; of each message the first
    /// 64 KiB are free. Beyond it: connections are read from later.
    pub max_receive_bytes: usize,
    /// Messages per second of one connection; twice as many may come at once. Beyond it: it is read from later.
    pub max_messages_per_second: u64,
    /// Bytes per second of one connection, likewise.
    pub max_bytes_per_second: u64,
    /// Messages per second of all connections together, likewise.
    pub max_total_messages_per_second: u64,
    /// Bytes of one decoded update. Beyond it: error 1002 for that update.
    pub max_update_bytes: usize,
    /// Bytes of updates that one document keeps although they build on something that never came. Beyond it: error
    /// 1005 for the update, which the client sends again after what is missing.
    pub max_pending_bytes: usize,
    /// Documents of the project. Beyond it: error 1008 for the request that would create one.
    pub max_documents: u64,
    /// Bytes of one document's merged state. Beyond it: error 1002 for the update, unless it only deletes.
    ///
    /// In base64 this has to stay below the largest message, as published clients send a whole state back.
    pub max_document_bytes: usize,
    /// Elements of one document. Beyond it: error 1002 for the update, which changes nothing.
    pub max_document_elements: usize,
    /// Levels of elements in one document, which published clients walk recursively. Beyond it: error 1002 for the
    /// update, which changes nothing.
    pub max_document_depth: usize,
    /// Bytes of one uploaded file. Beyond it: error 1002, nothing is stored.
    pub max_file_bytes: usize,
    /// Bytes of all uploads under way in one room. Beyond it: error 1008 for the upload that crosses it.
    pub max_upload_bytes_per_room: usize,
    /// Bytes queued towards one connection before the server stops reading from it.
    ///
    /// It counts what is this connection's own: answers, messages and what refers to shared frames.
    /// Documents' broadcasts stop being queued at the same mark; the reader gets one merged update when it
    /// reads again. A connection that other participants' messages push to four times the mark is dropped.
    pub max_outbox_bytes: usize,
    /// Bytes of encoded states and changes that are alive, of all documents together; connections share them.
    /// Beyond it: documents are opened later, and readers that have something queued become cursors.
    pub max_shared_bytes: usize,
    /// Streamed calls open on one connection. Beyond it: error 1002 for the call.
    pub max_streams_per_connection: usize,
    /// Streamed calls open on all connections together. Beyond it: error 1008 for the call.
    pub max_streams: usize,
    /// Participants in one room. Beyond it: HTTP 503 at the handshake.
    pub max_participants_per_room: usize,
    /// Connections of the whole server, in handshake or joined. Beyond it: new ones wait in the listen queue.
    pub max_connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_message_bytes: 64 << 20,
            max_receive_bytes: 256 << 20,
            max_messages_per_second: 2_000,
            max_bytes_per_second: 64 << 20,
            max_total_messages_per_second: 200_000,
            max_update_bytes: 48 << 20,
            max_pending_bytes: 8 << 20,
            max_documents: 10_000_000,
            max_document_bytes: 40 << 20,
            max_document_elements: 1_000_000,
            max_document_depth: 256,
            max_file_bytes: 48 << 20,
            max_upload_bytes_per_room: 256 << 20,
            max_outbox_bytes: 1 << 20,
            max_shared_bytes: 512 << 20,
            max_streams_per_connection: 4096,
            max_streams: 1_000_000,
            max_participants_per_room: 20_000,
            max_connections: 50_000,
        }
    }
}

/// Everything that [`Server::new`](crate::Server::new) needs to know besides the store and the key.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// The bounds on peers.
    pub limits: Limits,
    /// How long a document stays in memory after its last participant left it.
    pub unload_after: Duration,
    /// How many updates a document collects before they are folded into a snapshot. It is folded earlier when its log
    /// is longer than half of the snapshot before it and 64 KiB.
    pub snapshot_every: usize,
    /// How long it is kept which connection made which operations, and when; older records are folded to one per
    /// author. Zero: for ever.
    pub provenance_kept: Duration,
    /// Time for an HTTP request's head, which includes the WebSocket handshake.
    pub handshake_timeout: Duration,
    /// Time for one message to arrive completely, from its first packet on. After it the connection ends.
    pub message_timeout: Duration,
    /// Time between pings; a peer that is silent for two and a half of them is gone.
    pub ping_interval: Duration,
    /// Time that connections get to drain when the server stops.
    pub shutdown_grace: Duration,
    /// Validity of the tokens that the `connect` endpoint hands out.
    pub connect_token_ttl: Duration,
    /// Validity of the URLs that `download_url` hands out.
    pub download_url_ttl: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            unload_after: Duration::from_secs(30),
            snapshot_every: 512,
            provenance_kept: Duration::from_hours(90 * 24),
            handshake_timeout: Duration::from_secs(10),
            message_timeout: Duration::from_mins(2),
            ping_interval: Duration::from_secs(30),
            shutdown_grace: Duration::from_secs(5),
            connect_token_ttl: Duration::from_hours(24),
            download_url_ttl: Duration::from_hours(1),
        }
    }
}

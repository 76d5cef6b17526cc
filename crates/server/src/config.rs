//! Configuration of the server: limits and durations, with defaults that suit one machine.

use std::time::Duration;

/// Limits that keep one peer from harming the others. Each says what happens beyond it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of one message while it is assembled from its packets. Beyond it: error 1002 for that
    /// message.
    ///
    /// It must be larger than the state of the largest document in base64, because published
    /// clients send a document's whole state back after opening it.
    pub max_message_bytes: usize,
    /// Bytes that the server holds for its peers, of all kinds together. A connection may have a
    /// quarter of it, a participant three eighths. Beyond it: reads pause, large answers wait, or a
    /// request is refused with 1008, as `docs/operations.md` describes for each kind.
    pub max_held_bytes: usize,
    /// Bytes of messages that were received and are not handled yet, of all connections together.
    /// Beyond it: reads pause.
    pub max_receive_bytes: usize,
    /// Bytes that the JSON of one message takes in memory, estimated before it is parsed. Beyond
    /// it: error 1002 for that message.
    pub max_json_bytes: usize,
    /// Messages per second of one connection, with bursts of twice as many. Beyond it: reads pause.
    pub max_messages_per_second: u64,
    /// Bytes per second of one connection, with bursts of twice as many. Beyond it: reads pause.
    pub max_bytes_per_second: u64,
    /// Messages per second of all connections together, with bursts of twice as many. Beyond it:
    /// reads pause.
    pub max_total_messages_per_second: u64,
    /// Bytes of one decoded update. Beyond it: error 1002 for that update.
    pub max_update_bytes: usize,
    /// Bytes of updates that one document keeps although operations on which they build are
    /// missing. Beyond it: error 1005 for the update, which the client sends again after the
    /// missing operations.
    pub max_pending_bytes: usize,
    /// Documents of the project. Beyond it: error 1008 for the request that would create one.
    pub max_documents: u64,
    /// Bytes of one document's merged state. Beyond it: error 1002 for the update, unless it only
    /// deletes.
    ///
    /// In base64 this must be smaller than `max_message_bytes`, as published clients send the whole
    /// state back.
    pub max_document_bytes: usize,
    /// Elements of one document. Beyond it: error 1002 for the update, which changes nothing.
    pub max_document_elements: usize,
    /// Nesting depth of elements in one document, which published clients walk recursively. Beyond
    /// it: error 1002 for the update, which changes nothing.
    pub max_document_depth: usize,
    /// Client ids with operations in one document. Each program that edits it adds a new id with
    /// every start. Beyond it: error 1002 for an update under a new id, which changes nothing.
    pub max_document_clients: usize,
    /// Estimated memory, in bytes, of the schemas of all documents in memory; equal schemas count
    /// once. Beyond it: error 1008 for the request that would open or create a document with
    /// another schema.
    pub max_schema_bytes: usize,
    /// Estimated memory, in bytes, of the documents in memory. The documents that one participant
    /// loaded or created may take three eighths of it. Beyond it: error 1008 for the request that
    /// would open or create one more. From three quarters of it on, documents without readers are
    /// evicted earlier.
    pub max_open_bytes: usize,
    /// Entries of a folder that is listed. Beyond it: error 1002 for the list.
    pub max_list_entries: usize,
    /// Bytes of one uploaded file. Beyond it: error 1002, and nothing is stored.
    pub max_file_bytes: usize,
    /// Bytes of all uploads in progress in one room. Beyond it: error 1008 for the upload that
    /// crosses it.
    pub max_upload_bytes_per_room: usize,
    /// Bytes queued for one connection. Beyond it: reads from the connection pause.
    ///
    /// It counts answers and documents' changes, including shared bytes, but not what other
    /// participants say. At the same mark, changes of documents are no longer queued, and the
    /// connection receives one merged change when it has read enough. Messages of other
    /// participants are lost for the connection while more than four times the mark of them is
    /// queued, or twice the mark of the same participant.
    pub max_outbox_bytes: usize,
    /// Bytes of encoded states and changes that are alive, of all documents together; connections
    /// share them. Beyond it: opens wait, and readers with a non-empty queue become cursors.
    pub max_shared_bytes: usize,
    /// Streamed calls open on one connection. Beyond it: error 1002 for the call.
    pub max_streams_per_connection: usize,
    /// Streamed calls open on all connections together. Beyond it: error 1008 for the call.
    pub max_streams: usize,
    /// Participants in one room. Beyond it: HTTP 503 at the handshake.
    pub max_participants_per_room: usize,
    /// Connections of participants, of all rooms together. Beyond it: HTTP 503 at the handshake.
    pub max_connections: usize,
    /// Connections that speak HTTP, including those in a handshake. Beyond it: new ones wait in the
    /// listen queue. They are counted separately from participants, so that a full server still
    /// answers health checks.
    pub max_http_connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_message_bytes: 64 << 20,
            max_held_bytes: 384 << 20,
            max_receive_bytes: 256 << 20,
            max_json_bytes: 64 << 20,
            max_messages_per_second: 2_000,
            max_bytes_per_second: 64 << 20,
            max_total_messages_per_second: 200_000,
            max_update_bytes: 48 << 20,
            max_pending_bytes: 8 << 20,
            max_documents: 10_000_000,
            max_document_bytes: 40 << 20,
            max_document_elements: 1_000_000,
            max_document_depth: 256,
            max_document_clients: 1_000_000,
            max_schema_bytes: 256 << 20,
            max_open_bytes: 768 << 20,
            max_list_entries: 100_000,
            max_file_bytes: 48 << 20,
            max_upload_bytes_per_room: 256 << 20,
            max_outbox_bytes: 1 << 20,
            max_shared_bytes: 256 << 20,
            max_streams_per_connection: 4096,
            max_streams: 1_000_000,
            max_participants_per_room: 20_000,
            max_connections: 50_000,
            max_http_connections: 50_000,
        }
    }
}

/// Everything that [`Server::new`](crate::Server::new) needs besides the store and the key.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// Limits on what peers may use.
    pub limits: Limits,
    /// How long a document stays in memory after its last participant has left it.
    pub unload_after: Duration,
    /// How many updates a document collects before they are compacted into a snapshot. Compaction
    /// happens earlier when the log is longer than 64 KiB and than half of the previous snapshot.
    pub snapshot_every: usize,
    /// How long the store keeps which connection made which operations, and when. Older records are
    /// merged into one per author. Zero means forever.
    pub provenance_kept: Duration,
    /// Time for the head of an HTTP request, including the WebSocket handshake.
    pub handshake_timeout: Duration,
    /// Time for the body of an HTTP request, and for a peer to read each 16 KiB of a response.
    /// Beyond it the connection ends.
    pub http_timeout: Duration,
    /// Time for one message to arrive completely, from its first packet on, excluding the time for
    /// which the server makes the peer wait. Beyond it the connection ends.
    pub message_timeout: Duration,
    /// While others wait for memory, a peer for which the server holds something must send or read
    /// 64 KiB in this time, and a 24th of a large answer. Otherwise its connection ends.
    pub pace_window: Duration,
    /// Time between pings. A peer that is silent for two and a half intervals is disconnected.
    pub ping_interval: Duration,
    /// Time for connections to drain when the server stops.
    pub shutdown_grace: Duration,
    /// Validity of the tokens that the `connect` endpoint issues.
    pub connect_token_ttl: Duration,
    /// Validity of the URLs that `download_url` returns.
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
            http_timeout: Duration::from_secs(30),
            message_timeout: Duration::from_mins(2),
            pace_window: Duration::from_secs(5),
            ping_interval: Duration::from_secs(30),
            shutdown_grace: Duration::from_secs(5),
            connect_token_ttl: Duration::from_hours(24),
            download_url_ttl: Duration::from_hours(1),
        }
    }
}

//! What an operator can set: limits and durations, with the defaults that suit one machine.

use std::time::Duration;

/// The bounds that keep one peer from costing the others.
///
/// Beside each bound stands what happens beyond it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of one message while it is put together from its packets. Beyond it: error 1002 for that message.
    ///
    /// It has to stay above the largest document's state in base64, because published clients send
    /// a document's whole state back after opening it.
    pub max_message_bytes: usize,
    /// Bytes that the server holds for its peers, of all kinds together: a connection may have a quarter of it, a participant
    /// three eighths. Beyond it: reads pause, large answers wait, or a request is refused with 1008, as
    /// `docs/operations.md` says for each kind.
    pub max_held_bytes: usize,
    /// Bytes of messages that were received and not handled yet, of all connections together. Beyond it: reads pause.
    pub max_receive_bytes: usize,
    /// Bytes that the JSON of one message takes in memory, judged before it is read. Beyond it: error 1002 for that message.
    pub max_json_bytes: usize,
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
    /// Client ids with operations in one document; each program that edits it brings a new one whenever it starts. Beyond
    /// it: error 1002 for the update of a new one, which changes nothing.
    pub max_document_clients: usize,
    /// Bytes of memory, about, that the schemas of all documents in memory take together; equal ones are one.
    /// Beyond it: error 1008 for the request that would open or create a document with one more.
    pub max_schema_bytes: usize,
    /// Bytes of memory, about, that the documents in memory take together; those that one participant has had read or made,
    /// three eighths of it. Beyond it: error 1008 for the request that would open or create one more, and documents that
    /// nobody has open are let go earlier.
    pub max_open_bytes: usize,
    /// Entries of a folder that is listed. Beyond it: error 1002 for the list.
    pub max_list_entries: usize,
    /// Bytes of one uploaded file. Beyond it: error 1002, nothing is stored.
    pub max_file_bytes: usize,
    /// Bytes of all uploads under way in one room. Beyond it: error 1008 for the upload that crosses it.
    pub max_upload_bytes_per_room: usize,
    /// Bytes queued towards one connection before the server stops reading from it.
    ///
    /// It counts what is this connection's own: answers, messages and what refers to shared frames.
    /// Documents' broadcasts stop being queued at the same mark; the reader gets one merged update when it
    /// reads again. Beyond four times the mark, what other participants say is lost for the connection.
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
    /// Connections of participants, of all rooms together. Beyond it: HTTP 503 at the handshake.
    pub max_connections: usize,
    /// Connections that speak HTTP, those in a handshake among them. Beyond it: new ones wait in the listen queue.
    /// Counted apart from the other connections, so that a full server still answers health checks.
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
    /// Time for the body of an HTTP request, and for a peer to take each 16 KiB of a response. After it the connection
    /// ends.
    pub http_timeout: Duration,
    /// Time for one message to arrive completely, from its first packet on, without the time for which the server makes its
    /// peer wait. After it the connection ends.
    pub message_timeout: Duration,
    /// While others wait for memory, a peer that the server holds something for has to send or take 64 KiB of it in this
    /// time, and a 24th of a large answer. If it does not, the connection ends.
    pub pace_window: Duration,
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

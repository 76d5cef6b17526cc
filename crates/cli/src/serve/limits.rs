//! Flags of `meshagent serve` for limits and times.

use std::time::Duration;

use clap::Args;
use meshagent_server::{Config, Limits};

use crate::settings;

#[derive(Args, Debug)]
#[command(next_help_heading = "Limits")]
pub(super) struct LimitArgs {
    /// Maximum bytes of one message, reassembled from its packets; larger messages are refused
    /// (1002). Keep it above 4/3 of the largest document: SDKs send a document back in full after
    /// opening it
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = Limits::default().max_message_bytes,
        value_parser = settings::from_one::<usize>
    )]
    max_message_bytes: usize,

    /// Maximum bytes held for all clients: messages, responses, uploads, writes waiting for the
    /// disk; one connection may hold a quarter. Beyond it reads pause, large responses wait, or
    /// requests are refused (1008)
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = Limits::default().max_held_bytes,
        value_parser = settings::from_one::<usize>
    )]
    max_held_bytes: usize,

    /// Maximum bytes of incoming messages of all connections; beyond it reads pause
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = Limits::default().max_receive_bytes,
        value_parser = settings::from_one::<usize>
    )]
    max_receive_bytes: usize,

    /// Maximum memory in bytes for the parsed JSON of one message, which is many times its text if
    /// the values are small; larger messages are refused (1002)
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = Limits::default().max_json_bytes,
        value_parser = settings::from_one::<usize>
    )]
    max_json_bytes: usize,

    /// Messages per second of one connection, with bursts of twice as many; beyond it reads from
    /// this connection pause
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = Limits::default().max_messages_per_second,
        value_parser = settings::from_one::<u64>
    )]
    max_messages_per_second: u64,

    /// Bytes per second of one connection, with bursts of twice as many; beyond it reads from this
    /// connection pause
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = Limits::default().max_bytes_per_second,
        value_parser = settings::from_one::<u64>
    )]
    max_bytes_per_second: u64,

    /// Messages per second of all connections, with bursts of twice as many; beyond it reads pause
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = Limits::default().max_total_messages_per_second,
        value_parser = settings::from_one::<u64>
    )]
    max_total_messages_per_second: u64,

    /// Maximum bytes of one document update; larger updates are refused (1002)
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = Limits::default().max_update_bytes,
        value_parser = settings::from_one::<usize>
    )]
    max_update_bytes: usize,

    /// Maximum bytes of updates kept for one document while updates that they depend on are
    /// missing; beyond it such an update is refused (1005)
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = Limits::default().max_pending_bytes,
        value_parser = settings::from_zero::<usize>
    )]
    max_pending_bytes: usize,

    /// Maximum number of documents; beyond it creating a document is refused (1008)
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = Limits::default().max_documents,
        value_parser = settings::from_one::<u64>
    )]
    max_documents: u64,

    /// Maximum bytes of one document; an update that exceeds it is refused (1002)
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = Limits::default().max_document_bytes,
        value_parser = settings::from_one::<usize>
    )]
    max_document_bytes: usize,

    /// Maximum number of elements in one document; an update that exceeds it is refused (1002)
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = Limits::default().max_document_elements,
        value_parser = settings::from_one::<usize>
    )]
    max_document_elements: usize,

    /// Maximum nesting depth of elements in one document; an update that exceeds it is
    /// refused (1002)
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = Limits::default().max_document_depth,
        value_parser = settings::from_one::<usize>
    )]
    max_document_depth: usize,

    /// Maximum number of client ids in one document; each program that edits it adds one per start.
    /// Beyond it updates with a new client id are refused (1002)
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = Limits::default().max_document_clients,
        value_parser = settings::from_one::<usize>
    )]
    max_document_clients: usize,

    /// Approximate maximum memory in bytes for the schemas of all loaded documents; beyond it
    /// opening or creating a document with a further schema is refused (1008)
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = Limits::default().max_schema_bytes,
        value_parser = settings::from_one::<usize>
    )]
    max_schema_bytes: usize,

    /// Approximate maximum memory in bytes for all loaded documents, of which one participant may
    /// use three eighths; beyond it opening or creating a further document is refused (1008)
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = Limits::default().max_open_bytes,
        value_parser = settings::from_one::<usize>
    )]
    max_open_bytes: usize,

    /// Maximum number of entries in a folder that can be listed; listing a larger folder is
    /// refused (1002)
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = Limits::default().max_list_entries,
        value_parser = settings::from_one::<usize>
    )]
    max_list_entries: usize,

    /// Maximum bytes of one uploaded file; larger uploads are refused (1002)
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = Limits::default().max_file_bytes,
        value_parser = settings::from_one::<usize>
    )]
    max_file_bytes: usize,

    /// Maximum bytes of all uploads in progress in one room; an upload that exceeds it is
    /// refused (1008)
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = Limits::default().max_upload_bytes_per_room,
        value_parser = settings::from_one::<usize>
    )]
    max_upload_bytes_per_room: usize,

    /// Maximum bytes queued for one connection; beyond it the server stops reading from the
    /// connection and merges the document changes that it sends there
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = Limits::default().max_outbox_bytes,
        value_parser = settings::from_one::<usize>
    )]
    max_outbox_bytes: usize,

    /// Maximum bytes of encoded states and changes shared between connections; beyond it opening
    /// documents waits, and readers with a non-empty queue receive changes later
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = Limits::default().max_shared_bytes,
        value_parser = settings::from_one::<usize>
    )]
    max_shared_bytes: usize,

    /// Maximum number of open streamed calls on all connections; beyond it calls are refused (1008)
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = Limits::default().max_streams,
        value_parser = settings::from_one::<usize>
    )]
    max_streams: usize,

    /// Maximum number of open streamed calls on one connection; beyond it calls are refused (1002)
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = Limits::default().max_streams_per_connection,
        value_parser = settings::from_one::<usize>
    )]
    max_streams_per_connection: usize,

    /// Maximum number of participants in one room; beyond it handshakes get status 503
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = Limits::default().max_participants_per_room,
        value_parser = settings::from_one::<usize>
    )]
    max_participants_per_room: usize,

    /// Maximum number of participant connections in all rooms; lowered if the process may not open
    /// as many files. Beyond it handshakes get status 503
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = Limits::default().max_connections,
        value_parser = settings::from_one::<usize>
    )]
    max_connections: usize,

    /// Seconds that a document stays in memory after its last participant left
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = Config::default().unload_after.as_secs(),
        value_parser = settings::from_zero::<u64>
    )]
    unload_after: u64,

    /// Number of updates after which a document is compacted into a snapshot; earlier if the
    /// updates are large
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = Config::default().snapshot_every,
        value_parser = settings::from_one::<usize>
    )]
    snapshot_every: usize,

    /// Days for which the server records which connection made which operations of a document;
    /// afterwards only participants and times. 0: forever
    #[arg(
        long,
        value_name = "DAYS",
        default_value_t = Config::default().provenance_kept.as_secs() / 86_400,
        value_parser = settings::from_zero::<u64>
    )]
    provenance_days: u64,

    /// Maximum seconds for a handshake
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = Config::default().handshake_timeout.as_secs(),
        value_parser = settings::from_one::<u64>
    )]
    handshake_timeout: u64,

    /// Maximum seconds for the body of an HTTP request, and for a peer to accept each 16 KiB of a
    /// response; afterwards the connection is dropped
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = Config::default().http_timeout.as_secs(),
        value_parser = settings::from_one::<u64>
    )]
    http_timeout: u64,

    /// Maximum seconds for one message to arrive, not counting the time for which the server pauses
    /// reads; afterwards the connection is dropped
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = Config::default().message_timeout.as_secs(),
        value_parser = settings::from_one::<u64>
    )]
    message_timeout: u64,

    /// Seconds between pings; a peer that is silent for two and a half intervals is dropped
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = Config::default().ping_interval.as_secs(),
        value_parser = settings::from_one::<u64>
    )]
    ping_interval: u64,

    /// Seconds for connections to drain when the server stops
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = Config::default().shutdown_grace.as_secs(),
        value_parser = settings::from_zero::<u64>
    )]
    pub(super) shutdown_grace: u64,

    /// Seconds for which a token from the connect endpoint is valid
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = Config::default().connect_token_ttl.as_secs(),
        value_parser = settings::from_one::<u64>
    )]
    connect_token_ttl: u64,

    /// Seconds for which a link from download_url is valid
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = Config::default().download_url_ttl.as_secs(),
        value_parser = settings::from_one::<u64>
    )]
    download_url_ttl: u64,
}

impl LimitArgs {
    /// The server configuration with these limits and times.
    pub(super) fn config(&self) -> Config {
        let mut config = Config::default();
        config.limits.max_message_bytes = self.max_message_bytes;
        config.limits.max_held_bytes = self.max_held_bytes;
        config.limits.max_receive_bytes = self.max_receive_bytes;
        config.limits.max_json_bytes = self.max_json_bytes;
        config.limits.max_messages_per_second = self.max_messages_per_second;
        config.limits.max_bytes_per_second = self.max_bytes_per_second;
        config.limits.max_total_messages_per_second = self.max_total_messages_per_second;
        config.limits.max_update_bytes = self.max_update_bytes;
        config.limits.max_pending_bytes = self.max_pending_bytes;
        config.limits.max_documents = self.max_documents;
        config.limits.max_document_bytes = self.max_document_bytes;
        config.limits.max_document_elements = self.max_document_elements;
        config.limits.max_document_depth = self.max_document_depth;
        config.limits.max_document_clients = self.max_document_clients;
        config.limits.max_schema_bytes = self.max_schema_bytes;
        config.limits.max_open_bytes = self.max_open_bytes;
        config.limits.max_list_entries = self.max_list_entries;
        config.limits.max_file_bytes = self.max_file_bytes;
        config.limits.max_upload_bytes_per_room = self.max_upload_bytes_per_room;
        config.limits.max_outbox_bytes = self.max_outbox_bytes;
        config.limits.max_shared_bytes = self.max_shared_bytes;
        config.limits.max_streams = self.max_streams;
        config.limits.max_streams_per_connection = self.max_streams_per_connection;
        config.limits.max_participants_per_room = self.max_participants_per_room;
        config.limits.max_connections = self.max_connections;
        config.unload_after = Duration::from_secs(self.unload_after);
        config.snapshot_every = self.snapshot_every;
        config.provenance_kept = Duration::from_secs(self.provenance_days.saturating_mul(86_400));
        config.message_timeout = Duration::from_secs(self.message_timeout);
        config.http_timeout = Duration::from_secs(self.http_timeout);
        config.handshake_timeout = Duration::from_secs(self.handshake_timeout);
        config.ping_interval = Duration::from_secs(self.ping_interval);
        config.shutdown_grace = Duration::from_secs(self.shutdown_grace);
        config.connect_token_ttl = Duration::from_secs(self.connect_token_ttl);
        config.download_url_ttl = Duration::from_secs(self.download_url_ttl);
        config
    }
}

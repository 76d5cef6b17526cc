//! `meshagent serve`: the room server on this machine, from flags to the last flushed byte.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use meshagent_protocol::ApiKey;
use meshagent_server::{Config, Limits, Server};
use meshagent_store_sqlite::{Durability, Found, OpenError, Options, SqliteStore};
use tokio::net::{TcpListener, TcpSocket};
use tracing_subscriber::EnvFilter;

use crate::descriptors;
use crate::failure::{Failure, USAGE};
use crate::keyfile;
use crate::log;
use crate::output::terminal;
use crate::server_file;
use crate::settings;

/// Connections that may wait to be accepted: a burst from one address is served, not refused.
const LISTEN_BACKLOG: u32 = 4096;
/// How long after the grace the process ends, whatever goes on in it. The server itself needs a few seconds at most.
const LAST_RESORT: Duration = Duration::from_secs(6);
/// How long a log that nobody reads is waited for then.
const LAST_WORD: Duration = Duration::from_millis(500);
/// How long reads of the store that nobody waits for may take when the server has stopped.
const LAST_READS: Duration = Duration::from_millis(500);

/// Start a room server
///
/// On the first start it makes a project and an API key, keeps them in the data directory, and prints what to export.
/// With MESHAGENT_API_KEY (or MESHAGENT_PROJECT_ID, MESHAGENT_KEY_ID and MESHAGENT_SECRET) set, it accepts that key instead.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  meshagent serve
  meshagent serve --listen 0.0.0.0:8080 --log-format json \\
      --data-dir /var/lib/meshagent
  # A free port; the line on stdout says which.
  meshagent serve --listen 127.0.0.1:0")]
pub(crate) struct ServeArgs {
    /// Address and port to listen on; port 0 picks a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,

    /// Where everything is kept [default: the user's data directory, or $MESHAGENT_DATA_DIR]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// What an acknowledged update survives: `fsync` a power cut, `os` only the end of this process
    /// (a power cut loses the last moments)
    #[arg(long, value_enum, default_value_t = DurabilityArg::Fsync)]
    durability: DurabilityArg,

    /// Form of the log on stderr
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,

    /// What is logged: error, warn, info, debug, or directives such as `meshagent_server=debug`
    #[arg(long, value_name = "FILTER", default_value = "info")]
    log: String,

    #[command(flatten)]
    limits: LimitArgs,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Limits")]
struct LimitArgs {
    /// Bytes of one message while it is put together from its packets; beyond it that message is refused (1002).
    /// Keep it above 4/3 of the largest document: SDKs send a document back whole after opening it
    #[arg(long, value_name = "BYTES", default_value_t = Limits::default().max_message_bytes, value_parser = settings::from_one::<usize>)]
    max_message_bytes: usize,

    /// Bytes held for all clients together: messages, answers, uploads, writes that wait for the disk; a
    /// connection may have a quarter of it. Beyond it reads pause, large answers wait, or requests are refused (1008)
    #[arg(long, value_name = "BYTES", default_value_t = Limits::default().max_held_bytes, value_parser = settings::from_one::<usize>)]
    max_held_bytes: usize,

    /// Bytes of messages on their way in, of all connections; beyond it reads pause
    #[arg(long, value_name = "BYTES", default_value_t = Limits::default().max_receive_bytes, value_parser = settings::from_one::<usize>)]
    max_receive_bytes: usize,

    /// Bytes that the JSON of one message takes in memory, many times its text if its values are small; beyond it that
    /// message is refused (1002)
    #[arg(long, value_name = "BYTES", default_value_t = Limits::default().max_json_bytes, value_parser = settings::from_one::<usize>)]
    max_json_bytes: usize,

    /// Messages per second of one connection, twice as many at once; beyond it the connection is read from later
    #[arg(long, value_name = "COUNT", default_value_t = Limits::default().max_messages_per_second, value_parser = settings::from_one::<u64>)]
    max_messages_per_second: u64,

    /// Bytes per second of one connection, likewise
    #[arg(long, value_name = "BYTES", default_value_t = Limits::default().max_bytes_per_second, value_parser = settings::from_one::<u64>)]
    max_bytes_per_second: u64,

    /// Messages per second of all connections together, likewise
    #[arg(long, value_name = "COUNT", default_value_t = Limits::default().max_total_messages_per_second, value_parser = settings::from_one::<u64>)]
    max_total_messages_per_second: u64,

    /// Bytes of one update of a document; beyond it that update is refused (1002)
    #[arg(long, value_name = "BYTES", default_value_t = Limits::default().max_update_bytes, value_parser = settings::from_one::<usize>)]
    max_update_bytes: usize,

    /// Bytes of updates that one document keeps although they build on something that never came; beyond it such an
    /// update is refused (1005)
    #[arg(long, value_name = "BYTES", default_value_t = Limits::default().max_pending_bytes, value_parser = settings::from_zero::<usize>)]
    max_pending_bytes: usize,

    /// Documents in all; beyond it the request that would create one is refused (1008)
    #[arg(long, value_name = "COUNT", default_value_t = Limits::default().max_documents, value_parser = settings::from_one::<u64>)]
    max_documents: u64,

    /// Bytes of one document; beyond it the update that adds to it is refused (1002)
    #[arg(long, value_name = "BYTES", default_value_t = Limits::default().max_document_bytes, value_parser = settings::from_one::<usize>)]
    max_document_bytes: usize,

    /// Elements of one document; beyond it the update that adds them is refused (1002)
    #[arg(long, value_name = "COUNT", default_value_t = Limits::default().max_document_elements, value_parser = settings::from_one::<usize>)]
    max_document_elements: usize,

    /// Levels of elements in one document; beyond it the update that adds them is refused (1002)
    #[arg(long, value_name = "COUNT", default_value_t = Limits::default().max_document_depth, value_parser = settings::from_one::<usize>)]
    max_document_depth: usize,

    /// Client ids in one document, of which each program that edits it brings one whenever it starts; beyond it the update
    /// of a new one is refused (1002)
    #[arg(long, value_name = "COUNT", default_value_t = Limits::default().max_document_clients, value_parser = settings::from_one::<usize>)]
    max_document_clients: usize,

    /// Bytes of memory that the schemas of all documents in memory take, about; beyond it the request that would open or
    /// create a document with one more is refused (1008)
    #[arg(long, value_name = "BYTES", default_value_t = Limits::default().max_schema_bytes, value_parser = settings::from_one::<usize>)]
    max_schema_bytes: usize,

    /// Bytes of memory that all documents in memory take, about, of which one participant may have three eighths; beyond
    /// it the request that would open or create one more is refused (1008)
    #[arg(long, value_name = "BYTES", default_value_t = Limits::default().max_open_bytes, value_parser = settings::from_one::<usize>)]
    max_open_bytes: usize,

    /// Entries of a folder that is listed; beyond it the list is refused (1002)
    #[arg(long, value_name = "COUNT", default_value_t = Limits::default().max_list_entries, value_parser = settings::from_one::<usize>)]
    max_list_entries: usize,

    /// Bytes of one uploaded file; beyond it that upload is refused (1002)
    #[arg(long, value_name = "BYTES", default_value_t = Limits::default().max_file_bytes, value_parser = settings::from_one::<usize>)]
    max_file_bytes: usize,

    /// Bytes of all uploads under way in one room; beyond it the upload that crosses it is refused (1008)
    #[arg(long, value_name = "BYTES", default_value_t = Limits::default().max_upload_bytes_per_room, value_parser = settings::from_one::<usize>)]
    max_upload_bytes_per_room: usize,

    /// Bytes queued towards one connection before the server stops reading from it and merges what documents send it
    #[arg(long, value_name = "BYTES", default_value_t = Limits::default().max_outbox_bytes, value_parser = settings::from_one::<usize>)]
    max_outbox_bytes: usize,

    /// Bytes of encoded states and changes that connections share; beyond it documents are opened later, and readers
    /// with something in their queue are brought up to date later
    #[arg(long, value_name = "BYTES", default_value_t = Limits::default().max_shared_bytes, value_parser = settings::from_one::<usize>)]
    max_shared_bytes: usize,

    /// Streamed calls open on all connections; beyond it that call is refused (1008)
    #[arg(long, value_name = "COUNT", default_value_t = Limits::default().max_streams, value_parser = settings::from_one::<usize>)]
    max_streams: usize,

    /// Streamed calls open on one connection; beyond it that call is refused (1002)
    #[arg(long, value_name = "COUNT", default_value_t = Limits::default().max_streams_per_connection, value_parser = settings::from_one::<usize>)]
    max_streams_per_connection: usize,

    /// Participants in one room; beyond it a handshake is answered with 503
    #[arg(long, value_name = "COUNT", default_value_t = Limits::default().max_participants_per_room, value_parser = settings::from_one::<usize>)]
    max_participants_per_room: usize,

    /// Connections of participants, of all rooms together; lowered if the process may not have as many files open. Beyond
    /// it a handshake is answered with 503
    #[arg(long, value_name = "COUNT", default_value_t = Limits::default().max_connections, value_parser = settings::from_one::<usize>)]
    max_connections: usize,

    /// Seconds that a document stays in memory after its last participant left it
    #[arg(long, value_name = "SECONDS", default_value_t = Config::default().unload_after.as_secs(), value_parser = settings::from_zero::<u64>)]
    unload_after: u64,

    /// Updates that a document collects before they are folded into a snapshot; long ones are folded earlier
    #[arg(long, value_name = "COUNT", default_value_t = Config::default().snapshot_every, value_parser = settings::from_one::<usize>)]
    snapshot_every: usize,

    /// Days for which it is kept which connection made which operations of a document; after that, who took part and
    /// when. 0: for ever
    #[arg(long, value_name = "DAYS", default_value_t = Config::default().provenance_kept.as_secs() / 86_400, value_parser = settings::from_zero::<u64>)]
    provenance_days: u64,

    /// Seconds that a handshake may take
    #[arg(long, value_name = "SECONDS", default_value_t = Config::default().handshake_timeout.as_secs(), value_parser = settings::from_one::<u64>)]
    handshake_timeout: u64,

    /// Seconds that the body of an HTTP request may take, and that a peer may take for each 16 KiB of a response; after
    /// that the connection is dropped
    #[arg(long, value_name = "SECONDS", default_value_t = Config::default().http_timeout.as_secs(), value_parser = settings::from_one::<u64>)]
    http_timeout: u64,

    /// Seconds that one message may take to arrive, without those for which the server makes it wait; after that the
    /// connection is dropped
    #[arg(long, value_name = "SECONDS", default_value_t = Config::default().message_timeout.as_secs(), value_parser = settings::from_one::<u64>)]
    message_timeout: u64,

    /// Seconds between pings; a peer that is silent for two and a half of them is dropped
    #[arg(long, value_name = "SECONDS", default_value_t = Config::default().ping_interval.as_secs(), value_parser = settings::from_one::<u64>)]
    ping_interval: u64,

    /// Seconds that connections get to drain when the server stops
    #[arg(long, value_name = "SECONDS", default_value_t = Config::default().shutdown_grace.as_secs(), value_parser = settings::from_zero::<u64>)]
    shutdown_grace: u64,

    /// Seconds that a token from the connect endpoint is valid
    #[arg(long, value_name = "SECONDS", default_value_t = Config::default().connect_token_ttl.as_secs(), value_parser = settings::from_one::<u64>)]
    connect_token_ttl: u64,

    /// Seconds that a link from download_url is valid
    #[arg(long, value_name = "SECONDS", default_value_t = Config::default().download_url_ttl.as_secs(), value_parser = settings::from_one::<u64>)]
    download_url_ttl: u64,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum DurabilityArg {
    Fsync,
    Os,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// If the data directory or the address cannot be used, or the environment names two different keys.
pub(crate) fn run(args: &ServeArgs) -> anyhow::Result<()> {
    start_log(args)?;
    let mut config = config(&args.limits);
    let few_files = descriptors::hold_to_limit(&mut config.limits)?;
    let data_dir = match &args.data_dir {
        Some(dir) => dir.clone(),
        None => settings::data_dir()?,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    survive_file_size_limit(&runtime);
    let durability = match args.durability {
        DurabilityArg::Fsync => Durability::Fsync,
        DurabilityArg::Os => Durability::Os,
    };
    // The store is opened first: its lock keeps a second server from making a key of its own.
    let mut options = Options::default();
    options.durability = durability;
    let store =
        SqliteStore::open(&data_dir, options).map_err(|error| unopened(&data_dir, error))?;
    // Before a key is made: it is printed by the start that made it.
    let listener = {
        let _entered = runtime.enter();
        listen(args.listen).map_err(|error| {
            Failure::new(format!("can't listen on {}", args.listen))
                .with_exit_code(USAGE)
                .with_hint("give another address or port by --listen; port 0 picks a free one")
                .with_source(error)
        })?
    };
    let (key, is_new) = key_for(&store, &data_dir)?;
    match store.found() {
        Found::DatabaseWithoutLog => tracing::warn!(
            "the last server on this data directory did not stop, and its write-ahead log (meshagent.db-wal) is not \
             there: unless this database is a restored copy, or another SQLite program has folded the log in, what was \
             saved last is missing"
        ),
        Found::DatabaseWithCutLog { at } => tracing::warn!(
            "the last server on this data directory did not stop, and its write-ahead log (meshagent.db-wal) could be \
             read only up to byte {at}, though there was more: what was saved behind that place is missing; with \
             --durability os that is what a power cut may cost, anything else is damage"
        ),
        Found::Nothing if !is_new => tracing::warn!("a new, empty database was made"),
        _ => {}
    }

    if let Some(error) = store.unsealed() {
        tracing::warn!(
            error,
            "remains of what was kept before file format 3 are still in the free space of meshagent.db, since it could \
             not be rewritten; the next start tries again"
        );
    }

    if let Some(warning) = few_files {
        tracing::warn!("{warning}");
    }

    let project = key.project_id.clone();
    let exports = is_new.then(|| key.encode()).transpose()?;
    let grace = Duration::from_secs(args.limits.shutdown_grace);
    let outcome = runtime.block_on(async {
        let url = format!("http://{}", reachable(listener.local_addr()?));
        let server = Server::new(config, Arc::new(store), key)?;
        // Installed before anybody is told that the server is ready.
        let stop = stop_signal(grace)?;
        if let Err(error) = server_file::write(&data_dir, &url, &project) {
            // Such as a disk that is full: those who have data on it come first.
            tracing::warn!(
                error = format!("{error:#}"),
                "commands on this machine won't find the server by themselves"
            );
        }
        announce(&url, &project, exports.as_deref())?;
        show_next_step(args);
        let outcome = server.run(listener, stop).await;
        server_file::remove(&data_dir, &url);
        outcome.context("serving")
    });
    // A read that is under way has nobody left who waits for it.
    runtime.shutdown_timeout(LAST_READS);
    outcome
}

/// Why there is no data to serve, and what to do about it.
fn unopened(data_dir: &Path, error: OpenError) -> Failure {
    let dir = data_dir.display();
    match error {
        OpenError::Directory { ref path, .. } => {
            let what = if path == data_dir { "make" } else { "use" };
            Failure::new(format!("can't {what} the data directory {dir}"))
                .with_exit_code(USAGE)
                .with_hint("name one by --data-dir that you may make or write to")
                .with_source(error)
        }
        OpenError::InUse { .. } => Failure::new(format!(
            "the data directory {dir} is in use by another running server"
        ))
        .with_hint("stop it, or name another directory by --data-dir"),
        OpenError::Missing { path, left } => Failure::new(format!(
            "{} is missing, but {} says that it was there",
            path.display(),
            left.display()
        ))
        .with_hint("put the database back, or name another directory by --data-dir"),
        OpenError::LogGap { path, at } => {
            let path = path.display();
            Failure::new(format!(
                "{path} is damaged at byte {at}: acknowledged data that was saved behind that place would be missing"
            ))
            .with_hint(format!(
                "put a backup in place; or, to start with what is before the damage, keep a copy of the data directory \
                 and cut the file there: truncate -s {at} '{path}' (moving it away instead loses what is before it, too)"
            ))
        }
        OpenError::LogHeader { path } => Failure::new(format!(
            "{} is damaged or not ours: it does not begin as a write-ahead log, so nothing in it can be read, and \
             acknowledged data would be missing",
            path.display()
        ))
        .with_hint(
            "put a backup in place; or move the file away, to start with what was in meshagent.db already when the \
             server ended",
        ),
        OpenError::File { path, source } => Failure::new(format!(
            "can't read and write {}",
            path.display()
        ))
        .with_hint(
            "the file belongs to the database and must stay: see to it that the user that runs the server may read and \
             write it, and that the disk does",
        )
        .with_source(source),
        // What SQLite says has itself as its cause.
        OpenError::Database { path, source } => Failure::new(format!(
            "can't open the database {}: {source}",
            path.display()
        ))
        .with_hint("put a backup of it in its place, or name another directory by --data-dir"),
        _ => Failure::new(format!("can't open the data directory {dir}")).with_source(error),
    }
}

/// The key to serve with: the environment's, else the data directory's, else a new one. It has to be of the project
/// that the store holds, since another would find nothing in it.
fn key_for(store: &SqliteStore, data_dir: &Path) -> anyhow::Result<(ApiKey, bool)> {
    let projects = store.projects()?;
    let held = projects.join(", ");
    let refuse = |why: String| {
        Failure::new(format!(
            "the database in {} holds project {held}, but {why}",
            data_dir.display()
        ))
        .with_exit_code(USAGE)
    };
    let new_key = format!(
        "if the key is lost, give a new one for the same project by MESHAGENT_PROJECT_ID={held}, MESHAGENT_KEY_ID and \
         MESHAGENT_SECRET"
    );
    let (key, source) = match settings::key_from_env()? {
        Some(key) => (key, "the environment's key"),
        None => match keyfile::load(data_dir)? {
            Some(key) => (key, "the key in credentials.json"),
            None if projects.is_empty() => return Ok((keyfile::create(data_dir)?, true)),
            None => {
                let failure =
                    refuse("there is no key for it: credentials.json is missing".to_owned());
                return Err(failure
                    .with_hint(format!(
                        "restore credentials.json from a backup, or set MESHAGENT_API_KEY to that project's key; {new_key}"
                    ))
                    .into());
            }
        },
    };
    if projects.is_empty() || projects.contains(&key.project_id) {
        return Ok((key, false));
    }
    let failure = refuse(format!("{source} is for project {}", key.project_id));
    Err(failure
        .with_hint(format!(
            "set MESHAGENT_API_KEY to that project's key, or name another --data-dir; {new_key}"
        ))
        .into())
}

/// A file that may not grow (`ulimit -f`) has the same effect as a full disk: the write fails, and its author gets an error. By default the
/// system would end the process instead.
fn survive_file_size_limit(runtime: &tokio::runtime::Runtime) {
    use tokio::signal::unix::{SignalKind, signal};
    /// The same on the systems that we run on; the signal has no name in the standard library.
    const SIGXFSZ: i32 = 25;
    let _entered = runtime.enter();
    // With a handler the signal does nothing else. The handler stays, also when nobody listens.
    if let Err(error) = signal(SignalKind::from_raw(SIGXFSZ)) {
        tracing::warn!(%error, "a limit on the size of files would end this process");
    }
}

fn config(args: &LimitArgs) -> Config {
    let mut config = Config::default();
    config.limits.max_message_bytes = args.max_message_bytes;
    config.limits.max_held_bytes = args.max_held_bytes;
    config.limits.max_receive_bytes = args.max_receive_bytes;
    config.limits.max_json_bytes = args.max_json_bytes;
    config.limits.max_messages_per_second = args.max_messages_per_second;
    config.limits.max_bytes_per_second = args.max_bytes_per_second;
    config.limits.max_total_messages_per_second = args.max_total_messages_per_second;
    config.limits.max_update_bytes = args.max_update_bytes;
    config.limits.max_pending_bytes = args.max_pending_bytes;
    config.limits.max_documents = args.max_documents;
    config.limits.max_document_bytes = args.max_document_bytes;
    config.limits.max_document_elements = args.max_document_elements;
    config.limits.max_document_depth = args.max_document_depth;
    config.limits.max_document_clients = args.max_document_clients;
    config.limits.max_schema_bytes = args.max_schema_bytes;
    config.limits.max_open_bytes = args.max_open_bytes;
    config.limits.max_list_entries = args.max_list_entries;
    config.limits.max_file_bytes = args.max_file_bytes;
    config.limits.max_upload_bytes_per_room = args.max_upload_bytes_per_room;
    config.limits.max_outbox_bytes = args.max_outbox_bytes;
    config.limits.max_shared_bytes = args.max_shared_bytes;
    config.limits.max_streams = args.max_streams;
    config.limits.max_streams_per_connection = args.max_streams_per_connection;
    config.limits.max_participants_per_room = args.max_participants_per_room;
    config.limits.max_connections = args.max_connections;
    config.unload_after = Duration::from_secs(args.unload_after);
    config.snapshot_every = args.snapshot_every;
    config.provenance_kept = Duration::from_secs(args.provenance_days.saturating_mul(86_400));
    config.message_timeout = Duration::from_secs(args.message_timeout);
    config.http_timeout = Duration::from_secs(args.http_timeout);
    config.handshake_timeout = Duration::from_secs(args.handshake_timeout);
    config.ping_interval = Duration::from_secs(args.ping_interval);
    config.shutdown_grace = Duration::from_secs(args.shutdown_grace);
    config.connect_token_ttl = Duration::from_secs(args.connect_token_ttl);
    config.download_url_ttl = Duration::from_secs(args.download_url_ttl);
    config
}

fn start_log(args: &ServeArgs) -> anyhow::Result<()> {
    let filter = EnvFilter::builder().parse(&args.log).map_err(|error| {
        Failure::new(format!("--log {} is no filter", args.log))
            .with_exit_code(USAGE)
            .with_hint(
                "give error, warn, info, debug, or directives such as meshagent_server=debug",
            )
            .with_source(error)
    })?;
    match args.log_format {
        LogFormat::Text => log::start_text(filter),
        LogFormat::Json => log::start_json(filter),
    }
    Ok(())
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    // Connections of a server that was killed do not keep the next one from its port.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(LISTEN_BACKLOG)
}

/// The address that a program on this machine connects to.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

/// Says on stdout where the server is; on the first start, what to export to use it from elsewhere.
fn announce(url: &str, project: &str, api_key: Option<&str>) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    let mut say = || {
        if let Some(api_key) = api_key {
            writeln!(stdout, "export MESHAGENT_API_URL={url}")?;
            writeln!(stdout, "export MESHAGENT_PROJECT_ID={project}")?;
            writeln!(stdout, "export MESHAGENT_API_KEY={api_key}")?;
        }
        writeln!(stdout, "meshagent is ready on {url}")?;
        stdout.flush()
    };
    say().context("writing to stdout")
}

/// For a person who has just started it: what to type next. On stderr, so that scripts read stdout undisturbed.
fn show_next_step(args: &ServeArgs) {
    let stderr = std::io::stderr();
    if !std::io::IsTerminal::is_terminal(&stderr) {
        return;
    }
    // As it was called, so that the line can be typed as it stands.
    let program = std::env::args()
        .next()
        .unwrap_or_else(|| "meshagent".to_owned());
    let data_dir = match &args.data_dir {
        Some(dir) => format!(" --data-dir {}", dir.display()),
        None => String::new(),
    };
    let program = terminal::one_line(&program);
    let data_dir = terminal::one_line(&data_dir);
    // A closed stderr is no reason to stop serving.
    let _ = writeln!(
        stderr.lock(),
        "\nnext, in another terminal:\n  {program} room connect{data_dir} --room my-room --identity me -- python3 your-script.py\n"
    );
}

/// Waits for SIGTERM or SIGINT, on a thread that does nothing else: whatever the others are busy with, the process ends
/// some time after its grace.
fn stop_signal(grace: Duration) -> anyhow::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("listening for signals")?;
    let entered = runtime.enter();
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    drop(entered);
    let (asked, stop) = tokio::sync::oneshot::channel();
    // It ends with the process.
    std::thread::Builder::new()
        .name("stop".into())
        .spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            });
            // Who waits for it may have gone already.
            let _ = asked.send(());
            std::thread::sleep(grace + LAST_RESORT);
            end_anyway();
        })
        .context("listening for signals")?;
    Ok(async {
        let _ = stop.await;
    })
}

/// Ends the process although something goes on in it. Nothing is lost by that: what was acknowledged is on disk.
fn end_anyway() -> ! {
    // The log may be what everything waits for.
    let log = std::thread::spawn(|| {
        tracing::error!(
            "the server did not stop by itself after its grace, so the process ends now; what was acknowledged is on disk"
        );
    });
    let patience = Instant::now() + LAST_WORD;
    while !log.is_finished() && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(10));
    }
    std::process::exit(1)
}

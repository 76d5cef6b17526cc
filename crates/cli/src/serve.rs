//! `meshagent serve`: the room server on this machine, from flags to the last flushed byte.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use meshagent_server::{Config, Limits, Server};
use meshagent_store_sqlite::{Durability, Options, SqliteStore};
use tokio::net::{TcpListener, TcpSocket};
use tracing_subscriber::EnvFilter;

use crate::failure::{Failure, USAGE};
use crate::keyfile;
use crate::server_file;
use crate::settings;

/// Connections that may wait to be accepted: a burst from one address is served, not refused.
const LISTEN_BACKLOG: u32 = 4096;

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
    #[arg(long, value_name = "BYTES", default_value_t = Limits::default().max_message_bytes)]
    max_message_bytes: usize,

    /// Bytes of messages on their way in, of all connections (of each the first 64 KiB are free); beyond it
    /// connections are read from later
    #[arg(long, value_name = "BYTES", default_value_t = Limits::default().max_receive_bytes)]
    max_receive_bytes: usize,

    /// Messages per second of one connection, twice as many at once; beyond it the connection is read from later
    #[arg(long, value_name = "COUNT", default_value_t = Limits::default().max_messages_per_second)]
    max_messages_per_second: u64,

    /// Bytes per second of one connection, likewise
    #[arg(long, value_name = "BYTES", default_value_t = Limits::default().max_bytes_per_second)]
    max_bytes_per_second: u64,

    /// Messages per second of all connections together, likewise
    #[arg(long, value_name = "COUNT", default_value_t = Limits::default().max_total_messages_per_second)]
    max_total_messages_per_second: u64,

    /// Bytes of one update of a document; beyond it that update is refused (1002)
    #[arg(long, value_name = "BYTES", default_value_t = Limits::default().max_update_bytes)]
    max_update_bytes: usize,

    /// Bytes of updates that one document keeps although they build on something that never came; beyond it such an
    /// update is refused (1005)
    #[arg(long, value_name = "BYTES", default_value_t = Limits::default().max_pending_bytes)]
    max_pending_bytes: usize,

    /// Documents in all; beyond it the request that would create one is refused (1008)
    #[arg(long, value_name = "COUNT", default_value_t = Limits::default().max_documents)]
    max_documents: u64,

    /// Bytes of one document; beyond it the update that adds to it is refused (1002)
    #[arg(long, value_name = "BYTES", default_value_t = Limits::default().max_document_bytes)]
    max_document_bytes: usize,

    /// Elements of one document; beyond it the update that adds them is refused (1002)
    #[arg(long, value_name = "COUNT", default_value_t = Limits::default().max_document_elements)]
    max_document_elements: usize,

    /// Levels of elements in one document; beyond it the update that adds them is refused (1002)
    #[arg(long, value_name = "COUNT", default_value_t = Limits::default().max_document_depth)]
    max_document_depth: usize,

    /// Bytes of one uploaded file; beyond it that upload is refused (1002)
    #[arg(long, value_name = "BYTES", default_value_t = Limits::default().max_file_bytes)]
    max_file_bytes: usize,

    /// Bytes of all uploads under way in one room; beyond it the upload that crosses it is refused (1008)
    #[arg(long, value_name = "BYTES", default_value_t = Limits::default().max_upload_bytes_per_room)]
    max_upload_bytes_per_room: usize,

    /// Bytes queued towards one connection before the server stops reading from it and merges what documents send it
    #[arg(long, value_name = "BYTES", default_value_t = Limits::default().max_outbox_bytes)]
    max_outbox_bytes: usize,

    /// Bytes of encoded states and changes that connections share; beyond it documents are opened later, and readers
    /// with something in their queue are brought up to date later
    #[arg(long, value_name = "BYTES", default_value_t = Limits::default().max_shared_bytes)]
    max_shared_bytes: usize,

    /// Streamed calls open on all connections; beyond it that call is refused (1008)
    #[arg(long, value_name = "COUNT", default_value_t = Limits::default().max_streams)]
    max_streams: usize,

    /// Streamed calls open on one connection; beyond it that call is refused (1002)
    #[arg(long, value_name = "COUNT", default_value_t = Limits::default().max_streams_per_connection)]
    max_streams_per_connection: usize,

    /// Participants in one room; beyond it a handshake is answered with 503
    #[arg(long, value_name = "COUNT", default_value_t = Limits::default().max_participants_per_room)]
    max_participants_per_room: usize,

    /// Connections of the whole server; beyond it a handshake is answered with 503
    #[arg(long, value_name = "COUNT", default_value_t = Limits::default().max_connections)]
    max_connections: usize,

    /// Seconds that a document stays in memory after its last participant left it
    #[arg(long, value_name = "SECONDS", default_value_t = Config::default().unload_after.as_secs())]
    unload_after: u64,

    /// Updates that a document collects before they are folded into a snapshot; long ones are folded earlier
    #[arg(long, value_name = "COUNT", default_value_t = Config::default().snapshot_every)]
    snapshot_every: usize,

    /// Days for which it is kept which connection made which operations of a document; after that, who took part and
    /// when. 0: for ever
    #[arg(long, value_name = "DAYS", default_value_t = Config::default().provenance_kept.as_secs() / 86_400)]
    provenance_days: u64,

    /// Seconds that a handshake may take
    #[arg(long, value_name = "SECONDS", default_value_t = Config::default().handshake_timeout.as_secs())]
    handshake_timeout: u64,

    /// Seconds that one message may take to arrive; after that the connection is dropped
    #[arg(long, value_name = "SECONDS", default_value_t = Config::default().message_timeout.as_secs())]
    message_timeout: u64,

    /// Seconds between pings; a peer that is silent for two and a half of them is dropped
    #[arg(long, value_name = "SECONDS", default_value_t = Config::default().ping_interval.as_secs())]
    ping_interval: u64,

    /// Seconds that connections get to drain when the server stops
    #[arg(long, value_name = "SECONDS", default_value_t = Config::default().shutdown_grace.as_secs())]
    shutdown_grace: u64,

    /// Seconds that a token from the connect endpoint is valid
    #[arg(long, value_name = "SECONDS", default_value_t = Config::default().connect_token_ttl.as_secs())]
    connect_token_ttl: u64,

    /// Seconds that a link from download_url is valid
    #[arg(long, value_name = "SECONDS", default_value_t = Config::default().download_url_ttl.as_secs())]
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
    // Each connection takes a file descriptor, and the usual soft limit is 1,024 of them.
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!(%error, "the limit on open files stays as it is");
    }
    let data_dir = match &args.data_dir {
        Some(dir) => dir.clone(),
        None => settings::data_dir()?,
    };
    std::fs::create_dir_all(&data_dir).map_err(|error| {
        Failure::new(format!(
            "can't make the data directory {}",
            data_dir.display()
        ))
        .with_exit_code(USAGE)
        .with_hint("name one by --data-dir that you may make or write to")
        .with_source(error)
    })?;
    let durability = match args.durability {
        DurabilityArg::Fsync => Durability::Fsync,
        DurabilityArg::Os => Durability::Os,
    };
    // The store is opened first: its lock keeps a second server from making a key of its own.
    let mut options = Options::default();
    options.durability = durability;
    let store = SqliteStore::open(&data_dir, options)?;
    let (key, is_new) = match settings::key_from_env()? {
        Some(key) => (key, false),
        None => keyfile::load_or_create(&data_dir)?,
    };

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let project = key.project_id.clone();
    let exports = is_new.then(|| key.encode()).transpose()?;
    runtime.block_on(async {
        let listener = listen(args.listen).map_err(|error| {
            Failure::new(format!("can't listen on {}", args.listen))
                .with_exit_code(USAGE)
                .with_hint("give another address or port by --listen; port 0 picks a free one")
                .with_source(error)
        })?;
        let url = format!("http://{}", reachable(listener.local_addr()?));
        let server = Server::new(config(&args.limits), Arc::new(store), key)?;
        // Installed before anybody is told that the server is ready.
        let stop = stop_signal()?;
        server_file::write(&data_dir, &url, &project)?;
        announce(&url, &project, exports.as_deref())?;
        show_next_step(args);
        let outcome = server.run(listener, stop).await;
        server_file::remove(&data_dir, &url);
        outcome.context("serving")
    })
}

fn config(args: &LimitArgs) -> Config {
    let mut config = Config::default();
    config.limits.max_message_bytes = args.max_message_bytes;
    config.limits.max_receive_bytes = args.max_receive_bytes;
    config.limits.max_messages_per_second = args.max_messages_per_second;
    config.limits.max_bytes_per_second = args.max_bytes_per_second;
    config.limits.max_total_messages_per_second = args.max_total_messages_per_second;
    config.limits.max_update_bytes = args.max_update_bytes;
    config.limits.max_pending_bytes = args.max_pending_bytes;
    config.limits.max_documents = args.max_documents;
    config.limits.max_document_bytes = args.max_document_bytes;
    config.limits.max_document_elements = args.max_document_elements;
    config.limits.max_document_depth = args.max_document_depth;
    config.limits.max_file_bytes = args.max_file_bytes;
    config.limits.max_upload_bytes_per_room = args.max_upload_bytes_per_room;
    config.limits.max_outbox_bytes = args.max_outbox_bytes;
    config.limits.max_shared_bytes = args.max_shared_bytes;
    config.limits.max_streams = args.max_streams;
    config.limits.max_streams_per_connection = args.max_streams_per_connection;
    config.limits.max_participants_per_room = args.max_participants_per_room;
    config.limits.max_connections = args.max_connections;
    config.unload_after = Duration::from_secs(args.unload_after);
    config.snapshot_every = args.snapshot_every.max(1);
    config.provenance_kept = Duration::from_secs(args.provenance_days.saturating_mul(86_400));
    config.message_timeout = Duration::from_secs(args.message_timeout.max(1));
    config.handshake_timeout = Duration::from_secs(args.handshake_timeout);
    config.ping_interval = Duration::from_secs(args.ping_interval.max(1));
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
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match args.log_format {
        LogFormat::Text => builder
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .init(),
        LogFormat::Json => builder.json().init(),
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
    // A closed stderr is no reason to stop serving.
    let _ = writeln!(
        stderr.lock(),
        "\nnext, in another terminal:\n  {program} room connect{data_dir} --room my-room --identity me -- python3 your-script.py\n"
    );
}

fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

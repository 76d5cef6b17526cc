//! `meshagent serve`: runs the room server.

mod limits;

use std::convert::Infallible;
use std::future::pending;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use meshagent_protocol::ApiKey;
use meshagent_server::Server;
use meshagent_store_sqlite::{DATABASE_FILE, Durability, Found, OpenError, Options, SqliteStore};
use tokio::net::TcpSocket;
use tracing_subscriber::EnvFilter;

use self::limits::LimitArgs;
use crate::descriptors;
use crate::failure::{Failure, USAGE};
use crate::keyfile;
use crate::log::{self, Log};
use crate::output::terminal;
use crate::server_file;
use crate::settings;

/// Connections that may wait to be accepted, so that a burst of connections is not refused.
const LISTEN_BACKLOG: u32 = 4096;
/// Attempts to bind an address that is in use, and the time between them.
const BIND_ATTEMPTS: u32 = 25;
const BIND_PAUSE: Duration = Duration::from_millis(20);
/// Time after the shutdown grace at which the process exits even if the server has not stopped.
const FORCED_EXIT_AFTER: Duration = Duration::from_secs(6);
/// Maximum time for the last log line before a forced exit.
const LAST_LOG_TIMEOUT: Duration = Duration::from_millis(500);
/// Maximum time for abandoned reads of the store after the server has stopped.
const ABANDONED_READS_TIMEOUT: Duration = Duration::from_millis(500);
/// Time between attempts to write `server.json`.
const SERVER_FILE_RETRY: Duration = Duration::from_secs(2);

/// Start a room server
///
/// The first start creates a project and an API key, stores them in the data directory, and prints
/// the variables to export. If MESHAGENT_API_KEY (or MESHAGENT_PROJECT_ID, MESHAGENT_KEY_ID and
/// MESHAGENT_SECRET) is set, the server uses that key instead.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  meshagent serve
  meshagent serve --listen 0.0.0.0:8080 --log-format json \\
      --data-dir /var/lib/meshagent
  # A free port; stdout shows its number.
  meshagent serve --listen 127.0.0.1:0")]
pub(crate) struct ServeArgs {
    /// Address and port to listen on; port 0 picks a free one
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "127.0.0.1:8080",
        value_parser = listen_address
    )]
    listen: SocketAddr,

    /// Directory for all data [default: $MESHAGENT_DATA_DIR, else the user's data directory]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// Durability of acknowledged updates: `fsync` survives a power failure; `os` survives only the
    /// end of this process (a power failure loses the last moments)
    #[arg(long, value_enum, default_value_t = DurabilityArg::Fsync)]
    durability: DurabilityArg,

    /// Format of the log on stderr
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,

    /// Log level (error, warn, info or debug), or directives such as `meshagent_server=debug`
    #[arg(long, value_name = "FILTER", default_value = "info")]
    log: String,

    #[command(flatten)]
    limits: LimitArgs,
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

/// Runs the server until SIGTERM or SIGINT.
///
/// # Errors
/// If the data directory or the address cannot be used, or the environment variables contradict
/// each other.
pub(crate) fn run(args: &ServeArgs) -> anyhow::Result<()> {
    let _log = start_log(args)?;
    let mut config = args.limits.config();
    let lowered_limit = descriptors::apply_file_limit(&mut config.limits)?;
    let data_dir = match &args.data_dir {
        Some(dir) => dir.clone(),
        None => settings::data_dir()?,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("can't start the runtime")?;
    ignore_file_size_signal(&runtime);
    // A weak secret is refused before anything is created.
    if let Some(key) = settings::key_from_env()? {
        settings::check_secret(&key, &settings::secret_variable()?)?;
    }
    let durability = match args.durability {
        DurabilityArg::Fsync => Durability::Fsync,
        DurabilityArg::Os => Durability::Os,
    };
    // The store is opened first: its lock prevents a second server from creating another key.
    let mut options = Options::default();
    options.durability = durability;
    // A taken port is found before anything is created. Clients can connect only once the store is
    // open.
    let cannot_listen = |error| {
        Failure::new(format!("can't listen on {}", args.listen))
            .with_exit_code(USAGE)
            .with_hint("pass another address or port to --listen; port 0 picks a free one")
            .with_source(error)
    };
    let socket = bind(args.listen).map_err(cannot_listen)?;
    check_credentials(&data_dir)?;
    let store = SqliteStore::open(&data_dir, options).map_err(|error| {
        open_failure(&data_dir, settings::origin(args.data_dir.as_deref()), error)
    })?;
    // The server listens before a key is created, because only the start that creates the key
    // prints it.
    let listener = {
        let _entered = runtime.enter();
        socket.listen(LISTEN_BACKLOG).map_err(cannot_listen)?
    };
    let (key, is_new) = key_for(&store, &data_dir)?;
    warn_about_data(&store, is_new);
    if let Some(warning) = lowered_limit {
        tracing::warn!("{warning}");
    }

    let project = key.project_id.clone();
    let exports = is_new.then(|| key.encode()).transpose()?;
    let grace = Duration::from_secs(args.limits.shutdown_grace);
    let outcome = runtime.block_on(async {
        let url = format!("http://{}", reachable(listener.local_addr()?));
        let server = Server::new(config, Arc::new(store), key)?;
        // The signal handlers are installed before the server reports that it is ready.
        let stop = stop_signal(grace)?;
        let is_written = match server_file::write(&data_dir, &url, &project) {
            Ok(()) => true,
            // For example a full disk. The server starts anyway, for clients that read their data.
            Err(error) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "can't write server.json, so commands on this machine don't find this server; \
                     the server keeps trying"
                );
                false
            }
        };
        if let Err(error) = announce(&url, &project, exports.as_deref()) {
            // For example a file on a full disk. The data is still there for those who read it.
            tracing::warn!(%error, url, "can't write the server's address to stdout");
        }
        show_next_step(args);
        let outcome = tokio::select! {
            outcome = server.run(listener, stop) => outcome,
            never = write_server_file(&data_dir, &url, &project), if !is_written => match never {},
        };
        server_file::remove(&data_dir, &url);
        outcome.context("the server failed")
    });
    // The result of a read that is still running is not needed any more.
    runtime.shutdown_timeout(ABANDONED_READS_TIMEOUT);
    outcome
}

/// Retries to write `server.json` until it succeeds.
async fn write_server_file(data_dir: &Path, url: &str, project: &str) -> Infallible {
    loop {
        tokio::time::sleep(SERVER_FILE_RETRY).await;
        if server_file::write(data_dir, url, project).is_ok() {
            tracing::info!("wrote server.json: commands on this machine find this server now");
            return pending().await;
        }
    }
}

/// Logs warnings about lost data, and about deleted data that could not be erased.
fn warn_about_data(store: &SqliteStore, is_new_project: bool) {
    match store.found() {
        Found::DatabaseWithoutLog => tracing::warn!(
            "the last server on this data directory did not shut down cleanly, and its write-ahead \
             log (meshagent.db-wal) is missing: the latest changes are lost, unless this database \
             is a restored copy or another SQLite program has checkpointed the log"
        ),
        Found::DatabaseWithCutLog { at } => tracing::warn!(
            "the last server on this data directory did not shut down cleanly, and its write-ahead \
             log (meshagent.db-wal) is readable only up to byte {at}: later changes are lost. A \
             power failure can cause this with --durability os; any other cause is corruption"
        ),
        Found::Nothing if !is_new_project => tracing::warn!("created a new, empty database"),
        _ => {}
    }
    if let Some(error) = store.unsealed() {
        tracing::warn!(
            error,
            "the free space of meshagent.db may still contain deleted data from before file format \
             3, because rewriting the file failed; the next start tries again"
        );
    }
}

/// Refuses a data directory that has the key of a project and not its database: a start creates the
/// database before the key.
fn check_credentials(data_dir: &Path) -> Result<(), Failure> {
    let key = keyfile::path(data_dir);
    let database = data_dir.join(DATABASE_FILE);
    if !key.exists() {
        return Ok(());
    }
    match database.metadata() {
        Ok(found) if found.len() == 0 => Err(lost_database(&database, "empty", &key)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(lost_database(&database, "missing", &key))
        }
        // The store reports what else may be wrong.
        _ => Ok(()),
    }
}

/// The error for a database of which something else is left.
fn lost_database(database: &Path, state: &str, left: &Path) -> Failure {
    Failure::new(format!(
        "{} is {state}, although {} shows that it existed",
        database.display(),
        left.display()
    ))
    .with_hint(
        "put the database back, from a backup if necessary. To begin with an empty database, move \
         everything in the data directory away first, or pass another directory with --data-dir",
    )
}

/// The error for a data directory that can't be opened.
fn open_failure(data_dir: &Path, origin: &str, error: OpenError) -> Failure {
    let dir = data_dir.display();
    match error {
        OpenError::Directory { ref path, .. } => {
            let verb = if path == data_dir && !data_dir.exists() {
                "create"
            } else {
                "write to"
            };
            Failure::new(format!("can't {verb} the data directory {dir}{origin}"))
                .with_exit_code(USAGE)
                .with_hint("pass a directory that you may create or write to, with --data-dir")
                .with_source(error)
        }
        OpenError::InUse { .. } => Failure::new(format!(
            "the data directory {dir}{origin} is in use by another running server"
        ))
        .with_hint("stop that server, or pass another directory with --data-dir"),
        OpenError::Missing { path, left } => lost_database(&path, "missing", &left),
        OpenError::Empty { path, left } => lost_database(&path, "empty", &left),
        OpenError::NoFile { path } => {
            Failure::new(format!("{} is not a regular file", path.display())).with_hint(
                "put the database there, link the whole data directory instead, or pass another \
                 directory with --data-dir",
            )
        }
        OpenError::LogGap { path, at } => {
            let path = path.display();
            Failure::new(format!(
                "{path} is damaged at byte {at}; without the rest of it, acknowledged data would \
                 be lost"
            ))
            .with_hint(format!(
                "put a backup in place. Or keep only the data before the damage: copy the data \
                 directory, then run: truncate -s {at} '{path}' (removing the file instead loses \
                 that data, too)"
            ))
        }
        OpenError::LogHeader { path } => Failure::new(format!(
            "{} has no valid header of a write-ahead log, so it can't be read; without it, \
             acknowledged data would be lost",
            path.display()
        ))
        .with_hint(
            "put a backup in place; or move the file away, to keep only the data that meshagent.db \
             itself contains",
        ),
        OpenError::File { path, source } => {
            Failure::new(format!("can't read and write {}", path.display()))
                .with_hint(
                    "keep the file, it belongs to the database; make sure that the server's user \
                     may read and write it, and that the disk works",
                )
                .with_source(source)
        }
        // The message of an SQLite error already contains its cause.
        OpenError::Database { path, source } => Failure::new(format!(
            "can't open the database {}: {source}",
            path.display()
        ))
        .with_hint("put a backup in its place, or pass another directory with --data-dir"),
        _ => {
            Failure::new(format!("can't open the data directory {dir}{origin}")).with_source(error)
        }
    }
}

/// The API key of the server, and whether it is new: the key from the environment, else from the
/// data directory, else a new one. It must belong to the project in the store.
fn key_for(store: &SqliteStore, data_dir: &Path) -> anyhow::Result<(ApiKey, bool)> {
    let projects = store.projects()?;
    let stored = projects.join(", ");
    let refuse = |reason: String| {
        Failure::new(format!(
            "the database in {} belongs to project {stored}, but {reason}",
            data_dir.display()
        ))
        .with_exit_code(USAGE)
    };
    let new_key = format!(
        "if the key is lost, set MESHAGENT_PROJECT_ID={stored} with a new MESHAGENT_KEY_ID and \
         MESHAGENT_SECRET"
    );
    let (key, source) = match settings::key_from_env()? {
        Some(key) => (key, "the key from the environment"),
        None => match keyfile::load(data_dir)? {
            Some(key) => {
                settings::check_secret(&key, &keyfile::path(data_dir).display().to_string())?;
                (key, "the key in credentials.json")
            }
            None if projects.is_empty() => return Ok((keyfile::create(data_dir)?, true)),
            None => {
                let failure = refuse("credentials.json with its key is missing".to_owned());
                return Err(failure
                    .with_hint(format!(
                        "restore credentials.json from a backup, or set MESHAGENT_API_KEY to the \
                         key of that project; {new_key}"
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
            "set MESHAGENT_API_KEY to the key of that project, or pass another --data-dir; \
             {new_key}"
        ))
        .into())
}

/// Installs a handler for SIGXFSZ, so that a write beyond the file size limit (`ulimit -f`) fails
/// like a write to a full disk. The signal's default action would end the process.
fn ignore_file_size_signal(runtime: &tokio::runtime::Runtime) {
    use tokio::signal::unix::{SignalKind, signal};
    /// The number on all supported systems; the standard library has no name for it.
    const SIGXFSZ: i32 = 25;
    let _entered = runtime.enter();
    // The handler stays installed although nothing waits for the signal.
    if let Err(error) = signal(SignalKind::from_raw(SIGXFSZ)) {
        tracing::warn!(
            %error,
            "can't handle SIGXFSZ: a limit on file sizes would end this process"
        );
    }
}

fn start_log(args: &ServeArgs) -> anyhow::Result<Log> {
    let invalid = || {
        Failure::new(format!("invalid log filter {:?}", args.log))
            .with_exit_code(USAGE)
            .with_hint(
                "pass error, warn, info, debug, or directives such as meshagent_server=debug, \
                 with --log",
            )
    };
    let directives = log::directives(&args.log).ok_or_else(invalid)?;
    let filter = EnvFilter::builder()
        .parse(directives)
        .map_err(|error| invalid().with_source(error))?;
    let started = match args.log_format {
        LogFormat::Text => log::start_text(filter),
        LogFormat::Json => log::start_json(filter),
    };
    started.context("can't start the log's thread")
}

fn listen_address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse()
        .map_err(|_| "expected an IP address and a port, such as 127.0.0.1:8080")
}

/// Binds the address. Waits for a moment for one that is about to be released: the kernel closes
/// the sockets of a killed process shortly after it has reported the end of the process.
fn bind(address: SocketAddr) -> std::io::Result<TcpSocket> {
    let mut attempts = BIND_ATTEMPTS;
    loop {
        match try_bind(address) {
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && attempts > 0 => {
                attempts -= 1;
                std::thread::sleep(BIND_PAUSE);
            }
            result => return result,
        }
    }
}

fn try_bind(address: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    // Old connections of a killed server must not block the port for the next one.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// The address for programs on this machine.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

/// Prints the server's address on stdout; on the first start also the variables to export.
fn announce(url: &str, project: &str, api_key: Option<&str>) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    let mut print = || {
        if let Some(api_key) = api_key {
            writeln!(stdout, "export MESHAGENT_API_URL={url}")?;
            writeln!(stdout, "export MESHAGENT_PROJECT_ID={project}")?;
            writeln!(stdout, "export MESHAGENT_API_KEY={api_key}")?;
        }
        writeln!(stdout, "meshagent is ready on {url}")?;
        stdout.flush()
    };
    print()
}

/// Prints an example command, if stderr is a terminal.
fn show_next_step(args: &ServeArgs) {
    let stderr = std::io::stderr();
    if !std::io::IsTerminal::is_terminal(&stderr) {
        return;
    }
    // The name under which this program was called, so that the line can be pasted.
    let program = std::env::args()
        .next()
        .unwrap_or_else(|| "meshagent".to_owned());
    let data_dir = match &args.data_dir {
        Some(dir) => format!(" --data-dir {}", dir.display()),
        None => String::new(),
    };
    let program = terminal::one_line(&program);
    let data_dir = terminal::one_line(&data_dir);
    // A closed stderr must not stop the server.
    let _ = writeln!(
        stderr.lock(),
        "\nnext, in another terminal:\n  \
         {program} room connect{data_dir} --room my-room --identity me -- python3 your-script.py\n"
    );
}

/// Returns a future that is ready after SIGTERM or SIGINT. A dedicated thread waits for the signal,
/// so that the process exits some time after its grace even if all other threads are blocked.
fn stop_signal(grace: Duration) -> anyhow::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("can't listen for signals")?;
    let entered = runtime.enter();
    let mut terminate = signal(SignalKind::terminate()).context("can't listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("can't listen for SIGINT")?;
    drop(entered);
    let (stopping, stop) = tokio::sync::oneshot::channel();
    // The thread ends with the process.
    std::thread::Builder::new()
        .name("stop".into())
        .spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            });
            // The server may have ended already.
            let _ = stopping.send(());
            std::thread::sleep(grace + FORCED_EXIT_AFTER);
            force_exit();
        })
        .context("can't listen for signals")?;
    Ok(async {
        let _ = stop.await;
    })
}

/// Exits although the server has not stopped. No data is lost: acknowledged updates are on disk.
fn force_exit() -> ! {
    // Writing the log may block, as may everything that waits for it.
    let log = std::thread::spawn(|| {
        tracing::error!(
            "the server did not stop within its grace; exiting now. All acknowledged data is on \
             disk"
        );
        log::finish();
    });
    let deadline = Instant::now() + LAST_LOG_TIMEOUT;
    while !log.is_finished() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    std::process::exit(1)
}

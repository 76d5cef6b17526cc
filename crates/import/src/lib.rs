//! Imports the conversations of a Claude data export (`conversations.json`) into a room: each one
//! becomes a document of the schema `thread`, and an entry of the list `index.threadl` in the
//! same folder.
//!
//! One thread reads the export as a stream, some conversations are uploaded concurrently, and the
//! list has the order of the export. Running an interrupted import again completes it.

mod conversation;
mod elements;
mod index;
mod lenient;
mod reader;
mod thread;
mod upload;

use std::collections::{HashMap, VecDeque};
use std::future::pending;
use std::io::{self, BufRead, BufReader, Read};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use meshagent_client::Connection;
use meshagent_document::MeshSchema;
use meshagent_protocol::storage::rfc3339;
use meshagent_protocol::{DocPath, InvalidPath};
use thiserror::Error;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;
use uuid::Uuid;

pub use self::elements::ExportError;
pub use self::index::IndexError;
pub use self::upload::UploadError;

use self::elements::Elements;
use self::index::ThreadIndex;
use self::reader::{Item, Reader};
use self::thread::{Listing, Rules, Thread};
use self::upload::{Outcome, upload};

/// Maximum number of concurrent uploads.
const CONCURRENT_UPLOADS: usize = 8;
/// The buffer for the export, in bytes.
const BUFFER_BYTES: usize = 256 << 10;
/// Number of entries of the list that are sent in one update.
const ENTRIES_PER_UPDATE: usize = 64;
/// Time between two progress reports.
const TICK: Duration = Duration::from_millis(250);

/// Options of an import.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// The folder for the threads, such as `.threads/anthropic`.
    pub thread_dir: String,
    /// Whether existing threads are replaced instead of skipped.
    pub overwrite: bool,
    /// Maximum number of conversations to read, from the beginning of the export.
    pub limit: Option<u64>,
    /// The author of the user's messages.
    pub user_name: String,
    /// The author of the assistant's messages.
    pub assistant_name: String,
    /// Whether messages without text and files are imported.
    pub include_empty_messages: bool,
}

impl Options {
    /// The defaults of the published command, for a folder.
    ///
    /// ```
    /// let options = meshagent_import::Options::new(".threads/anthropic");
    /// assert_eq!(options.user_name, "human");
    /// ```
    pub fn new(thread_dir: impl Into<String>) -> Self {
        Self {
            thread_dir: thread_dir.into(),
            overwrite: false,
            limit: None,
            user_name: "human".to_owned(),
            assistant_name: "assistant".to_owned(),
            include_empty_messages: false,
        }
    }

    /// The path of the list of threads.
    pub fn index_path(&self) -> String {
        format!("{}/index.threadl", self.thread_dir)
    }
}

/// An export whose conversations are not read yet.
#[derive(Debug)]
pub struct Export(Elements<Box<dyn BufReadSend>>);

trait BufReadSend: BufRead + Send + std::fmt::Debug {}

impl<T: BufRead + Send + std::fmt::Debug> BufReadSend for T {}

impl Export {
    /// Reads the beginning of an export.
    ///
    /// ```
    /// # use meshagent_import::{Export, ExportError};
    /// assert!(Export::begin(&b"[]"[..]).is_ok());
    /// assert!(matches!(Export::begin(&b"{}"[..]), Err(ExportError::NoList)));
    /// ```
    ///
    /// # Errors
    ///
    /// If reading fails, or the export is not a JSON list.
    pub fn begin(
        source: impl Read + Send + std::fmt::Debug + 'static,
    ) -> Result<Self, ExportError> {
        let reader = BufReader::with_capacity(BUFFER_BYTES, source);
        let reader: Box<dyn BufReadSend> = Box::new(reader);
        Elements::begin(reader).map(Self)
    }
}

/// The counts of an import.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// Threads that were created.
    pub imported: u64,
    /// Threads that existed and were skipped.
    pub existing: u64,
    /// Conversations that are invalid, or that the server refused.
    pub invalid: u64,
    /// Messages in the threads that were created.
    pub messages: u64,
}

/// The error that ended an import early.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The export can't be read.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The list of threads can't be opened or kept up to date.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The folder is not a valid path.
    #[error("the folder of the threads is not a valid path")]
    Path(#[from] InvalidPath),
    /// A thread can't be created, for a reason that applies to all threads.
    #[error(transparent)]
    Upload(#[from] UploadError),
    /// The document library lacks the schema of lists of threads.
    #[error("the schema `threadl` is missing")]
    Schema,
    /// The thread that reads the export can't be started.
    #[error("can't start a thread")]
    Thread(#[source] io::Error),
    /// The caller stopped the import.
    #[error("interrupted")]
    Interrupted,
}

/// Receives progress reports of an import.
pub trait Observer {
    /// The import has reached this byte of the export, and has created `imported` threads.
    fn progress(&mut self, position: u64, imported: u64);

    /// The conversation at this index of the export was skipped.
    fn skipped(&mut self, index: u64, reason: &str);

    /// No further conversation is read; the uploads that have begun are completed.
    fn stopping(&mut self);
}

/// Imports an export until its end or the first error. When `stop` is ready, no further
/// conversation is read, and started uploads are completed. To stop an import immediately, drop its
/// future; running it again completes it.
///
/// # Errors
///
/// The summary counts what was imported before the error.
pub async fn import(
    room: &Connection,
    export: Export,
    options: &Options,
    observer: &mut (dyn Observer + Send),
    stop: impl Future<Output = ()>,
) -> (Summary, Result<(), ImportError>) {
    let (import, reader) = match begin(room, export, options, observer).await {
        Ok(begun) => begun,
        Err(error) => return (Summary::default(), Err(error)),
    };
    import.run(reader, stop).await
}

async fn begin<'a>(
    room: &Connection,
    export: Export,
    options: &'a Options,
    observer: &'a mut (dyn Observer + Send),
) -> Result<(Import<'a>, Reader), ImportError> {
    let path = DocPath::parse(&options.index_path())?;
    let schema = MeshSchema::builtin("threadl").ok_or(ImportError::Schema)?;
    let index = ThreadIndex::open(room, path, schema).await?;
    let reader = Reader::start(export.0, options.limit).map_err(ImportError::Thread)?;
    let import = Import {
        options,
        observer,
        room: room.clone(),
        rules: Rules {
            user_name: options.user_name.clone(),
            assistant_name: options.assistant_name.clone(),
            include_empty_messages: options.include_empty_messages,
        },
        index,
        occurrences: HashMap::new(),
        uploads: VecDeque::new(),
        summary: Summary::default(),
        position: 0,
    };
    Ok((import, reader))
}

struct Import<'a> {
    options: &'a Options,
    observer: &'a mut (dyn Observer + Send),
    room: Connection,
    rules: Rules,
    index: ThreadIndex,
    /// How often each thread's name has occurred. Only the UUIDs of conversations are kept.
    occurrences: HashMap<Uuid, u32>,
    /// In the order of the export.
    uploads: VecDeque<Upload>,
    summary: Summary,
    /// The byte up to which the export is imported.
    position: u64,
}

/// A conversation that is being uploaded.
struct Upload {
    /// Its index in the export.
    index: u64,
    /// The byte of the export at which it ends.
    end: u64,
    listing: Listing,
    messages: u64,
    task: JoinHandle<Result<Outcome, UploadError>>,
}

/// The next event of an import.
enum Event {
    Changed(Result<(), IndexError>),
    Done(Result<Outcome, UploadError>),
    Stopped,
    Read(Option<Result<Item, ExportError>>),
    Tick,
}

impl Import<'_> {
    async fn run(
        mut self,
        mut reader: Reader,
        stop: impl Future<Output = ()>,
    ) -> (Summary, Result<(), ImportError>) {
        let mut ended = self.import_all(&mut reader, stop).await;
        reader.stop();
        // If the connection is lost, the next import completes the list.
        let flushed = self.index.flush().await;
        if ended.is_ok() {
            ended = flushed.map_err(ImportError::from);
        }
        for upload in self.uploads {
            upload.task.abort();
        }
        self.index.close().await;
        (self.summary, ended)
    }

    async fn import_all(
        &mut self,
        reader: &mut Reader,
        stop: impl Future<Output = ()>,
    ) -> Result<(), ImportError> {
        let mut stop = std::pin::pin!(stop);
        let mut ticks = tokio::time::interval(TICK);
        // Set when no further upload is started.
        let mut ended: Option<Result<(), ImportError>> = None;
        loop {
            if self.uploads.is_empty() {
                if let Some(ended) = ended {
                    return ended;
                }
                if self.index.unsent() > 0 && reader.is_idle() {
                    self.index.flush().await?;
                }
            }
            let may_begin = ended.is_none() && self.uploads.len() < CONCURRENT_UPLOADS;
            let event = tokio::select! {
                // Changes of other participants are applied before the list is edited.
                biased;
                () = &mut stop, if ended.is_none() => Event::Stopped,
                changed = self.index.changed() => Event::Changed(changed),
                outcome = first_done(&mut self.uploads) => Event::Done(outcome),
                read = reader.next(), if may_begin => Event::Read(read),
                _ = ticks.tick() => Event::Tick,
            };
            match event {
                Event::Stopped => {
                    reader.stop();
                    self.observer.stopping();
                    ended = Some(Err(ImportError::Interrupted));
                }
                Event::Changed(changed) => changed?,
                Event::Done(outcome) => {
                    // Threads after a failed one are not listed, so that the next import lists all
                    // of them in order.
                    self.finish(outcome)?;
                    if self.index.unsent() >= ENTRIES_PER_UPDATE {
                        self.index.flush().await?;
                    }
                }
                Event::Read(None) => ended = Some(Ok(())),
                Event::Read(Some(Ok(item))) => self.begin(item),
                Event::Read(Some(Err(error))) => ended = Some(Err(error.into())),
                Event::Tick => {}
            }
            self.observer.progress(self.position, self.summary.imported);
        }
    }

    fn begin(&mut self, item: Item) {
        let Item {
            index,
            end,
            conversation,
            permit,
        } = item;
        let conversation = match conversation {
            Ok(conversation) => conversation,
            Err(error) => return self.skip(index, &error.to_string()),
        };
        let occurrence = self
            .occurrences
            .entry(thread::thread_uuid(&conversation.id))
            .or_default();
        *occurrence += 1;
        let path = thread::path(&self.options.thread_dir, &conversation.id, *occurrence);
        let listing = Listing::new(&conversation, path.clone(), now());
        let thread = Thread::new(conversation, &self.rules);
        let messages = thread.messages.len() as u64;
        let (room, overwrite) = (self.room.clone(), self.options.overwrite);
        let task = async move {
            let _held: OwnedSemaphorePermit = permit;
            upload(&room, &path, thread, overwrite).await
        };
        self.uploads.push_back(Upload {
            index,
            end,
            listing,
            messages,
            task: tokio::spawn(task),
        });
    }

    /// Completes the first upload in the queue.
    fn finish(&mut self, outcome: Result<Outcome, UploadError>) -> Result<(), ImportError> {
        let Some(done) = self.uploads.pop_front() else {
            return Ok(());
        };
        self.position = done.end;
        match outcome? {
            Outcome::Created => {
                self.index.put(done.listing);
                self.summary.imported += 1;
                self.summary.messages += done.messages;
            }
            Outcome::Exists => {
                // An import that was interrupted may have created the thread and not listed it.
                if !self.index.contains(&done.listing.path) {
                    self.index.put(done.listing);
                }
                self.summary.existing += 1;
            }
            Outcome::Refused(reason) => self.skip(done.index, &reason),
        }
        Ok(())
    }

    fn skip(&mut self, index: u64, reason: &str) {
        self.summary.invalid += 1;
        self.observer.skipped(index, reason);
    }
}

/// Waits for the first in the order of the export, so that the list gets that order. Cancel safe.
async fn first_done(uploads: &mut VecDeque<Upload>) -> Result<Outcome, UploadError> {
    let Some(first) = uploads.front_mut() else {
        return pending().await;
    };
    match (&mut first.task).await {
        Ok(outcome) => outcome,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Uploads in the queue are never aborted.
            Err(_aborted) => pending().await,
        },
    }
}

/// A new client id. The published SDK for Python truncates client ids to 32 bits.
fn new_client_id() -> u64 {
    u64::from(Uuid::new_v4().as_fields().0)
}

/// A new `$id` for an element.
fn new_id() -> String {
    Uuid::new_v4().to_string()
}

fn now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    rfc3339(u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX))
}

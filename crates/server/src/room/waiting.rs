//! Requests that wait: for space in the queue of their connection, for memory that others' answers
//! hold, or for a document that is being read again.
//!
//! An answer that may be longer than its request waits here while the connection's queue is over
//! the mark. So a peer that does not read has one such answer in its queue, however many it
//! requests. A waiting request is charged for what is kept of it, and gives up its right to go
//! beyond a bound.

use std::collections::VecDeque;
use std::sync::Arc;

use meshagent_ledger::{Account, Charge, Held, Kind, Wanted};
use meshagent_protocol::sync::SyncOpenStart;
use meshagent_protocol::{Content, DocPath, ErrorCode};
use meshagent_store::{Author, DocumentId};

use super::documents::{Deferred, Version};
use super::downloads::DownloadId;
use super::opening::Waiter;
use super::{Call, Conn, Refusal, Request, Room};
use crate::config::Limits;
use crate::usage::Usage;

/// A document's state of fewer bytes is not a large answer.
const SMALL_BYTES: usize = 64 << 10;
/// The bytes that one turn measures and encodes for waiting requests, each for a single answer and
/// without the last one: descriptions of documents, and introductions. The rest waits for the next
/// commit, drained queue or timeout.
const MADE_BYTES: usize = 256 << 10;
/// The bytes that a waiting request is charged for a path and its options.
const REQUEST_BYTES: usize = 2 << 10;

/// A waiting request.
#[derive(Debug)]
pub(super) enum Waiting {
    Document {
        path: String,
        waiter: Box<Waiter>,
        /// Present if the request waits for memory.
        _wanted: Option<Wanted>,
    },
    Download {
        download: DownloadId,
        /// Present if the request waits for memory.
        _wanted: Option<Wanted>,
    },
    List {
        request: Request,
        path: String,
        _charge: Charge,
    },
    Enable {
        request: Request,
        _charge: Charge,
        /// Present if the request waits for memory.
        _wanted: Option<Wanted>,
    },
}

impl Waiting {
    pub(super) fn conn(&self) -> Conn {
        match self {
            Self::Document { waiter, .. } => waiter.conn(),
            Self::Download { download, .. } => download.conn,
            Self::List { request, .. } | Self::Enable { request, .. } => request.conn,
        }
    }
}

/// The charges of an answer that is about to be made.
#[derive(Debug)]
pub(super) struct Making {
    /// For its text. A state charges its text itself, as soon as it is there.
    pub(super) text: Charge,
    /// For what the turn drops again.
    pub(super) work: Charge,
}

/// Whether an answer with this text and this work is not a large one.
fn is_small((text, work): (usize, usize)) -> bool {
    text.max(work) < SMALL_BYTES
}

impl Making {
    /// Charges an answer with a text and work of these bytes for a connection, unless it `exists`.
    fn charge(
        usage: &Usage,
        limits: &Limits,
        account: &Arc<Account>,
        (text, work): (usize, usize),
        exists: bool,
    ) -> Result<Option<Self>, Full> {
        let is_small = is_small((text, work));
        if !is_small && !account.may_take(text, limits.max_shared_bytes) {
            return Err(Full::Own);
        }
        if exists {
            return Ok(None);
        }
        if is_small {
            let text = usage.common().charge_anyway(Kind::Shared, text);
            let work = Charge::none();
            return Ok(Some(Self { text, work }));
        }
        match (usage.reserve(text, limits), account.try_work(work)) {
            (Some(text), Some(work)) => Ok(Some(Self { text, work })),
            _ => Err(Full::Others),
        }
    }
}

/// Why a request waits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Full {
    /// The connection has to read first, or the document has to be available again.
    Own,
    /// Others hold the memory.
    Others,
}

impl Room {
    /// Whether the answer to `waiter` may be made and queued now. Charges what is to be made.
    pub(super) fn has_room_for(
        &mut self,
        id: DocumentId,
        waiter: &Waiter,
    ) -> Result<Option<Making>, Full> {
        let Some(participant) = self.participants.get(&waiter.conn()) else {
            return Ok(None);
        };
        let Some(document) = self.documents.get_mut(id) else {
            return Ok(None);
        };
        if matches!(waiter, Waiter::Create { .. } | Waiter::Patch { .. }) {
            return Ok(None);
        }
        if !participant.outbox.accepts_broadcast(false) {
            return Err(Full::Own);
        }
        let (usage, limits, account) = (&self.usage, &self.config.limits, &participant.account);
        let Waiter::Describe { describe, .. } = waiter else {
            // The state is encoded before it becomes text.
            let sizes = (document.bytes / 3 * 4, document.bytes);
            let is_whole = matches!(waiter, Waiter::Open { start, .. } if start.vector.is_none());
            let exists = is_whole && document.has_current_state();
            return Making::charge(usage, limits, account, sizes, exists);
        };
        // A document that changes all the time is not measured again until its last size fits.
        if let Some(sizes) = document.outdated_size(describe) {
            drop(Making::charge(usage, limits, account, sizes, false)?);
        }
        if !document.is_measured(describe) {
            self.made_bytes = self.made_bytes.saturating_add(document.bytes);
        }
        let Some(sizes) = document.description_size(describe, limits.max_message_bytes) else {
            // It is refused.
            return Ok(None);
        };
        let exists = document.has_description(describe);
        if !exists && !is_small(sizes) && !document.takes_description() {
            return Err(Full::Own);
        }
        let making = Making::charge(usage, limits, account, sizes, exists)?;
        if making.is_some() {
            let made = document.bytes.max(sizes.0);
            self.made_bytes = self.made_bytes.saturating_add(made);
        }
        Ok(making)
    }

    /// Keeps a request for later.
    pub(super) fn wait(&mut self, path: &str, waiter: Waiter, full: Full) {
        let wanted = (full == Full::Others).then(|| self.usage.ledger().want());
        let waiter = match self.participants.get(&waiter.conn()) {
            Some(participant) => lighten(waiter, &participant.account),
            None => waiter,
        };
        self.waiting.push_back(Waiting::Document {
            path: path.to_owned(),
            waiter: Box::new(waiter),
            _wanted: wanted,
        });
    }

    /// Handles that the document has left its path: requests that wait for its newest version would
    /// be refused, so they are served from what is at the path now. Returns the rest.
    pub(super) fn ask_again(
        &mut self,
        path: &str,
        deferred: VecDeque<(Version, Deferred)>,
        refusal: &Refusal,
    ) -> VecDeque<(Version, Deferred)> {
        let mut rest = VecDeque::new();
        for (version, deferred) in deferred {
            let waiter = match (deferred, DocPath::parse(path)) {
                (
                    Deferred::Described {
                        request, describe, ..
                    },
                    _,
                ) => Waiter::Describe {
                    request,
                    describe,
                    _held: self.waiting_charge(request.conn).into(),
                },
                (
                    Deferred::State {
                        request,
                        tool_call_id,
                        number,
                        merges,
                        notice,
                        ..
                    },
                    Ok(document),
                ) => {
                    // What the client has of the former document says nothing about another one.
                    let mut start = SyncOpenStart::new(document);
                    start.merge = merges;
                    if let Content::Json(notice) = &notice {
                        let identity = notice.get("identity").and_then(|found| found.as_str());
                        start.identity = identity.map(str::to_owned);
                    }
                    Waiter::Open {
                        request,
                        tool_call_id,
                        number,
                        author: Box::new(Author::default()),
                        start,
                        may_create: Ok(()),
                        overtaken: Some(refusal.clone()),
                        _held: self.waiting_charge(request.conn).into(),
                    }
                }
                (other, _) => {
                    rest.push_back((version, other));
                    continue;
                }
            };
            self.with_document(path, waiter);
        }
        rest
    }

    /// The charge of a request while it waits.
    pub(super) fn waiting_charge(&self, conn: Conn) -> Charge {
        match self.participants.get(&conn) {
            Some(participant) => participant
                .account
                .charge_anyway(Kind::State, REQUEST_BYTES),
            None => Charge::none(),
        }
    }

    /// Refuses to open a call. If the call has ended meanwhile, only the request is answered,
    /// because another call may have its id.
    pub(super) fn refuse_opening(
        &mut self,
        request: Request,
        tool_call_id: &str,
        number: u64,
        refusal: Refusal,
    ) {
        let participant = self.participants.get(&request.conn);
        let call = participant.and_then(|participant| participant.calls.get(tool_call_id));
        match call {
            Some(Call::Sync(call)) if call.is_opening(number) => {
                self.fail_call(Some(request), request.conn, tool_call_id, refusal);
            }
            _ => self.refuse(request, refusal),
        }
    }

    pub(super) fn refuse_waiter(&mut self, waiter: Waiter, refusal: Refusal) {
        match waiter {
            Waiter::Open {
                request,
                tool_call_id,
                number,
                ..
            } => self.refuse_opening(request, &tool_call_id, number, refusal),
            Waiter::Create { request, .. }
            | Waiter::Describe { request, .. }
            | Waiter::Patch { request, .. } => {
                self.refuse(request, refusal);
            }
        }
    }

    /// Refuses the requests that wait for a document.
    pub(super) fn refuse_waiting(&mut self, path: &str, refusal: &Refusal) {
        for waiting in std::mem::take(&mut self.waiting) {
            match waiting {
                Waiting::Document {
                    path: waits_for,
                    waiter,
                    ..
                } if waits_for == path => self.refuse_waiter(*waiter, refusal.clone()),
                other => self.waiting.push_back(other),
            }
        }
    }

    /// Answers the waiting `enable`s of a connection, without introductions.
    pub(super) fn end_waiting_enables(&mut self, conn: Conn) {
        for waiting in std::mem::take(&mut self.waiting) {
            match waiting {
                Waiting::Enable { request, .. } if request.conn == conn => {
                    self.respond(request, Content::Empty);
                }
                other => self.waiting.push_back(other),
            }
        }
    }

    /// Retries the waiting requests, of one connection or of all.
    pub(super) fn retry_waiting(&mut self, conn: Option<Conn>) {
        if self.waiting.is_empty() {
            return;
        }
        self.made_bytes = 0;
        for waiting in std::mem::take(&mut self.waiting) {
            let is_full = self.made_bytes > MADE_BYTES;
            if is_full || conn.is_some_and(|conn| waiting.conn() != conn) {
                self.waiting.push_back(waiting);
                continue;
            }
            match waiting {
                Waiting::Document { path, waiter, .. } => self.with_document(&path, *waiter),
                Waiting::Download { download, .. } => self.retry_download(&download),
                Waiting::List { request, path, .. } => self.list_when_there_is_room(request, path),
                Waiting::Enable { request, .. } => self.enable_when_there_is_room(request),
            }
        }
    }
}

/// Drops what a request needs only to create a document: the document that it waits for exists.
fn lighten(waiter: Waiter, account: &Arc<Account>) -> Waiter {
    let charge = |bytes| Held::from(account.charge_anyway(Kind::State, REQUEST_BYTES + bytes));
    match waiter {
        Waiter::Describe {
            request, describe, ..
        } => Waiter::Describe {
            request,
            describe,
            _held: charge(0),
        },
        Waiter::Open {
            request,
            tool_call_id,
            number,
            author,
            mut start,
            may_create,
            mut overtaken,
            ..
        } => {
            if start.create && may_create.is_ok() {
                overtaken.get_or_insert_with(|| {
                    let text = "the document was deleted while this request waited; open it again";
                    Refusal::new(ErrorCode::OperationFailed, text)
                });
            }
            (start.schema, start.schema_path, start.initial_json) = (None, None, None);
            let vector_bytes = start.vector.as_ref().map_or(0, Vec::len);
            Waiter::Open {
                request,
                tool_call_id,
                number,
                author,
                start,
                may_create,
                overtaken,
                _held: charge(vector_bytes),
            }
        }
        Waiter::Patch {
            request,
            patch,
            author,
            mut held,
        } => {
            held.stand_back();
            Waiter::Patch {
                request,
                patch,
                author,
                held,
            }
        }
        created @ Waiter::Create { .. } => created,
    }
}

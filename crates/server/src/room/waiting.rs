//! Requests that wait: for room in the asker's queue, for memory that others' answers have now, or for a document
//! that is being read again.
//!
//! Whatever may be longer than its request waits here while the asker's queue is over the mark, so that a peer which
//! does not read has one such answer in its queue, however many it asks for. What waits is charged by what is kept of it,
//! and has no right to go beyond a bound.

use std::collections::VecDeque;
use std::sync::Arc;

use meshagent_protocol::sync::SyncOpenStart;
use meshagent_protocol::{Content, DocPath, ErrorCode};
use meshagent_store::{Author, DocumentId};

use super::documents::{Deferred, Version};
use super::downloads::DownloadId;
use super::opening::Waiter;
use super::{Call, Conn, Refusal, Request, Room};
use crate::ledger::{Account, Charge, Held, Kind, Wanted};

/// Below this a document's state is no large answer.
const SMALL_BYTES: usize = 64 << 10;
/// Bytes of what is made in one turn for those who waited, each for itself, but for the last one: of documents that are
/// described, and of introductions. The rest waits for the next commit, reader or tick.
const MADE_BYTES: usize = 256 << 10;
/// What a request takes that waits: it names a path, and what it asks of it.
const REQUEST_BYTES: usize = 2 << 10;

/// What waits.
#[derive(Debug)]
pub(super) enum Waiting {
    Document {
        path: String,
        waiter: Box<Waiter>,
        /// It is memory that it waits for.
        _wanted: Option<Wanted>,
    },
    Download {
        download: DownloadId,
        /// It is memory that it waits for.
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
        /// It is memory that it waits for.
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

/// Why a request waits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Full {
    /// The asker has to read, or its document has to be there again.
    Own,
    /// Others have the memory.
    Others,
}

impl Room {
    /// Whether what `waiter` asks for may be made and queued now.
    pub(super) fn has_room_for(&self, id: DocumentId, waiter: &Waiter) -> Result<(), Full> {
        let Some(participant) = self.participants.get(&waiter.conn()) else {
            return Ok(());
        };
        let Some(document) = self.documents.get(id) else {
            return Ok(());
        };
        let (has_state, with_schema) = match waiter {
            Waiter::Create { .. } | Waiter::Patch { .. } => return Ok(()),
            Waiter::Describe { describe, .. } => (false, describe.with_schema),
            Waiter::Open { start, .. } => {
                let asks_for_state = start.vector.is_none();
                (asks_for_state && document.has_current_state(), false)
            }
        };
        if !participant.outbox.accepts_broadcast(false) {
            return Err(Full::Own);
        }
        let text_bytes = document.bytes / 3 * 4;
        // The schema of a state is the document's own; that of a description is a copy.
        let schema_bytes = if with_schema {
            document.schema.text.len()
        } else {
            0
        };
        let bytes = text_bytes + schema_bytes;
        if bytes < SMALL_BYTES {
            return Ok(());
        }
        let max = self.config.limits.max_shared_bytes;
        if !participant.account.may_take(bytes, max) {
            return Err(Full::Own);
        }
        if has_state {
            return Ok(());
        }
        let is_description = matches!(waiter, Waiter::Describe { .. });
        if is_description && !document.takes_description() {
            return Err(Full::Own);
        }
        let in_use = self.usage.shared_bytes();
        // What is larger than all there may be gets it when nobody else has any.
        if in_use == 0 || in_use.saturating_add(bytes) <= max {
            Ok(())
        } else {
            Err(Full::Others)
        }
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

    /// The document has gone from its path: what waited for its newest version, and would be told so, asks for what is
    /// there now. Returns the rest.
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
                    // What the client has of the one that is gone says nothing about another.
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

    /// What a request costs that waits, beside what its message held.
    pub(super) fn waiting_charge(&self, conn: Conn) -> Charge {
        match self.participants.get(&conn) {
            Some(participant) => participant
                .account
                .charge_anyway(Kind::State, REQUEST_BYTES),
            None => Charge::none(),
        }
    }

    /// A call is not opened. If it has ended meanwhile, only its start is answered: another may have its id.
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

    /// Those who wait for a document are told that they won't get it.
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

    /// Answers those `enable`s of a connection that wait, without any introduction.
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

    /// Tries those again that wait, of one connection or of all.
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

/// What is kept of a request that waits for a document which is there: nothing to create it with.
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

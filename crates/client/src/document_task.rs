//! The task of an open document: exchanges updates between its replica and the server, across
//! reconnects.

mod client_ids;
mod conflicts;
mod intake;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use meshagent_protocol::{Content, ErrorCode, SyncChunk, SyncOpenStart, decode_base64};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

pub(crate) use self::client_ids::{ClientIds, new_client_id};
pub(crate) use self::conflicts::{CONFLICT_PATIENCE, Conflicts};
pub(crate) use self::intake::{Beginning, Gap};
use self::intake::{StartOver, Work};
use crate::backoff::{self, Backoff};
use crate::connection::{CallError, Connection};
use crate::given_up::GivenUpEdits;
use crate::journal::{JournalError, Journals};
use crate::live_document::{DocumentEnd, DocumentEvent, Progress, Refusal, Shared};
use crate::replica::Replica;
use crate::room_client::{Link, RoomEnd};
use crate::stream::{PendingAnswer, StreamEnd};
use crate::sync_calls::{NOTHING, SyncStream};

/// How long a document without handles stays open for unsaved edits.
pub(crate) const LINGER: Duration = Duration::from_millis(if cfg!(test) { 200 } else { 10_000 });

#[derive(Debug)]
pub(crate) struct DocumentTask {
    pub(crate) shared: Arc<Shared>,
    pub(crate) journals: Option<Journals>,
    pub(crate) given_up: GivenUpEdits,
    pub(crate) link: watch::Receiver<Link>,
    /// Cancelled when the room is left.
    pub(crate) closing: CancellationToken,
    /// The first start chunk.
    pub(crate) start: SyncOpenStart,
    /// How long the server may take for an answer while the document is open only for its journal.
    pub(crate) patience: Duration,
    /// Whether the next stream rebuilds the replica from the server's state.
    pub(crate) is_fresh: bool,
    /// Whether the document was open on the server before.
    pub(crate) was_open: bool,
    pub(crate) conflicts: Conflicts,
    /// How often, since everything was saved, the server has deleted more of an update than this
    /// replica.
    pub(crate) mismatches: u32,
    pub(crate) client_ids: ClientIds,
}

/// Why a stream ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// No handle is open, and everything is saved.
    Done,
    /// The connection or the call is gone.
    Lost,
    /// A passing failure: retry after a pause.
    Later,
    /// The server has not answered, and other journals are waiting to be sent.
    Silent,
    /// An edit was refused permanently.
    Refused,
    /// The server sent something that is not an update.
    Unreadable(String),
}

impl DocumentTask {
    /// Serves the document until it ends. Returns why.
    pub(crate) async fn run(mut self) -> DocumentEnd {
        match self.load().await {
            // Another program has sent the edits meanwhile.
            Ok(()) if self.has_nothing_to_resend() => DocumentEnd::Closed,
            Ok(()) => self.carry().await,
            Err(error) => error.into(),
        }
    }

    /// Whether the document was opened only for its journal, and that has nothing to send. The
    /// document has then ended.
    fn has_nothing_to_resend(&self) -> bool {
        self.shared.end_resending(Replica::is_saved)
    }

    /// Loads the journal, if there is one.
    async fn load(&mut self) -> Result<(), JournalError> {
        let Some(journals) = &self.journals else {
            return Ok(());
        };
        let replica = journals.open(&self.shared).await?;
        let has_content = replica.is_some();
        self.shared.load(replica);
        if has_content {
            self.given_up.reopened(&self.shared.path);
            self.is_fresh = false;
            self.was_open = true;
        }
        Ok(())
    }

    async fn carry(&mut self) -> DocumentEnd {
        let mut backoff = Backoff::new();
        loop {
            let connection = match self.connection().await {
                Ok(connection) => connection,
                Err(end) => return end,
            };
            let opened = tokio::select! {
                opened = self.open(&connection) => opened.map(Some),
                () = self.given_up() => return DocumentEnd::Closed,
                () = self.holds_up_others(Instant::now()) => {
                    Ok(None)
                }
            };
            let ended = match opened {
                Ok(None) => Ended::Silent,
                Ok(Some(stream)) => match self.begin_with(&stream).await {
                    // The edits stay in the journal for the next opening.
                    Ok(()) if self.shared.is_ended() => return DocumentEnd::Closed,
                    Ok(()) => {
                        let ended = self.serve(stream, &mut backoff).await;
                        self.shared.advance(Progress::disconnect);
                        if !matches!(ended, Ended::Done) {
                            self.shared.lock().publish(&DocumentEvent::Disconnected);
                        }
                        ended
                    }
                    Err(reason) => Ended::Unreadable(reason),
                },
                Err(CallError::Refused { code, text }) if !may_pass(code) => {
                    let text = self.with_what_is_kept(code, text);
                    return Refusal { code, text }.into();
                }
                Err(CallError::Disconnected | CallError::Ended(_)) => Ended::Lost,
                Err(CallError::InvalidPath(error)) => {
                    let text = error.to_string();
                    return Refusal { code: None, text }.into();
                }
                Err(CallError::Unexpected(error)) => Ended::Unreadable(error.to_string()),
                Err(CallError::Refused { .. }) => Ended::Later,
            };
            if self.shared.is_ended() {
                return DocumentEnd::Closed;
            }
            self.shared.lock().replica.unsent();
            match ended {
                Ended::Done if self.give_up() => return DocumentEnd::Closed,
                // Another handle was opened meanwhile, and may have been closed after an edit.
                Ended::Done => self.shared.lock().publish(&DocumentEvent::Disconnected),
                Ended::Unreadable(reason) => return DocumentEnd::Unreadable(reason),
                Ended::Refused => self.start_over_next(),
                // The document is opened again after the journals of other documents. Without a
                // connection, other programs may open it.
                ended if self.lets_others_go_first(&ended) => return DocumentEnd::Closed,
                // If the connection is gone, wait for the next one. Otherwise the server did not
                // accept the call.
                Ended::Lost if connection.is_closed() => {}
                Ended::Lost | Ended::Later | Ended::Silent => {
                    tokio::select! {
                        () = sleep(backoff.next(backoff::random())) => {}
                        () = self.given_up() => return DocumentEnd::Closed,
                    }
                }
            }
        }
    }

    /// Ends a document that is open only for its journal and can't continue now. Counts of
    /// conflicts or mismatches must be able to reach their limit, so only a silent server or a lost
    /// connection resets them.
    fn lets_others_go_first(&self, ended: &Ended) -> bool {
        let is_silent = matches!(ended, Ended::Silent);
        let has_counts = !self.conflicts.is_none() || self.mismatches > 0;
        (is_silent || !has_counts) && self.shared.end_resending(|_| true)
    }

    /// Rebuilds the replica from the server's state on the next stream. The conflict count stays. A
    /// fill repeats several edits, and may be refused because of one of them, which is then sent
    /// alone. Without the count the fill would be repeated forever.
    pub(crate) fn start_over_next(&mut self) {
        self.is_fresh = true;
    }

    /// Waits for a connection.
    async fn connection(&mut self) -> Result<Connection, DocumentEnd> {
        let mut link = self.link.clone();
        let linked = async {
            loop {
                match &*link.borrow_and_update() {
                    Link::Up(connection) if !connection.is_closed() => {
                        return Ok(connection.clone());
                    }
                    Link::Up(_) | Link::Down | Link::NoToken(_) => {}
                    Link::Ended(RoomEnd::Left) => return Err(DocumentEnd::Closed),
                    Link::Ended(end) => return Err(DocumentEnd::RoomEnded(end.clone())),
                }
                // Without a connection other programs may open its journal.
                if self.shared.end_resending(|_| true) {
                    return Err(DocumentEnd::Closed);
                }
                if link.changed().await.is_err() {
                    return Err(DocumentEnd::Closed);
                }
            }
        };
        tokio::select! {
            linked = linked => linked,
            () = self.given_up() => Err(DocumentEnd::Closed),
        }
    }

    /// Waits until unsaved edits no longer keep the document open.
    async fn given_up(&self) {
        loop {
            let abandoned = self.shared.abandoned_since();
            let is_closing = self.closing.is_cancelled();
            if (abandoned.is_some() || is_closing) && self.give_up() {
                return;
            }
            let deadline = abandoned.map(|since| since + LINGER);
            // When a room is left, its supervisor limits the wait and then ends the connection.
            tokio::select! {
                () = self.shared.work.notified() => {}
                () = self.closing.cancelled(), if !is_closing => {}
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {}
            }
        }
    }

    /// Waits until the server was silent for `patience` while the document is open only for its
    /// journal. Never completes if a handle is opened meanwhile.
    async fn holds_up_others(&self, since: Instant) {
        sleep_until(since + self.patience).await;
        if !self.shared.is_resending() {
            std::future::pending::<()>().await;
        }
    }

    fn has_connection(&self) -> bool {
        matches!(&*self.link.borrow(), Link::Up(connection) if !connection.is_closed())
    }

    /// Ends the document unless a handle is open in a room that is not being left, or unsaved edits
    /// can still be waited for. Returns whether it has ended.
    fn give_up(&self) -> bool {
        let is_closing = self.closing.is_cancelled();
        // A room that is being left does not reconnect. Without a connection, only the journal is
        // awaited.
        let can_be_sent = !is_closing || self.has_connection();
        self.shared.end_if_given_up(is_closing, can_be_sent)
    }

    async fn open(&self, connection: &Connection) -> Result<SyncStream, CallError> {
        let mut start = self.start.clone();
        start.merge = true;
        if self.was_open {
            start.create = false;
            start.initial_json = None;
        }
        self.describe(&mut start);
        connection.sync().open(&start).await
    }

    /// Describes the local content in a start chunk.
    pub(crate) fn describe(&self, start: &mut SyncOpenStart) {
        let state = self.shared.lock();
        if !self.is_fresh {
            start.vector = Some(state.replica.document().state_vector());
        }
        start.identity = Some(state.replica.identity().unwrap_or_default().to_owned());
    }

    /// For a document that no longer exists: adds to the server's explanation where the local
    /// content is.
    fn with_what_is_kept(&self, code: Option<i64>, text: String) -> String {
        let state = self.shared.lock();
        let has_content = state.replica.document().element_count() > 0;
        let is_empty = !has_content && state.replica.is_saved();
        if code != Some(ErrorCode::NotFound.number()) || !self.was_open || is_empty {
            return text;
        }
        let unsaved = state.replica.kept();
        let kept = if state.is_journaled() {
            "is in the journal, and is handed over when another document was created there and is \
             opened here"
        } else {
            "can be read from it as long as it is not closed"
        };
        format!(
            "{text} (it was there before: somebody deleted or moved it, or the server was restored from a copy without it. \
             What this client has of it, with {unsaved} updates that are not saved, {kept})"
        )
    }

    /// Whether `identity` is that of another document than the replica's.
    fn is_replaced(&self, identity: Option<&str>) -> bool {
        let state = self.shared.lock();
        let known = state.replica.identity();
        known.is_some() && identity.is_some() && identity != known
    }

    /// Applies the state at the start of a stream.
    #[cfg(feature = "simulation")]
    pub(crate) fn begin(&mut self, beginning: &Beginning) -> Result<(), String> {
        let over = self.start_over_of(beginning);
        beginning.take_up(&self.shared, &mut self.client_ids, over)?;
        self.begun();
        Ok(())
    }

    /// Applies the state at the start of a stream, on a thread for blocking work if it is large.
    async fn begin_with(&mut self, stream: &SyncStream) -> Result<(), String> {
        let beginning = Beginning::of(stream);
        let over = self.start_over_of(&beginning);
        let work = beginning.work(&self.shared, over);
        let take_up = move |shared: &Shared, client_ids: &mut ClientIds| {
            beginning.take_up(shared, client_ids, over)
        };
        intake::run(&self.shared, &mut self.client_ids, work, take_up).await?;
        self.begun();
        Ok(())
    }

    fn start_over_of(&self, beginning: &Beginning) -> StartOver {
        if self.is_replaced(beginning.identity.as_deref()) {
            StartOver::Replaced
        } else if !self.is_fresh {
            StartOver::No
        } else if self.conflicts.is_look_pending() {
            StartOver::FreshAfterConflict
        } else {
            StartOver::Fresh
        }
    }

    fn begun(&mut self) {
        self.is_fresh = false;
        self.was_open = true;
        self.conflicts.looked();
        self.shared.advance(Progress::synchronize);
    }

    async fn serve(&mut self, mut stream: SyncStream, backoff: &mut Backoff) -> Ended {
        let sender = stream.sender();
        let mut under_way: VecDeque<(u64, PendingAnswer)> = VecDeque::new();
        let mut heard = Instant::now();
        loop {
            loop {
                let next = self.shared.lock().next_to_send();
                let Some(next) = next else { break };
                let chunk = SyncChunk::of_update(&next.update);
                let begun = tokio::select! {
                    // An update for which there is room is sent even while the room is being left.
                    biased;
                    begun = sender.begin(chunk) => begun,
                    // A server that does not read must not delay the end longer than one that does
                    // not answer.
                    () = self.given_up() => return Ended::Done,
                    () = self.holds_up_others(heard) => return Ended::Silent,
                };
                match begun {
                    Ok(answer) => under_way.push_back((next.number, answer)),
                    Err(_gone) => return Ended::Lost,
                }
            }
            let deadline = self.shared.abandoned_since().map(|since| since + LINGER);
            let is_closing = self.closing.is_cancelled();
            if deadline.is_some() || is_closing || self.shared.is_resending() {
                if self.shared.lock().replica.is_saved() {
                    // The result does not matter: everything is saved.
                    let _closed = tokio::time::timeout(CLOSE_GRACE, stream.close()).await;
                    return Ended::Done;
                }
                if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                    return Ended::Done;
                }
            }
            tokio::select! {
                update = stream.recv() => match update {
                    Ok(Some(update)) => {
                        let work = Work::Bytes(update.len());
                        let receive = move |shared: &Shared, client_ids: &mut ClientIds| {
                            intake::receive(shared, client_ids, &update)
                        };
                        let received =
                            intake::run(&self.shared, &mut self.client_ids, work, receive).await;
                        if let Err(reason) = received {
                            return Ended::Unreadable(reason);
                        }
                    }
                    Ok(None) | Err(StreamEnd::Disconnected | StreamEnd::Lagged) => return Ended::Lost,
                    Err(StreamEnd::Refused(_)) => return Ended::Later,
                    Err(StreamEnd::Unreadable(error)) => return Ended::Unreadable(error.to_string()),
                },
                answer = first_answer(&mut under_way) => {
                    let Some((number, _)) = under_way.pop_front() else { continue };
                    heard = Instant::now();
                    let gap = match self.answered(number, answer) {
                        Ok(gap) => gap,
                        Err(ended) => return ended,
                    };
                    if let Some(gap) = gap {
                        let (ids, work) = (&mut self.client_ids, Work::Document);
                        let fill = move |shared: &Shared, _: &mut ClientIds| gap.fill(shared);
                        if let Err(reason) = intake::run(&self.shared, ids, work, fill).await {
                            return Ended::Unreadable(reason);
                        }
                    }
                    backoff.reset();
                }
                () = self.shared.work.notified() => {}
                () = self.closing.cancelled(), if !is_closing => {}
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {}
                () = self.holds_up_others(heard) => return Ended::Silent,
            }
        }
    }

    #[cfg(feature = "simulation")]
    pub(crate) fn received(&mut self, update: &[u8]) -> Result<(), String> {
        intake::receive(&self.shared, &mut self.client_ids, update)
    }

    /// Handles the server's answer to an update. Returns the gap before the update, if there is
    /// one; the caller fills it.
    pub(crate) fn answered(
        &mut self,
        number: u64,
        answer: Result<Content, CallError>,
    ) -> Result<Option<Gap>, Ended> {
        match answer {
            Ok(Content::Json(notice)) => {
                let mut state = self.shared.lock();
                let deleted = notice.get("deleted").and_then(Value::as_u64).unwrap_or(0);
                if deleted > 0 {
                    let update = state.replica.unsaved_update(number).unwrap_or_default();
                    let is_shown_here = deleted > state.replica.deleted_in(&update);
                    if is_shown_here && self.mismatches < TRIES {
                        // A deletion by another participant may be in flight. The next stream
                        // starts with all deletions, and the update is sent again.
                        self.mismatches += 1;
                        return Err(Ended::Later);
                    }
                    state.publish(&DocumentEvent::Erased {
                        operations: deleted,
                        update,
                    });
                    if is_shown_here {
                        state.replica.set_overwritten(number);
                        drop(state);
                        self.refused(number, Refusal::overwritten())?;
                        return Ok(None);
                    }
                }
                state.journal_answered(number);
                if let Some(violations) = notice.get("violations").and_then(Value::as_array) {
                    let violations = violations.clone();
                    state.publish(&DocumentEvent::Repaired { violations });
                }
                if notice.get("pending") == Some(&Value::Bool(true)) {
                    // For a document with very many clients the server omits its vector. It then
                    // receives everything.
                    let vector = notice["state_vector"].as_str().unwrap_or(NOTHING);
                    let vector = decode_base64(vector.as_bytes());
                    let vector = vector.map_err(|error| Ended::Unreadable(error.to_string()))?;
                    // This says nothing of a conflict: that may concern the missing operations.
                    return Ok(Some(Gap { number, vector }));
                }
                self.conflicts.reset();
                state.replica.acknowledged(number);
                state.journal_progress(None);
            }
            Ok(_) => {
                self.conflicts.reset();
                let mut state = self.shared.lock();
                state.journal_answered(number);
                state.replica.acknowledged(number);
                state.journal_progress(None);
            }
            // The document is gone. The refusal of the next opening says what to do with the local
            // content.
            Err(CallError::Refused { code, .. }) if code == Some(ErrorCode::NotFound.number()) => {
                return Err(Ended::Later);
            }
            Err(CallError::Refused { code, text }) if !self.may_be_taken(code) => {
                self.refused(number, Refusal { code, text })?;
                return Ok(None);
            }
            Err(CallError::Disconnected) => return Err(Ended::Lost),
            Err(_) => return Err(Ended::Later),
        }
        // Reset only now: answers to earlier updates on the stream, such as a fill, do not concern
        // the erased edit.
        if self.mismatches > 0 && self.shared.lock().replica.is_saved() {
            self.mismatches = 0;
        }
        self.shared.advance(|_| {});
        Ok(None)
    }

    /// Handles a permanent refusal of the update with this number. Returns why the stream ends, if
    /// it does.
    fn refused(&mut self, number: u64, refusal: Refusal) -> Result<(), Ended> {
        let goes_on = self.shared.lock().refuse(number, refusal.clone());
        if !goes_on {
            // Before an edit is given up because of a conflict, the server's content is checked.
            let is_looked_at = refusal.has_code(ErrorCode::Conflict) && self.conflicts.check();
            if !is_looked_at && self.shared.end_untold(refusal) {
                return Err(Ended::Done);
            }
        }
        self.shared.advance(|_| {});
        if goes_on { Ok(()) } else { Err(Ended::Refused) }
    }

    /// Whether a refused update may be accepted later. A conflict passes when the other writer
    /// leaves. It does not if other operations have the names of the update's.
    fn may_be_taken(&mut self, code: Option<i64>) -> bool {
        if code == Some(ErrorCode::Conflict.number()) {
            return self.conflicts.note();
        }
        may_pass(code)
    }
}

/// The oldest answer that is still to come. Pending forever if there is none.
async fn first_answer(
    under_way: &mut VecDeque<(u64, PendingAnswer)>,
) -> Result<Content, CallError> {
    match under_way.front_mut() {
        Some((_, answer)) => answer.wait_in_stream().await,
        None => std::future::pending().await,
    }
}

/// How often an update is sent again if the server has deleted more of it than this replica.
const TRIES: u32 = 3;

/// Whether a refusal may pass: conflicts, passing states and internal failures of the server.
fn may_pass(code: Option<i64>) -> bool {
    let may_pass = |code| {
        matches!(
            ErrorCode::from_number(code),
            Some(
                ErrorCode::Conflict
                    | ErrorCode::InvalidState
                    | ErrorCode::OperationFailed
                    | ErrorCode::Timeout
                    | ErrorCode::SyncNotConnected
            )
        )
    };
    code.is_none_or(may_pass)
}

/// How long the server may take to close a call.
const CLOSE_GRACE: Duration = Duration::from_secs(5);

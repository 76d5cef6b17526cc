//! Toolkit `storage`, the call `upload`: the server requests each piece.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use meshagent_ledger::{Charge, Kind};
use meshagent_protocol::storage::{UploadChunk, UploadStart, upload_pull};
use meshagent_protocol::{Content, Control, ErrorCode, FileAction};
use meshagent_store::{Timestamp, Write};

use super::batch::Then;
use super::{Call, Conn, Refusal, Request, Room};

/// The bytes that the server requests at a time.
const PULL_BYTES: u64 = 256 << 10;

/// The bytes that a piece is charged in addition to its content.
const PIECE_BYTES: usize = 64;

/// An upload that brings less than `PACE_BYTES` in `PACE_MILLISECONDS` is stalled. It ends when
/// others need its space.
const PACE_BYTES: usize = 64 << 10;
const PACE_MILLISECONDS: i64 = 10_000;

/// A file that is being uploaded. Nothing is stored before the client closes the call.
#[derive(Debug, Default)]
pub(super) struct Upload {
    start: Option<UploadStart>,
    /// The pieces are copies: a slice would keep the whole message in memory.
    pieces: Vec<Bytes>,
    bytes: usize,
    /// The number of the upload in the room.
    number: u64,
    /// The last progress: the time, the bytes by then, and how long the server had kept the
    /// connection waiting by then. [`PACE_BYTES`] more are the next progress.
    paced: (Timestamp, usize, Duration),
    charge: Option<Charge>,
    /// The number of the write, once the client has sent everything. The call ends with the result
    /// of this write.
    write: Option<u64>,
}

/// The uploads of a room that have brought something and are not closed.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    bytes: usize,
    /// The owner of each upload, ordered by the time of the last progress and the number.
    by_pace: BTreeMap<(Timestamp, u64), (Conn, Box<str>)>,
}

impl Uploads {
    /// Removes an upload that ended, for whatever reason.
    pub(super) fn ended(&mut self, upload: &Upload) {
        self.bytes -= upload.bytes;
        self.by_pace.remove(&upload.key());
    }

    /// The number of uploads.
    pub(super) fn len(&self) -> usize {
        self.by_pace.len()
    }

    /// The bytes of all uploads.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// The upload that a write ends. By then its id may belong to another call, so the write's number
/// decides.
#[derive(Debug)]
pub(super) struct Finishing {
    pub(super) conn: Conn,
    tool_call_id: String,
    write: u64,
}

impl Upload {
    /// Takes all pieces, joined.
    fn take_all(&mut self) -> Bytes {
        let mut all = Vec::with_capacity(std::mem::take(&mut self.bytes));
        for piece in std::mem::take(&mut self.pieces) {
            all.extend_from_slice(&piece);
        }
        all.into()
    }

    fn key(&self) -> (Timestamp, u64) {
        (self.paced.0, self.number)
    }
}

impl Room {
    pub(super) fn upload_chunk(&mut self, request: Request, tool_call_id: &str, chunk: &Content) {
        let conn = request.conn;
        let fail =
            |room: &mut Self, refusal| room.fail_call(Some(request), conn, tool_call_id, refusal);
        if self.is_finishing(conn, tool_call_id) {
            // The call does not fail, because the file may be stored.
            let text = "the upload was closed; its file is being stored, and nothing can be added";
            return self.refuse(request, Refusal::new(ErrorCode::InvalidState, text));
        }
        let parsed = match UploadChunk::parse(chunk) {
            Ok(parsed) => parsed,
            Err(error) => return fail(self, Refusal::request(&error)),
        };
        let max = self.config.limits.max_file_bytes;
        let max_in_room = self.config.limits.max_upload_bytes_per_room;
        let number = self.number();
        let too_large = || Refusal::invalid(format!("a file may have {max} bytes at most"));
        let Some(participant) = self.participants.get_mut(&conn) else {
            return;
        };
        let Some(Call::Upload(upload)) = participant.calls.get_mut(tool_call_id) else {
            return;
        };
        match (parsed, &upload.start) {
            (UploadChunk::Start(start), None) => {
                let path = start.path.to_string();
                if start.size.is_some_and(|size| size > max as u64) {
                    return fail(self, too_large());
                }
                if let Some(mime_type) = &start.mime_type
                    && !is_mime_type(mime_type)
                {
                    let text = "mime_type has to be printable ASCII of 255 bytes at most";
                    return fail(self, Refusal::invalid(text));
                }
                if path.is_empty() {
                    let refusal =
                        Refusal::new(ErrorCode::StorageInvalidPath, "the storage root is no file");
                    return fail(self, refusal);
                }
                upload.start = Some(start);
                upload.number = number;
                upload.paced = (self.now, 0, participant.account.kept_waiting());
                if let Err(refusal) = self.may_change(request, &path, "write", FileAction::Write) {
                    return fail(self, refusal);
                }
            }
            (UploadChunk::Data(data), Some(_)) => {
                if upload.bytes + data.len() > max {
                    return fail(self, too_large());
                }
                let own = upload.number;
                if self.uploads.bytes + data.len() > max_in_room
                    && !self.end_stalled_uploads(own, data.len())
                {
                    let text =
                        "too many bytes of uploads are under way in this room; try again later";
                    return fail(self, Refusal::new(ErrorCode::OperationFailed, text));
                }
                let Some(participant) = self.participants.get_mut(&conn) else {
                    return;
                };
                let Some(Call::Upload(upload)) = participant.calls.get_mut(tool_call_id) else {
                    return;
                };
                let cost = data.len() + PIECE_BYTES;
                let charge = upload
                    .charge
                    .get_or_insert_with(|| participant.account.empty(Kind::Upload));
                if let Err(over) = charge.try_grow(cost) {
                    return fail(self, Refusal::over(over));
                }
                upload.pieces.push(Bytes::copy_from_slice(&data));
                let (before, key) = (upload.bytes, upload.key());
                upload.bytes += data.len();
                if upload.bytes - upload.paced.1 >= PACE_BYTES {
                    upload.paced = (self.now, upload.bytes, participant.account.kept_waiting());
                }
                self.uploads.bytes += data.len();
                let by_pace = &mut self.uploads.by_pace;
                if before == 0 && upload.bytes > 0 {
                    by_pace.insert(upload.key(), (conn, tool_call_id.into()));
                } else if key != upload.key()
                    && let Some(whose) = by_pace.remove(&key)
                {
                    by_pace.insert(upload.key(), whose);
                }
            }
            (UploadChunk::Start(_), Some(_)) => {
                return fail(
                    self,
                    Refusal::invalid("the upload was started already; send data"),
                );
            }
            (UploadChunk::Data(_), None) => {
                return fail(
                    self,
                    Refusal::invalid("an upload begins with a start chunk"),
                );
            }
        }
        self.respond(request, Content::Empty);
        self.send_chunk(conn, tool_call_id, upload_pull(PULL_BYTES));
    }

    /// Ends stalled uploads, the longest stalled first, until there is space for `bytes` more of
    /// the upload with the number `own`. Returns whether there is.
    fn end_stalled_uploads(&mut self, own: u64, bytes: usize) -> bool {
        let max = self.config.limits.max_upload_bytes_per_room;
        let latest = Timestamp(self.now.0.saturating_sub(PACE_MILLISECONDS));
        while self.uploads.bytes + bytes > max {
            let mut stalled = self.uploads.by_pace.range(..=(latest, u64::MAX));
            let Some((&key, (conn, id))) = stalled.find(|((_, number), _)| *number != own) else {
                return false;
            };
            let (conn, id) = (*conn, id.clone());
            if self.excuse_upload(conn, &id) {
                continue;
            }
            let text = "the upload stood still, and others needed its room; upload the file again";
            let refusal = Refusal::new(ErrorCode::OperationFailed, text);
            self.fail_call(None, conn, &id, refusal);
            // The end of the call has removed this already.
            self.uploads.by_pace.remove(&key);
        }
        true
    }

    /// Adds the time for which the server has kept an upload's connection waiting to the upload's
    /// last progress. Returns whether there was any that had not been added yet.
    fn excuse_upload(&mut self, conn: Conn, tool_call_id: &str) -> bool {
        let Some(participant) = self.participants.get_mut(&conn) else {
            return false;
        };
        let Some(Call::Upload(upload)) = participant.calls.get_mut(tool_call_id) else {
            return false;
        };
        let (since, _, before) = upload.paced;
        let waited = participant.account.kept_waiting();
        let more = waited.saturating_sub(before).as_millis();
        let more = i64::try_from(more).unwrap_or(i64::MAX);
        if more == 0 {
            return false;
        }
        let key = upload.key();
        upload.paced.0 = Timestamp(since.0.saturating_add(more));
        upload.paced.2 = waited;
        if let Some(whose) = self.uploads.by_pace.remove(&key) {
            self.uploads.by_pace.insert(upload.key(), whose);
        }
        true
    }

    /// Handles that the client has sent everything: the file is written as a whole, or not at all.
    pub(super) fn finish_upload(&mut self, request: Request, tool_call_id: &str) {
        let conn = request.conn;
        if self.is_finishing(conn, tool_call_id) {
            // The call was closed twice. Whether the file is stored is not known yet.
            return self.respond(request, Content::Empty);
        }
        let number = self.number();
        let Some(upload) = self.upload_mut(conn, tool_call_id) else {
            return;
        };
        let key = upload.key();
        let data = upload.take_all();
        let start = upload.start.take();
        let charge = upload.charge.take();
        upload.write = start.is_some().then_some(number);
        self.uploads.bytes -= data.len();
        self.uploads.by_pace.remove(&key);
        if let Some(charge) = charge {
            self.held = charge.into();
        }
        let Some(start) = start else {
            // The call was closed before it began: there is nothing to write.
            self.respond(request, Content::Empty);
            return self.end_call(conn, tool_call_id, Control::close());
        };
        if let Some(size) = start.size
            && size != data.len() as u64
        {
            let text = format!(
                "the upload announced {size} bytes and ended after {}; nothing was stored",
                data.len()
            );
            return self.fail_call(Some(request), conn, tool_call_id, Refusal::invalid(text));
        }
        self.respond(request, Content::Empty);
        let path = start.path.to_string();
        let write = Write::PutFile {
            room: self.id.clone(),
            path: path.clone(),
            data,
            mime_type: start
                .mime_type
                .unwrap_or_else(|| "application/octet-stream".into()),
            overwrite: start.overwrite,
            at: self.now,
        };
        let upload = Finishing {
            conn,
            tool_call_id: tool_call_id.to_owned(),
            write: number,
        };
        self.stage(write, Then::Put { upload, path });
    }

    /// Ends the call with the result of its write.
    pub(super) fn end_upload(&mut self, finishing: &Finishing, outcome: Result<(), Refusal>) {
        let (conn, tool_call_id) = (finishing.conn, &*finishing.tool_call_id);
        let waits = self
            .upload_mut(conn, tool_call_id)
            .is_some_and(|upload| upload.write == Some(finishing.write));
        if !waits {
            return;
        }
        match outcome {
            Ok(()) => self.end_call(conn, tool_call_id, Control::close()),
            Err(refusal) => self.fail_call(None, conn, tool_call_id, refusal),
        }
    }

    /// Whether the client has closed the upload and its write is not settled yet.
    fn is_finishing(&mut self, conn: Conn, tool_call_id: &str) -> bool {
        let upload = self.upload_mut(conn, tool_call_id);
        upload.is_some_and(|upload| upload.write.is_some())
    }

    fn upload_mut(&mut self, conn: Conn, tool_call_id: &str) -> Option<&mut Upload> {
        let participant = self.participants.get_mut(&conn)?;
        match participant.calls.get_mut(tool_call_id)? {
            Call::Upload(upload) => Some(upload),
            Call::Sync(_) | Call::Download(_) => None,
        }
    }
}

/// Whether the text is valid in an HTTP header.
fn is_mime_type(text: &str) -> bool {
    text.len() <= 255 && text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

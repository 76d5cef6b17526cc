//! Toolkit `storage`, the call `upload`: the server asks for each piece.

use bytes::Bytes;
use meshagent_protocol::storage::{UploadChunk, UploadStart, upload_pull};
use meshagent_protocol::{Content, Control, ErrorCode, FileAction};
use meshagent_store::{Timestamp, Write};

use super::batch::Then;
use super::{Call, Conn, Refusal, Request, Room};
use crate::ledger::{Charge, Kind};

/// Bytes that the server asks for at a time.
const PULL_BYTES: u64 = 256 << 10;

/// What a piece of an upload costs besides its bytes.
const PIECE_BYTES: usize = 64;

/// An upload that has brought less than this for as long makes room for others.
const PACE_BYTES: usize = 64 << 10;
const PACE_MILLISECONDS: i64 = 10_000;

/// A file on its way in. Nothing is stored before the client closes the call.
#[derive(Debug, Default)]
pub(super) struct Upload {
    start: Option<UploadStart>,
    /// Copies: a piece of the message that it came in would keep all of that.
    pieces: Vec<Bytes>,
    bytes: usize,
    /// When it had brought so many bytes: it is in time again with [`PACE_BYTES`] more.
    paced: (Timestamp, usize),
    charge: Option<Charge>,
    /// The number of its write: the client has sent everything, and the call ends with what becomes of that.
    write: Option<u64>,
}

/// The upload that a write ends: not just whatever has its id by then.
#[derive(Debug)]
pub(super) struct Finishing {
    pub(super) conn: Conn,
    tool_call_id: String,
    write: u64,
}

impl Upload {
    /// All that came, in one piece.
    fn take_all(&mut self) -> Bytes {
        let mut all = Vec::with_capacity(std::mem::take(&mut self.bytes));
        for piece in std::mem::take(&mut self.pieces) {
            all.extend_from_slice(&piece);
        }
        all.into()
    }

    pub(super) fn buffered(&self) -> usize {
        self.bytes
    }
}

impl Room {
    pub(super) fn upload_chunk(&mut self, request: Request, tool_call_id: &str, chunk: &Content) {
        let conn = request.conn;
        let fail =
            |room: &mut Self, refusal| room.fail_call(Some(request), conn, tool_call_id, refusal);
        if self.is_finishing(conn, tool_call_id) {
            // The call does not fail: the file may well be stored.
            let text = "the upload was closed; its file is being stored, and nothing can be added";
            return self.refuse(request, Refusal::new(ErrorCode::InvalidState, text));
        }
        let parsed = match UploadChunk::parse(chunk) {
            Ok(parsed) => parsed,
            Err(error) => return fail(self, Refusal::request(&error)),
        };
        let max = self.config.limits.max_file_bytes;
        let max_in_room = self.config.limits.max_upload_bytes_per_room;
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
                upload.paced = (self.now, 0);
                if let Err(refusal) = self.may_change(request, &path, "write", FileAction::Write) {
                    return fail(self, refusal);
                }
            }
            (UploadChunk::Data(data), Some(_)) => {
                if upload.bytes + data.len() > max {
                    return fail(self, too_large());
                }
                if self.upload_bytes + data.len() > max_in_room
                    && !self.end_stalled_uploads(conn, tool_call_id, data.len())
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
                upload.bytes += data.len();
                if upload.bytes - upload.paced.1 >= PACE_BYTES {
                    upload.paced = (self.now, upload.bytes);
                }
                self.upload_bytes += data.len();
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

    /// Ends uploads of which nothing comes, the longest stalled one first, until there is room for so many bytes more of
    /// this one. Returns whether there is.
    fn end_stalled_uploads(&mut self, conn: Conn, tool_call_id: &str, bytes: usize) -> bool {
        let max = self.config.limits.max_upload_bytes_per_room;
        let latest = self.now.0.saturating_sub(PACE_MILLISECONDS);
        while self.upload_bytes + bytes > max {
            let calls = self.participants.iter().flat_map(|(other, participant)| {
                let calls = participant.calls.iter();
                calls.map(|(id, call)| (*other, id, call))
            });
            let stalled = calls.filter_map(|(other, id, call)| match call {
                Call::Upload(upload)
                    if upload.bytes > 0
                        && upload.paced.0.0 <= latest
                        && !(other == conn && id == tool_call_id) =>
                {
                    Some((upload.paced.0, other, id.to_owned()))
                }
                _ => None,
            });
            let Some((_, other, id)) = stalled.min_by_key(|(since, ..)| *since) else {
                return false;
            };
            let text = "the upload stood still, and others needed its room; upload the file again";
            let refusal = Refusal::new(ErrorCode::OperationFailed, text);
            self.fail_call(None, other, &id, refusal);
        }
        true
    }

    /// The client has sent everything: the file is written as a whole, or not at all.
    pub(super) fn finish_upload(&mut self, request: Request, tool_call_id: &str) {
        let conn = request.conn;
        if self.is_finishing(conn, tool_call_id) {
            // Closed twice. Whether the file is stored is not known yet.
            return self.respond(request, Content::Empty);
        }
        let number = self.number();
        let Some(upload) = self.upload_mut(conn, tool_call_id) else {
            return;
        };
        let data = upload.take_all();
        let start = upload.start.take();
        let charge = upload.charge.take();
        upload.write = start.is_some().then_some(number);
        self.upload_bytes -= data.len();
        if let Some(charge) = charge {
            self.held = charge.into();
        }
        let Some(start) = start else {
            // Closed before it began: there is nothing to write.
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

    /// The file is stored, or it won't be: the call ends.
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

    /// Whether the client has closed the upload and the disk has not written it yet.
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

/// Whether it can stand in a header of HTTP.
fn is_mime_type(text: &str) -> bool {
    text.len() <= 255 && text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

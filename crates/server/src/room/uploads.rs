//! Toolkit `storage`, the streamed calls. Both are pull based: the side that receives asks for each piece.

use bytes::{Bytes, BytesMut};
use meshagent_protocol::storage::{
    DownloadRequest, UploadChunk, UploadStart, download_data, download_start, upload_pull,
};
use meshagent_protocol::{Content, Control, ErrorCode};
use meshagent_store::{StoredFile, Write};

use super::batch::Then;
use super::opening::Fetched;
use super::{Call, Conn, Fetch, Refusal, Request, Room};

/// Bytes that the server asks for at a time.
const PULL_BYTES: u64 = 256 << 10;
/// The largest piece that is sent at once, whatever the client asks for.
const MAX_DATA_BYTES: usize = 1 << 20;

/// A file on its way in. Nothing is stored before the client closes the call.
#[derive(Debug, Default)]
pub(super) struct Upload {
    start: Option<UploadStart>,
    data: BytesMut,
}

/// A file on its way out.
#[derive(Debug, Default)]
pub(super) struct Download {
    chunk_size: usize,
    rest: Option<Bytes>,
}

impl Upload {
    pub(super) fn buffered(&self) -> usize {
        self.data.len()
    }
}

impl Room {
    pub(super) fn upload_chunk(&mut self, request: Request, tool_call_id: &str, chunk: &Content) {
        let conn = request.conn;
        let fail =
            |room: &mut Self, refusal| room.fail_call(Some(request), conn, tool_call_id, refusal);
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
                if path.is_empty() {
                    let refusal =
                        Refusal::new(ErrorCode::StorageInvalidPath, "the storage root is no file");
                    return fail(self, refusal);
                }
                upload.start = Some(start);
                if let Err(refusal) =
                    self.may_store(request, &path, "write", |grant| grant.can_write(&path))
                {
                    return fail(self, refusal);
                }
            }
            (UploadChunk::Data(data), Some(_)) => {
                if upload.data.len() + data.len() > max {
                    return fail(self, too_large());
                }
                if self.upload_bytes + data.len() > max_in_room {
                    let text =
                        "too many bytes of uploads are under way in this room; try again later";
                    return fail(self, Refusal::new(ErrorCode::OperationFailed, text));
                }
                upload.data.extend_from_slice(&data);
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

    /// The client has sent everything: the file is written as a whole, or not at all.
    pub(super) fn finish_upload(&mut self, request: Request, tool_call_id: &str) {
        let conn = request.conn;
        let Some(participant) = self.participants.get_mut(&conn) else {
            return;
        };
        let Some(Call::Upload(upload)) = participant.calls.get_mut(tool_call_id) else {
            return;
        };
        let data = std::mem::take(&mut upload.data).freeze();
        let start = upload.start.take();
        self.upload_bytes -= data.len();
        let Some(start) = start else {
            // Closed before it began, or closed twice: there is nothing to write.
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
        self.stage(
            write,
            Then::Put {
                conn,
                tool_call_id: tool_call_id.to_owned(),
                path,
            },
        );
    }

    pub(super) fn download_chunk(&mut self, request: Request, tool_call_id: &str, chunk: &Content) {
        let conn = request.conn;
        let parsed = match DownloadRequest::parse(chunk) {
            Ok(parsed) => parsed,
            Err(error) => {
                return self.fail_call(Some(request), conn, tool_call_id, Refusal::request(&error));
            }
        };
        let Some(participant) = self.participants.get_mut(&conn) else {
            return;
        };
        let Some(Call::Download(download)) = participant.calls.get_mut(tool_call_id) else {
            return;
        };
        match (parsed, &mut download.rest) {
            (DownloadRequest::Start { path, chunk_bytes }, None) if download.chunk_size == 0 => {
                download.chunk_size = usize::try_from(chunk_bytes)
                    .unwrap_or(MAX_DATA_BYTES)
                    .clamp(1, MAX_DATA_BYTES);
                self.start_download(request, tool_call_id, path.as_str());
            }
            (DownloadRequest::Pull, Some(rest)) => {
                let piece = rest.split_to(download.chunk_size.min(rest.len()));
                let done = rest.is_empty();
                self.respond(request, Content::Empty);
                self.send_chunk(conn, tool_call_id, download_data(piece));
                if done {
                    self.end_call(conn, tool_call_id, Control::close());
                }
            }
            _ => {
                let refusal = Refusal::invalid(
                    "a download is one start chunk, then pull chunks after its answer",
                );
                self.fail_call(Some(request), conn, tool_call_id, refusal);
            }
        }
    }

    fn start_download(&mut self, request: Request, tool_call_id: &str, path: &str) {
        let conn = request.conn;
        if let Err(refusal) = self.may_store(request, path, "read", |grant| grant.can_read(path)) {
            return self.fail_call(Some(request), conn, tool_call_id, refusal);
        }
        let path = path.to_owned();
        let then = Fetched::Download {
            conn,
            tool_call_id: tool_call_id.to_owned(),
            request,
            path: path.clone(),
        };
        self.fetch(Fetch::File { path }, then);
    }

    pub(super) fn download_fetched(
        &mut self,
        conn: Conn,
        tool_call_id: &str,
        request: Request,
        path: &str,
        file: Result<Option<StoredFile>, Refusal>,
    ) {
        let file = match file {
            Ok(Some(file)) => file,
            Ok(None) => {
                let path = path.to_owned();
                let then = Fetched::DownloadMissing {
                    conn,
                    tool_call_id: tool_call_id.to_owned(),
                    request,
                    path: path.clone(),
                };
                self.fetch(Fetch::Stat { path }, then);
                return;
            }
            Err(refusal) => return self.fail_call(Some(request), conn, tool_call_id, refusal),
        };
        let Some(participant) = self.participants.get_mut(&conn) else {
            return;
        };
        let Some(Call::Download(download)) = participant.calls.get_mut(tool_call_id) else {
            // Closed meanwhile.
            return self.respond(request, Content::Empty);
        };
        let size = file.data.len();
        download.rest = Some(file.data);
        let name = path.rsplit('/').next().unwrap_or(path);
        self.send_chunk(
            conn,
            tool_call_id,
            download_start(name, &file.mime_type, size as u64),
        );
        self.respond(request, Content::Empty);
        if size == 0 {
            self.end_call(conn, tool_call_id, Control::close());
        }
    }
}

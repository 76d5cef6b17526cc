//! Toolkit `storage`, the call `download`: a file is read and sent in parts, as the client pulls
//! them.
//!
//! A connection's downloads open their files one after the other. The content is compared with its
//! checksum while it is read, so the last part of a damaged file is not sent. The bytes that are
//! read ahead of the pulls are bounded for each connection, however many downloads it has. While
//! the connection's queue is over the mark, nothing is read for it.

use std::collections::{HashSet, VecDeque};

use bytes::Bytes;
use meshagent_ledger::{Charge, Held, Kind};
use meshagent_protocol::storage::{DownloadRequest, download_data, download_start};
use meshagent_protocol::{Content, Control, ErrorCode};
use meshagent_store::{FileHead, FileReading, FileVersion};

use super::opening::Fetched;
use super::waiting::Waiting;
use super::{Call, Conn, Fetch, Refusal, Request, Room};
use crate::usage::share;

/// The largest piece that is sent, in bytes, even if the client requests more.
const MAX_DATA_BYTES: usize = 1 << 20;
/// The bytes of one read, even if pulls request less: each read has to find its place in the file.
const READ_BYTES: usize = 512 << 10;
/// The bytes that may be read ahead of the pulls, for all downloads of one connection. Beyond this,
/// only what is pulled is read.
const MAX_AHEAD_BYTES: usize = 1 << 20;
/// The maximum number of reads that one connection may have in flight.
const MAX_READS: usize = 2;

/// One download. When it has ended, another call may have its id.
#[derive(Clone, Debug)]
pub(super) struct DownloadId {
    pub(super) conn: Conn,
    tool_call_id: String,
    number: u64,
}

/// A file that is being sent.
#[derive(Debug)]
pub(super) struct Download {
    /// Distinguishes the download from others that have its call's id before or after it; 0 before
    /// the start chunk.
    number: u64,
    /// The largest piece, in bytes, that the client takes; 0 before the start chunk.
    chunk_bytes: usize,
    source: Option<Source>,
    /// Bytes that are read and not pulled. They are charged until their last piece is written.
    ahead: Bytes,
    /// The charge of the read in flight.
    charge: Charge,
    /// Pulls without an answer, each one an unanswered request of the connection.
    pulls: VecDeque<Request>,
    is_reading: bool,
    /// Whether the download is among the requests that wait for space.
    is_waiting: bool,
}

/// The file, and how far it has been read.
#[derive(Debug)]
struct Source {
    path: String,
    reading: FileReading,
}

/// The files that are opened for a connection, one at a time.
#[derive(Debug, Default)]
pub(super) struct Openings {
    is_under_way: bool,
    /// Its length is bounded by the calls that the connection has open: a call that ends removes
    /// its entry.
    waiting: VecDeque<Opening>,
}

/// A download whose file waits to be opened.
#[derive(Debug)]
struct Opening {
    request: Request,
    download: DownloadId,
    path: String,
    held: Held,
}

/// The downloads of a room that have begun. Ended ones are removed when there are twice as many
/// entries as there were downloads in progress at the last sweep.
#[derive(Debug, Default)]
pub(super) struct Watched {
    begun: Vec<Begun>,
    /// The number of entries at which the ended ones are removed.
    sweep_at: usize,
}

#[derive(Debug)]
struct Begun {
    conn: Conn,
    tool_call_id: String,
    path: String,
    version: FileVersion,
}

/// The number of entries below which the ended ones are never removed.
const UNSWEPT: usize = 64;

impl Download {
    pub(super) fn new() -> Self {
        Self {
            number: 0,
            chunk_bytes: 0,
            source: None,
            ahead: Bytes::new(),
            charge: Charge::none(),
            pulls: VecDeque::new(),
            is_reading: false,
            is_waiting: false,
        }
    }

    /// Takes the piece that answers the next pull.
    fn next_piece(&mut self) -> Option<(Request, Bytes)> {
        if self.ahead.is_empty() {
            return None;
        }
        let request = self.pulls.pop_front()?;
        let length = self.chunk_bytes.min(self.ahead.len());
        Some((request, self.ahead.split_to(length)))
    }

    fn is_complete(&self) -> bool {
        let all_read = |source: &Source| source.reading.remaining() == 0;
        self.ahead.is_empty() && self.source.as_ref().is_some_and(all_read)
    }
}

impl Room {
    pub(super) fn download_chunk(&mut self, request: Request, tool_call_id: &str, chunk: &Content) {
        let conn = request.conn;
        let parsed = match DownloadRequest::parse(chunk) {
            Ok(parsed) => parsed,
            Err(error) => {
                let refusal = Refusal::request(&error);
                return self.fail_download(Some(request), conn, tool_call_id, &refusal);
            }
        };
        let Some(download) = self.download_mut(conn, tool_call_id) else {
            return;
        };
        match (parsed, &download.source) {
            (DownloadRequest::Start { path, chunk_bytes }, None) if download.chunk_bytes == 0 => {
                download.chunk_bytes = usize::try_from(chunk_bytes)
                    .unwrap_or(MAX_DATA_BYTES)
                    .clamp(1, MAX_DATA_BYTES);
                self.start_download(request, tool_call_id, path.as_str());
            }
            (DownloadRequest::Pull, Some(_)) => {
                download.pulls.push_back(request);
                self.serve_pulls(conn, tool_call_id);
            }
            _ => {
                let refusal = Refusal::invalid(
                    "a download is one start chunk, then pull chunks after its answer",
                );
                self.fail_download(Some(request), conn, tool_call_id, &refusal);
            }
        }
    }

    fn start_download(&mut self, request: Request, tool_call_id: &str, path: &str) {
        let conn = request.conn;
        if let Err(refusal) = self.may_look(request, path, "read", |sight| sight.can_read(path)) {
            return self.fail_call(Some(request), conn, tool_call_id, refusal);
        }
        let number = self.number();
        if let Some(download) = self.download_mut(conn, tool_call_id) {
            download.number = number;
        }
        let mut held = self.take_held();
        held.stand_back();
        let opening = Opening {
            request,
            download: DownloadId {
                conn,
                tool_call_id: tool_call_id.to_owned(),
                number,
            },
            path: path.to_owned(),
            held,
        };
        if let Some(participant) = self.participants.get_mut(&conn) {
            participant.openings.waiting.push_back(opening);
        }
        self.open_next_file(conn);
    }

    /// Opens the next file, unless the connection already has one being opened.
    fn open_next_file(&mut self, conn: Conn) {
        let Some(participant) = self.participants.get_mut(&conn) else {
            return;
        };
        let openings = &mut participant.openings;
        if openings.is_under_way {
            return;
        }
        let Some(opening) = openings.waiting.pop_front() else {
            return;
        };
        openings.is_under_way = true;
        let path = opening.path;
        let then = Fetched::Download {
            download: opening.download,
            request: opening.request,
            path: path.clone(),
        };
        let others = std::mem::replace(&mut self.held, opening.held);
        self.fetch(Fetch::OpenFile { path }, then);
        self.held = others;
    }

    /// Handles the result of opening a file.
    pub(super) fn download_fetched(
        &mut self,
        download: &DownloadId,
        request: Request,
        path: &str,
        file: Result<Option<FileHead>, Refusal>,
    ) {
        if let Some(participant) = self.participants.get_mut(&download.conn) {
            participant.openings.is_under_way = false;
        }
        self.begin_download(download, request, path, file);
        self.open_next_file(download.conn);
    }

    fn begin_download(
        &mut self,
        id: &DownloadId,
        request: Request,
        path: &str,
        file: Result<Option<FileHead>, Refusal>,
    ) {
        let Some(download) = self.find_download(id) else {
            // The download was closed meanwhile.
            return self.respond(request, Content::Empty);
        };
        let file = match file {
            Ok(Some(file)) => file,
            Ok(None) => {
                let path = path.to_owned();
                let then = Fetched::DownloadMissing {
                    download: id.clone(),
                    request,
                    path: path.clone(),
                };
                self.fetch(Fetch::Stat { path }, then);
                return;
            }
            Err(refusal) => return self.refuse_download(id, request, refusal),
        };
        let (conn, tool_call_id) = (id.conn, &*id.tool_call_id);
        download.source = Some(Source {
            path: path.to_owned(),
            reading: FileReading::new(&file),
        });
        self.watch(Begun {
            conn,
            tool_call_id: tool_call_id.to_owned(),
            path: path.to_owned(),
            version: file.version,
        });
        let name = path.rsplit('/').next().unwrap_or(path);
        let start = download_start(name, &file.mime_type, file.size);
        self.send_chunk(conn, tool_call_id, start);
        self.respond(request, Content::Empty);
        if file.size == 0 {
            self.end_call(conn, tool_call_id, Control::close());
        }
    }

    /// Sends the pulled pieces that have been read, and reads more if more was pulled.
    pub(super) fn serve_pulls(&mut self, conn: Conn, tool_call_id: &str) {
        let id = |number| DownloadId {
            conn,
            tool_call_id: tool_call_id.to_owned(),
            number,
        };
        loop {
            let Some(participant) = self.participants.get_mut(&conn) else {
                return;
            };
            let (reads, ahead) = downloads(&participant.calls);
            let has_room = participant.outbox.accepts_broadcast(false);
            let may_read_ahead = ahead + READ_BYTES <= MAX_AHEAD_BYTES
                && participant.account.admits(Kind::Download, READ_BYTES);
            let Some(Call::Download(download)) = participant.calls.get_mut(tool_call_id) else {
                return;
            };
            if download.pulls.is_empty() {
                return;
            }
            if !has_room
                || (download.ahead.is_empty() && !download.is_reading && reads >= MAX_READS)
            {
                if !std::mem::replace(&mut download.is_waiting, true) {
                    let download = id(download.number);
                    self.waiting.push_back(Waiting::Download {
                        download,
                        _wanted: None,
                    });
                }
                return;
            }
            if let Some((request, piece)) = download.next_piece() {
                let is_complete = download.is_complete();
                self.respond(request, Content::Empty);
                self.send_chunk(conn, tool_call_id, download_data(piece));
                if is_complete {
                    return self.close_download(conn, tool_call_id);
                }
                continue;
            }
            let Some(source) = &download.source else {
                return;
            };
            if !download.is_reading {
                let length = if may_read_ahead {
                    download.chunk_bytes.max(READ_BYTES)
                } else {
                    download.chunk_bytes
                };
                let ledger = self.usage.ledger();
                download.charge = match participant.account.try_charge(Kind::Download, length) {
                    Ok(charge) => charge,
                    // A part that is larger than the bound is read when nothing else is held for
                    // downloads.
                    Err(_) if ledger.held_of(Kind::Download) == 0 => {
                        participant.account.charge_anyway(Kind::Download, length)
                    }
                    Err(_) => {
                        if !std::mem::replace(&mut download.is_waiting, true) {
                            let download = id(download.number);
                            self.waiting.push_back(Waiting::Download {
                                download,
                                _wanted: Some(ledger.want()),
                            });
                        }
                        return;
                    }
                };
                download.is_reading = true;
                let fetch = Fetch::FilePart {
                    path: source.path.clone(),
                    reading: source.reading.clone(),
                    length,
                };
                let download = id(download.number);
                self.fetch(fetch, Fetched::DownloadPart { download });
            }
            return;
        }
    }

    pub(super) fn download_part_fetched(
        &mut self,
        id: &DownloadId,
        part: Result<Option<(Bytes, FileReading)>, Refusal>,
    ) {
        let (conn, tool_call_id) = (id.conn, &*id.tool_call_id);
        if let Some(download) = self.find_download(id)
            && let Some(source) = &mut download.source
        {
            download.is_reading = false;
            let mut charge = std::mem::replace(&mut download.charge, Charge::none());
            match part {
                Ok(Some((part, reading))) if !part.is_empty() => {
                    source.reading = reading;
                    charge.shrink(charge.bytes().saturating_sub(part.len()));
                    download.ahead = share(part, charge);
                    self.serve_pulls(conn, tool_call_id);
                }
                Ok(_) => self.fail_download(None, conn, tool_call_id, &changed()),
                Err(refusal) => self.fail_download(None, conn, tool_call_id, &refusal),
            }
        }
        // Another download of the connection may have waited for this read.
        self.retry_waiting(Some(conn));
    }

    fn watch(&mut self, begun: Begun) {
        if self.watched.begun.len() >= self.watched.sweep_at.max(UNSWEPT) {
            let mut watched = std::mem::take(&mut self.watched.begun);
            watched.retain(|begun| self.is_under_way(begun));
            self.watched.sweep_at = 2 * watched.len();
            self.watched.begun = watched;
        }
        self.watched.begun.push(begun);
    }

    /// Ends the downloads from these paths, whose content was replaced, moved or deleted. No more
    /// of the old content is sent, even if some of it is in memory.
    pub(super) fn end_downloads<'a>(&mut self, paths: impl IntoIterator<Item = &'a str>) {
        if self.watched.begun.is_empty() {
            return;
        }
        let paths: HashSet<&str> = paths.into_iter().collect();
        let is_there = |begun: &Begun| paths.contains(begun.path.as_str());
        if !self.watched.begun.iter().any(is_there) {
            return;
        }
        let watched = std::mem::take(&mut self.watched.begun);
        let (gone, rest) = watched.into_iter().partition(is_there);
        self.watched.begun = rest;
        let gone: Vec<Begun> = gone;
        for begun in gone {
            if self.is_under_way(&begun) {
                self.fail_download(None, begun.conn, &begun.tool_call_id, &changed());
            }
        }
    }

    /// Whether the download is still in progress, and its id does not belong to another one.
    fn is_under_way(&mut self, begun: &Begun) -> bool {
        let download = self.download_mut(begun.conn, &begun.tool_call_id);
        let source = download.and_then(|download| download.source.as_ref());
        source.is_some_and(|source| {
            source.path == begun.path && source.reading.version() == begun.version
        })
    }

    /// Retries a download that waited for space.
    pub(super) fn retry_download(&mut self, id: &DownloadId) {
        if let Some(download) = self.find_download(id) {
            download.is_waiting = false;
            self.serve_pulls(id.conn, &id.tool_call_id);
        }
    }

    /// Refuses to begin a download. If the download has ended meanwhile, only the request is
    /// answered, because another call may have its id.
    pub(super) fn refuse_download(&mut self, id: &DownloadId, request: Request, refusal: Refusal) {
        if self.find_download(id).is_some() {
            self.fail_call(Some(request), id.conn, &id.tool_call_id, refusal);
        } else {
            self.refuse(request, refusal);
        }
    }

    /// Ends a download for either side, after answering each pull.
    pub(super) fn close_download(&mut self, conn: Conn, tool_call_id: &str) {
        for pull in self.take_pulls(conn, tool_call_id) {
            self.respond(pull, Content::Empty);
        }
        self.end_call(conn, tool_call_id, Control::close());
    }

    /// Fails a download, and refuses each unanswered pull.
    fn fail_download(
        &mut self,
        request: Option<Request>,
        conn: Conn,
        tool_call_id: &str,
        refusal: &Refusal,
    ) {
        let pulls = self.take_pulls(conn, tool_call_id);
        self.fail_call(request, conn, tool_call_id, refusal.clone());
        for pull in pulls {
            self.refuse(pull, refusal.clone());
        }
    }

    /// Takes the unanswered requests of a download. Its start is one of them if the file has not
    /// been opened yet.
    fn take_pulls(&mut self, conn: Conn, tool_call_id: &str) -> VecDeque<Request> {
        let mut requests = self
            .download_mut(conn, tool_call_id)
            .map(|download| std::mem::take(&mut download.pulls))
            .unwrap_or_default();
        if let Some(participant) = self.participants.get_mut(&conn) {
            let waiting = &mut participant.openings.waiting;
            let place = waiting
                .iter()
                .position(|opening| opening.download.tool_call_id == tool_call_id);
            let opening = place.and_then(|place| waiting.remove(place));
            requests.extend(opening.map(|opening| opening.request));
        }
        requests
    }

    /// This download, unless it has ended.
    fn find_download(&mut self, id: &DownloadId) -> Option<&mut Download> {
        let download = self.download_mut(id.conn, &id.tool_call_id)?;
        (download.number == id.number).then_some(download)
    }

    /// The download that has the id now.
    fn download_mut(&mut self, conn: Conn, tool_call_id: &str) -> Option<&mut Download> {
        match self
            .participants
            .get_mut(&conn)?
            .calls
            .get_mut(tool_call_id)?
        {
            Call::Download(download) => Some(download),
            Call::Sync(_) | Call::Upload(_) => None,
        }
    }
}

fn changed() -> Refusal {
    let text = "the file was changed, moved or deleted meanwhile; download it again";
    Refusal::new(ErrorCode::OperationFailed, text)
}

/// The number of a connection's reads in flight, and the bytes that it has not pulled.
fn downloads(calls: &meshagent_protocol::Calls<Call>) -> (usize, usize) {
    calls
        .iter()
        .fold((0, 0), |(reads, ahead), (_, call)| match call {
            Call::Download(download) => (
                reads + usize::from(download.is_reading),
                ahead + download.ahead.len(),
            ),
            Call::Sync(_) | Call::Upload(_) => (reads, ahead),
        })
}

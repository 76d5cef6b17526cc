//! Toolkit `storage`, the plain calls: exists, stat, list, delete, move, `download_url`.

use meshagent_ledger::Kind;
use meshagent_protocol::storage::{self as wire, Delete, DownloadUrl, Move, PathInput};
use meshagent_protocol::{
    ClientToServer, Content, ErrorCode, SharedMessage, Sight, StorageGrant, Tool,
};
use meshagent_store::{Entry, EntryKind, Timestamp, Write};

use super::batch::Then;
use super::opening::Fetched;
use super::waiting::Waiting;
use super::{Fetch, Refusal, Request, Room};
use crate::usage::share;

/// The approximate bytes of an entry of a folder, as read and as text.
pub(crate) const ENTRY_BYTES: usize = 256;

/// The tool that an answer belongs to.
#[derive(Clone, Copy, Debug)]
pub(super) enum StatAnswer {
    Exists,
    Full,
}

impl Room {
    pub(super) fn stat(&mut self, request: Request, arguments: &Content, answer: StatAnswer) {
        let path = match PathInput::parse(arguments) {
            Ok(input) => input.path.to_string(),
            Err(error) => return self.refuse(request, Refusal::request(&error)),
        };
        // A participant may see a folder if it may list something in it.
        let may = |sight: &Sight| sight.can_list_or_read(&path) || sight.can_list_directory(&path);
        if let Err(refusal) = self.may_look(request, &path, "see", may) {
            return self.refuse(request, refusal);
        }
        let then = Fetched::Stat {
            request,
            path: path.clone(),
            answer,
        };
        self.fetch(Fetch::Stat { path }, then);
    }

    pub(super) fn stat_fetched(
        &self,
        request: Request,
        path: &str,
        answer: StatAnswer,
        entry: Option<Entry>,
    ) {
        // A participant that may look only because of what is below a path learns of a folder
        // there, and of nothing else.
        let entry = entry.filter(|entry| {
            let is_folder = entry.kind == EntryKind::Folder;
            let may = |sight: &Sight| is_folder || sight.can_list_or_read(path);
            self.may_look(request, path, "see", may).is_ok()
        });
        let content = match answer {
            StatAnswer::Exists => wire::exists(entry.is_some()),
            StatAnswer::Full => wire::stat(entry.map(output).as_ref()),
        };
        self.respond(request, content);
    }

    pub(super) fn list(&mut self, request: Request, arguments: &Content) {
        let path = match PathInput::parse(arguments) {
            Ok(input) => input.path.to_string(),
            Err(error) => return self.refuse(request, Refusal::request(&error)),
        };
        if let Err(refusal) = self.may_look(request, &path, "list", |sight| {
            sight.can_list_directory(&path)
        }) {
            return self.refuse(request, refusal);
        }
        self.list_when_there_is_room(request, path);
    }

    /// Lists a folder when the connection's previous listing was made and read, because a folder
    /// may be large.
    pub(super) fn list_when_there_is_room(&mut self, request: Request, path: String) {
        let Some(participant) = self.participants.get_mut(&request.conn) else {
            return;
        };
        if participant.listing || !participant.outbox.accepts_broadcast(false) {
            let charge = self.waiting_charge(request.conn);
            self.waiting.push_back(Waiting::List {
                request,
                path,
                _charge: charge,
            });
            return;
        }
        participant.listing = true;
        // One entry more than an answer may have shows that there are more.
        let max = self.config.limits.max_list_entries.saturating_add(1);
        self.fetch(
            Fetch::List {
                path: path.clone(),
                max,
            },
            Fetched::List { request, path },
        );
    }

    /// Answers with the entries that the grant covers. The others stay unknown to the participant.
    pub(super) fn list_fetched(
        &mut self,
        request: Request,
        folder: &str,
        entries: Option<Vec<Entry>>,
    ) {
        let Some(participant) = self.participants.get(&request.conn) else {
            return;
        };
        let sight = &participant.sight;
        let Some(entries) = entries else {
            let refusal = Refusal::new(
                ErrorCode::StorageNotFound,
                format!("there is no folder {folder:?}"),
            );
            return self.refuse(request, refusal);
        };
        let max = self.config.limits.max_list_entries;
        if entries.len() > max {
            let text = format!(
                "{folder:?} has more than {max} entries, which is all that is listed at once; \
                 keep them in folders"
            );
            return self.refuse(request, Refusal::invalid(text));
        }
        let visible = entries
            .into_iter()
            .filter(|entry| {
                let path = if folder.is_empty() {
                    entry.name.clone()
                } else {
                    format!("{folder}/{}", entry.name)
                };
                match entry.kind {
                    EntryKind::Folder => sight.can_list_directory(&path),
                    EntryKind::Document | EntryKind::File => sight.can_list(&path),
                }
            })
            .map(output);
        // Encoded to text directly, because values would take many times the memory.
        let head = SharedMessage::answer_list(visible);
        let charge = participant.account.charge_anyway(Kind::Queued, head.len());
        self.send_shared(request, SharedMessage::answer(share(head, charge)));
    }

    pub(super) fn delete(&mut self, request: Request, arguments: &Content) {
        let (path, recursive) = match Delete::parse(arguments) {
            Ok(input) => (input.path.to_string(), input.recursive),
            Err(error) => return self.refuse(request, Refusal::request(&error)),
        };
        if path.is_empty() {
            let refusal = Refusal::new(
                ErrorCode::StorageInvalidPath,
                "the storage root cannot be deleted",
            );
            return self.refuse(request, refusal);
        }
        let reach = match self.may_delete(request, &path) {
            Ok(reach) => reach,
            Err(refusal) => return self.refuse(request, refusal),
        };
        let write = Write::Delete {
            room: self.id.clone(),
            path: path.clone(),
            recursive,
            reach,
        };
        self.stage(write, Then::Deleted { request, path });
    }

    pub(super) fn move_entry(&mut self, request: Request, arguments: &Content) {
        let input = match Move::parse(arguments) {
            Ok(input) => input,
            Err(error) => return self.refuse(request, Refusal::request(&error)),
        };
        let (source, destination) = (
            input.source_path.to_string(),
            input.destination_path.to_string(),
        );
        if source.is_empty() || destination.is_empty() {
            let refusal = Refusal::new(
                ErrorCode::StorageInvalidPath,
                "the storage root cannot be moved or replaced",
            );
            return self.refuse(request, refusal);
        }
        let reach = match self.may_move(request, &source, &destination) {
            Ok(reach) => reach,
            Err(refusal) => return self.refuse(request, refusal),
        };
        let write = Write::Move {
            room: self.id.clone(),
            source: source.clone(),
            destination: destination.clone(),
            overwrite: input.overwrite,
            reach: reach.moved,
            replaces: reach.replaced,
            at: self.now,
        };
        self.stage(
            write,
            Then::Moved {
                request,
                source,
                destination,
            },
        );
    }

    pub(super) fn download_url(&mut self, request: Request, arguments: &Content) {
        let input = match DownloadUrl::parse(arguments) {
            Ok(input) => input,
            Err(error) => return self.refuse(request, Refusal::request(&error)),
        };
        let path = input.path.to_string();
        // Path grants have no separate right for links; a file policy does.
        let may = |grant: &StorageGrant| {
            if grant.files.is_some() {
                grant.can_presign(&path)
            } else {
                grant.can_read(&path)
            }
        };
        if let Err(refusal) = self.may_store(request, &path, "link to", may) {
            return self.refuse(request, refusal);
        }
        let then = Fetched::DownloadUrl {
            request,
            path: path.clone(),
            download: input.download,
        };
        self.fetch(Fetch::Stat { path }, then);
    }

    pub(super) fn download_url_fetched(
        &self,
        request: Request,
        path: &str,
        download: bool,
        entry: Option<&Entry>,
    ) {
        if let Err(refusal) = is_file(path, entry.map(|entry| entry.kind)) {
            return self.refuse(request, refusal);
        }
        let Some(participant) = self.participants.get(&request.conn) else {
            return;
        };
        let ttl = i64::try_from(self.config.download_url_ttl.as_millis()).unwrap_or(i64::MAX);
        let mut expires = self.now.0.saturating_add(ttl);
        if let Some(seconds) = participant.expires {
            // The right to read ends with the token.
            let milliseconds = i64::try_from(seconds.saturating_mul(1000));
            expires = expires.min(milliseconds.unwrap_or(i64::MAX));
        }
        let expires = Timestamp(expires);
        let url = self
            .signer
            .url(&participant.origin, &self.id, path, expires, download);
        self.respond(request, wire::download_url(&url));
    }
}

/// Whether the number of entries that a request touches is unknown.
pub(crate) fn may_touch_many(message: &ClientToServer) -> bool {
    let ClientToServer::Invoke(invoke) = message else {
        return false;
    };
    match Tool::find(&invoke.toolkit, &invoke.tool) {
        Some(Tool::StorageMove) => true,
        Some(Tool::StorageDelete) => {
            Delete::parse(&invoke.arguments).is_ok_and(|input| input.recursive)
        }
        _ => false,
    }
}

/// Checks that the path has a file, whose bytes can be read.
pub(super) fn is_file(path: &str, kind: Option<EntryKind>) -> Result<(), Refusal> {
    match kind {
        Some(EntryKind::File) => Ok(()),
        Some(EntryKind::Document) => Err(Refusal::invalid(format!(
            "{path:?} is a live document; read it with sync.open or sync.describe"
        ))),
        Some(EntryKind::Folder) => Err(Refusal::new(
            ErrorCode::StorageInvalidPath,
            format!("{path:?} is a folder; list it"),
        )),
        None => Err(Refusal::new(
            ErrorCode::StorageNotFound,
            format!("there is no file {path:?}"),
        )),
    }
}

fn output(entry: Entry) -> wire::Entry {
    let time = |at: Timestamp| wire::rfc3339(u64::try_from(at.0).unwrap_or_default());
    wire::Entry {
        name: entry.name,
        is_folder: entry.kind == EntryKind::Folder,
        size: entry.size,
        created_at: entry.created_at.map(time),
        updated_at: entry.updated_at.map(time),
    }
}

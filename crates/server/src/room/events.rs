//! News of files and documents: to each participant what it may see, and nothing else.
//!
//! An event is encoded once for everybody who may see it. A folder may have many entries and a room many participants,
//! so events are sent a slice at a time, with other work of the room in between, and in order.
//!
//! What is not told yet has a bound. While there is more than [`MAX_UNTOLD`] of it, or a batch under way that may bring
//! much, no request that may touch many entries is taken ([`Room::holds_many`]); an event of one entry is told as
//! always, and has one of those before it told.

use std::sync::Arc;

use meshagent_protocol::{ServerToClient, SharedMessage, Sight};
use meshagent_store::{DocumentId, EntryKind, MovedEntry, Removed};

use super::rights::sees;
use super::{Conn, Room};
use crate::ledger::{Account, Charge, Kind};
use crate::usage::share_news;

/// Participants who are asked in one slice whether they hear of an entry: some milliseconds.
const SLICE: usize = 4_096;
/// Entries that may be untold when a request is taken that may bring more of them than one.
const MAX_UNTOLD: usize = 1_000;

/// What happened to the entries of one path.
#[derive(Debug)]
pub(super) struct News {
    what: What,
    /// Where it happened.
    path: Box<str>,
    /// Where the entries are now, if they were moved.
    destination: Box<str>,
    entries: Entries,
    by: Actor,
    /// For the entries, until all are told.
    _charge: Charge,
}

/// What happened.
#[derive(Clone, Copy, Debug)]
enum What {
    Updated,
    Deleted,
    Moved,
}

/// Who did it.
#[derive(Clone, Debug)]
struct Actor {
    id: Arc<str>,
    /// Who pays until everybody has heard of it: the server, if they have left.
    account: Arc<Account>,
}

/// The entries that are not told yet, by what follows the path that they have in common.
#[derive(Debug, Default)]
struct Entries {
    tails: String,
    /// Where the tail of each ends.
    ends: Vec<(usize, EntryKind)>,
    told: usize,
}

impl Entries {
    fn push(&mut self, tail: &str, kind: EntryKind) {
        self.tails.push_str(tail);
        self.ends.push((self.tails.len(), kind));
    }

    fn left(&self) -> usize {
        self.ends.len() - self.told
    }

    /// The next one that is to be told.
    fn take(&mut self) -> Option<(&str, EntryKind)> {
        let (end, kind) = *self.ends.get(self.told)?;
        let before = self.told.checked_sub(1).and_then(|at| self.ends.get(at));
        let start = before.map_or(0, |(end, _)| *end);
        self.told += 1;
        Some((self.tails.get(start..end)?, kind))
    }

    fn bytes(&self) -> usize {
        self.tails.capacity() + self.ends.capacity() * size_of::<(usize, EntryKind)>()
    }
}

/// What happened to one entry.
#[derive(Debug)]
struct Event {
    what: What,
    path: String,
    /// Where it is now, if it was moved.
    destination: String,
    kind: EntryKind,
}

impl Room {
    /// Something was created or written.
    pub(super) fn announce_updated(&mut self, path: &str, kind: EntryKind, conn: Conn) {
        let mut entries = Entries::default();
        entries.push("", kind);
        self.announce(What::Updated, path, "", entries, conn);
    }

    /// Something was deleted: what stood at the path, or all that lay below it.
    pub(super) fn announce_deleted(&mut self, path: &str, removed: &[Removed], conn: Conn) {
        let mut entries = Entries::default();
        for entry in removed {
            if let Some(tail) = entry.path.strip_prefix(path) {
                entries.push(tail, kind(entry.document));
            } else {
                tracing::error!("an entry was deleted that was not below the path");
            }
        }
        if !removed.iter().any(|entry| entry.path == path) {
            entries.push("", EntryKind::Folder);
        }
        self.announce(What::Deleted, path, "", entries, conn);
    }

    /// Something was moved. To who sees one end only, it came or it is gone.
    pub(super) fn announce_moved(
        &mut self,
        source: &str,
        destination: &str,
        moved: &[MovedEntry],
        conn: Conn,
    ) {
        let mut entries = Entries::default();
        for entry in moved {
            let tail = entry.source.strip_prefix(source);
            let is_same = |tail: &&str| entry.destination.strip_prefix(destination) == Some(tail);
            if let Some(tail) = tail.filter(is_same) {
                entries.push(tail, kind(entry.document));
            } else {
                tracing::error!("an entry was moved elsewhere than what it lay in");
            }
        }
        if !moved.iter().any(|entry| entry.source == source) {
            entries.push("", EntryKind::Folder);
        }
        self.announce(What::Moved, source, destination, entries, conn);
    }

    fn announce(
        &mut self,
        what: What,
        path: &str,
        destination: &str,
        mut entries: Entries,
        conn: Conn,
    ) {
        let is_first = self.news.is_empty();
        let is_much = self.untold > MAX_UNTOLD;
        entries.tails.shrink_to_fit();
        entries.ends.shrink_to_fit();
        let participant = self.participants.get(&conn);
        let account = participant.map_or_else(|| self.usage.common(), |one| &one.account);
        let by = Actor {
            id: self.participant_id(conn).into(),
            account: Arc::clone(account),
        };
        let bytes = size_of::<News>() + path.len() + destination.len() + entries.bytes();
        let charge = by.account.charge_anyway(Kind::Shared, bytes);
        let added = entries.left();
        self.untold += added;
        self.news.push_back(News {
            what,
            path: path.into(),
            destination: destination.into(),
            entries,
            by,
            _charge: charge,
        });
        if is_first {
            self.tell_news(|| true);
        } else if is_much && added == 1 {
            // What comes later waits for the rest of what came before; it makes that no longer.
            self.tell_next();
        }
    }

    /// Whether there are news that were not told yet.
    pub(crate) fn has_news(&self) -> bool {
        !self.news.is_empty()
    }

    /// Whether no request is to be handed in that [`may_touch_many`](super::files::may_touch_many): of the one before it
    /// it is not known yet what it touched, or not told.
    pub(crate) fn holds_many(&self) -> bool {
        self.untold > MAX_UNTOLD || self.in_flight_touches_many.is_some()
    }

    /// Tells the next slice of them, as far as there is time; one entry at least.
    pub(crate) fn tell_news(&mut self, has_time: impl Fn() -> bool) {
        let mut asked = 0;
        while asked < SLICE && self.tell_next() && has_time() {
            asked += self.participants.len();
        }
    }

    /// Tells the next entry. Whether there was one, and somebody to be told.
    fn tell_next(&mut self) -> bool {
        if self.participants.is_empty() {
            self.news.clear();
            self.untold = 0;
        }
        let Some(news) = self.news.front_mut() else {
            return false;
        };
        let event = news.entries.take().map(|(tail, kind)| Event {
            what: news.what,
            path: format!("{}{tail}", news.path),
            destination: format!("{}{tail}", news.destination),
            kind,
        });
        let by = news.by.clone();
        if news.entries.left() == 0 {
            self.news.pop_front();
        }
        if let Some(event) = event {
            self.untold -= 1;
            self.tell(&event, &by);
        }
        true
    }

    /// Tells everybody of one entry who may hear of it.
    fn tell(&self, event: &Event, by: &Actor) {
        let mut shared: [Option<SharedMessage>; 3] = [const { None }; 3];
        let speaker = by.account.speaker();
        for participant in self.participants.values() {
            let Some(heard) = event.heard_as(&participant.sight) else {
                continue;
            };
            let message = shared[heard as usize]
                .get_or_insert_with(|| share_news(&event.message(heard, &by.id), &by.account));
            participant.outbox.push_from_others(speaker, message);
        }
    }
}

/// As what somebody hears of an event.
#[derive(Clone, Copy, Debug)]
enum Heard {
    Updated,
    Deleted,
    Moved,
}

impl Event {
    fn heard_as(&self, sight: &Sight) -> Option<Heard> {
        let sees = |path: &str| sees(sight, path, self.kind);
        match self.what {
            What::Updated => sees(&self.path).then_some(Heard::Updated),
            What::Deleted => sees(&self.path).then_some(Heard::Deleted),
            What::Moved => match (sees(&self.path), sees(&self.destination)) {
                (true, true) => Some(Heard::Moved),
                (true, false) => Some(Heard::Deleted),
                (false, true) => Some(Heard::Updated),
                (false, false) => None,
            },
        }
    }

    fn message(&self, heard: Heard, by: &str) -> ServerToClient {
        let participant_id = by.to_owned();
        match heard {
            Heard::Updated => ServerToClient::FileUpdated {
                path: match self.what {
                    What::Moved => self.destination.clone(),
                    What::Updated | What::Deleted => self.path.clone(),
                },
                participant_id,
            },
            Heard::Deleted => ServerToClient::FileDeleted {
                path: self.path.clone(),
                participant_id,
            },
            Heard::Moved => ServerToClient::FileMoved {
                source_path: self.path.clone(),
                destination_path: self.destination.clone(),
                participant_id,
            },
        }
    }
}

fn kind(document: Option<DocumentId>) -> EntryKind {
    match document {
        Some(_) => EntryKind::Document,
        None => EntryKind::File,
    }
}

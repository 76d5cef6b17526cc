//! Storage events: each participant receives those of entries that it may see, and no others.
//!
//! An event is encoded once for all its receivers. A folder may have many entries and a room many
//! participants, so events are sent in order, a slice at a time, with other work of the room in
//! between.
//!
//! The entries that wait have a bound. While more than [`MAX_UNTOLD`] wait, or a batch in flight
//! may bring many, no request is accepted that may touch many entries ([`Room::holds_many`]). An
//! event of one entry is accepted nevertheless, and one of the waiting entries is sent for it.

use std::sync::Arc;

use meshagent_ledger::{Account, Charge, Kind};
use meshagent_protocol::{ServerToClient, SharedMessage, Sight};
use meshagent_store::{DocumentId, EntryKind, MovedEntry, Removed};

use super::rights::sees;
use super::{Conn, Room};
use crate::usage::share_news;

/// The number of participants, over all entries of a slice, whose rights one slice looks up. This
/// takes some milliseconds.
const SLICE: usize = 4_096;
/// The number of waiting entries up to which a request is accepted that may bring many more.
const MAX_UNTOLD: usize = 1_000;

/// An event of the entries at and below one path.
#[derive(Debug)]
pub(super) struct News {
    what: What,
    /// The path at or below which the entries were.
    path: Box<str>,
    /// The present path, if the entries were moved.
    destination: Box<str>,
    entries: Entries,
    by: Actor,
    /// The charge of the entries, until all are sent.
    _charge: Charge,
}

/// The kind of an event.
#[derive(Clone, Copy, Debug)]
enum What {
    Updated,
    Deleted,
    Moved,
}

/// The participant that caused an event.
#[derive(Clone, Debug)]
struct Actor {
    id: Arc<str>,
    /// The account that is charged until all receivers have read the event: the server's, if the
    /// participant has left.
    account: Arc<Account>,
}

/// The entries that have not been sent. Each is stored without the path that they have in common.
#[derive(Debug, Default)]
struct Entries {
    tails: String,
    /// The end of each entry's text in `tails`.
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

    /// Takes the next entry to be sent.
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

/// The event of one entry.
#[derive(Debug)]
struct Event {
    what: What,
    path: String,
    /// The present path, if the entry was moved.
    destination: String,
    kind: EntryKind,
}

impl Room {
    /// Announces that a file or document was created or written.
    pub(super) fn announce_updated(&mut self, path: &str, kind: EntryKind, conn: Conn) {
        let mut entries = Entries::default();
        entries.push("", kind);
        self.announce(What::Updated, path, "", entries, conn);
    }

    /// Announces that the entry at a path, or everything below it, was deleted.
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

    /// Announces a move. A participant that sees only one end receives an update or a deletion
    /// instead.
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
            // A single event waits behind a long queue. One entry of the queue is sent for it, so
            // the queue does not grow.
            self.tell_next();
        }
    }

    /// Whether there are events that have not been sent.
    pub(crate) fn has_news(&self) -> bool {
        !self.news.is_empty()
    }

    /// Whether requests that [`may_touch_many`](super::files::may_touch_many) have to wait: it is
    /// not known yet what the previous one touched, or its events have not been sent.
    pub(crate) fn holds_many(&self) -> bool {
        self.untold > MAX_UNTOLD || self.in_flight_touches_many.is_some()
    }

    /// Sends the next slice of events, for as long as `has_time`; at least one entry.
    pub(crate) fn tell_news(&mut self, has_time: impl Fn() -> bool) {
        let mut asked = 0;
        while asked < SLICE && self.tell_next() && has_time() {
            asked += self.participants.len();
        }
    }

    /// Sends the event of the next entry. Returns false if there is none, or if the room has no
    /// participants.
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

    /// Sends the event of one entry to the participants that may see it.
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

/// The form in which a participant receives an event.
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

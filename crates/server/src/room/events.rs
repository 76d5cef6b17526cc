//! News of files and documents: to each participant what it may see, and nothing else.
//!
//! An event is encoded once for everybody who may see it. A folder may have many entries and a room many participants,
//! so events are sent a slice at a time, with other work of the room in between, and in order.

use std::sync::Arc;

use meshagent_protocol::{ServerToClient, SharedMessage, Sight};
use meshagent_store::{DocumentId, EntryKind, MovedEntry, Removed};

use super::rights::sees;
use super::{Conn, Room};
use crate::ledger::{Account, Charge, Kind};
use crate::usage::share_news;

/// Participants who are asked in one slice whether they hear of an entry: some milliseconds.
const SLICE: usize = 4_096;

/// What happened to the entries of one path.
#[derive(Debug)]
pub(super) struct News {
    entries: std::vec::IntoIter<Event>,
    by: Actor,
    /// For the entries, until all are told.
    _charge: Charge,
}

/// Who did it.
#[derive(Clone, Debug)]
struct Actor {
    id: Arc<str>,
    /// Who pays until everybody has heard of it; `None` if they have left.
    account: Option<Arc<Account>>,
}

/// What happened to one entry.
#[derive(Debug)]
enum Event {
    Updated(String, EntryKind),
    Deleted(String, EntryKind),
    /// From where, and to where.
    Moved(String, String, EntryKind),
}

impl Room {
    /// Something was created or written.
    pub(super) fn announce_updated(&mut self, path: &str, kind: EntryKind, conn: Conn) {
        self.announce(vec![Event::Updated(path.to_owned(), kind)], conn);
    }

    /// Something was deleted: what stood at the path, or all that lay below it.
    pub(super) fn announce_deleted(&mut self, path: &str, entries: Vec<Removed>, conn: Conn) {
        let folder = folder(path, entries.iter().map(|entry| entry.path.as_str()));
        let folder = folder.map(|path| Event::Deleted(path.to_owned(), EntryKind::Folder));
        let gone = entries
            .into_iter()
            .map(|entry| Event::Deleted(entry.path, kind(entry.document)));
        self.announce(gone.chain(folder).collect(), conn);
    }

    /// Something was moved. To who sees one end only, it came or it is gone.
    pub(super) fn announce_moved(
        &mut self,
        source: &str,
        destination: &str,
        entries: Vec<MovedEntry>,
        conn: Conn,
    ) {
        let folder = folder(source, entries.iter().map(|entry| entry.source.as_str()));
        let folder = folder.map(|source| {
            let (source, destination) = (source.to_owned(), destination.to_owned());
            Event::Moved(source, destination, EntryKind::Folder)
        });
        let moved = entries
            .into_iter()
            .map(|entry| Event::Moved(entry.source, entry.destination, kind(entry.document)));
        self.announce(moved.chain(folder).collect(), conn);
    }

    fn announce(&mut self, events: Vec<Event>, conn: Conn) {
        let is_first = self.news.is_empty();
        let by = Actor {
            id: self.participant_id(conn).into(),
            account: self
                .participants
                .get(&conn)
                .map(|participant| Arc::clone(&participant.account)),
        };
        let charge = by.account.as_ref().map_or_else(Charge::none, |account| {
            account.charge_anyway(Kind::Shared, events.iter().map(Event::bytes).sum())
        });
        self.news.push_back(News {
            entries: events.into_iter(),
            by,
            _charge: charge,
        });
        // What comes later waits for the rest of what came before.
        if is_first {
            self.tell_news();
        }
    }

    /// Whether there are news that were not told yet.
    pub(crate) fn has_news(&self) -> bool {
        !self.news.is_empty()
    }

    /// Tells the next slice of them.
    pub(crate) fn tell_news(&mut self) {
        let mut asked = 0;
        while asked < SLICE && !self.participants.is_empty() {
            let Some(news) = self.news.front_mut() else {
                return;
            };
            let Some(event) = news.entries.next() else {
                self.news.pop_front();
                continue;
            };
            let by = news.by.clone();
            self.tell(&event, &by);
            asked += self.participants.len();
        }
        if self.participants.is_empty() {
            self.news.clear();
        }
        while self
            .news
            .front()
            .is_some_and(|news| news.entries.len() == 0)
        {
            self.news.pop_front();
        }
    }

    /// Tells everybody of one entry who may hear of it.
    fn tell(&self, event: &Event, by: &Actor) {
        let mut shared: [Option<SharedMessage>; 3] = [const { None }; 3];
        for participant in self.participants.values() {
            let Some(heard) = event.heard_as(&participant.sight) else {
                continue;
            };
            let message = shared[heard as usize]
                .get_or_insert_with(|| by.shares(&event.message(heard, &by.id)));
            participant.outbox.push_from_others(message);
        }
    }
}

impl Actor {
    fn shares(&self, news: &ServerToClient) -> SharedMessage {
        match &self.account {
            Some(account) => share_news(news, account),
            None => SharedMessage::of(news),
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
    /// Bytes that it takes until it is told.
    fn bytes(&self) -> usize {
        let paths = match self {
            Self::Updated(path, _) | Self::Deleted(path, _) => path.len(),
            Self::Moved(from, to, _) => from.len() + to.len(),
        };
        size_of::<Self>() + paths
    }

    fn heard_as(&self, sight: &Sight) -> Option<Heard> {
        match self {
            Self::Updated(path, kind) => sees(sight, path, *kind).then_some(Heard::Updated),
            Self::Deleted(path, kind) => sees(sight, path, *kind).then_some(Heard::Deleted),
            Self::Moved(from, to, kind) => {
                match (sees(sight, from, *kind), sees(sight, to, *kind)) {
                    (true, true) => Some(Heard::Moved),
                    (true, false) => Some(Heard::Deleted),
                    (false, true) => Some(Heard::Updated),
                    (false, false) => None,
                }
            }
        }
    }

    fn message(&self, heard: Heard, by: &str) -> ServerToClient {
        let (from, to) = match self {
            Self::Updated(path, _) | Self::Deleted(path, _) => (path, path),
            Self::Moved(from, to, _) => (from, to),
        };
        let participant_id = by.to_owned();
        match heard {
            Heard::Updated => ServerToClient::FileUpdated {
                path: to.clone(),
                participant_id,
            },
            Heard::Deleted => ServerToClient::FileDeleted {
                path: from.clone(),
                participant_id,
            },
            Heard::Moved => ServerToClient::FileMoved {
                source_path: from.clone(),
                destination_path: to.clone(),
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

/// The path itself, if it was a folder: none of the entries below it has that name.
fn folder<'a>(path: &'a str, mut entries: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    (!entries.any(|entry| entry == path)).then_some(path)
}

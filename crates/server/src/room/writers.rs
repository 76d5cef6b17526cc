//! Which participant owns which client id: no other may write under it while the owner is present.
//!
//! The published clients have an id for each replica and write new operations only under it; what
//! they repeat of others is known already. But after a restore they may bring others' operations
//! that the server lost, and a client may relay those of a client that is offline. So a participant
//! owns an id only after it has continued it twice, with all earlier operations being here, and
//! only while it has the document open. An update that brings missing operations is not refused, in
//! whatever order: an author whose operations have a gap before them has not continued the id yet.
//! The owner is the participant, by the name in its token, and not the connection: after a
//! reconnect, the server may not have noticed yet that the old connection is gone.

/// The maximum number of ids that are kept for one document.
const KEPT: usize = 1024;

/// The maximum number of ids that are kept of one participant for one document.
const KEPT_OF_ONE: usize = 16;

/// How often a participant has to continue an id until it owns the id.
const CONTINUED: u32 = 2;

#[derive(Debug, Default)]
pub(super) struct Writers {
    /// Ordered by id. Most documents have one, for which a list takes the least memory.
    ids: Vec<Writer>,
    count: u64,
}

#[derive(Debug)]
struct Writer {
    client: u64,
    participant: Box<str>,
    continued: u32,
    /// The value of `count` when the participant last continued the id.
    last: u64,
}

impl Writers {
    /// The participant that owns an id.
    pub(super) fn owner(&self, client: u64) -> Option<&str> {
        let writer = self.ids.get(self.position(client).ok()?)?;
        (writer.continued >= CONTINUED).then_some(&writer.participant)
    }

    /// Records that a participant has continued an id. This has no effect if another one owns the
    /// id.
    pub(super) fn note(&mut self, client: u64, participant: &str) {
        self.count += 1;
        let last = self.count;
        if let Ok(position) = self.position(client) {
            let writer = &mut self.ids[position];
            if &*writer.participant == participant {
                writer.continued = writer.continued.saturating_add(1);
                writer.last = last;
            } else if writer.continued < CONTINUED {
                writer.participant = participant.into();
                (writer.continued, writer.last) = (1, last);
            }
            return;
        }
        let own = |writer: &Writer| &*writer.participant == participant;
        if self.ids.iter().filter(|writer| own(writer)).count() >= KEPT_OF_ONE {
            self.forget_oldest(own);
        } else if self.ids.len() >= KEPT {
            self.forget_oldest(|_| true);
        }
        let writer = Writer {
            client,
            participant: participant.into(),
            continued: 1,
            last,
        };
        if self.ids.is_empty() {
            self.ids.reserve_exact(1);
        }
        let (Ok(position) | Err(position)) = self.position(client);
        self.ids.insert(position, writer);
    }

    /// The index of an id, or the index at which to insert it.
    fn position(&self, client: u64) -> Result<usize, usize> {
        self.ids
            .binary_search_by_key(&client, |writer| writer.client)
    }

    fn forget_oldest(&mut self, among: impl Fn(&Writer) -> bool) {
        let among = self
            .ids
            .iter()
            .enumerate()
            .filter(|(_, writer)| among(writer));
        let oldest = among.min_by_key(|(_, writer)| writer.last);
        if let Some(position) = oldest.map(|(position, _)| position) {
            self.ids.remove(position);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{KEPT, KEPT_OF_ONE, Writers};

    #[test]
    fn an_id_belongs_to_the_one_that_continues_it() {
        let mut writers = Writers::default();
        writers.note(1, "übersetzerin");
        assert_eq!(writers.owner(1), None, "it may have been somebody else's");
        writers.note(1, "author");
        writers.note(1, "author");
        writers.note(1, "übersetzerin");
        assert_eq!(writers.owner(1), Some("author"));
        assert_eq!(writers.owner(2), None);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut writers = Writers::default();
        for client in 0..3 * KEPT as u64 {
            let participant = format!("participant {}", client % 200);
            writers.note(client, &participant);
            writers.note(client, &participant);
            assert_eq!(writers.owner(client), Some(&participant[..]));
        }
        assert!(writers.ids.len() <= KEPT);
        for client in 0..1000 {
            writers.note(1 << 40 | client, "flood");
        }
        let flood = writers
            .ids
            .iter()
            .filter(|one| &*one.participant == "flood");
        assert_eq!(flood.count(), KEPT_OF_ONE);
    }
}

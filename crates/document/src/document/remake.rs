//! Replays edits of one replica in another that lacks some of the operations before them.
//!
//! An update depends on all earlier operations of its author. If one of them is rejected for good,
//! all later ones of that author stay pending, even unrelated ones. A replay gives them new ids and
//! places them next to the nearest old neighbours that exist.

use std::collections::BTreeMap;
use std::ops::Range;

use thiserror::Error;

use super::MeshDocument;
use super::event::Origin;
use super::ranges::Ranges;
use crate::engine::{NONE, NodeKind};
use crate::update::DecodeError;
use crate::update::scan::{Content, Id, IdRange, Parent, Scan, Struct};
use crate::update::writer;

/// A mapping from the old ids of operations to their new ids; see [`MeshDocument::remake`].
#[derive(Debug, Default)]
pub struct Remade {
    /// Operations that don't exist in the new document under these ids.
    old: BTreeMap<u64, Ranges>,
    /// By client and clock: the end of a run, and the new id of its first operation.
    new: BTreeMap<(u64, u32), (u32, Id)>,
}

/// Why an edit can't be replayed.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum RemakeError {
    /// The edit changes something that does not exist.
    #[error("the edit depends on content that the document does not have")]
    Missing,
    /// The bytes are not an update, or the update exceeds a limit of the document.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

impl Remade {
    /// Records an edit that is not replayed; edits that build on it can't be replayed either.
    ///
    /// # Errors
    /// [`DecodeError`] if the bytes are not an update.
    pub fn leave_out(&mut self, update: &[u8]) -> Result<(), DecodeError> {
        self.note(&Scan::read(update)?);
        Ok(())
    }

    /// The operations that were left out or replayed: client ids and ranges of clocks.
    pub fn operations(&self) -> impl Iterator<Item = (u64, Range<u64>)> {
        let ranges = self.old.iter();
        ranges.map(|(&client, ranges)| (client, ranges.first().into()..ranges.end().into()))
    }

    /// Whether no operations were left out or replayed.
    pub fn is_empty(&self) -> bool {
        self.old.is_empty()
    }

    /// Whether an update continues, builds on or deletes an operation that was left out
    /// or replayed.
    ///
    /// # Errors
    /// [`DecodeError`] if the bytes are not an update.
    pub fn concerns(&self, update: &[u8]) -> Result<bool, DecodeError> {
        if self.is_empty() {
            return Ok(false);
        }
        let scan = Scan::read(update)?;
        let is_old = |id: Id| self.has(id.client, id.clock, id.clock + 1);
        let of_one = |one: &Struct<'_>| {
            self.old.contains_key(&one.id.client) || one.dependencies().any(is_old)
        };
        let of_range = |range: &IdRange| self.has(range.client, range.start, range.end);
        Ok(scan.structs.iter().any(of_one) || scan.deletes.iter().any(of_range))
    }

    fn has(&self, client: u64, start: u32, end: u32) -> bool {
        let old = self.old.get(&client);
        old.is_some_and(|old| old.count(start, end) > 0)
    }

    fn note(&mut self, scan: &Scan<'_>) {
        for one in &scan.structs {
            let ranges = self.old.entry(one.id.client).or_default();
            ranges.insert(one.id.clock, one.end());
        }
    }

    fn forget(&mut self, scan: &Scan<'_>) {
        for one in &scan.structs {
            self.new.remove(&(one.id.client, one.id.clock));
        }
    }

    /// The new id of the last of these operations that has one.
    fn last_in(&self, document: &MeshDocument, client: u64, start: u32, end: u32) -> Option<Id> {
        let run = self.new.range((client, 0)..(client, end)).next_back();
        let again = run.and_then(|(&(_, from), &(to, id))| {
            let at = to.min(end) - 1;
            (at >= start).then(|| (at, shifted(id, at - from)))
        });
        let limit = end.min(document.engine.clock(client));
        let same = match self.old.get(&client) {
            Some(old) => old.last_free(start, limit),
            None => (start < limit).then(|| limit - 1),
        };
        let same = same.map(|clock| (clock, Id { client, clock }));
        let found = again.into_iter().chain(same).max_by_key(|(at, _)| *at);
        found.map(|(_, id)| id)
    }

    /// The new id of the first of these operations that has one.
    fn first_in(&self, document: &MeshDocument, client: u64, start: u32, end: u32) -> Option<Id> {
        let before = self.new.range((client, 0)..(client, start)).next_back();
        let behind = self.new.range((client, start)..(client, end)).next();
        let runs = before.into_iter().chain(behind);
        let mut runs = runs.filter(|(_, (to, _))| *to > start);
        let again = runs.next().map(|(&(_, from), &(_, id))| {
            let at = from.max(start);
            (at, shifted(id, at - from))
        });
        let limit = end.min(document.engine.clock(client));
        let same = match self.old.get(&client) {
            Some(old) => old.first_free(start, limit),
            None => (start < limit).then_some(start),
        };
        let same = same.map(|clock| (clock, Id { client, clock }));
        let found = again.into_iter().chain(same).min_by_key(|(at, _)| *at);
        found.map(|(_, id)| id)
    }

    /// The current id of an operation, if it exists.
    fn name(&self, document: &MeshDocument, id: Id) -> Option<Id> {
        self.last_in(document, id.client, id.clock, id.clock + 1)
    }

    /// The nearest existing operation at or to the left of this one.
    fn left(&self, document: &MeshDocument, before: &MeshDocument, mut id: Id) -> Option<Id> {
        loop {
            let Some((item, _)) = before.engine.find_item(id) else {
                return self.name(document, id);
            };
            let start = before.engine.item_id(item).clock;
            let found = self.last_in(document, id.client, start, id.clock + 1);
            if found.is_some() {
                return found;
            }
            let left = before.engine.item(item).left();
            id = (left != NONE).then(|| before.engine.last_id(left))?;
        }
    }

    /// The nearest existing operation at or to the right of this one.
    fn right(&self, document: &MeshDocument, before: &MeshDocument, mut id: Id) -> Option<Id> {
        loop {
            let Some((item, _)) = before.engine.find_item(id) else {
                return self.name(document, id);
            };
            let end = before.engine.last_id(item).clock + 1;
            let found = self.first_in(document, id.client, id.clock, end);
            if found.is_some() {
                return found;
            }
            let right = before.engine.item(item).right();
            id = (right != NONE).then(|| before.engine.item_id(right))?;
        }
    }

    /// The current ids of a run of operations, if all exist and are consecutive.
    pub(super) fn run(&self, document: &MeshDocument, range: IdRange) -> Option<IdRange> {
        let last = range
            .end
            .checked_sub(1)
            .filter(|last| *last >= range.start)?;
        let at = |clock| {
            let client = range.client;
            self.name(document, Id { client, clock })
        };
        let (first, last) = (at(range.start)?, at(last)?);
        let is_run = first.client == last.client
            && last.clock.checked_sub(first.clock) == Some(range.end - 1 - range.start);
        is_run.then_some(IdRange {
            client: first.client,
            start: first.clock,
            end: last.clock + 1,
        })
    }

    /// The operation that an anchor can use now, and whether it is the original one.
    pub(super) fn beside(
        &self,
        document: &MeshDocument,
        before: &MeshDocument,
        id: Id,
    ) -> Option<(Id, bool)> {
        match self.name(document, id) {
            Some(id) => Some((id, true)),
            None => Some((self.left(document, before, id)?, false)),
        }
    }
}

fn shifted(id: Id, by: u32) -> Id {
    let clock = id.clock + by;
    Id { clock, ..id }
}

impl MeshDocument {
    /// Replays an edit of another replica as an edit of this one: with this client id, next to the
    /// same neighbours as far as they exist here. `before` is the replica that contains the edit.
    ///
    /// Replay edits in their original order, and call [`Remade::leave_out`] for edits that are not
    /// replayed and that this document does not have under their old ids.
    ///
    /// Returns the update that was applied here; `None` if nothing is left of the edit, since it
    /// only deleted operations that don't exist here.
    ///
    /// # Errors
    /// [`RemakeError`] if the edit changes something that does not exist here. The document does
    /// not change.
    pub fn remake(
        &mut self,
        update: &[u8],
        before: &Self,
        remade: &mut Remade,
    ) -> Result<Option<Vec<u8>>, RemakeError> {
        let scan = Scan::read(update)?;
        remade.note(&scan);
        let made = self.replay(&scan, before, remade);
        let made = made.and_then(|made| match made {
            Some(made) => {
                self.integrate_own(&made)?;
                self.close_event(Origin::Local);
                Ok(Some(made))
            }
            None => Ok(None),
        });
        if made.is_err() {
            remade.forget(&scan);
        }
        made
    }

    /// Occupies a client's next operations up to `end` with deleted ones, so that pending
    /// operations that depend on them, or updates that still arrive, never become visible. Returns
    /// the update; `None` if the operations are already known.
    pub fn fill_in(&mut self, client: u64, end: u64) -> Option<Vec<u8>> {
        let start = self.engine.clock(client);
        let end = u32::try_from(end).ok().filter(|end| *end > start)?;
        let mut update = Vec::new();
        for number in [1, 1, client, start.into()] {
            writer::unsigned(&mut update, number);
        }
        update.extend(writer::collected(end - start));
        writer::deletes(&mut update, &mut vec![IdRange { client, start, end }]);
        self.apply_update(&update).ok()?;
        Some(update)
    }

    fn replay(
        &self,
        scan: &Scan<'_>,
        before: &Self,
        remade: &mut Remade,
    ) -> Result<Option<Vec<u8>>, RemakeError> {
        let client = self.client_id;
        let start = self.engine.clock(client);
        let (mut clock, mut count, mut body) = (start, 0, Vec::new());
        for one in &scan.structs {
            // Content that was deleted again need not be replayed.
            if matches!(one.content, Content::Collected | Content::Deleted) {
                continue;
            }
            self.write_replayed(&mut body, one, before, remade)?;
            let end = one.end();
            let id = Id { client, clock };
            remade.new.insert((one.id.client, one.id.clock), (end, id));
            clock = clock.checked_add(one.length).ok_or(RemakeError::Missing)?;
            count += 1;
        }
        // Operations of this replay are found by their new ids before they are applied here.
        let mut deletes = Vec::new();
        for range in &scan.deletes {
            remade.parts(self, *range, &mut deletes);
        }
        if count == 0 && deletes.is_empty() {
            return Ok(None);
        }
        let mut out = Vec::with_capacity(body.len() + 16);
        writer::unsigned(&mut out, u64::from(count > 0));
        if count > 0 {
            writer::unsigned(&mut out, count);
            writer::unsigned(&mut out, client);
            writer::unsigned(&mut out, start.into());
            out.extend_from_slice(&body);
        }
        writer::deletes(&mut out, &mut deletes);
        Ok(Some(out))
    }

    /// Writes an operation with its content, next to its old neighbours.
    fn write_replayed(
        &self,
        out: &mut Vec<u8>,
        one: &Struct<'_>,
        before: &Self,
        remade: &Remade,
    ) -> Result<(), RemakeError> {
        const HAS_ORIGIN: u8 = 0x80;
        const HAS_RIGHT_ORIGIN: u8 = 0x40;
        const HAS_KEY: u8 = 0x20;
        let left = one.origin.and_then(|id| remade.left(self, before, id));
        let right = one.right_origin;
        let right = right.and_then(|id| remade.right(self, before, id));
        let item = before.engine.find_item(one.id).map(|(item, _)| item);
        let item = item.map(|item| before.engine.item(item));
        let key = one.key.or_else(|| {
            let key = item.map(|item| item.key).filter(|&key| key != NONE)?;
            Some(&**before.engine.name(key))
        });
        let mut info = one.bytes[0] & 0x0f;
        for (flag, is_set) in [
            (HAS_ORIGIN, left.is_some()),
            (HAS_RIGHT_ORIGIN, right.is_some()),
            (HAS_KEY, key.is_some()),
        ] {
            info |= if is_set { flag } else { 0 };
        }
        out.push(info);
        for neighbour in [left, right].into_iter().flatten() {
            writer::id(out, neighbour);
        }
        if left.is_none() && right.is_none() {
            let parent = match (one.parent, item) {
                (Parent::Copied, Some(item)) => match before.engine.node(item.parent).kind {
                    NodeKind::Root(name) => Parent::Root(before.engine.name(name)),
                    _ => Parent::Item(before.engine.node_id(item.parent)),
                },
                (parent, _) => parent,
            };
            match parent {
                Parent::Root(name) => {
                    out.push(1);
                    writer::string(out, name);
                }
                Parent::Item(id) => {
                    let id = remade.name(self, id).ok_or(RemakeError::Missing)?;
                    out.push(0);
                    writer::id(out, id);
                }
                Parent::Copied => return Err(RemakeError::Missing),
            }
            if let Some(key) = key {
                writer::string(out, key);
            }
        }
        out.extend_from_slice(one.content_bytes);
        Ok(())
    }
}

impl Remade {
    /// Collects the existing parts of a range, with their current ids.
    fn parts(&self, document: &MeshDocument, range: IdRange, parts: &mut Vec<IdRange>) {
        let IdRange { client, start, end } = range;
        let known = end.min(document.engine.clock(client));
        match self.old.get(&client) {
            Some(old) => old.free(start, known, |start, end| {
                parts.push(IdRange { client, start, end });
            }),
            None if start < known => parts.push(IdRange {
                client,
                start,
                end: known,
            }),
            None => {}
        }
        let before = self.new.range((client, 0)..(client, start)).next_back();
        let behind = self.new.range((client, start)..(client, end.max(start)));
        for (&(_, from), &(to, id)) in before.into_iter().chain(behind) {
            let (first, last) = (from.max(start), to.min(end));
            if first < last {
                parts.push(IdRange {
                    client: id.client,
                    start: id.clock + (first - from),
                    end: id.clock + (last - from),
                });
            }
        }
    }
}

//! Updates in and out: inspection, application, encoding.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::MeshDocument;
use super::event::Origin;
use super::pending::{Plan, Ready, cost_of};
use super::ranges::Ranges;
use crate::engine::{Comparison, Limit, Transaction};
use crate::update::scan::{Content, Id, IdRange, Scan, Struct};
use crate::update::{self, Applied, DecodeError, Inspection, UpdateKind, writer};

impl MeshDocument {
    /// Classifies an update relative to this document, which does not change.
    ///
    /// # Errors
    /// [`DecodeError`] if the update is malformed.
    pub fn classify(&self, update: &[u8]) -> Result<UpdateKind, DecodeError> {
        self.inspect(update).map(|inspection| inspection.kind)
    }

    /// Like [`Self::classify`], with more details, such as the authors of the operations.
    ///
    /// Known operations are compared by position and content, unless either side has deleted them.
    ///
    /// # Errors
    /// [`DecodeError`] if the update is malformed or beyond one of the
    /// [`Limits`](super::Limits), including those that apply only here.
    pub fn inspect(&self, update: &[u8]) -> Result<Inspection, DecodeError> {
        let scan = Scan::read_within(update, &self.limits)?;
        let splits = self.splits_by(&scan)?;
        let mut inspection = Inspection::new(self.growth_by(&scan) + splits, splits);
        if scan.is_empty() {
            inspection.kind = UpdateKind::Empty;
            return Ok(inspection);
        }
        if self.is_plain(&scan) {
            let client = scan.structs[0].id.client;
            inspection.authors.push(client);
            inspection.writer = Some(client);
            if is_blank(&scan.structs[0]) {
                self.check_blank(&scan)?;
            }
            return Ok(inspection);
        }
        self.compare(&scan, &mut inspection);
        if inspection.conflict.is_some() {
            inspection.kind = UpdateKind::Conflict;
            return Ok(inspection);
        }
        if self.contains(&scan) {
            inspection.kind = UpdateKind::Contained;
            return Ok(inspection);
        }
        self.check_blank(&scan)?;
        inspection.authors = self.authors_of(&scan);
        // An operation that the update marks as garbage-collected may be pending here with its
        // content, and then others wait for it.
        let whole = self.with_pending_content(&scan)?;
        let (scan, is_as_sent) = match &whole {
            Some(whole) => (Scan::read(whole)?, false),
            None => (scan, true),
        };
        let plan = Plan::new(&self.engine, &scan);
        let beyond = |range: &IdRange| range.end > plan.progress.clock(&self.engine, range.client);
        if !plan.blocked.is_empty() || scan.deletes.iter().any(beyond) {
            inspection.kind = UpdateKind::Gap;
            let blocked = plan.blocked.iter().map(|&index| &scan.structs[index]);
            let blocked: Vec<&Struct<'_>> = blocked.collect();
            let later = scan.deletes.iter().filter(|&range| beyond(range)).count();
            inspection.waiting = cost_of(&blocked, later);
        } else if let [client] = inspection.authors[..]
            && is_as_sent
        {
            let is_next = |one: &Struct<'_>| {
                one.id.client == client && one.id.clock >= self.engine.clock(client)
            };
            inspection.writer = scan.structs.iter().all(is_next).then_some(client);
        }
        Ok(inspection)
    }

    /// Compares the known part of an update with the document.
    fn compare(&self, scan: &Scan<'_>, inspection: &mut Inspection) {
        let Comparison {
            conflict,
            erased,
            halves,
            has_more,
        } = self.engine.compare(&scan.structs);
        let mut waiting = Comparison::default();
        if !self.pending.is_empty() {
            self.pending.compare(&scan.structs, &mut waiting);
        }
        let conflict = conflict.or(waiting.conflict);
        inspection.differs = has_more || !halves.is_empty();
        if !erased.is_empty() || !halves.is_empty() {
            let mut deleted: BTreeMap<u64, Ranges> = BTreeMap::new();
            for range in &scan.deletes {
                let ranges = deleted.entry(range.client).or_default();
                ranges.insert(range.start, range.end);
            }
            let alive = |ranges: &[IdRange]| {
                let alive = ranges.iter().map(|range| {
                    let covered = deleted.get(&range.client);
                    let covered = covered.map_or(0, |ranges| ranges.count(range.start, range.end));
                    u64::from(range.end - range.start - covered)
                });
                alive.sum()
            };
            inspection.erased = alive(&erased);
            inspection.halves = alive(&halves);
        }
        inspection.conflict = conflict.map(|id| (id.client, id.clock.into()));
    }

    /// The clients for which an update brings new operations or new deletions.
    fn authors_of(&self, scan: &Scan<'_>) -> Vec<u64> {
        let is_new = |client: u64, end: u32| end > self.engine.clock(client);
        let structs = scan.structs.iter().map(|one| (one.id.client, one.end()));
        let deletes = scan.deletes.iter().map(|range| (range.client, range.end));
        let new = structs
            .chain(deletes)
            .filter(|&(client, end)| is_new(client, end));
        let clients: BTreeSet<u64> = new.map(|(client, _)| client).collect();
        clients.into_iter().collect()
    }

    /// Checks how far an update extends beyond the known operations: no further than its content
    /// plus the permitted number of operations without content, which are garbage-collected or
    /// deleted ones, gaps, and deletions of missing ones.
    fn check_blank(&self, scan: &Scan<'_>) -> Result<(), DecodeError> {
        let mut reach: BTreeMap<u64, (u32, u32)> = BTreeMap::new();
        let mut note = |client: u64, start: u32, end: u32, has_content: bool| {
            let known = self.engine.clock(client);
            if end <= known {
                return;
            }
            let (furthest, held) = reach.entry(client).or_insert((known, 0));
            *furthest = end.max(*furthest);
            if has_content {
                *held += end - start.max(known);
            }
        };
        for one in &scan.structs {
            let is_blank = is_blank(one);
            note(one.id.client, one.id.clock, one.end(), !is_blank);
        }
        for range in &scan.deletes {
            note(range.client, range.start, range.end, false);
        }
        let blank = reach.into_iter().map(|(client, (furthest, held))| {
            u64::from(furthest - self.engine.clock(client)).saturating_sub(held.into())
        });
        let limit = self.limits.blank_operations;
        if blank.sum::<u64>() > limit as u64 {
            return Err(DecodeError::TooLarge {
                what: "the number of operations without content in one update",
                limit,
            });
        }
        Ok(())
    }

    /// Applies an update, and pending operations that it completes.
    ///
    /// Operations that can't have a place are applied as garbage-collected, see
    /// [`Applied::misplaced`]. So a merged update can be applied if its parts can, and gives the
    /// same state.
    ///
    /// # Errors
    /// [`DecodeError`] if the update is malformed or exceeds a limit; the document does not change.
    pub fn apply_update(&mut self, update: &[u8]) -> Result<Applied, DecodeError> {
        self.apply(update, Misplaced::Collected)
    }

    /// Like [`Self::apply_update`], but an operation of the update that can't have a place is an
    /// error. Pending operations that it completes still follow the rule of [`Self::apply_update`].
    ///
    /// # Errors
    /// [`DecodeError`] if the update is malformed, has an operation that can't have a place, or
    /// exceeds a limit; the document does not change.
    pub fn apply_placed_update(&mut self, update: &[u8]) -> Result<Applied, DecodeError> {
        self.apply(update, Misplaced::Refused)
    }

    fn apply(&mut self, update: &[u8], misplaced: Misplaced) -> Result<Applied, DecodeError> {
        let scan = Scan::read_within(update, &self.limits)?;
        if scan.is_empty() || self.contains(&scan) {
            return Ok(Applied::default());
        }
        self.check_clients(&scan)?;
        let operations = self.operations_beyond(&scan);
        let is_shared = self.uses_client_id(&scan);
        let mut applied = if self.is_plain(&scan) {
            let mut steps = self.limits.steps_for(update.len());
            let mut news = News::default();
            let own = [&scan.structs[0]];
            news.take(self.integrate_by(&own, &[], &mut steps, misplaced)?);
            Applied {
                misplaced: news.misplaced,
                visible: news.encode_whole(update, &scan)?,
                ..Applied::default()
            }
        } else {
            self.apply_news(update, &scan, misplaced)?
        };
        applied.operations = operations;
        self.is_client_id_shared |= is_shared;
        if applied.visible.is_some() {
            self.epoch += 1;
            self.close_event(Origin::Remote);
        }
        Ok(applied)
    }

    /// Returns the state vector (v1) of the visible operations.
    pub fn state_vector(&self) -> Vec<u8> {
        let mut out = Vec::new();
        writer::unsigned(&mut out, self.engine.clocks().count() as u64);
        for (client, clock) in self.engine.clocks() {
            writer::unsigned(&mut out, client);
            writer::unsigned(&mut out, clock.into());
        }
        out
    }

    /// Returns the number of visible operations of each client, as pairs of client id and clock.
    pub fn clocks(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let clocks = self.engine.clocks();
        clocks.map(|(client, clock)| (client, u64::from(clock)))
    }

    /// Returns the visible state as one v1 update.
    pub fn encode_state(&self) -> Vec<u8> {
        self.engine.encode(|_| 0)
    }

    /// Returns the pending operations as one v1 update; `None` if there are none.
    ///
    /// Applied to another replica, they are pending there.
    pub fn encode_pending(&self) -> Option<Vec<u8>> {
        self.pending.encode(&self.engine)
    }

    /// The approximate memory of pending operations, in bytes.
    pub fn pending_bytes(&self) -> usize {
        self.pending.bytes()
    }

    /// Returns what a replica with this state vector (v1) lacks, as one v1 update. The vector may
    /// be ahead of this document.
    ///
    /// # Errors
    /// [`DecodeError`] if the vector is malformed.
    pub fn encode_diff(&self, state_vector: &[u8]) -> Result<Vec<u8>, DecodeError> {
        let clocks = update::read_state_vector(state_vector)?;
        let clocks: BTreeMap<u64, u32> = clocks.into_iter().collect();
        Ok(self
            .engine
            .encode(|client| clocks.get(&client).copied().unwrap_or_default()))
    }

    /// Returns the number of operations that a replica with this state vector (v1) has and this
    /// one lacks.
    ///
    /// # Errors
    /// [`DecodeError`] if the vector is malformed.
    pub fn count_missing(&self, state_vector: &[u8]) -> Result<u64, DecodeError> {
        let clocks = update::read_state_vector(state_vector)?;
        let missing = clocks
            .into_iter()
            .map(|(client, clock)| u64::from(clock.saturating_sub(self.engine.clock(client))));
        Ok(missing.sum())
    }

    /// Whether a replica with this state vector (v1) that also applied these updates has everything
    /// in this document, deletions included.
    ///
    /// # Errors
    /// [`DecodeError`] if the vector or an update is malformed.
    pub fn is_covered_by(
        &self,
        state_vector: &[u8],
        updates: &[&[u8]],
    ) -> Result<bool, DecodeError> {
        let mut clocks: BTreeMap<u64, u32> = BTreeMap::new();
        for (client, clock) in update::read_state_vector(state_vector)? {
            clocks.insert(client, clock);
        }
        let mut deleted: BTreeMap<u64, Ranges> = BTreeMap::new();
        for update in updates.iter().filter(|update| !update.is_empty()) {
            let scan = Scan::read(update)?;
            for one in &scan.structs {
                let clock = clocks.entry(one.id.client).or_default();
                if one.id.clock <= *clock {
                    *clock = one.end().max(*clock);
                }
            }
            for range in scan.deletes {
                let ranges = deleted.entry(range.client).or_default();
                ranges.insert(range.start, range.end);
            }
        }
        let mut known = self.engine.clocks();
        let has_all = known.all(|(client, clock)| clocks.get(&client) >= Some(&clock));
        let is_deleted = |range: &IdRange| {
            let ranges = deleted.get(&range.client);
            ranges.map_or(0, |ranges| ranges.count(range.start, range.end))
                == range.end - range.start
        };
        Ok(has_all && self.engine.all_deleted().iter().all(is_deleted))
    }

    fn contains(&self, scan: &Scan<'_>) -> bool {
        let is_known = |one: &Struct<'_>| one.end() <= self.engine.clock(one.id.client);
        scan.structs.iter().all(is_known)
            && scan
                .deletes
                .iter()
                .all(|&range| self.engine.is_deleted(range))
    }

    /// Checks the limits on client ids that are new in one update, and on all client ids.
    fn check_clients(&self, scan: &Scan<'_>) -> Result<(), DecodeError> {
        let groups = scan.structs.chunk_by(|a, b| a.id.client == b.id.client);
        let is_new = |group: &&[Struct<'_>]| self.engine.clock(group[0].id.client) == 0;
        let new = groups.filter(is_new).count();
        if new > self.limits.new_clients {
            return Err(DecodeError::TooLarge {
                what: "the number of new client ids in one update",
                limit: self.limits.new_clients,
            });
        }
        if new > 0 && self.engine.client_count() + new > self.limits.clients {
            return Err(DecodeError::TooLarge {
                what: "the number of client ids in one document",
                limit: self.limits.clients,
            });
        }
        Ok(())
    }

    /// Whether an update brings, deletes or builds on operations of this document's client id
    /// that were not made here. Operations made here are applied here before any other replica
    /// gets them.
    fn uses_client_id(&self, scan: &Scan<'_>) -> bool {
        let known = self.engine.clock(self.client_id);
        let is_beyond = |client: u64, end: u32| client == self.client_id && end > known;
        let builds_on = |one: &Struct<'_>| {
            let mut ids = one.dependencies();
            ids.any(|id| id.client == self.client_id && id.clock >= known)
        };
        scan.structs
            .iter()
            .any(|one| is_beyond(one.id.client, one.end()) || builds_on(one))
            || scan
                .deletes
                .iter()
                .any(|range| is_beyond(range.client, range.end))
    }

    /// The runs of operations that are not known here.
    fn operations_beyond(&self, scan: &Scan<'_>) -> Vec<(u64, Range<u64>)> {
        let mut runs: Vec<(u64, Range<u64>)> = Vec::new();
        for one in &scan.structs {
            let client = one.id.client;
            let start = one.id.clock.max(self.engine.clock(client));
            if start >= one.end() {
                continue;
            }
            let (start, end) = (u64::from(start), u64::from(one.end()));
            match runs.last_mut() {
                Some((last, run)) if *last == client && run.end == start => run.end = end,
                _ => runs.push((client, start..end)),
            }
        }
        runs
    }

    /// Whether the update is exactly one run of operations that continues its author's known ones,
    /// as typing produces it.
    fn is_plain(&self, scan: &Scan<'_>) -> bool {
        let [one] = &scan.structs[..] else {
            return false;
        };
        let is_known = |id: Id| id.clock < self.engine.clock(id.client);
        !scan.has_filler
            && scan.deletes.is_empty()
            && self.pending.is_empty()
            && one.id.clock == self.engine.clock(one.id.client)
            && one.dependencies().all(is_known)
    }

    /// Applies an update. If it marks a pending operation as garbage-collected, the pending content
    /// is used, and deleted if the update deletes it.
    fn apply_news(
        &mut self,
        update: &[u8],
        scan: &Scan<'_>,
        misplaced: Misplaced,
    ) -> Result<Applied, DecodeError> {
        let Some(whole) = self.with_pending_content(scan)? else {
            return self.apply_scan(update, scan, misplaced);
        };
        // The pending operations were accepted when they came.
        let mut applied = self.apply_scan(&whole, &Scan::read(&whole)?, Misplaced::Collected)?;
        applied.kept.get_or_insert(whole);
        Ok(applied)
    }

    /// The new part of an update, with content from pending operations that the update has only as
    /// garbage-collected; `None` if there are none.
    fn with_pending_content(&self, scan: &Scan<'_>) -> Result<Option<Vec<u8>>, DecodeError> {
        let more_complete = self.pending.more_complete(&scan.structs);
        if more_complete.is_empty() {
            return Ok(None);
        }
        let structs = more_complete
            .into_iter()
            .chain(scan.structs.iter().cloned());
        let known = |client| self.engine.clock(client);
        writer::update(structs.collect(), scan.deletes.clone(), known).map(Some)
    }

    fn apply_scan(
        &mut self,
        update: &[u8],
        scan: &Scan<'_>,
        misplaced: Misplaced,
    ) -> Result<Applied, DecodeError> {
        let plan = Plan::new(&self.engine, scan);
        let own = plan.order.iter().map(|&index| &scan.structs[index]);
        let own: Vec<&Struct<'_>> = own.collect();
        // Deletions that can be applied now, and those whose operations are missing.
        let (mut deletes, mut later) = (Vec::new(), Vec::new());
        for &range in &scan.deletes {
            let clock = plan.progress.clock(&self.engine, range.client);
            if range.end > clock {
                let start = range.start.max(clock);
                later.push(IdRange { start, ..range });
            }
            if range.start < clock {
                let end = range.end.min(clock);
                deletes.push(IdRange { end, ..range });
            }
        }
        let blocked = plan.blocked.iter().map(|&index| &scan.structs[index]);
        let blocked: Vec<&Struct<'_>> = blocked.collect();
        self.pending
            .check(&blocked, later.len(), self.limits.pending_bytes)?;

        let is_whole = !scan.has_filler
            && blocked.is_empty()
            && self.pending.is_empty()
            && own.len() == scan.structs.len()
            && own
                .iter()
                .all(|one| one.id.clock >= self.engine.clock(one.id.client))
            && deletes == scan.deletes;
        let mut steps = self.limits.steps_for(update.len());
        let mut news = News::default();
        if is_whole {
            news.take(self.integrate_by(&own, &deletes, &mut steps, misplaced)?);
            return Ok(Applied {
                misplaced: news.misplaced,
                visible: news.encode_whole(update, scan)?,
                ..Applied::default()
            });
        }

        let is_known = |one: &Struct<'_>| one.id.clock < self.engine.clock(one.id.client);
        let kept = if scan.structs.iter().any(is_known) {
            let known = |client| self.engine.clock(client);
            Some(writer::update(
                scan.structs.clone(),
                scan.deletes.clone(),
                known,
            )?)
        } else {
            None
        };
        news.note(self, &own, &deletes);
        news.take(self.integrate_by(&own, &deletes, &mut steps, misplaced)?);
        let mut gap = !blocked.is_empty() || !later.is_empty();
        let mut changed: BTreeSet<u64> = own.iter().map(|one| one.id.client).collect();
        for one in blocked {
            self.pending.add(one, self.engine.clock(one.id.client));
            changed.insert(one.id.client);
        }
        for range in later {
            self.pending.add_delete(range);
        }
        let woken = self.wake(&mut news, changed, &mut steps);
        gap &= !self.pending.is_empty();
        let mut structs: Vec<Struct<'_>> = own.into_iter().cloned().collect();
        structs.extend(woken.iter().filter_map(|one| one.read().ok()));
        Ok(Applied {
            misplaced: news.misplaced,
            visible: news.encode(structs)?,
            kept,
            gap,
            ..Applied::default()
        })
    }

    /// Applies the pending operations that the update completed, and those that depend on them.
    fn wake(&mut self, news: &mut News, changed: BTreeSet<u64>, steps: &mut usize) -> Vec<Ready> {
        let mut taken = Vec::new();
        let mut progress = super::pending::Progress::default();
        let mut changed = changed;
        let kept = self.pending.take_kept();
        let is_tried = !kept.is_empty();
        changed.extend(kept);
        let mut is_kept = false;
        let woken = self
            .pending
            .wake(&self.engine, &mut progress, changed.iter().copied());
        for one in woken {
            let Ok(found) = one.read() else {
                continue;
            };
            changed.insert(one.id.client);
            // An operation that it depends on may be pending again.
            let clock = self.engine.clock(found.id.client);
            let is_known = |id: Id| id.clock < self.engine.clock(id.client);
            if found.id.clock > clock || !found.dependencies_from(clock).all(is_known) {
                debug_assert!(is_kept, "dependencies of a woken struct are present");
                self.pending.keep(&found, clock);
                continue;
            }
            news.note(self, &[&found], &[]);
            *steps = steps.saturating_add(found.bytes.len() * 4);
            let integrated = self.integrate_by(&[&found], &[], steps, Misplaced::Collected);
            if let Ok(places) = integrated {
                news.take(places);
                taken.push(one);
            } else {
                // The server has acknowledged it as pending, so it stays; the next update brings
                // new steps.
                self.pending.keep(&found, clock);
                is_kept = true;
            }
        }
        if is_tried || is_kept {
            self.pending.note_try(!taken.is_empty());
        }
        // Only these clients have new operations.
        for client in changed {
            let deletes = self.pending.wake_deletes(client, self.engine.clock(client));
            if deletes.is_empty() {
                continue;
            }
            news.note(self, &[], &deletes);
            let done = self.integrate(&[], &deletes, &mut 0);
            debug_assert!(done.is_ok(), "known operations can always be deleted");
        }
        taken
    }

    /// Applies operations and deletions whose dependencies are present.
    ///
    /// # Errors
    /// If an operation can't have a place, or finding it takes more than `steps`, which is reduced
    /// to the remainder; the document does not change.
    pub(super) fn integrate(
        &mut self,
        structs: &[&Struct<'_>],
        deletes: &[IdRange],
        steps: &mut usize,
    ) -> Result<(), DecodeError> {
        self.integrate_by(structs, deletes, steps, Misplaced::Refused)
            .map(drop)
    }

    fn integrate_by(
        &mut self,
        structs: &[&Struct<'_>],
        deletes: &[IdRange],
        steps: &mut usize,
        misplaced: Misplaced,
    ) -> Result<Placeless, DecodeError> {
        let limit = Limit {
            depth: u32::try_from(self.limits.depth).unwrap_or(u32::MAX),
            nodes: self.limits.elements,
            new_nodes: self.limits.elements.saturating_sub(self.ids.live()),
            all_steps: self.limits.conflict_steps,
            refuses_misplaced: misplaced == Misplaced::Refused,
        };
        let mut transaction = Transaction::default();
        self.engine
            .apply(structs, deletes, limit, steps, &mut transaction)?;
        self.settle(&transaction);
        let placeless = Placeless {
            structs: std::mem::take(&mut transaction.placeless),
            misplaced: transaction.misplaced,
        };
        self.engine.finish(transaction);
        Ok(placeless)
    }

    /// Applies an update that was made here.
    pub(super) fn integrate_own(&mut self, update: &[u8]) -> Result<(), DecodeError> {
        // The only possible defect: its clocks exceed the last one.
        let scan = Scan::read(update).inspect_err(|_| self.is_exhausted = true)?;
        let structs: Vec<&Struct<'_>> = scan.structs.iter().collect();
        let mut steps = usize::MAX;
        self.integrate(&structs, &scan.deletes, &mut steps)
    }
}

/// Whether the struct brings operations without content.
pub(super) fn is_blank(one: &Struct<'_>) -> bool {
    matches!(one.content, Content::Collected | Content::Deleted)
}

/// The treatment of operations that can't have a place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Misplaced {
    Collected,
    /// The whole update is rejected.
    Refused,
}

/// Operations that came with content or a place and were applied as garbage-collected.
#[derive(Debug)]
struct Placeless {
    structs: Vec<Id>,
    /// The number of operations that can't have a place in any order of updates.
    misplaced: u64,
}

/// The additions of an update, and of the pending operations that it completed.
#[derive(Debug, Default)]
struct News {
    clocks: BTreeMap<u64, u32>,
    deletes: Vec<IdRange>,
    /// Structs that are garbage-collected here and so encoded; other replicas may find a place
    /// for them.
    placeless: BTreeSet<Id>,
    misplaced: u64,
}

impl News {
    /// Records operations and deletions before they are applied.
    fn note(&mut self, document: &MeshDocument, structs: &[&Struct<'_>], deletes: &[IdRange]) {
        for one in structs {
            let client = one.id.client;
            let clock = || document.engine.clock(client);
            self.clocks.entry(client).or_insert_with(clock);
        }
        for &range in deletes {
            self.deletes.extend(document.engine.not_deleted(range));
            let known = document.engine.clock(range.client);
            if range.end > known {
                let start = range.start.max(known);
                self.deletes.push(IdRange { start, ..range });
            }
        }
    }

    /// Records which of them have no place.
    fn take(&mut self, placeless: Placeless) {
        self.placeless.extend(placeless.structs);
        self.misplaced += placeless.misplaced;
    }

    /// The update itself, if all of it is new.
    fn encode_whole(
        mut self,
        update: &[u8],
        scan: &Scan<'_>,
    ) -> Result<Option<Vec<u8>>, DecodeError> {
        if self.placeless.is_empty() {
            return Ok(Some(update.to_vec()));
        }
        self.deletes.clone_from(&scan.deletes);
        self.encode(scan.structs.clone())
    }

    /// An update with the additions; `None` if there are none.
    fn encode(self, mut structs: Vec<Struct<'_>>) -> Result<Option<Vec<u8>>, DecodeError> {
        for one in &mut structs {
            if self.placeless.contains(&one.id) {
                *one = one.collected();
            }
        }
        if structs.is_empty() && self.deletes.is_empty() {
            return Ok(None);
        }
        let known = |client| self.clocks.get(&client).copied().unwrap_or_default();
        writer::update(structs, self.deletes.clone(), known).map(Some)
    }
}

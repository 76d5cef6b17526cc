//! Updates in and out: what they are, what of them becomes visible, what waits.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::MeshDocument;
use super::event::Origin;
use super::pending::{Plan, Woken};
use crate::engine::{Limit, Transaction};
use crate::update::scan::{IdRange, Scan, Struct};
use crate::update::{self, Applied, DecodeError, UpdateKind, writer};

impl MeshDocument {
    /// What an update is to this document, which stays as it is.
    ///
    /// # Errors
    /// [`DecodeError`] if it is malformed.
    pub fn classify(&self, update: &[u8]) -> Result<UpdateKind, DecodeError> {
        let scan = Scan::read_within(update, &self.limits)?;
        if scan.is_empty() {
            return Ok(UpdateKind::Empty);
        }
        if self.contains(&scan) {
            return Ok(UpdateKind::Contained);
        }
        let plan = Plan::new(&self.engine, &scan);
        let beyond = |range: &IdRange| range.end > plan.progress.clock(&self.engine, range.client);
        if !plan.blocked.is_empty() || scan.deletes.iter().any(beyond) {
            return Ok(UpdateKind::Gap);
        }
        Ok(UpdateKind::New)
    }

    /// Applies an update, and what had waited for it.
    ///
    /// # Errors
    /// [`DecodeError`] if it is malformed; the document is as it was.
    pub fn apply_update(&mut self, update: &[u8]) -> Result<Applied, DecodeError> {
        let scan = Scan::read_within(update, &self.limits)?;
        if scan.is_empty() || self.contains(&scan) {
            return Ok(Applied::default());
        }
        let operations = self.operations_beyond(&scan);
        let mut applied = if self.is_plain(&scan) {
            self.take_up(&[&scan.structs[0]], &[])?;
            Applied {
                visible: Some(update.to_vec()),
                ..Applied::default()
            }
        } else {
            self.apply_scan(update, &scan)?
        };
        applied.operations = operations;
        if applied.visible.is_some() {
            self.epoch += 1;
            self.close_event(Origin::Remote);
        }
        Ok(applied)
    }

    /// The state vector (v1) of what is visible.
    pub fn state_vector(&self) -> Vec<u8> {
        let mut out = Vec::new();
        writer::unsigned(&mut out, self.engine.clocks().count() as u64);
        for (client, clock) in self.engine.clocks() {
            writer::unsigned(&mut out, client);
            writer::unsigned(&mut out, clock.into());
        }
        out
    }

    /// How many operations of each client are visible, by client id.
    pub fn clocks(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let clocks = self.engine.clocks();
        clocks.map(|(client, clock)| (client, u64::from(clock)))
    }

    /// All that is visible, as one v1 update.
    pub fn encode_state(&self) -> Vec<u8> {
        self.engine.encode(|_| 0)
    }

    /// What waits for missing operations, as one v1 update; `None` if nothing does.
    ///
    /// Applied to another replica it waits there.
    pub fn encode_pending(&self) -> Option<Vec<u8>> {
        self.pending.encode()
    }

    /// What a replica with this state vector (v1) lacks, as one v1 update. The vector may be ahead.
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

    fn contains(&self, scan: &Scan<'_>) -> bool {
        let is_known = |one: &Struct<'_>| one.end() <= self.engine.clock(one.id.client);
        scan.structs.iter().all(is_known)
            && scan
                .deletes
                .iter()
                .all(|&range| self.engine.is_deleted(range))
    }

    /// The runs of operations that are not here.
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

    /// Whether this is one run of operations that fits where its author stands, and nothing else: what
    /// typing looks like.
    fn is_plain(&self, scan: &Scan<'_>) -> bool {
        let [one] = &scan.structs[..] else {
            return false;
        };
        let is_known = |id: update::scan::Id| id.clock < self.engine.clock(id.client);
        !scan.has_filler
            && scan.deletes.is_empty()
            && self.pending.is_empty()
            && one.id.clock == self.engine.clock(one.id.client)
            && one.dependencies().all(is_known)
    }

    fn apply_scan(&mut self, update: &[u8], scan: &Scan<'_>) -> Result<Applied, DecodeError> {
        let plan = Plan::new(&self.engine, scan);
        let own = plan.order.iter().map(|&index| &scan.structs[index]);
        let own: Vec<&Struct<'_>> = own.collect();
        // What can be deleted now, and what is to be deleted once it is there.
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
        if is_whole {
            self.take_up(&own, &deletes)?;
            return Ok(Applied {
                visible: Some(update.to_vec()),
                ..Applied::default()
            });
        }

        let mut news = News::default();
        news.note(self, &own, &deletes);
        self.take_up(&own, &deletes)?;
        let mut gap = !blocked.is_empty() || !later.is_empty();
        let mut changed: BTreeSet<u64> = own.iter().map(|one| one.id.client).collect();
        for one in blocked {
            self.pending.add(one);
            changed.insert(one.id.client);
        }
        for range in later {
            self.pending.add_delete(range);
        }
        let (woken, refused) = self.wake(&mut news, changed);
        gap &= !self.pending.is_empty();
        let mut structs: Vec<Struct<'_>> = own.into_iter().cloned().collect();
        structs.extend(woken.iter().filter_map(|one| one.read().ok()));
        Ok(Applied {
            visible: news.encode(structs)?,
            gap,
            refused,
            ..Applied::default()
        })
    }

    /// Takes up what had waited for what has just come, and what waited for that; and why some of it
    /// was given up.
    fn wake(
        &mut self,
        news: &mut News,
        changed: BTreeSet<u64>,
    ) -> (Vec<Woken>, Option<DecodeError>) {
        let (mut taken, mut refused) = (Vec::new(), None);
        let mut progress = super::pending::Progress::default();
        let woken = self.pending.wake(&self.engine, &mut progress, changed);
        for one in woken {
            let Ok(found) = one.read() else {
                continue;
            };
            // What it builds on may have been given up.
            let is_known = |id: update::scan::Id| id.clock < self.engine.clock(id.client);
            if found.id.clock > self.engine.clock(found.id.client)
                || !found.dependencies().all(is_known)
            {
                continue;
            }
            news.note(self, &[&found], &[]);
            match self.take_up(&[&found], &[]) {
                Ok(()) => taken.push(one),
                Err(error) => refused = Some(error),
            }
        }
        let reached: Vec<(u64, u32)> = self.pending.clients_to_delete(&self.engine);
        for (client, clock) in reached {
            let deletes = self.pending.wake_deletes(client, clock);
            news.note(self, &[], &deletes);
            let done = self.take_up(&[], &deletes);
            debug_assert!(done.is_ok(), "to delete what is known always succeeds");
        }
        (taken, refused)
    }

    /// Takes up operations and deletions for which all is there that they need.
    ///
    /// # Errors
    /// If one of the operations has no place to go to; the document is as it was.
    pub(super) fn take_up(
        &mut self,
        structs: &[&Struct<'_>],
        deletes: &[IdRange],
    ) -> Result<(), DecodeError> {
        let limit = Limit {
            depth: u32::try_from(self.limits.depth).unwrap_or(u32::MAX),
            nodes: self.limits.elements,
            new_nodes: self.limits.elements.saturating_sub(self.ids.live()),
        };
        let mut transaction = Transaction::default();
        self.engine
            .apply(structs, deletes, limit, &mut transaction)?;
        self.settle(&transaction);
        self.engine.finish(transaction);
        Ok(())
    }

    /// Takes up an update that was made here.
    pub(super) fn take_up_own(&mut self, update: &[u8]) -> Result<(), DecodeError> {
        let scan = Scan::read(update)?;
        let structs: Vec<&Struct<'_>> = scan.structs.iter().collect();
        self.take_up(&structs, &scan.deletes)
    }
}

/// What an update, and what it woke, adds to what was known before.
#[derive(Debug, Default)]
struct News {
    clocks: BTreeMap<u64, u32>,
    deletes: Vec<IdRange>,
}

impl News {
    /// Notes what is about to be taken up.
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

    /// An update of just that; `None` if there is nothing new.
    fn encode(self, structs: Vec<Struct<'_>>) -> Result<Option<Vec<u8>>, DecodeError> {
        if structs.is_empty() && self.deletes.is_empty() {
            return Ok(None);
        }
        let known = |client| self.clocks.get(&client).copied().unwrap_or_default();
        writer::update(structs, self.deletes.clone(), known).map(Some)
    }
}

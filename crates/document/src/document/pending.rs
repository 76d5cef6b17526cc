//! Operations with missing dependencies. They are kept outside the engine, so nothing can
//! display them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::apply::is_blank;
use super::memory::ID_BYTES;
use super::ranges::ClientRanges;
use crate::engine::{Comparison, Engine, ITEM_BYTES, NODE_BYTES, Run, compare_runs};
use crate::update::DecodeError;
use crate::update::scan::{self, Content, Id, IdRange, Scan, Struct};
use crate::update::writer;

/// The approximate overhead of a struct in bytes: its map entry, its allocation, its waiter.
const STRUCT_BYTES: usize = 128;

/// The approximate bytes of a deleted range.
const RANGE_BYTES: usize = 48;

/// What a deletion takes once it is applied: each end may split a run.
pub(super) const APPLIED_RANGE_BYTES: usize = 2 * ITEM_BYTES;

/// What an element or another type takes once it is applied, without its content.
const APPLIED_TYPE_BYTES: usize = ITEM_BYTES + NODE_BYTES + ID_BYTES;

/// The maximal number of updates before operations that could not be applied are tried again.
const MAX_PAUSE: u32 = 1 << 10;

fn cost(bytes: &[u8]) -> usize {
    bytes.len() + STRUCT_BYTES
}

/// The memory that a struct will take in addition to [`cost`] when it is applied. It is counted
/// while the struct is pending, so the author of a missing operation does not pay for others'.
fn reserve(bytes: &[u8]) -> usize {
    if bytes.first().is_some_and(|info| scan::is_type(*info)) {
        APPLIED_TYPE_BYTES.saturating_sub(STRUCT_BYTES)
    } else {
        0
    }
}

/// The approximate memory of these structs and deletions if they were pending.
pub(super) fn cost_of(structs: &[&Struct<'_>], deletes: usize) -> usize {
    let structs = structs.iter().map(|one| cost(one.bytes));
    structs.sum::<usize>() + deletes * RANGE_BYTES
}

/// Structs and deletions that can't be applied yet.
#[derive(Clone, Debug, Default)]
pub(super) struct Pending {
    // By client and clock, in one map, since there may be many clients with one struct each.
    structs: BTreeMap<(u64, u32), Waiting>,
    deletes: ClientRanges,
    // Dependencies of each client's first struct: (other client, its clock, the client that waits).
    waiters: BTreeSet<(u64, u32, u64)>,
    // Retries: clients whose structs have all dependencies but could not be applied, the updates
    // left until the next attempt, and the last pause.
    kept: BTreeSet<u64>,
    pause: u32,
    last_pause: u32,
    // The approximate memory of the structs, and what they will take in addition.
    bytes: usize,
    reserved: usize,
}

#[derive(Clone, Debug)]
struct Waiting {
    length: u32,
    bytes: Box<[u8]>,
}

/// A struct whose dependencies are present.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) id: Id,
    bytes: Box<[u8]>,
}

impl Ready {
    pub(super) fn read(&self) -> Result<Struct<'_>, DecodeError> {
        scan::reread(&self.bytes, self.id)
    }
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.structs.is_empty() && self.deletes.is_empty()
    }

    /// The approximate memory of all pending operations, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes + self.deletes.len() * RANGE_BYTES
    }

    /// The approximate memory that the pending operations will take in addition when they are
    /// applied, in bytes.
    pub(super) fn reserve(&self) -> usize {
        self.reserved + self.deletes.len() * (APPLIED_RANGE_BYTES - RANGE_BYTES)
    }

    /// Checks that the limit allows this much more.
    pub(super) fn check(
        &self,
        structs: &[&Struct<'_>],
        deletes: usize,
        limit: usize,
    ) -> Result<(), DecodeError> {
        let more = cost_of(structs, deletes);
        if more > 0 && self.bytes() + more > limit {
            return Err(DecodeError::TooLarge {
                what: "the number of bytes that wait for missing operations",
                limit,
            });
        }
        Ok(())
    }

    pub(super) fn knows(&self, client: u64) -> bool {
        let builds_on = |(&(of, clock), one): (&(u64, u32), &Waiting)| {
            let id = Id { client: of, clock };
            let read = scan::reread(&one.bytes, id);
            read.is_ok_and(|one| one.dependencies().any(|id| id.client == client))
        };
        self.first(client).is_some()
            || self.deletes.first(client).is_some()
            || self.structs.iter().any(builds_on)
    }

    /// Compares structs with pending ones of the same ids.
    pub(super) fn compare(&self, structs: &[Struct<'_>], comparison: &mut Comparison) {
        for group in structs.chunk_by(|a, b| a.id.client == b.id.client) {
            let client = group[0].id.client;
            let start = (client, group[0].id.clock);
            let before = self.structs.range((client, 0)..start).next_back();
            let behind = self.structs.range(start..=(client, u32::MAX));
            let runs = before.into_iter().chain(behind);
            let runs = runs.map(|(&(_, clock), one)| {
                let read = scan::reread(&one.bytes, Id { client, clock });
                let run = read.ok().as_ref().and_then(Run::of);
                (clock..clock + one.length, run)
            });
            compare_runs(group, runs, comparison);
        }
    }

    /// Adds a struct; `clock` is its client's number of known operations. Pending content is kept,
    /// even if another replica reports the operation as garbage-collected.
    pub(super) fn add(&mut self, one: &Struct<'_>, clock: u32) {
        let client = one.id.client;
        let start = (client, one.id.clock);
        let is_there =
            |known: &Waiting| known.length == one.length && known.bytes[..] == *one.bytes;
        if one.id.clock >= clock && self.structs.get(&start).is_some_and(is_there) {
            return;
        }
        // Pending structs don't overlap, so the last one before reaches furthest.
        let before = self.structs.range((client, 0)..start).next_back();
        let behind = self.structs.range(start..(client, one.end()));
        let overlapping = before
            .into_iter()
            .chain(behind)
            .filter(|((_, clock), known)| clock + known.length > one.id.clock);
        let clocks: Vec<u32> = overlapping.map(|(&(_, clock), _)| clock).collect();
        let taken: Vec<(u32, Box<[u8]>)> = clocks
            .into_iter()
            .filter_map(|clock| Some((clock, self.remove((client, clock))?)))
            .collect();
        let known = taken.iter().filter_map(|(clock, bytes)| {
            scan::reread(
                bytes,
                Id {
                    client,
                    clock: *clock,
                },
            )
            .ok()
        });
        // Pending ones come first and so take precedence.
        let mut structs: Vec<Struct<'_>> = known.chain([one.clone()]).collect();
        structs.sort_by_key(|one| one.id.clock);
        for piece in writer::pieces(&structs, clock) {
            let (clock, length) = (piece.clocks.start, piece.clocks.end - piece.clocks.start);
            let mut bytes = Vec::new();
            if writer::write_part(&mut bytes, piece.one, piece.clocks).is_ok() {
                let bytes = bytes.into_boxed_slice();
                self.bytes += cost(&bytes);
                self.reserved += reserve(&bytes);
                self.structs
                    .insert((client, clock), Waiting { length, bytes });
            }
        }
    }

    /// The pending structs with content or a place that these structs have only
    /// as garbage-collected.
    pub(super) fn more_complete<'a>(&'a self, structs: &[Struct<'_>]) -> Vec<Struct<'a>> {
        let mut more_complete = Vec::new();
        for one in structs.iter().filter(|one| is_blank(one)) {
            let client = one.id.client;
            let before = self
                .structs
                .range((client, 0)..(client, one.id.clock))
                .next_back();
            let behind = self
                .structs
                .range((client, one.id.clock)..(client, one.end()));
            for (&(_, clock), known) in before.into_iter().chain(behind) {
                let read = scan::reread(&known.bytes, Id { client, clock });
                let has_more = |found: &Struct<'_>| {
                    let is_less =
                        found.content == Content::Deleted && one.content == Content::Collected;
                    found.end() > one.id.clock && (!is_blank(found) || is_less)
                };
                more_complete.extend(read.ok().filter(has_more));
            }
        }
        more_complete
    }

    pub(super) fn add_delete(&mut self, range: IdRange) {
        self.deletes.insert(range.client, range.start, range.end);
    }

    /// Puts back a woken struct that could not be applied, for a later attempt.
    pub(super) fn keep(&mut self, one: &Struct<'_>, clock: u32) {
        self.add(one, clock);
        self.kept.insert(one.id.client);
    }

    /// The clients to be tried again, if their pause is over.
    pub(super) fn take_kept(&mut self) -> BTreeSet<u64> {
        self.pause = self.pause.saturating_sub(1);
        if self.pause > 0 {
            return BTreeSet::new();
        }
        std::mem::take(&mut self.kept)
    }

    /// Records the result of an attempt; without progress the next pause doubles.
    pub(super) fn note_try(&mut self, is_progress: bool) {
        self.last_pause = match (self.kept.is_empty(), is_progress) {
            (true, _) => 0,
            (false, true) => 1,
            (false, false) => (self.last_pause * 2).clamp(1, MAX_PAUSE),
        };
        self.pause = self.last_pause;
    }

    /// Removes and returns everything that can be applied once `progress` is reached, in a
    /// valid order.
    ///
    /// `changed` lists the clients with new or applied operations; `progress` is advanced.
    pub(super) fn wake(
        &mut self,
        engine: &Engine,
        progress: &mut Progress,
        changed: impl IntoIterator<Item = u64>,
    ) -> Vec<Ready> {
        let mut woken = Vec::new();
        let mut queue: BTreeSet<u64> = changed.into_iter().collect();
        for client in queue.clone() {
            self.notify(client, progress.clock(engine, client), &mut queue);
        }
        while let Some(client) = queue.pop_first() {
            while let Some((&key, first)) = self.first(client) {
                let clock = progress.clock(engine, client);
                let start = key.1;
                if start + first.length <= clock {
                    self.remove(key);
                    continue;
                }
                if start > clock {
                    break;
                }
                let id = Id {
                    client,
                    clock: start,
                };
                let Ok(one) = scan::reread(&first.bytes, id) else {
                    self.remove(key);
                    continue;
                };
                let missing = one
                    .dependencies_from(clock)
                    .find(|id| id.clock >= progress.clock(engine, id.client));
                if let Some(missing) = missing {
                    self.waiters.insert((missing.client, missing.clock, client));
                    break;
                }
                progress.set(client, one.end());
                let bytes = self.remove(key);
                woken.extend(bytes.map(|bytes| Ready { id, bytes }));
                self.notify(client, progress.clock(engine, client), &mut queue);
            }
        }
        woken
    }

    /// Removes and returns the deletions of operations below this clock.
    pub(super) fn wake_deletes(&mut self, client: u64, clock: u32) -> Vec<IdRange> {
        let taken = self.deletes.take_below(client, clock).into_iter();
        taken
            .map(|(start, end)| IdRange { client, start, end })
            .collect()
    }

    /// All pending operations as one update.
    pub(super) fn encode(&self, engine: &Engine) -> Option<Vec<u8>> {
        if self.is_empty() {
            return None;
        }
        let mut structs = Vec::new();
        for (&(client, clock), one) in &self.structs {
            structs.extend(scan::reread(&one.bytes, Id { client, clock }));
        }
        let deletes = self.deletes.iter();
        let deletes = deletes.map(|(client, start, end)| IdRange { client, start, end });
        writer::update(structs, deletes.collect(), |client| engine.clock(client)).ok()
    }

    fn notify(&mut self, client: u64, clock: u32, queue: &mut BTreeSet<u64>) {
        let reached = (client, 0, 0)..(client, clock, 0);
        while let Some(&waiter) = self.waiters.range(reached.clone()).next() {
            self.waiters.remove(&waiter);
            queue.insert(waiter.2);
        }
    }

    /// A client's first pending struct.
    fn first(&self, client: u64) -> Option<(&(u64, u32), &Waiting)> {
        self.structs.range((client, 0)..=(client, u32::MAX)).next()
    }

    fn remove(&mut self, key: (u64, u32)) -> Option<Box<[u8]>> {
        let Waiting { bytes, .. } = self.structs.remove(&key)?;
        self.bytes -= cost(&bytes);
        self.reserved -= reserve(&bytes);
        Some(bytes)
    }
}

/// Each client's clock if everything planned so far were applied.
#[derive(Debug, Default)]
pub(super) struct Progress {
    clocks: BTreeMap<u64, u32>,
}

impl Progress {
    pub(super) fn clock(&self, engine: &Engine, client: u64) -> u32 {
        let planned = self.clocks.get(&client).copied();
        planned.unwrap_or_else(|| engine.clock(client))
    }

    fn set(&mut self, client: u64, clock: u32) {
        self.clocks.insert(client, clock);
    }
}

/// The structs of an update that can be applied, in a valid order.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Indices of structs with new operations, each after its dependencies.
    pub(super) order: Vec<usize>,
    /// Indices of structs with missing dependencies.
    pub(super) blocked: Vec<usize>,
    pub(super) progress: Progress,
}

impl Plan {
    pub(super) fn new(engine: &Engine, scan: &Scan<'_>) -> Self {
        Self::in_order(engine, scan).unwrap_or_else(|| Self::out_of_order(engine, scan))
    }

    /// The plan that keeps the structs' order, which suits most updates.
    fn in_order(engine: &Engine, scan: &Scan<'_>) -> Option<Self> {
        let mut plan = Self::default();
        plan.order.reserve_exact(scan.structs.len());
        for (client, group) in groups(scan) {
            let mut clock = engine.clock(client);
            for index in group {
                let one = &scan.structs[index];
                if one.end() <= clock {
                    continue;
                }
                // References within a client point backwards; the scan has checked that.
                let has = |id: Id| {
                    id.client == client || id.clock < plan.progress.clock(engine, id.client)
                };
                if one.id.clock > clock || !one.dependencies_from(clock).all(has) {
                    return None;
                }
                plan.order.push(index);
                clock = one.end();
            }
            plan.progress.set(client, clock);
        }
        Some(plan)
    }

    fn out_of_order(engine: &Engine, scan: &Scan<'_>) -> Self {
        let mut plan = Self::default();
        let structs = &scan.structs;
        // One cursor per client. A cursor that waits for another client's operation is found
        // through that client.
        let cursors = groups(scan).into_iter().map(|(_, group)| group);
        let mut cursors: Vec<Range<usize>> = cursors.collect();
        let mut waiters = BTreeSet::new();
        let mut queue: std::collections::VecDeque<usize> = (0..cursors.len()).collect();
        while let Some(cursor) = queue.pop_front() {
            let Some(client) = structs.get(cursors[cursor].start).map(|one| one.id.client) else {
                continue;
            };
            while let Some(index) = cursors[cursor].clone().next() {
                let one = &structs[index];
                let clock = plan.progress.clock(engine, client);
                if one.end() > clock {
                    if one.id.clock > clock {
                        break;
                    }
                    let missing = one
                        .dependencies_from(clock)
                        .find(|id| id.clock >= plan.progress.clock(engine, id.client));
                    if let Some(missing) = missing {
                        waiters.insert((missing.client, missing.clock, cursor));
                        break;
                    }
                    plan.order.push(index);
                    plan.progress.set(client, one.end());
                }
                cursors[cursor].start += 1;
            }
            let clock = plan.progress.clock(engine, client);
            let reached = (client, 0, 0)..(client, clock, 0);
            while let Some(&waiter) = waiters.range(reached.clone()).next() {
                waiters.remove(&waiter);
                queue.push_back(waiter.2);
            }
        }
        plan.blocked = cursors.into_iter().flatten().collect();
        plan
    }
}

/// The structs of each client, higher clients first. Of concurrent insertions at one place, the
/// lower client's comes first, so each one then finds its place immediately.
fn groups(scan: &Scan<'_>) -> Vec<(u64, Range<usize>)> {
    let mut groups = Vec::new();
    let mut at = 0;
    for group in scan.structs.chunk_by(|a, b| a.id.client == b.id.client) {
        groups.push((group[0].id.client, at..at + group.len()));
        at += group.len();
    }
    groups.sort_by_key(|(client, _)| std::cmp::Reverse(*client));
    groups
}

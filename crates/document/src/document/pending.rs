//! What waits for operations that are missing, kept out of the engine so that nothing can show it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::ranges::Ranges;
use crate::engine::Engine;
use crate::update::DecodeError;
use crate::update::scan::{self, Id, IdRange, Scan, Struct};
use crate::update::writer;

/// What a part takes beside its bytes, about.
const PART_BYTES: usize = 64;

fn cost(bytes: &[u8]) -> usize {
    bytes.len() + PART_BYTES
}

/// Structs and deletions that can't be applied yet.
#[derive(Debug, Default)]
pub(super) struct Pending {
    clients: BTreeMap<u64, BTreeMap<u32, Waiting>>,
    deletes: BTreeMap<u64, Ranges>,
    // Which client's first struct waits for which operation of another client: (that client, its
    // clock, the client that waits).
    waiters: BTreeSet<(u64, u32, u64)>,
    // What all of it takes.
    bytes: usize,
}

#[derive(Debug)]
struct Waiting {
    length: u32,
    bytes: Box<[u8]>,
}

/// A struct that has waited long enough.
#[derive(Debug)]
pub(super) struct Woken {
    pub(super) id: Id,
    bytes: Box<[u8]>,
}

impl Woken {
    pub(super) fn read(&self) -> Result<Struct<'_>, DecodeError> {
        scan::reread(&self.bytes, self.id)
    }
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.clients.is_empty() && self.deletes.is_empty()
    }

    /// Whether this much more may wait.
    pub(super) fn check(
        &self,
        structs: &[&Struct<'_>],
        deletes: usize,
        limit: usize,
    ) -> Result<(), DecodeError> {
        let more: usize = structs.iter().map(|one| cost(one.bytes)).sum();
        let more = more + deletes * PART_BYTES;
        if more > 0 && self.bytes + more > limit {
            return Err(DecodeError::TooLarge {
                what: "the number of bytes that wait for missing operations",
                limit,
            });
        }
        Ok(())
    }

    pub(super) fn add(&mut self, one: &Struct<'_>) {
        let waiting = self.clients.entry(one.id.client).or_default();
        let known = waiting.get(&one.id.clock);
        if known.is_none_or(|known| known.length < one.length) {
            let (length, bytes) = (one.length, one.bytes.into());
            let known = waiting.insert(one.id.clock, Waiting { length, bytes });
            self.bytes += cost(one.bytes);
            self.bytes -= known.map_or(0, |known| cost(&known.bytes));
        }
    }

    pub(super) fn add_delete(&mut self, range: IdRange) {
        let ranges = self.deletes.entry(range.client).or_default();
        self.bytes -= ranges.len() * PART_BYTES;
        ranges.insert(range.start, range.end);
        self.bytes += ranges.len() * PART_BYTES;
    }

    /// Takes out all that can be applied once `progress` is, in an order in which it can be.
    ///
    /// `changed` are the clients of which something was added or applied; `progress` is moved on.
    pub(super) fn wake(
        &mut self,
        engine: &Engine,
        progress: &mut Progress,
        changed: impl IntoIterator<Item = u64>,
    ) -> Vec<Woken> {
        let mut woken = Vec::new();
        let mut queue: BTreeSet<u64> = changed.into_iter().collect();
        for client in queue.clone() {
            self.notify(client, progress.clock(engine, client), &mut queue);
        }
        while let Some(client) = queue.pop_first() {
            while let Some(waiting) = self.clients.get_mut(&client)
                && let Some(first) = waiting.first_entry()
            {
                let clock = progress.clock(engine, client);
                let start = *first.key();
                if start + first.get().length <= clock {
                    self.bytes -= cost(&first.remove().bytes);
                    self.forget_if_empty(client);
                    continue;
                }
                if start > clock {
                    break;
                }
                let id = Id {
                    client,
                    clock: start,
                };
                let Ok(one) = scan::reread(&first.get().bytes, id) else {
                    self.bytes -= cost(&first.remove().bytes);
                    self.forget_if_empty(client);
                    continue;
                };
                let missing = one
                    .dependencies()
                    .find(|id| id.clock >= progress.clock(engine, id.client));
                if let Some(missing) = missing {
                    self.waiters.insert((missing.client, missing.clock, client));
                    break;
                }
                progress.set(client, one.end());
                let Waiting { bytes, .. } = first.remove();
                self.bytes -= cost(&bytes);
                woken.push(Woken { id, bytes });
                self.forget_if_empty(client);
                self.notify(client, progress.clock(engine, client), &mut queue);
            }
        }
        woken
    }

    /// The clients of which something is to be deleted that is there by now, and how far they are.
    pub(super) fn clients_to_delete(&self, engine: &Engine) -> Vec<(u64, u32)> {
        let clients = self.deletes.iter().filter_map(|(&client, ranges)| {
            let clock = engine.clock(client);
            let (first, _) = ranges.iter().next()?;
            (first < clock).then_some((client, clock))
        });
        clients.collect()
    }

    /// Takes out the deletions of operations below this clock.
    pub(super) fn wake_deletes(&mut self, client: u64, clock: u32) -> Vec<IdRange> {
        let Some(ranges) = self.deletes.get_mut(&client) else {
            return Vec::new();
        };
        self.bytes -= ranges.len() * PART_BYTES;
        let taken = ranges.take_below(clock);
        self.bytes += ranges.len() * PART_BYTES;
        if ranges.is_empty() {
            self.deletes.remove(&client);
        }
        let taken = taken.into_iter();
        taken
            .map(|(start, end)| IdRange { client, start, end })
            .collect()
    }

    /// One update of all that waits.
    pub(super) fn encode(&self) -> Option<Vec<u8>> {
        if self.is_empty() {
            return None;
        }
        let mut structs = Vec::new();
        for (&client, waiting) in &self.clients {
            for (&clock, one) in waiting {
                structs.extend(scan::reread(&one.bytes, Id { client, clock }));
            }
        }
        let mut deletes = Vec::new();
        for (&client, ranges) in &self.deletes {
            let ranges = ranges.iter();
            deletes.extend(ranges.map(|(start, end)| IdRange { client, start, end }));
        }
        writer::update(structs, deletes, |_| 0).ok()
    }

    fn notify(&mut self, client: u64, clock: u32, queue: &mut BTreeSet<u64>) {
        let reached = (client, 0, 0)..(client, clock, 0);
        while let Some(&waiter) = self.waiters.range(reached.clone()).next() {
            self.waiters.remove(&waiter);
            queue.insert(waiter.2);
        }
    }

    fn forget_if_empty(&mut self, client: u64) {
        if self.clients.get(&client).is_some_and(BTreeMap::is_empty) {
            self.clients.remove(&client);
        }
    }
}

/// How far each client would be if what was planned so far were applied.
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

/// Which structs of an update can be applied, and in which order.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Indices of structs that hold something new, each after all that it depends on.
    pub(super) order: Vec<usize>,
    /// Indices of structs that have to wait.
    pub(super) blocked: Vec<usize>,
    pub(super) progress: Progress,
}

impl Plan {
    pub(super) fn new(engine: &Engine, scan: &Scan<'_>) -> Self {
        Self::in_order(engine, scan).unwrap_or_else(|| Self::out_of_order(engine, scan))
    }

    /// All structs one after the other, which is how most updates come.
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
                // References to its own client's operations lead back, as the scan has seen to.
                let has = |id: Id| {
                    id.client == client || id.clock < plan.progress.clock(engine, id.client)
                };
                if one.id.clock > clock || !one.dependencies().all(has) {
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
        // One cursor per client; a cursor that waits for another client's operation is found by it.
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
                        .dependencies()
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

/// The structs of each client; higher clients first, since of what was made at one place at the same time
/// the lower client's comes first, and each of them then finds its place at once.
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

//! Updates in and out: what they are, what of them becomes visible, what waits.

use std::collections::{BTreeSet, HashSet};

use yrs::updates::decoder::Decode;
use yrs::{ClientID, IdSet, ReadTxn, StateVector, Transact, TransactionMut, Update};

use super::MeshDocument;
use super::event::{Before, Origin};
use super::history::{NodeIndex, NodeKind, Owner};
use super::pending::{Plan, Woken};
use crate::schema::ID_ATTRIBUTE;
use crate::update::scan::{Id, IdRange, Scan, Struct};
use crate::update::{self, Applied, DecodeError, UpdateKind, writer};

/// How many levels of elements the engine deletes at once; it does so recursively.
const DELETE_DEPTH: u32 = 1_024;

impl MeshDocument {
    /// What an update is to this document, which stays as it is.
    ///
    /// # Errors
    /// [`DecodeError`] if it is malformed.
    pub fn classify(&self, update: &[u8]) -> Result<UpdateKind, DecodeError> {
        let scan = Scan::read(update)?;
        if scan.is_empty() {
            return Ok(UpdateKind::Empty);
        }
        if self.contains(&scan) {
            return Ok(UpdateKind::Contained);
        }
        let plan = Plan::new(&self.history, &scan);
        let beyond = |range: &IdRange| range.end > plan.progress.clock(&self.history, range.client);
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
        let scan = Scan::read(update)?;
        if scan.is_empty() || self.contains(&scan) {
            return Ok(Applied::default());
        }
        let mut plan = Plan::new(&self.history, &scan);
        let mut fitting: Vec<Struct<'_>> = Vec::with_capacity(plan.order.len());
        fitting.extend(plan.order.iter().map(|&index| scan.structs[index].clone()));
        // If nothing waits, the update is taken up as a whole or not at all further down.
        let may_wait = !plan.blocked.is_empty()
            || !self.pending.is_empty()
            || scan
                .deletes
                .iter()
                .any(|range| range.end > plan.progress.clock(&self.history, range.client));
        if may_wait {
            self.check(&fitting)?;
        }
        let mut changed: BTreeSet<u64> =
            plan.progress.clients().map(|(client, _)| client).collect();
        for &index in &plan.blocked {
            self.pending.add(&scan.structs[index]);
            changed.insert(scan.structs[index].id.client);
        }
        let woken = if self.pending.is_empty() {
            Vec::new()
        } else {
            self.pending
                .wake(&self.history, &mut plan.progress, changed)
        };
        let own = fitting.len();
        fitting.extend(woken.iter().filter_map(|one| Woken::read(one).ok()));
        if fitting.len() > own && self.check(&fitting).is_err() {
            // Something that waited turned out to lead nowhere, so it is given up.
            fitting.truncate(own);
            plan.progress = Plan::new(&self.history, &scan).progress;
        }

        let mut deletes = Vec::new();
        let mut gap = !plan.blocked.is_empty();
        for &range in &scan.deletes {
            let clock = plan.progress.clock(&self.history, range.client);
            if range.end > clock {
                let start = range.start.max(clock);
                self.pending.add_delete(IdRange { start, ..range });
                gap = true;
            }
            if range.start < clock {
                let end = range.end.min(clock);
                deletes.push(IdRange { end, ..range });
            }
        }
        let reached: Vec<(u64, u32)> = plan.progress.clients().collect();
        for (client, clock) in reached {
            deletes.extend(self.pending.wake_deletes(client, clock));
        }
        gap &= !self.pending.is_empty();

        let is_whole = !scan.has_filler
            && fitting.len() == own
            && plan.blocked.is_empty()
            && own == scan.structs.len()
            && fitting
                .iter()
                .all(|one| one.id.clock >= self.history.clock(one.id.client))
            && deletes == scan.deletes;
        let visible = if is_whole {
            Some(update.to_vec())
        } else {
            self.encode_new(&fitting, &deletes)?
        };
        if let Some(visible) = &visible {
            self.integrate(&fitting, &deletes, visible)?;
            self.epoch += 1;
            self.close_event(Origin::Remote);
        }
        Ok(Applied { visible, gap })
    }

    /// The state vector (v1) of what is visible.
    pub fn state_vector(&self) -> Vec<u8> {
        let mut out = Vec::new();
        writer::unsigned(&mut out, self.history.clocks().count() as u64);
        for (client, clock) in self.history.clocks() {
            writer::unsigned(&mut out, client);
            writer::unsigned(&mut out, clock.into());
        }
        out
    }

    /// All that is visible, as one v1 update.
    pub fn encode_state(&self) -> Vec<u8> {
        self.doc.transact().encode_diff_v1(&StateVector::default())
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
        let clocks = clocks
            .into_iter()
            .filter(|&(client, _)| self.history.clock(client) > 0);
        let clocks = clocks.map(|(client, clock)| (ClientID::new(client), clock));
        let vector: StateVector = clocks.collect();
        Ok(self.doc.transact().encode_diff_v1(&vector))
    }

    fn contains(&self, scan: &Scan<'_>) -> bool {
        let is_known = |one: &Struct<'_>| one.end() <= self.history.clock(one.id.client);
        scan.structs.iter().all(is_known)
            && scan
                .deletes
                .iter()
                .all(|&range| self.history.is_deleted(range))
    }

    /// Whether these structs, each after all that it depends on, have places to go to.
    fn check(&mut self, structs: &[Struct<'_>]) -> Result<(), DecodeError> {
        let mut checkpoint = self.history.checkpoint();
        let result = structs
            .iter()
            .try_for_each(|one| self.history.append(one, &mut checkpoint).map(drop));
        self.history.roll_back(checkpoint);
        result
    }

    /// An update of just what is new; `None` if nothing is.
    fn encode_new(
        &self,
        structs: &[Struct<'_>],
        deletes: &[IdRange],
    ) -> Result<Option<Vec<u8>>, DecodeError> {
        let mut new_deletes = Vec::new();
        for &range in deletes {
            new_deletes.extend(self.history.not_deleted(range));
            let known = self.history.clock(range.client);
            if range.end > known {
                let start = range.start.max(known);
                new_deletes.push(IdRange { start, ..range });
            }
        }
        if structs.is_empty() && new_deletes.is_empty() {
            return Ok(None);
        }
        let known = |client| self.history.clock(client);
        writer::update(structs.to_vec(), new_deletes, known).map(Some)
    }

    /// Gives an update to the engine whose structs and deletions all fit.
    pub(super) fn integrate(
        &mut self,
        structs: &[Struct<'_>],
        deletes: &[IdRange],
        bytes: &[u8],
    ) -> Result<(), DecodeError> {
        let decoded = decode(bytes)?;
        let mut checkpoint = self.history.checkpoint();
        let mut owners = Vec::with_capacity(structs.len());
        for one in structs {
            match self.history.append(one, &mut checkpoint) {
                Ok(owner) => owners.push(owner),
                Err(error) => {
                    self.history.roll_back(checkpoint);
                    return Err(error);
                }
            }
        }
        let before = self.look_before(structs, &owners, deletes);
        self.delete_deep_first(deletes)?;
        let deleted = {
            let mut transaction = self.doc.transact_mut();
            apply(&mut transaction, decoded)?;
            debug_assert!(
                !transaction.has_missing_updates(),
                "gaps stay outside the engine"
            );
            ranges(transaction.delete_set())
        };
        let made = self.history.nodes_since(&checkpoint);
        self.settle(made, &owners, &deleted, before);
        Ok(())
    }

    /// Edits by the engine's own calls; the update of what they did.
    pub(super) fn edit_directly(
        &mut self,
        mut before: Before,
        edit: impl FnOnce(&mut TransactionMut<'_>),
    ) -> Vec<u8> {
        let (bytes, deleted) = {
            let mut transaction = self.doc.transact_mut();
            edit(&mut transaction);
            (
                transaction.encode_update_v1(),
                ranges(transaction.delete_set()),
            )
        };
        let scan = Scan::read(&bytes).expect("the engine writes what it reads");
        let mut checkpoint = self.history.checkpoint();
        let structs = scan.structs.iter();
        let owners = structs.map(|one| self.history.append(one, &mut checkpoint));
        let owners: Result<Vec<Owner>, DecodeError> = owners.collect();
        let owners = owners.expect("the engine makes no misplaced operations");
        before.count(&self.look_before(&scan.structs, &owners, &deleted));
        let made = self.history.nodes_since(&checkpoint);
        self.settle(made, &owners, &deleted, before);
        bytes
    }

    /// Brings the index up to date after a transaction.
    fn settle(
        &mut self,
        made: std::ops::Range<NodeIndex>,
        touched: &[Owner],
        deleted: &[IdRange],
        before: Before,
    ) {
        for node in made.clone() {
            if matches!(self.history.node(node).kind, NodeKind::Element(_)) {
                self.ids.count_up();
            }
        }
        let id_key = self.history.key(ID_ATTRIBUTE);
        let mut renamed: BTreeSet<NodeIndex> = BTreeSet::new();
        for owner in touched {
            if let &Owner::Key(node, key) = owner
                && key == id_key
            {
                renamed.insert(node);
            }
        }
        let mut died = BTreeSet::new();
        for &range in deleted {
            for (_, owner) in self.history.owners(range) {
                match owner {
                    Owner::Made(node) => {
                        died.insert(node);
                    }
                    Owner::Key(node, key) if key == id_key => {
                        renamed.insert(node);
                    }
                    Owner::Foreign(_) | Owner::Key(..) | Owner::Nothing | Owner::Within(_) => {}
                }
            }
        }
        for &range in deleted {
            self.history.delete(range);
        }
        self.look_after(before, &made, &died);
        for node in died {
            self.bury(node);
            renamed.remove(&node);
        }
        for node in renamed {
            self.reindex(node);
        }
        for owner in touched {
            match *owner {
                Owner::Foreign(node) | Owner::Key(node, _) => self.suspect(node),
                Owner::Made(node) => {
                    self.suspect(node);
                    self.suspect(self.history.node(node).parent);
                }
                Owner::Nothing | Owner::Within(_) => {}
            }
        }
    }

    fn bury(&mut self, index: NodeIndex) {
        let node = self.history.node_mut(index);
        if std::mem::replace(&mut node.is_dead, true) {
            return;
        }
        let is_element = matches!(node.kind, NodeKind::Element(_));
        if let Some(id) = node.element_id.take() {
            self.ids.remove(&id, index);
        }
        if is_element {
            self.ids.count_down();
        }
    }

    fn reindex(&mut self, index: NodeIndex) {
        let node = self.history.node(index);
        if node.is_dead || !matches!(node.kind, NodeKind::Element(_)) {
            return;
        }
        let current = self.read_id(index);
        let node = self.history.node_mut(index);
        if node.element_id.as_deref() == current.as_deref() {
            return;
        }
        if let Some(old) = node.element_id.take() {
            self.ids.remove(&old, index);
        }
        if let Some(id) = current {
            let id = self.ids.insert(&id, index);
            let same = self.ids.get(&id).to_vec();
            if same.len() > 1 {
                for node in same {
                    self.suspect(node);
                }
            }
            self.history.node_mut(index).element_id = Some(id);
        }
    }

    /// Deletes what is far below the nodes that an update deletes, lowest first, so that the engine
    /// never recurses deep.
    fn delete_deep_first(&mut self, deletes: &[IdRange]) -> Result<(), DecodeError> {
        if self.history.deepest() < DELETE_DEPTH {
            return Ok(());
        }
        let mut tops = BTreeSet::new();
        for &range in deletes {
            for (_, owner) in self.history.owners(range) {
                if let Owner::Made(node) = owner
                    && !self.history.node(node).is_dead
                {
                    tops.insert((self.history.node(node).depth, node));
                }
            }
        }
        // From the top, so that every node is looked at once.
        let mut seen = HashSet::new();
        let mut cuts = Vec::new();
        for (_, top) in tops {
            if seen.contains(&top) {
                continue;
            }
            for node in self.descendants(top) {
                let is_cut = self.history.node(node).depth.is_multiple_of(DELETE_DEPTH);
                if seen.insert(node) && is_cut {
                    cuts.push(node);
                }
            }
        }
        // What goes with its parent is no event of its own.
        let watch = self.watch.take();
        cuts.sort_by_key(|&node| std::cmp::Reverse(self.history.node(node).depth));
        for node in cuts {
            let Id { client, clock } = self.history.node(node).id;
            let cut = IdRange {
                client,
                start: clock,
                end: clock + 1,
            };
            if self.history.is_deleted(cut) {
                continue;
            }
            let bytes = writer::update(Vec::new(), vec![cut], |_| 0)?;
            let decoded = decode(&bytes)?;
            let deleted = {
                let mut transaction = self.doc.transact_mut();
                apply(&mut transaction, decoded)?;
                ranges(transaction.delete_set())
            };
            self.settle(0..0, &[], &deleted, Before::default());
        }
        self.watch = watch;
        Ok(())
    }
}

fn decode(bytes: &[u8]) -> Result<Update, DecodeError> {
    Update::decode_v1(bytes).map_err(|_| DecodeError::Malformed {
        offset: 0,
        reason: "the engine can't read it",
    })
}

fn apply(transaction: &mut TransactionMut<'_>, update: Update) -> Result<(), DecodeError> {
    let result = transaction.apply_update(update);
    result.map_err(|_| DecodeError::Malformed {
        offset: 0,
        reason: "the engine can't apply it",
    })
}

fn ranges(set: &IdSet) -> Vec<IdRange> {
    let mut ranges = Vec::new();
    for (client, clocks) in set.iter() {
        let client = client.get();
        ranges.extend(clocks.iter().map(|range| IdRange {
            client,
            start: range.start,
            end: range.end,
        }));
    }
    ranges
}

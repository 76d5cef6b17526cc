//! The index of elements by `$id`, and their number.
//!
//! The `$id`s themselves stay in the elements; the index maps hashes to nodes.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use crate::engine::{Content, Engine, ID_KEY, NodeIndex};

#[derive(Clone, Debug, Default)]
pub(super) struct Ids {
    holders: HashTable<Holders>,
    hasher: RandomState,
    live: usize,
}

/// The nodes that have an `$id`. Concurrent edits can give the same one to several.
#[derive(Clone, Debug)]
enum Holders {
    One(NodeIndex),
    // Invariant: at least two. Boxed, since it is rare.
    #[expect(clippy::box_collection, reason = "an entry with one node stays small")]
    Many(Box<BTreeSet<NodeIndex>>),
}

impl Holders {
    fn has(&self, node: NodeIndex) -> bool {
        match self {
            Self::One(other) => *other == node,
            Self::Many(nodes) => nodes.contains(&node),
        }
    }

    fn any(&self) -> NodeIndex {
        match self {
            Self::One(node) => *node,
            Self::Many(nodes) => nodes.first().copied().unwrap_or_default(),
        }
    }
}

/// The `$id` of a node.
pub(super) fn id_of(engine: &Engine, node: NodeIndex) -> Option<&str> {
    engine.value(node, ID_KEY).and_then(Content::as_str)
}

impl Ids {
    /// The number of live elements, with or without an `$id`.
    pub(super) fn live(&self) -> usize {
        self.live
    }

    pub(super) fn count_up(&mut self) {
        self.live += 1;
    }

    pub(super) fn count_down(&mut self) {
        self.live = self.live.saturating_sub(1);
    }

    fn holders(&self, engine: &Engine, id: &str) -> Option<&Holders> {
        let is_wanted = |holders: &Holders| id_of(engine, holders.any()) == Some(id);
        self.holders.find(self.hash(id), is_wanted)
    }

    fn hash(&self, id: &str) -> u64 {
        self.hasher.hash_one(id).max(1)
    }

    /// Reserves space for more elements.
    pub(super) fn reserve(&mut self, more: usize, engine: &Engine) {
        let hash = |holders: &Holders| engine.node(holders.any()).id_hash;
        self.holders.reserve(more, hash);
    }

    /// The nodes with this `$id`.
    pub(super) fn get(&self, engine: &Engine, id: &str) -> Vec<NodeIndex> {
        match self.holders(engine, id) {
            None => Vec::new(),
            Some(Holders::One(node)) => vec![*node],
            Some(Holders::Many(nodes)) => nodes.iter().copied().collect(),
        }
    }

    /// The only node with this `$id`, or the number of such nodes.
    pub(super) fn only(&self, engine: &Engine, id: &str) -> Result<NodeIndex, usize> {
        match self.holders(engine, id) {
            None => Err(0),
            Some(Holders::One(node)) => Ok(*node),
            Some(Holders::Many(nodes)) => Err(nodes.len()),
        }
    }

    /// All nodes that share this node's `$id`, if there are several; found without reading
    /// the `$id`.
    pub(super) fn namesakes(
        &self,
        engine: &Engine,
        node: NodeIndex,
    ) -> Option<&BTreeSet<NodeIndex>> {
        let is_wanted = |holders: &Holders| holders.has(node);
        match self.holders.find(engine.node(node).id_hash, is_wanted)? {
            Holders::One(_) => None,
            Holders::Many(nodes) => Some(nodes),
        }
    }

    /// Enters a node under its current `$id` only. Returns the node that had the `$id` alone
    /// before, or `node` itself if several had it.
    pub(super) fn file(&mut self, engine: &mut Engine, node: NodeIndex) -> Option<NodeIndex> {
        let hash = id_of(engine, node).map(|id| self.hash(id));
        self.remove(engine, node);
        let hash = hash?;
        engine.node_mut(node).id_hash = hash;
        let engine = &*engine;
        let id = id_of(engine, node);
        let is_wanted = |holders: &Holders| id_of(engine, holders.any()) == id;
        match self.holders.find_mut(hash, is_wanted) {
            Some(Holders::Many(nodes)) => {
                nodes.insert(node);
                Some(node)
            }
            Some(holders) => {
                let other = holders.any();
                *holders = Holders::Many(Box::new(BTreeSet::from([other, node])));
                Some(other)
            }
            None => {
                let rehash = |holders: &Holders| engine.node(holders.any()).id_hash;
                self.holders.insert_unique(hash, Holders::One(node), rehash);
                None
            }
        }
    }

    /// Removes a node, whose `$id` may already be deleted.
    pub(super) fn remove(&mut self, engine: &mut Engine, node: NodeIndex) {
        let hash = std::mem::take(&mut engine.node_mut(node).id_hash);
        if hash == 0 {
            return;
        }
        let is_wanted = |holders: &Holders| holders.has(node);
        let Ok(mut entry) = self.holders.find_entry(hash, is_wanted) else {
            return;
        };
        if let Holders::Many(nodes) = entry.get_mut() {
            nodes.remove(&node);
            if let Some(&last) = nodes.first()
                && nodes.len() == 1
            {
                *entry.get_mut() = Holders::One(last);
            }
            return;
        }
        entry.remove();
    }
}

//! Finds elements by `$id`, and counts them.
//!
//! The `$id`s themselves stay with the elements; here is just who has which hash.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use crate::engine::{Content, Engine, ID_KEY, NodeIndex};

#[derive(Clone, Debug, Default)]
pub(super) struct Ids {
    claims: HashTable<Claim>,
    hasher: RandomState,
    live: usize,
}

/// Who carries an `$id`. Concurrent edits can give the same one to several.
#[derive(Clone, Debug)]
enum Claim {
    One(NodeIndex),
    // Invariant: at least two. Boxed, for it is rare.
    #[expect(
        clippy::box_collection,
        reason = "a claim is small as long as it is the only one"
    )]
    Many(Box<BTreeSet<NodeIndex>>),
}

impl Claim {
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
    /// How many elements are alive, with or without an `$id`.
    pub(super) fn live(&self) -> usize {
        self.live
    }

    pub(super) fn count_up(&mut self) {
        self.live += 1;
    }

    pub(super) fn count_down(&mut self) {
        self.live = self.live.saturating_sub(1);
    }

    fn claim(&self, engine: &Engine, id: &str) -> Option<&Claim> {
        let is_it = |claim: &Claim| id_of(engine, claim.any()) == Some(id);
        self.claims.find(self.hash(id), is_it)
    }

    fn hash(&self, id: &str) -> u64 {
        self.hasher.hash_one(id).max(1)
    }

    /// Makes room for so many more.
    pub(super) fn reserve(&mut self, more: usize, engine: &Engine) {
        let hash = |claim: &Claim| engine.node(claim.any()).id_hash;
        self.claims.reserve(more, hash);
    }

    /// The nodes with this `$id`.
    pub(super) fn get(&self, engine: &Engine, id: &str) -> Vec<NodeIndex> {
        match self.claim(engine, id) {
            None => Vec::new(),
            Some(Claim::One(node)) => vec![*node],
            Some(Claim::Many(nodes)) => nodes.iter().copied().collect(),
        }
    }

    /// The only node with this `$id`, or else how many there are.
    pub(super) fn only(&self, engine: &Engine, id: &str) -> Result<NodeIndex, usize> {
        match self.claim(engine, id) {
            None => Err(0),
            Some(Claim::One(node)) => Ok(*node),
            Some(Claim::Many(nodes)) => Err(nodes.len()),
        }
    }

    /// All nodes with the `$id` of this one, if there are several; found without a look at the `$id`.
    pub(super) fn namesakes(
        &self,
        engine: &Engine,
        node: NodeIndex,
    ) -> Option<&BTreeSet<NodeIndex>> {
        let is_it = |claim: &Claim| claim.has(node);
        match self.claims.find(engine.node(node).id_hash, is_it)? {
            Claim::One(_) => None,
            Claim::Many(nodes) => Some(nodes),
        }
    }

    /// Files a node under its present `$id`, and under no other one. Gives the node that had it alone
    /// before, or itself if several had.
    pub(super) fn file(&mut self, engine: &mut Engine, node: NodeIndex) -> Option<NodeIndex> {
        let hash = id_of(engine, node).map(|id| self.hash(id));
        self.remove(engine, node);
        let hash = hash?;
        engine.node_mut(node).id_hash = hash;
        let engine = &*engine;
        let id = id_of(engine, node);
        let is_it = |claim: &Claim| id_of(engine, claim.any()) == id;
        match self.claims.find_mut(hash, is_it) {
            Some(Claim::Many(nodes)) => {
                nodes.insert(node);
                Some(node)
            }
            Some(claim) => {
                let other = claim.any();
                *claim = Claim::Many(Box::new(BTreeSet::from([other, node])));
                Some(other)
            }
            None => {
                let rehash = |claim: &Claim| engine.node(claim.any()).id_hash;
                self.claims.insert_unique(hash, Claim::One(node), rehash);
                None
            }
        }
    }

    /// Takes a node out; its `$id` may be gone already.
    pub(super) fn remove(&mut self, engine: &mut Engine, node: NodeIndex) {
        let hash = std::mem::take(&mut engine.node_mut(node).id_hash);
        if hash == 0 {
            return;
        }
        let is_it = |claim: &Claim| claim.has(node);
        let Ok(mut entry) = self.claims.find_entry(hash, is_it) else {
            return;
        };
        if let Claim::Many(nodes) = entry.get_mut() {
            nodes.remove(&node);
            if let Some(&last) = nodes.first()
                && nodes.len() == 1
            {
                *entry.get_mut() = Claim::One(last);
            }
            return;
        }
        entry.remove();
    }
}

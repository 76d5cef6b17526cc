//! Which operations a document knows, and which node each of them belongs to.
//!
//! The engine answers neither question without a walk over the document, so this keeps a compact
//! account beside it: for each client runs of clocks, each with the node and the key that they belong
//! to. It never looks at values. What an update touches follows from the update alone.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::ranges::Ranges;
use crate::update::DecodeError;
use crate::update::scan::{Content, Id, IdRange, Parent, Struct, TypeKind};

/// The root type with the element tree.
pub(super) const ROOT: &str = "xml";

/// The root type with the root element's attributes, as far as they were written here.
pub(super) const ROOT_ATTRIBUTES: &str = "xml.attributes";

/// The node of [`ROOT`].
pub(super) const ROOT_NODE: NodeIndex = 0;

/// The node of [`ROOT_ATTRIBUTES`].
pub(super) const ROOT_ATTRIBUTES_NODE: NodeIndex = 1;

/// How deep shared types may nest inside an attribute. The engine deletes them recursively, and no SDK
/// makes any.
const MAX_DEPTH_IN_ATTRIBUTE: u32 = 64;

pub(super) type NodeIndex = u32;
pub(super) type KeyIndex = u32;

const NONE: u32 = u32::MAX;
const SEQUENCE: KeyIndex = u32::MAX - 1;
const ITSELF: KeyIndex = u32::MAX - 2;
const FOREIGN: KeyIndex = u32::MAX - 3;

/// What an operation belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// It is something in this node that has no business in an element tree.
    Foreign(NodeIndex),
    /// It was collected, and nothing is known of it.
    Nothing,
    /// It made this node.
    Made(NodeIndex),
    /// It is a value of this key of a node.
    Key(NodeIndex, KeyIndex),
    /// It is a part of what this node holds in order, but not a node itself.
    Within(NodeIndex),
}

/// A shared type of the document, dead ones included.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) id: Id,
    pub(super) kind: NodeKind,
    pub(super) parent: NodeIndex,
    /// The attribute of the parent that it is the value of, which only foreign documents have.
    pub(super) key: Option<KeyIndex>,
    /// How many nodes are above it.
    pub(super) depth: u32,
    depth_in_attribute: u32,
    pub(super) is_dead: bool,
    /// The child that was appended last, which may be gone, or have others behind it.
    pub(super) last_child: Option<NodeIndex>,
    /// Whether it is to be checked against the schema.
    pub(super) is_suspect: bool,
    /// Whether it ever held anything else than elements and texts.
    pub(super) is_mixed: bool,
    /// The `$id` under which it is found.
    pub(super) element_id: Option<Arc<str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NodeKind {
    /// An element with this tag.
    Element(KeyIndex),
    /// A shared type that has no business in an element tree.
    Foreign,
    Root,
    Text,
}

#[derive(Debug, Default)]
struct Client {
    clock: u32,
    // Invariant: in order of `start`, the first at 0; a run ends where the next begins.
    runs: Vec<Run>,
    deleted: Ranges,
}

#[derive(Clone, Copy, Debug)]
struct Run {
    start: u32,
    node: NodeIndex,
    key: KeyIndex,
}

#[derive(Debug)]
pub(super) struct History {
    clients: BTreeMap<u64, Client>,
    nodes: Vec<Node>,
    roots: BTreeMap<Box<str>, NodeIndex>,
    names: Vec<Arc<str>>,
    name_index: HashMap<Arc<str>, KeyIndex>,
    deepest: u32,
}

/// To take back what [`History::append`] did.
#[derive(Debug, Default)]
pub(super) struct Checkpoint {
    nodes: usize,
    clients: BTreeMap<u64, (u32, usize)>,
}

impl History {
    pub(super) fn new() -> Self {
        let mut history = Self {
            clients: BTreeMap::new(),
            nodes: Vec::new(),
            roots: BTreeMap::new(),
            names: Vec::new(),
            name_index: HashMap::new(),
            deepest: 0,
        };
        history.root(ROOT);
        history.root(ROOT_ATTRIBUTES);
        history
    }

    pub(super) fn is_empty(&self) -> bool {
        self.clients.values().all(|client| client.clock == 0)
    }

    /// How many operations of a client are known.
    pub(super) fn clock(&self, client: u64) -> u32 {
        self.clients.get(&client).map_or(0, |client| client.clock)
    }

    pub(super) fn clocks(&self) -> impl Iterator<Item = (u64, u32)> {
        let known = self.clients.iter().filter(|(_, client)| client.clock > 0);
        known.map(|(&id, client)| (id, client.clock))
    }

    pub(super) fn is_deleted(&self, range: IdRange) -> bool {
        let client = self.clients.get(&range.client);
        client.is_some_and(|client| client.deleted.contains(range.start, range.end))
    }

    /// The parts of a range of known operations that are not deleted yet.
    pub(super) fn not_deleted(&self, range: IdRange) -> Vec<IdRange> {
        let Some(client) = self.clients.get(&range.client) else {
            return Vec::new();
        };
        let parts = client
            .deleted
            .missing(range.start, range.end.min(client.clock));
        let parts = parts.into_iter().map(|(start, end)| IdRange {
            start,
            end,
            ..range
        });
        parts.collect()
    }

    pub(super) fn node(&self, index: NodeIndex) -> &Node {
        &self.nodes[index as usize]
    }

    pub(super) fn node_mut(&mut self, index: NodeIndex) -> &mut Node {
        &mut self.nodes[index as usize]
    }

    /// How many nodes there have been.
    pub(super) fn node_count(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn deepest(&self) -> u32 {
        self.deepest
    }

    /// All operations of an owner that are not deleted.
    pub(super) fn owned_by(&self, is_owner: impl Fn(Owner) -> bool) -> Vec<IdRange> {
        let mut owned = Vec::new();
        for (&client, known) in &self.clients {
            let all = IdRange {
                client,
                start: 0,
                end: known.clock,
            };
            for (part, owner) in self.owners(all) {
                if is_owner(owner) {
                    owned.extend(self.not_deleted(part));
                }
            }
        }
        owned
    }

    /// Root types other than the two that a document consists of.
    pub(super) fn foreign_roots(&self) -> impl Iterator<Item = (&str, NodeIndex)> {
        let roots = self.roots.iter().map(|(name, &node)| (&**name, node));
        roots.filter(|&(_, node)| node != ROOT_NODE && node != ROOT_ATTRIBUTES_NODE)
    }

    pub(super) fn name(&self, key: KeyIndex) -> &Arc<str> {
        &self.names[key as usize]
    }

    pub(super) fn key(&mut self, name: &str) -> KeyIndex {
        if let Some(&key) = self.name_index.get(name) {
            return key;
        }
        let key = index(self.names.len());
        let name: Arc<str> = name.into();
        self.names.push(Arc::clone(&name));
        self.name_index.insert(name, key);
        key
    }

    /// The node that an operation made.
    pub(super) fn made_by(&self, id: Id) -> Option<NodeIndex> {
        match self.owner(id) {
            Owner::Made(node) => Some(node),
            Owner::Foreign(_) | Owner::Nothing | Owner::Key(..) | Owner::Within(_) => None,
        }
    }

    pub(super) fn owner(&self, id: Id) -> Owner {
        let Some(client) = self.clients.get(&id.client) else {
            return Owner::Nothing;
        };
        let after = client.runs.partition_point(|run| run.start <= id.clock);
        match after.checked_sub(1) {
            Some(at) if id.clock < client.clock => client.runs[at].owner(),
            _ => Owner::Nothing,
        }
    }

    /// The owners of a range of operations, each once per run.
    pub(super) fn owners(&self, range: IdRange) -> impl Iterator<Item = (IdRange, Owner)> {
        let runs = self
            .clients
            .get(&range.client)
            .map_or(&[][..], |client| &client.runs);
        let first = runs.partition_point(|run| run.start <= range.start);
        let first = first.saturating_sub(1);
        let runs = runs[first..].iter().enumerate();
        let runs = runs.take_while(move |(_, run)| run.start < range.end);
        runs.map(move |(at, run)| {
            let known = &self.clients[&range.client];
            let next = known.runs.get(first + at + 1);
            let end = next.map_or(known.clock, |next| next.start);
            let part = IdRange {
                start: run.start.max(range.start),
                end: end.min(range.end),
                ..range
            };
            (part, run.owner())
        })
    }

    /// Takes up one struct whose dependencies are all known and that begins where its client stands,
    /// or overlaps what is known of it.
    ///
    /// # Errors
    /// If the struct has no place it could go to; the history is as it was.
    pub(super) fn append(
        &mut self,
        one: &Struct<'_>,
        checkpoint: &mut Checkpoint,
    ) -> Result<Owner, DecodeError> {
        let clock = self.clock(one.id.client);
        let owner = if one.id.clock < clock && one.content != Content::Collected {
            // Only the rest is new, and that stands behind what is known.
            let before = Id {
                clock: clock - 1,
                ..one.id
            };
            self.resolve(&Struct {
                origin: Some(before),
                parent: Parent::Copied,
                key: None,
                ..one.clone()
            })?
        } else {
            self.resolve(one)?
        };
        let client = self.clients.entry(one.id.client).or_default();
        let mark = (client.clock, client.runs.len());
        checkpoint.clients.entry(one.id.client).or_insert(mark);
        let run = Run::new(client.clock, owner);
        let continues = client
            .runs
            .last()
            .is_some_and(|last| last.node == run.node && last.key == run.key && run.key != ITSELF);
        if !continues {
            client.runs.push(run);
        }
        client.clock = one.end();
        Ok(owner)
    }

    pub(super) fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            nodes: self.nodes.len(),
            clients: BTreeMap::new(),
        }
    }

    pub(super) fn roll_back(&mut self, checkpoint: Checkpoint) {
        for (id, (clock, runs)) in checkpoint.clients {
            if let Some(client) = self.clients.get_mut(&id) {
                client.clock = clock;
                client.runs.truncate(runs);
            }
        }
        self.nodes.truncate(checkpoint.nodes);
        self.roots
            .retain(|_, &mut node| (node as usize) < checkpoint.nodes);
    }

    /// The nodes that were made since.
    pub(super) fn nodes_since(&self, checkpoint: &Checkpoint) -> std::ops::Range<NodeIndex> {
        index(checkpoint.nodes)..index(self.nodes.len())
    }

    pub(super) fn delete(&mut self, range: IdRange) {
        let client = self.clients.entry(range.client).or_default();
        client.deleted.insert(range.start, range.end);
    }

    fn resolve(&mut self, one: &Struct<'_>) -> Result<Owner, DecodeError> {
        if one.content == Content::Collected {
            return Ok(Owner::Nothing);
        }
        let place = match one.parent {
            Parent::Root(name) => Some((self.root(name), one.key.map(|key| self.key(key)))),
            Parent::Item(id) => match self.owner(id) {
                Owner::Made(node) => Some((node, one.key.map(|key| self.key(key)))),
                Owner::Nothing => None,
                Owner::Foreign(_) | Owner::Key(..) | Owner::Within(_) => {
                    let start = id.clock;
                    let parent = IdRange {
                        client: id.client,
                        start,
                        end: start + 1,
                    };
                    if !self.is_deleted(parent) {
                        return Err(misplaced("a parent that can't have children"));
                    }
                    None
                }
            },
            Parent::Copied => {
                let left = one.origin.and_then(|id| self.place(id));
                let right = one.right_origin.and_then(|id| self.place(id));
                if let (Some(left), Some(right)) = (left, right)
                    && left != right
                {
                    return Err(misplaced("two neighbours with different parents"));
                }
                left.or(right)
            }
        };
        let Some((parent, key)) = place else {
            return Ok(Owner::Nothing);
        };
        match (one.content, key) {
            (Content::Type(kind), key) => self.make(one.id, kind, parent, key),
            // The engine recurses from one such attribute to the next.
            (Content::Format, Some(_)) => Err(misplaced("formatting as an attribute")),
            (_, Some(key)) => Ok(Owner::Key(parent, key)),
            (Content::Deleted, None) => Ok(Owner::Within(parent)),
            (Content::Format | Content::Text(_), None)
                if self.node(parent).kind == NodeKind::Text =>
            {
                Ok(Owner::Within(parent))
            }
            (_, None) => {
                self.node_mut(parent).is_mixed = true;
                Ok(Owner::Foreign(parent))
            }
        }
    }

    /// Where an operation stands.
    fn place(&self, id: Id) -> Option<(NodeIndex, Option<KeyIndex>)> {
        match self.owner(id) {
            Owner::Nothing => None,
            Owner::Made(node) => {
                let node = self.node(node);
                Some((node.parent, node.key))
            }
            Owner::Key(node, key) => Some((node, Some(key))),
            Owner::Foreign(node) | Owner::Within(node) => Some((node, None)),
        }
    }

    fn make(
        &mut self,
        id: Id,
        kind: TypeKind<'_>,
        parent: NodeIndex,
        key: Option<KeyIndex>,
    ) -> Result<Owner, DecodeError> {
        let kind = match kind {
            TypeKind::Element(tag) => NodeKind::Element(self.key(tag)),
            TypeKind::Other => NodeKind::Foreign,
            TypeKind::Text => NodeKind::Text,
        };
        if kind == NodeKind::Foreign && key.is_none() {
            self.node_mut(parent).is_mixed = true;
        }
        let above = self.node(parent);
        let depth = above.depth.saturating_add(1);
        let is_in_attribute = key.is_some() || above.depth_in_attribute > 0;
        let depth_in_attribute = above.depth_in_attribute + u32::from(is_in_attribute);
        if depth_in_attribute > MAX_DEPTH_IN_ATTRIBUTE {
            return Err(misplaced(
                "shared types nested too deep inside an attribute",
            ));
        }
        let node = index(self.nodes.len());
        self.nodes.push(Node {
            id,
            kind,
            parent,
            key,
            depth,
            depth_in_attribute,
            is_dead: false,
            last_child: None,
            is_suspect: false,
            is_mixed: false,
            element_id: None,
        });
        self.deepest = self.deepest.max(depth);
        Ok(Owner::Made(node))
    }

    fn root(&mut self, name: &str) -> NodeIndex {
        if let Some(&node) = self.roots.get(name) {
            return node;
        }
        let node = index(self.nodes.len());
        self.nodes.push(Node {
            id: Id {
                client: 0,
                clock: 0,
            },
            kind: NodeKind::Root,
            parent: NONE,
            key: None,
            depth: 0,
            depth_in_attribute: 0,
            is_dead: false,
            last_child: None,
            is_suspect: false,
            is_mixed: false,
            element_id: None,
        });
        self.roots.insert(name.into(), node);
        node
    }
}

impl Run {
    fn new(start: u32, owner: Owner) -> Self {
        let (node, key) = match owner {
            Owner::Foreign(node) => (node, FOREIGN),
            Owner::Nothing => (NONE, NONE),
            Owner::Made(node) => (node, ITSELF),
            Owner::Key(node, key) => (node, key),
            Owner::Within(node) => (node, SEQUENCE),
        };
        Self { start, node, key }
    }

    fn owner(self) -> Owner {
        match (self.node, self.key) {
            (NONE, _) => Owner::Nothing,
            (node, ITSELF) => Owner::Made(node),
            (node, SEQUENCE) => Owner::Within(node),
            (node, FOREIGN) => Owner::Foreign(node),
            (node, key) => Owner::Key(node, key),
        }
    }
}

fn index(length: usize) -> u32 {
    u32::try_from(length).expect("clocks are 31 bits, and each client's nodes have one each")
}

fn misplaced(reason: &'static str) -> DecodeError {
    DecodeError::Malformed { offset: 0, reason }
}

//! The CRDT: operations of many authors, merged into one tree as Yjs merges them.
//!
//! The algorithm is that of Yjs (Nicolaescu et al., "Near Real-Time Peer-to-Peer Shared Editing on
//! Extensible Data Types", 2016, in the form of yjs 13), so replicas of both converge. The
//! representation differs: all operations are in one table and refer to each other by index,
//! values stay encoded until they are read, an index finds positions among many siblings, and
//! nothing recurses.
//!
//! The engine does not know schemas, `$id`s or events. [`transaction`] applies operations,
//! [`collect`] frees deleted ones, [`read`] exposes the content.

mod blocks;
#[cfg(test)]
mod check;
mod collect;
mod compare;
mod content;
mod copy;
mod encode;
mod link;
mod measure;
mod memory;
mod order;
mod read;
mod same;
mod stage;
mod text;
mod transaction;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use self::blocks::{Block, Blocks};
use self::order::{Order, Size};
use crate::update::scan::{Id, IdRange};

pub(crate) use compare::{Comparison, Run, compare_runs};
pub(crate) use content::{Content, byte_of, pieces_of};
pub use measure::JsonSize;
pub(crate) use memory::{ITEM_BYTES, NODE_BYTES};
#[cfg(test)]
pub(crate) use text::passed;
pub(crate) use text::{TextChanges, Waypoint};
pub(crate) use transaction::{Limit, Transaction};

/// The root type with the element tree.
pub(crate) const ROOT: &str = "xml";

/// The root type with the root element's attributes. It exists only if they were written here.
pub(crate) const ROOT_ATTRIBUTES: &str = "xml.attributes";

/// The node of [`ROOT`].
pub(crate) const ROOT_NODE: NodeIndex = 0;

/// The node of [`ROOT_ATTRIBUTES`].
pub(crate) const ROOT_ATTRIBUTES_NODE: NodeIndex = 1;

/// The key of the attribute `$id`.
pub(crate) const ID_KEY: KeyIndex = 0;

/// Stands for a missing item, node, key or client.
pub(crate) const NONE: u32 = u32::MAX;

pub(crate) type ClientIndex = u32;
pub(crate) type ItemIndex = u32;
pub(crate) type KeyIndex = u32;
pub(crate) type NodeIndex = u32;

/// All operations, and the tree that they form.
#[derive(Clone, Debug)]
pub(crate) struct Engine {
    clients: Vec<Client>,
    // Sorted by client id.
    client_index: BTreeMap<u64, ClientIndex>,
    items: Vec<Item>,
    free_items: Vec<ItemIndex>,
    nodes: Vec<Node>,
    free_nodes: Vec<NodeIndex>,
    roots: BTreeMap<Box<str>, NodeIndex>,
    names: Vec<Arc<str>>,
    name_index: HashMap<Arc<str>, KeyIndex>,
    // Counts the transactions.
    revision: u64,
    // Whether a sequence ever contained values; only foreign programs write them.
    has_lists: bool,
}

#[derive(Clone, Debug)]
struct Client {
    id: u64,
    clock: u32,
    // The clock before the current transaction; [`NONE`] if the transaction has not touched
    // this client.
    before: u32,
    blocks: Blocks,
}

/// A reference to an operation; `client` is [`NONE`] for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Link {
    client: ClientIndex,
    clock: u32,
}

const NOWHERE: Link = Link {
    client: NONE,
    clock: 0,
};

/// A run of adjacent operations of one client.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    client: ClientIndex,
    clock: u32,
    // The highest bit is set if the item is deleted; lengths have 31 bits.
    length: u32,
    left: ItemIndex,
    right: ItemIndex,
    // The left and right neighbours at the time of the insertion.
    origin: Link,
    right_origin: Link,
    pub(crate) parent: NodeIndex,
    /// The key whose value this item is; [`NONE`] for an item of a sequence.
    pub(crate) key: KeyIndex,
    // Its slot in the order index of its parent, if the parent has one.
    slot: u32,
    pub(crate) content: Content,
}

const DELETED: u32 = 1 << 31;

impl Item {
    pub(crate) fn length(&self) -> u32 {
        self.length & !DELETED
    }

    pub(crate) fn is_deleted(&self) -> bool {
        self.length & DELETED != 0
    }

    pub(crate) fn left(&self) -> ItemIndex {
        self.left
    }

    pub(crate) fn right(&self) -> ItemIndex {
        self.right
    }

    fn set_length(&mut self, length: u32) {
        self.length = length | (self.length & DELETED);
    }

    fn mark_deleted(&mut self) {
        self.length |= DELETED;
    }

    fn end(&self) -> u32 {
        self.clock + self.length()
    }

    fn last(&self) -> Link {
        Link {
            client: self.client,
            clock: self.end() - 1,
        }
    }
}

/// A shared type: an element, a text, or a type that is not valid in a document.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    // The operation that created the node.
    item: ItemIndex,
    pub(crate) kind: NodeKind,
    pub(crate) parent: NodeIndex,
    /// The parent's attribute whose value this node is; used only by foreign documents.
    pub(crate) key: KeyIndex,
    /// The number of ancestors.
    pub(crate) depth: u32,
    first: ItemIndex,
    last: ItemIndex,
    // The number of items in its sequence, deleted ones included.
    count: u32,
    // The visible size of its sequence.
    size: Size,
    // The number of live formatting marks in its sequence.
    formats: u32,
    order: Option<Box<Order>>,
    // Sorted by key.
    attributes: Vec<Attribute>,
    /// The hash of the `$id` that the index holds for this node, 0 if none; see `document::ids`.
    pub(crate) id_hash: u64,
    pub(crate) is_dead: bool,
    /// Whether the node must be checked against the schema.
    pub(crate) is_suspect: bool,
    /// Whether an element ever contained anything but elements and texts, or a text anything
    /// but text.
    pub(crate) is_mixed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NodeKind {
    /// An element with this tag.
    Element(KeyIndex),
    /// A shared type that is not valid in an element tree, by its type number in updates.
    Foreign(u8),
    /// A root type with this name.
    Root(KeyIndex),
    Text,
}

/// The values of one key; the last one is current.
#[derive(Clone, Copy, Debug)]
struct Attribute {
    key: KeyIndex,
    first: ItemIndex,
    last: ItemIndex,
}

impl Engine {
    pub(crate) fn new() -> Self {
        let mut engine = Self {
            clients: Vec::new(),
            client_index: BTreeMap::new(),
            items: Vec::new(),
            free_items: Vec::new(),
            nodes: Vec::new(),
            free_nodes: Vec::new(),
            roots: BTreeMap::new(),
            names: Vec::new(),
            name_index: HashMap::new(),
            revision: 0,
            has_lists: false,
        };
        engine.key(crate::schema::ID_ATTRIBUTE);
        engine.root(ROOT);
        engine.root(ROOT_ATTRIBUTES);
        engine
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.clients.iter().all(|client| client.clock == 0)
    }

    /// The number of known operations of a client.
    pub(crate) fn clock(&self, client: u64) -> u32 {
        match self.client_index.get(&client) {
            Some(&client) => self.clients[client as usize].clock,
            None => 0,
        }
    }

    /// The number of clients with operations here.
    pub(crate) fn client_count(&self) -> usize {
        self.clients.len()
    }

    pub(crate) fn clocks(&self) -> impl Iterator<Item = (u64, u32)> {
        let clients = self.client_index.values();
        let clients = clients.map(|&client| &self.clients[client as usize]);
        clients
            .filter(|client| client.clock > 0)
            .map(|client| (client.id, client.clock))
    }

    /// The number of transactions so far.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    pub(crate) fn node(&self, index: NodeIndex) -> &Node {
        &self.nodes[index as usize]
    }

    pub(crate) fn node_mut(&mut self, index: NodeIndex) -> &mut Node {
        &mut self.nodes[index as usize]
    }

    pub(crate) fn item(&self, index: ItemIndex) -> &Item {
        &self.items[index as usize]
    }

    /// The id of an item's first operation.
    pub(crate) fn item_id(&self, index: ItemIndex) -> Id {
        let item = self.item(index);
        self.id(Link {
            client: item.client,
            clock: item.clock,
        })
    }

    /// The id of the operation that created a node.
    pub(crate) fn node_id(&self, index: NodeIndex) -> Id {
        match self.node(index).item {
            NONE => Id {
                client: 0,
                clock: 0,
            },
            item => self.item_id(item),
        }
    }

    pub(crate) fn name(&self, key: KeyIndex) -> &Arc<str> {
        &self.names[key as usize]
    }

    pub(crate) fn find_key(&self, name: &str) -> Option<KeyIndex> {
        self.name_index.get(name).copied()
    }

    pub(crate) fn is_deleted(&self, range: IdRange) -> bool {
        let mut is_deleted = true;
        let known = self.visit(range, |_, _, deleted| is_deleted &= deleted);
        known && is_deleted
    }

    /// The parts of a range of known operations that are not deleted.
    pub(crate) fn not_deleted(&self, range: IdRange) -> Vec<IdRange> {
        let mut parts: Vec<IdRange> = Vec::new();
        self.visit(range, |start, end, deleted| match parts.last_mut() {
            _ if deleted => {}
            Some(last) if last.end == start => last.end = end,
            _ => parts.push(IdRange {
                start,
                end,
                ..range
            }),
        });
        parts
    }

    /// Visits the parts of a range of operations, each with its deletion flag. Returns false if
    /// some operations of the range are unknown.
    fn visit(&self, range: IdRange, mut visit: impl FnMut(u32, u32, bool)) -> bool {
        let Some(&client) = self.client_index.get(&range.client) else {
            return false;
        };
        let known = &self.clients[client as usize];
        let end = range.end.min(known.clock);
        let mut start = range.start;
        let blocks = known.blocks.from(start);
        let mut blocks = blocks.peekable();
        while let Some(block) = blocks.next()
            && start < end
        {
            let until = blocks.peek().map_or(known.clock, |next| next.start);
            let is_deleted = block.item == NONE || self.item(block.item).is_deleted();
            visit(start, until.min(end), is_deleted);
            start = until;
        }
        range.end <= known.clock
    }

    fn id(&self, link: Link) -> Id {
        Id {
            client: self.clients[link.client as usize].id,
            clock: link.clock,
        }
    }

    fn link(&self, id: Id) -> Option<Link> {
        let client = *self.client_index.get(&id.client)?;
        let clock = id.clock;
        (clock < self.clients[client as usize].clock).then_some(Link { client, clock })
    }

    /// The block of a known operation; its item is [`NONE`] if it was garbage-collected.
    fn block(&self, link: Link) -> Block {
        self.clients[link.client as usize].blocks.find(link.clock)
    }

    fn client(&mut self, id: u64) -> ClientIndex {
        if let Some(&client) = self.client_index.get(&id) {
            return client;
        }
        let client = index(self.clients.len());
        self.clients.push(Client {
            id,
            clock: 0,
            before: NONE,
            blocks: Blocks::default(),
        });
        self.client_index.insert(id, client);
        client
    }

    fn key(&mut self, name: &str) -> KeyIndex {
        if let Some(&key) = self.name_index.get(name) {
            return key;
        }
        let key = index(self.names.len());
        let name: Arc<str> = name.into();
        self.names.push(Arc::clone(&name));
        self.name_index.insert(name, key);
        key
    }

    fn root(&mut self, name: &str) -> NodeIndex {
        if let Some(&node) = self.roots.get(name) {
            return node;
        }
        let key = self.key(name);
        let node = self.add_node(NodeKind::Root(key), NONE, NONE, 0);
        self.roots.insert(name.into(), node);
        node
    }

    fn add_node(
        &mut self,
        kind: NodeKind,
        parent: NodeIndex,
        key: KeyIndex,
        depth: u32,
    ) -> NodeIndex {
        let node = Node {
            item: NONE,
            kind,
            parent,
            key,
            depth,
            first: NONE,
            last: NONE,
            count: 0,
            size: Size::default(),
            formats: 0,
            order: None,
            attributes: Vec::new(),
            id_hash: 0,
            is_dead: false,
            is_suspect: false,
            is_mixed: false,
        };
        if let Some(free) = self.free_nodes.pop() {
            self.nodes[free as usize] = node;
            return free;
        }
        self.nodes.push(node);
        index(self.nodes.len() - 1)
    }

    fn add_item(&mut self, item: Item) -> ItemIndex {
        if let Some(free) = self.free_items.pop() {
            self.items[free as usize] = item;
            return free;
        }
        self.items.push(item);
        index(self.items.len() - 1)
    }
}

fn index(length: usize) -> u32 {
    u32::try_from(length)
        .ok()
        .filter(|&index| index < NONE)
        .expect("clocks are 31 bits, and memory ends before this many operations fit")
}

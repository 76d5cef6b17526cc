//! Reading: children in order, values of keys.

use super::Content;
use super::{Attribute, Engine, Item, ItemIndex, KeyIndex, NONE, NodeIndex};
use crate::update::scan::{Id, IdRange};

impl Engine {
    /// The child nodes of a node, in order.
    pub(crate) fn children(&self, node: NodeIndex) -> impl Iterator<Item = NodeIndex> + '_ {
        let items = self.items(self.node(node).first);
        items.filter_map(|index| self.made(index))
    }

    /// The number of child nodes of an element.
    pub(crate) fn child_count(&self, node: NodeIndex) -> usize {
        self.node(node).size.units as usize
    }

    /// The child node at an index.
    pub(crate) fn child_at(&self, node: NodeIndex, index: usize) -> Option<NodeIndex> {
        let (item, _) = self.locate(node, u32::try_from(index).ok()?)?;
        self.made(item)
    }

    /// The index of a node among its siblings.
    pub(crate) fn index_in_parent(&self, node: NodeIndex) -> usize {
        match self.node(node).item {
            NONE => 0,
            item => self.position(item).units as usize,
        }
    }

    /// Whether a node comes before a sibling.
    pub(crate) fn stands_before(&self, node: NodeIndex, sibling: NodeIndex) -> bool {
        match (self.node(node).item, self.node(sibling).item) {
            (NONE, _) | (_, NONE) => false,
            (one, other) => self.comes_before(one, other),
        }
    }

    /// The node of a live item that created one.
    pub(crate) fn made(&self, index: ItemIndex) -> Option<NodeIndex> {
        let item = self.item(index);
        match item.content {
            Content::Type(node) if !item.is_deleted() => Some(node),
            _ => None,
        }
    }

    /// The live content of a node that is neither element nor text, or of a text that is not text.
    pub(crate) fn foreign_items(&self, node: NodeIndex) -> impl Iterator<Item = ItemIndex> + '_ {
        let in_text = self.node(node).kind == super::NodeKind::Text;
        self.items(self.node(node).first).filter(move |&index| {
            let item = self.item(index);
            !item.is_deleted()
                && match item.content {
                    Content::Type(_) | Content::Deleted => false,
                    Content::Text(_) | Content::Format(..) => !in_text,
                    Content::Json(_) | Content::Values(_) | Content::Whole(..) => true,
                }
        })
    }

    /// All live items of a node, those of keys included.
    pub(crate) fn contents(&self, node: NodeIndex) -> impl Iterator<Item = ItemIndex> + '_ {
        let node = self.node(node);
        let values = node.attributes.iter().map(|attribute| attribute.last);
        let items = self.items(node.first).chain(values);
        items.filter(|&index| !self.item(index).is_deleted())
    }

    /// The items of a sequence from one on, deleted ones included.
    pub(crate) fn items(&self, first: ItemIndex) -> impl Iterator<Item = ItemIndex> + '_ {
        let next = |&index: &ItemIndex| Some(self.item(index).right).filter(|&next| next != NONE);
        std::iter::successors(Some(first).filter(|&first| first != NONE), next)
    }

    /// The first and the last item of a node's sequence, deleted or not.
    pub(crate) fn ends(&self, node: NodeIndex) -> (Option<ItemIndex>, Option<ItemIndex>) {
        let node = self.node(node);
        let some = |item: ItemIndex| (item != NONE).then_some(item);
        (some(node.first), some(node.last))
    }

    /// The item that created a node, and the item's neighbours.
    pub(crate) fn neighbours(
        &self,
        node: NodeIndex,
    ) -> Option<(Option<ItemIndex>, Option<ItemIndex>)> {
        let item = self.node(node).item;
        let some = |item: ItemIndex| (item != NONE).then_some(item);
        let item = self.item(some(item)?);
        Some((some(item.left), some(item.right)))
    }

    /// The value of a key.
    pub(crate) fn value(&self, node: NodeIndex, key: KeyIndex) -> Option<&Content> {
        let item = self.item(self.attribute(node, key)?.last);
        (!item.is_deleted()).then_some(&item.content)
    }

    /// All keys with their values.
    pub(crate) fn values(&self, node: NodeIndex) -> impl Iterator<Item = (KeyIndex, &Content)> {
        let attributes = self.node(node).attributes.iter();
        attributes.filter_map(|attribute| {
            let item = self.item(attribute.last);
            (!item.is_deleted()).then_some((attribute.key, &item.content))
        })
    }

    /// The last operation on a key, which the next one has as origin.
    pub(crate) fn last_on_key(&self, node: NodeIndex, key: KeyIndex) -> Option<Id> {
        let attribute = self.attribute(node, key)?;
        Some(self.last_id(attribute.last))
    }

    /// The id of an item's last operation.
    pub(crate) fn last_id(&self, index: ItemIndex) -> Id {
        self.id(self.item(index).last())
    }

    /// The live item of a value, for its deletion.
    pub(crate) fn value_item(&self, node: NodeIndex, key: KeyIndex) -> Option<ItemIndex> {
        let last = self.attribute(node, key)?.last;
        (!self.item(last).is_deleted()).then_some(last)
    }

    /// All operations of an item.
    pub(crate) fn item_range(&self, index: ItemIndex) -> IdRange {
        let Id { client, clock } = self.item_id(index);
        IdRange {
            client,
            start: clock,
            end: clock + self.item(index).length(),
        }
    }

    /// The item that created a node other than a root.
    pub(crate) fn item_of(&self, node: NodeIndex) -> ItemIndex {
        self.node(node).item
    }

    /// The item that contains an operation, and the operation's offset in it; `None` if it is
    /// unknown or collected.
    pub(crate) fn find_item(&self, id: Id) -> Option<(ItemIndex, u32)> {
        let link = self.link(id)?;
        let block = self.block(link);
        (!block.is_collected()).then(|| (block.item, link.clock - block.start))
    }

    pub(super) fn attribute(&self, node: NodeIndex, key: KeyIndex) -> Option<&Attribute> {
        let attributes = &self.node(node).attributes;
        let at = attributes.binary_search_by_key(&key, |one| one.key).ok()?;
        Some(&attributes[at])
    }

    /// Whether the current transaction created an item.
    pub(crate) fn is_new_item(&self, index: ItemIndex) -> bool {
        let item = self.item(index);
        item.clock >= self.clients[item.client as usize].before
    }

    /// Whether the current transaction created a node.
    pub(crate) fn is_new(&self, node: NodeIndex) -> bool {
        match self.node(node).item {
            NONE => false,
            item => self.is_new_item(item),
        }
    }

    /// The last string value of a key, even if the current transaction deleted it.
    pub(crate) fn last_text(&self, node: NodeIndex, name: &str) -> Option<&str> {
        let mut at = self.attribute(node, self.find_key(name)?)?.last;
        while at != NONE {
            let item = self.item(at);
            if let Some(text) = item.content.as_str() {
                return Some(text);
            }
            at = item.left;
        }
        None
    }
}

impl Item {
    /// Whether it is part of a sequence rather than the value of a key.
    pub(crate) fn is_in_sequence(&self) -> bool {
        self.key == NONE
    }
}

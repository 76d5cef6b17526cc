//! The order index of long sequences: the item at a position, and the position of an item.
//!
//! A sequence is a linked list of items, deleted ones included. A long one is divided into runs of
//! adjacent items with known sizes, so a position is computed from run sizes and a walk through
//! one run.

use super::content::byte_of;
use super::{Content, Engine, Item, ItemIndex, Link, NONE, NodeIndex, NodeKind};

/// The number of items from which a sequence is indexed.
const MIN_ITEMS: u32 = 256;

/// The maximal number of items in a run.
const MAX_RUN: u32 = 128;

/// The visible size of a sequence: child nodes of an element, UTF-16 units of a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) units: u32,
    /// The number of surrogate pairs among these units.
    pub(crate) pairs: u32,
}

impl Size {
    pub(super) fn add(&mut self, other: Self) {
        self.units += other.units;
        self.pairs += other.pairs;
    }

    pub(super) fn subtract(&mut self, other: Self) {
        self.units -= other.units;
        self.pairs -= other.pairs;
    }
}

/// The runs of one sequence. An item's `slot` identifies its run, whose place may change.
#[derive(Clone, Debug, Default)]
pub(super) struct Order {
    // All are sorted by place.
    sizes: Vec<Size>,
    firsts: Vec<ItemIndex>,
    counts: Vec<u32>,
    slots: Vec<u32>,
    siblings: Vec<Option<Siblings>>,
    // Indexed by slot.
    places: Vec<u32>,
}

/// Common properties of a run's items, which let a search among concurrent operations skip the run.
#[derive(Clone, Copy, Debug)]
struct Siblings {
    origin: Link,
    // The range of the items' client ids.
    lowest: u64,
    highest: u64,
    // The range of the items' right origins, ordered by their numbers.
    right_origins: (Link, Link),
}

impl Siblings {
    fn of(item: &Item, client: u64) -> Self {
        Self {
            origin: item.origin,
            lowest: client,
            highest: client,
            right_origins: (item.right_origin, item.right_origin),
        }
    }

    /// The properties with one more item; `None` if that is not a sibling.
    fn with(self, other: Self) -> Option<Self> {
        let by_number = |link: &Link| (link.client, link.clock);
        let (first, last) = self.right_origins;
        let (other_first, other_last) = other.right_origins;
        (self.origin == other.origin).then_some(Self {
            origin: self.origin,
            lowest: self.lowest.min(other.lowest),
            highest: self.highest.max(other.highest),
            right_origins: (
                std::cmp::min_by_key(first, other_first, by_number),
                std::cmp::max_by_key(last, other_last, by_number),
            ),
        })
    }

    /// Whether no item has this right origin.
    fn lacks(&self, right_origin: Link) -> bool {
        let by_number = |link: Link| (link.client, link.clock);
        let (first, last) = self.right_origins;
        let wanted = by_number(right_origin);
        wanted < by_number(first) || by_number(last) < wanted
    }
}

/// A run that a search among concurrent operations may skip.
#[derive(Clone, Copy, Debug)]
pub(super) struct Passable {
    /// Its last item.
    pub(super) last: ItemIndex,
    /// Whether the new item comes after the run; otherwise it may come before it.
    pub(super) is_before: bool,
}

impl Order {
    fn place(&self, slot: u32) -> usize {
        self.places[slot as usize] as usize
    }

    fn insert(
        &mut self,
        place: usize,
        first: ItemIndex,
        count: u32,
        size: Size,
        siblings: Option<Siblings>,
    ) -> u32 {
        let slot = super::index(self.places.len());
        self.places.push(0);
        self.sizes.insert(place, size);
        self.firsts.insert(place, first);
        self.counts.insert(place, count);
        self.slots.insert(place, slot);
        self.siblings.insert(place, siblings);
        for at in place..self.slots.len() {
            self.places[self.slots[at] as usize] = super::index(at);
        }
        slot
    }
}

impl Engine {
    /// The visible size of an item.
    pub(super) fn size(&self, index: ItemIndex) -> Size {
        let item = self.item(index);
        if item.is_deleted() || item.key != NONE {
            return Size::default();
        }
        let in_text = self.node(item.parent).kind == NodeKind::Text;
        match &item.content {
            Content::Text(text) if in_text => {
                let units = item.length();
                let is_ascii = text.len() == units as usize;
                let characters = || super::index(text.chars().count());
                let pairs = if is_ascii { 0 } else { units - characters() };
                Size { units, pairs }
            }
            Content::Type(_) if !in_text => Size { units: 1, pairs: 0 },
            _ => Size::default(),
        }
    }

    /// The visible size of an item in units.
    pub(crate) fn size_of(&self, index: ItemIndex) -> u32 {
        self.size(index).units
    }

    /// Creates the index of a sequence that has become long.
    pub(super) fn index_sequence(&mut self, node: NodeIndex) {
        let around = self.node(node);
        if around.order.is_some() || around.count < MIN_ITEMS || around.is_dead {
            return;
        }
        let mut order = Order::default();
        let mut at = around.first;
        while at != NONE {
            let (first, mut count, mut size) = (at, 0, Size::default());
            let slot = super::index(order.places.len());
            while at != NONE && count < MAX_RUN / 2 {
                self.items[at as usize].slot = slot;
                size.add(self.size(at));
                count += 1;
                at = self.item(at).right;
            }
            order.places.push(slot);
            order.slots.push(slot);
            order.sizes.push(size);
            order.firsts.push(first);
            order.counts.push(count);
            order.siblings.push(self.siblings(first, count));
        }
        self.node_mut(node).order = Some(Box::new(order));
    }

    /// Adds an item that was linked into its sequence.
    pub(super) fn order_added(&mut self, index: ItemIndex) {
        let size = self.size(index);
        let Item { parent, left, .. } = self.items[index as usize];
        let added = Siblings::of(self.item(index), self.client_of(index));
        let node = &mut self.nodes[parent as usize];
        node.count += 1;
        node.size.add(size);
        let Some(order) = &mut node.order else {
            return;
        };
        let place = if left == NONE {
            order.firsts[0] = index;
            0
        } else {
            order.place(self.items[left as usize].slot)
        };
        self.items[index as usize].slot = order.slots[place];
        order.sizes[place].add(size);
        order.counts[place] += 1;
        let siblings = &mut order.siblings[place];
        *siblings = siblings.and_then(|siblings| siblings.with(added));
        if order.counts[place] > MAX_RUN {
            self.split_run(parent, place);
        }
    }

    /// Adds the second half of a split item.
    pub(super) fn order_split(&mut self, index: ItemIndex, lost_pair: bool) {
        let (parent, slot) = (self.item(index).parent, self.item(index).slot);
        let lost = Size {
            units: 0,
            pairs: u32::from(lost_pair && !self.item(index).is_deleted()),
        };
        let node = &mut self.nodes[parent as usize];
        node.count += 1;
        node.size.subtract(lost);
        let Some(order) = &mut node.order else {
            return;
        };
        let place = order.place(slot);
        order.sizes[place].subtract(lost);
        order.counts[place] += 1;
        // The half's origin is the other half.
        order.siblings[place] = None;
        if order.counts[place] > MAX_RUN {
            self.split_run(parent, place);
        }
    }

    /// Updates the size of an item that was extended or deleted.
    pub(super) fn order_resized(&mut self, index: ItemIndex, before: Size, now: Size) {
        let (parent, slot) = (self.item(index).parent, self.item(index).slot);
        let node = &mut self.nodes[parent as usize];
        node.size.subtract(before);
        node.size.add(now);
        if let Some(order) = &mut node.order {
            let place = order.place(slot);
            order.sizes[place].subtract(before);
            order.sizes[place].add(now);
        }
    }

    /// Whether two neighbours may become one item.
    pub(super) fn order_may_join(&self, left: ItemIndex, right: ItemIndex) -> bool {
        let (left, right) = (self.item(left), self.item(right));
        self.node(left.parent).order.is_none() || left.slot == right.slot
    }

    /// Removes an item that was joined to its left neighbour.
    pub(super) fn order_joined(&mut self, left: ItemIndex) {
        let (parent, slot) = (self.item(left).parent, self.item(left).slot);
        let node = &mut self.nodes[parent as usize];
        node.count -= 1;
        if let Some(order) = &mut node.order {
            let place = order.place(slot);
            order.counts[place] -= 1;
        }
    }

    /// The position of an item: the visible size before it.
    pub(crate) fn position(&self, index: ItemIndex) -> Size {
        let item = self.item(index);
        let node = self.node(item.parent);
        let mut position = Size::default();
        let mut at = node.first;
        if let Some(order) = &node.order {
            let place = order.place(item.slot);
            for size in &order.sizes[..place] {
                position.add(*size);
            }
            at = order.firsts[place];
        }
        while at != index && at != NONE {
            position.add(self.size(at));
            at = self.item(at).right;
        }
        position
    }

    /// Whether an item comes before another one of its sequence; unlike positions, this needs no
    /// sum over all runs.
    pub(super) fn comes_before(&self, one: ItemIndex, other: ItemIndex) -> bool {
        let node = self.node(self.item(one).parent);
        let mut first = node.first;
        if let Some(order) = &node.order {
            let place = order.place(self.item(one).slot);
            let other_place = order.place(self.item(other).slot);
            if place != other_place {
                return place < other_place;
            }
            first = order.firsts[place];
        }
        one != other && self.items(first).find(|&at| at == one || at == other) == Some(one)
    }

    /// The item that contains a unit, and the item's position; `None` beyond the end.
    pub(crate) fn locate(&self, node: NodeIndex, unit: u32) -> Option<(ItemIndex, Size)> {
        self.find(node, |before, size| unit < before.units + size.units)
    }

    /// Like [`Self::locate`], for a character.
    pub(crate) fn locate_scalar(&self, node: NodeIndex, scalar: u32) -> Option<(ItemIndex, Size)> {
        self.find(node, |before, size| {
            scalar < (before.units + size.units) - (before.pairs + size.pairs)
        })
    }

    /// The first item for which `is_reached` holds. Its arguments are the size before an item, and
    /// the item's own size.
    fn find(
        &self,
        node: NodeIndex,
        is_reached: impl Fn(Size, Size) -> bool,
    ) -> Option<(ItemIndex, Size)> {
        let node = self.node(node);
        let mut position = Size::default();
        if !is_reached(position, node.size) {
            return None;
        }
        let mut at = node.first;
        if let Some(order) = &node.order {
            for (size, &first) in order.sizes.iter().zip(&order.firsts) {
                if is_reached(position, *size) {
                    at = first;
                    break;
                }
                position.add(*size);
            }
        }
        while at != NONE {
            let size = self.size(at);
            if is_reached(position, size) {
                return Some((at, position));
            }
            position.add(size);
            at = self.item(at).right;
        }
        None
    }

    /// The number of units in the first characters of an item.
    pub(crate) fn units_of_scalars(&self, index: ItemIndex, scalars: u32) -> u32 {
        let item = self.item(index);
        match &item.content {
            Content::Text(text) if text.len() != item.length() as usize => {
                let characters = text.chars().take(scalars as usize);
                super::index(characters.map(char::len_utf16).sum())
            }
            _ => scalars,
        }
    }

    /// Whether a position within an item is inside a surrogate pair.
    pub(crate) fn is_within_pair(&self, index: ItemIndex, units: u32) -> bool {
        let item = self.item(index);
        match &item.content {
            Content::Text(text) => byte_of(text, item.length(), units).1,
            _ => false,
        }
    }

    /// The common properties of this many items, from one on.
    fn siblings(&self, first: ItemIndex, count: u32) -> Option<Siblings> {
        let items = self.items(first).take(count as usize);
        let mut all = items.map(|index| Siblings::of(self.item(index), self.client_of(index)));
        let first = all.next()?;
        all.try_fold(first, Siblings::with)
    }

    fn client_of(&self, index: ItemIndex) -> u64 {
        self.clients[self.item(index).client as usize].id
    }

    /// The run that begins with `index`, if all its items are siblings of the new item, `right` is
    /// not among them, and visiting each would give the same result.
    pub(super) fn passable_run(
        &self,
        index: ItemIndex,
        right: ItemIndex,
        new: ItemIndex,
    ) -> Option<Passable> {
        let (item, new_item) = (self.item(index), self.item(new));
        if item.key != NONE {
            return None;
        }
        let node = self.node(item.parent);
        let order = node.order.as_ref()?;
        let place = order.place(item.slot);
        let siblings = order.siblings[place]?;
        let is_whole = order.firsts[place] == index
            && (right == NONE || order.place(self.item(right).slot) != place);
        let client = self.client_of(new);
        let is_before = siblings.highest < client;
        let is_behind = siblings.lowest > client && siblings.lacks(new_item.right_origin);
        if !is_whole || siblings.origin != new_item.origin || !(is_before || is_behind) {
            return None;
        }
        let last = match order.firsts.get(place + 1) {
            Some(&next) => self.item(next).left,
            None => node.last,
        };
        Some(Passable { last, is_before })
    }

    fn split_run(&mut self, parent: NodeIndex, place: usize) {
        let Some(mut order) = self.nodes[parent as usize].order.take() else {
            return;
        };
        let keep = order.counts[place] / 2;
        let mut at = order.firsts[place];
        let mut size = Size::default();
        for _ in 0..keep {
            size.add(self.size(at));
            at = self.item(at).right;
        }
        let (first, count) = (at, order.counts[place] - keep);
        let mut rest = order.sizes[place];
        rest.subtract(size);
        order.sizes[place] = size;
        order.counts[place] = keep;
        order.siblings[place] = self.siblings(order.firsts[place], keep);
        let siblings = self.siblings(first, count);
        let slot = order.insert(place + 1, first, count, rest, siblings);
        for _ in 0..count {
            self.items[at as usize].slot = slot;
            at = self.item(at).right;
        }
        self.nodes[parent as usize].order = Some(order);
    }
}

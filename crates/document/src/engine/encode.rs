//! The state, or the part that a replica lacks, as an update.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::blocks::Block;
use super::{Client, Content, Engine, ItemIndex, Link, NONE, NOWHERE, NodeKind};
use crate::update::scan::{Id, IdRange};
use crate::update::writer;

const HAS_ORIGIN: u8 = 0x80;
const HAS_RIGHT_ORIGIN: u8 = 0x40;
const HAS_KEY: u8 = 0x20;

impl Engine {
    /// A v1 update of all operations from the `known` clocks on, and of all deletions.
    pub(crate) fn encode(&self, known: impl Fn(u64) -> u32) -> Vec<u8> {
        self.encode_with(known, self.all_deleted())
    }

    /// A v1 update of these clients' operations from these clocks on, of these deletions, and of
    /// the deletions among the operations.
    pub(crate) fn encode_from(
        &self,
        starts: &BTreeMap<u64, u32>,
        mut deletes: Vec<IdRange>,
    ) -> Vec<u8> {
        for (&client, &start) in starts {
            let end = self.clock(client);
            let range = IdRange { client, start, end };
            deletes.extend(self.deleted_in(range));
        }
        let known = |client| starts.get(&client).copied().unwrap_or(u32::MAX);
        self.encode_with(known, deletes)
    }

    /// The deleted parts of a range.
    fn deleted_in(&self, range: IdRange) -> Vec<IdRange> {
        let blocks = self.blocks_in(range);
        let deleted = blocks
            .filter(|(_, _, block)| block.is_collected() || self.item(block.item).is_deleted());
        let client = range.client;
        deleted
            .map(|(start, end, _)| IdRange { client, start, end })
            .collect()
    }

    /// The existing parts of a range: start, end, and whether they are children of an element or a
    /// text rather than values of attributes. Parts collected with their parent count as neither.
    pub(crate) fn parts(&self, range: IdRange) -> impl Iterator<Item = (u32, u32, bool)> + '_ {
        self.blocks_in(range).map(|(start, end, block)| {
            let is_child = !block.is_collected() && self.item(block.item).key == NONE;
            (start, end, is_child)
        })
    }

    fn blocks_in(&self, range: IdRange) -> impl Iterator<Item = (u32, u32, Block)> + '_ {
        let client = self.client_index.get(&range.client);
        let client = client.map(|&client| &self.clients[client as usize]);
        let client = client.filter(|client| client.clock > range.start);
        client.into_iter().flat_map(move |client| {
            let mut blocks = client.blocks.from(range.start).peekable();
            std::iter::from_fn(move || {
                let block = blocks.next().filter(|block| block.start < range.end)?;
                let end = blocks.peek().map_or(client.clock, |next| next.start);
                Some((block.start.max(range.start), end.min(range.end), block))
            })
        })
    }

    fn encode_with(&self, known: impl Fn(u64) -> u32, mut deletes: Vec<IdRange>) -> Vec<u8> {
        let mut out = Vec::new();
        // Higher client ids first, as in Yjs.
        let clients = self.client_index.values().rev();
        let clients = clients.map(|&client| &self.clients[client as usize]);
        let news = clients.filter(|client| client.clock > known(client.id));
        let news: Vec<&Client> = news.collect();
        writer::unsigned(&mut out, news.len() as u64);
        for client in news {
            let start = known(client.id);
            let blocks = client.blocks.count_from(start) - self.joined_from(client, start);
            writer::unsigned(&mut out, blocks as u64);
            let clock = start;
            let first = Id {
                client: client.id,
                clock,
            };
            writer::id(&mut out, first);
            let mut blocks = client.blocks.from(start).peekable();
            while let Some(block) = blocks.next() {
                let offset = start.saturating_sub(block.start);
                if block.is_collected() {
                    let end = blocks.peek().map_or(client.clock, |next| next.start);
                    out.push(0);
                    writer::unsigned(&mut out, (end - block.start - offset).into());
                    continue;
                }
                let more = self.values_behind(block, blocks.clone());
                self.write_item(&mut out, block.item, offset, &more);
                if let Some(skipped) = more.len().checked_sub(1) {
                    blocks.nth(skipped);
                }
            }
        }
        writer::deletes(&mut out, &mut deletes);
        out
    }

    /// The number of blocks from a clock on that are encoded with the block before them.
    fn joined_from(&self, client: &Client, start: u32) -> usize {
        if !self.has_lists {
            return 0;
        }
        let blocks = client.blocks.from(start);
        let pairs = blocks.zip(client.blocks.from(start).skip(1));
        pairs.filter(|&(one, next)| self.goes_on(one, next)).count()
    }

    /// The items of the blocks that are encoded with this one.
    fn values_behind(&self, block: Block, behind: impl Iterator<Item = Block>) -> Vec<ItemIndex> {
        let mut more = Vec::new();
        if !self.has_lists {
            return more;
        }
        let mut last = block;
        for next in behind {
            if !self.goes_on(last, next) {
                break;
            }
            more.push(next.item);
            last = next;
        }
        more
    }

    /// Whether a block continues the value list at the end of the one before it. Yjs joins such
    /// blocks in memory; here they stay separate, so that values are found quickly, and are encoded
    /// as one struct.
    fn goes_on(&self, one: Block, next: Block) -> bool {
        if one.is_collected() || next.is_collected() {
            return false;
        }
        let (left, right) = (self.item(one.item), self.item(next.item));
        matches!(
            (&left.content, &right.content),
            (Content::Values(_), Content::Values(_)) | (Content::Json(_), Content::Json(_))
        ) && left.key == NONE
            && left.right == next.item
            && right.origin == left.last()
            && left.right_origin == right.right_origin
            && left.is_deleted() == right.is_deleted()
    }

    /// All deleted ranges.
    pub(crate) fn all_deleted(&self) -> Vec<IdRange> {
        let mut deleted: Vec<IdRange> = Vec::new();
        for client in self.client_index.values().rev() {
            let client = &self.clients[*client as usize];
            let mut blocks = client.blocks.from(0).peekable();
            while let Some(block) = blocks.next() {
                let end = blocks.peek().map_or(client.clock, |next| next.start);
                if block.is_collected() || self.item(block.item).is_deleted() {
                    match deleted.last_mut() {
                        Some(last) if last.client == client.id && last.end == block.start => {
                            last.end = end;
                        }
                        _ => deleted.push(IdRange {
                            client: client.id,
                            start: block.start,
                            end,
                        }),
                    }
                }
            }
        }
        deleted
    }

    /// Writes an item without its first operations, followed by the values of items that
    /// continue it.
    fn write_item(&self, out: &mut Vec<u8>, index: ItemIndex, offset: u32, more: &[ItemIndex]) {
        let item = self.item(index);
        let origin = match offset {
            0 => item.origin,
            _ => Link {
                client: item.client,
                clock: item.clock + offset - 1,
            },
        };
        let mut info = item.content.number();
        for (flag, is_set) in [
            (HAS_ORIGIN, origin != NOWHERE),
            (HAS_RIGHT_ORIGIN, item.right_origin != NOWHERE),
            (HAS_KEY, item.key != NONE),
        ] {
            info |= if is_set { flag } else { 0 };
        }
        out.push(info);
        for link in [origin, item.right_origin] {
            if link != NOWHERE {
                writer::id(out, self.id(link));
            }
        }
        if info & (HAS_ORIGIN | HAS_RIGHT_ORIGIN) == 0 {
            if let NodeKind::Root(name) = self.node(item.parent).kind {
                out.push(1);
                writer::string(out, self.name(name));
            } else {
                out.push(0);
                writer::id(out, self.node_id(item.parent));
            }
            if item.key != NONE {
                writer::string(out, self.name(item.key));
            }
        }
        if !more.is_empty() {
            let more = more.iter().map(|&index| self.item(index));
            let count: u32 = more.clone().map(super::Item::length).sum();
            writer::unsigned(out, (item.length() - offset + count).into());
            item.content.write_values(out, offset);
            more.for_each(|item| item.content.write_values(out, 0));
            return;
        }
        let name = |key| Arc::clone(self.name(key));
        let type_of = |node| match self.node(node).kind {
            NodeKind::Element(tag) => (3, Some(Arc::clone(self.name(tag)))),
            NodeKind::Text => (6, None),
            NodeKind::Foreign(number) => (number, None),
            NodeKind::Root(_) => (4, None),
        };
        item.content
            .write(out, item.length(), offset, name, type_of);
    }
}

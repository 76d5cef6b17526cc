//! Positions in a text that stay valid when the text changes.

use super::MeshDocument;
use super::edit::TextPosition;
use super::remake::Remade;
use crate::engine::NodeIndex;
use crate::update::scan::Id;

/// A position in a rich text, next to one of its characters. It follows that character when the
/// text changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Anchor {
    client: u64,
    clock: u32,
    is_behind: bool,
}

impl Anchor {
    /// The same position in another replica, where the operations have other ids.
    pub(super) fn renamed(
        self,
        document: &MeshDocument,
        before: &MeshDocument,
        remade: &Remade,
    ) -> Option<Self> {
        let (client, clock) = (self.client, self.clock);
        let (id, is_same) = remade.beside(document, before, Id { client, clock })?;
        Some(Self {
            client: id.client,
            clock: id.clock,
            is_behind: self.is_behind || !is_same,
        })
    }

    pub(super) fn before(id: Id) -> Self {
        Self {
            client: id.client,
            clock: id.clock,
            is_behind: false,
        }
    }

    pub(super) fn behind(id: Id) -> Self {
        Self {
            is_behind: true,
            ..Self::before(id)
        }
    }
}

impl MeshDocument {
    /// Returns the anchor's current position, in UTF-16 units; `None` if its text was deleted. If
    /// its character was deleted, this is the position where it was.
    pub fn position(&self, anchor: &Anchor) -> Option<TextPosition> {
        let (client, clock) = (anchor.client, anchor.clock);
        let (item, offset) = self.engine.find_item(Id { client, clock })?;
        if !self.engine.item(item).is_in_sequence() {
            return None;
        }
        let start = self.engine.position(item).units;
        let within = offset + u32::from(anchor.is_behind);
        let seen = self.engine.size_of(item).min(within);
        Some(TextPosition::Utf16((start + seen) as usize))
    }

    /// Anchors a position of a text at the character to its left or to its right. Without such a
    /// character, the anchor is the start or the end of the text.
    pub(super) fn anchor(&self, text: NodeIndex, at: u32, to_left: bool) -> Option<Anchor> {
        let unit = if to_left { at.checked_sub(1)? } else { at };
        if let Some((item, before)) = self.engine.locate(text, unit) {
            let Id { client, clock } = self.engine.item_id(item);
            let clock = clock + (unit - before.units);
            let id = Id { client, clock };
            return Some(if to_left {
                Anchor::behind(id)
            } else {
                Anchor::before(id)
            });
        }
        let (_, last) = self.engine.ends(text);
        last.map(|last| Anchor::behind(self.engine.last_id(last)))
    }
}

//! Places in a text that stay right whatever happens to the text.

use super::MeshDocument;
use super::edit::TextPosition;
use super::remake::Remade;
use crate::engine::NodeIndex;
use crate::update::scan::Id;

/// A place in a rich text: beside one of its characters, wherever that is by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Anchor {
    client: u64,
    clock: u32,
    is_behind: bool,
}

impl Anchor {
    /// The same place in another replica, whose operations have other names.
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
    /// Where an anchor is now, in UTF-16 units; `None` if its text is gone. If its character is gone,
    /// it is where that was.
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

    /// The place of a unit in a text: sticking to the character before it, or else after it. `None` is
    /// the start of the text, or all of an empty one.
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

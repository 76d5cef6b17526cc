//! Copies of a node with its content, as new operations of another author.

use super::{Content, Engine, NodeIndex, NodeKind};
use crate::update::scan::Id;
use crate::update::writer::{Builder, Place};

impl Engine {
    /// Writes an element with its descendants: elements, attributes, texts. Content that is not
    /// valid in a document is left out.
    pub(crate) fn copy(&self, node: NodeIndex, place: Place<'_>, builder: &mut Builder) {
        let Some(top) = self.copy_one(node, place, builder) else {
            return;
        };
        // The lists under construction: parent, last child written, remaining children.
        let mut stack = vec![(top, None::<Id>, self.children(node))];
        while let Some((parent, last, rest)) = stack.last_mut() {
            let Some(child) = rest.next() else {
                stack.pop();
                continue;
            };
            let place = match *last {
                Some(_) => Place::Between(*last, None),
                None => Place::Only(*parent),
            };
            if let Some(id) = self.copy_one(child, place, builder) {
                *last = Some(id);
                if matches!(self.node(child).kind, NodeKind::Element(_)) {
                    stack.push((id, None, self.children(child)));
                }
            }
        }
    }

    fn copy_one(&self, node: NodeIndex, place: Place<'_>, builder: &mut Builder) -> Option<Id> {
        match self.node(node).kind {
            NodeKind::Element(tag) => {
                let id = builder.element(place, self.name(tag));
                for (key, content) in self.values(node) {
                    let place = Place::Key(id, self.name(key));
                    match content {
                        Content::Values(bytes) => builder.encoded(place, 8, 1, bytes),
                        Content::Json(bytes) => builder.encoded(place, 2, 1, bytes),
                        Content::Whole(kind, bytes) => builder.encoded(place, *kind, 1, bytes),
                        _ => {}
                    }
                }
                Some(id)
            }
            NodeKind::Text => {
                let id = builder.text(place);
                self.copy_text(node, id, builder);
                Some(id)
            }
            NodeKind::Foreign(_) | NodeKind::Root(_) => None,
        }
    }

    fn copy_text(&self, node: NodeIndex, copy: Id, builder: &mut Builder) {
        let mut last = None;
        for index in self.items(self.node(node).first) {
            let item = self.item(index);
            let place = match last {
                Some(_) => Place::Between(last, None),
                None => Place::Only(copy),
            };
            match &item.content {
                _ if item.is_deleted() => {}
                Content::Text(text) => last = Some(builder.characters(place, text)),
                Content::Format(key, value) => {
                    last = Some(builder.mark(place, self.name(*key), value));
                }
                _ => {}
            }
        }
    }
}

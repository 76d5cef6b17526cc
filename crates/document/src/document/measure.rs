//! The size of a document's JSON, computed before it is built.
//!
//! A few bytes of an update can expand to many bytes of JSON: each run of a text lists all its
//! formats, and a value of one byte takes up to seventy in memory.

use serde_json::Value;

use super::MeshDocument;
use super::json::{CHILDREN, MAX_DEPTH};
use crate::engine::{JsonSize, NodeIndex, NodeKind, ROOT_ATTRIBUTES_NODE, ROOT_NODE};
use crate::schema::{ChildProperty, TEXT_TAG};

impl MeshDocument {
    /// Like [`Self::to_json`]; `None` if the JSON text would exceed `text` bytes, or the values
    /// about `memory` bytes.
    pub fn to_json_within(&self, include_ids: bool, text: usize, memory: usize) -> Option<Value> {
        self.measure_json(text, memory)
            .map(|_| self.to_json(include_ids))
    }

    /// Measures the result of [`Self::to_json`] without building it; `None` if it would exceed
    /// these bounds.
    pub fn measure_json(&self, text: usize, memory: usize) -> Option<JsonSize> {
        let mut size = JsonSize::default();
        let mut stack = vec![(ROOT_NODE, 1)];
        while let Some((index, level)) = stack.pop() {
            self.measure_element(index, &mut size);
            for child in self.shown(index) {
                match self.engine.node(child).kind {
                    NodeKind::Element(_) if level < MAX_DEPTH => stack.push((child, level + 1)),
                    NodeKind::Text => {
                        // {"text":{"delta":[…]}}
                        size.add_containers(3);
                        size.add_name(TEXT_TAG);
                        size.add_name("delta");
                        self.engine.measure_text(child, &mut size);
                    }
                    NodeKind::Element(_) | NodeKind::Foreign(_) | NodeKind::Root(_) => {}
                }
                if size.exceeds(text, memory) {
                    return None;
                }
            }
            if size.exceeds(text, memory) {
                return None;
            }
        }
        Some(size)
    }

    fn measure_element(&self, index: NodeIndex, size: &mut JsonSize) {
        // {tag:{…,"children":[…]}}
        size.add_containers(3);
        size.add_name(self.tag(index));
        size.add_name(CHILDREN);
        let beside = (index == ROOT_NODE).then_some(ROOT_ATTRIBUTES_NODE);
        for node in [index].into_iter().chain(beside) {
            for (key, content) in self.engine.values(node) {
                size.add_name(self.engine.name(key));
                size.add_content(content);
            }
        }
    }

    /// The child nodes that appear in JSON.
    fn shown(&self, index: NodeIndex) -> impl Iterator<Item = NodeIndex> + '_ {
        let element = self.schema.element(self.tag(index));
        let is_shown = element.is_none_or(|element| {
            let list = element.child_property().map(ChildProperty::name);
            list.is_some()
        });
        self.engine.children(index).filter(move |_| is_shown)
    }
}

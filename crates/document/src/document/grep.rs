//! Finds elements by a regular expression, with the meaning that the published SDKs gave to `grep`.

use std::collections::HashSet;

use regex::{Regex, RegexBuilder};
use serde_json::Value;
use thiserror::Error;

use super::MeshDocument;
use super::read::Element;
use crate::engine::{NodeIndex, NodeKind, ROOT_NODE};

/// How many bytes a compiled pattern may take.
const MAX_PATTERN_BYTES: usize = 1 << 20;

/// Why a pattern was refused.
#[derive(Debug, Error)]
#[error(
    "this is no regular expression that is searched in linear time; look-around and back-references are not"
)]
pub struct PatternError(#[from] regex::Error);

impl MeshDocument {
    /// The elements whose tag, attribute names, attribute values or text match, in document order,
    /// each with as many siblings before and after it. None is listed twice.
    ///
    /// # Errors
    /// [`PatternError`] if the pattern can't be searched for in linear time, or is too large.
    pub fn grep(
        &self,
        pattern: &str,
        ignore_case: bool,
        before: usize,
        after: usize,
    ) -> Result<Vec<Element<'_>>, PatternError> {
        let regex = RegexBuilder::new(pattern)
            .case_insensitive(ignore_case)
            .size_limit(MAX_PATTERN_BYTES)
            .build()?;
        let mut found = Vec::new();
        let mut seen = HashSet::new();
        let mut add = |index: NodeIndex| {
            if seen.insert(index) {
                let document = self;
                found.push(Element { document, index });
            }
        };
        // Lists of siblings, each with how far it was read.
        let mut stack = vec![(vec![ROOT_NODE], 0)];
        while let Some((siblings, at)) = stack.last_mut() {
            let Some(&index) = siblings.get(*at) else {
                stack.pop();
                continue;
            };
            if self.matches(&regex, index) {
                let first = at.saturating_sub(before);
                let last = at.saturating_add(after).min(siblings.len() - 1);
                siblings[first..=last].iter().copied().for_each(&mut add);
            }
            *at += 1;
            let is_element =
                |&node: &NodeIndex| matches!(self.engine.node(node).kind, NodeKind::Element(_));
            let children = self.engine.children(index).filter(is_element);
            stack.push((children.collect(), 0));
        }
        Ok(found)
    }

    fn matches(&self, regex: &Regex, index: NodeIndex) -> bool {
        if regex.is_match(self.tag(index)) {
            return true;
        }
        let attributes = self.attributes(index);
        let in_attributes = attributes.iter().any(|(name, value)| {
            regex.is_match(name)
                || match value {
                    Value::Null => false,
                    Value::String(text) => regex.is_match(text),
                    // Python prints booleans with a capital letter.
                    Value::Bool(true) => regex.is_match("true") || regex.is_match("True"),
                    Value::Bool(false) => regex.is_match("false") || regex.is_match("False"),
                    other => regex.is_match(&other.to_string()),
                }
        });
        let mut children = self.engine.children(index);
        in_attributes
            || children.any(|child| {
                self.engine.node(child).kind == NodeKind::Text
                    && regex.is_match(&self.engine.plain_text(child))
            })
    }
}

//! Searches elements by a regular expression, with the meaning that the published SDKs give
//! to `grep`.

use regex::{Regex, RegexBuilder};
use serde_json::{Map, Value};
use thiserror::Error;

use super::MeshDocument;
use super::read::Element;
use crate::engine::{NodeIndex, NodeKind, ROOT_NODE};
use crate::schema::{TEXT_TAG, capped, quoted};

/// The maximal size of a compiled pattern, in bytes.
const MAX_PATTERN_BYTES: usize = 1 << 20;

/// Why a pattern was rejected. Its [`source`](std::error::Error::source) is the error of the
/// regular expression engine.
#[derive(Debug, Error)]
#[error("invalid pattern {pattern}: {reason}")]
pub struct PatternError {
    pattern: String,
    reason: String,
    source: regex::Error,
}

impl MeshDocument {
    /// Returns the elements whose tag, attribute names, attribute values or text match, in document
    /// order, each with up to `before` and `after` siblings around it. No element is listed twice.
    ///
    /// # Errors
    /// [`PatternError`] if the pattern is not a regular expression that can be searched in linear
    /// time (without look-around and back-references), or is too large.
    pub fn grep(
        &self,
        pattern: &str,
        ignore_case: bool,
        before: usize,
        after: usize,
    ) -> Result<Vec<Element<'_>>, PatternError> {
        let regex = compile(pattern, ignore_case)?;
        let is_element =
            |&node: &NodeIndex| matches!(self.engine.node(node).kind, NodeKind::Element(_));
        let found = walk(
            ROOT_NODE,
            (before, after),
            |index| self.matches(&regex, index),
            |index| self.engine.children(index).filter(is_element).collect(),
        );
        let document = self;
        let found = found.into_iter();
        Ok(found.map(|index| Element { document, index }).collect())
    }

    fn matches(&self, regex: &Regex, index: NodeIndex) -> bool {
        if regex.is_match(self.tag(index)) {
            return true;
        }
        let attributes = self.attributes(index);
        let in_attributes = attributes
            .iter()
            .any(|(name, value)| is_in_attribute(regex, name, value));
        let mut children = self.engine.children(index);
        in_attributes
            || children.any(|child| {
                self.engine.node(child).kind == NodeKind::Text
                    && regex.is_match(&self.engine.plain_text(child))
            })
    }
}

/// Like [`MeshDocument::grep`], for a document's JSON, `{root tag: {…}}`, as
/// [`MeshDocument::to_json`] returns it. Parts that don't have the form of elements are skipped.
///
/// # Errors
/// See [`MeshDocument::grep`].
pub fn grep_json<'a>(
    json: &'a Value,
    pattern: &str,
    ignore_case: bool,
    before: usize,
    after: usize,
) -> Result<Vec<&'a Value>, PatternError> {
    let regex = compile(pattern, ignore_case)?;
    if element(json).is_none() {
        return Ok(Vec::new());
    }
    let is_text = |tag: &str, child: &Value| tag == TEXT_TAG && delta(child).is_some();
    let is_match = |json: &Value| {
        let Some((tag, content)) = element(json) else {
            return false;
        };
        regex.is_match(tag)
            || content.iter().any(|(name, value)| match value {
                Value::Array(children) => children.iter().any(|child| {
                    is_text(tag, child) && delta(child).is_some_and(|text| regex.is_match(&text))
                }),
                value => is_in_attribute(&regex, name, value),
            })
    };
    let children = |json: &'a Value| {
        let Some((tag, content)) = element(json) else {
            return Vec::new();
        };
        let children = content.values().filter_map(Value::as_array).flatten();
        let elements = children.filter(|child| element(child).is_some() && !is_text(tag, child));
        elements.collect()
    };
    Ok(walk(json, (before, after), is_match, children))
}

/// An element's tag and content.
fn element(json: &Value) -> Option<(&str, &Map<String, Value>)> {
    let members = json.as_object().filter(|members| members.len() == 1)?;
    let (tag, content) = members.iter().next()?;
    Some((tag, content.as_object()?))
}

/// The text of a delta in an element.
fn delta(json: &Value) -> Option<String> {
    let (tag, content) = element(json)?;
    let runs = content.get("delta").filter(|_| tag == TEXT_TAG)?;
    let texts = runs.as_array()?.iter();
    Some(texts.filter_map(|run| run["insert"].as_str()).collect())
}

fn compile(pattern: &str, ignore_case: bool) -> Result<Regex, PatternError> {
    let regex = RegexBuilder::new(pattern)
        .case_insensitive(ignore_case)
        .size_limit(MAX_PATTERN_BYTES)
        .build();
    regex.map_err(|source| {
        // The last line names the fault; the lines before it repeat the pattern.
        let text = source.to_string();
        let reason = text.lines().last().unwrap_or_default();
        let reason = reason.strip_prefix("error: ").unwrap_or(reason);
        PatternError {
            pattern: quoted(pattern),
            reason: capped(reason),
            source,
        }
    })
}

/// The matches, in document order, with siblings around them.
fn walk<N: Copy>(
    root: N,
    (before, after): (usize, usize),
    is_match: impl Fn(N) -> bool,
    children: impl Fn(N) -> Vec<N>,
) -> Vec<N> {
    let mut found = Vec::new();
    // Lists of siblings, each with the index read next and the end of the siblings already found.
    let mut stack = vec![(vec![root], 0, 0)];
    while let Some((siblings, at, end)) = stack.last_mut() {
        let Some(&node) = siblings.get(*at) else {
            stack.pop();
            continue;
        };
        *at += 1;
        if is_match(node) {
            let first = (*at - 1).saturating_sub(before).max(*end);
            let last = at.saturating_add(after).min(siblings.len());
            if first < last {
                found.extend_from_slice(&siblings[first..last]);
                *end = last;
            }
        }
        stack.push((children(node), 0, 0));
    }
    found
}

fn is_in_attribute(regex: &Regex, name: &str, value: &Value) -> bool {
    regex.is_match(name)
        || match value {
            Value::Null => false,
            Value::String(text) => regex.is_match(text),
            // Python prints booleans with a capital letter.
            Value::Bool(true) => regex.is_match("true") || regex.is_match("True"),
            Value::Bool(false) => regex.is_match("false") || regex.is_match("False"),
            other => regex.is_match(&other.to_string()),
        }
}

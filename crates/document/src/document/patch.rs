//! JSON Patch (RFC 6902) with JSON pointers (RFC 6901), applied as the smallest change.

use serde_json::Value;
use thiserror::Error;

use super::MeshDocument;
use super::edit::EditError;
use crate::schema::{ID_ATTRIBUTE, Violation};

/// Why a patch was not applied. The document is as it was.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PatchError {
    /// The change can't be made.
    #[error("the patched document can't be reached")]
    Edit(#[from] EditError),
    /// The schema forbids the patched document; all violations are listed.
    #[error("the schema does not allow the patched document: {}", super::insert::list(.0))]
    Invalid(Vec<Violation>),
    /// The patch, or one of its operations, is none.
    #[error("operation {index} is malformed: {reason}")]
    Malformed {
        /// Which operation, counted from 0.
        index: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A pointer leads nowhere.
    #[error("operation {index}: {pointer:?} leads nowhere in the document")]
    NotFound {
        /// Which operation, counted from 0.
        index: usize,
        /// The pointer.
        pointer: String,
    },
    /// A test found another value.
    #[error("operation {index}: the value at {pointer:?} is another than expected")]
    TestFailed {
        /// Which operation, counted from 0.
        index: usize,
        /// The pointer.
        pointer: String,
    },
}

impl MeshDocument {
    /// Applies a JSON Patch to the document's JSON form, as one transaction; its v1 update, `None` if
    /// nothing changed.
    ///
    /// Pointers lead through [`MeshDocument::to_json`]. What the patch does not touch keeps its `$id`
    /// and what others edit in it at the same time; what it moves keeps its `$id`.
    ///
    /// # Errors
    /// [`PatchError`] with the operation that failed; the document is as it was.
    pub fn apply_patch(
        &mut self,
        patch: &Value,
        next_id: &mut dyn FnMut() -> String,
    ) -> Result<Option<Vec<u8>>, PatchError> {
        let Value::Array(operations) = patch else {
            let reason = "a patch is an array of operations";
            return Err(PatchError::Malformed { index: 0, reason });
        };
        // With ids, so that elements are recognised wherever they end up.
        let mut json = self.to_json(true);
        for (index, operation) in operations.iter().enumerate() {
            apply(&mut json, operation).map_err(|failure| failure.at(index))?;
        }
        let edits = self
            .difference(&json, next_id)
            .map_err(PatchError::Invalid)?;
        Ok(self.edit(&edits, next_id)?)
    }
}

enum Failure {
    Malformed(&'static str),
    NotFound(String),
    TestFailed(String),
}

impl Failure {
    fn at(self, index: usize) -> PatchError {
        match self {
            Self::Malformed(reason) => PatchError::Malformed { index, reason },
            Self::NotFound(pointer) => PatchError::NotFound { index, pointer },
            Self::TestFailed(pointer) => PatchError::TestFailed { index, pointer },
        }
    }
}

fn apply(json: &mut Value, operation: &Value) -> Result<(), Failure> {
    let member = |name: &str, reason| {
        let member = operation.get(name).and_then(Value::as_str);
        member.ok_or(Failure::Malformed(reason))
    };
    let value = || {
        let value = operation.get("value").cloned();
        value.ok_or(Failure::Malformed("\"value\" is missing"))
    };
    let path = member("path", "\"path\" is missing")?;
    match member("op", "\"op\" is missing")? {
        "add" => add(json, path, value()?),
        "copy" => {
            let from = member("from", "\"from\" is missing")?;
            let mut copy = get(json, from)?.clone();
            strip_ids(&mut copy);
            add(json, path, copy)
        }
        "move" => {
            let from = member("from", "\"from\" is missing")?;
            if path.starts_with(&format!("{from}/")) {
                return Err(Failure::Malformed("a value can't be moved into itself"));
            }
            let moved = remove(json, from)?;
            add(json, path, moved)
        }
        "remove" => remove(json, path).map(drop),
        "replace" => {
            let value = value()?;
            *get_mut(json, path)? = value;
            Ok(())
        }
        "test" => {
            let mut found = get(json, path)?.clone();
            let mut expected = value()?;
            strip_ids(&mut found);
            strip_ids(&mut expected);
            if is_equal(&found, &expected) {
                return Ok(());
            }
            Err(Failure::TestFailed(path.to_owned()))
        }
        _ => Err(Failure::Malformed("\"op\" is none of the six operations")),
    }
}

fn add(json: &mut Value, pointer: &str, value: Value) -> Result<(), Failure> {
    let Some((parent, key)) = split(pointer)? else {
        *json = value;
        return Ok(());
    };
    match get_mut(json, parent)? {
        Value::Object(members) => {
            members.insert(key, value);
            Ok(())
        }
        Value::Array(items) => {
            let at = if key == "-" {
                Some(items.len())
            } else {
                index(&key)
            };
            let at = at.filter(|&at| at <= items.len());
            let at = at.ok_or_else(|| Failure::NotFound(pointer.to_owned()))?;
            items.insert(at, value);
            Ok(())
        }
        _ => Err(Failure::NotFound(pointer.to_owned())),
    }
}

fn remove(json: &mut Value, pointer: &str) -> Result<Value, Failure> {
    let Some((parent, key)) = split(pointer)? else {
        return Ok(json.take());
    };
    let removed = match get_mut(json, parent)? {
        Value::Object(members) => members.shift_remove(&key),
        Value::Array(items) => index(&key)
            .filter(|&at| at < items.len())
            .map(|at| items.remove(at)),
        _ => None,
    };
    removed.ok_or_else(|| Failure::NotFound(pointer.to_owned()))
}

fn get<'a>(json: &'a Value, pointer: &str) -> Result<&'a Value, Failure> {
    split(pointer)?;
    let found = json.pointer(pointer);
    found.ok_or_else(|| Failure::NotFound(pointer.to_owned()))
}

fn get_mut<'a>(json: &'a mut Value, pointer: &str) -> Result<&'a mut Value, Failure> {
    split(pointer)?;
    let found = json.pointer_mut(pointer);
    found.ok_or_else(|| Failure::NotFound(pointer.to_owned()))
}

/// The pointer to the parent, and the last reference token.
fn split(pointer: &str) -> Result<Option<(&str, String)>, Failure> {
    if pointer.is_empty() {
        return Ok(None);
    }
    if !pointer.starts_with('/') {
        return Err(Failure::Malformed(
            "a pointer is empty or begins with \"/\"",
        ));
    }
    let (parent, token) = pointer.rsplit_once('/').unwrap_or_default();
    Ok(Some((parent, token.replace("~1", "/").replace("~0", "~"))))
}

fn index(token: &str) -> Option<usize> {
    let is_plain = token == "0" || !token.starts_with(['0', '+']);
    token.parse().ok().filter(|_| is_plain)
}

/// Values are as deep as the document's JSON and the caller's patch, both of which are limited.
pub(super) fn strip_ids(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.shift_remove(ID_ATTRIBUTE);
            members.values_mut().for_each(strip_ids);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_ids),
        _ => {}
    }
}

/// Numbers are equal if they are numerically, as RFC 6902 says.
fn is_equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_equal(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter()
                    .all(|(key, a)| b.get(key).is_some_and(|b| is_equal(a, b)))
        }
        _ => a == b,
    }
}

//! Translation of a rich-text delta into edits.

use serde_json::{Map, Value};

use super::edit::{Edit, EditError, TextPosition};
use crate::update::scan::utf16_length;

/// Translates a delta. Each edit applies to the text as the edits before it leave it.
pub(super) fn edits(id: &str, delta: &Value) -> Result<Vec<Edit>, EditError> {
    let malformed = |index, reason| EditError::Delta { index, reason };
    let operations = delta.as_array();
    let operations = operations.ok_or_else(|| malformed(0, "expected an array of operations"))?;
    let mut edits = Vec::new();
    let mut at = 0_usize;
    for (index, operation) in operations.iter().enumerate() {
        let fail = |reason| malformed(index, reason);
        let members = operation.as_object();
        let members = members.ok_or_else(|| fail("expected an object"))?;
        let attributes = match members.get("attributes") {
            None | Some(Value::Null) => None,
            Some(Value::Object(attributes)) => Some(attributes.clone()),
            Some(_) => return Err(fail("attributes must be an object")),
        };
        let count = |name: &str| {
            let count = members.get(name)?;
            Some(count.as_u64().and_then(|count| usize::try_from(count).ok()))
        };
        let range = |length: usize| {
            let to = at.checked_add(length);
            let to = to.ok_or_else(|| fail("it reaches beyond the end of the text"))?;
            Ok((TextPosition::Utf16(at), TextPosition::Utf16(to), to))
        };
        let id = id.to_owned();
        match (members.get("insert"), count("retain"), count("delete")) {
            (Some(Value::String(text)), None, None) => {
                edits.push(Edit::InsertText {
                    id,
                    at: TextPosition::Utf16(at),
                    text: text.clone(),
                    attributes: Some(attributes.unwrap_or_else(Map::new)),
                });
                at += utf16_length(text);
            }
            (Some(_), None, None) => return Err(fail("insert must be a string")),
            (None, Some(Some(length)), None) => {
                let (from, to, end) = range(length)?;
                if let Some(attributes) = attributes {
                    edits.push(Edit::FormatText {
                        id,
                        from,
                        to,
                        attributes,
                    });
                }
                at = end;
            }
            (None, None, Some(Some(length))) => {
                let (from, to, _) = range(length)?;
                edits.push(Edit::DeleteText { id, from, to });
            }
            (None, Some(None), None) | (None, None, Some(None)) => {
                return Err(fail("retain and delete must be non-negative integers"));
            }
            _ => return Err(fail("expected exactly one of insert, retain and delete")),
        }
    }
    Ok(edits)
}

/// Checks that everything a delta retains or deletes is within a text of this length.
pub(super) fn check_reach(delta: &Value, length: usize) -> Result<(), EditError> {
    let mut left = length;
    for (index, operation) in delta.as_array().into_iter().flatten().enumerate() {
        let passed = operation.get("retain").or_else(|| operation.get("delete"));
        let passed = passed.and_then(Value::as_u64).unwrap_or_default();
        let reason = "it reaches beyond the end of the text";
        let rest = usize::try_from(passed).ok();
        let rest = rest.and_then(|passed| left.checked_sub(passed));
        left = rest.ok_or(EditError::Delta { index, reason })?;
    }
    Ok(())
}

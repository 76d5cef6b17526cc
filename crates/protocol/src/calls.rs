//! The streamed calls of one connection, by the ids that its client chose.

use std::collections::BTreeMap;

/// A table of the open calls of one connection.
///
/// The ids are scoped to the connection: another connection may use the same ones.
#[derive(Clone, Debug)]
pub struct Calls<T> {
    calls: BTreeMap<String, T>,
}

impl<T> Calls<T> {
    /// Creates an empty table.
    pub fn new() -> Self {
        Self {
            calls: BTreeMap::new(),
        }
    }

    /// Adds a call.
    ///
    /// # Errors
    ///
    /// If the id is still in use; the existing call is not affected.
    pub fn open(&mut self, tool_call_id: impl Into<String>, call: T) -> Result<(), DuplicateCall> {
        let tool_call_id = tool_call_id.into();
        if self.calls.contains_key(&tool_call_id) {
            return Err(DuplicateCall { tool_call_id });
        }
        self.calls.insert(tool_call_id, call);
        Ok(())
    }

    /// The call with this id, mutable.
    pub fn get_mut(&mut self, tool_call_id: &str) -> Option<&mut T> {
        self.calls.get_mut(tool_call_id)
    }

    /// Removes and returns the call with this id, which can then be used again.
    pub fn remove(&mut self, tool_call_id: &str) -> Option<T> {
        self.calls.remove(tool_call_id)
    }

    /// The call with this id.
    pub fn get(&self, tool_call_id: &str) -> Option<&T> {
        self.calls.get(tool_call_id)
    }

    /// All calls, sorted by id.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.calls.iter().map(|(id, call)| (id.as_str(), call))
    }

    /// All calls, mutable, sorted by id.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&str, &mut T)> {
        self.calls.iter_mut().map(|(id, call)| (id.as_str(), call))
    }

    /// Removes and returns all calls.
    pub fn drain(&mut self) -> impl Iterator<Item = (String, T)> {
        std::mem::take(&mut self.calls).into_iter()
    }

    /// The number of open calls.
    pub fn len(&self) -> usize {
        self.calls.len()
    }

    /// Whether no call is open.
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }
}

impl<T> Default for Calls<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// A new call has the id of an open one.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the tool call id `{tool_call_id}` is still in use; choose another one")]
#[non_exhaustive]
pub struct DuplicateCall {
    /// The id that is in use.
    pub tool_call_id: String,
}

//! The streamed calls of one connection, by the ids that its client gave them.

use std::collections::BTreeMap;

/// A table of the calls that are open on one connection.
///
/// The ids are scoped to the connection: another one may use the same.
#[derive(Clone, Debug)]
pub struct Calls<T> {
    calls: BTreeMap<String, T>,
}

impl<T> Calls<T> {
    /// A table without calls.
    pub fn new() -> Self {
        Self {
            calls: BTreeMap::new(),
        }
    }

    /// Enters a call.
    ///
    /// # Errors
    ///
    /// When the id is still in use; the first call goes on.
    pub fn open(&mut self, tool_call_id: impl Into<String>, call: T) -> Result<(), DuplicateCall> {
        let tool_call_id = tool_call_id.into();
        if self.calls.contains_key(&tool_call_id) {
            return Err(DuplicateCall { tool_call_id });
        }
        self.calls.insert(tool_call_id, call);
        Ok(())
    }

    /// The call of this id, to change.
    pub fn get_mut(&mut self, tool_call_id: &str) -> Option<&mut T> {
        self.calls.get_mut(tool_call_id)
    }

    /// Takes the call of this id out; the id is free again.
    pub fn remove(&mut self, tool_call_id: &str) -> Option<T> {
        self.calls.remove(tool_call_id)
    }

    /// The call of this id.
    pub fn get(&self, tool_call_id: &str) -> Option<&T> {
        self.calls.get(tool_call_id)
    }

    /// All calls, in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.calls.iter().map(|(id, call)| (id.as_str(), call))
    }

    /// All calls, to change, in the order of their ids.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&str, &mut T)> {
        self.calls.iter_mut().map(|(id, call)| (id.as_str(), call))
    }

    /// Takes all calls out.
    pub fn drain(&mut self) -> impl Iterator<Item = (String, T)> {
        std::mem::take(&mut self.calls).into_iter()
    }

    /// How many calls are open.
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

/// The id of a call that is still open was used for a new one.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the tool call id `{tool_call_id}` is still in use, choose another one")]
#[non_exhaustive]
pub struct DuplicateCall {
    /// The id.
    pub tool_call_id: String,
}

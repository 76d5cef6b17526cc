//! The attacks, by their target.

pub(crate) mod calls;
pub(crate) mod documents;
pub(crate) mod edits;
pub(crate) mod files;
pub(crate) mod http;
pub(crate) mod json;
pub(crate) mod memory;
pub(crate) mod messages;
pub(crate) mod sockets;

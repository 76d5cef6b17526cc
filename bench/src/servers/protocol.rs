//! The protocols of the servers' clients: updates in, frames out, without I/O.

mod ours;
mod relay;
mod yjs;

use std::borrow::Cow;

use bytes::Bytes;

pub use ours::{Credentials, Ours};
pub use relay::Relay;
pub use yjs::{Hocuspocus, YProtocol};

/// The meaning of a server's frame to a client.
#[derive(Clone, Debug)]
pub enum Meaning {
    /// The answer to the greeting: the document's state as one Yjs v1 update, possibly empty.
    State(Bytes),
    /// An update, or several merged ones, as received.
    Update(Bytes),
    /// The server acknowledges this many of our updates.
    Acknowledged(u32),
}

/// One client's side of a connection to one document.
pub trait Protocol: std::fmt::Debug + Send {
    /// Returns the target of the HTTP upgrade: path and query.
    fn target(&self) -> String;

    /// Returns the first frames after the upgrade.
    fn greet(&mut self) -> Vec<Bytes>;

    /// Returns the frames that carry an update. Send them in the order of these calls.
    fn encode_update(&mut self, update: &[u8]) -> Vec<Bytes>;

    /// Pushes a frame's meanings onto `meanings`, and the frames to send in reply onto `replies`.
    ///
    /// # Errors
    /// When the frame violates the protocol, or reports a refusal.
    fn handle_frame(
        &mut self,
        frame: &Bytes,
        meanings: &mut Vec<Meaning>,
        replies: &mut Vec<Bytes>,
    ) -> anyhow::Result<()>;

    /// Decodes the payload of [`Meaning::Update`] or [`Meaning::State`] to a Yjs v1 update.
    ///
    /// # Errors
    /// When the payload is not valid.
    fn decode<'a>(&self, payload: &'a [u8]) -> anyhow::Result<Cow<'a, [u8]>> {
        Ok(Cow::Borrowed(payload))
    }
}

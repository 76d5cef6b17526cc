//! How a server's clients speak: updates in, frames out, without I/O.

mod ours;
mod yjs;

use std::borrow::Cow;

use bytes::Bytes;

pub use ours::{Credentials, Ours};
pub use yjs::{Hocuspocus, Relay, YProtocol};

/// What a frame from the server means to a client.
#[derive(Clone, Debug)]
pub enum Heard {
    /// The answer to our greeting: the document's state as one Yjs v1 update, maybe an empty one.
    State(Bytes),
    /// An update of somebody, or several that were merged, as it stands on the wire.
    Update(Bytes),
    /// So many of our updates are acknowledged.
    Acknowledged(u32),
}

/// One client's side of a connection to one document.
pub trait Speech: std::fmt::Debug + Send {
    /// What is asked for in the HTTP upgrade: path and query.
    fn target(&self) -> String;

    /// The first frames after the upgrade.
    fn greet(&mut self) -> Vec<Bytes>;

    /// The frames that carry an update. Called in the order in which they are sent.
    fn say(&mut self, update: &[u8]) -> Vec<Bytes>;

    /// What a frame means; pushes the frames that have to be answered at once onto `replies`.
    ///
    /// # Errors
    /// When it is not what this protocol says, or the server refused something.
    fn hear(
        &mut self,
        frame: &Bytes,
        heard: &mut Vec<Heard>,
        replies: &mut Vec<Bytes>,
    ) -> anyhow::Result<()>;

    /// The Yjs v1 update in what [`Heard::Update`] or [`Heard::State`] carries.
    ///
    /// # Errors
    /// When it is none.
    fn decode<'a>(&self, payload: &'a [u8]) -> anyhow::Result<Cow<'a, [u8]>> {
        Ok(Cow::Borrowed(payload))
    }
}

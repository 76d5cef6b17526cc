//! The streams of a document, ordered by id.

use super::{Stream, StreamId};

/// Most documents have one or two streams, for which a list takes the least memory.
#[derive(Debug, Default)]
pub(in crate::room) struct Streams(Vec<(StreamId, Stream)>);

impl Streams {
    pub(in crate::room) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(in crate::room) fn get(&self, id: StreamId) -> Option<&Stream> {
        let at = self.place(id).ok()?;
        self.0.get(at).map(|(_, stream)| stream)
    }

    pub(in crate::room) fn get_mut(&mut self, id: StreamId) -> Option<&mut Stream> {
        let at = self.place(id).ok()?;
        self.0.get_mut(at).map(|(_, stream)| stream)
    }

    /// Adds a stream, or replaces the one with this id.
    pub(in crate::room) fn insert(&mut self, id: StreamId, stream: Stream) {
        match self.place(id) {
            Ok(at) => self.0[at].1 = stream,
            // Ids ascend, so this is the end of the list.
            Err(at) => {
                self.0.reserve_exact(usize::from(self.0.is_empty()));
                self.0.insert(at, (id, stream));
            }
        }
    }

    pub(in crate::room) fn remove(&mut self, id: StreamId) {
        if let Ok(at) = self.place(id) {
            self.0.remove(at);
            if self.0.len() <= self.0.capacity() / 4 {
                self.0.shrink_to(self.0.len() * 2);
            }
        }
    }

    /// Removes the streams that their clients have closed, and returns them.
    pub(in crate::room) fn take_closing(&mut self) -> Self {
        Self(self.0.extract_if(.., |(_, one)| one.is_closing).collect())
    }

    pub(in crate::room) fn iter_mut(&mut self) -> impl Iterator<Item = (StreamId, &mut Stream)> {
        self.0.iter_mut().map(|(id, stream)| (*id, stream))
    }

    pub(in crate::room) fn values(&self) -> impl Iterator<Item = &Stream> {
        self.0.iter().map(|(_, stream)| stream)
    }

    pub(in crate::room) fn values_mut(&mut self) -> impl Iterator<Item = &mut Stream> {
        self.0.iter_mut().map(|(_, stream)| stream)
    }

    pub(in crate::room) fn into_values(self) -> impl Iterator<Item = Stream> {
        self.0.into_iter().map(|(_, stream)| stream)
    }

    fn place(&self, id: StreamId) -> Result<usize, usize> {
        self.0.binary_search_by_key(&id, |(id, _)| *id)
    }
}

//! The streams of a document, ordered by id.

use std::collections::BTreeMap;

use super::{Stream, StreamId};

/// The streams of a document are in a map while there are more than this many, because a removal
/// from a list moves all behind it.
const FEW: usize = 512;

#[derive(Debug)]
#[expect(
    clippy::box_collection,
    reason = "the map must not make documents with few streams larger"
)]
pub(in crate::room) enum Streams {
    /// Most documents have one or two streams, for which a list takes the least memory.
    Few(Vec<(StreamId, Stream)>),
    Many(Box<BTreeMap<StreamId, Stream>>),
}

impl Streams {
    pub(in crate::room) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn len(&self) -> usize {
        match self {
            Self::Few(list) => list.len(),
            Self::Many(map) => map.len(),
        }
    }

    pub(in crate::room) fn get(&self, id: StreamId) -> Option<&Stream> {
        match self {
            Self::Few(list) => list.get(place(list, id).ok()?).map(|(_, stream)| stream),
            Self::Many(map) => map.get(&id),
        }
    }

    pub(in crate::room) fn get_mut(&mut self, id: StreamId) -> Option<&mut Stream> {
        match self {
            Self::Few(list) => {
                let at = place(list, id).ok()?;
                list.get_mut(at).map(|(_, stream)| stream)
            }
            Self::Many(map) => map.get_mut(&id),
        }
    }

    /// Adds a stream, or replaces the one with this id.
    pub(in crate::room) fn insert(&mut self, id: StreamId, stream: Stream) {
        match self {
            Self::Few(list) => match place(list, id) {
                Ok(at) => list[at].1 = stream,
                // Ids ascend, so this is the end of the list.
                Err(at) => {
                    list.reserve_exact(usize::from(list.is_empty()));
                    list.insert(at, (id, stream));
                    if list.len() > FEW {
                        let map = std::mem::take(list).into_iter().collect();
                        *self = Self::Many(Box::new(map));
                    }
                }
            },
            Self::Many(map) => {
                map.insert(id, stream);
            }
        }
    }

    pub(in crate::room) fn remove(&mut self, id: StreamId) {
        match self {
            Self::Few(list) => {
                if let Ok(at) = place(list, id) {
                    list.remove(at);
                }
            }
            Self::Many(map) => {
                map.remove(&id);
            }
        }
        self.shrink();
    }

    /// Releases memory that far more streams needed.
    fn shrink(&mut self) {
        match self {
            Self::Few(list) if list.len() <= list.capacity() / 4 => list.shrink_to(list.len() * 2),
            Self::Many(map) if map.len() <= FEW / 4 => {
                *self = Self::Few(std::mem::take(&mut **map).into_iter().collect());
            }
            _ => {}
        }
    }

    /// Removes the streams that their clients have closed, and returns them.
    pub(in crate::room) fn take_closing(&mut self) -> Self {
        let mut closing = match self {
            Self::Few(list) => Self::Few(list.extract_if(.., |(_, one)| one.is_closing).collect()),
            Self::Many(map) => {
                let closing = map.extract_if(.., |_, one| one.is_closing);
                Self::Many(Box::new(closing.collect()))
            }
        };
        self.shrink();
        closing.shrink();
        closing
    }

    pub(in crate::room) fn iter_mut(&mut self) -> impl Iterator<Item = (StreamId, &mut Stream)> {
        let (list, map) = match self {
            Self::Few(list) => (&mut list[..], None),
            Self::Many(map) => (&mut [][..], Some(map)),
        };
        let list = list.iter_mut().map(|(id, stream)| (*id, stream));
        let map = map.into_iter().flat_map(|map| map.iter_mut());
        list.chain(map.map(|(id, stream)| (*id, stream)))
    }

    pub(in crate::room) fn values(&self) -> impl Iterator<Item = &Stream> {
        let (list, map) = match self {
            Self::Few(list) => (&list[..], None),
            Self::Many(map) => (&[][..], Some(map)),
        };
        let list = list.iter().map(|(_, stream)| stream);
        list.chain(map.into_iter().flat_map(|map| map.values()))
    }

    pub(in crate::room) fn values_mut(&mut self) -> impl Iterator<Item = &mut Stream> {
        self.iter_mut().map(|(_, stream)| stream)
    }

    pub(in crate::room) fn into_values(self) -> impl Iterator<Item = Stream> {
        let (list, map) = match self {
            Self::Few(list) => (list, BTreeMap::new()),
            Self::Many(map) => (Vec::new(), *map),
        };
        let list = list.into_iter().map(|(_, stream)| stream);
        list.chain(map.into_values())
    }
}

impl Default for Streams {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

fn place(list: &[(StreamId, Stream)], id: StreamId) -> Result<usize, usize> {
    list.binary_search_by_key(&id, |(id, _)| *id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::room::Conn;

    fn stream(number: u64) -> Stream {
        Stream {
            conn: Conn(number),
            tool_call_id: format!("höre-{number}").into(),
            cursor: 0,
            lagging: false,
            catching_up: false,
            merges: false,
            lost: None,
            is_ahead: false,
            is_closing: number.is_multiple_of(3),
        }
    }

    fn numbers(streams: &mut Streams) -> Vec<u64> {
        let ids: Vec<u64> = streams.iter_mut().map(|(id, _)| id.0).collect();
        let conns: Vec<u64> = streams.values().map(|one| one.conn.0).collect();
        assert_eq!(ids, conns);
        ids
    }

    /// Before, a connection that left with thousands of streams moved all others as often.
    #[test]
    fn removal_moves_few_other_streams() {
        let mut streams = Streams::default();
        for number in 0..20_000 {
            streams.insert(StreamId(number), stream(number));
        }
        let places = |streams: &Streams| -> Vec<usize> {
            let addresses = streams.values().map(std::ptr::from_ref);
            addresses.map(<*const Stream>::addr).collect()
        };
        let before = places(&streams);
        streams.remove(StreamId(0));
        let after = places(&streams);
        let moved = before[1..].iter().zip(&after);
        let moved = moved.filter(|(before, after)| before != after).count();
        assert!(moved <= 512, "{moved}");
    }

    #[test]
    fn order_and_content_are_the_same_for_few_and_many() {
        let mut streams = Streams::default();
        let most = u64::try_from(FEW).unwrap() * 2;
        for number in 0..most {
            streams.insert(StreamId(number), stream(number));
            if number % 100 == 0 {
                assert!(numbers(&mut streams).into_iter().eq(0..=number));
            }
        }
        assert!(matches!(streams, Streams::Many(_)));
        let mut closing = streams.take_closing();
        let left: Vec<u64> = (0..most).filter(|number| number % 3 > 0).collect();
        let closed: Vec<u64> = (0..most).filter(|number| number % 3 == 0).collect();
        assert_eq!(numbers(&mut closing), closed);
        assert_eq!(numbers(&mut streams), left);
        for (index, number) in left.iter().enumerate() {
            assert_eq!(streams.get(StreamId(*number)).unwrap().conn, Conn(*number));
            streams.get_mut(StreamId(*number)).unwrap().lagging = true;
            streams.remove(StreamId(*number));
            assert!(streams.get(StreamId(*number)).is_none());
            if index % 50 == 0 {
                assert_eq!(numbers(&mut streams), left[index + 1..]);
            }
        }
        assert!(streams.is_empty());
        assert!(matches!(&streams, Streams::Few(list) if list.capacity() <= 4));
    }
}

//! The protocol of the relay: each message is an update, except that the first one is the state.

use std::borrow::Cow;

use anyhow::Result;
use bytes::Bytes;
use meshagent_document::merge_updates;

use super::yjs::EMPTY_UPDATE;
use super::{Meaning, Protocol};
use crate::servers::batch;

/// A client of the relay.
#[derive(Debug)]
pub struct Relay {
    target: String,
    has_state: bool,
    /// Whether the relay sends batches of updates.
    is_batching: bool,
}

impl Relay {
    /// Creates a client of the document at this path.
    pub fn new(target: String) -> Self {
        Self {
            target,
            has_state: false,
            is_batching: false,
        }
    }

    /// Creates a client of a relay that sends batches.
    pub fn batching(target: String) -> Self {
        Self {
            is_batching: true,
            ..Self::new(target)
        }
    }
}

impl Protocol for Relay {
    fn target(&self) -> String {
        self.target.clone()
    }

    fn greet(&mut self) -> Vec<Bytes> {
        Vec::new()
    }

    fn encode_update(&mut self, update: &[u8]) -> Vec<Bytes> {
        vec![Bytes::copy_from_slice(update)]
    }

    fn handle_frame(
        &mut self,
        frame: &Bytes,
        meanings: &mut Vec<Meaning>,
        _: &mut Vec<Bytes>,
    ) -> Result<()> {
        // The relay greets with the state from its file, or with an empty message.
        meanings.push(if !self.has_state {
            self.has_state = true;
            Meaning::State(frame.clone())
        } else {
            Meaning::Update(frame.clone())
        });
        Ok(())
    }

    fn decode<'a>(&self, payload: &'a [u8]) -> Result<Cow<'a, [u8]>> {
        // No listener decodes the state from the relay's file.
        Ok(if payload.is_empty() {
            EMPTY_UPDATE.into()
        } else if self.is_batching {
            merge_updates(&batch::messages(payload)?)?.into()
        } else {
            payload.into()
        })
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::servers::workload::{Writer, base, clocks};

    #[test]
    fn a_batch_has_the_clock_of_each_writer() {
        let base = base(2).unwrap();
        let mut writers = [0, 1].map(|writer| Writer::new(writer, writer, &base).unwrap());
        let mut client = Relay::batching("/document".to_owned());
        let mut frames = vec![Bytes::new()];
        for numbers in [&[0, 1, 0][..], &[1]] {
            let mut message = BytesMut::new();
            for number in numbers {
                batch::append(&mut message, &writers[*number].write().unwrap());
            }
            frames.push(message.freeze());
        }
        let mut meanings = Vec::new();
        for frame in &frames {
            client
                .handle_frame(frame, &mut meanings, &mut Vec::new())
                .unwrap();
        }
        let [
            Meaning::State(state),
            Meaning::Update(first),
            Meaning::Update(second),
        ] = &meanings[..]
        else {
            panic!("expected a state and two updates, found {meanings:?}");
        };
        let clocks_of = |payload: &Bytes| {
            let mut clocks = clocks(&client.decode(payload).unwrap()).unwrap();
            clocks.sort_unstable();
            clocks
        };
        assert_eq!(clocks_of(state), []);
        assert_eq!(clocks_of(first), [(0, 2), (1, 1)]);
        assert_eq!(clocks_of(second), [(1, 2)]);
    }
}

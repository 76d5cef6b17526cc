//! The payloads that a document sent last, so that their echoes are recognized unread.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hasher as _};

/// Published clients echo immediately, so few payloads are sent in between.
const REMEMBERED: usize = 256;

/// The last payloads, by length and hash.
///
/// A payload that is mistaken for another one would be lost. The chance is one in 2⁶⁴, and because
/// of the key nobody can construct such a payload.
#[derive(Debug)]
pub(super) struct Sent {
    key: u64,
    payloads: VecDeque<(usize, u64)>,
    /// The address and length of the last payload: a state for many readers is hashed once.
    last: (usize, usize),
}

impl Sent {
    pub(super) fn new(key: u64) -> Self {
        Self {
            key,
            payloads: VecDeque::new(),
            last: (0, 0),
        }
    }

    /// Remembers a payload that is being sent. It has to be on disk, because an equal payload is
    /// acknowledged.
    pub(super) fn remember(&mut self, payload: &[u8]) {
        let place = (payload.as_ptr().addr(), payload.len());
        if self.last == place {
            return;
        }
        self.last = place;
        let entry = (payload.len(), self.hash(payload));
        if self.payloads.contains(&entry) {
            return;
        }
        if self.payloads.len() == REMEMBERED {
            self.payloads.pop_front();
        }
        self.payloads.push_back(entry);
    }

    pub(super) fn contains(&self, payload: &[u8]) -> bool {
        let same_length = |entry: &&(usize, u64)| entry.0 == payload.len();
        if !self.payloads.iter().any(|entry| same_length(&entry)) {
            return false;
        }
        let hash = self.hash(payload);
        self.payloads
            .iter()
            .filter(same_length)
            .any(|entry| entry.1 == hash)
    }

    pub(super) fn clear(&mut self) {
        self.payloads.clear();
        self.last = (0, 0);
    }

    fn hash(&self, payload: &[u8]) -> u64 {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.key);
        hasher.write(payload);
        hasher.finish()
    }
}

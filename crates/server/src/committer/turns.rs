//! The order of transactions: small batches together, in turns with one step of a large batch.
//!
//! One thread writes for all rooms. A large batch is staged in the store step by step and then
//! committed, which is a step too. So a small batch waits for at most one step, however large the
//! others are, and large batches take turns.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use meshagent_store::{Staging, Write};
use tokio::sync::oneshot;

use super::{Outcome, Owner};

/// A transaction with this many writes takes no further batch, so that its first sender does not
/// wait long.
const MAX_WRITES: usize = 4096;
/// The largest content of a small batch; below, the content with which a transaction takes no
/// further batch.
const SMALL_BYTES: usize = 256 << 10;
const TOGETHER_BYTES: usize = 1 << 20;

/// A batch that is committed in one step, together with others.
#[derive(Debug)]
pub(super) struct Small {
    pub(super) owner: Arc<Owner>,
    pub(super) writes: Vec<Write>,
    pub(super) done: oneshot::Sender<Outcome>,
}

/// A batch that is staged before it is committed.
#[derive(Debug)]
pub(super) struct Large {
    pub(super) owner: Arc<Owner>,
    pub(super) writes: Vec<Write>,
    pub(super) staging: Staging,
    /// How long the store has worked on it.
    pub(super) took: Duration,
    pub(super) done: oneshot::Sender<Outcome>,
}

/// The content of the next transaction.
#[derive(Debug)]
pub(super) enum Turn {
    /// Small batches in the order of arrival; none if no batch waits.
    Small(Vec<Small>),
    /// A step of this batch. If more steps follow, it is [put back](Turns::put_back).
    Large(Large),
}

/// The batches that wait.
#[derive(Debug, Default)]
pub(super) struct Turns {
    small: VecDeque<Small>,
    large: VecDeque<Large>,
    /// Whether the last transaction was one of small batches.
    was_small: bool,
}

impl Turns {
    pub(super) fn add(
        &mut self,
        owner: Arc<Owner>,
        writes: Vec<Write>,
        done: oneshot::Sender<Outcome>,
    ) {
        if is_small(&writes) {
            self.small.push_back(Small {
                owner,
                writes,
                done,
            });
        } else {
            self.large.push_back(Large {
                owner,
                writes,
                staging: Staging::default(),
                took: Duration::ZERO,
                done,
            });
        }
    }

    /// Queues a large batch behind the others.
    pub(super) fn put_back(&mut self, large: Large) {
        self.large.push_back(large);
    }

    pub(super) fn len(&self) -> usize {
        self.small.len() + self.large.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn next(&mut self) -> Turn {
        if (self.small.is_empty() || self.was_small)
            && let Some(large) = self.large.pop_front()
        {
            self.was_small = false;
            return Turn::Large(large);
        }
        self.was_small = true;
        let (mut length, mut bytes) = (0, 0);
        let mut taken = 0;
        for Small { writes, .. } in &self.small {
            if length >= MAX_WRITES || bytes >= TOGETHER_BYTES {
                break;
            }
            length += writes.len();
            bytes += content_bytes(writes);
            taken += 1;
        }
        Turn::Small(self.small.drain(..taken).collect())
    }
}

/// Whether a batch is cheap. An operation on a whole folder may touch very many entries.
fn is_small(writes: &[Write]) -> bool {
    !writes.iter().any(Write::may_touch_many) && content_bytes(writes) <= SMALL_BYTES
}

fn content_bytes(writes: &[Write]) -> usize {
    writes.iter().map(Write::bytes).sum()
}

#[cfg(test)]
mod tests {
    use meshagent_store::{Reach, RoomId, Timestamp};

    use super::*;

    fn put(path: &str, bytes: usize) -> Vec<Write> {
        vec![Write::PutFile {
            room: RoomId::new("project", path),
            path: path.to_owned(),
            data: vec![0; bytes].into(),
            mime_type: String::new(),
            overwrite: true,
            at: Timestamp(0),
        }]
    }

    fn paths(turns: &mut Turns) -> Vec<String> {
        let batches = match turns.next() {
            Turn::Small(batches) => batches.into_iter().map(|batch| batch.writes).collect(),
            Turn::Large(large) => vec![large.writes],
        };
        let path = |write: Write| match write {
            Write::PutFile { path, .. } | Write::Delete { path, .. } => path,
            other => panic!("{other:?}"),
        };
        batches.into_iter().flatten().map(path).collect()
    }

    fn add(turns: &mut Turns, writes: Vec<Write>) {
        let owner = Owner::new(RoomId::new("project", "room"));
        turns.add(owner, writes, oneshot::channel().0);
    }

    #[test]
    fn small_ones_wait_for_one_large_one_at_most() {
        let mut turns = Turns::default();
        for name in ["groß 1", "groß 2", "groß 3"] {
            add(&mut turns, put(name, 20 << 20));
        }
        for name in ["a", "ä"] {
            add(&mut turns, put(name, 100));
        }
        assert_eq!(paths(&mut turns), ["a", "ä"]);
        assert_eq!(paths(&mut turns), ["groß 1"]);
        add(&mut turns, put("b", 100));
        assert_eq!(paths(&mut turns), ["b"]);
        add(&mut turns, put("c", 100));
        // Large batches are not starved.
        assert_eq!(paths(&mut turns), ["groß 2"]);
        assert_eq!(paths(&mut turns), ["c"]);
        assert_eq!(paths(&mut turns), ["groß 3"]);
        assert_eq!(paths(&mut turns), [""; 0]);
        assert!(turns.is_empty());
    }

    #[test]
    fn large_ones_take_turns_step_by_step() {
        let mut turns = Turns::default();
        for name in ["groß 1", "groß 2"] {
            add(&mut turns, put(name, 20 << 20));
        }
        let mut steps = Vec::new();
        for _ in 0..2 {
            for name in ["a", "ä"] {
                add(&mut turns, put(name, 100));
                assert_eq!(paths(&mut turns), [name]);
                let Turn::Large(large) = turns.next() else {
                    panic!("no large one");
                };
                steps.push(large.writes[0].bytes());
                turns.put_back(large);
            }
        }
        assert_eq!(steps, [20 << 20; 4]);
        assert_eq!(paths(&mut turns), ["groß 1"]);
        assert_eq!(paths(&mut turns), ["groß 2"]);
    }

    #[test]
    fn what_empties_a_folder_goes_alone() {
        let mut turns = Turns::default();
        let delete = Write::Delete {
            room: RoomId::new("project", "room"),
            path: "folder".to_owned(),
            recursive: true,
            reach: Reach::EVERYTHING,
        };
        add(&mut turns, vec![delete]);
        add(&mut turns, put("b", 1));
        assert_eq!(paths(&mut turns), ["b"]);
        assert_eq!(paths(&mut turns), ["folder"]);
    }

    #[test]
    fn many_small_ones_are_bounded_together() {
        let mut turns = Turns::default();
        for number in 0..20 {
            add(&mut turns, put(&number.to_string(), 200 << 10));
        }
        let mut taken = Vec::new();
        while !turns.is_empty() {
            let next = paths(&mut turns);
            assert!(next.len() <= 6, "{next:?}");
            taken.extend(next);
        }
        let all: Vec<String> = (0..20).map(|number| number.to_string()).collect();
        assert_eq!(taken, all);
    }
}

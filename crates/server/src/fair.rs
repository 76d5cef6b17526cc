//! Turns among many waiting requests that are divided among groups: the groups alternate, however
//! many requests one of them has.
//!
//! Each request has a rank, one more than the rank of its group's previous request, but at least
//! that of the last turn, plus one. Turns are given in the order of the ranks. So a group's first
//! request is behind one request of each other group, and not behind all of them.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// The rank of a request, then its number.
type Rank = (u64, u64);

/// A number of concurrent turns.
#[derive(Debug)]
pub(crate) struct FairTurns {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    free: usize,
    /// The rank of the last turn.
    reached: u64,
    /// The number of the last request.
    number: u64,
    waiting: BTreeMap<Rank, oneshot::Sender<FairTurn>>,
    /// Groups with requests that wait.
    groups: HashMap<Arc<str>, Group>,
}

#[derive(Debug, Default)]
struct Group {
    waiting: usize,
    last: u64,
}

/// A turn, released when dropped.
#[derive(Debug)]
pub(crate) struct FairTurn {
    of: Option<Arc<FairTurns>>,
}

/// A request, removed when dropped.
struct Request {
    turns: Arc<FairTurns>,
    group: Arc<str>,
    rank: Rank,
}

impl FairTurns {
    pub(crate) fn new(concurrent: usize) -> Self {
        Self {
            state: Mutex::new(State {
                free: concurrent,
                reached: 0,
                number: 0,
                waiting: BTreeMap::new(),
                groups: HashMap::new(),
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics between two changes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.state().waiting.len()
    }

    /// Waits for a turn of this group.
    ///
    /// # Cancel safety
    /// If the future is dropped before it is ready, its place is lost.
    pub(crate) async fn turn(self: &Arc<Self>, group: &Arc<str>) -> FairTurn {
        let (granted, _request) = {
            let mut state = self.state();
            if state.free > 0 {
                state.free -= 1;
                return FairTurn {
                    of: Some(Arc::clone(self)),
                };
            }
            let (grant, granted) = oneshot::channel();
            let rank = state.enter(group, grant);
            let request = Request {
                turns: Arc::clone(self),
                group: Arc::clone(group),
                rank,
            };
            (granted, request)
        };
        // A sender is dropped only with its request, which lasts as long as this future.
        granted.await.unwrap_or(FairTurn { of: None })
    }

    /// Gives a turn that has ended to the next request.
    fn pass_on(self: Arc<Self>) {
        loop {
            let grant = {
                let mut state = self.state();
                let Some(((rank, _), grant)) = state.waiting.pop_first() else {
                    state.free += 1;
                    return;
                };
                state.reached = rank;
                grant
            };
            let turn = FairTurn {
                of: Some(Arc::clone(&self)),
            };
            match grant.send(turn) {
                Ok(()) => return,
                // Nobody awaits it any longer. The turn must not come back here by itself.
                Err(mut turn) => turn.of = None,
            }
        }
    }
}

impl State {
    fn enter(&mut self, group: &Arc<str>, grant: oneshot::Sender<FairTurn>) -> Rank {
        let entered = self.groups.entry(Arc::clone(group)).or_default();
        entered.waiting += 1;
        entered.last = entered.last.max(self.reached) + 1;
        self.number += 1;
        let rank = (entered.last, self.number);
        self.waiting.insert(rank, grant);
        rank
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        let mut state = self.turns.state();
        let removed = state.waiting.remove(&self.rank);
        if let Some(group) = state.groups.get_mut(&self.group) {
            group.waiting -= 1;
            if group.waiting == 0 {
                state.groups.remove(&self.group);
            }
        }
        drop(state);
        drop(removed);
    }
}

impl Drop for FairTurn {
    fn drop(&mut self) {
        if let Some(turns) = self.of.take() {
            turns.pass_on();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn groups_alternate_and_requests_that_are_dropped_take_no_turn() {
        let turns = Arc::new(FairTurns::new(1));
        let first = turns.turn(&"a".into()).await;
        let (order, mut taken) = tokio::sync::mpsc::unbounded_channel();
        let mut tasks = Vec::new();
        for group in ["a", "a", "a", "b", "c", "b"] {
            let (turns, order) = (Arc::clone(&turns), order.clone());
            tasks.push(tokio::spawn(async move {
                let turn = turns.turn(&group.into()).await;
                order.send(group).unwrap();
                tokio::task::yield_now().await;
                drop(turn);
            }));
            tokio::task::yield_now().await;
        }
        while turns.waiting() < 6 {
            tokio::task::yield_now().await;
        }
        tasks[1].abort();
        while turns.waiting() > 5 {
            tokio::task::yield_now().await;
        }
        drop(first);
        let mut groups = String::new();
        for _ in 0..5 {
            groups.push_str(taken.recv().await.unwrap());
        }
        assert_eq!(groups, "abcba");
        for task in tasks {
            let _: Result<(), _> = task.await;
        }
        let state = turns.state();
        assert_eq!((state.free, state.groups.len()), (1, 0));
    }
}

//! How long an update is retried that the server refuses as a conflict.

use std::time::Duration;

use tokio::time::Instant;

/// The conflicts since the server last accepted an update.
///
/// The server gives one code for two cases. If another program has written under the client id of
/// the update, the conflict is permanent. If an earlier connection of this program, with another
/// participant id, broke but is still in the room, the conflict passes once the server notices
/// that.
#[derive(Debug)]
pub(crate) struct Conflicts {
    patience: Duration,
    count: u32,
    since: Option<Instant>,
    look: Look,
}

/// Whether the server's content was checked for the first case.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Look {
    No,
    /// The next stream starts with the check.
    Pending,
    Done,
}

impl Conflicts {
    pub(crate) fn new(patience: Duration) -> Self {
        Self {
            patience,
            count: 0,
            since: None,
            look: Look::No,
        }
    }

    /// The server has accepted an update.
    pub(crate) fn reset(&mut self) {
        *self = Self::new(self.patience);
    }

    pub(crate) fn is_none(&self) -> bool {
        self.count == 0
    }

    /// Counts a conflict. Returns whether the update is simply sent again. If not, the next stream
    /// starts from the server's state alone, which distinguishes the two cases.
    pub(crate) fn note(&mut self) -> bool {
        self.count += 1;
        self.since.get_or_insert_with(Instant::now);
        self.count <= TRIES || (self.look == Look::Done && self.may_pass())
    }

    /// Requests a check of the server's content, unless it was checked already. Returns whether it
    /// is requested; the conflict may then still pass.
    pub(crate) fn check(&mut self) -> bool {
        let is_first = self.look == Look::No;
        if is_first {
            self.look = Look::Pending;
        }
        is_first
    }

    /// Whether the server's content is to be checked now.
    pub(crate) fn is_look_pending(&self) -> bool {
        self.look == Look::Pending
    }

    /// A stream has started. A pending check is done.
    pub(crate) fn looked(&mut self) {
        if self.is_look_pending() {
            self.look = Look::Done;
        }
    }

    /// Whether an earlier connection of this program may still be in the room.
    fn may_pass(&self) -> bool {
        self.since
            .is_some_and(|since| since.elapsed() < self.patience)
    }
}

/// How long a server may take to notice a broken connection: two and a half of its ping intervals,
/// which the operator sets. This is enough for intervals of up to two minutes.
pub(crate) const CONFLICT_PATIENCE: Duration = Duration::from_mins(5);

/// How often an update is sent again after a conflict, each time on a new stream, while the server
/// accepts nothing else.
const TRIES: u32 = 3;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Conflicts, TRIES};

    /// The number of conflicts after which nothing is decided yet.
    fn after_tries(patience: Duration) -> Conflicts {
        let mut conflicts = Conflicts::new(patience);
        for conflict in 1..=TRIES {
            assert!(conflicts.note(), "conflict {conflict}");
        }
        conflicts
    }

    #[test]
    fn server_is_looked_at_once_although_the_patience_has_expired() {
        for patience in [Duration::ZERO, Duration::MAX] {
            let mut conflicts = after_tries(patience);
            assert!(!conflicts.note());
            assert!(conflicts.check(), "{patience:?}");
            // The connection breaks and time passes; the decision stays.
            for _ in 0..2 {
                assert!(conflicts.is_look_pending(), "{patience:?}");
            }
            conflicts.looked();
            assert!(!conflicts.is_look_pending());
            // From now on the time matters.
            assert_eq!(conflicts.note(), patience == Duration::MAX);
            assert!(!conflicts.check());
            assert!(!conflicts.is_look_pending());
        }
    }

    #[test]
    fn stream_that_begins_with_something_else_is_no_look() {
        let mut conflicts = after_tries(Duration::MAX);
        conflicts.looked();
        assert!(!conflicts.note());
        assert!(conflicts.check());
    }

    #[test]
    fn acknowledgement_ends_a_count() {
        let mut conflicts = after_tries(Duration::ZERO);
        assert!(!conflicts.note());
        assert!(conflicts.check());
        conflicts.reset();
        assert!(conflicts.is_none() && !conflicts.is_look_pending());
        assert!(conflicts.note());
    }
}

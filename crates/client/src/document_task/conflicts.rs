//! How long an update is sent again that the server refuses because of who else writes.

use std::time::Duration;

use tokio::time::Instant;

/// The conflicts since the server last took something.
///
/// The server gives one code for two cases. Another program has written under the client id of the
/// update: that never passes. Or an earlier connection of ours, which entered under another name
/// and broke, is still in the room: that passes when the server has found it silent.
#[derive(Debug)]
pub(crate) struct Conflicts {
    patience: Duration,
    count: u32,
    since: Option<Instant>,
    look: Look,
}

/// Whether the server's content was looked at for the first case.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Look {
    No,
    /// The next stream begins with that, whenever there is one.
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

    /// The server has taken something.
    pub(crate) fn reset(&mut self) {
        *self = Self::new(self.patience);
    }

    pub(crate) fn is_none(&self) -> bool {
        self.count == 0
    }

    /// Notes a conflict. Returns whether the update is just sent again; otherwise the next stream
    /// begins with the server's state alone, which tells the two cases apart.
    pub(crate) fn note(&mut self) -> bool {
        self.count += 1;
        self.since.get_or_insert_with(Instant::now);
        self.count <= TRIES || (self.look == Look::Done && self.may_pass())
    }

    /// The server's content is looked at next, unless it was already. Returns whether it is, and
    /// the conflict may so turn out to pass.
    pub(crate) fn check(&mut self) -> bool {
        let is_first = self.look == Look::No;
        if is_first {
            self.look = Look::Pending;
        }
        is_first
    }

    /// Whether the server's content is to be looked at now.
    pub(crate) fn is_look_pending(&self) -> bool {
        self.look == Look::Pending
    }

    /// A stream has begun; if the server's content was to be looked at, it was.
    pub(crate) fn looked(&mut self) {
        if self.is_look_pending() {
            self.look = Look::Done;
        }
    }

    /// Whether an earlier connection of ours may still be in the room.
    fn may_pass(&self) -> bool {
        self.since
            .is_some_and(|since| since.elapsed() < self.patience)
    }
}

/// How long a server may take until it finds a broken connection silent: two and a half of its ping
/// intervals, which its operator chooses. This is enough for intervals of up to two minutes.
pub(crate) const CONFLICT_PATIENCE: Duration = Duration::from_mins(5);

/// How often an update is sent again after a conflict, each time on a new stream, while the server
/// takes nothing else.
const TRIES: u32 = 3;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Conflicts, TRIES};

    /// After the conflicts by which nothing is decided yet.
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
            // The connection breaks, and the clock goes on; what was decided stays.
            for _ in 0..2 {
                assert!(conflicts.is_look_pending(), "{patience:?}");
            }
            conflicts.looked();
            assert!(!conflicts.is_look_pending());
            // Only now the time counts.
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

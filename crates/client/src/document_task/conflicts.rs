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
    /// Whether the server's content was looked at for the first case.
    is_checked: bool,
}

impl Conflicts {
    pub(crate) fn new(patience: Duration) -> Self {
        Self {
            patience,
            count: 0,
            since: None,
            is_checked: false,
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
        self.count <= TRIES || (self.is_checked && self.may_pass())
    }

    /// The server's content is looked at next. Returns whether the conflict may turn out to pass.
    pub(crate) fn check(&mut self) -> bool {
        !std::mem::replace(&mut self.is_checked, true) && self.may_pass()
    }

    /// Whether an earlier connection of ours may still be in the room.
    pub(crate) fn may_pass(&self) -> bool {
        self.since
            .is_some_and(|since| since.elapsed() < self.patience)
    }
}

/// How long a server may take until it finds a broken connection silent, with some seconds to
/// spare.
pub(crate) const CONFLICT_PATIENCE: Duration = Duration::from_secs(90);

/// How often an update is sent again after a conflict, each time on a new stream, while the server
/// takes nothing else.
const TRIES: u32 = 3;

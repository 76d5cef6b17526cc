//! Joining a room that may be ending, or may take no input for a while.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use meshagent_ledger::Held;

use super::{Mailbox, Rooms, Way};
use crate::room::{Conn, Joining};
use crate::room_loop::{Entering, RoomInput};

/// The outcome of a join.
#[derive(Debug)]
pub(crate) enum Joined {
    In(Conn, Mailbox),
    /// The room took the participant just before its connection ended: it has to leave.
    Late(Conn, Mailbox),
    /// The connection has ended, or the server is stopping.
    Not,
}

impl Rooms {
    /// Joins a room, and starts it if it is not in memory.
    ///
    /// A room may take no input for a while. If `gone` completes first, the participant does not
    /// join.
    pub(crate) async fn join(
        self: &Arc<Self>,
        room: &str,
        joining: Joining,
        gone: impl Future<Output = ()>,
    ) -> Joined {
        let conn = Conn(self.next_conn.fetch_add(1, Ordering::Relaxed));
        let account = Arc::clone(&joining.account);
        let mut joining = joining;
        let mut gone = std::pin::pin!(gone);
        while !self.stopping.is_cancelled() {
            let mailbox = match self.enter(room) {
                Way::Open(mailbox) => mailbox,
                Way::Ending(ended) => {
                    tokio::select! {
                        () = ended.cancelled() => continue,
                        () = self.stopping.cancelled() => return Joined::Not,
                        () = &mut gone => return Joined::Not,
                    }
                }
                Way::Closed => return Joined::Not,
            };
            let (entering, mut outcome) = Entering::new(joining);
            let input = RoomInput::Join(conn, entering);
            let entered = tokio::select! {
                biased;
                entered = async {
                    // A room that no longer takes it returns it through `outcome`.
                    drop(mailbox.send(input, 0, Held::none()).await);
                    (&mut outcome).await
                } => entered.ok(),
                () = &mut gone => {
                    // From now on the room can't take the participant, but it may have done so
                    // before.
                    outcome.close();
                    return match outcome.try_recv() {
                        Ok(Ok(())) => Joined::Late(conn, mailbox.of(account)),
                        _ => Joined::Not,
                    };
                }
            };
            match entered {
                Some(Ok(())) => return Joined::In(conn, mailbox.of(account)),
                // The room ended first; the next room of the name takes the participant.
                Some(Err(back)) => joining = back,
                None => return Joined::Not,
            }
        }
        Joined::Not
    }
}

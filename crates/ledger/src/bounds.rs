//! The bounds of a ledger, and the error of a charge that would cross one.

/// The configured bounds of a ledger, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The bound for all peers together.
    pub server: usize,
    /// The bound for [received](crate::Kind::Received) bytes of all peers.
    pub received: usize,
}

impl Bounds {
    /// A quarter, which must hold a message and everything that it causes.
    pub(crate) fn connection(self) -> usize {
        self.server / 4
    }

    /// Three eighths, so two participants together never fill the server.
    pub(crate) fn participant(self) -> usize {
        self.server / 8 * 3
    }
}

/// The bound that a charge would cross. The order is that of the checks.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Scope {
    /// The bound of the connection.
    Connection,
    /// The server's bound for this kind.
    Kind,
    /// The bound of the participant.
    Participant,
    /// The server's bound for all kinds together.
    Server,
}

/// A charge was refused, because it would cross a bound.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{}", self.text())]
pub struct OverBound {
    /// The bound that would be crossed.
    pub scope: Scope,
}

impl OverBound {
    fn text(self) -> &'static str {
        match self.scope {
            Scope::Connection => {
                "the server holds too much for this connection; read your answers, \
                 or try again later"
            }
            Scope::Participant => {
                "the server holds too much for this participant; read your answers, \
                 or try again later"
            }
            Scope::Server | Scope::Kind => {
                "the server holds as much as it may for all its clients; try again later"
            }
        }
    }
}

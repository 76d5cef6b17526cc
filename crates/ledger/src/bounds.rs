//! The bounds of a ledger, and the error of a charge that would cross one.

/// The bounds of a ledger, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// For all peers together.
    pub server: usize,
    /// Of what is [received](Kind::Received).
    pub received: usize,
}

impl Bounds {
    /// A quarter: a message, and what becomes of it, has to fit.
    pub(crate) fn connection(self) -> usize {
        self.server / 4
    }

    /// Three eighths: no two participants fill the server.
    pub(crate) fn participant(self) -> usize {
        self.server / 8 * 3
    }
}

/// Which bound a charge would cross, in the order in which they are asked.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Scope {
    /// The connection's.
    Connection,
    /// The server's, for this kind.
    Kind,
    /// The participant's.
    Participant,
    /// The server's, for all kinds together.
    Server,
}

/// A charge that was not made.
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
                "the server holds too much for this connection; read your answers, or try again later"
            }
            Scope::Participant => {
                "the server holds too much for this participant; read your answers, or try again later"
            }
            Scope::Server | Scope::Kind => {
                "the server holds as much as it may for all its clients; try again later"
            }
        }
    }
}

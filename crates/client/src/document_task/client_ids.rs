//! The client ids that replicas write under.

use crate::replica::Replica;

/// A source of client ids that no other replica uses.
#[derive(Debug)]
pub(crate) enum ClientIds {
    Random,
    /// The next id, then its successors.
    #[cfg(feature = "simulation")]
    From(u64),
}

impl ClientIds {
    pub(crate) fn next(&mut self) -> u64 {
        match self {
            Self::Random => new_client_id(),
            #[cfg(feature = "simulation")]
            Self::From(next) => {
                *next += 1;
                *next - 1
            }
        }
    }

    /// Changes the client id if another replica writes under it.
    pub(crate) fn renew(&mut self, replica: &mut Replica) {
        if replica.document().is_client_id_shared() {
            replica.document_mut().set_client_id(self.next());
        }
    }
}

/// A random client id. It has 32 bits, because published Python programs read no more.
pub(crate) fn new_client_id() -> u64 {
    let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
    ((high ^ low) & u64::from(u32::MAX)).max(1)
}

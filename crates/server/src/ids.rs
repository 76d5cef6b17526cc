//! Unguessable identifiers, drawn from one seed, so that a run can be repeated.

use sha2::{Digest, Sha256};

/// Counter-mode SHA-256 over a seed. The seed comes from the operating system in production and
/// from the plan in a simulation.
#[derive(Clone)]
pub(crate) struct Ids {
    seed: [u8; 32],
    drawn: u64,
}

impl Ids {
    pub(crate) fn from_seed(seed: [u8; 32]) -> Self {
        Self { seed, drawn: 0 }
    }

    /// Creates a source with a seed from the operating system.
    ///
    /// # Errors
    /// If the operating system provides no randomness.
    pub(crate) fn from_os() -> Result<Self, getrandom::Error> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed)?;
        Ok(Self::from_seed(seed))
    }

    /// An independent source for a part of the server.
    pub(crate) fn fork(&mut self) -> Self {
        Self::from_seed(self.block())
    }

    /// A random (version 4) UUID in its usual form.
    pub(crate) fn uuid(&mut self) -> String {
        let block = self.block();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&block[..16]);
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        let mut text = String::with_capacity(36);
        for (index, byte) in bytes.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                text.push('-');
            }
            text.push(char::from(HEX[usize::from(byte >> 4)]));
            text.push(char::from(HEX[usize::from(byte & 15)]));
        }
        text
    }

    /// A client id for a replica: 32 bits, as Yjs draws them, and never 0.
    pub(crate) fn client_id(&mut self) -> u64 {
        let block = self.block();
        u64::from(u32::from_le_bytes([block[0], block[1], block[2], block[3]]).max(1))
    }

    fn block(&mut self) -> [u8; 32] {
        self.drawn += 1;
        Sha256::new()
            .chain_update(self.seed)
            .chain_update(self.drawn.to_le_bytes())
            .finalize()
            .into()
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

impl std::fmt::Debug for Ids {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The seed would let a reader of logs guess ids.
        formatter
            .debug_struct("Ids")
            .field("drawn", &self.drawn)
            .finish_non_exhaustive()
    }
}

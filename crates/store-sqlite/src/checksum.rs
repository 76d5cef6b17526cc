//! A checksum over a value and the key it is kept under, so that a row in the wrong place is noticed too.

use crc32fast::Hasher;

/// CRC-32 (IEEE) over parts, each preceded by its length.
#[derive(Clone, Default)]
pub(crate) struct Checksum(Hasher);

impl Checksum {
    pub(crate) fn number(mut self, number: i64) -> Self {
        self.0.update(&number.to_le_bytes());
        self
    }

    pub(crate) fn bytes(self, bytes: &[u8]) -> Self {
        self.length(bytes.len()).part(bytes)
    }

    /// The beginning of [`Checksum::bytes`]; the bytes follow in [parts](Checksum::part).
    pub(crate) fn length(mut self, length: usize) -> Self {
        self.0.update(&(length as u64).to_le_bytes());
        self
    }

    pub(crate) fn part(mut self, bytes: &[u8]) -> Self {
        self.0.update(bytes);
        self
    }

    pub(crate) fn text(self, text: &str) -> Self {
        self.bytes(text.as_bytes())
    }

    /// Told apart from an empty text.
    pub(crate) fn optional_text(self, text: Option<&str>) -> Self {
        match text {
            None => self.number(0),
            Some(text) => self.number(1).text(text),
        }
    }

    /// As SQLite keeps it.
    pub(crate) fn finish(self) -> i64 {
        i64::from(self.0.finalize())
    }
}

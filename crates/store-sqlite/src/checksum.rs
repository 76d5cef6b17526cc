//! Checksums over a value and the key of its row, so that a row in the wrong place is
//! detected, too.

use crc32fast::Hasher;

/// A CRC-32 (IEEE) over parts, each preceded by its length.
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

    /// Begins what [`Checksum::bytes`] does; the bytes follow in [parts](Checksum::part).
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

    /// Adds a text or its absence, which differs from an empty text.
    pub(crate) fn optional_text(self, text: Option<&str>) -> Self {
        match text {
            None => self.number(0),
            Some(text) => self.number(1).text(text),
        }
    }

    /// Adds the same as [`Checksum::bytes`] of the summed content.
    pub(crate) fn data(self, data: Data<'_>) -> Self {
        match data {
            Data::Bytes(bytes) => self.bytes(bytes),
            Data::Sum(sum) => {
                let mut joined = self.length(sum.length);
                joined.0.combine(&sum.hasher);
                joined
            }
        }
    }

    /// Returns the checksum as an integer of SQLite.
    pub(crate) fn finish(self) -> i64 {
        i64::from(self.value())
    }

    pub(crate) fn value(self) -> u32 {
        self.0.finalize()
    }
}

/// The content of a checksum.
#[derive(Clone, Copy)]
pub(crate) enum Data<'a> {
    Bytes(&'a [u8]),
    /// Content that was summed before.
    Sum(&'a DataSum),
}

/// The checksum of a content by itself, computed part by part.
#[derive(Clone, Debug, Default)]
pub(crate) struct DataSum {
    hasher: Hasher,
    length: usize,
}

impl DataSum {
    pub(crate) fn add(&mut self, part: &[u8]) {
        self.hasher.update(part);
        self.length += part.len();
    }

    pub(crate) fn length(&self) -> usize {
        self.length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sum_of_parts_equals_sum_of_the_whole() {
        let bytes: Vec<u8> = (0..100_000_u32)
            .map(|number| number.to_le_bytes()[1])
            .collect();
        for length in [0, 1, 7, 65_536, 100_000] {
            let mut sum = DataSum::default();
            for part in bytes[..length].chunks(999) {
                sum.add(part);
            }
            let checksum = || Checksum::default().number(3).text("ä");
            assert_eq!(
                checksum().data(Data::Sum(&sum)).number(1).finish(),
                checksum().bytes(&bytes[..length]).number(1).finish(),
            );
        }
    }
}

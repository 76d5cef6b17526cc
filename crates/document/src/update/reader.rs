//! A cursor over lib0-encoded bytes. It never reads or allocates more than the input holds.

use super::DecodeError;
use super::json::{self, Json, is_json};

/// The maximal nesting of arrays and objects in one value.
const MAX_VALUE_DEPTH: usize = 128;

const TOO_DEEP: &str = "values nested too deeply";

/// Client ids are within JavaScript's exact integers.
const MAX_CLIENT: u64 = (1 << 53) - 1;

/// Clocks stay below this, so that sums of two clocks don't overflow and signed arithmetic
/// is exact.
const MAX_CLOCK: u64 = (1 << 31) - 1;

/// Content that Yjs writes and some readers reject.
#[derive(Debug, Default)]
pub(crate) struct Unsupported {
    /// Positions of four digits that escape a surrogate half.
    pub(crate) halves: Vec<usize>,
    /// Why the operation read last can't be passed on.
    pub(crate) found: Option<&'static str>,
}

#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    pub(crate) fn position(&self) -> usize {
        self.position
    }

    pub(crate) fn since(&self, start: usize) -> &'a [u8] {
        &self.bytes[start..self.position]
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        &self.bytes[self.position..]
    }

    pub(crate) fn remaining(&self) -> usize {
        self.bytes.len() - self.position
    }

    pub(crate) fn error(&self, reason: &'static str) -> DecodeError {
        DecodeError::Malformed {
            offset: self.position,
            reason,
        }
    }

    pub(crate) fn finish(&self) -> Result<(), DecodeError> {
        match self.remaining() {
            0 => Ok(()),
            _ => Err(self.error("trailing bytes")),
        }
    }

    pub(crate) fn byte(&mut self) -> Result<u8, DecodeError> {
        let byte = self.bytes.get(self.position).copied();
        let byte = byte.ok_or_else(|| self.error("unexpected end"))?;
        self.position += 1;
        Ok(byte)
    }

    pub(crate) fn take(&mut self, length: u64) -> Result<&'a [u8], DecodeError> {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > self.remaining() {
            return Err(self.error("length exceeds the remaining bytes"));
        }
        let start = self.position;
        self.position += length;
        Ok(self.since(start))
    }

    pub(crate) fn unsigned(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0;
        let mut shift = 0;
        loop {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return self.canonical(byte, shift).map(|()| value);
            }
            shift += 7;
            if shift > 56 {
                return Err(self.error("integer exceeds 63 bits"));
            }
        }
    }

    /// Reads the sign bit and six bits of the first byte, then seven bits each.
    pub(crate) fn signed(&mut self) -> Result<i64, DecodeError> {
        let mut byte = self.byte()?;
        let is_negative = byte & 0x40 != 0;
        let mut value = i64::from(byte & 0x3f);
        let mut shift = 0;
        while byte >= 0x80 {
            shift += 7;
            if shift > 56 {
                return Err(self.error("integer exceeds 62 bits"));
            }
            byte = self.byte()?;
            value |= i64::from(byte & 0x7f) << (shift - 1);
        }
        self.canonical(byte, shift)?;
        Ok(if is_negative { -value } else { value })
    }

    /// Requires the shortest form of an integer, so that two decoders can't read two values
    /// from it.
    fn canonical(&self, last_byte: u8, shift: u32) -> Result<(), DecodeError> {
        if last_byte == 0 && shift > 0 {
            return Err(self.error("integer is not in its shortest form"));
        }
        Ok(())
    }

    pub(crate) fn client(&mut self) -> Result<u64, DecodeError> {
        match self.unsigned()? {
            client if client <= MAX_CLIENT => Ok(client),
            _ => Err(self.error("client id exceeds 53 bits")),
        }
    }

    pub(crate) fn clock(&mut self) -> Result<u32, DecodeError> {
        match self.unsigned()? {
            clock if clock <= MAX_CLOCK => Ok(u32::try_from(clock).unwrap_or(u32::MAX)),
            _ => Err(self.error("clock exceeds 31 bits")),
        }
    }

    /// The end of a range, if it is a valid clock.
    pub(crate) fn advance(&self, clock: u32, length: u32) -> Result<u32, DecodeError> {
        match clock.checked_add(length) {
            Some(end) if u64::from(end) <= MAX_CLOCK => Ok(end),
            _ => Err(self.error("clock exceeds 31 bits")),
        }
    }

    /// Reads the number of entries that take at least `size` bytes each.
    pub(crate) fn count(&mut self, size: usize) -> Result<usize, DecodeError> {
        let count = usize::try_from(self.unsigned()?).unwrap_or(usize::MAX);
        if count > self.remaining() / size {
            return Err(self.error("count exceeds the remaining bytes"));
        }
        Ok(count)
    }

    pub(crate) fn string(&mut self) -> Result<&'a str, DecodeError> {
        let length = self.unsigned()?;
        let bytes = self.take(length)?;
        str::from_utf8(bytes).map_err(|_| self.error("text is not UTF-8"))
    }

    /// Skips a JSON value inside a string.
    pub(crate) fn skip_json(
        &mut self,
        unsupported: Option<&mut Unsupported>,
    ) -> Result<(), DecodeError> {
        let text = self.string()?;
        let Some(unsupported) = unsupported else {
            if is_json(text) {
                return Ok(());
            }
            return Err(self.error("text is not JSON"));
        };
        let start = self.position - text.len();
        match json::check(text) {
            Json::Sound => {}
            Json::Halves(places) => {
                let places = places.into_iter().map(|place| start + place);
                unsupported.halves.extend(places);
            }
            Json::Beyond => unsupported.found = Some("JSON nested too deeply"),
            Json::No => return Err(self.error("text is not JSON")),
        }
        Ok(())
    }

    /// Skips a value in lib0's own encoding.
    pub(crate) fn skip_value(&mut self) -> Result<(), DecodeError> {
        self.skip_any(None)
    }

    /// Like [`Self::skip_value`], but notes excessive depth if `unsupported` is given.
    pub(crate) fn skip_any(
        &mut self,
        mut unsupported: Option<&mut Unsupported>,
    ) -> Result<(), DecodeError> {
        let Some(first) = self.skip_one()? else {
            return Ok(());
        };
        // The number of values left at each level, and whether they have keys.
        let mut open: Vec<(usize, bool)> = vec![first];
        while let Some((left, has_keys)) = open.last_mut() {
            if *left == 0 {
                open.pop();
                continue;
            }
            *left -= 1;
            if *has_keys {
                self.string()?;
            }
            open.extend(self.skip_one()?);
            if open.len() >= MAX_VALUE_DEPTH {
                match &mut unsupported {
                    None => return Err(self.error(TOO_DEEP)),
                    Some(unsupported) => unsupported.found = Some(TOO_DEEP),
                }
            }
        }
        Ok(())
    }

    /// Reads one value without its contents: their number, and whether they have keys.
    fn skip_one(&mut self) -> Result<Option<(usize, bool)>, DecodeError> {
        match self.byte()? {
            120 | 121 | 126 | 127 => {}
            122 | 123 => {
                self.take(8)?;
            }
            124 => {
                self.take(4)?;
            }
            125 => {
                self.signed()?;
            }
            119 => {
                self.string()?;
            }
            118 => return Ok(Some((self.count(2)?, true))),
            117 => return Ok(Some((self.count(1)?, false))),
            116 => {
                let length = self.unsigned()?;
                self.take(length)?;
            }
            _ => return Err(self.error("unknown value type")),
        }
        Ok(None)
    }
}

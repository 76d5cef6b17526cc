//! A cursor over lib0-encoded bytes that never reads, or allocates, more than is there.

use super::DecodeError;
use super::json::{self, Json, is_json};

/// How deep arrays and objects may nest in one value.
const MAX_VALUE_DEPTH: usize = 128;

const TOO_DEEP: &str = "values nested too deep";

/// Client ids are integers that JavaScript can count to.
const MAX_CLIENT: u64 = (1 << 53) - 1;

/// Clocks stay below this, so that no sum of two overflows and signed arithmetic stays exact.
const MAX_CLOCK: u64 = (1 << 31) - 1;

/// What Yjs writes and not every reader takes.
#[derive(Debug, Default)]
pub(crate) struct Misfits {
    /// Where four digits stand that name half a character.
    pub(crate) halves: Vec<usize>,
    /// What the operation that was read last can't be passed on for.
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
            _ => Err(self.error("bytes after the end")),
        }
    }

    pub(crate) fn byte(&mut self) -> Result<u8, DecodeError> {
        let byte = self.bytes.get(self.position).copied();
        let byte = byte.ok_or_else(|| self.error("the end came too early"))?;
        self.position += 1;
        Ok(byte)
    }

    pub(crate) fn take(&mut self, length: u64) -> Result<&'a [u8], DecodeError> {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > self.remaining() {
            return Err(self.error("a length that exceeds what follows"));
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
                return Err(self.error("an integer beyond 63 bits"));
            }
        }
    }

    /// The sign bit and six bits of the first byte, then seven bits each.
    pub(crate) fn signed(&mut self) -> Result<i64, DecodeError> {
        let mut byte = self.byte()?;
        let is_negative = byte & 0x40 != 0;
        let mut value = i64::from(byte & 0x3f);
        let mut shift = 0;
        while byte >= 0x80 {
            shift += 7;
            if shift > 56 {
                return Err(self.error("an integer beyond 62 bits"));
            }
            byte = self.byte()?;
            value |= i64::from(byte & 0x7f) << (shift - 1);
        }
        self.canonical(byte, shift)?;
        Ok(if is_negative { -value } else { value })
    }

    /// One value has one form, so that two decoders can't read two values from it.
    fn canonical(&self, last_byte: u8, shift: u32) -> Result<(), DecodeError> {
        if last_byte == 0 && shift > 0 {
            return Err(self.error("an integer with needless bytes"));
        }
        Ok(())
    }

    pub(crate) fn client(&mut self) -> Result<u64, DecodeError> {
        match self.unsigned()? {
            client if client <= MAX_CLIENT => Ok(client),
            _ => Err(self.error("a client id beyond 53 bits")),
        }
    }

    pub(crate) fn clock(&mut self) -> Result<u32, DecodeError> {
        match self.unsigned()? {
            clock if clock <= MAX_CLOCK => Ok(u32::try_from(clock).unwrap_or(u32::MAX)),
            _ => Err(self.error("a clock beyond 31 bits")),
        }
    }

    /// The end of a range, if clocks can count that far.
    pub(crate) fn advance(&self, clock: u32, length: u32) -> Result<u32, DecodeError> {
        match clock.checked_add(length) {
            Some(end) if u64::from(end) <= MAX_CLOCK => Ok(end),
            _ => Err(self.error("a clock beyond 31 bits")),
        }
    }

    /// A number of things that take at least `size` bytes each.
    pub(crate) fn count(&mut self, size: usize) -> Result<usize, DecodeError> {
        let count = usize::try_from(self.unsigned()?).unwrap_or(usize::MAX);
        if count > self.remaining() / size {
            return Err(self.error("a count that exceeds what follows"));
        }
        Ok(count)
    }

    pub(crate) fn string(&mut self) -> Result<&'a str, DecodeError> {
        let length = self.unsigned()?;
        let bytes = self.take(length)?;
        str::from_utf8(bytes).map_err(|_| self.error("text that is not UTF-8"))
    }

    /// A JSON value inside a string.
    pub(crate) fn skip_json(&mut self, misfits: Option<&mut Misfits>) -> Result<(), DecodeError> {
        let text = self.string()?;
        let Some(misfits) = misfits else {
            if is_json(text) {
                return Ok(());
            }
            return Err(self.error("text that is not JSON"));
        };
        let start = self.position - text.len();
        match json::check(text) {
            Json::Sound => {}
            Json::Halves(places) => {
                let places = places.into_iter().map(|place| start + place);
                misfits.halves.extend(places);
            }
            Json::Beyond => misfits.found = Some("JSON nested too deep"),
            Json::No => return Err(self.error("text that is not JSON")),
        }
        Ok(())
    }

    /// A value in lib0's own encoding.
    pub(crate) fn skip_value(&mut self) -> Result<(), DecodeError> {
        self.skip_any(None)
    }

    /// The same, of any depth if that may be noted.
    pub(crate) fn skip_any(
        &mut self,
        mut misfits: Option<&mut Misfits>,
    ) -> Result<(), DecodeError> {
        let Some(first) = self.skip_one()? else {
            return Ok(());
        };
        // How many values are still to come at each level.
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
                match &mut misfits {
                    None => return Err(self.error(TOO_DEEP)),
                    Some(misfits) => misfits.found = Some(TOO_DEEP),
                }
            }
        }
        Ok(())
    }

    /// A value without what is in it: how many values that are, and whether they have keys.
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
            _ => return Err(self.error("an unknown kind of value")),
        }
        Ok(None)
    }
}

//! The elements of a JSON list in a stream, one at a time: where each begins and ends, not what is in it.

use std::io::{self, BufRead, Read};

use thiserror::Error;

/// No string in an export is longer; one that is would have to be held in memory.
const MAX_STRING_BYTES: usize = 64 << 20;

/// A list that is read from its first element to its last. An element that makes no sense, as long as its brackets
/// and quotes do, costs only itself.
#[derive(Debug)]
pub(crate) struct Elements<R> {
    reader: Counted<R>,
    is_first: bool,
}

/// Why an export can't be read, or can't be read any further.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The list has no end.
    #[error("it is cut off: the list has no end")]
    CutOff,
    /// It does not begin with a list.
    #[error("it is not a JSON list")]
    NoList,
    /// Something follows the list.
    #[error("there is something behind the list")]
    Rest,
    /// It can't be read.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl<R: BufRead> Elements<R> {
    /// Reads up to the list's first element.
    pub(crate) fn begin(reader: R) -> Result<Self, ExportError> {
        let mut reader = Counted {
            reader,
            consumed: 0,
        };
        skip_byte_order_mark(&mut reader)?;
        match next_byte(&mut reader)? {
            Some(b'[') => {}
            _ => return Err(ExportError::NoList),
        }
        reader.consume(1);
        let is_first = true;
        Ok(Self { reader, is_first })
    }

    /// Up to which byte everything was read.
    pub(crate) fn position(&self) -> u64 {
        self.reader.consumed
    }

    /// The next element, which has to be read to its end; see [`Element::finish`].
    pub(crate) fn next(&mut self) -> Result<Option<Element<'_, R>>, ExportError> {
        let first = next_byte(&mut self.reader)?.ok_or(ExportError::CutOff)?;
        let is_first = std::mem::replace(&mut self.is_first, false);
        match first {
            b']' => {
                self.reader.consume(1);
                return match next_byte(&mut self.reader)? {
                    None => Ok(None),
                    Some(_) => Err(ExportError::Rest),
                };
            }
            b',' if !is_first => self.reader.consume(1),
            // An element ends in front of a comma or a bracket, and the first one begins here.
            _ => {}
        }
        Ok(Some(Element {
            reader: &mut self.reader,
            depth: 0,
            string: None,
            is_over: false,
        }))
    }
}

/// The bytes of one element.
pub(crate) struct Element<'a, R> {
    reader: &'a mut Counted<R>,
    /// How many brackets and braces are open.
    depth: usize,
    /// The string that is being passed.
    string: Option<StringState>,
    is_over: bool,
}

#[derive(Default)]
struct StringState {
    bytes: usize,
    is_escaped: bool,
}

impl<R: BufRead> Element<'_, R> {
    /// Passes over what was not read.
    pub(crate) fn finish(mut self) -> Result<(), ExportError> {
        while !self.is_over {
            let buffer = self.reader.fill_buf()?;
            if buffer.is_empty() {
                return Err(ExportError::CutOff);
            }
            // What is passed over is not held, however long.
            let (passed, is_over) = pass(buffer, &mut self.depth, &mut self.string);
            self.reader.consume(passed);
            self.is_over = is_over;
        }
        Ok(())
    }
}

impl<R: BufRead> Read for Element<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.is_over {
            return Ok(0);
        }
        let buffer = self.reader.fill_buf()?;
        let window = buffer.get(..into.len().min(buffer.len()));
        let window = window.unwrap_or_default();
        let (passed, is_over) = pass(window, &mut self.depth, &mut self.string);
        into[..passed].copy_from_slice(&window[..passed]);
        self.reader.consume(passed);
        self.is_over = is_over;
        match &self.string {
            Some(string) if string.bytes > MAX_STRING_BYTES => {
                Err(io::Error::other("it contains a string of more than 64 MiB"))
            }
            _ => Ok(passed),
        }
    }
}

/// Counts what is consumed.
#[derive(Debug)]
struct Counted<R> {
    reader: R,
    consumed: u64,
}

impl<R: BufRead> Counted<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.reader.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        self.reader.consume(count);
        self.consumed += count as u64;
    }
}

/// How many of these bytes belong to the element, and whether it ends behind them.
fn pass(bytes: &[u8], depth: &mut usize, string: &mut Option<StringState>) -> (usize, bool) {
    for (index, byte) in bytes.iter().enumerate() {
        if let Some(state) = string {
            state.bytes += 1;
            match byte {
                _ if state.is_escaped => state.is_escaped = false,
                b'\\' => state.is_escaped = true,
                b'"' => *string = None,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => *string = Some(StringState::default()),
            b'[' | b'{' => *depth += 1,
            b',' | b']' if *depth == 0 => return (index, true),
            // One brace too many is for the parser to refuse.
            b']' | b'}' => *depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    (bytes.len(), false)
}

/// The next byte that is no white space, not consumed.
fn next_byte(reader: &mut Counted<impl BufRead>) -> io::Result<Option<u8>> {
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            return Ok(None);
        }
        let spaces = buffer.iter().position(|byte| !byte.is_ascii_whitespace());
        let (passed, found) = match spaces {
            Some(spaces) => (spaces, Some(buffer[spaces])),
            None => (buffer.len(), None),
        };
        reader.consume(passed);
        if found.is_some() {
            return Ok(found);
        }
    }
}

fn skip_byte_order_mark(reader: &mut Counted<impl BufRead>) -> io::Result<()> {
    if reader.fill_buf()?.starts_with("\u{feff}".as_bytes()) {
        reader.consume("\u{feff}".len());
    }
    Ok(())
}

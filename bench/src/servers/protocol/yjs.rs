//! The protocols of Yjs servers.
//!
//! They use the sync messages of y-protocols, alone (y-websocket, Y-Sweet) or after a document's
//! name (Hocuspocus).
//!
//! y-protocols: `varuint 0 (sync) | varuint step | varbytes`, with the steps 0 (a state vector,
//! which needs an answer), 1 (the answer) and 2 (an update).
//! <https://github.com/yjs/y-protocols/blob/master/PROTOCOL.md>

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;

use super::{Meaning, Protocol};

const SYNC: u64 = 0;
const VECTOR: u64 = 0;
const ANSWER: u64 = 1;
const UPDATE: u64 = 2;
/// The state vector of an empty document.
const EMPTY_VECTOR: &[u8] = &[0];
/// An update without operations.
pub(super) const EMPTY_UPDATE: &[u8] = &[0, 0];

/// The protocol of y-websocket and Y-Sweet.
#[derive(Debug)]
pub struct YProtocol {
    target: String,
}

impl YProtocol {
    /// Creates a client of the document at this path.
    pub fn new(target: String) -> Self {
        Self { target }
    }
}

impl Protocol for YProtocol {
    fn target(&self) -> String {
        self.target.clone()
    }

    fn greet(&mut self) -> Vec<Bytes> {
        vec![sync(b"", VECTOR, EMPTY_VECTOR)]
    }

    fn encode_update(&mut self, update: &[u8]) -> Vec<Bytes> {
        vec![sync(b"", UPDATE, update)]
    }

    fn handle_frame(
        &mut self,
        frame: &Bytes,
        meanings: &mut Vec<Meaning>,
        replies: &mut Vec<Bytes>,
    ) -> Result<()> {
        handle_sync(frame, 0, b"", meanings, replies)
    }
}

/// The protocol of Hocuspocus: a token first, and a document's name before each message.
#[derive(Debug)]
pub struct Hocuspocus {
    /// The encoded name, the beginning of each message.
    name: Vec<u8>,
}

impl Hocuspocus {
    const AUTH: u64 = 2;
    const SYNC_STATUS: u64 = 8;

    /// Creates a client of the document with this name.
    pub fn new(name: &str) -> Self {
        let mut written = Vec::new();
        write_bytes(&mut written, name.as_bytes());
        Self { name: written }
    }
}

impl Protocol for Hocuspocus {
    fn target(&self) -> String {
        "/".to_owned()
    }

    fn greet(&mut self) -> Vec<Bytes> {
        let mut token = self.name.clone();
        write_number(&mut token, Self::AUTH);
        write_number(&mut token, 0);
        write_bytes(&mut token, b"token");
        vec![token.into(), sync(&self.name, VECTOR, EMPTY_VECTOR)]
    }

    fn encode_update(&mut self, update: &[u8]) -> Vec<Bytes> {
        vec![sync(&self.name, UPDATE, update)]
    }

    fn handle_frame(
        &mut self,
        frame: &Bytes,
        meanings: &mut Vec<Meaning>,
        replies: &mut Vec<Bytes>,
    ) -> Result<()> {
        let mut at = 0;
        let name = read_bytes(frame, &mut at)?.len();
        let after_name = at;
        match read_number(frame, &mut at)? {
            Self::SYNC_STATUS => {
                if read_number(frame, &mut at)? != 1 {
                    bail!("the server refused an update");
                }
                meanings.push(Meaning::Acknowledged(1));
                Ok(())
            }
            Self::AUTH => match read_number(frame, &mut at)? {
                2 => Ok(()),
                _ => bail!("the server refused the token"),
            },
            SYNC if name > 0 => handle_sync(frame, after_name, &self.name, meanings, replies),
            _ => Ok(()),
        }
    }
}

fn handle_sync(
    frame: &Bytes,
    mut at: usize,
    name: &[u8],
    meanings: &mut Vec<Meaning>,
    replies: &mut Vec<Bytes>,
) -> Result<()> {
    if read_number(frame, &mut at)? != SYNC {
        // Awareness messages do not matter here.
        return Ok(());
    }
    match read_number(frame, &mut at)? {
        VECTOR => replies.push(sync(name, ANSWER, EMPTY_UPDATE)),
        ANSWER => meanings.push(Meaning::State(read_bytes(frame, &mut at)?)),
        UPDATE => meanings.push(Meaning::Update(read_bytes(frame, &mut at)?)),
        other => bail!("unknown sync step {other}, expected 0, 1 or 2"),
    }
    Ok(())
}

fn sync(name: &[u8], step: u64, bytes: &[u8]) -> Bytes {
    let mut frame = name.to_vec();
    write_number(&mut frame, SYNC);
    write_number(&mut frame, step);
    write_bytes(&mut frame, bytes);
    frame.into()
}

fn write_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push((number & 0x7f) as u8);
}

fn write_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    write_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn read_number(frame: &[u8], at: &mut usize) -> Result<u64> {
    let mut number = 0;
    for shift in (0..63).step_by(7) {
        let byte = *frame.get(*at).context("the message is too short")?;
        *at += 1;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(number);
        }
    }
    bail!("a number has more than 63 bits")
}

fn read_bytes(frame: &Bytes, at: &mut usize) -> Result<Bytes> {
    let length = usize::try_from(read_number(frame, at)?)?;
    let end = at.checked_add(length).filter(|end| *end <= frame.len());
    let end = end.context("the message is too short")?;
    let bytes = frame.slice(*at..end);
    *at = end;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meanings_of(protocol: &mut dyn Protocol, frame: &Bytes) -> (Vec<Meaning>, Vec<Bytes>) {
        let (mut meanings, mut replies) = (Vec::new(), Vec::new());
        protocol
            .handle_frame(frame, &mut meanings, &mut replies)
            .unwrap();
        (meanings, replies)
    }

    #[test]
    fn clients_understand_each_other() {
        let update = vec![7; 300];
        let mut protocols: Vec<Box<dyn Protocol>> = vec![
            Box::new(YProtocol::new("/document".to_owned())),
            Box::new(Hocuspocus::new("document")),
        ];
        for protocol in &mut protocols {
            let frames = protocol.encode_update(&update);
            let (meanings, replies) = meanings_of(protocol.as_mut(), &frames[0]);
            assert!(matches!(&meanings[..], [Meaning::Update(found)] if *found == update));
            assert!(replies.is_empty());
            let greeting = protocol.greet();
            let (meanings, replies) = meanings_of(protocol.as_mut(), greeting.last().unwrap());
            assert!(meanings.is_empty());
            let (meanings, _) = meanings_of(protocol.as_mut(), &replies[0]);
            assert!(matches!(&meanings[..], [Meaning::State(state)] if **state == *EMPTY_UPDATE));
        }
    }
}

//! The protocols of Yjs servers: y-protocols' sync messages, bare (y-websocket, Y-Sweet) or behind a document's name
//! (Hocuspocus). And the relay's, which has no messages but updates.
//!
//! y-protocols: `varuint 0 (sync) | varuint step | varbytes`, with the steps 0 (a state vector, to be answered), 1 (the
//! answer) and 2 (an update). <https://github.com/yjs/y-protocols/blob/master/PROTOCOL.md>

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;

use super::{Heard, Speech};

const SYNC: u64 = 0;
const VECTOR: u64 = 0;
const ANSWER: u64 = 1;
const UPDATE: u64 = 2;
/// A state vector, or an update, of nothing.
const EMPTY_VECTOR: &[u8] = &[0];
const EMPTY_UPDATE: &[u8] = &[0, 0];

/// y-websocket's and Y-Sweet's.
#[derive(Debug)]
pub struct YProtocol {
    target: String,
}

impl YProtocol {
    /// For the document at this path.
    pub fn new(target: String) -> Self {
        Self { target }
    }
}

impl Speech for YProtocol {
    fn target(&self) -> String {
        self.target.clone()
    }

    fn greet(&mut self) -> Vec<Bytes> {
        vec![sync(b"", VECTOR, EMPTY_VECTOR)]
    }

    fn say(&mut self, update: &[u8]) -> Vec<Bytes> {
        vec![sync(b"", UPDATE, update)]
    }

    fn hear(
        &mut self,
        frame: &Bytes,
        heard: &mut Vec<Heard>,
        replies: &mut Vec<Bytes>,
    ) -> Result<()> {
        hear_sync(frame, 0, b"", heard, replies)
    }
}

/// Hocuspocus': a document's name, then as above; a token first.
#[derive(Debug)]
pub struct Hocuspocus {
    /// The name as it stands before each message.
    name: Vec<u8>,
}

impl Hocuspocus {
    const AUTH: u64 = 2;
    const SYNC_STATUS: u64 = 8;

    /// For the document with this name.
    pub fn new(name: &str) -> Self {
        let mut written = Vec::new();
        write_bytes(&mut written, name.as_bytes());
        Self { name: written }
    }
}

impl Speech for Hocuspocus {
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

    fn say(&mut self, update: &[u8]) -> Vec<Bytes> {
        vec![sync(&self.name, UPDATE, update)]
    }

    fn hear(
        &mut self,
        frame: &Bytes,
        heard: &mut Vec<Heard>,
        replies: &mut Vec<Bytes>,
    ) -> Result<()> {
        let mut at = 0;
        let name = read_bytes(frame, &mut at)?.len();
        let after_name = at;
        match read_number(frame, &mut at)? {
            Self::SYNC_STATUS => {
                if read_number(frame, &mut at)? != 1 {
                    bail!("an update was refused");
                }
                heard.push(Heard::Acknowledged(1));
                Ok(())
            }
            Self::AUTH => match read_number(frame, &mut at)? {
                2 => Ok(()),
                _ => bail!("the token was refused"),
            },
            SYNC if name > 0 => hear_sync(frame, after_name, &self.name, heard, replies),
            _ => Ok(()),
        }
    }
}

fn hear_sync(
    frame: &Bytes,
    mut at: usize,
    name: &[u8],
    heard: &mut Vec<Heard>,
    replies: &mut Vec<Bytes>,
) -> Result<()> {
    if read_number(frame, &mut at)? != SYNC {
        // Of who is there.
        return Ok(());
    }
    match read_number(frame, &mut at)? {
        VECTOR => replies.push(sync(name, ANSWER, EMPTY_UPDATE)),
        ANSWER => heard.push(Heard::State(read_bytes(frame, &mut at)?)),
        UPDATE => heard.push(Heard::Update(read_bytes(frame, &mut at)?)),
        other => bail!("there is no sync message {other}"),
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
    bail!("a number is too long")
}

fn read_bytes(frame: &Bytes, at: &mut usize) -> Result<Bytes> {
    let length = usize::try_from(read_number(frame, at)?)?;
    let end = at.checked_add(length).filter(|end| *end <= frame.len());
    let end = end.context("the message is too short")?;
    let bytes = frame.slice(*at..end);
    *at = end;
    Ok(bytes)
}

/// The relay's: a message is an update. A text is the state that it was told to send to each who comes.
#[derive(Debug)]
pub struct Relay {
    target: String,
    has_state: bool,
}

impl Relay {
    /// For the document at this path.
    pub fn new(target: String) -> Self {
        Self {
            target,
            has_state: false,
        }
    }
}

impl Speech for Relay {
    fn target(&self) -> String {
        self.target.clone()
    }

    fn greet(&mut self) -> Vec<Bytes> {
        Vec::new()
    }

    fn say(&mut self, update: &[u8]) -> Vec<Bytes> {
        vec![Bytes::copy_from_slice(update)]
    }

    fn hear(&mut self, frame: &Bytes, heard: &mut Vec<Heard>, _: &mut Vec<Bytes>) -> Result<()> {
        // The relay greets with the state that it was given, or with a message of nothing.
        heard.push(if !self.has_state {
            self.has_state = true;
            Heard::State(frame.clone())
        } else {
            Heard::Update(frame.clone())
        });
        Ok(())
    }

    fn decode<'a>(&self, payload: &'a [u8]) -> Result<std::borrow::Cow<'a, [u8]>> {
        // What it was given to send is for others to understand.
        Ok(if payload.is_empty() {
            EMPTY_UPDATE
        } else {
            payload
        }
        .into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard_of(speech: &mut dyn Speech, frame: &Bytes) -> (Vec<Heard>, Vec<Bytes>) {
        let (mut heard, mut replies) = (Vec::new(), Vec::new());
        speech.hear(frame, &mut heard, &mut replies).unwrap();
        (heard, replies)
    }

    #[test]
    fn what_one_says_another_hears() {
        let update = vec![7; 300];
        let mut speeches: Vec<Box<dyn Speech>> = vec![
            Box::new(YProtocol::new("/document".to_owned())),
            Box::new(Hocuspocus::new("document")),
        ];
        for speech in &mut speeches {
            let frames = speech.say(&update);
            let (heard, replies) = heard_of(speech.as_mut(), &frames[0]);
            assert!(matches!(&heard[..], [Heard::Update(found)] if *found == update));
            assert!(replies.is_empty());
            let greeting = speech.greet();
            let (heard, replies) = heard_of(speech.as_mut(), greeting.last().unwrap());
            assert!(heard.is_empty());
            let (heard, _) = heard_of(speech.as_mut(), &replies[0]);
            assert!(matches!(&heard[..], [Heard::State(state)] if **state == *EMPTY_UPDATE));
        }
    }
}

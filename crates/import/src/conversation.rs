//! A conversation as the export has it: what counts of it, by the rules of the published command.

use std::collections::HashSet;
use std::io::{BufReader, Read};

use serde::de::{IgnoredAny, MapAccess, SeqAccess};
use thiserror::Error;

use crate::lenient::{FromKind, Lenient, value};

/// A server takes at most 40 MiB in one document unless it is told otherwise; far beyond that, nothing is gained by
/// holding a conversation in memory.
const MAX_TEXT_BYTES: usize = 64 << 20;
/// About what a message costs beside its texts.
const MESSAGE_BYTES: usize = 256;

/// A conversation with an id. Texts have no white space at their ends.
#[derive(Debug)]
pub(crate) struct Conversation {
    pub(crate) id: String,
    /// The id if it has no name.
    pub(crate) name: String,
    pub(crate) created_at: Option<String>,
    /// When it was created, if nothing else is known.
    pub(crate) updated_at: Option<String>,
    pub(crate) messages: Vec<Message>,
}

#[derive(Debug)]
pub(crate) struct Message {
    /// Counted over everything in the list of messages.
    pub(crate) index: usize,
    pub(crate) id: Option<String>,
    pub(crate) sender: Option<String>,
    pub(crate) created_at: Option<String>,
    /// May be empty.
    pub(crate) text: String,
}

/// Why an element of the export is no conversation.
#[derive(Debug, Error)]
pub(crate) enum InvalidConversation {
    #[error("it has no list chat_messages")]
    NoMessages,
    #[error("it is not an object")]
    NoObject,
    #[error("it has no uuid")]
    NoUuid,
    #[error("its messages have more than 64 MiB")]
    TooLarge,
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

impl Conversation {
    /// Reads one element of an export.
    pub(crate) fn read(reader: impl Read) -> Result<Self, InvalidConversation> {
        let Lenient(exported) = serde_json::from_reader(BufReader::new(reader))?;
        let exported: Exported = exported.ok_or(InvalidConversation::NoObject)?;
        let id = filled(exported.uuid).ok_or(InvalidConversation::NoUuid)?;
        let Messages { list, is_too_large } =
            exported.messages.ok_or(InvalidConversation::NoMessages)?;
        if is_too_large {
            return Err(InvalidConversation::TooLarge);
        }
        let created_at = filled(exported.created_at);
        Ok(Self {
            name: filled(exported.name).unwrap_or_else(|| id.clone()),
            id,
            updated_at: filled(exported.updated_at).or_else(|| created_at.clone()),
            created_at,
            messages: list,
        })
    }

    /// About how much memory it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.messages.iter().map(Message::bytes).sum()
    }
}

impl Message {
    pub(crate) fn bytes(&self) -> usize {
        let texts = [&self.id, &self.sender, &self.created_at];
        let texts = texts.into_iter().flatten().map(String::len).sum::<usize>();
        MESSAGE_BYTES + texts + self.text.len()
    }
}

/// The fields of a conversation that count.
#[derive(Default)]
struct Exported {
    uuid: Option<String>,
    name: Option<String>,
    created_at: Option<String>,
    updated_at: Option<String>,
    messages: Option<Messages>,
}

impl FromKind for Exported {
    fn from_object<'de, A: MapAccess<'de>>(mut object: A) -> Result<Option<Self>, A::Error> {
        let mut read = Self::default();
        while let Some(key) = object.next_key::<String>()? {
            match key.as_str() {
                "uuid" => read.uuid = value(&mut object)?,
                "name" => read.name = value(&mut object)?,
                "created_at" => read.created_at = value(&mut object)?,
                "updated_at" => read.updated_at = value(&mut object)?,
                "chat_messages" => read.messages = value(&mut object)?,
                _ => _ = object.next_value::<IgnoredAny>()?,
            }
        }
        Ok(Some(read))
    }
}

/// The messages, or that they are too many to be held.
#[derive(Default)]
struct Messages {
    list: Vec<Message>,
    is_too_large: bool,
}

impl FromKind for Messages {
    fn from_list<'de, A: SeqAccess<'de>>(mut list: A) -> Result<Option<Self>, A::Error> {
        let mut read = Self::default();
        let (mut index, mut bytes) = (0, 0);
        while let Some(Lenient(message)) = list.next_element::<Lenient<ExportedMessage>>()? {
            if let Some(message) = message {
                let message = message.into_message(index);
                bytes += message.bytes();
                read.list.push(message);
            }
            if bytes > MAX_TEXT_BYTES {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(Some(Self {
                    list: Vec::new(),
                    is_too_large: true,
                }));
            }
            index += 1;
        }
        Ok(Some(read))
    }
}

/// The fields of a message that count.
#[derive(Default)]
struct ExportedMessage {
    uuid: Option<String>,
    sender: Option<String>,
    text: Option<String>,
    created_at: Option<String>,
    content: Option<Vec<Option<Block>>>,
    attachments: Option<Vec<Option<Attachment>>>,
    files: Option<Vec<Option<Attachment>>>,
}

impl FromKind for ExportedMessage {
    fn from_object<'de, A: MapAccess<'de>>(mut object: A) -> Result<Option<Self>, A::Error> {
        let mut read = Self::default();
        while let Some(key) = object.next_key::<String>()? {
            match key.as_str() {
                "uuid" => read.uuid = value(&mut object)?,
                "sender" => read.sender = value(&mut object)?,
                "text" => read.text = value(&mut object)?,
                "created_at" => read.created_at = value(&mut object)?,
                "content" => read.content = value(&mut object)?,
                "attachments" => read.attachments = value(&mut object)?,
                "files" => read.files = value(&mut object)?,
                _ => _ = object.next_value::<IgnoredAny>()?,
            }
        }
        Ok(Some(read))
    }
}

impl ExportedMessage {
    fn into_message(self, index: usize) -> Message {
        let blocks: Vec<Block> = self.content.into_iter().flatten().flatten().collect();
        let created_at = filled(self.created_at).or_else(|| blocks.iter().find_map(Block::time));
        // A message with blocks says nothing else, even if none of them is text.
        let said = if blocks.is_empty() {
            filled(self.text)
        } else {
            let texts = blocks.into_iter().filter_map(Block::into_text);
            filled(Some(texts.collect()))
        };
        let attachments = [self.attachments, self.files];
        let attachments = attachments.into_iter().flatten().flatten().flatten();
        let names = attachments.filter_map(|attachment| filled(attachment.file_name));
        Message {
            index,
            id: filled(self.uuid),
            sender: filled(self.sender),
            created_at,
            text: said.unwrap_or_else(|| attached(names)),
        }
    }
}

/// The text of a message that has no other.
fn attached(names: impl Iterator<Item = String>) -> String {
    let mut seen = HashSet::new();
    let names: Vec<String> = names
        .filter(|name| seen.insert(name.to_lowercase()))
        .collect();
    match names.as_slice() {
        [] => String::new(),
        [name] => format!("attached file {name}"),
        names => format!("attached files {}", names.join(", ")),
    }
}

/// A part of a message's content.
#[derive(Default)]
struct Block {
    kind: Option<String>,
    text: Option<String>,
    start: Option<String>,
    stop: Option<String>,
}

impl FromKind for Block {
    fn from_object<'de, A: MapAccess<'de>>(mut object: A) -> Result<Option<Self>, A::Error> {
        let mut read = Self::default();
        while let Some(key) = object.next_key::<String>()? {
            match key.as_str() {
                "type" => read.kind = value(&mut object)?,
                "text" => read.text = value(&mut object)?,
                "start_timestamp" => read.start = value(&mut object)?,
                "stop_timestamp" => read.stop = value(&mut object)?,
                _ => _ = object.next_value::<IgnoredAny>()?,
            }
        }
        Ok(Some(read))
    }
}

impl Block {
    fn into_text(self) -> Option<String> {
        self.text.filter(|_| self.kind.as_deref() == Some("text"))
    }

    fn time(&self) -> Option<String> {
        filled(self.start.clone()).or_else(|| filled(self.stop.clone()))
    }
}

/// A file that came with a message.
struct Attachment {
    file_name: Option<String>,
}

impl FromKind for Attachment {
    fn from_object<'de, A: MapAccess<'de>>(mut object: A) -> Result<Option<Self>, A::Error> {
        let mut file_name = None;
        while let Some(key) = object.next_key::<String>()? {
            if key == "file_name" {
                file_name = value(&mut object)?;
            } else {
                object.next_value::<IgnoredAny>()?;
            }
        }
        Ok(Some(Self { file_name }))
    }
}

/// A text without white space at its ends, if anything is left.
fn filled(text: Option<String>) -> Option<String> {
    let mut text = text?;
    let trimmed = trimmed(&text);
    if trimmed.is_empty() {
        return None;
    }
    if trimmed.len() < text.len() {
        text = trimmed.to_owned();
    }
    Some(text)
}

/// Python, in which the rules were written, counts four separators of ASCII as white space too.
pub(crate) fn trimmed(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c))
}

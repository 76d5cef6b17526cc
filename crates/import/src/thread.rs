//! The thread that a conversation becomes: its path, its JSON, its line in the list.

use std::collections::HashSet;

use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::conversation::{Conversation, Message, trimmed};

/// Who is called what, and what becomes of messages without a text.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) user_name: String,
    pub(crate) assistant_name: String,
    pub(crate) include_empty_messages: bool,
}

/// A thread that is not made yet.
#[derive(Debug)]
pub(crate) struct Thread {
    /// A UUID, and the file's name without what tells repeated ones apart.
    pub(crate) name: String,
    /// Whose thread it was before.
    pub(crate) external_id: String,
    /// Names, each once.
    pub(crate) members: Vec<String>,
    /// The elements `message`, in order.
    pub(crate) messages: Vec<Value>,
}

/// What the list of threads says about one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listing {
    pub(crate) name: String,
    pub(crate) path: String,
    pub(crate) created_at: String,
    pub(crate) modified_at: String,
}

impl Thread {
    pub(crate) fn new(conversation: Conversation, rules: &Rules) -> Self {
        let name = thread_uuid(&conversation.id).to_string();
        let Conversation {
            id,
            created_at,
            updated_at,
            messages,
            ..
        } = conversation;
        let otherwise = updated_at.or(created_at).unwrap_or_default();
        let mut members = Vec::new();
        let mut seen = HashSet::new();
        let mut elements = Vec::with_capacity(messages.len());
        for message in messages {
            if message.text.is_empty() && !rules.include_empty_messages {
                continue;
            }
            let author = rules.author(message.sender.as_deref());
            let member = trimmed(author);
            if !member.is_empty() && seen.insert(member.to_owned()) {
                members.push(member.to_owned());
            }
            let author = author.to_owned();
            elements.push(element(message, &id, &author, &otherwise));
        }
        if members.is_empty() {
            members = vec![rules.user_name.clone(), rules.assistant_name.clone()];
        }
        Self {
            name,
            external_id: id,
            members,
            messages: elements,
        }
    }

    /// The document with these of the messages.
    pub(crate) fn json(&self, messages: Vec<Value>) -> Value {
        let members = self.members.iter();
        let members: Vec<Value> = members
            .map(|name| json!({ "member": { "name": name } }))
            .collect();
        let mut thread = json!({ "thread": { "name": self.name, "properties": [
            { "members": { "items": members } },
            { "messages": { "external_thread_id": self.external_id, "items": [] } },
        ] } });
        thread["thread"]["properties"][1]["messages"]["items"] = Value::Array(messages);
        thread
    }
}

impl Listing {
    /// The line for the thread at `path`; `now` is when a conversation without a time was made.
    pub(crate) fn new(conversation: &Conversation, path: String, now: String) -> Self {
        let created_at = conversation.created_at.clone().unwrap_or(now);
        Self {
            name: conversation.name.clone(),
            path,
            modified_at: conversation
                .updated_at
                .clone()
                .unwrap_or_else(|| created_at.clone()),
            created_at,
        }
    }
}

impl Rules {
    fn author<'a>(&'a self, sender: Option<&'a str>) -> &'a str {
        match sender.map(str::to_lowercase).as_deref() {
            Some("human") => &self.user_name,
            Some("assistant") => &self.assistant_name,
            _ => sender.unwrap_or("participant"),
        }
    }
}

/// The path of the thread whose id comes for the `occurrence`th time.
pub(crate) fn path(folder: &str, conversation_id: &str, occurrence: u32) -> String {
    let name = thread_uuid(conversation_id);
    match occurrence {
        1 => format!("{folder}/{name}.thread"),
        _ => format!("{folder}/{name} {occurrence}.thread"),
    }
}

/// A conversation's id, or a UUID made of it.
pub(crate) fn thread_uuid(conversation_id: &str) -> Uuid {
    uuid_of(conversation_id)
        .unwrap_or_else(|| Uuid::new_v5(&Uuid::NAMESPACE_URL, conversation_id.as_bytes()))
}

/// A UUID in one of the ways in which Python reads one: with or without a prefix, braces and dashes.
fn uuid_of(text: &str) -> Option<Uuid> {
    let digits = text.replace("urn:", "").replace("uuid:", "");
    let digits = digits.trim_matches(['{', '}']).replace('-', "");
    let is_hexadecimal = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    (digits.len() == 32 && is_hexadecimal)
        .then(|| Uuid::try_parse(&digits).ok())
        .flatten()
}

fn element(message: Message, conversation_id: &str, author: &str, otherwise: &str) -> Value {
    let index = message.index;
    let id = message.id;
    let id = id.unwrap_or_else(|| format!("{conversation_id}:message:{index}"));
    let created_at = message.created_at.unwrap_or_else(|| otherwise.to_owned());
    // Not by `json!`, which would copy the text.
    let mut attributes = Map::new();
    attributes.insert("id".to_owned(), id.into());
    attributes.insert("text".to_owned(), message.text.into());
    attributes.insert("created_at".to_owned(), created_at.into());
    attributes.insert("author_name".to_owned(), author.into());
    let mut element = Map::new();
    element.insert("message".to_owned(), attributes.into());
    element.into()
}

//! Uploads a thread to the room.

use meshagent_client::{CallError, Connection};
use meshagent_document::{Edit, EditError, Limits, MeshDocument, MeshSchema, Position, Target};
use meshagent_protocol::{DocPath, ErrorCode, SyncOpenStart};
use serde_json::Value;
use thiserror::Error;

use crate::thread::Thread;
use crate::{new_client_id, new_id};

/// A larger thread is created in parts of about this size, because one request with all of it would
/// be in memory several times, here and in the server.
const PART_BYTES: usize = 4 << 20;
/// The approximate size of a message without its texts.
const MESSAGE_BYTES: usize = 256;

/// The result of an upload.
#[derive(Debug)]
pub(crate) enum Outcome {
    Created,
    Exists,
    /// The server refused this thread, with a reason; it may accept others.
    Refused(String),
}

/// The error for an upload, which ends the import.
#[derive(Debug, Error)]
#[error("{message}")]
pub struct UploadError {
    /// The failed action.
    pub message: String,
    /// The error of the call.
    #[source]
    pub source: CallError,
}

/// Creates a thread, completely or not at all.
pub(crate) async fn upload(
    room: &Connection,
    path: &str,
    thread: Thread,
    overwrite: bool,
) -> Result<Outcome, UploadError> {
    let failed = |source| UploadError {
        message: format!("can't create {path:?}"),
        source,
    };
    if room.storage().exists(path).await.map_err(failed)? {
        if !overwrite {
            return Ok(Outcome::Exists);
        }
        room.storage().delete(path, false).await.map_err(failed)?;
    }
    match create(room, path, thread).await {
        Ok(()) => Ok(Outcome::Created),
        Err(CreateError::Refused(reason)) => Ok(Outcome::Refused(reason)),
        Err(CreateError::Call(CallError::Refused { code, text })) => {
            match code.and_then(ErrorCode::from_number) {
                // Another participant created it meanwhile.
                _ if is_taken(code) => Ok(Outcome::Exists),
                Some(ErrorCode::InvalidRequest) => Ok(Outcome::Refused(text)),
                _ => Err(failed(CallError::Refused { code, text })),
            }
        }
        Err(CreateError::Call(error)) => Err(failed(error)),
    }
}

enum CreateError {
    Call(CallError),
    Refused(String),
}

impl From<CallError> for CreateError {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

impl From<EditError> for CreateError {
    fn from(error: EditError) -> Self {
        Self::Refused(error.to_string())
    }
}

async fn create(room: &Connection, path: &str, mut thread: Thread) -> Result<(), CreateError> {
    let messages = std::mem::take(&mut thread.messages);
    let mut parts = parts(messages);
    let first = parts.next().unwrap_or_default();
    let json = thread.json(first);
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return Ok(room.sync().create(path, Some(json), schema()).await?);
    }
    // The thread gets its path when it is complete; until then it has a temporary one. What an
    // interrupted import left there is deleted first.
    let partial = format!("{path}.part");
    if room.storage().exists(&partial).await? {
        room.storage().delete(&partial, false).await?;
    }
    let created = room.sync().create(&partial, Some(json), schema()).await;
    created.map_err(|error| match error {
        CallError::Refused { code, .. } if is_taken(code) => {
            CreateError::Refused("another import is creating the same thread".to_owned())
        }
        error => CreateError::Call(error),
    })?;
    let appended = append(room, &partial, parts).await;
    let moved = match appended {
        Ok(()) => {
            let moved = room.storage().rename(&partial, path, false).await;
            moved.map_err(CreateError::Call)
        }
        Err(error) => Err(error),
    };
    if moved.is_err() {
        // An error here is ignored: the next import deletes the rest.
        let _deleted = room.storage().delete(&partial, false).await;
    }
    moved
}

/// Appends messages to a thread.
async fn append(
    room: &Connection,
    path: &str,
    parts: impl Iterator<Item = Vec<Value>>,
) -> Result<(), CreateError> {
    let start = SyncOpenStart {
        create: false,
        merge: true,
        ..SyncOpenStart::new(DocPath::parse(path).map_err(CallError::from)?)
    };
    let stream = room.sync().open(&start).await?;
    let unreadable = |error: &dyn std::error::Error| CreateError::Refused(error.to_string());
    let schema = MeshSchema::from_json(stream.schema()).map_err(|error| unreadable(&error))?;
    let mut document = MeshDocument::with_limits(schema, new_client_id(), Limits::NONE);
    let applied = document.apply_update(stream.state());
    applied.map_err(|error| unreadable(&error))?;
    let list = document
        .root()
        .children()
        .find(|child| child.tag() == "messages");
    let list = list.and_then(|list| list.id()).map(ToOwned::to_owned);
    let Some(list) = list else {
        return Err(CreateError::Refused(
            "the list of messages was deleted".to_owned(),
        ));
    };
    for part in parts {
        let inserts = part.into_iter().map(|element| Edit::Insert {
            parent: Target::Id(list.clone()),
            position: Position::Last,
            element,
        });
        let inserts: Vec<Edit> = inserts.collect();
        let update = document.edit(&inserts, &mut new_id)?;
        drop(inserts);
        let Some(update) = update else { continue };
        if let Some(notice) = stream.send(&update).await?.notice {
            return Err(CreateError::Refused(format!(
                "the server did not keep all messages: {notice}"
            )));
        }
    }
    // Errors are ignored: all parts were acknowledged, so they are stored.
    let _ended = stream.close().await;
    Ok(())
}

/// Splits messages into parts of at least one message.
fn parts(messages: Vec<Value>) -> impl Iterator<Item = Vec<Value>> {
    let mut messages = messages.into_iter().peekable();
    std::iter::from_fn(move || {
        let mut bytes = bytes(messages.peek()?);
        let mut part = vec![messages.next()?];
        while let Some(next) = messages.peek() {
            bytes += self::bytes(next);
            if bytes > PART_BYTES {
                break;
            }
            part.extend(messages.next());
        }
        Some(part)
    })
}

fn bytes(message: &Value) -> usize {
    let attributes = message["message"].as_object().into_iter().flatten();
    let texts = attributes.filter_map(|(_, value)| value.as_str());
    MESSAGE_BYTES + texts.map(str::len).sum::<usize>()
}

fn is_taken(code: Option<i64>) -> bool {
    matches!(
        code.and_then(ErrorCode::from_number),
        Some(ErrorCode::AlreadyExists | ErrorCode::StorageAlreadyExists)
    )
}

fn schema() -> Option<Value> {
    MeshSchema::builtin("thread").map(|schema| schema.to_json())
}

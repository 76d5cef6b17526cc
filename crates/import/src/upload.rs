//! One thread on its way into the room.

use meshagent_client::{CallError, Connection};
use meshagent_document::{Edit, EditError, Limits, MeshDocument, MeshSchema, Position, Target};
use meshagent_protocol::{DocPath, ErrorCode, SyncOpenStart};
use serde_json::Value;
use thiserror::Error;

use crate::thread::Thread;
use crate::{new_client_id, new_id};

/// A thread with more text than this is made in parts of about this size: a request with all of it would have to be in
/// memory several times, here and in the server.
const PART_BYTES: usize = 4 << 20;
/// About what a message costs beside its texts.
const MESSAGE_BYTES: usize = 256;

/// What became of a thread.
#[derive(Debug)]
pub(crate) enum Outcome {
    Created,
    Exists,
    /// The server does not take it, and says why; others it may take.
    Refused(String),
}

/// Why nothing can be imported any more.
#[derive(Debug, Error)]
#[error("{what}")]
pub struct UploadError {
    /// What could not be done.
    pub what: String,
    /// Why.
    #[source]
    pub source: CallError,
}

/// Makes a thread, all of it or nothing.
pub(crate) async fn upload(
    room: &Connection,
    path: &str,
    thread: Thread,
    overwrite: bool,
) -> Result<Outcome, UploadError> {
    let failed = |source| UploadError {
        what: format!("can't make {path:?}"),
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
                // Somebody else was faster.
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
    // A thread is whole where it is looked for: until then it stands beside, and what an interrupted import left there
    // is made anew.
    let beside = format!("{path}.part");
    if room.storage().exists(&beside).await? {
        room.storage().delete(&beside, false).await?;
    }
    let created = room.sync().create(&beside, Some(json), schema()).await;
    created.map_err(|error| match error {
        CallError::Refused { code, .. } if is_taken(code) => {
            CreateError::Refused("another import is at it".to_owned())
        }
        error => CreateError::Call(error),
    })?;
    let appended = append(room, &beside, parts).await;
    let moved = match appended {
        Ok(()) => {
            let moved = room.storage().rename(&beside, path, false).await;
            moved.map_err(CreateError::Call)
        }
        Err(error) => Err(error),
    };
    if moved.is_err() {
        // The reason counts; if this fails as well, the next import does it.
        let _deleted = room.storage().delete(&beside, false).await;
    }
    moved
}

/// Appends messages to a thread that has some.
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
            "its list of messages is gone".to_owned(),
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
            return Err(CreateError::Refused(format!("the server says {notice}")));
        }
    }
    // A document whose stream was cut is stored all the same: all its parts were acknowledged.
    let _ended = stream.close().await;
    Ok(())
}

/// The messages in parts, one or more in each.
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

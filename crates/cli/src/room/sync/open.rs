//! A document, opened: its stream, and a replica of what was in it then. Or its JSON alone, from stdin.

use std::path::Path;

use clap::{ArgMatches, Args, Command, FromArgMatches};
use meshagent_client::{Connection, SyncStream};
use meshagent_document::{ID_ATTRIBUTE, Limits, MeshDocument, MeshSchema};
use meshagent_protocol::{DocPath, SyncOpenStart};
use serde_json::Value;
use uuid::Uuid;

use super::live;
use crate::failure::{self, Failure, REFUSED, USAGE};
use crate::room::session::RoomArgs;
use crate::room::{entries, input};

/// In place of a document's path: its JSON is read from stdin, which takes no room.
pub(super) const STDIN: &str = "-";

/// The flags of commands that join a room, or need none because they read stdin.
#[derive(Debug)]
pub(super) struct RoomOrStdin(Option<RoomArgs>);

impl RoomOrStdin {
    /// The room, where one is needed.
    pub(super) fn room(&self) -> Result<&RoomArgs, Failure> {
        self.0.as_ref().ok_or_else(|| {
            Failure::new("no room was given")
                .with_exit_code(USAGE)
                .with_hint(
                    "give --room NAME, or set MESHAGENT_ROOM; only `-`, for stdin, takes none",
                )
        })
    }
}

impl Args for RoomOrStdin {
    fn augment_args(command: Command) -> Command {
        RoomArgs::augment_args(command).mut_arg(ROOM, |room| room.required(false))
    }

    fn augment_args_for_update(command: Command) -> Command {
        RoomArgs::augment_args_for_update(command)
    }
}

impl FromArgMatches for RoomOrStdin {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let has_room = matches.contains_id(ROOM);
        let room = has_room.then(|| RoomArgs::from_arg_matches(matches));
        room.transpose().map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// How clap calls the flag of [`RoomArgs`] without which there is no room.
const ROOM: &str = "room";

/// A document's JSON from stdin, as `get` prints it.
pub(super) fn read_stdin() -> Result<Value, Failure> {
    let hint = "it has to be {\"doc\": {…}}, as `meshagent room sync get` prints it";
    let json = input::read_json(Path::new(STDIN)).map_err(|failure| failure.with_hint(hint))?;
    let only = json.as_object().filter(|members| members.len() == 1);
    if !only.is_some_and(|members| members.values().all(Value::is_object)) {
        let failure = Failure::new("stdin has no document's JSON");
        return Err(failure.with_exit_code(USAGE).with_hint(hint));
    }
    Ok(json)
}

/// The same, or a part of it, with the `$id`s of its elements or without.
pub(super) fn with_ids(mut json: Value, include_ids: bool) -> Value {
    if include_ids {
        return json;
    }
    let mut stack = vec![&mut json];
    while let Some(value) = stack.pop() {
        match value {
            Value::Array(items) => stack.extend(items),
            Value::Object(members) => {
                members.shift_remove(ID_ATTRIBUTE);
                stack.extend(members.values_mut());
            }
            _ => {}
        }
    }
    json
}

/// An open document. It closes when it is dropped.
pub(super) struct OpenDocument {
    pub(super) document: MeshDocument,
    pub(super) stream: SyncStream,
}

impl OpenDocument {
    /// Opens a document that exists.
    pub(super) async fn open(room: &Connection, path: &str) -> anyhow::Result<Self> {
        let path = DocPath::parse(&entries::document(path)?)?;
        let what = format!("can't open {:?}", path.as_str());
        let start = SyncOpenStart {
            create: false,
            merge: true,
            ..SyncOpenStart::new(path)
        };
        let stream = room.sync().open(&start).await;
        let stream = stream.map_err(|error| failure::of_call(&what, error))?;
        let unreadable = || {
            let failure = Failure::new(&what).with_exit_code(REFUSED);
            failure.with_hint(live::UNREADABLE)
        };
        let schema = MeshSchema::from_json(stream.schema())
            .map_err(|error| unreadable().with_source(error))?;
        // The published SDK for Python cuts ids to 32 bits.
        let client_id = u64::from(getrandom::u32()?);
        // What the server has taken is not for us to refuse, but what is deeper could only be printed in part.
        let mut limits = Limits::NONE;
        limits.depth = MAX_DEPTH;
        let mut document = MeshDocument::with_limits(schema, client_id, limits);
        if !stream.state().is_empty() {
            let applied = document.apply_update(stream.state());
            applied.map_err(|error| unreadable().with_source(error))?;
        }
        Ok(Self { document, stream })
    }

    /// An `$id` for a new element.
    pub(super) fn new_id() -> String {
        Uuid::new_v4().to_string()
    }
}

/// How many levels of elements JSON shows.
const MAX_DEPTH: usize = 256;

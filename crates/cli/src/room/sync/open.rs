//! A document, opened: its stream, and a replica of what was in it then.

use meshagent_client::{Connection, SyncStream};
use meshagent_document::{Limits, MeshDocument, MeshSchema};
use meshagent_protocol::{DocPath, SyncOpenStart};
use uuid::Uuid;

use crate::failure::{Failure, REFUSED};
use crate::room::{entries, failures};

/// An open document. It closes when it is dropped.
pub(super) struct OpenDocument {
    pub(super) document: MeshDocument,
    pub(super) stream: SyncStream,
}

impl OpenDocument {
    /// Opens a document that exists.
    pub(super) async fn open(room: &Connection, path: &str) -> anyhow::Result<Self> {
        let path = DocPath::parse(&entries::normalized(path)?)?;
        let what = format!("can't open {:?}", path.as_str());
        let start = SyncOpenStart {
            create: false,
            merge: true,
            ..SyncOpenStart::new(path)
        };
        let stream = room.sync().open(&start).await;
        let stream = stream.map_err(|error| failures::of_call(&what, error))?;
        let unreadable = || Failure::new(&what).with_exit_code(REFUSED);
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

//! The live document: an element tree in a CRDT, with an index by `$id`.
//!
//! The engine (`yrs`) holds values and order. Beside it stands an account of which operation belongs
//! to which node, by which echoes and gaps are recognised, nodes are found, and changes are told,
//! each at a cost that follows the update and not the document.

mod apply;
mod draft;
mod edit;
mod event;
mod grep;
mod history;
mod ids;
mod insert;
mod json;
mod patch;
mod pending;
mod ranges;
mod read;
mod replace;
mod undo;
mod violation;

use std::fmt;

use yrs::{ClientID, Doc, OffsetKind, Options, Transact, WriteTxn};

use self::event::Watch;
use self::history::{History, NodeIndex, ROOT, ROOT_ATTRIBUTES};
use self::ids::Ids;
use self::pending::Pending;
use crate::schema::MeshSchema;

pub use edit::{Edit, EditError, Position, Target, TextPosition};
pub use event::{Change, Event, Origin};
pub use grep::PatternError;
pub use insert::InsertError;
pub use patch::PatchError;
pub use read::{Element, Text};
pub use replace::ReplaceError;
pub use violation::Repair;

/// A live document with its schema.
///
/// Updates of other replicas come in by [`Self::apply_update`]; what is visible goes out by
/// [`Self::encode_state`] and [`Self::encode_diff`]. What builds on operations that have not arrived
/// waits inside, invisible, until they do.
pub struct MeshDocument {
    schema: MeshSchema,
    client_id: u64,
    doc: Doc,
    history: History,
    pending: Pending,
    ids: Ids,
    // What changed since it was last known to fit the schema.
    suspects: Vec<NodeIndex>,
    // How often others have changed the document.
    epoch: u64,
    undo: Option<undo::History>,
    watch: Option<Watch>,
}

impl MeshDocument {
    /// An empty document; `client_id` marks what is edited here and must be unique among replicas. It
    /// is cut to 53 bits, as far as JavaScript counts.
    pub fn new(schema: MeshSchema, client_id: u64) -> Self {
        let client_id = client_id & ((1 << 53) - 1);
        let mut options = Options::with_guid_and_client_id("".into(), ClientID::new(client_id));
        options.offset_kind = OffsetKind::Utf16;
        let doc = Doc::with_options(options);
        {
            let mut transaction = doc.transact_mut();
            transaction.get_or_insert_xml_fragment(ROOT);
            transaction.get_or_insert_map(ROOT_ATTRIBUTES);
        }
        Self {
            schema,
            client_id,
            doc,
            history: History::new(),
            pending: Pending::default(),
            ids: Ids::default(),
            suspects: Vec::new(),
            epoch: 0,
            undo: None,
            watch: None,
        }
    }

    /// The schema.
    pub fn schema(&self) -> &MeshSchema {
        &self.schema
    }

    /// What marks operations that are made here.
    pub fn client_id(&self) -> u64 {
        self.client_id
    }

    /// Whether something waits for operations that are missing.
    pub fn has_gap(&self) -> bool {
        !self.pending.is_empty()
    }

    /// How many elements there are below the root.
    pub fn element_count(&self) -> usize {
        self.ids.live()
    }
}

impl fmt::Debug for MeshDocument {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("MeshDocument")
            .field("client_id", &self.client_id)
            .field("elements", &self.element_count())
            .field("has_gap", &self.has_gap())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

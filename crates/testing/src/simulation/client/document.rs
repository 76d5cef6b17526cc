//! A document as a client has it: its replica, its stream and its unacknowledged edits.

use std::collections::{BTreeMap, VecDeque};

use meshagent_document::MeshDocument;
use meshagent_protocol::Content;

use super::ours::OurDocument;
use crate::simulation::roaming::{Clocks, Identity};
use crate::simulation::session::Purpose;

/// A document as one client has it.
#[derive(Debug, Default)]
pub(super) struct Document {
    pub(super) replica: Option<Replica>,
    pub(super) stream: Option<Stream>,
    /// Whether the replica has, or may have, an edit that the server will never receive.
    pub(super) is_diverged: bool,
    /// The edits of a careful client that the server has not acknowledged.
    pub(super) kept: VecDeque<Kept>,
    /// The state vector of the replica when the connection was lost.
    pub(super) had: Option<Vec<u8>>,
    /// The identity of the document, if it is a roaming one.
    pub(super) identity: Option<Identity>,
}

/// The replica of a document.
#[derive(Debug)]
pub(super) enum Replica {
    Plain(Box<MeshDocument>),
    Ours(Box<OurDocument>),
}

/// An edit of a careful client that is kept until it is acknowledged.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) update: Vec<u8>,
    pub(super) is_sent: bool,
}

/// The streamed call on which a document is open.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) call: String,
    /// Whether the state has arrived.
    pub(super) is_open: bool,
    /// Updates that wait for the answer to the previous one.
    pub(super) queue: VecDeque<(Vec<u8>, Purpose)>,
    /// Whether an update has no answer yet.
    pub(super) is_waiting: bool,
    /// The operations that were promised when the stream was opened: the state has to have them.
    pub(super) due: Clocks,
    /// The same for each roaming document that can be at the path, by name.
    pub(super) due_of: BTreeMap<String, Clocks>,
    /// When the stream was opened.
    pub(super) since: u64,
    /// For our client, the answer to the start chunk.
    pub(super) answer: Option<Content>,
    /// For our client, the chunks that arrived before that answer.
    pub(super) early: Vec<Content>,
}

impl Document {
    /// Forgets the document, because another one may be at its path by now. Our client keeps its
    /// replica and asks whether the document is the same.
    pub(super) fn forget(&mut self) {
        if let Some(stream) = self.stream.take() {
            self.stream_ended(&stream);
        }
        let replica = self.replica.take();
        *self = Self {
            replica: replica.filter(|replica| matches!(replica, Replica::Ours(_))),
            ..Self::default()
        };
    }

    /// Whether the document is open and its state has arrived.
    pub(super) fn is_open(&self) -> bool {
        self.stream.as_ref().is_some_and(|stream| stream.is_open)
    }

    /// Whether our client has nothing left to send. True for other clients.
    pub(super) fn is_saved(&self) -> bool {
        match &self.replica {
            Some(Replica::Ours(ours)) => ours.is_saved(),
            _ => true,
        }
    }

    /// Handles the end of a stream: updates in its queue will never be sent.
    pub(super) fn stream_ended(&mut self, stream: &Stream) {
        if let Some(Replica::Ours(ours)) = &mut self.replica {
            ours.stream_ended();
        }
        self.is_diverged |= stream
            .queue
            .iter()
            .any(|(_, purpose)| *purpose == Purpose::Edit);
        for kept in &mut self.kept {
            kept.is_sent = false;
        }
    }
}

impl Replica {
    /// Reads the document.
    pub(super) fn read<R>(&self, read: impl FnOnce(&MeshDocument) -> R) -> R {
        match self {
            Self::Plain(document) => read(document),
            Self::Ours(ours) => ours.read(read),
        }
    }
}

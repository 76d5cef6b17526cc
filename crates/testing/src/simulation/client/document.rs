//! A document as a client has it.

use std::collections::{BTreeMap, VecDeque};

use meshagent_document::MeshDocument;
use meshagent_protocol::Content;

use super::ours::Ours;
use crate::simulation::roaming::{Clocks, Identity};
use crate::simulation::session::Purpose;

/// A document as this client has it.
#[derive(Debug, Default)]
pub(super) struct Document {
    pub(super) replica: Option<Holder>,
    pub(super) stream: Option<Stream>,
    /// The replica has, or may have, an edit that the server will never get.
    pub(super) is_off: bool,
    /// What the server has not acknowledged, of a careful client.
    pub(super) kept: VecDeque<Kept>,
    /// What the replica had when the connection was lost, as a state vector.
    pub(super) had: Option<Vec<u8>>,
    /// Its name, if it does not stay where it is.
    pub(super) identity: Option<Identity>,
}

/// What holds a replica.
#[derive(Debug)]
pub(super) enum Holder {
    Plain(Box<MeshDocument>),
    Ours(Box<Ours>),
}

#[derive(Debug)]
pub(super) struct Kept {
    pub(super) update: Vec<u8>,
    pub(super) is_sent: bool,
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) call: String,
    /// Whether the state has come.
    pub(super) is_open: bool,
    /// Chunks that wait for the answer to the one before.
    pub(super) queue: VecDeque<(Vec<u8>, Purpose)>,
    pub(super) is_waiting: bool,
    /// How many operations of each client were promised when it was asked for.
    pub(super) due: Clocks,
    /// The same of all documents that may be at its path.
    pub(super) due_of: BTreeMap<String, Clocks>,
    pub(super) since: u64,
    /// What our client was answered to its start chunk, and what came before that.
    pub(super) answer: Option<Content>,
    pub(super) early: Vec<Content>,
}

impl Document {
    /// What is at its path by now may be another document. Our client asks whether it is.
    pub(super) fn leave(&mut self) {
        if let Some(stream) = self.stream.take() {
            self.give_up(&stream);
        }
        let replica = self.replica.take();
        *self = Self {
            replica: replica.filter(|replica| matches!(replica, Holder::Ours(_))),
            ..Self::default()
        };
    }

    pub(super) fn is_open(&self) -> bool {
        self.stream.as_ref().is_some_and(|stream| stream.is_open)
    }

    /// Whether our client has nothing left to send.
    pub(super) fn is_saved(&self) -> bool {
        match &self.replica {
            Some(Holder::Ours(ours)) => ours.is_saved(),
            _ => true,
        }
    }

    /// The stream is gone: what waited for its turn will never be sent.
    pub(super) fn give_up(&mut self, stream: &Stream) {
        if let Some(Holder::Ours(ours)) = &mut self.replica {
            ours.stream_ended();
        }
        self.is_off |= stream
            .queue
            .iter()
            .any(|(_, purpose)| *purpose == Purpose::Edit);
        for kept in &mut self.kept {
            kept.is_sent = false;
        }
    }
}

impl Holder {
    pub(super) fn read<R>(&self, read: impl FnOnce(&MeshDocument) -> R) -> R {
        match self {
            Self::Plain(document) => read(document),
            Self::Ours(ours) => ours.read(read),
        }
    }
}

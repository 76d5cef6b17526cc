//! Opening and closing documents, and sending updates on their streams.

use std::collections::{BTreeMap, VecDeque};

use meshagent_protocol::{Content, DocPath, SyncChunk, SyncOpenStart};

use super::document::{Replica, Stream};
use super::{Client, ClientKind, Context};
use crate::simulation::board;
use crate::simulation::roaming::{Clocks, is_roaming};
use crate::simulation::session::{Purpose, Request};

impl Client {
    /// Opens a document whose state has to contain everything that was promised before.
    pub(super) fn open_with(&mut self, path: &str, context: &Context<'_>) {
        if is_roaming(path) {
            let due_of = context.record.roamers.clocks(&self.room);
            return self.open(path, Clocks::new(), due_of);
        }
        let due = context.record.clocks(&(self.room.clone(), path.to_owned()));
        self.open(path, due, BTreeMap::new());
    }

    /// Opens a document whose state has to contain these operations.
    pub(super) fn open(&mut self, path: &str, due: Clocks, due_of: BTreeMap<String, Clocks>) {
        let name = self.new_name();
        let (Some(document), Some(session)) = (self.documents.get_mut(path), &mut self.session)
        else {
            return;
        };
        let Ok(doc_path) = DocPath::parse(path) else {
            return;
        };
        let mut start = SyncOpenStart::new(doc_path);
        if is_roaming(path) {
            // Another document may have been at the path before.
            document.forget();
            start.initial_json = Some(board::named(&name));
        }
        start.merge = !self.uses_published_sdk && self.random.one_in(2);
        start.schema = Some(board::schema_json());
        match &document.replica {
            Some(Replica::Plain(replica)) => start.vector = Some(replica.state_vector()),
            Some(Replica::Ours(ours)) => ours.describe(&mut start),
            None if self.kind == ClientKind::Ours => start.identity = Some(String::new()),
            None => {}
        }
        let call = session.open(path);
        let request = Request::Start {
            path: path.to_owned(),
        };
        session.chunk(&call, start.to_content(), request);
        document.stream = Some(Stream {
            call,
            is_open: false,
            queue: VecDeque::new(),
            is_waiting: false,
            due,
            due_of,
            since: self.now,
            answer: None,
            early: Vec::new(),
        });
    }

    /// Sends an update on the stream of a document, if it has one.
    pub(super) fn send(&mut self, path: &str, update: Vec<u8>, purpose: Purpose) {
        self.send_numbered(path, update, purpose, 0);
    }

    /// Sends an update with the number that our client's replica gave it.
    pub(super) fn send_numbered(
        &mut self,
        path: &str,
        update: Vec<u8>,
        purpose: Purpose,
        number: u64,
    ) {
        let (Some(document), Some(session)) = (self.documents.get_mut(path), &mut self.session)
        else {
            return;
        };
        let identity = document.identity.clone();
        let Some(stream) = &mut document.stream else {
            return;
        };
        if self.kind == ClientKind::Npm && stream.is_waiting {
            stream.queue.push_back((update, purpose));
            return;
        }
        stream.is_waiting = true;
        let chunk = SyncChunk::of_update(&update);
        let request = Request::Update {
            path: path.to_owned(),
            update,
            purpose,
            number,
            call: stream.call.clone(),
            sent: self.now,
            identity,
        };
        session.chunk(&stream.call, chunk, request);
    }

    /// Handles the answer to the previous update: sends the next one from the queue.
    pub(super) fn send_next(&mut self, path: &str) {
        let Some(stream) = self
            .documents
            .get_mut(path)
            .and_then(|document| document.stream.as_mut())
        else {
            return;
        };
        stream.is_waiting = false;
        if let Some((update, purpose)) = stream.queue.pop_front() {
            self.send(path, update, purpose);
        }
    }

    /// Closes a document.
    pub(super) fn close(&mut self, path: &str) {
        self.end_stream(path);
        if is_roaming(path)
            && let Some(document) = self.documents.get_mut(path)
        {
            document.forget();
        }
    }

    /// Ends the stream of a document, if it has one.
    pub(super) fn end_stream(&mut self, path: &str) {
        let Some(document) = self.documents.get_mut(path) else {
            return;
        };
        if let Some(stream) = document.stream.take() {
            document.stream_ended(&stream);
            if let Some(session) = &mut self.session {
                session.chunk(&stream.call, Content::close(), Request::Close);
            }
        }
    }
}

//! The end of a run: each client sends what it kept, and its replicas are compared with the store.

use std::collections::BTreeMap;

use serde_json::Value;

use super::document::Document;
use super::{Client, ClientKind};
use crate::simulation::record::Place;
use crate::simulation::roaming::{Clocks, is_roaming};
use crate::simulation::session::Session;

impl Client {
    /// Works towards the end of the run: opens all documents and sends all kept edits.
    pub(in crate::simulation) fn finish(&mut self) {
        if !self.session.as_ref().is_some_and(|one| one.is_connected) {
            return;
        }
        let paths: Vec<String> = self.documents.keys().cloned().collect();
        for path in paths {
            if is_roaming(&path) {
                self.close(&path);
            } else if self.documents[&path].stream.is_none() {
                self.open(&path, Clocks::new(), BTreeMap::new());
            }
            if self.kind == ClientKind::Careful
                && let Some(document) = self.documents.get_mut(&path).filter(|one| one.is_diverged)
            {
                // An edit was refused for good. Edits that depend on it would stay pending for
                // ever, or exceed the bound on pending updates.
                document.kept.clear();
            }
            self.send_all_kept(&path);
            self.send_ours(&path);
        }
    }

    /// Whether all documents are open, and all edits are sent and answered.
    pub(in crate::simulation) fn is_done(&self) -> bool {
        self.session
            .as_ref()
            .is_some_and(|session| session.waiting().next().is_none())
            && self.documents.iter().all(|(path, document)| {
                if is_roaming(path) {
                    document.stream.is_none()
                } else {
                    document.is_open() && document.kept.is_empty() && document.is_saved()
                }
            })
    }

    /// Describes what the client still waits for.
    pub(in crate::simulation) fn unfinished(&self) -> String {
        let waiting: Vec<_> = self.session.iter().flat_map(Session::waiting).collect();
        let documents: Vec<_> = self
            .documents
            .iter()
            .map(|(path, one)| {
                (
                    path,
                    one.is_open(),
                    one.is_diverged,
                    one.kept.len(),
                    one.is_saved(),
                )
            })
            .collect();
        format!(
            "{}: unanswered {waiting:?}, documents {documents:?}",
            self.name
        )
    }

    /// Whether a replica has an edit that the server will never receive.
    pub(in crate::simulation) fn is_diverged(&self) -> bool {
        self.documents
            .iter()
            .any(|(path, document)| document.is_diverged && !is_roaming(path))
    }

    /// Discards such replicas.
    pub(in crate::simulation) fn start_over(&mut self) {
        for document in self.documents.values_mut().filter(|one| one.is_diverged) {
            *document = Document::default();
        }
    }

    /// Each document that does not roam, with the content of the replica.
    pub(in crate::simulation) fn replicas(&self) -> impl Iterator<Item = (Place, Value)> {
        let documents = self.documents.iter();
        let promised = documents.filter(|(path, _)| !is_roaming(path));
        promised.filter_map(|(path, document)| {
            let place = (self.room.clone(), path.clone());
            let replica = document.replica.as_ref()?;
            Some((place, replica.read(|document| document.to_json(true))))
        })
    }
}

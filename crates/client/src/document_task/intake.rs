//! Applies what the server sends to the replica. Large updates are applied on a thread for blocking
//! work, so that they do not block the runtime.

use std::panic::resume_unwind;
use std::sync::Arc;

use meshagent_document::{MeshDocument, MeshSchema};
use serde_json::Value;

use super::ClientIds;
use crate::accepted::accepted;
use crate::live_document::{DocumentEvent, Refusal, Shared, State};
use crate::replica::Fresh;
use crate::sync_calls::SyncStream;

/// The largest update that is applied on a thread of the runtime. It takes roughly a millisecond.
const INLINE_BYTES: usize = 32 << 10;

/// How much work an operation is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Work {
    /// The size of the updates in bytes.
    Bytes(usize),
    /// The whole document. Its size is not known without traversing it.
    Document,
}

/// Runs `apply`: inline if it is little work, otherwise on a thread for blocking work.
pub(super) async fn run<F>(
    shared: &Arc<Shared>,
    client_ids: &mut ClientIds,
    work: Work,
    apply: F,
) -> Result<(), String>
where
    F: FnOnce(&Shared, &mut ClientIds) -> Result<(), String> + Send + 'static,
{
    if let Work::Bytes(0..=INLINE_BYTES) = work {
        return apply(shared, client_ids);
    }
    let shared = Arc::clone(shared);
    // The simulation, which has other ids, runs no task.
    let applied = tokio::task::spawn_blocking(move || apply(&shared, &mut ClientIds::Random)).await;
    applied.unwrap_or_else(|error| match error.try_into_panic() {
        Ok(panic) => resume_unwind(panic),
        Err(_) => Err("the runtime shuts down".to_owned()),
    })
}

/// Applies an update from another participant.
pub(super) fn receive(
    shared: &Shared,
    client_ids: &mut ClientIds,
    update: &[u8],
) -> Result<(), String> {
    let mut state = shared.lock();
    let received = state.replica.received(update);
    received.map_err(|error| error.to_string())?;
    client_ids.renew(&mut state.replica);
    state.journal_progress(Some(update));
    state.publish_changes();
    Ok(())
}

/// Operations that the server lacks before an update that it has stored.
#[derive(Debug)]
pub(crate) struct Gap {
    pub(super) number: u64,
    /// The server's state vector.
    pub(super) vector: Vec<u8>,
}

impl Gap {
    /// Queues the missing operations to be sent.
    pub(crate) fn fill(&self, shared: &Shared) -> Result<(), String> {
        let mut state = shared.lock();
        let filled = state.replica.fill_gap(self.number, &self.vector);
        let is_filled = filled.map_err(|error| error.to_string())?;
        state.publish(&DocumentEvent::Gap { is_filled });
        state.journal_progress(None);
        drop(state);
        shared.advance(|_| {});
        Ok(())
    }
}

/// The treatment of the replica when a stream starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum StartOver {
    /// Keep it, and bring it up to date.
    No,
    /// Rebuild it from the server's state, without the refused edits.
    Fresh,
    /// Like `Fresh`, unless the refusal was a conflict and the server has no other content under
    /// the names of the refused edits. Then keep the replica.
    FreshAfterConflict,
    /// Rebuild it, because another document is at the path.
    Replaced,
}

/// The result of that treatment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Taken {
    BroughtUp,
    MadeAgain,
    /// Nothing: the document has ended, so that its edits stay in the journal.
    Ended,
}

/// The start of a stream.
#[derive(Debug)]
pub(crate) struct Beginning {
    /// The update that brings the replica up to date.
    pub(crate) state: Vec<u8>,
    pub(crate) schema: Value,
    /// The server's state vector, if it lacks operations that the replica has.
    pub(crate) server_vector: Option<Vec<u8>>,
    pub(crate) identity: Option<String>,
}

impl Beginning {
    pub(super) fn of(stream: &SyncStream) -> Self {
        Self {
            state: stream.state().to_vec(),
            schema: stream.schema().clone(),
            server_vector: stream.server_vector().map(<[u8]>::to_vec),
            identity: stream.identity().map(str::to_owned),
        }
    }

    /// The work of applying it. Rebuilding, or comparing with the server, traverses the whole
    /// document.
    pub(super) fn work(&self, shared: &Shared, over: StartOver) -> Work {
        if over != StartOver::No || self.server_vector.is_some() {
            return Work::Document;
        }
        Work::Bytes(self.state.len() + shared.lock().replica.queue_bytes())
    }

    /// Applies it to the replica.
    pub(super) fn take_up(
        &self,
        shared: &Shared,
        client_ids: &mut ClientIds,
        over: StartOver,
    ) -> Result<(), String> {
        // Without the lock, because it takes long for a large document. So does dropping the old
        // one.
        let fresh = match over {
            StartOver::No => None,
            _ => Some(self.fresh(shared, client_ids, over)?),
        };
        let mut old = None;
        let mut state = shared.lock();
        let taken = match fresh {
            None => {
                let vector = match &self.server_vector {
                    Some(vector) => vector.clone(),
                    None => state.replica.document().state_vector(),
                };
                self.bring_up(&mut state, client_ids, &vector)?;
                Taken::BroughtUp
            }
            Some(fresh) => self.start_over(&mut state, client_ids, over, fresh, &mut old)?,
        };
        if taken == Taken::Ended {
            drop(state);
            shared.advance(|_| {});
            return Ok(());
        }
        if let Some(identity) = &self.identity
            && state.replica.set_identity(identity)
        {
            // The journal's earlier records belong to this identity, too.
            state.journal_anew();
        }
        state.journal_progress((taken == Taken::BroughtUp).then_some(&self.state));
        state.publish_changes();
        state.publish(&DocumentEvent::Synchronized);
        drop(state);
        drop(old);
        Ok(())
    }

    /// Rebuilds the replica, unless the replica must be kept or the document ends. Leaves the old
    /// document to the caller.
    fn start_over(
        &self,
        state: &mut State,
        client_ids: &mut ClientIds,
        over: StartOver,
        mut fresh: Fresh,
        old: &mut Option<MeshDocument>,
    ) -> Result<Taken, String> {
        let is_replaced = over == StartOver::Replaced;
        // Rebuilding would discard the local content of the old document.
        if is_replaced && state.end_untold(Refusal::replaced()) {
            return Ok(Taken::Ended);
        }
        fresh.document.watch(state.is_watched());
        if is_replaced {
            *old = Some(state.replace(fresh.document));
            return Ok(Taken::MadeAgain);
        }
        if over == StartOver::FreshAfterConflict && state.reconsider_conflict(&fresh.document) {
            // The server may have content that the replica lacks.
            self.bring_up(state, client_ids, &fresh.document.state_vector())?;
            return Ok(Taken::BroughtUp);
        }
        let refusal = state.taking_back().cloned();
        if refusal.is_some_and(|refusal| state.end_untold(refusal)) {
            return Ok(Taken::Ended);
        }
        *old = Some(state.start_over(fresh));
        Ok(Taken::MadeAgain)
    }

    /// The server's document.
    fn fresh(
        &self,
        shared: &Shared,
        client_ids: &mut ClientIds,
        over: StartOver,
    ) -> Result<Fresh, String> {
        let schema =
            MeshSchema::from_json(&self.schema).map_err(|error| format!("its schema: {error}"))?;
        let client_id = client_ids.next();
        let document = || {
            let mut document = MeshDocument::with_limits(schema.clone(), client_id, accepted());
            if !self.state.is_empty() {
                document
                    .apply_update(&self.state)
                    .map_err(|error| error.to_string())?;
            }
            Ok::<_, String>(document)
        };
        let has_edits = over != StartOver::Replaced && !shared.lock().replica.is_saved();
        Ok(Fresh {
            document: document()?,
            witness: has_edits.then(document).transpose()?,
        })
    }

    /// Brings the existing replica up to date, and queues what the server lacks beyond its state
    /// vector.
    fn bring_up(
        &self,
        state: &mut State,
        client_ids: &mut ClientIds,
        server_vector: &[u8],
    ) -> Result<(), String> {
        let received = state.replica.received(&self.state);
        received.map_err(|error| error.to_string())?;
        client_ids.renew(&mut state.replica);
        let lacking = state.replica.send_lacking(server_vector, &self.state);
        lacking.map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use meshagent_document::Target;
    use serde_json::json;

    use super::*;
    use crate::replica::Replica;

    #[tokio::test]
    async fn large_updates_are_applied_on_a_thread_for_blocking_work() {
        let schema = MeshSchema::builtin("document").unwrap();
        let replica = Replica::new(MeshDocument::new(schema, 1));
        let shared = Shared::new("notes.document", replica, None);
        for (work, is_here) in [
            (Work::Bytes(INLINE_BYTES), true),
            (Work::Bytes(INLINE_BYTES + 1), false),
            (Work::Document, false),
        ] {
            let (thread, ran_on) = mpsc::channel();
            let apply = move |_: &Shared, _: &mut ClientIds| {
                let _ = thread.send(std::thread::current().id());
                Ok(())
            };
            let mut client_ids = ClientIds::Random;
            run(&shared, &mut client_ids, work, apply).await.unwrap();
            let here = std::thread::current().id();
            assert_eq!(ran_on.recv().unwrap() == here, is_here, "{work:?}");
        }
    }

    #[test]
    fn what_is_here_counts_as_what_the_server_sends() {
        let schema = MeshSchema::builtin("document").unwrap();
        let mut replica = Replica::new(MeshDocument::new(schema, 1));
        let long = json!({ "body": { "text": "茶".repeat(INLINE_BYTES) } });
        replica
            .edit(|d| d.append_child(Target::Root, long))
            .expect("it fits the schema");
        let shared = Shared::new("notes.document", replica, None);
        let beginning = |server_vector| Beginning {
            state: vec![0; 2],
            schema: json!({}),
            server_vector,
            identity: None,
        };
        let work = beginning(None).work(&shared, StartOver::No);
        assert!(
            matches!(work, Work::Bytes(INLINE_BYTES..)),
            "the edit is compared: {work:?}"
        );
        let mut state = shared.lock();
        while let Some(next) = state.replica.next_to_send() {
            state.replica.acknowledged(next.number);
        }
        drop(state);
        // A long text with all edits acknowledged is only traversed if it is compared.
        let work = |server_vector, over| beginning(server_vector).work(&shared, over);
        assert_eq!(work(None, StartOver::No), Work::Bytes(2));
        assert_eq!(work(None, StartOver::Fresh), Work::Document);
        assert_eq!(work(None, StartOver::Replaced), Work::Document);
        assert_eq!(work(Some(vec![0]), StartOver::No), Work::Document);
    }

    #[test]
    fn readers_of_one_revision_share_a_snapshot() {
        let schema = MeshSchema::builtin("document").unwrap();
        let mut replica = Replica::new(MeshDocument::new(schema.clone(), 1));
        let first = replica.snapshot();
        assert!(Arc::ptr_eq(&first, &replica.snapshot()));
        let tea = json!({ "body": { "text": "茶" } });
        replica
            .edit(|d| d.append_child(Target::Root, tea))
            .expect("it fits the schema");
        let second = replica.snapshot();
        let counts = [&first, &second].map(|snapshot| snapshot.root().child_count());
        assert_eq!(counts, [0, 1]);
        // Another document, with the same revision.
        let mut other = MeshDocument::new(schema, 2);
        let update = second.encode_state();
        other.apply_update(&update).expect("it is an update");
        replica.start_over(other);
        assert!(!Arc::ptr_eq(&second, &replica.snapshot()));
    }
}

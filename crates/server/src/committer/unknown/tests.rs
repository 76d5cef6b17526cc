//! What the committer answers after outcomes that are unknown.

use meshagent_store::{
    Embedded, FailingStore, Fault, MemoryStore, Reach, RoomId, Store, Timestamp,
};

use super::super::Work;
use super::*;
use crate::metrics::Metrics;

fn room() -> RoomId {
    RoomId::new("project", "größe")
}

fn create(path: &str, state: &'static str) -> Write {
    Write::CreateDocument {
        room: room(),
        path: path.to_owned(),
        schema: "{}".to_owned(),
        state: state.into(),
        contributions: Vec::new(),
        at: Timestamp(7),
    }
}

fn append(document: DocumentId, end: u64, update: &'static str) -> Write {
    Write::Append {
        document,
        end: Some(Seq(end)),
        update: update.into(),
        contributions: Vec::new(),
        at: Timestamp(8),
    }
}

fn put(path: &str, data: impl Into<bytes::Bytes>) -> Write {
    Write::PutFile {
        room: room(),
        path: path.to_owned(),
        data: data.into(),
        mime_type: "text/plain".to_owned(),
        overwrite: false,
        at: Timestamp(9),
    }
}

fn delete(path: &str) -> Write {
    Write::Delete {
        room: room(),
        path: path.to_owned(),
        recursive: false,
        reach: Reach::EVERYTHING,
    }
}

/// A store with a document, and the committer's work.
struct Desk {
    store: FailingStore<MemoryStore>,
    document: DocumentId,
    work: Work,
    metrics: Metrics,
    now: Instant,
}

impl Desk {
    fn new() -> Self {
        let store = FailingStore::new(MemoryStore::new());
        let created = store.commit(&[create("ä", "0")]).unwrap().remove(0);
        let Ok(Written::Created { document, .. }) = created else {
            panic!("{created:?}");
        };
        Self {
            store,
            document,
            work: Work::default(),
            metrics: Metrics::new(),
            now: Instant::now(),
        }
    }

    fn add(&mut self, owner: &Arc<Owner>, writes: Vec<Write>) -> oneshot::Receiver<Outcome> {
        let (done, result) = oneshot::channel();
        self.work.add(Arc::clone(owner), writes, done);
        result
    }

    /// Does the next step.
    fn step(&mut self) {
        let store = Embedded(&self.store);
        let answers = self.work.commit(&store, &self.metrics, self.now);
        self.work.answer(answers, self.now);
    }

    /// Makes the next commit fail in this way.
    fn plan(&self, fault: Fault) {
        let commits = self.store.commits();
        self.store.fail_commits(commits..commits + 1, fault);
    }

    fn stored(&self) -> Vec<bytes::Bytes> {
        let log = self.store.load_since(self.document, Seq(0)).unwrap();
        log.into_iter().map(|stored| stored.update).collect()
    }
}

#[test]
fn each_write_is_answered_by_what_is_stored() {
    for (fault, is_stored) in [
        (Fault::Lost, true),
        (Fault::Dropped, false),
        (Fault::Late, false),
    ] {
        let mut desk = Desk::new();
        let owner = Owner::new(room());
        desk.plan(fault);
        let batch = vec![
            append(desk.document, 1, "eins"),
            create("leer", ""),
            create("voll", "größe"),
            put("datei", "Inhalt"),
            append(desk.document, 2, "zwei"),
            append(DocumentId(99), 0, "nichts"),
        ];
        let mut result = desk.add(&owner, batch);
        desk.step();
        assert!(result.try_recv().is_err(), "{fault:?}: answered unseen");
        desk.step();
        let results = result.try_recv().unwrap().0.unwrap();
        let expected = [
            Ok(Written::Appended { seq: Seq(2) }),
            Ok(Written::Created {
                document: DocumentId(2),
                seq: Seq(0),
            }),
            Ok(Written::Created {
                document: DocumentId(3),
                seq: Seq(1),
            }),
            Ok(Written::Put { replaced: false }),
            Ok(Written::Appended { seq: Seq(3) }),
        ];
        if is_stored {
            assert_eq!(results[..5], expected, "{fault:?}");
        }
        let refused = results
            .iter()
            .filter(|result| **result == Err(WriteError::NotStored));
        assert_eq!(refused.count(), if is_stored { 1 } else { 6 }, "{fault:?}");
        // What was late is fenced by now, and the room goes on.
        let late = desk.store.land().unwrap();
        let is_fenced = |result: &WriteResult| matches!(result, Err(WriteError::Fenced { .. }));
        assert!(late.iter().all(is_fenced), "{late:?}");
        let end = if is_stored { 3 } else { 1 };
        let mut next = desk.add(&owner, vec![append(desk.document, end, "weiter")]);
        desk.step();
        assert!(next.try_recv().unwrap().0.unwrap()[0].is_ok(), "{fault:?}");
        assert_eq!(desk.stored().len(), usize::try_from(end).unwrap() + 1);
    }
}

#[test]
fn a_large_batch_is_looked_for_as_well() {
    for fault in [Fault::Lost, Fault::Dropped] {
        let mut desk = Desk::new();
        desk.plan(fault);
        let owner = Owner::new(room());
        let mut result = desk.add(&owner, vec![put("groß", vec![7; 1 << 20])]);
        desk.step();
        assert!(result.try_recv().is_err(), "{fault:?}");
        desk.step();
        let results = result.try_recv().unwrap().0.unwrap();
        assert_eq!(results[0].is_ok(), fault == Fault::Lost, "{fault:?}");
    }
}

#[test]
fn batches_of_one_commit_are_looked_for_one_by_one_and_not_repeated() {
    let mut desk = Desk::new();
    desk.plan(Fault::Lost);
    let rooms = ["a", "ü", "c"].map(|room| Owner::new(RoomId::new("project", room)));
    let mut results = rooms.each_ref().map(|owner| {
        let room = owner.room().clone();
        let write = Write::PutFile {
            room,
            path: "datei".to_owned(),
            data: "x".into(),
            mime_type: String::new(),
            overwrite: true,
            at: Timestamp(1),
        };
        desk.add(owner, vec![write])
    });
    for _ in 0..4 {
        desk.step();
    }
    for result in &mut results {
        assert!(result.try_recv().unwrap().0.unwrap()[0].is_ok());
    }
    assert_eq!(desk.store.commits(), 2);
}

#[test]
fn what_nothing_stored_can_tell_stays_unknown() {
    for fault in [Fault::Lost, Fault::Dropped] {
        let mut desk = Desk::new();
        desk.plan(fault);
        let owner = Owner::new(room());
        let batch = vec![append(desk.document, 1, "eins"), delete("ä")];
        let mut result = desk.add(&owner, batch);
        desk.step();
        desk.step();
        let error = result.try_recv().unwrap().0.unwrap_err();
        assert!(matches!(*error, StoreError::Unknown(_)), "{error:?}");
    }
}

#[test]
fn a_look_that_fails_is_repeated_and_then_given_up() {
    for failures in [1, LOOKS - 1, LOOKS] {
        let mut desk = Desk::new();
        desk.plan(Fault::Lost);
        let reads = desk.store.reads();
        let failing = reads..reads + u64::from(failures);
        desk.store.fail_reads(failing, Fault::Unavailable);
        let owner = Owner::new(room());
        let mut result = desk.add(&owner, vec![append(desk.document, 1, "eins")]);
        desk.step();
        for _ in 0..LOOKS {
            assert!(result.try_recv().is_err(), "{failures} failures");
            assert!(desk.work.has_batches(desk.now));
            desk.step();
            // Others do not wait for the next look.
            let other = Owner::new(RoomId::new("project", "other"));
            let mut others = desk.add(&other, vec![]);
            desk.step();
            assert!(others.try_recv().unwrap().0.is_ok());
            desk.now += PAUSE;
            if failures < LOOKS && !desk.work.has_batches(desk.now) {
                break;
            }
        }
        let result = result.try_recv().unwrap().0;
        if failures == LOOKS {
            let error = result.unwrap_err();
            assert!(matches!(*error, StoreError::Unknown(_)), "{error:?}");
        } else {
            assert!(result.unwrap()[0].is_ok(), "{failures} failures");
        }
    }
}

#[test]
fn who_was_replaced_meanwhile_does_not_look() {
    let mut desk = Desk::new();
    desk.plan(Fault::Lost);
    let owner = Owner::new(room());
    let mut result = desk.add(&owner, vec![append(desk.document, 1, "eins")]);
    desk.step();
    let other = desk.store.take_over(&room(), None).unwrap();
    desk.step();
    let error = result.try_recv().unwrap().0.unwrap_err();
    assert!(
        matches!(*error, StoreError::Fenced { epoch } if epoch == other),
        "{error:?}"
    );
}

//! A random history, written to the store and to a model of it, which must stay equal.

use std::collections::HashMap;

use bytes::Bytes;

use super::{Subject, commit_in_steps};
use crate::{
    Author, Contribution, DocumentId, EntryKind, Kinds, MemoryStore, MovedEntry, OperationRange,
    Reach, Removed, RoomId, Seq, Staging, Store, StoreError, Timestamp, Write, WriteError, Written,
};

/// Writes `batches` random batches, drawn from `seed`, reopens the store now and then, and compares
/// each result and all stored data with [`MemoryStore`].
///
/// # Panics
/// They differ. The message names the seed.
pub fn run_random<S: Subject>(make: impl Fn() -> S, seed: u64, batches: usize) {
    let mut subject = make();
    let model = MemoryStore::new();
    let mut random = Random(seed);
    let mut ids = Ids::default();
    for step in 0..batches {
        let context = format!("seed {seed}, batch {step}");
        let writes = random.batch(&ids);
        let theirs: Vec<Write> = writes.iter().map(|write| ids.translate(write)).collect();
        let expected = model.commit(&writes).expect("the model never fails");
        if random.below(4) == 0 {
            // A server may discard a staged batch.
            let staging = Staging::default();
            let _ = subject.store().stage(&theirs, &staging);
        }
        let results = commit_in_steps(subject.store(), &theirs).expect("the store is in order");
        ids.translate_results(&writes, results, expected, &context);
        if random.below(20) == 0 {
            subject.reopen();
        }
        if random.below(15) == 0 || step + 1 == batches {
            compare(subject.store(), &model, &ids, &context);
        }
    }
}

/// The mapping between the store's documents and the model's.
#[derive(Debug, Default)]
pub(super) struct Ids {
    theirs: HashMap<DocumentId, DocumentId>,
    ours: HashMap<DocumentId, DocumentId>,
}

impl Ids {
    /// Translates a write from the model's documents to the store's.
    pub(super) fn translate(&self, write: &Write) -> Write {
        let mut write = write.clone();
        if let Write::Append { document, .. } | Write::Snapshot { document, .. } = &mut write {
            *document = self
                .theirs
                .get(document)
                .copied()
                .unwrap_or(DocumentId(u64::MAX));
        }
        write
    }

    /// Compares the results of a batch, after translating the store's.
    pub(super) fn translate_results(
        &mut self,
        writes: &[Write],
        results: Vec<Result<Written, WriteError>>,
        expected: Vec<Result<Written, WriteError>>,
        context: &str,
    ) {
        assert_eq!(results.len(), expected.len(), "{context}");
        for ((write, expected), result) in writes.iter().zip(expected).zip(results) {
            assert_eq!(
                self.translate_result(result, &expected),
                expected,
                "{context}: {write:?}"
            );
        }
    }

    /// Maps the documents of a batch without a result, by their paths.
    pub(super) fn map_by_path(&mut self, store: &dyn Store, model: &MemoryStore, context: &str) {
        for room in rooms() {
            let mut folders = vec![String::new()];
            while let Some(folder) = folders.pop() {
                let listed = model
                    .list(&room, &folder, usize::MAX)
                    .expect("the model never fails");
                for entry in listed.unwrap_or_default() {
                    let path = below(&folder, &entry.name);
                    match entry.kind {
                        EntryKind::Folder => folders.push(path),
                        EntryKind::File => {}
                        EntryKind::Document => {
                            let [theirs, ours] = [store, model].map(|store| {
                                let found = store.load(&room, &path).expect("it can be read");
                                let found = found.map(|found| found.document);
                                found.unwrap_or_else(|| panic!("{context}: {path:?} is missing"))
                            });
                            self.theirs.insert(ours, theirs);
                            self.ours.insert(theirs, ours);
                        }
                    }
                }
            }
        }
    }

    /// Translates a result from the store's documents to the model's.
    fn translate_result(
        &mut self,
        result: Result<Written, WriteError>,
        expected: &Result<Written, WriteError>,
    ) -> Result<Written, WriteError> {
        if let (
            Ok(Written::Created {
                document: theirs, ..
            }),
            Ok(Written::Created { document: ours, .. }),
        ) = (&result, expected)
        {
            assert!(
                self.ours.insert(*theirs, *ours).is_none(),
                "document id {theirs} was given twice"
            );
            self.theirs.insert(*ours, *theirs);
        }
        let ours = |document: DocumentId| {
            self.ours
                .get(&document)
                .copied()
                .unwrap_or(DocumentId(u64::MAX))
        };
        let removed = |entries: Vec<Removed>| {
            let rename = |entry: Removed| Removed {
                document: entry.document.map(ours),
                ..entry
            };
            entries.into_iter().map(rename).collect()
        };
        match result {
            Ok(Written::Created { document, seq }) => Ok(Written::Created {
                document: ours(document),
                seq,
            }),
            Ok(Written::Deleted { entries }) => Ok(Written::Deleted {
                entries: removed(entries),
            }),
            Ok(Written::Moved { entries, replaced }) => {
                let rename = |entry: MovedEntry| MovedEntry {
                    document: entry.document.map(ours),
                    ..entry
                };
                Ok(Written::Moved {
                    entries: entries.into_iter().map(rename).collect(),
                    replaced: removed(replaced),
                })
            }
            Err(WriteError::NoSuchDocument { document }) => match expected {
                Err(WriteError::NoSuchDocument { document: expected })
                    if document == DocumentId(u64::MAX) =>
                {
                    Err(WriteError::NoSuchDocument {
                        document: *expected,
                    })
                }
                _ => Err(WriteError::NoSuchDocument {
                    document: ours(document),
                }),
            },
            Err(WriteError::SnapshotOutOfRange { document, through }) => {
                Err(WriteError::SnapshotOutOfRange {
                    document: ours(document),
                    through,
                })
            }
            Err(WriteError::Behind { document }) => Err(WriteError::Behind {
                document: ours(document),
            }),
            Err(WriteError::WrongEnd {
                document,
                end,
                expected,
            }) => Err(WriteError::WrongEnd {
                document: ours(document),
                end,
                expected,
            }),
            other => other,
        }
    }
}

/// Compares all entries of both stores.
pub(super) fn compare(store: &dyn Store, model: &MemoryStore, ids: &Ids, context: &str) {
    assert_eq!(
        store.stats().expect("the store is in order"),
        model.stats().expect("the model never fails")
    );
    for room in rooms() {
        let mut folders = vec![String::new()];
        while let Some(folder) = folders.pop() {
            let listed = store
                .list(&room, &folder, usize::MAX)
                .expect("the store is in order");
            assert_eq!(
                listed,
                model
                    .list(&room, &folder, usize::MAX)
                    .expect("the model never fails"),
                "{context}: {folder:?}"
            );
            for entry in listed.unwrap_or_default() {
                let path = below(&folder, &entry.name);
                let stat = store.stat(&room, &path).expect("the store is in order");
                assert_eq!(
                    stat,
                    model.stat(&room, &path).expect("the model never fails"),
                    "{context}: {path:?}"
                );
                let file = store
                    .read_file(&room, &path)
                    .expect("the store is in order");
                assert_eq!(
                    file,
                    model
                        .read_file(&room, &path)
                        .expect("the model never fails"),
                    "{context}: {path:?}"
                );
                compare_document(store, model, &room, &path, ids, context);
                if entry.kind == EntryKind::Folder {
                    folders.push(path);
                }
            }
        }
    }
}

fn compare_document(
    store: &dyn Store,
    model: &MemoryStore,
    room: &RoomId,
    path: &str,
    ids: &Ids,
    context: &str,
) {
    let theirs = store.load(room, path).expect("the store is in order");
    let expected = model.load(room, path).expect("the model never fails");
    let (Some(mut theirs), Some(expected)) = (theirs.clone(), expected.clone()) else {
        assert!(
            theirs.is_none() && expected.is_none(),
            "{context}: only one store has a document at {path:?}"
        );
        return;
    };
    let id = theirs.document;
    let records = store.provenance(id).expect("the store is in order");
    let model_records = model.provenance(expected.document);
    assert_eq!(
        records,
        model_records.expect("the model never fails"),
        "{context}: {path:?}"
    );
    theirs.document = ids.ours.get(&id).copied().unwrap_or(DocumentId(u64::MAX));
    assert_eq!(theirs, expected, "{context}: {path:?}");
    let merged_through = expected.snapshot_seq.0;
    for after in [
        merged_through.saturating_sub(1),
        merged_through,
        expected.last_seq.0,
    ] {
        let merged = matches!(
            store.load_since(id, Seq(after)),
            Err(StoreError::Compacted { .. })
        );
        assert_eq!(
            merged,
            after < expected.snapshot_seq.0,
            "{context}: {path:?} since {after}"
        );
    }
}

fn below(folder: &str, name: &str) -> String {
    if folder.is_empty() {
        name.to_owned()
    } else {
        format!("{folder}/{name}")
    }
}

fn rooms() -> [RoomId; 2] {
    [RoomId::new("p", "one"), RoomId::new("p", "two")]
}

/// `SplitMix64` (Steele, Lea, Flood 2014): its quality suffices for choices, and it is the same on
/// every platform.
pub(super) struct Random(pub(super) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Returns a path. There are few names and levels, so that paths collide.
    fn path(&mut self) -> String {
        let depth = self.below(4);
        let segments: Vec<&str> = (0..depth)
            .map(|_| ["a", "b", "a-", "A", "%"][usize::try_from(self.below(5)).unwrap_or(0)])
            .collect();
        segments.join("/")
    }

    fn bytes(&mut self) -> Bytes {
        // Most contents are short; some are long enough to be staged.
        if self.below(100) == 0 {
            let [part @ .., _] = self.next().to_le_bytes();
            let len = 200_000 + self.below(1_200_000);
            return (0..len / 7).flat_map(|_| part).collect();
        }
        let len = self.below(40);
        (0..len).map(|_| self.next().to_le_bytes()[0]).collect()
    }

    fn instant(&mut self) -> Timestamp {
        Timestamp(self.next().cast_signed() >> 20)
    }

    /// Returns contributions. There are few authors, clients and clocks, so that runs touch.
    fn contributions(&mut self) -> Vec<Contribution> {
        let contribution = |random: &mut Self| Contribution {
            author: Author {
                participant: format!("p{}", random.below(3)),
                role: "agent".to_owned(),
                on_behalf_of: (random.below(2) == 0).then(|| "ada".to_owned()),
                connection: format!("c{}", random.below(3)),
            },
            at: random.instant(),
            operations: (0..random.below(4))
                .map(|_| {
                    let start = random.below(50);
                    OperationRange {
                        client: random.below(3),
                        start,
                        end: start + random.below(8),
                    }
                })
                .collect(),
        };
        (0..self.below(3)).map(|_| contribution(self)).collect()
    }

    /// Returns a reach, mostly an unlimited one, so that most writes succeed.
    fn reach(&mut self) -> Reach {
        let kinds = |random: &mut Self| match random.below(9) {
            0 => Kinds::Nothing,
            1 => Kinds::Files,
            _ => Kinds::Everything,
        };
        Reach {
            at: kinds(self),
            below: kinds(self),
        }
    }

    /// Returns a position, which is often not the end of the log.
    fn end(&mut self) -> Option<Seq> {
        (self.below(3) == 0).then(|| Seq(self.below(5)))
    }

    pub(super) fn batch(&mut self, ids: &Ids) -> Vec<Write> {
        (0..=self.below(6)).map(|_| self.write(ids)).collect()
    }

    fn write(&mut self, ids: &Ids) -> Write {
        let room = rooms()[usize::from(self.below(4) == 0)].clone();
        let at = self.instant();
        // One of the newest documents, since many older ones are deleted. The model counts its
        // documents from 1, so 0 never exists.
        let newest = ids.theirs.len() as u64;
        let document = DocumentId(newest.saturating_sub(self.below(6)));
        match self.below(14) {
            0..=2 => {
                let (path, state) = (self.path(), self.bytes());
                let contributions = self.contributions();
                Write::CreateDocument {
                    room,
                    path,
                    schema: format!("{{{}}}", self.below(9)),
                    state,
                    contributions,
                    at,
                }
            }
            3..=6 => Write::Append {
                document,
                end: self.end(),
                update: self.bytes(),
                contributions: self.contributions(),
                at,
            },
            7..=9 => Write::Snapshot {
                document,
                end: self.end(),
                through: Seq(self.below(5)),
                state: self.bytes(),
                fold_before: self.instant(),
            },
            10 => {
                let (path, data, overwrite) = (self.path(), self.bytes(), self.below(2) == 0);
                Write::PutFile {
                    room,
                    path,
                    data,
                    mime_type: "text/plain".to_owned(),
                    overwrite,
                    at,
                }
            }
            11 => Write::Delete {
                room,
                path: self.path(),
                recursive: self.below(3) == 0,
                reach: self.reach(),
            },
            _ => {
                let (source, destination, overwrite) =
                    (self.path(), self.path(), self.below(2) == 0);
                Write::Move {
                    room,
                    source,
                    destination,
                    overwrite,
                    reach: self.reach(),
                    replaces: self.reach(),
                    at,
                }
            }
        }
    }
}

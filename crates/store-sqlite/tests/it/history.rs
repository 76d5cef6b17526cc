//! A seeded history of writes, and a model of the data that must be stored.

use meshagent_store::{
    Author, Contribution, DocumentId, MemoryStore, OperationRange, Reach, Seq, Store, Timestamp,
    Write,
};

use crate::{create, put, room};

/// The documents that are written to. They are created first, so every store gives them the
/// same ids.
const DOCUMENTS: [&str; 3] = ["a", "b", "c"];
/// A file with the number of the last batch.
const MARK: &str = "mark";

/// Batches of appends, snapshots, files, new documents and deletions, which are the same for the
/// same seed.
#[derive(Debug)]
pub(crate) struct History {
    random: Random,
    /// The state from which [`History::batch`] draws; updated by [`History::done`].
    model: MemoryStore,
    batches: u64,
}

impl History {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            random: Random(seed),
            model: MemoryStore::new(),
            batches: 0,
        }
    }

    /// Returns the next batch, assuming that all earlier ones were written.
    pub(crate) fn batch(&mut self) -> Vec<Write> {
        if self.batches == 0 {
            let mut writes: Vec<Write> = DOCUMENTS.iter().map(|path| create(path)).collect();
            writes.push(put(MARK, b"0".to_vec()));
            return writes;
        }
        let mut writes: Vec<Write> = (0..=self.random.below(4)).map(|_| self.write()).collect();
        writes.push(put(MARK, self.batches.to_string().into_bytes()));
        writes
    }

    /// Records that the batch was written.
    pub(crate) fn done(&mut self, writes: &[Write]) {
        self.model.commit(writes).unwrap();
        self.batches += 1;
    }

    /// Returns the number of batches that were written.
    pub(crate) fn batches(&self) -> u64 {
        self.batches
    }

    /// Continues, without a store, until `batches` are written.
    pub(crate) fn replay(&mut self, batches: u64) {
        while self.batches < batches {
            let writes = self.batch();
            self.done(&writes);
        }
    }

    /// Asserts that a store contains the same data as the model.
    #[track_caller]
    pub(crate) fn assert_kept(&self, store: &dyn Store, context: &str) {
        let mut folders = vec![String::new()];
        while let Some(folder) = folders.pop() {
            let listed = store.list(&room(), &folder, usize::MAX).unwrap();
            assert_eq!(
                listed,
                self.model.list(&room(), &folder, usize::MAX).unwrap(),
                "{context}: {folder:?}"
            );
            for entry in listed.unwrap_or_default() {
                let path = if folder.is_empty() {
                    entry.name
                } else {
                    format!("{folder}/{}", entry.name)
                };
                let file = store.read_file(&room(), &path).unwrap();
                let expected = self.model.read_file(&room(), &path).unwrap();
                assert!(file == expected, "{context}: file {path:?}");
                let loaded = store.load(&room(), &path).unwrap();
                let expected = self.model.load(&room(), &path).unwrap();
                if let (Some(loaded), Some(expected)) = (&loaded, &expected) {
                    assert_eq!(
                        store.provenance(loaded.document).unwrap(),
                        self.model.provenance(expected.document).unwrap(),
                        "{context}: provenance of {path:?}"
                    );
                }
                let without_id = loaded.map(|mut loaded| {
                    loaded.document = expected.as_ref().unwrap().document;
                    loaded
                });
                assert!(without_id == expected, "{context}: document {path:?}");
                if entry.kind == meshagent_store::EntryKind::Folder {
                    folders.push(path);
                }
            }
        }
    }

    fn write(&mut self) -> Write {
        let which = self.random.below(DOCUMENTS.len() as u64);
        let document = DocumentId(which + 1);
        let path = DOCUMENTS[usize::try_from(which).unwrap()];
        match self.random.below(12) {
            0..=6 => Write::Append {
                document,
                end: None,
                update: self.bytes().into(),
                contributions: self.contributions(),
                at: self.now(),
            },
            7 | 8 => {
                let last = self.model.load(&room(), path).unwrap().unwrap().last_seq.0;
                Write::Snapshot {
                    document,
                    end: None,
                    through: Seq(last - self.random.below(last.min(3) + 1)),
                    state: self.bytes().into(),
                    fold_before: Timestamp(self.now().0 - 20),
                }
            }
            9 => Write::CreateDocument {
                room: room(),
                path: format!("d/{}", self.random.below(3)),
                schema: "{}".to_owned(),
                state: self.bytes().into(),
                contributions: self.contributions(),
                at: self.now(),
            },
            10 => put(&format!("d/f{}", self.random.below(3)), self.bytes()),
            _ => Write::Delete {
                room: room(),
                path: "d".to_owned(),
                recursive: true,
                reach: Reach::EVERYTHING,
            },
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.batches.cast_signed())
    }

    /// Returns content that is mostly short, and sometimes fills several pages.
    fn bytes(&mut self) -> Vec<u8> {
        let len = if self.random.below(8) == 0 {
            12_000
        } else {
            300
        };
        let len = self.random.below(len) + 1;
        (0..len)
            .map(|_| self.random.next().to_le_bytes()[0])
            .collect()
    }

    fn contributions(&mut self) -> Vec<Contribution> {
        let at = self.now();
        let contribution = |random: &mut Random| Contribution {
            author: Author {
                participant: format!("p{}", random.below(3)),
                role: "user".to_owned(),
                on_behalf_of: None,
                connection: format!("c{}", at.0 / 30),
            },
            at,
            operations: (0..random.below(3))
                .map(|client| OperationRange {
                    client,
                    start: at.0.unsigned_abs(),
                    end: at.0.unsigned_abs() + random.below(3),
                })
                .collect(),
        };
        (0..=self.random.below(2))
            .map(|_| contribution(&mut self.random))
            .collect()
    }
}

/// Returns the number of batches in a store.
pub(crate) fn batches_in(store: &dyn Store) -> u64 {
    let mark = store.read_file(&room(), MARK).unwrap();
    mark.map_or(0, |mark| {
        let number: u64 = std::str::from_utf8(&mark.data).unwrap().parse().unwrap();
        number + 1
    })
}

/// `SplitMix64` (Steele, Lea, Flood 2014): its quality suffices for choices, and it is the same on
/// every platform.
#[derive(Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

//! The cost of storing an update's author, compared with storing the update alone.
//!
//! This is the store alone, with its default and without waiting for the disk. The server does more
//! for an update than store it, so the records have less weight in the server's rate.

use std::cell::RefCell;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use meshagent_bench::harness::{Effort, compare, per_operation, timed};
use meshagent_store::{
    Author, Contribution, DocumentId, OperationRange, RoomId, Store as _, Timestamp, Write, Written,
};
use meshagent_store_sqlite::{Durability, Options, SqliteStore};
use tempfile::TempDir;

use crate::table::{Row, Section};

const GOAL: f64 = 1.1;

/// An update of about the size of a keystroke's.
const UPDATE: &[u8] = &[7; 40];

pub(crate) fn measure(effort: Effort) -> Result<Section> {
    let mut rows = Vec::new();
    let (fsync, os) = (Durability::Fsync, Durability::Os);
    for (documents, durability) in [(1, fsync), (64, fsync), (1, os), (64, os)] {
        let mut with = Subject::new(documents, durability, true)?;
        let mut without = Subject::new(documents, durability, false)?;
        let failed = RefCell::new(None);
        let turn = |subject: &mut Subject| {
            per_operation(effort, |_| {
                subject.commit().unwrap_or_else(|error| {
                    failed.replace(Some(error));
                    Duration::ZERO
                })
            })
        };
        turn(&mut with);
        turn(&mut without);
        let found = compare(effort, || turn(&mut with), || turn(&mut without));
        if let Some(error) = failed.into_inner() {
            return Err(error);
        }
        with.check()?;
        let level = match durability {
            Durability::Fsync => "fsync",
            Durability::Os => "os",
        };
        let what = match documents {
            1 => format!("{level}: a commit of one update"),
            _ => format!("{level}: a commit of {documents} updates of as many documents"),
        };
        rows.push(Row::durations(what, found, Some(GOAL)));
    }
    Ok(Section {
        title: "Storing the author of an update",
        columns: ["with", "without"],
        rows,
    })
}

struct Subject {
    store: SqliteStore,
    documents: Vec<DocumentId>,
    /// Whether commits store the author.
    attributes: bool,
    clock: u64,
    _directory: TempDir,
}

impl Subject {
    fn new(documents: usize, durability: Durability, attributes: bool) -> Result<Self> {
        let directory = TempDir::new()?;
        let mut options = Options::default();
        options.durability = durability;
        let store = SqliteStore::open(directory.path(), options)?;
        let create = |number| Write::CreateDocument {
            room: RoomId::new("project", "room"),
            path: format!("{number}.document"),
            schema: "{}".to_owned(),
            state: Vec::new().into(),
            contributions: Vec::new(),
            at: Timestamp(0),
        };
        let creations: Vec<Write> = (0..documents).map(create).collect();
        let documents = store
            .commit(&creations)?
            .into_iter()
            .map(|result| match result? {
                Written::Created { document, .. } => Ok(document),
                other => bail!("expected a document, found {other:?}"),
            });
        Ok(Self {
            documents: documents.collect::<Result<_>>()?,
            store,
            attributes,
            clock: 0,
            _directory: directory,
        })
    }

    fn commit(&mut self) -> Result<Duration> {
        let start = self.clock;
        self.clock += 1;
        let contribution = || Contribution {
            author: Author {
                participant: "ada@example.com".to_owned(),
                role: "user".to_owned(),
                on_behalf_of: None,
                connection: "7f3f8d2e-6a30-4d3c-9d1a-0f9f4a1c7b55".to_owned(),
            },
            at: Timestamp(1_700_000_000_000),
            operations: vec![OperationRange {
                client: 3_735_928_559,
                start,
                end: start + 1,
            }],
        };
        let append = |document: &DocumentId| Write::Append {
            document: *document,
            end: None,
            update: UPDATE.into(),
            contributions: self.attributes.then(contribution).into_iter().collect(),
            at: Timestamp(1_700_000_000_000),
        };
        let (took, result) = timed(|| {
            let writes: Vec<Write> = self.documents.iter().map(append).collect();
            self.store.commit(&writes)
        });
        for written in result? {
            written?;
        }
        Ok(took)
    }

    /// Checks that the store has one record of all operations.
    fn check(&self) -> Result<()> {
        let document = *self
            .documents
            .first()
            .context("the store has no document")?;
        let records = self.store.provenance(document)?;
        match records.as_slice() {
            [record] if record.operations.is_some_and(|run| run.end == self.clock) => Ok(()),
            found => bail!(
                "the records do not match: expected one record of {} operations, found {found:?}",
                self.clock
            ),
        }
    }
}

//! The size of stored provenance is limited, however many clients an update names.

use meshagent_store::{
    Author, Contribution, DocumentId, OperationRange, Seq, Store, Timestamp, Write,
};
use meshagent_store_sqlite::DATABASE_FILE;
use rusqlite::Connection;
use tempfile::TempDir;

use crate::{created, open};

fn append(document: DocumentId, who: &str, clients: std::ops::Range<u64>) -> Write {
    Write::Append {
        document,
        end: None,
        update: b"update".to_vec().into(),
        contributions: vec![Contribution {
            operations: clients
                .map(|client| OperationRange {
                    client,
                    start: 0,
                    end: 1,
                })
                .collect(),
            author: Author {
                participant: who.to_owned(),
                connection: who.to_owned(),
                ..Author::default()
            },
            at: Timestamp(0),
        }],
        at: Timestamp(0),
    }
}

#[test]
fn update_of_countless_clients_is_stored_without_operations() {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path());
    let document = created(&store, "a");
    let write = append(document, "zoë", 0..1_000_000);
    store.commit(&[write]).unwrap().remove(0).unwrap();
    let records = store.provenance(document).unwrap();
    let [record] = &records[..] else {
        panic!("{} records", records.len());
    };
    assert_eq!(record.author.participant, "zoë");
    assert_eq!(record.operations, None);
    let wal = directory.path().join(format!("{DATABASE_FILE}-wal"));
    let bytes = wal.metadata().unwrap().len();
    assert!(bytes < 1 << 20, "{bytes} bytes written");
}

#[test]
fn snapshot_writes_a_limited_number_of_records() {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path());
    let document = created(&store, "a");
    let other = created(&store, "b");
    let names: Vec<String> = (0..45).map(|number| format!("zoë {number}")).collect();
    let mut client = 0;
    let mut seq = 0;
    for round in 0..2 {
        let writes: Vec<Write> = names
            .iter()
            .map(|name| {
                client += 1_000;
                append(document, name, client - 1_000..client)
            })
            .collect();
        assert!(store.commit(&writes).unwrap().iter().all(Result::is_ok));
        seq += writes.len() as u64;
        let fold = Write::Snapshot {
            document,
            end: None,
            through: Seq(seq),
            state: b"state".to_vec().into(),
            fold_before: Timestamp(i64::MIN),
        };
        store.commit(&[fold]).unwrap().remove(0).unwrap();
        let rows: i64 = Connection::open(directory.path().join(DATABASE_FILE))
            .unwrap()
            .query_row("SELECT count(*) FROM provenance", [], |row| row.get(0))
            .unwrap();
        assert!(rows <= 10_000, "round {round}: {rows} records");
    }
    let records = store.provenance(document).unwrap();
    for name in &names {
        assert!(
            records
                .iter()
                .any(|record| record.author.participant == *name),
            "{name} is missing"
        );
    }
    assert_eq!(store.provenance(other).unwrap().len(), 0);
}

//! Checks of provenance.

use bytes::Bytes;

use super::{
    Check, Subject, append, commit_ok, contribution, created, delete, load, room, snapshot,
};
use crate::{
    Author, Contribution, DocumentId, OperationRange, ProvenanceRecord, Seq, Store, StoreError,
    Timestamp, Write,
};

pub(super) const CHECKS: &[Check] = &[
    contributions_are_stored_with_each_update,
    state_at_creation_has_contributions,
    adjacent_runs_of_a_connection_are_one_record,
    deletions_of_a_connection_are_one_record,
    snapshot_keeps_provenance,
    snapshot_leaves_provenance_of_later_updates,
    old_records_are_folded_by_author,
    folding_continues_from_folded_records,
    provenance_is_deleted_with_its_document,
    provenance_moves_with_its_document,
    provenance_is_not_counted_in_the_size,
    refused_snapshot_folds_nothing,
    any_author_name_is_stored,
];

fn contributions_are_stored_with_each_update(subject: &mut dyn Subject) {
    let document = created(subject.store(), "a", b"");
    let ada = Author {
        on_behalf_of: Some("grace".to_owned()),
        ..connection("ada", "c-1")
    };
    let both = vec![
        by(&ada, 10, &[(1, 0, 5), (9, 3, 4)]),
        by(&connection("bob", "c-2"), 11, &[]),
    ];
    commit_ok(subject.store(), made(document, both.clone()));
    commit_ok(subject.store(), made(document, Vec::new()));
    subject.reopen();
    let updates = load(subject.store(), "a").updates;
    assert_eq!(updates[0].contributions, both);
    assert_eq!(updates[1].contributions, []);
    assert_eq!(
        updates[0].at,
        Timestamp(2),
        "the time of the append, not of a contribution"
    );
    let follow = subject.store().load_since(document, Seq(0));
    assert_eq!(follow.expect("the document is there"), updates);
    assert_eq!(
        provenance(subject.store(), document),
        [
            record(&ada, Some((1, 0, 5)), 10, 10),
            record(&ada, Some((9, 3, 4)), 10, 10),
            record(&connection("bob", "c-2"), None, 11, 11),
        ]
    );
}

fn state_at_creation_has_contributions(subject: &mut dyn Subject) {
    let empty = created(subject.store(), "empty", b"");
    let full = created(subject.store(), "full", b"state");
    subject.reopen();
    assert_eq!(
        load(subject.store(), "full").updates[0].contributions,
        [contribution("ada", 1)]
    );
    assert_eq!(provenance(subject.store(), empty), []);
    assert_eq!(provenance(subject.store(), full).len(), 1);
}

fn adjacent_runs_of_a_connection_are_one_record(subject: &mut dyn Subject) {
    let document = created(subject.store(), "a", b"");
    let [ada, later, bob] =
        [("ada", "c-1"), ("ada", "c-2"), ("bob", "c-1")].map(|(name, id)| connection(name, id));
    let contributions = [
        by(&ada, 10, &[(1, 0, 5)]),
        by(&bob, 11, &[(2, 0, 3)]),
        by(&ada, 12, &[(1, 7, 9), (2, 3, 5)]),
        by(&ada, 9, &[(1, 5, 6)]),
        by(&later, 13, &[(1, 9, 12)]),
        by(&bob, 14, &[(1, 6, 7), (2, 5, 5)]),
        by(&ada, 15, &[(2, 4, 8)]),
    ];
    let expected = [
        record(&ada, Some((1, 0, 6)), 9, 10),
        record(&ada, Some((1, 7, 9)), 12, 12),
        record(&ada, Some((2, 3, 8)), 12, 15),
        record(&later, Some((1, 9, 12)), 13, 13),
        record(&bob, Some((1, 6, 7)), 14, 14),
        record(&bob, Some((2, 0, 3)), 11, 11),
    ];
    for one in contributions {
        commit_ok(subject.store(), made(document, vec![one]));
    }
    assert_eq!(provenance(subject.store(), document), expected);
    // In two steps, so that the second continues merged records.
    commit_ok(subject.store(), snapshot(document, 3, b"1"));
    assert_eq!(provenance(subject.store(), document), expected);
    commit_ok(subject.store(), snapshot(document, 7, b"2"));
    subject.reopen();
    assert_eq!(provenance(subject.store(), document), expected);
}

fn deletions_of_a_connection_are_one_record(subject: &mut dyn Subject) {
    let document = created(subject.store(), "a", b"");
    let [ada, later] = ["c-1", "c-2"].map(|id| connection("ada", id));
    for (author, at) in [(&ada, 10), (&later, 11), (&ada, 12), (&ada, 8)] {
        commit_ok(
            subject.store(),
            made(document, vec![by(author, at, &[]), by(author, at, &[])]),
        );
    }
    let expected = [record(&ada, None, 8, 12), record(&later, None, 11, 11)];
    assert_eq!(provenance(subject.store(), document), expected);
    commit_ok(subject.store(), snapshot(document, 4, b"x"));
    subject.reopen();
    assert_eq!(provenance(subject.store(), document), expected);
}

fn snapshot_keeps_provenance(subject: &mut dyn Subject) {
    let document = created(subject.store(), "a", b"state");
    let authors = ["ada", "bob", "eve"].map(|name| connection(name, "c"));
    for clock in 0..60 {
        let author = &authors[usize::try_from(clock * 7 % 3).unwrap_or(0)];
        let ranges = [(clock % 4, clock, clock + 1 + clock % 5)];
        let at = i64::try_from(clock * 13 % 17).unwrap_or(0);
        let only_deletes = clock % 6 == 0;
        let ranges = if only_deletes { &[] } else { &ranges[..] };
        commit_ok(
            subject.store(),
            made(document, vec![by(author, at, ranges)]),
        );
    }
    let before = provenance(subject.store(), document);
    assert!(before.len() > 6, "the check needs several records");
    for through in [1, 2, 30, 30, 61] {
        commit_ok(subject.store(), snapshot(document, through, b"x"));
        assert_eq!(
            provenance(subject.store(), document),
            before,
            "after a snapshot through {through}"
        );
    }
    subject.reopen();
    assert_eq!(provenance(subject.store(), document), before);
}

fn snapshot_leaves_provenance_of_later_updates(subject: &mut dyn Subject) {
    let document = created(subject.store(), "a", b"");
    let ada = connection("ada", "c");
    for clock in 0..3 {
        let one = by(&ada, 10, &[(1, clock, clock + 1)]);
        commit_ok(subject.store(), made(document, vec![one]));
    }
    commit_ok(subject.store(), folding(document, 2, 11));
    subject.reopen();
    let loaded = load(subject.store(), "a");
    assert_eq!(
        loaded.updates[0].contributions,
        [by(&ada, 10, &[(1, 2, 3)])]
    );
    assert_eq!(
        provenance(subject.store(), document),
        [
            record(&connection("ada", ""), None, 10, 10),
            record(&ada, Some((1, 2, 3)), 10, 10),
        ],
        "contributions in the log are not folded"
    );
}

fn old_records_are_folded_by_author(subject: &mut dyn Subject) {
    let document = created(subject.store(), "a", b"");
    let ada = connection("ada", "c-1");
    let later = connection("ada", "c-2");
    let agent = Author {
        role: "agent".to_owned(),
        ..ada.clone()
    };
    let for_bob = Author {
        on_behalf_of: Some("bob".to_owned()),
        ..ada.clone()
    };
    let all = vec![
        by(&ada, 10, &[(1, 0, 5), (2, 0, 5)]),
        by(&later, 12, &[(3, 0, 5)]),
        by(&later, 8, &[]),
        by(&agent, 11, &[(4, 0, 1)]),
        by(&for_bob, 11, &[(5, 0, 1)]),
        // Only the first part of this run is old.
        by(&later, 13, &[(6, 0, 5)]),
        by(&later, 20, &[(6, 5, 6)]),
    ];
    commit_ok(subject.store(), made(document, all));
    commit_ok(subject.store(), folding(document, 1, 20));
    subject.reopen();
    let folded = |author: &Author| Author {
        connection: String::new(),
        ..author.clone()
    };
    assert_eq!(
        provenance(subject.store(), document),
        [
            record(&folded(&agent), None, 11, 11),
            record(&folded(&ada), None, 8, 12),
            record(&later, Some((6, 0, 6)), 13, 20),
            record(&folded(&for_bob), None, 11, 11),
        ]
    );
}

fn folding_continues_from_folded_records(subject: &mut dyn Subject) {
    let document = created(subject.store(), "a", b"");
    let ada = connection("ada", "c-1");
    for at in 1_i64..=4 {
        let clock = at.unsigned_abs();
        let one = by(&ada, at * 10, &[(clock, 0, 1)]);
        commit_ok(subject.store(), made(document, vec![one]));
    }
    commit_ok(subject.store(), folding(document, 1, 11));
    commit_ok(subject.store(), folding(document, 2, 11));
    // The same log position again, with more old records.
    commit_ok(subject.store(), folding(document, 2, 21));
    subject.reopen();
    let folded = record(&connection("ada", ""), None, 10, 20);
    assert_eq!(provenance(subject.store(), document)[0], folded);
    commit_ok(subject.store(), folding(document, 4, 31));
    assert_eq!(
        provenance(subject.store(), document),
        [
            record(&connection("ada", ""), None, 10, 30),
            record(&ada, Some((4, 0, 1)), 40, 40),
        ]
    );
    commit_ok(subject.store(), folding(document, 4, 0));
    assert_eq!(
        provenance(subject.store(), document).len(),
        2,
        "folded records stay folded"
    );
}

fn provenance_is_deleted_with_its_document(subject: &mut dyn Subject) {
    let document = created(subject.store(), "a", b"state");
    commit_ok(subject.store(), append(document, b"x"));
    commit_ok(subject.store(), snapshot(document, 1, b"y"));
    let kept = created(subject.store(), "b", b"state");
    commit_ok(subject.store(), snapshot(kept, 1, b"y"));
    commit_ok(subject.store(), delete("a", false));
    subject.reopen();
    let next = created(subject.store(), "a", b"");
    for gone in [document, DocumentId(u64::MAX)] {
        assert!(matches!(
            subject.store().provenance(gone),
            Err(StoreError::NoSuchDocument { document }) if document == gone
        ));
    }
    assert_eq!(provenance(subject.store(), next), []);
    assert_eq!(provenance(subject.store(), kept).len(), 1);
}

fn provenance_moves_with_its_document(subject: &mut dyn Subject) {
    let document = created(subject.store(), "a", b"state");
    commit_ok(subject.store(), append(document, b"x"));
    commit_ok(subject.store(), snapshot(document, 1, b"y"));
    let before = provenance(subject.store(), document);
    assert_eq!(before.len(), 2);
    commit_ok(subject.store(), super::rename("a", "b", false));
    subject.reopen();
    assert_eq!(provenance(subject.store(), document), before);
}

fn provenance_is_not_counted_in_the_size(subject: &mut dyn Subject) {
    let document = created(subject.store(), "a", b"");
    let size = |store: &dyn Store| {
        let entry = store.stat(&room(), "a").expect("the store is in order");
        entry.and_then(|entry| entry.size)
    };
    let ranges: Vec<_> = (0..100).map(|client| (client, 0, 1)).collect();
    let many = by(&connection("ada", "c"), 10, &ranges);
    commit_ok(subject.store(), made(document, vec![many]));
    assert_eq!(size(subject.store()), Some(1));
    commit_ok(subject.store(), snapshot(document, 1, b"12"));
    assert_eq!(size(subject.store()), Some(2));
    let stats = subject.store().stats().expect("the store is in order");
    assert_eq!(stats.bytes, 2);
    assert_eq!(provenance(subject.store(), document).len(), 100);
}

fn refused_snapshot_folds_nothing(subject: &mut dyn Subject) {
    let document = created(subject.store(), "a", b"state");
    let before = provenance(subject.store(), document);
    let refused = super::commit(subject.store(), folding(document, 2, i64::MAX));
    assert!(refused.is_err());
    assert_eq!(provenance(subject.store(), document), before);
}

fn any_author_name_is_stored(subject: &mut dyn Subject) {
    let odd = "nul \0, quote \", backslash \\, ünïcode, \u{1F4DD}, \u{202e}";
    let author = Author {
        participant: odd.to_owned(),
        role: odd.to_owned(),
        on_behalf_of: Some(String::new()),
        connection: odd.to_owned(),
    };
    let plain = Author {
        on_behalf_of: None,
        ..author.clone()
    };
    let document = created(subject.store(), "a", b"");
    let contributions = vec![
        Contribution {
            author: plain.clone(),
            at: Timestamp(i64::MAX),
            operations: Vec::new(),
        },
        by(
            &author,
            i64::MIN,
            &[(u64::MAX, 0, u64::MAX), (1 << 63, 7, 8)],
        ),
    ];
    commit_ok(subject.store(), made(document, contributions.clone()));
    let expected = [
        record(&plain, None, i64::MAX, i64::MAX),
        record(&author, Some((1 << 63, 7, 8)), i64::MIN, i64::MIN),
        record(&author, Some((u64::MAX, 0, u64::MAX)), i64::MIN, i64::MIN),
    ];
    subject.reopen();
    assert_eq!(
        load(subject.store(), "a").updates[0].contributions,
        contributions
    );
    assert_eq!(provenance(subject.store(), document), expected);
    commit_ok(subject.store(), snapshot(document, 1, b"x"));
    subject.reopen();
    assert_eq!(provenance(subject.store(), document), expected);
}

fn connection(participant: &str, connection: &str) -> Author {
    Author {
        participant: participant.to_owned(),
        role: "user".to_owned(),
        on_behalf_of: None,
        connection: connection.to_owned(),
    }
}

/// Returns a contribution; its ranges are of client, start and end.
fn by(author: &Author, at: i64, ranges: &[(u64, u64, u64)]) -> Contribution {
    Contribution {
        author: author.clone(),
        at: Timestamp(at),
        operations: ranges.iter().copied().map(range).collect(),
    }
}

fn range((client, start, end): (u64, u64, u64)) -> OperationRange {
    OperationRange { client, start, end }
}

fn record(
    author: &Author,
    operations: Option<(u64, u64, u64)>,
    first_at: i64,
    last_at: i64,
) -> ProvenanceRecord {
    ProvenanceRecord {
        author: author.clone(),
        operations: operations.map(range),
        first_at: Timestamp(first_at),
        last_at: Timestamp(last_at),
    }
}

fn made(document: DocumentId, contributions: Vec<Contribution>) -> Write {
    Write::Append {
        document,
        end: None,
        update: Bytes::from_static(b"u"),
        contributions,
        at: Timestamp(2),
    }
}

fn folding(document: DocumentId, through: u64, before: i64) -> Write {
    Write::Snapshot {
        document,
        end: None,
        through: Seq(through),
        state: Bytes::from_static(b"s"),
        fold_before: Timestamp(before),
    }
}

#[track_caller]
fn provenance(store: &dyn Store, document: DocumentId) -> Vec<ProvenanceRecord> {
    store.provenance(document).expect("the document is there")
}

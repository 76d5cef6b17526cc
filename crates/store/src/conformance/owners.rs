//! Who may write: the owner of a room, and the position that a write expects.

use super::{Check, Subject, append, create, created, delete, load, put, rename, room, snapshot};
use crate::{
    Batch, DocumentId, Epoch, RoomId, Seq, Staging, Store, StoreError, Write, WriteError, Written,
};

pub(super) const CHECKS: &[Check] = &[
    a_write_at_another_end_is_refused,
    what_follows_a_refused_position_is_behind_it,
    positions_count_within_a_batch,
    only_the_last_owner_writes,
    batches_of_a_commit_are_fenced_alone,
    only_the_present_owner_renews,
    a_fenced_batch_is_refused_although_it_is_staged,
];

fn at(mut write: Write, position: u64) -> Write {
    if let Write::Append { end, .. } | Write::Snapshot { end, .. } = &mut write {
        *end = Some(Seq(position));
    }
    write
}

fn wrong(document: DocumentId, end: u64, expected: u64) -> Result<Written, WriteError> {
    Err(WriteError::WrongEnd {
        document,
        end: Seq(end),
        expected: Seq(expected),
    })
}

fn batch(room: RoomId, epoch: Epoch, writes: usize) -> Batch {
    Batch {
        room,
        epoch,
        writes,
    }
}

#[track_caller]
fn commit_as(
    store: &dyn Store,
    epoch: Epoch,
    writes: &[Write],
) -> Vec<Result<Written, WriteError>> {
    let batch = batch(room(), epoch, writes.len());
    let results = store.commit_batches(writes, &[batch], None);
    results.expect("the store is in order")
}

fn a_write_at_another_end_is_refused(subject: &mut dyn Subject) {
    let document = created(subject.store(), "größe", b"0");
    let before = load(subject.store(), "größe");
    for position in [0, 2, u64::MAX] {
        for write in [append(document, b"1"), snapshot(document, 1, b"0")] {
            let result = super::commit(subject.store(), at(write, position));
            assert_eq!(result, wrong(document, 1, position));
        }
    }
    subject.reopen();
    assert_eq!(load(subject.store(), "größe"), before);
    super::commit_ok(subject.store(), at(append(document, b"1"), 1));
    super::commit_ok(subject.store(), at(snapshot(document, 2, b"01"), 2));
    // A snapshot does not move the end.
    super::commit_ok(subject.store(), at(append(document, b"2"), 2));
    let gone = DocumentId(u64::MAX);
    let error = Err(WriteError::NoSuchDocument { document: gone });
    assert_eq!(
        super::commit(subject.store(), at(append(gone, b"1"), 1)),
        error
    );
    assert_eq!(load(subject.store(), "größe").last_seq, Seq(3));
}

fn what_follows_a_refused_position_is_behind_it(subject: &mut dyn Subject) {
    let store = subject.store();
    let document = created(store, "a", b"0");
    let other = created(store, "b", b"0");
    let results = store.commit(&[
        at(append(document, b"1"), 7),
        at(append(document, b"2"), 1),
        append(document, b"3"),
        snapshot(document, 1, b"0"),
        at(append(other, b"1"), 1),
    ]);
    let behind = Err(WriteError::Behind { document });
    let appended = Ok(Written::Appended { seq: Seq(2) });
    let expected = [
        wrong(document, 1, 7),
        behind.clone(),
        behind.clone(),
        behind,
        appended,
    ];
    assert_eq!(results.expect("the store is in order"), expected);
    assert_eq!(load(store, "a").last_seq, Seq(1));
}

fn positions_count_within_a_batch(subject: &mut dyn Subject) {
    let store = subject.store();
    let document = created(store, "a", b"");
    let results = store.commit(&[
        at(append(document, b"1"), 0),
        at(append(document, b"2"), 1),
        at(snapshot(document, 2, b"12"), 2),
        at(append(document, b"3"), 2),
    ]);
    let results = results.expect("the store is in order");
    assert!(results.iter().all(Result::is_ok), "{results:?}");
}

fn only_the_last_owner_writes(subject: &mut dyn Subject) {
    let store = subject.store();
    let document = created(store, "a", b"0");
    let first = store.take_over(&room(), None).expect("an epoch");
    let results = commit_as(store, first, &[at(append(document, b"1"), 1)]);
    assert_eq!(results, [Ok(Written::Appended { seq: Seq(2) })]);
    let second = store.take_over(&room(), None).expect("an epoch");
    assert!(second > first, "{second} follows {first}");
    let before = load(store, "a");
    let late = [
        at(append(document, b"2"), 2),
        snapshot(document, 2, b"01"),
        create("b", b"0"),
        put("file", b"x", true),
        rename("a", "c", false),
        delete("a", false),
    ];
    let fenced = Err(WriteError::Fenced { epoch: second });
    let results = commit_as(store, first, &late);
    assert!(
        results.iter().all(|result| *result == fenced),
        "{results:?}"
    );
    assert_eq!(load(store, "a"), before);
    assert_eq!(store.stats().expect("totals").documents, 1);
    assert_eq!(store.stats().expect("totals").files, 0);
    let results = commit_as(store, second, &late);
    assert!(results.iter().take(5).all(Result::is_ok), "{results:?}");
    // What an ended room left behind is refused as well.
    store.release(&room(), second);
    let third = store.take_over(&room(), None).expect("an epoch");
    assert!(third > second, "{third} follows {second}");
    let results = commit_as(store, second, &[append(document, b"late")]);
    assert_eq!(results, [Err(WriteError::Fenced { epoch: third })]);
}

fn batches_of_a_commit_are_fenced_alone(subject: &mut dyn Subject) {
    let store = subject.store();
    let other_room = RoomId::new("3f1f8d2e", "größer");
    let document = created(store, "a", b"0");
    let lost = store.take_over(&room(), None).expect("an epoch");
    let other = store.take_over(&other_room, None).expect("an epoch");
    let present = store.take_over(&room(), None).expect("an epoch");
    let mut file = put("file", b"x", false);
    if let Write::PutFile { room, .. } = &mut file {
        *room = other_room.clone();
    }
    let writes = [
        at(append(document, b"late"), 1),
        put("late", b"x", false),
        file,
        at(append(document, b"1"), 1),
    ];
    let batches = [batch(room(), lost, 2), batch(other_room, other, 1)];
    let results = store.commit_batches(&writes, &batches, None);
    let results = results.expect("the store is in order");
    let fenced = Err(WriteError::Fenced { epoch: present });
    assert_eq!(results[..2], [fenced.clone(), fenced]);
    assert!(results[2].is_ok(), "{results:?}");
    // What is fenced does not break the document for others.
    assert_eq!(results[3], Ok(Written::Appended { seq: Seq(2) }));
    assert_eq!(load(store, "a").last_seq, Seq(2));
}

fn only_the_present_owner_renews(subject: &mut dyn Subject) {
    let store = subject.store();
    let first = store.take_over(&room(), None).expect("an epoch");
    let renewed = store
        .take_over(&room(), Some(first))
        .expect("it is present");
    assert!(renewed > first, "{renewed} follows {first}");
    let results = commit_as(store, first, &[create("late", b"0")]);
    assert_eq!(results, [Err(WriteError::Fenced { epoch: renewed })]);
    let refused = store.take_over(&room(), Some(first));
    assert!(
        matches!(refused, Err(StoreError::Fenced { epoch }) if epoch == renewed),
        "{refused:?}"
    );
    let results = commit_as(store, renewed, &[create("a", b"0")]);
    assert!(results[0].is_ok(), "{results:?}");
}

fn a_fenced_batch_is_refused_although_it_is_staged(subject: &mut dyn Subject) {
    let store = subject.store();
    let document = created(store, "a", b"0");
    let first = store.take_over(&room(), None).expect("an epoch");
    let writes = [append(document, &vec![7; 700_000])];
    let staging = Staging::default();
    while !store.stage(&writes, &staging).expect("there is space") {}
    let second = store.take_over(&room(), None).expect("an epoch");
    let batches = [batch(room(), first, 1)];
    let results = store.commit_batches(&writes, &batches, Some(&staging));
    let results = results.expect("the store is in order");
    assert_eq!(results, [Err(WriteError::Fenced { epoch: second })]);
    assert_eq!(load(store, "a").last_seq, Seq(1));
}

//! The memory that an update will take, estimated before it is applied.

use serde_json::json;

use super::document;
use crate::document::{Edit, MeshDocument, Target, TextPosition};
use crate::engine::ITEM_BYTES;
use crate::test;
use crate::update::DecodeError;
use crate::update::scan::Scan;

/// A document with a text of 10,000 characters, and a second replica of it.
fn replicas() -> [MeshDocument; 2] {
    let [mut ours, mut theirs] = [1, 2].map(document);
    let delta = json!([{ "insert": "文".repeat(10_000) }]);
    let text = json!({ "text": { "$id": "t", "children": [{ "text": { "delta": delta } }] } });
    let json = json!({ "doc": { "title": "T", "children": [text] } });
    ours.insert_json(&json, &mut || "x".to_owned()).unwrap();
    theirs.apply_update(&ours.encode_state()).unwrap();
    [ours, theirs]
}

/// The number of runs of operations.
fn runs(document: &MeshDocument) -> usize {
    let state = document.encode_state();
    Scan::read(&state).unwrap().structs.len()
}

fn delete(from: usize, to: usize) -> Edit {
    let at = TextPosition::Utf16;
    let (id, from, to) = ("t".to_owned(), at(from), at(to));
    Edit::DeleteText { id, from, to }
}

fn insert(at: usize) -> Edit {
    Edit::InsertText {
        id: "t".to_owned(),
        at: TextPosition::Utf16(at),
        text: "字".to_owned(),
        attributes: None,
    }
}

#[test]
fn estimate_covers_the_runs_that_an_update_adds() {
    let deletions: Vec<Edit> = (0..1_000).map(|n| delete(1 + n * 8, 2 + n * 8)).collect();
    let insertions: Vec<Edit> = (0..1_000).map(|n| insert(1 + n * 9)).collect();
    for edits in [deletions, insertions] {
        let [mut ours, mut theirs] = replicas();
        let update = theirs.edit(&edits, &mut String::new).unwrap().unwrap();
        let inspection = ours.inspect(&update).unwrap();
        let before = runs(&ours);
        ours.apply_update(&update).unwrap();
        let added = (runs(&ours) - before) * ITEM_BYTES;
        assert!(added >= 1_900 * ITEM_BYTES);
        let growth = added..added + added / 4;
        assert!(
            growth.contains(&inspection.growth),
            "{inspection:?}, {added}"
        );

        // The same text and the same edit in one update.
        let ([written, _], fresh) = (replicas(), document(3));
        let whole = crate::merge_updates(&[&written.encode_state(), &update]).unwrap();
        let inspection = fresh.inspect(&whole).unwrap();
        assert!(inspection.growth >= added, "{inspection:?}, {added}");
        // In the encoded state everything is split already.
        let inspection = fresh.inspect(&ours.encode_state()).unwrap();
        assert_eq!(inspection.splits, 0);
    }
}

#[test]
fn update_that_splits_too_many_runs_is_refused() {
    let deletions: Vec<Edit> = (0..1_000).map(|n| delete(1 + n * 8, 2 + n * 8)).collect();
    let [mut ours, mut theirs] = replicas();
    let before = ours.encode_state();
    let update = theirs.edit(&deletions, &mut String::new).unwrap().unwrap();
    let splits = 2_000;
    let mut limits = *ours.limits();
    limits.splits = splits - 1;
    ours.set_limits(limits);
    let refused = ours.inspect(&update);
    assert!(
        matches!(refused, Err(DecodeError::TooLarge { limit: 1_999, .. })),
        "{refused:?}"
    );
    assert_eq!(ours.encode_state(), before);
    // The first split divides the text into pieces.
    limits.splits = splits + splits / 4;
    ours.set_limits(limits);
    ours.inspect(&update).unwrap();
    // A document that has the deletions is not split by them.
    limits.splits = 0;
    theirs.set_limits(limits);
    theirs.inspect(&update).unwrap();
}

#[test]
fn deletion_of_whole_runs_takes_no_memory() {
    let [ours, mut theirs] = replicas();
    let update = theirs.edit(&[delete(0, 10_000)], &mut String::new).unwrap();
    let inspection = ours.inspect(&update.unwrap()).unwrap();
    assert_eq!((inspection.growth, inspection.splits), (0, 0));
}

/// What waits is charged to the participant that sent it, including what it takes when it no longer
/// waits.
#[test]
fn the_author_of_missing_operations_does_not_pay_for_what_waits_for_them() {
    let [mut ours, mut ana] = replicas();
    let mut eve = document(3);
    eve.apply_update(&ours.encode_state()).unwrap();
    // Ana's next edit, which Eve changes in a thousand places.
    let text = Edit::InsertText {
        id: "t".to_owned(),
        at: TextPosition::Utf16(5_000),
        text: "字".repeat(2_000),
        attributes: None,
    };
    let anas = ana.edit(&[text], &mut String::new).unwrap().unwrap();
    eve.apply_update(&anas).unwrap();
    let known = eve.state_vector();
    for at in (5_001..7_000).step_by(2) {
        let edits = [delete(at, at + 1), insert(at)];
        eve.edit(&edits, &mut String::new).unwrap();
        let item = json!({ "item": { "s": "é" } });
        eve.append_child(Target::Root, item, &mut || format!("ë{at}"))
            .unwrap();
    }
    let eves = eve.encode_diff(&known).unwrap();
    let memory = |document: &MeshDocument| {
        document.structure_bytes() + document.pending_bytes() + document.encode_state().len()
    };
    let before = memory(&ours);
    let inspection = ours.inspect(&eves).unwrap();
    ours.apply_update(&eves).unwrap();
    let waiting = memory(&ours);
    let counted = inspection.growth.max(inspection.waiting);
    // An estimate; it is less exact where pointers have 32 bits.
    assert!(
        waiting <= before + counted + counted / 4,
        "{before} + {counted}: {waiting}"
    );
    let growth = ours.inspect(&anas).unwrap().growth;
    assert!(growth < anas.len() + 20 * ITEM_BYTES, "{growth}");
    ours.apply_update(&anas).unwrap();
    assert!(!ours.has_gap());
    // The tables of a document grow by doubling.
    let after = memory(&ours);
    let most = waiting + growth + waiting / 3;
    assert!(after <= most, "{waiting} + {growth}: {after}");
}

//! The document's own client id: its use by another replica, and the end of its operations.

use serde_json::json;

use super::{counter, document};
use crate::document::{Edit, EditError, Position, Target, TextPosition};
use crate::test;
use crate::update::writer;

/// The largest clock.
const LAST: u32 = (1 << 31) - 1;

/// An update with a run of collected operations of a client, from a clock on.
fn collected(client: u64, clock: u32, length: u32) -> Vec<u8> {
    let mut update = vec![1, 1];
    writer::unsigned(&mut update, client);
    writer::unsigned(&mut update, clock.into());
    update.push(0);
    writer::unsigned(&mut update, length.into());
    update.push(0);
    update
}

fn insert(id: &str) -> Edit {
    Edit::Insert {
        parent: Target::Root,
        position: Position::Last,
        element: json!({ "item": { "$id": id, "children": [] } }),
    }
}

fn text(id: &str, text: &str) -> Edit {
    Edit::InsertText {
        id: id.to_owned(),
        at: TextPosition::Utf16(0),
        text: text.to_owned(),
        attributes: None,
    }
}

#[test]
fn shared_client_id_is_detected() {
    let mut author = document(7);
    let first = author
        .edit(&[insert("a")], &mut counter())
        .unwrap()
        .unwrap();
    let second = author
        .edit(&[insert("漢")], &mut counter())
        .unwrap()
        .unwrap();
    assert!(!author.is_client_id_shared());
    // The document's own operations come back.
    author.apply_update(&first).unwrap();
    author.apply_update(&author.encode_state()).unwrap();
    assert!(!author.is_client_id_shared());

    // Visible, pending, deleted, or a dependency of pending ones: another replica uses the id.
    let mut builder = document(9);
    builder.apply_update(&author.encode_state()).unwrap();
    let below = builder
        .edit(
            &[Edit::Insert {
                parent: Target::Id("漢".to_owned()),
                position: Position::Last,
                element: json!({ "item": { "$id": "b", "children": [] } }),
            }],
            &mut counter(),
        )
        .unwrap()
        .unwrap();
    let deletion = author.delete("a").unwrap().unwrap();
    for update in [&first, &second, &below, &deletion] {
        let mut other = document(7);
        assert!(!other.knows_client(7));
        other.apply_update(update).unwrap();
        assert!(other.is_client_id_shared(), "{update:?}");
        assert!(other.knows_client(7), "{update:?}");
        other.set_client_id(8);
        assert!(!other.is_client_id_shared());
        assert!(!other.knows_client(8));
    }
    let mut other = document(8);
    other.apply_update(&below).unwrap();
    assert!(!other.is_client_id_shared());
}

#[test]
fn insert_json_does_not_share_client_id() {
    let mut document = document(7);
    let json = json!({"doc": {"title": "🌿", "children": []}});
    document.insert_json(&json, &mut counter()).unwrap();
    assert!(!document.is_client_id_shared());
}

#[test]
fn edits_of_exhausted_client_change_nothing() {
    let mut document = document(7);
    document.remember_edits(true, 0);
    let seed = json!({ "text": { "$id": "t", "children": [{ "text": { "delta": [{ "insert": "漢🌿" }] } }] } });
    let seed = Edit::Insert {
        parent: Target::Root,
        position: Position::Last,
        element: seed,
    };
    document.edit(&[seed], &mut counter()).unwrap();
    let used = document.clocks().next().unwrap().1;
    let used = u32::try_from(used).unwrap();
    // Four operations are left.
    document
        .apply_update(&collected(7, used, LAST - used - 4))
        .unwrap();
    let (state, shown) = (document.encode_state(), document.to_json(true));
    for edits in [
        vec![text("t", "🌿🌿🌿")],
        vec![text("t", "ab"), text("t", "漢字字")],
        vec![insert("a"), insert("b"), insert("c")],
        vec![Edit::Move {
            id: "t".to_owned(),
            parent: Target::Root,
            position: Position::First,
        }],
    ] {
        let refused = document.edit(&edits, &mut counter());
        assert_eq!(refused, Err(EditError::ClientExhausted(7)), "{edits:?}");
        assert_eq!(document.encode_state(), state, "{edits:?}");
        assert_eq!(document.to_json(true), shown, "{edits:?}");
    }
    let patch = json!([{ "op": "add", "path": "/doc/children/-", "value": { "item": { "s": "x", "n": 1, "b": true, "children": [] } } }]);
    assert!(document.apply_patch(&patch, &mut counter()).is_err());
    assert_eq!(document.encode_state(), state);

    // The text fits exactly; deletions take no operations.
    document.edit(&[text("t", "🌿ab")], &mut counter()).unwrap();
    assert_eq!(document.clocks().next(), Some((7, LAST.into())));
    let state = document.encode_state();
    let refused = document.edit(&[text("t", "x")], &mut counter());
    assert_eq!(refused, Err(EditError::ClientExhausted(7)));
    assert_eq!(document.encode_state(), state);
    document.delete("t").unwrap();
    assert_eq!(document.element_count(), 0);
    // Undo needs operations, so the history stays.
    assert_eq!(document.undo(), None);
    assert!(document.can_undo());

    // Another id can continue.
    document.set_client_id((1 << 53) - 1);
    assert!(document.undo().is_some());
    assert!(document.node("t").is_some());
    document.edit(&[insert("a")], &mut counter()).unwrap();
}

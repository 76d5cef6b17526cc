//! Undo and redo.

use serde_json::json;

use super::convergence::Random;
use super::{counter, document};
use crate::document::{Edit, MeshDocument, Position, Target, TextPosition};
use crate::test;

fn sample() -> MeshDocument {
    let mut document = document(1);
    let json = json!({"doc": {"title": "T", "children": [
        {"item": {"$id": "a", "s": "x", "children": [{"item": {"$id": "b", "n": 1}}]}},
        {"item": {"$id": "c"}},
        {"text": {"$id": "t", "children": [{"text": {"delta": [
            {"insert": "one "}, {"insert": "two", "attributes": {"bold": true}}, {"insert": " 😀"},
        ]}}]}},
    ]}});
    document.insert_json(&json, &mut counter()).unwrap();
    document
}

fn random_edit(document: &MeshDocument, random: &mut Random, serial: &mut usize) -> Edit {
    let mut items = Vec::new();
    let mut texts = Vec::new();
    let mut stack: Vec<_> = document.root().children().collect();
    while let Some(element) = stack.pop() {
        let list = if element.tag() == "text" {
            &mut texts
        } else {
            &mut items
        };
        list.push(element.id().unwrap().to_owned());
        stack.extend(element.children());
    }
    items.sort();
    let item = |random: &mut Random| match items.len() {
        0 => None,
        count => Some(items[random.below(count)].clone()),
    };
    let target = item(random).map_or(Target::Root, Target::Id);
    match (random.below(8), item(random), texts.first()) {
        (0, Some(id), _) => Edit::Delete { id },
        (1 | 2, Some(id), _) => Edit::SetAttribute {
            target: Target::Id(id),
            name: "n".into(),
            value: random.below(5).into(),
        },
        (3, Some(id), _) => Edit::Move {
            id,
            parent: target,
            position: Position::Last,
        },
        (kind @ 4..7, _, Some(text)) => {
            let plain = document.node(text).unwrap().text().unwrap().to_plain();
            let length = plain.chars().count();
            let from = random.below(length + 1);
            let to = from + random.below(length - from + 1);
            let (id, from, to) = (
                text.clone(),
                TextPosition::Scalars(from),
                TextPosition::Scalars(to),
            );
            match kind {
                4 => Edit::InsertText {
                    id,
                    at: from,
                    text: ["x", "😀y"][random.below(2)].into(),
                    attributes: (random.below(2) == 0).then(serde_json::Map::new),
                },
                5 => Edit::DeleteText { id, from, to },
                _ => Edit::FormatText {
                    id,
                    from,
                    to,
                    attributes: json!({"bold": random.below(2) == 0})
                        .as_object()
                        .unwrap()
                        .clone(),
                },
            }
        }
        _ => {
            *serial += 1;
            let name = format!("n{serial}");
            Edit::Insert {
                parent: target,
                position: Position::First,
                element: json!({"item": {"$id": name}}),
            }
        }
    }
}

#[test]
fn undo_and_redo_restore_states() {
    for seed in 0..150 {
        let mut random = Random::new(seed);
        let mut ours = sample();
        let mut other = document(2);
        other.apply_update(&ours.encode_state()).unwrap();
        ours.remember_edits(true, 0);
        let mut states = vec![ours.to_json(true)];
        let mut serial = 0;
        for _ in 0..12 {
            let edit = random_edit(&ours, &mut random, &mut serial);
            // A move into itself is rejected, and an empty range is not an edit.
            if let Ok(Some(update)) = ours.edit(&[edit], &mut counter()) {
                other.apply_update(&update).unwrap();
            }
            if ours.to_json(true) != states[states.len() - 1] {
                states.push(ours.to_json(true));
            }
        }
        for _ in 0..2 {
            while ours.can_undo() {
                if let Some(update) = ours.undo() {
                    other.apply_update(&update).unwrap();
                }
            }
            assert_eq!(ours.to_json(true), states[0], "seed {seed}");
            assert_eq!(other.to_json(true), states[0], "seed {seed}");
            while ours.can_redo() {
                if let Some(update) = ours.redo() {
                    other.apply_update(&update).unwrap();
                }
            }
            let last = &states[states.len() - 1];
            assert_eq!(ours.to_json(true), *last, "seed {seed}");
            assert_eq!(other.to_json(true), *last, "seed {seed}");
        }
    }
}

#[test]
fn undo_keeps_changes_of_others() {
    let mut ours = sample();
    let mut other = document(2);
    other.apply_update(&ours.encode_state()).unwrap();
    ours.remember_edits(true, 100);
    let insert = |at, text: &str| Edit::InsertText {
        id: "t".into(),
        at: TextPosition::Scalars(at),
        text: text.into(),
        attributes: Some(serde_json::Map::new()),
    };
    let set = |id: &str, value: &str| Edit::SetAttribute {
        target: Target::Id(id.into()),
        name: "s".into(),
        value: value.into(),
    };
    // Two transactions within the window: one group.
    ours.set_time(1_000);
    let first = ours
        .edit(&[insert(0, "mine "), set("a", "mine")], &mut counter())
        .unwrap()
        .unwrap();
    ours.set_time(1_050);
    let second = ours
        .edit(&[set("c", "mine")], &mut counter())
        .unwrap()
        .unwrap();
    other.apply_update(&first).unwrap();
    other.apply_update(&second).unwrap();
    let theirs = other.edit(&[insert(2, "THEIRS"), set("c", "theirs")], &mut counter());
    ours.apply_update(&theirs.unwrap().unwrap()).unwrap();

    let undone = ours.undo().unwrap();
    assert!(!ours.can_undo() && ours.can_redo());
    other.apply_update(&undone).unwrap();
    for document in [&ours, &other] {
        let text = document.node("t").unwrap().text().unwrap().to_plain();
        assert_eq!(text, "THEIRSone two 😀");
        assert_eq!(document.node("a").unwrap().attribute("s"), Some("x".into()));
        assert_eq!(
            document.node("c").unwrap().attribute("s"),
            Some("theirs".into())
        );
    }
    ours.set_time(9_000);
    ours.edit(&[set("a", "later")], &mut counter()).unwrap();
    assert!(!ours.can_redo());
}

#[test]
fn no_op_edits_leave_history_unchanged() {
    let mut document = sample();
    document.remember_edits(true, 0);
    let title = |document: &mut MeshDocument, value: &str| {
        let edit = document.set_attribute(Target::Root, "title", value.into());
        edit.unwrap();
    };
    let text = |from, to| (TextPosition::Scalars(from), TextPosition::Scalars(to));
    title(&mut document, "T");
    let (from, to) = text(4, 7);
    let bold = json!({"bold": true}).as_object().unwrap().clone();
    for edit in [
        Edit::FormatText {
            id: "t".into(),
            from,
            to,
            attributes: bold,
        },
        Edit::DeleteText {
            id: "t".into(),
            from,
            to: from,
        },
        Edit::InsertText {
            id: "t".into(),
            at: from,
            text: String::new(),
            attributes: None,
        },
    ] {
        document.edit(&[edit], &mut counter()).unwrap();
    }
    assert!(!document.can_undo(), "nothing was changed");

    title(&mut document, "größer");
    document.undo().unwrap();
    title(&mut document, "T");
    assert!(document.can_redo(), "a no-op edit keeps the redo");
    document.redo().unwrap();
    assert_eq!(document.root().attribute("title"), Some("größer".into()));
}

#[test]
fn undo_skips_edits_overridden_by_others() {
    let mut document = sample();
    document.remember_edits(true, 0);
    let title = |document: &mut MeshDocument, value: &str| {
        let edit = document.set_attribute(Target::Root, "title", value.into());
        edit.unwrap();
    };
    title(&mut document, "eins");
    let id = || "a".to_owned();
    let name = "n".to_owned();
    for value in 0..3 {
        let edit = Edit::SetAttribute {
            target: Target::Id(id()),
            name: name.clone(),
            value: value.into(),
        };
        document.edit(&[edit], &mut counter()).unwrap();
    }
    // Another replica deletes the element.
    let mut other = self::document(2);
    other.apply_update(&document.encode_state()).unwrap();
    let gone = other.delete("a").unwrap().unwrap();
    document.apply_update(&gone).unwrap();
    assert!(document.undo().is_some(), "the first edit can be undone");
    assert_eq!(document.root().attribute("title"), Some("T".into()));
    assert!(document.undo().is_none());
}

#[test]
fn undo_history_is_bounded() {
    let mut document = sample();
    let limits = *document.limits();
    document.set_limits(crate::Limits {
        undo_bytes: 20_000,
        ..limits
    });
    document.remember_edits(true, 0);
    for number in 0..100 {
        let value = format!("{number} {}", "漢字".repeat(100));
        let edit = document.set_attribute(Target::Root, "title", value.into());
        edit.unwrap();
        assert!(document.undo_bytes() <= 20_000);
    }
    let undone = std::iter::from_fn(|| document.undo()).count();
    assert!((5..50).contains(&undone), "{undone}");
    // Undone edits can be redone, and their memory is counted once.
    assert!(document.undo_bytes() <= 20_000);
    let redone = std::iter::from_fn(|| document.redo()).count();
    assert_eq!(redone, undone);
    document.remember_edits(false, 0);
    assert_eq!(document.undo_bytes(), 0);
}

#[test]
fn history_that_is_taken_over_is_bounded() {
    let mut before = sample();
    before.remember_edits(true, 0);
    for number in 0..100 {
        let value = format!("{number} {}", "漢字".repeat(100));
        let edit = before.set_attribute(Target::Root, "title", value.into());
        edit.unwrap();
    }
    assert!(before.undo_bytes() > 20_000);
    let mut after = document(2);
    after.apply_update(&before.encode_state()).unwrap();
    let limits = *after.limits();
    after.set_limits(crate::Limits {
        undo_bytes: 20_000,
        ..limits
    });
    after.take_over_undo(&mut before, &crate::Remade::default(), |_| false);
    assert!(after.undo_bytes() <= 20_000);
    assert!(after.undo().is_some());
}

#[test]
fn undo_of_format_is_limited_to_its_range() {
    let mut document = sample();
    document.remember_edits(true, 0);
    let before = document.to_json(true);
    let format = |from, to, attributes: serde_json::Value| Edit::FormatText {
        id: "t".into(),
        from: TextPosition::Utf16(from),
        to: TextPosition::Utf16(to),
        attributes: attributes.as_object().unwrap().clone(),
    };
    let mut states = vec![before];
    for edit in [
        format(0, 10, json!({"bold": true})),
        format(2, 6, json!({"bold": null, "color": "grün"})),
        format(5, 8, json!({"color": null})),
        Edit::DeleteText {
            id: "t".into(),
            from: TextPosition::Utf16(3),
            to: TextPosition::Utf16(10),
        },
    ] {
        document.edit(&[edit], &mut counter()).unwrap();
        states.push(document.to_json(true));
    }
    while let Some(state) = states.pop() {
        assert_eq!(document.to_json(true), state);
        document.undo();
    }
}

/// Like an editor that sends a whole page as one delta, and like an author who formats word
/// by word.
#[test]
fn cost_of_sequential_edits_is_their_distance() {
    let passed = |operations: usize| {
        let mut document = sample();
        document.remember_edits(true, 0);
        let bold = |number: usize| json!({"bold": number.is_multiple_of(2).then_some(true)});
        let delta: Vec<_> = (0..operations)
            .map(|number| json!({"insert": "größe ", "attributes": bold(number)}))
            .collect();
        crate::engine::passed::reset();
        let id = || "t".to_owned();
        let delta = Edit::ApplyDelta {
            id: id(),
            delta: delta.into(),
        };
        document.edit(&[delta], &mut counter()).unwrap();
        let formats: Vec<_> = (0..operations)
            .map(|number| Edit::FormatText {
                id: id(),
                from: TextPosition::Utf16(number * 6),
                to: TextPosition::Utf16(number * 6 + 4),
                attributes: json!({"italic": true}).as_object().unwrap().clone(),
            })
            .collect();
        document.edit(&formats, &mut counter()).unwrap();
        crate::engine::passed::count()
    };
    let (few, many) = (passed(50), passed(500));
    assert!(many <= few * 12, "{few} items passed, then {many}");
}

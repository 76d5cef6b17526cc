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
fn undo_leads_back_and_redo_forth() {
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
            // A move into itself is refused, and an empty range is no edit.
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
fn what_others_did_stays() {
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
    // Two transactions, close in time: one group.
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

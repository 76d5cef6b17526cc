//! Edits replayed without some of the edits before them.

use serde_json::{Value, json};

use super::convergence::Random;
use super::{counter, document};
use crate::document::{Edit, MeshDocument, Position, Remade, RemakeError, Target, TextPosition};
use crate::test;

/// The content that every replica starts with.
fn base() -> Vec<u8> {
    let mut document = document(9);
    let json = json!({"doc": {"title": "T", "children": [
        {"item": {"$id": "a", "s": "x"}},
        {"item": {"$id": "c"}},
        {"text": {"$id": "t", "children": [{"text": {"delta": [{"insert": "grün 🌿 "}]}}]}},
    ]}});
    document.insert_json(&json, &mut counter()).unwrap();
    document.encode_state()
}

fn replica(client: u64) -> MeshDocument {
    let mut document = document(client);
    document.apply_update(&base()).unwrap();
    document
}

fn insert(id: &str, parent: Target, position: Position) -> Edit {
    Edit::Insert {
        parent,
        position,
        element: json!({ "item": { "$id": id } }),
    }
}

fn set(id: &str, value: &str) -> Edit {
    Edit::SetAttribute {
        target: Target::Id(id.to_owned()),
        name: "s".to_owned(),
        value: value.into(),
    }
}

fn text(at: usize, text: &str) -> Edit {
    Edit::InsertText {
        id: "t".to_owned(),
        at: TextPosition::Utf16(at),
        text: text.to_owned(),
        attributes: None,
    }
}

fn edit(document: &mut MeshDocument, edit: Edit) -> Vec<u8> {
    document.edit(&[edit], &mut String::new).unwrap().unwrap()
}

fn plain(document: &MeshDocument) -> String {
    document.node("t").unwrap().text().unwrap().to_plain()
}

#[test]
fn replay_skips_edits_that_depend_on_missing_ones() {
    let mut before = replica(1);
    let edits = [
        insert("lost", Target::Root, Position::Last),
        // Next to the lost edit, inside it, over its value, and unrelated.
        insert("next", Target::Root, Position::Last),
        insert("in", Target::Id("lost".to_owned()), Position::Last),
        set("a", "eins"),
        set("a", "zwei"),
        text(0, "漢字"),
        Edit::Delete {
            id: "next".to_owned(),
        },
        Edit::Delete {
            id: "lost".to_owned(),
        },
        Edit::Delete { id: "c".to_owned() },
    ];
    let updates = edits.map(|one| edit(&mut before, one));
    let mut again = replica(2);
    let mut other = replica(3);
    let mut remade = Remade::default();
    remade.leave_out(&updates[0]).unwrap();
    assert!(remade.concerns(&updates[1]).unwrap());
    let mut outcomes = Vec::new();
    for update in &updates[1..] {
        let made = again.remake(update, &before, &mut remade);
        if let Ok(Some(update)) = &made {
            other.apply_update(update).unwrap();
            assert!(!other.has_gap());
        }
        outcomes.push(made.map(|made| made.is_some()));
    }
    let missing = || Err(RemakeError::Missing);
    assert_eq!(
        outcomes,
        [
            Ok(true),
            missing(),
            Ok(true),
            Ok(true),
            Ok(true),
            Ok(true),
            Ok(false),
            Ok(true),
        ]
    );
    assert_eq!(again.to_json(true), before.to_json(true));
    assert_eq!(again.to_json(true), other.to_json(true));
    assert!(!again.is_client_id_shared());
}

#[test]
fn replay_overwrites_value_without_lost_one() {
    let mut before = replica(1);
    let [lost, next] = ["eins", "zwei"].map(|value| edit(&mut before, set("a", value)));
    let mut again = replica(2);
    let mut remade = Remade::default();
    remade.leave_out(&lost).unwrap();
    let made = again.remake(&next, &before, &mut remade).unwrap().unwrap();
    assert_eq!(again.node("a").unwrap().attribute("s"), Some("zwei".into()));
    let mut other = replica(3);
    other.apply_update(&made).unwrap();
    assert_eq!(other.to_json(true), again.to_json(true));
}

#[test]
fn replay_keeps_text_around_missing_run() {
    let mut before = replica(1);
    // Three runs that the engine joins, and a fourth within the lost one.
    let updates = [text(5, "ab"), text(7, "LOST"), text(11, "yz"), text(9, "é")]
        .map(|one| edit(&mut before, one));
    assert_eq!(plain(&before), "grün abLOéSTyz🌿 ");
    let mut again = replica(2);
    let mut remade = Remade::default();
    for (index, update) in updates.iter().enumerate() {
        if index == 1 {
            remade.leave_out(update).unwrap();
        } else {
            again.remake(update, &before, &mut remade).unwrap().unwrap();
        }
    }
    assert_eq!(plain(&again), "grün abéyz🌿 ");
}

#[test]
fn undo_works_after_replay() {
    let mut before = replica(1);
    before.remember_edits(true, 0);
    let edits = [
        text(5, "one "),
        text(9, "LOST "),
        set("a", "neu"),
        Edit::DeleteText {
            id: "t".to_owned(),
            from: TextPosition::Utf16(0),
            to: TextPosition::Utf16(2),
        },
        insert("i", Target::Root, Position::First),
    ];
    let mut updates = Vec::new();
    for (mark, one) in (1..).zip(edits) {
        before.mark_edits(mark);
        updates.push(edit(&mut before, one));
    }
    let mut again = replica(2);
    let mut remade = Remade::default();
    // The second and the fourth.
    for (index, update) in updates.iter().enumerate() {
        if index % 2 == 1 {
            remade.leave_out(update).unwrap();
        } else {
            again.remake(update, &before, &mut remade).unwrap().unwrap();
        }
    }
    again.take_over_undo(&mut before, &remade, |mark| mark % 2 == 0);
    assert_eq!(plain(&again), "grün one 🌿 ");
    assert!(again.undo().is_some());
    assert!(again.node("i").is_none());
    assert!(again.undo().is_some());
    assert_eq!(again.node("a").unwrap().attribute("s"), Some("x".into()));
    assert!(again.undo().is_some());
    assert_eq!(plain(&again), "grün 🌿 ");
    assert_eq!(again.undo(), None);
    assert!(again.redo().is_some());
    assert_eq!(plain(&again), "grün one 🌿 ");
}

#[test]
fn fill_in_hides_pending_operations() {
    let mut before = replica(1);
    let _lost = edit(&mut before, insert("lost", Target::Root, Position::Last));
    let next = edit(&mut before, insert("next", Target::Root, Position::Last));
    let mut server = replica(3);
    server.apply_update(&next).unwrap();
    assert!(server.has_gap());
    let end = before.clocks().find(|(client, _)| *client == 1).unwrap().1;
    let mut again = replica(2);
    let filled = again.fill_in(1, end).unwrap();
    assert_eq!(again.fill_in(1, end), None);
    let applied = server.apply_update(&filled).unwrap();
    assert!(!applied.gap && !server.has_gap());
    assert_eq!(server.to_json(true), replica(4).to_json(true));
    // Late originals are already known.
    assert_eq!(server.apply_update(&next).unwrap().visible, None);
    assert_eq!(again.state_vector(), server.state_vector());
}

fn random(document: &MeshDocument, random: &mut Random, serial: &mut usize) -> Edit {
    let items: Vec<String> = document
        .root()
        .children()
        .filter(|child| child.tag() == "item")
        .filter_map(|child| child.id().map(str::to_owned))
        .collect();
    let item = match items.len() {
        0 => None,
        count => Some(items[random.below(count)].clone()),
    };
    let units = plain(document).encode_utf16().count();
    *serial += 1;
    match (random.below(8), item) {
        (0, Some(id)) => Edit::Delete { id },
        (1, Some(id)) => Edit::Move {
            id,
            parent: Target::Root,
            position: Position::Index(random.below(3)),
        },
        (2, Some(id)) => set(&id, &serial.to_string()),
        (3, Some(id)) => insert(&serial.to_string(), Target::Id(id), Position::First),
        (4, _) if units > 0 => {
            let from = random.below(units);
            Edit::DeleteText {
                id: "t".to_owned(),
                from: TextPosition::Utf16(from),
                to: TextPosition::Utf16(units.min(from + 2)),
            }
        }
        (5 | 6, _) => text(random.below(units + 1), "äb"),
        (_, _) => insert(
            &serial.to_string(),
            Target::Root,
            Position::Index(random.below(3)),
        ),
    }
}

#[test]
fn replayed_random_edits_give_same_document() {
    for seed in 0..200 {
        let mut dice = Random::new(seed);
        let mut before = replica(1);
        let mut serial = 0;
        let updates: Vec<Vec<u8>> = (0..30)
            .filter_map(|_| {
                let one = random(&before, &mut dice, &mut serial);
                before.edit(&[one], &mut String::new).ok().flatten()
            })
            .collect();
        let (mut whole, mut remade) = (replica(2), Remade::default());
        for update in &updates {
            whole.remake(update, &before, &mut remade).unwrap();
        }
        assert_eq!(whole.to_json(true), before.to_json(true), "seed {seed}");

        // Some edits are left out: a replica with the replayed updates is equal.
        let (mut again, mut other, mut remade) = (replica(2), replica(3), Remade::default());
        let mut lost: Vec<Value> = Vec::new();
        for update in &updates {
            if dice.below(5) == 0 {
                remade.leave_out(update).unwrap();
                continue;
            }
            match again.remake(update, &before, &mut remade) {
                Ok(Some(update)) => {
                    other.apply_update(&update).unwrap();
                }
                Ok(None) => {}
                Err(error) => lost.push(error.to_string().into()),
            }
        }
        assert!(!other.has_gap(), "seed {seed}");
        assert_eq!(again.to_json(true), other.to_json(true), "seed {seed}");
    }
}

//! What a replica lacks apart from certain edits: content that ends where these begin.

use super::compact::{assert_equal, edit};
use super::convergence::Random;
use super::{counter, document};
use crate::document::MeshDocument;
use crate::test;
use crate::{Edit, MeshSchema, Position, Target, TextPosition};
use serde_json::json;

fn at<'a>(template: &MeshDocument, updates: impl IntoIterator<Item = &'a Vec<u8>>) -> MeshDocument {
    let mut document = MeshDocument::new(template.schema().clone(), 99);
    for update in updates {
        document.apply_update(update).unwrap();
    }
    document
}

fn ids(document: &MeshDocument) -> Vec<String> {
    let children = document.root().children();
    children
        .filter_map(|child| child.id().map(str::to_owned))
        .collect()
}

#[test]
fn run_of_text_is_cut_where_an_edit_begins() {
    let mut ours = document(1);
    let mut id = counter();
    let mut updates = Vec::new();
    let text = json!({ "text": { "$id": "t", "lang": "de" } });
    updates.extend(ours.append_child(Target::Root, text, &mut id).unwrap());
    let parts = ["grün", "🌿🌿", "茶", "é"].into_iter().cycle();
    let mut length = 0;
    for part in parts.take(12) {
        let insert = Edit::InsertText {
            id: "t".to_owned(),
            at: TextPosition::Scalars(length),
            text: part.to_owned(),
            attributes: None,
        };
        updates.extend(ours.edit(&[insert], &mut id).unwrap());
        length += part.chars().count();
    }
    for known in 0..updates.len() {
        for end in known..=updates.len() {
            let without: Vec<&[u8]> = updates[end..].iter().map(Vec::as_slice).collect();
            for (waiting, refused) in [
                (&without[..], &[][..]),
                (&[], &without[..1.min(without.len())]),
            ] {
                let mut theirs = at(&ours, &updates[..known]);
                let lacking = ours.encode_diff_without(&theirs, waiting, refused).unwrap();
                assert_eq!(lacking.is_some(), end > known, "{known} {end}");
                if let Some(lacking) = lacking {
                    theirs.apply_update(&lacking).unwrap();
                }
                assert_equal(&theirs, &at(&ours, &updates[..end]), 0);
            }
            // Later operations of the client say that these are there.
            let Some((_last, waiting)) = without.split_last() else {
                continue;
            };
            let mut theirs = at(&ours, &updates[..known]);
            let lacking = ours.encode_diff_without(&theirs, waiting, &[]).unwrap();
            theirs.apply_update(&lacking.unwrap()).unwrap();
            assert_equal(&theirs, &ours, 0);
        }
    }
}

#[test]
fn deletions_by_left_out_edits_are_left_out() {
    let schema = MeshSchema::builtin("document").unwrap();
    let mut lacking = 0;
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let mut serial = 0;
        let mut ours = MeshDocument::new(schema.clone(), 1);
        let mut updates: Vec<Vec<u8>> = Vec::new();
        for _ in 0..=random.below(20) {
            updates.extend(edit(&mut ours, &mut random, &mut serial));
        }
        let known = random.below(updates.len() + 1);
        let before = at(&ours, &updates);
        let mut theirs = at(&ours, &updates[..known]);
        let mut later = Vec::new();
        for number in 0..random.below(5) {
            let element = json!({ "body": { "$id": format!("später {number}"), "text": "🌿" } });
            let insert = Edit::Insert {
                parent: Target::Root,
                position: Position::First,
                element,
            };
            later.extend(ours.edit(&[insert], &mut counter()).unwrap());
        }
        // An element that the other one already has. What it lacks inside of it is gone.
        let first = theirs.root().children().next();
        let first = first.and_then(|one| one.id().map(str::to_owned));
        let deleted = first.and_then(|id| ours.delete(&id).ok().flatten());
        let is_deleted = deleted.is_some();
        later.extend(deleted);
        let without: Vec<&[u8]> = later.iter().map(Vec::as_slice).collect();
        let missing = ours.encode_diff_without(&theirs, &without, &[]).unwrap();
        let has_missing = missing.is_some();
        lacking += usize::from(has_missing);
        if let Some(missing) = missing {
            theirs.apply_update(&missing).unwrap();
        }
        assert_eq!(ids(&theirs), ids(&before), "seed {seed}");
        if !is_deleted && has_missing {
            assert_equal(&theirs, &before, seed);
        } else if !is_deleted {
            // Operations without content may still be missing.
            assert_eq!(theirs.to_json(true), before.to_json(true), "seed {seed}");
        }
    }
    assert!(lacking > 50, "{lacking}");
}

//! Compacted updates have the same effect on a replica as the original ones.

use super::convergence::Random;
use crate::document::MeshDocument;
use crate::test;
use crate::{Edit, MeshSchema, Position, Target};
use serde_json::json;

fn document(client_id: u64) -> MeshDocument {
    MeshDocument::new(MeshSchema::builtin("document").unwrap(), client_id)
}

/// Asserts that two documents have the same operations and deletions.
#[track_caller]
pub(super) fn assert_equal(one: &MeshDocument, other: &MeshDocument, seed: u64) {
    assert_eq!(one.to_json(true), other.to_json(true), "seed {seed}");
    for (here, there) in [(one, other), (other, one)] {
        let state = there.encode_state();
        let is_covered = here.is_covered_by(&there.state_vector(), &[&state]);
        assert!(is_covered.unwrap(), "seed {seed}");
    }
}

pub(super) fn edit(
    document: &mut MeshDocument,
    random: &mut Random,
    serial: &mut u32,
) -> Option<Vec<u8>> {
    let ids: Vec<String> = document
        .root()
        .children()
        .filter_map(|child| child.id().map(str::to_owned))
        .collect();
    *serial += 1;
    let name = format!("{serial} 🌿");
    let edit = match (random.below(8), ids.get(random.below(ids.len().max(1)))) {
        (0, Some(id)) => Edit::Delete { id: id.clone() },
        (1..=5, Some(id)) => Edit::SetAttribute {
            target: Target::Id(id.clone()),
            name: "text".to_owned(),
            value: name.into(),
        },
        _ => Edit::Insert {
            parent: Target::Root,
            position: Position::First,
            element: json!({ "body": { "text": name } }),
        },
    };
    let client = document.client_id();
    let mut ids = 0;
    let edited = document.edit(&[edit], &mut || {
        ids += 1;
        format!("{client}-{serial}-{ids}")
    });
    edited.unwrap()
}

#[test]
fn compacted_updates_have_same_effect() {
    let (mut merged, mut alone) = (0, 0);
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let mut serial = 0;
        let mut ours = document(1);
        let mut theirs = document(2);
        for _ in 0..random.below(6) {
            edit(&mut ours, &mut random, &mut serial);
        }
        theirs.apply_update(&ours.encode_state()).unwrap();
        let before = theirs.encode_state();
        let mut updates = Vec::new();
        for _ in 0..2 + random.below(40) {
            updates.extend(edit(&mut ours, &mut random, &mut serial));
            // Other replicas edit meanwhile.
            if random.below(8) == 0 {
                let update = edit(&mut theirs, &mut random, &mut serial);
                ours.apply_update(&update.unwrap_or_default()).ok();
            }
        }
        let slices: Vec<&[u8]> = updates.iter().map(|update| &update[..]).collect();
        let Some((skipped, compacted)) = ours.compact_updates(&slices).unwrap() else {
            alone += 1;
            continue;
        };
        merged += 1;
        let long: usize = slices[skipped..].iter().map(|update| update.len()).sum();
        assert!(
            compacted.len() <= long,
            "seed {seed}: {} of {long}",
            compacted.len()
        );
        for start in [theirs.encode_state(), before] {
            let (mut one_by_one, mut at_once) = (document(3), document(4));
            for replica in [&mut one_by_one, &mut at_once] {
                replica.apply_update(&start).unwrap();
                for update in &slices[..skipped] {
                    replica.apply_update(update).unwrap();
                }
            }
            for update in &slices[skipped..] {
                one_by_one.apply_update(update).unwrap();
            }
            at_once.apply_update(&compacted).unwrap();
            // Their dependencies may come last.
            for replica in [&mut one_by_one, &mut at_once] {
                replica.apply_update(&theirs.encode_state()).unwrap();
            }
            assert_equal(&at_once, &one_by_one, seed);
            // For a replica with the parts, the compacted update has nothing new.
            one_by_one.apply_update(&compacted).unwrap();
            assert_equal(&at_once, &one_by_one, seed);
        }
    }
    assert!(merged > 100 && alone > 0, "{merged} merged, {alone} not");
}

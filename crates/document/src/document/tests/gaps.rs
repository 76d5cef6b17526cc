//! Updates that arrive before their dependencies.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::{document, golden};
use crate::test;
use crate::update::UpdateKind;

fn updates() -> Vec<Vec<u8>> {
    let golden = golden();
    let steps = golden["npm"]["elements"]["steps"].as_array().unwrap();
    let updates = steps
        .iter()
        .flat_map(|step| step["updates"].as_array().unwrap());
    updates
        .map(|update| STANDARD.decode(update.as_str().unwrap()).unwrap())
        .collect()
}

#[test]
fn pending_operations_become_visible_when_gap_closes() {
    let updates = updates();
    let mut whole = document(1);
    for update in &updates {
        whole.apply_update(update).unwrap();
    }
    let mut ours = document(2);
    ours.apply_update(&updates[0]).unwrap();
    let before = (ours.encode_state(), ours.state_vector(), ours.to_json(true));
    // The last update deletes a known operation, so a part of it can be applied.
    let (last, updates) = updates.split_last().unwrap();
    for update in &updates[2..] {
        assert_eq!(ours.classify(update), Ok(UpdateKind::Gap));
        let applied = ours.apply_update(update).unwrap();
        assert!(applied.gap);
        assert_eq!(applied.visible, None);
        assert!(ours.has_gap());
    }
    assert_eq!(
        (ours.encode_state(), ours.state_vector(), ours.to_json(true)),
        before
    );
    assert_eq!(ours.encode_diff(&[0]).unwrap(), before.0);

    // Pending operations survive a restart.
    let mut restarted = document(3);
    restarted.apply_update(&ours.encode_state()).unwrap();
    let applied = restarted
        .apply_update(&ours.encode_pending().unwrap())
        .unwrap();
    assert_eq!((applied.visible, applied.gap), (None, true));
    assert_eq!(restarted.encode_pending(), ours.encode_pending());

    // A reader with the first update gets all others in one.
    let mut reader = document(4);
    reader.apply_update(&updates[0]).unwrap();
    let applied = restarted.apply_update(&updates[1]).unwrap();
    assert!(!applied.gap && !restarted.has_gap());
    assert!(!reader.apply_update(&applied.visible.unwrap()).unwrap().gap);
    for document in [&mut restarted, &mut reader] {
        assert!(!document.apply_update(last).unwrap().gap);
        assert_eq!(document.to_json(true), whole.to_json(true));
        assert_eq!(document.state_vector(), whole.state_vector());
    }
    assert_eq!(restarted.encode_pending(), None);
}

#[test]
fn applicable_part_becomes_visible() {
    let mut author = document(9);
    author
        .insert_json(&json!({"doc": {"title": "a"}}), &mut super::counter())
        .unwrap();
    let fits = author.encode_state();
    let waits = &updates()[3];
    let both = crate::merge_updates(&[&fits, waits]).unwrap();
    let mut ours = document(1);
    assert_eq!(ours.classify(&both), Ok(UpdateKind::Gap));
    let applied = ours.apply_update(&both).unwrap();
    assert!(applied.gap);
    assert_eq!(applied.visible, Some(fits.clone()));
    assert_eq!(ours.encode_state(), fits);
    // Deletions can be pending, too.
    let mut ours = document(1);
    let updates = updates();
    let applied = ours.apply_update(updates.last().unwrap()).unwrap();
    assert_eq!((applied.visible, applied.gap), (None, true));
    for update in &updates[..updates.len() - 1] {
        ours.apply_update(update).unwrap();
    }
    assert!(!ours.has_gap());
    assert_eq!(ours.element_count(), 2);
}

#[test]
fn diff_for_vector_ahead_is_empty() {
    let updates = updates();
    let mut ahead = document(1);
    let mut behind = document(2);
    for update in &updates {
        ahead.apply_update(update).unwrap();
    }
    behind.apply_update(&updates[0]).unwrap();
    let diff = behind.encode_diff(&ahead.state_vector()).unwrap();
    assert_eq!(ahead.classify(&diff), Ok(UpdateKind::Empty));
    let diff = ahead.encode_diff(&behind.state_vector()).unwrap();
    behind.apply_update(&diff).unwrap();
    assert_eq!(behind.to_json(true), ahead.to_json(true));
}

#[test]
fn misplaced_pending_operation_is_collected_alone() {
    let mut ours = document(7);
    // A child of an attribute's value, and an element after one that is still missing.
    let misplaced = [1, 1, 2, 0, 7, 0, 1, 0, 3, 1, b'x', 0];
    let sound = [1, 1, 3, 0, 0x87, 1, 1, 3, 4, b'i', b't', b'e', b'm', 0];
    for update in [&misplaced[..], &sound] {
        let applied = ours.apply_update(update).unwrap();
        assert!(applied.gap && applied.visible.is_none() && applied.misplaced == 0);
    }
    let missing = [
        &[1, 2, 1, 0, 0x28, 1, 14][..],
        b"xml.attributes",
        &[1, b'k', 1, 126],
        &[7, 1, 3, b'x', b'm', b'l', 3, 4, b'i', b't', b'e', b'm', 0],
    ];
    let applied = ours.apply_update(&missing.concat()).unwrap();
    assert_eq!(applied.misplaced, 1);
    assert!(!applied.gap && !ours.has_gap());
    assert_eq!(ours.element_count(), 2);
    let mut other = document(8);
    other.apply_update(&applied.visible.unwrap()).unwrap();
    assert_eq!(other.to_json(true), ours.to_json(true));
    assert_eq!(other.encode_state(), ours.encode_state());
}

/// An operation between neighbours of different elements, and the two other ways to have no place.
#[test]
fn misplaced_operations_are_collected_in_merged_updates_too() {
    let base = [
        &[1, 3, 1, 0, 7, 1, 3][..],
        b"xml",
        &[3, 4],
        b"body",
        &[0x27, 0, 1, 0, 1, b'k', 6, 0x28, 0, 1, 0, 1, b'v', 1, 126, 0],
    ]
    .concat();
    // Between the element and its attribute, below the value of an attribute, formatting as
    // an attribute.
    let misplaced: [&[u8]; 3] = [
        &[
            1, 1, 2, 0, 0xc7, 1, 0, 1, 1, 3, 4, b'b', b'o', b'd', b'y', 0,
        ],
        &[1, 1, 2, 0, 7, 0, 1, 2, 3, 4, b'b', b'o', b'd', b'y', 0],
        &[1, 1, 2, 0, 0x26, 0, 1, 0, 1, b'k', 1, b'b', 1, b'1', 0],
    ];
    // An operation that depends on it, and the deletion of the element.
    let behind = [1, 1, 3, 0, 0x87, 2, 0, 3, 4, b'b', b'o', b'd', b'y', 0];
    let deletion = [0, 1, 1, 1, 0, 1];
    for one in misplaced {
        let mut gate = document(7);
        gate.apply_update(&base).unwrap();
        let before = gate.encode_state();
        let refused = gate.apply_placed_update(one);
        assert!(matches!(refused, Err(crate::DecodeError::Malformed { .. })));
        assert_eq!(gate.encode_state(), before);

        let updates: [&[u8]; 4] = [&base, one, &behind, &deletion];
        let orders = [
            [0, 1, 2, 3],
            [1, 0, 3, 2],
            [2, 1, 0, 3],
            [0, 3, 1, 2],
            [3, 2, 1, 0],
        ];
        for order in orders {
            let (mut ours, mut reader, mut again) = (document(7), document(8), document(9));
            let mut log = Vec::new();
            for (number, index) in order.into_iter().enumerate() {
                log.push(updates[index]);
                let applied = ours.apply_update(updates[index]).unwrap();
                if let Some(visible) = applied.visible {
                    assert_eq!(reader.apply_update(&visible).unwrap().misplaced, 0);
                }
                let mut merged = document(10);
                merged
                    .apply_update(&crate::merge_updates(&log).unwrap())
                    .unwrap();
                assert_eq!(
                    merged.encode_state(),
                    ours.encode_state(),
                    "{order:?} {number}"
                );
                assert_eq!(
                    reader.encode_state(),
                    ours.encode_state(),
                    "{order:?} {number}"
                );
            }
            again.apply_update(&ours.encode_state()).unwrap();
            assert_eq!(again.to_json(true), ours.to_json(true));
            assert_eq!(ours.element_count(), 0);
        }
    }
}

/// Another replica reports the first half of a run as collected. The second half waits for its own
/// dependencies, and is the same if the document was stored meanwhile.
#[test]
fn pending_run_begins_at_known_clock() {
    let gone = [1, 1, 7, 0, 0, 2, 0];
    let text = [
        &[1, 2, 9, 0, 7, 1, 3][..],
        b"xml",
        &[6, 4, 0, 9, 0, 2, b'x', b'y', 0],
    ]
    .concat();
    for waits in [false, true] {
        // After the x, and before the y.
        let place: &[u8] = if waits {
            &[0xc4, 9, 1, 9, 2]
        } else {
            &[0x84, 9, 1]
        };
        let run = [&[1, 1, 7, 0], place, &[4, b'a', b'b', b'c', b'd', 0]].concat();
        let mut ours = document(1);
        ours.apply_update(&gone).unwrap();
        let applied = ours.apply_update(&run).unwrap();
        assert_eq!(ours.has_gap(), waits);
        let mut log = vec![gone.to_vec(), applied.kept.unwrap()];
        let folded: Vec<Vec<u8>> = [Some(ours.encode_state()), ours.encode_pending()]
            .into_iter()
            .flatten()
            .collect();
        let mut folded = vec![
            crate::merge_updates(&folded.iter().map(|one| &one[..]).collect::<Vec<_>>()).unwrap(),
        ];
        ours.apply_update(&text).unwrap();
        assert!(!ours.has_gap());
        for log in [&mut log, &mut folded] {
            log.push(text.clone());
            let merged =
                crate::merge_updates(&log.iter().map(|one| &one[..]).collect::<Vec<_>>()).unwrap();
            let mut again = document(1);
            again.apply_update(&merged).unwrap();
            assert_eq!(again.encode_state(), ours.encode_state(), "{waits}");
            let mut again = document(1);
            for update in log {
                again.apply_update(update).unwrap();
            }
            assert_eq!(again.encode_state(), ours.encode_state(), "{waits}");
        }
    }
}

/// A child of an element before its existing children, by an author without knowledge of them.
fn in_front(client: u8, count: u8, first: &[u8]) -> Vec<u8> {
    let mut update = vec![1, count + 1, client, 0];
    update.extend(first);
    for _ in 0..count {
        update.extend([7, 0, 1, 0, 3, 4, b'i', b't', b'e', b'm']);
    }
    update.push(0);
    update
}

#[test]
fn pending_operations_survive_exhausted_steps() {
    const COUNT: u8 = 100;
    let item = [7, 1, 3, b'x', b'm', b'l', 3, 4, b'i', b't', b'e', b'm'];
    let top = [&[1, 1, 1, 0][..], &item, &[0]].concat();
    let theirs = in_front(5, COUNT, &item);
    // After a missing operation.
    let behind = [&[0x87, 8, 0, 3, 4][..], b"item"].concat();
    let waiting = in_front(9, COUNT, &behind);
    let missing = [&[1, 1, 8, 0][..], &item, &[0]].concat();
    let apart = |client: u8| [&[1, 1, client, 0][..], &item, &[0]].concat();

    let mut whole = document(1);
    for update in [&top, &theirs, &waiting, &missing] {
        whole.apply_update(update).unwrap();
    }
    let mut ours = document(1);
    let mut limits = *ours.limits();
    limits.conflict_steps = 1_000;
    ours.set_limits(limits);
    for update in [&top, &theirs] {
        ours.apply_update(update).unwrap();
    }
    assert!(ours.apply_update(&waiting).unwrap().gap);
    let mut reader = document(2);
    reader.apply_update(&ours.encode_state()).unwrap();
    let mut updates = 0;
    let mut update = missing;
    loop {
        let applied = ours.apply_update(&update).unwrap();
        ours.engine.check();
        assert_eq!(applied.misplaced, 0);
        reader.apply_update(&applied.visible.unwrap()).unwrap();
        assert!(!reader.has_gap());
        assert_eq!(reader.to_json(true), ours.to_json(true));
        if !ours.has_gap() {
            break;
        }
        // Pending operations survive a restart.
        let mut restarted = document(3);
        restarted.apply_update(&ours.encode_state()).unwrap();
        restarted
            .apply_update(&ours.encode_pending().unwrap())
            .unwrap();
        assert!(!restarted.has_gap());
        updates += 1;
        assert!(updates < 100, "operations stay pending");
        update = apart(100 + updates);
        whole.apply_update(&update).unwrap();
    }
    assert!(updates > 2, "the steps did not run out");
    assert_eq!(ours.to_json(true), whole.to_json(true));
    assert_eq!(ours.pending_bytes(), 0);
}

//! Bytes that no SDK sends. Each group is a way in which an engine without checks was seen to fail.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use yrs::updates::decoder::Decode;
use yrs::{Doc, Transact, Update};

use super::convergence::{Random, edit};
use super::{counter, document, golden};
use crate::document::pending::Plan;
use crate::test;
use crate::update::DecodeError;
use crate::update::scan::Scan;

fn refuse(bytes: &[u8]) -> DecodeError {
    let mut document = document(1);
    document
        .insert_json(
            &json!({"doc": {"title": "T", "children": [{"item": {}}]}}),
            &mut counter(),
        )
        .unwrap();
    let before = document.encode_state();
    let classified = document.classify(bytes);
    let error = document.apply_placed_update(bytes).unwrap_err();
    if let Err(classified) = classified {
        assert_eq!(classified, error);
    }
    assert_eq!(document.encode_state(), before);
    assert!(!document.has_gap());
    error
}

#[test]
fn counts_and_lengths_beyond_the_input_are_rejected() {
    let huge = [0xff, 0xff, 0xff, 0xff, 0x0f];
    refuse(&huge);
    refuse(&[&[1][..], &huge, &[1, 0]].concat());
    refuse(&[&[0, 1, 1][..], &huge].concat());
    // A text, an array and an object that announce more bytes than follow.
    refuse(&[&[1, 1, 5, 0, 4, 1, 1, b'x'][..], &huge].concat());
    refuse(&[&[1, 1, 5, 0, 8, 1, 1, b'x', 1, 117][..], &huge, &[0]].concat());
    refuse(&[&[1, 1, 5, 0, 8, 1, 1, b'x', 1, 118][..], &huge, &[0]].concat());
    let mut document = document(1);
    assert!(document.encode_diff(&huge).is_err());
    assert!(document.encode_diff(&[&huge[..], &[1]].concat()).is_err());
    assert!(document.apply_update(&[0, 0]).unwrap().visible.is_none());
}

#[test]
fn scan_checks_everything_the_engine_trusts() {
    let root = [1, 3, b'x', b'm', b'l'];
    // Text that is not UTF-8.
    refuse(&[&[1, 1, 5, 0, 4][..], &root, &[2, 0xc3, 0x28, 0]].concat());
    // A reference to a later operation of the same client.
    refuse(&[1, 1, 5, 3, 0x84, 5, 9, 1, b'x', 0]);
    refuse(&[1, 1, 5, 3, 0x84, 5, 3, 1, b'x', 0]);
    // Clocks that overflow, lengths of 0.
    refuse(&[1, 1, 5, 0xff, 0xff, 0xff, 0xff, 0x0f, 0, 1, 0]);
    refuse(&[1, 1, 5, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f, 0]);
    refuse(&[1, 1, 5, 0, 0, 0, 0]);
    refuse(&[
        0, 1, 5, 1, 0xff, 0xff, 0xff, 0xff, 0x07, 0xff, 0xff, 0xff, 0xff, 0x07,
    ]);
    // A client id beyond 53 bits.
    refuse(&[
        1, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f, 0, 0, 1, 0,
    ]);
    // Unknown contents, types and parents; subdocuments.
    refuse(&[&[1, 1, 5, 0, 11][..], &root, &[0]].concat());
    refuse(&[&[1, 1, 5, 0, 9][..], &root, &[1, b'g', 118, 0, 0]].concat());
    refuse(&[&[1, 1, 5, 0, 7][..], &root, &[7, 0, 0, 0]].concat());
    refuse(&[1, 1, 5, 0, 7, 2, 3, b'x', b'm', b'l', 0, 0]);
    // A duplicate client, trailing bytes, an unexpected end.
    refuse(&[2, 1, 5, 0, 0, 1, 1, 5, 1, 0, 1, 0]);
    refuse(&[0, 0, 0]);
    refuse(&[]);
    refuse(&[1, 1, 5]);
    // Deeply nested values.
    let deep = [
        &[1, 1, 5, 0, 8][..],
        &root,
        &[1],
        &[117, 1].repeat(200_000),
        &[126, 0],
    ]
    .concat();
    refuse(&deep);
    let json = "[".repeat(200_000);
    let length = [0xc0, 0x9a, 0x0c];
    refuse(&[&[1, 1, 5, 0, 5][..], &root, &length, json.as_bytes(), &[0]].concat());
}

#[test]
fn impossible_places_are_rejected() {
    let steps = [
        // A child of an attribute's value.
        vec![1, 1, 9, 0, 8, 0, 1, 0, 1, 119, 0, 0],
        // Between the value of an attribute and a child of the root.
        vec![1, 1, 9, 0, 0xc4, 1, 0, 1, 1, 1, b'x', 0],
    ];
    for update in steps {
        let error = refuse(&update);
        assert!(matches!(error, DecodeError::Malformed { .. }));
    }
}

#[test]
fn failing_struct_leaves_document_unchanged() {
    let good = [0x27, 1, 14].to_vec();
    let good = [&good[..], b"xml.attributes", &[1, b'k', 0]].concat();
    let bad = [0x84, 5, 9, 1, b'x'];
    refuse(&[&[1, 2, 5, 0][..], &good, &bad, &[0]].concat());
}

#[test]
fn truncated_and_flipped_updates_do_not_panic() {
    let golden = golden();
    for sdk in ["python", "npm"] {
        for name in ["elements", "text"] {
            let state = golden[sdk][name]["state"].as_str().unwrap();
            let state = STANDARD.decode(state).unwrap();
            for end in 0..state.len() {
                assert!(document(1).apply_update(&state[..end]).is_err());
            }
            for at in 0..state.len() {
                for flip in [0x01, 0x08, 0x80] {
                    let mut bytes = state.clone();
                    bytes[at] ^= flip;
                    let mut ours = document(1);
                    let classified = ours.classify(&bytes);
                    let applied = ours.apply_update(&bytes);
                    if applied.is_ok() {
                        assert!(classified.is_ok());
                        let mut other = document(2);
                        other.apply_update(&ours.encode_state()).unwrap();
                        assert_eq!(other.state_vector(), ours.state_vector(), "{bytes:02x?}");
                        other.to_json(true);
                        // Applied to its own source document, too.
                        other.apply_update(&state).unwrap();
                        other.to_json(true);
                    }
                }
            }
        }
    }
}

#[test]
fn tree_of_100_000_levels_is_applied_and_deleted() {
    const LEVELS: u32 = 100_000;
    let mut builder = crate::update::writer::Builder::new(5, 0);
    let mut place = crate::update::writer::Place::OnlyInRoot("xml");
    for _ in 0..LEVELS {
        place = crate::update::writer::Place::Only(builder.element(place, "item"));
    }
    let update = builder.finish();
    let mut ours = document(1);
    ours.apply_update(&update).unwrap();
    assert_eq!(ours.element_count(), LEVELS as usize);
    ours.to_json(true);
    let mut other = document(2);
    other.apply_update(&ours.encode_state()).unwrap();

    let top_only = [0, 1, 5, 1, 0, 1];
    let applied = ours.apply_update(&top_only).unwrap();
    assert_eq!(applied.visible.as_deref(), Some(&top_only[..]));
    assert_eq!(ours.element_count(), 0);
    other.apply_update(&ours.encode_state()).unwrap();
    assert_eq!(other.element_count(), 0);
    assert_eq!(other.to_json(true), ours.to_json(true));
}

/// Changes some bytes, or copies some from another update.
fn mutate(bytes: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=random.below(3) {
        let at = random.below(bytes.len());
        let byte = u8::try_from(random.below(256)).unwrap();
        match random.below(5) {
            0 => bytes[at] = byte,
            1 => bytes[at] = bytes[at].wrapping_add(1),
            2 => bytes[at] ^= 1 << random.below(8),
            3 => bytes[at] = byte & 0x0f,
            _ => {
                let length = random.below(8).min(other.len()).min(bytes.len() - at);
                let from = random.below(other.len() - length + 1);
                bytes[at..at + length].copy_from_slice(&other[from..from + length]);
            }
        }
    }
    bytes
}

#[test]
fn mutated_updates_do_not_panic() {
    let seeds = std::env::var("FUZZ_SEEDS")
        .ok()
        .and_then(|seeds| seeds.parse().ok());
    let golden = golden();
    let texts: Vec<Vec<u8>> = ["python", "npm"]
        .iter()
        .flat_map(|sdk| golden[sdk]["text"]["steps"].as_array().unwrap())
        .flat_map(|step| step["updates"].as_array().unwrap())
        .map(|update| STANDARD.decode(update.as_str().unwrap()).unwrap())
        .collect();
    for seed in 0..seeds.unwrap_or(150) {
        let mut random = Random::new(seed);
        let authors = [2001, 22].map(Doc::with_client_id);
        let mut serial = 0;
        let mut updates: Vec<Vec<u8>> = (0..12)
            .map(|at| edit(&authors[at % 2], &mut random, &mut serial))
            .collect();
        updates.extend(texts.iter().cloned());
        let mut ours = document(1);
        ours.watch(true);
        for _ in 0..60 {
            let update = &updates[random.below(updates.len())];
            let other = &updates[random.below(updates.len())];
            let changed = match random.below(3) {
                0 => update.clone(),
                _ => mutate(update, other, &mut random),
            };
            let classified = ours.classify(&changed);
            let before = ours.state_vector();
            let Ok(applied) = ours.apply_update(&changed) else {
                assert_eq!(ours.state_vector(), before, "seed {seed}");
                ours.engine.check();
                continue;
            };
            assert!(classified.is_ok(), "seed {seed}");
            ours.engine.check();
            assert!(ours.to_json(true).is_object());
            ours.grep("x", false, 1, 1).unwrap();
            if applied.visible.is_some() && random.below(4) == 0 {
                ours.repair();
                assert_eq!(ours.violations(), [], "seed {seed}");
                assert_eq!(ours.repair(), None, "seed {seed}");
            }
        }
        let mut other = document(3);
        other.apply_update(&ours.encode_state()).unwrap();
        assert_eq!(other.state_vector(), ours.state_vector(), "seed {seed}");
        assert_eq!(other.element_count(), ours.element_count(), "seed {seed}");
        if let Some(pending) = ours.encode_pending() {
            other.apply_update(&pending).unwrap();
        }
    }
}

#[test]
fn update_with_too_many_steps_is_rolled_back() {
    let mut refused = 0;
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let other = [3, 9][random.below(2)];
        let (first, second) = (Doc::with_client_id(5), Doc::with_client_id(other));
        let (mut ours, mut theirs, mut serial) = (document(1), document(2), 0);
        for _ in 0..random.below(20) {
            let update = edit(&first, &mut random, &mut serial);
            let decoded = Update::decode_v1(&update).unwrap();
            second.transact_mut().apply_update(decoded).unwrap();
            ours.apply_update(&update).unwrap();
            theirs.apply_update(&update).unwrap();
        }
        // From here on they edit separately.
        let mut updates = Vec::new();
        for _ in 0..10 + random.below(40) {
            let update = edit(&first, &mut random, &mut serial);
            ours.apply_update(&update).unwrap();
            updates.push(edit(&second, &mut random, &mut serial));
        }
        let updates: Vec<&[u8]> = updates.iter().map(Vec::as_slice).collect();
        let update = crate::merge_updates(&updates).unwrap();
        theirs.apply_update(&update).unwrap();
        let before = ours.encode_state();
        let json = ours.to_json(true);
        for steps in [0, 1, 3, 9, 30, 100] {
            let mut left = steps;
            let scan = Scan::read(&update).unwrap();
            let plan = Plan::new(&ours.engine, &scan);
            let own: Vec<_> = plan.order.iter().map(|&at| &scan.structs[at]).collect();
            if ours.integrate(&own, &[], &mut left).is_ok() {
                break;
            }
            refused += 1;
            ours.engine.check();
            assert_eq!(ours.encode_state(), before, "seed {seed}, {steps} steps");
            assert_eq!(ours.to_json(true), json, "seed {seed}, {steps} steps");
        }
        // With enough steps the document equals any other replica.
        ours.apply_update(&update).unwrap();
        theirs.apply_update(&before).unwrap();
        ours.engine.check();
        assert_eq!(ours.to_json(true), theirs.to_json(true), "seed {seed}");
    }
    assert!(refused > 100, "only {refused} were refused");
}

#[test]
fn concurrent_inserts_at_front_take_few_steps() {
    use yrs::{ReadTxn, WriteTxn, Xml, XmlElementPrelim, XmlFragment};
    const COUNT: u32 = 2_500;
    let written = |client: u64| {
        let doc = Doc::with_client_id(client);
        let mut transaction = doc.transact_mut();
        let root = transaction.get_or_insert_xml_fragment("xml");
        for number in 0..COUNT {
            let item = root.push_front(&mut transaction, XmlElementPrelim::empty("item"));
            item.insert_attribute(&mut transaction, "$id", format!("{client}-{number}"));
        }
        transaction.encode_update_v1()
    };
    let updates = [5, 9, 7].map(written);
    let theirs = Doc::with_client_id(1);
    for update in &updates {
        let decoded = Update::decode_v1(update).unwrap();
        theirs.transact_mut().apply_update(decoded).unwrap();
    }
    let transaction = theirs.transact();
    let root = transaction.get_xml_fragment("xml").unwrap();
    let children = root.children(&transaction);
    let theirs: Vec<String> = children
        .map(|child| {
            let item = child.into_xml_element().unwrap();
            let id = item.get_attribute(&transaction, "$id").unwrap();
            id.to_string(&transaction)
        })
        .collect();
    // Any order of arrival, and any order of client ids.
    for order in [[0, 1, 2], [1, 0, 2], [2, 1, 0], [1, 2, 0]] {
        let mut ours = document(1);
        let mut limits = *ours.limits();
        // A pairwise comparison would take more than six million steps.
        limits.conflict_steps = 500_000;
        ours.set_limits(limits);
        for at in order {
            ours.apply_update(&updates[at]).unwrap();
        }
        ours.engine.check();
        let json = ours.to_json(true);
        let children = json["doc"]["children"].as_array().unwrap();
        let ids = children
            .iter()
            .map(|child| child["item"]["$id"].as_str().unwrap());
        assert!(ids.eq(theirs.iter()), "in the order {order:?}");
    }
}

//! Operations that another replica reports as collected or deleted: their author's content stays,
//! in any order of updates.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::{document, golden};
use crate::test;
use crate::update::scan::Id;
use crate::update::writer::{id, string, unsigned};
use crate::{MeshDocument, Target, UpdateKind, merge_updates};

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

/// An update with these operations as collected or as deleted content, without deletions.
fn blank(client: u64, start: u32, length: u32, keeps_place: bool) -> Vec<u8> {
    let mut update = vec![1, 1];
    id(
        &mut update,
        Id {
            client,
            clock: start,
        },
    );
    if !keeps_place {
        update.push(0);
    } else if let Some(clock) = start.checked_sub(1) {
        update.push(0x81);
        id(&mut update, Id { client, clock });
    } else {
        update.extend([1, 1]);
        string(&mut update, "xml");
    }
    unsigned(&mut update, length.into());
    update.push(0);
    update
}

/// The operations in an update.
fn operations(update: &[u8]) -> Vec<(u64, u32)> {
    let scan = crate::update::scan::Scan::read(update).unwrap();
    let runs = scan.structs.iter();
    runs.flat_map(|one| (one.id.clock..one.end()).map(|clock| (one.id.client, clock)))
        .collect()
}

/// A random part of the runs of one client.
fn some_of(
    known: &BTreeSet<(u64, u32)>,
    random: &mut impl FnMut(usize) -> usize,
) -> (u64, u32, u32) {
    let &(client, start) = known.iter().nth(random(known.len())).unwrap();
    let mut length = 1;
    let wanted = 1 + u32::try_from(random(12)).unwrap();
    while length < wanted && known.contains(&(client, start + length)) {
        length += 1;
    }
    (client, start, length)
}

fn read(log: &[Vec<u8>]) -> MeshDocument {
    let mut document = document(3);
    for update in log {
        document.apply_update(update).unwrap();
    }
    document
}

#[test]
fn content_is_never_replaced_by_blanks() {
    let all = updates();
    let whole = read(&all);
    for seed in 0..300_u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut random = move |limit: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state >> 33).unwrap() % limit
        };
        let mut rest = all.clone();
        let mut ours = document(2);
        let mut known = BTreeSet::new();
        // The received updates, and what a log stores of them.
        let (mut came, mut log) = (Vec::new(), Vec::new());
        while !rest.is_empty() {
            let mut update = rest.swap_remove(random(rest.len()));
            known.extend(operations(&update));
            if !known.is_empty() && random(2) == 0 {
                let (client, start, length) = some_of(&known, &mut random);
                let blank = blank(client, start, length, random(2) == 0);
                update = match random(3) {
                    0 => merge_updates(&[&blank, &update]).unwrap(),
                    1 => merge_updates(&[&update, &blank]).unwrap(),
                    _ => {
                        rest.push(blank);
                        update
                    }
                };
            }
            let applied = ours.apply_update(&update).unwrap();
            log.push(applied.kept.unwrap_or_else(|| update.clone()));
            came.push(update);
        }
        let mut merged = Vec::new();
        let mut left = &log[..];
        while !left.is_empty() {
            let (group, others) = left.split_at(1 + random(left.len().min(5)));
            let group: Vec<&[u8]> = group.iter().map(Vec::as_slice).collect();
            merged.push(merge_updates(&group).unwrap());
            left = others;
        }
        came.reverse();
        let came: Vec<&[u8]> = came.iter().map(Vec::as_slice).collect();
        let merged_reversed = [merge_updates(&came).unwrap()];
        for (how, other) in [
            ("one by one", ours),
            ("from its log", read(&log)),
            ("from a merged log", read(&merged)),
            ("merged backwards", read(&merged_reversed)),
        ] {
            assert_eq!(
                other.to_json(true),
                whole.to_json(true),
                "seed {seed}, {how}"
            );
            assert_eq!(
                other.state_vector(),
                whole.state_vector(),
                "seed {seed}, {how}"
            );
            assert!(!other.has_gap(), "seed {seed}, {how}");
        }
    }
}

/// Operations that depend on another author's missing ones, which a later update reports
/// as collected.
#[test]
fn inspect_reports_gap_behind_pending_operations() {
    let mut next = super::counter();
    let mut other = document(8);
    let theirs = other
        .insert_json(
            &json!({"doc": {"children": [{"item": {"$id": "ä", "children": []}}]}}),
            &mut next,
        )
        .map(|()| other.encode_state())
        .unwrap();
    let mut author = document(9);
    author.apply_update(&theirs).unwrap();
    let item = |text: &str| json!({"item": {"s": text, "children": []}});
    let mut append = |target: Target, text: &str| {
        author
            .append_child(target, item(text), &mut next)
            .unwrap()
            .unwrap()
    };
    let inside = append(Target::Id("ä".to_owned()), "inside");
    let behind = append(Target::Root, "behind");
    let mut ours = document(2);
    assert!(ours.apply_update(&inside).unwrap().gap);
    let operations = u32::try_from(operations(&inside).len()).unwrap();
    let forged = merge_updates(&[&blank(9, 0, operations, false), &behind]).unwrap();
    let inspection = ours.inspect(&forged).unwrap();
    assert_eq!(inspection.kind, UpdateKind::Gap);
    assert!(inspection.waiting > behind.len());
    assert!(ours.apply_update(&forged).unwrap().gap);
    ours.apply_update(&theirs).unwrap();
    assert!(!ours.has_gap());
    assert_eq!(ours.to_json(true), author.to_json(true));
}

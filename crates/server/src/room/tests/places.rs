//! Operations that can't have a place, and forged collected ones: merged, stored and read again,
//! the document is what readers were shown.

use meshagent_document::{Limits, MeshDocument, MeshSchema, UpdateKind, merge_updates};
use meshagent_protocol::Content;
use meshagent_store::{RoomId, Store as _};
use serde_json::json;
use yrs::updates::decoder::Decode as _;
use yrs::{ReadTxn as _, StateVector, Transact as _, XmlFragment as _};

use super::random::Random;
use super::{Client, Editor, World, count, shown};
use crate::config::Config;

const PATH: &str = "grüße.document";

/// An element of client 6 behind (5, 0), which is in the root, and before (5, 1), which is an
/// attribute.
const BETWEEN: &[u8] = &[
    1, 1, 6, 0, 0xc7, 5, 0, 5, 1, 3, 4, b'b', b'o', b'd', b'y', 0,
];

/// An element of client 6 whose parent is (5, 1), an attribute.
const BELOW: &[u8] = &[1, 1, 6, 0, 0x07, 0, 5, 1, 3, 4, b'b', b'o', b'd', b'y', 0];

/// Two collected operations of client 7, and no deletion.
const GONE: &[u8] = &[1, 1, 7, 0, 0, 2, 0];

/// Two participants that have a document open, in which the innocent one has made an edit.
fn two() -> (World, Client, Client) {
    let mut world = World::new();
    let (innocent, other) = (world.join("innocent"), world.join("other"));
    for client in [&innocent, &other] {
        world.open(client, "c", json!({ "path": PATH }));
    }
    let kept = world.update(&innocent, "c", &Editor::new(1).append("body", "kept"));
    world.settle();
    assert_eq!(innocent.answer(kept), Content::Empty);
    (world, innocent, other)
}

/// The document as it is in memory.
fn replica(world: &World) -> &MeshDocument {
    let documents = &world.room.documents;
    let id = documents.id_at(PATH).unwrap();
    &documents.get(id).unwrap().replica
}

/// The document as it is read from the disk.
fn read_again(world: &World) -> MeshDocument {
    let room = RoomId::new("project", "room");
    let stored = world.store.load(&room, PATH).unwrap().unwrap();
    let schema = MeshSchema::builtin("document").unwrap();
    let mut document = MeshDocument::with_limits(schema, 1, Limits::NONE);
    let updates = stored.updates.iter().map(|one| &one.update);
    for update in stored.snapshot.iter().chain(updates) {
        if !update.is_empty() {
            document.apply_update(update).unwrap();
        }
    }
    document
}

/// Checks that what is on disk is what is shown and what is pending.
fn check(world: &World, what: &str) {
    let (ours, again) = (replica(world), read_again(world));
    assert_eq!(again.to_json(true), ours.to_json(true), "{what}");
    // Runs of operations may be cut at different places.
    for (one, other) in [(&again, ours), (ours, &again)] {
        let inspection = one.inspect(&other.encode_state()).unwrap();
        let is_contained = matches!(inspection.kind, UpdateKind::Contained | UpdateKind::Empty);
        assert!(
            is_contained && !inspection.differs,
            "{what}: {inspection:?}"
        );
    }
    let waiting = [&again, ours].map(|one| one.encode_pending().map(|one| merge_updates(&[&one])));
    assert_eq!(waiting[0], waiting[1], "{what}");
}

/// The state that a new reader receives after the document was unloaded.
fn reopen(world: &mut World, clients: [&Client; 2]) -> Vec<u8> {
    for client in clients {
        world.leave(client);
    }
    world.unload();
    let back = world.join("back");
    world.open(&back, "b", json!({ "path": PATH }))
}

#[test]
fn a_batch_with_what_has_no_place_and_what_it_waits_for_can_be_read_again() {
    for is_innocents in [false, true] {
        let (mut world, innocent, other) = two();
        world.update(&other, "c", BETWEEN);
        let reader = world.join("published");
        let mut updates = vec![world.open(&reader, "r", json!({ "path": PATH }))];
        let sender = if is_innocents { &innocent } else { &other };
        let fills = world.update(sender, "c", &Editor::new(5).append("body", "fills"));
        world.settle();
        assert_eq!(sender.answer(fills), Content::Empty);
        check(&world, "after the batch");
        // A published reader has the same document.
        updates.extend(reader.changes("r"));
        let seen = Editor::new(8);
        for update in &updates {
            let update = yrs::Update::decode_v1(update).unwrap();
            seen.doc.transact_mut().apply_update(update).unwrap();
        }
        assert_eq!(seen.root.len(&seen.doc.transact()), 2);
        assert_eq!(shown(&updates), replica(&world).to_json(true));
        world.leave(&reader);
        let state = [reopen(&mut world, [&innocent, &other])];
        let ids = ["kept", "fills"];
        assert_eq!(ids.map(|id| count(&state, id)), [1, 1]);
    }
}

/// One update deletes an element, the next puts another below its attribute, which is deleted by
/// then. When the two are merged into one write, the insertion comes before the deletion.
#[test]
fn a_batch_with_a_deletion_and_what_hangs_on_the_deleted_can_be_read_again() {
    let (mut world, innocent, other) = two();
    let editor = Editor::new(5);
    world.update(&other, "c", &editor.append("body", "doomed"));
    world.settle();
    world.update(&other, "c", &editor.remove(0));
    let below = world.update(&other, "c", BELOW);
    world.settle();
    assert_eq!(other.answer(below), Content::Empty);
    check(&world, "after the batch");
    let state = [reopen(&mut world, [&innocent, &other])];
    let ids = ["kept", "doomed"];
    assert_eq!(ids.map(|id| count(&state, id)), [1, 0]);
}

/// The same for a reader that takes merged changes.
#[test]
fn a_merged_change_can_be_taken_up_by_who_takes_it() {
    let (mut world, _, other) = two();
    let reader = world.join("reader");
    let start = json!({ "path": PATH, "merge": true });
    let mut updates = vec![world.open(&reader, "r", start)];
    let editor = Editor::new(5);
    world.update(&other, "c", &editor.append("body", "doomed"));
    world.settle();
    world.update(&other, "c", &editor.remove(0));
    world.update(&other, "c", BELOW);
    world.settle();
    updates.extend(reader.changes("r"));
    assert_eq!(shown(&updates), replica(&world).to_json(true));
}

/// A new operation that arrives alone and can't have a place is refused: no editor makes it.
#[test]
fn what_has_no_place_is_refused_when_it_comes_alone() {
    let (mut world, innocent, other) = two();
    world.update(&innocent, "c", &Editor::new(5).append("body", "five"));
    world.settle();
    for update in [BETWEEN, BELOW] {
        let id = world.update(&other, "c", update);
        world.settle();
        assert_eq!(super::code(&other.answer(id)), Some(1002));
    }
    check(&world, "after the refusals");
}

/// An update claims that operations are collected which never arrived, without deleting them. Then
/// their author sends them, and deletes some of them or not.
#[test]
fn what_was_said_to_be_gone_is_gone_in_memory_and_on_disk() {
    for (is_one_batch, deletes) in [(false, false), (true, false), (true, true)] {
        let (mut world, innocent, other) = two();
        let editor = Editor::new(7);
        editor.append("body", "one");
        editor.append("body", "two");
        if deletes {
            editor.remove(0);
        }
        let all = {
            let transaction = editor.doc.transact();
            transaction.encode_state_as_update_v1(&StateVector::default())
        };
        world.update(&other, "c", GONE);
        if !is_one_batch {
            world.settle();
        }
        let id = world.update(&innocent, "c", &all);
        world.settle();
        if !deletes {
            let Content::Json(answer) = innocent.answer(id) else {
                panic!("the author is told what was not kept");
            };
            assert_eq!(answer["deleted"], 2);
        }
        let what = format!("in one batch: {is_one_batch}, deletes: {deletes}");
        check(&world, &what);
        let before = replica(&world).to_json(true);
        let state = reopen(&mut world, [&innocent, &other]);
        assert_eq!(shown(&[state]), before, "{what}");
    }
}

/// The operations that clients are said to have made. Each is determined by the seed.
struct Operations(u64);

impl Operations {
    const CLIENTS: u64 = 4;
    const CLOCKS: u64 = 24;

    /// Writes an operation, which may have no place.
    fn write(&self, out: &mut Vec<u8>, client: u64, clock: u64) {
        let mut random = Random(self.0 ^ (client << 32) ^ (clock << 16));
        let id = |random: &mut Random, is_own: bool| {
            let other = 1 + random.below(Self::CLIENTS);
            if clock > 0 && (is_own || other == client) {
                return Some([client, random.below(clock.min(3)) + clock - clock.min(3)]);
            }
            // No cycles, in which all operations would stay pending for ever.
            let bound = clock + u64::from(other < client);
            (other != client && bound > 0).then(|| [other, random.below(bound)])
        };
        let (mut origin, mut right_origin, mut parent) = (None, None, None);
        match random.below(10) {
            0..3 => origin = id(&mut random, true),
            3..5 => origin = id(&mut random, false),
            5 => (origin, right_origin) = (id(&mut random, true), id(&mut random, false)),
            6 => right_origin = id(&mut random, false),
            7..9 => parent = id(&mut random, false),
            _ => {}
        }
        let has_neighbour = origin.is_some() || right_origin.is_some();
        let has_key = !has_neighbour && parent.is_some() && random.below(2) == 0;
        let kind = match random.below(30) {
            0 => 1,
            1 => 6,
            _ if has_key => 8,
            2..5 => 8,
            _ => 7,
        };
        let flags = [
            (origin.is_some(), 0x80),
            (right_origin.is_some(), 0x40),
            (has_key, 0x20),
        ];
        let flags = flags.iter().filter(|(is_set, _)| *is_set);
        out.push(kind | flags.map(|(_, flag)| flag).sum::<u8>());
        let number = |number: u64| u8::try_from(number).unwrap();
        for id in [origin, right_origin].into_iter().flatten() {
            out.extend(id.map(number));
        }
        if !has_neighbour {
            match parent {
                Some(id) => {
                    out.push(0);
                    out.extend(id.map(number));
                }
                None => out.extend([1, 3, b'x', b'm', b'l']),
            }
            if has_key {
                out.extend([1, b'k']);
            }
        }
        match kind {
            1 => out.push(1),
            6 => out.extend([1, b'b', 1, b'1']),
            8 => out.extend([1, 119, 1, b'v']),
            _ => out.extend([3, 4, b'b', b'o', b'd', b'y']),
        }
    }

    /// Some of the operations, a few of them as collected, and sometimes a deletion.
    fn update(&self, random: &mut Random, known: &MeshDocument) -> Vec<u8> {
        let number = |number: u64| u8::try_from(number).unwrap();
        let mut clients: Vec<u64> = (1..=Self::CLIENTS).rev().collect();
        clients.retain(|_| random.below(3) == 0);
        let mut out = vec![number(clients.len() as u64)];
        for client in clients {
            let next = known.clocks().find(|(known, _)| *known == client);
            let next = next.map_or(0, |(_, clock)| clock);
            let start = match random.below(8) {
                0 => next.saturating_sub(2),
                1 => next + 1,
                _ => next,
            };
            let start = start.min(Self::CLOCKS - 1);
            let count = (1 + random.below(4)).min(Self::CLOCKS - start);
            out.extend([number(count), number(client), number(start)]);
            for clock in start..start + count {
                if random.below(20) == 0 {
                    out.extend([0, 1]);
                } else {
                    self.write(&mut out, client, clock);
                }
            }
        }
        if random.below(6) > 0 {
            out.push(0);
            return out;
        }
        let client = 1 + random.below(Self::CLIENTS);
        out.extend([1, number(client), 1]);
        out.extend([
            number(random.below(Self::CLOCKS)),
            number(1 + random.below(2)),
        ]);
        out
    }
}

fn run(seed: u64) -> [usize; 3] {
    let mut random = Random(seed);
    let operations = Operations(random.below(u64::MAX));
    let config = Config {
        snapshot_every: 4 + usize::try_from(random.below(20)).unwrap(),
        ..Config::default()
    };
    let mut world = World::with_config(config);
    let (author, reader) = (world.join("author"), world.join("reader"));
    world.open(&author, "a", json!({ "path": PATH }));
    let start = json!({ "path": PATH, "merge": random.below(2) == 0 });
    let mut shown = vec![world.open(&reader, "r", start)];
    let mut figures = [0; 3];
    for step in 0..40 {
        let update = operations.update(&mut random, replica(&world));
        world.update(&author, "a", &update);
        if random.below(3) > 0 {
            continue;
        }
        world.settle();
        let what = format!("seed {seed}, step {step}");
        check(&world, &what);
        shown.extend(reader.changes("r"));
        let ours = replica(&world);
        assert_eq!(super::shown(&shown), ours.to_json(true), "{what}");
    }
    world.settle();
    for seen in author.take() {
        match seen {
            super::Seen::Answer(_, Content::Error { .. }) => figures[0] += 1,
            super::Seen::Answer(_, Content::Json(notice)) if notice["pending"] == true => {
                figures[1] += 1;
            }
            super::Seen::Answer(..) => figures[2] += 1,
            _ => {}
        }
    }
    figures
}

/// After each batch, what is on disk is what is in memory, whatever was sent.
#[test]
fn what_is_read_again_is_what_was_shown() {
    let mut figures = [0; 3];
    for seed in 0..100 {
        for (sum, one) in figures.iter_mut().zip(run(seed)) {
            *sum += one;
        }
    }
    // Refused, pending, accepted.
    assert!(figures.iter().all(|&figure| figure > 20), "{figures:?}");
}

//! Edits that race changes of their document's path: moves, deletions, replacements, a reload.
//!
//! In any order, an acknowledged update is in the document, wherever that is: in memory, in the
//! store, after a compaction, and after the document was read from the store again.

mod arriving;

use meshagent_protocol::ErrorCode;
use meshagent_store::{Fault, RoomId, Store as _};
use serde_json::json;

use super::{Action, Client, Content, Control, Editor, Seen, World, code, count};
use crate::committer::BatchResult;
use crate::config::Config;

/// The first path of the document.
const SOURCE: &str = "folder/ä.document";

/// A change of the document's path.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Change {
    Move,
    /// The folder that the document is in is moved.
    FolderMove,
    /// The document replaces another one that has readers.
    Overwrite,
    /// The document is moved to another path and then to its destination.
    TwoMoves,
}

impl Change {
    const ALL: [Self; 4] = [
        Self::Move,
        Self::FolderMove,
        Self::Overwrite,
        Self::TwoMoves,
    ];

    fn destination(self) -> &'static str {
        match self {
            Self::Move => "elsewhere.document",
            Self::FolderMove => "other/ä.document",
            Self::Overwrite => "taken.document",
            Self::TwoMoves => "folder/b/c.document",
        }
    }

    /// The source and destination of each move.
    fn moves(self) -> Vec<(&'static str, &'static str)> {
        match self {
            Self::FolderMove => vec![("folder", "other")],
            Self::TwoMoves => vec![
                (SOURCE, "between.document"),
                ("between.document", self.destination()),
            ],
            _ => vec![(SOURCE, self.destination())],
        }
    }
}

/// When a participant opens the document at its new path.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Moment {
    /// Before the change is on disk.
    Staged,
    /// When the change is on disk, and not settled yet.
    Written,
    /// As soon as the change is settled.
    Told,
}

/// A world in which documents need compaction every few updates.
fn world() -> World {
    World::with_config(Config {
        snapshot_every: 3,
        ..Config::default()
    })
}

fn write(world: &mut World) -> BatchResult {
    world.run();
    let writes = world.held.take().expect("a batch is under way");
    world.store.commit(&writes).map_err(std::sync::Arc::new)
}

fn tell(world: &mut World, result: BatchResult) {
    world.room.handle_committed(result, world.now);
    world.run();
}

fn rename(world: &mut World, client: &Client, source: &str, destination: &str) -> u64 {
    let input =
        json!({ "source_path": source, "destination_path": destination, "overwrite": true });
    world.invoke(client, "storage", "move", input)
}

/// Everything that a client has received: answers by request, payloads by call, and closed calls.
#[derive(Default)]
struct Log {
    answers: Vec<(u64, Content)>,
    payloads: Vec<(String, Vec<u8>)>,
    closed: Vec<String>,
}

impl Log {
    fn take(&mut self, client: &Client) {
        for seen in client.take() {
            match seen {
                Seen::Answer(id, content) => self.answers.push((id, content)),
                Seen::Chunk(call, Content::Binary { data, .. }) => {
                    let update = base64::Engine::decode(&super::STANDARD, data).unwrap();
                    self.payloads.push((call, update));
                }
                Seen::Chunk(call, _) => self.closed.push(call),
                Seen::Other(_) => {}
            }
        }
    }

    fn answer(&self, id: u64) -> &Content {
        let mut answers = self.answers.iter().filter(|(to, _)| *to == id);
        let answer = answers.next().expect("it was answered");
        assert!(answers.next().is_none(), "two answers to {id}");
        &answer.1
    }

    fn payloads(&self, call: &str) -> Vec<Vec<u8>> {
        let of_call = self.payloads.iter().filter(|(of, _)| of == call);
        of_call.map(|(_, update)| update.clone()).collect()
    }
}

fn stored(world: &World, path: &str) -> Vec<Vec<u8>> {
    let room = RoomId::new("project", "room");
    let stored = world.store.load(&room, path).unwrap();
    let stored = stored.unwrap_or_else(|| panic!("nothing is stored at {path:?}"));
    let updates = stored.updates.iter().map(|one| one.update.to_vec());
    let snapshot = stored.snapshot.iter().map(|state| state.to_vec());
    snapshot.chain(updates).collect()
}

fn missing<'a>(updates: &[Vec<u8>], acknowledged: &[&'a str]) -> Vec<&'a str> {
    let missing = |id: &&&str| count(updates, id) != 1;
    acknowledged.iter().filter(missing).copied().collect()
}

/// Checks that every acknowledged update is at the path: in the store, after a compaction, and in
/// the state that a new reader receives.
fn everywhere(world: &mut World, path: &str, acknowledged: &[&str], what: &str) {
    let none: Vec<&str> = Vec::new();
    assert_eq!(
        missing(&stored(world, path), acknowledged),
        none,
        "{what}: stored"
    );
    world.pass_seconds(2);
    assert_eq!(
        missing(&stored(world, path), acknowledged),
        none,
        "{what}: folded"
    );
    let late = world.join("late");
    let state = world.open(&late, "l", json!({ "path": path }));
    assert_eq!(missing(&[state], acknowledged), none, "{what}: in memory");
    world.leave(&late);
    for connection in 1..=world.next_conn {
        let conn = super::Conn(connection);
        world.room.handle_leave(conn, world.now);
    }
    world.unload();
    assert_eq!(
        missing(&stored(world, path), acknowledged),
        none,
        "{what}: let go"
    );
    let late = world.join("late");
    let state = world.open(&late, "l", json!({ "path": path }));
    assert_eq!(missing(&[state], acknowledged), none, "{what}: read again");
}

fn race(change: Change, moment: Moment, patches: bool) {
    let what = format!("{change:?}, opened when {moment:?}, patches: {patches}");
    let destination = change.destination();
    let mut world = world();
    let (writer, mover) = (world.join("writer"), world.join("mover"));
    let (opener, owner) = (world.join("opener"), world.join("owner"));
    world.open(&writer, "w", json!({ "path": SOURCE }));
    if change == Change::Overwrite {
        world.open(&owner, "o", json!({ "path": destination }));
        world.update(&owner, "o", &Editor::new(77).append("body", "replaced"));
        world.settle();
    }
    let editor = Editor::new(1);
    let edit = |world: &mut World, id: &'static str| {
        if patches {
            let operation = json!({ "op": "add", "path": "/document/content/-", "value": { "body": { "$id": id } } });
            let input = json!({ "path": SOURCE, "patch": [operation] });
            (world.invoke(&writer, "sync", "patch", input), id)
        } else {
            (world.update(&writer, "w", &editor.append("body", id)), id)
        }
    };
    let mut seen = Log::default();
    let mut asked = vec![edit(&mut world, "under-way")];
    world.run();
    asked.push(edit(&mut world, "before"));
    let moves: Vec<u64> = change
        .moves()
        .into_iter()
        .map(|(source, destination)| rename(&mut world, &mover, source, destination))
        .collect();
    asked.push(edit(&mut world, "behind"));
    world.commit();
    asked.push(edit(&mut world, "next-batch"));
    let open = |world: &mut World, now: Moment| {
        if now == moment {
            world.begin_open(&opener, "n", json!({ "path": destination }));
            world.run();
        }
    };
    open(&mut world, Moment::Staged);
    let result = write(&mut world);
    asked.push(edit(&mut world, "written"));
    open(&mut world, Moment::Written);
    tell(&mut world, result);
    open(&mut world, Moment::Told);
    world.settle();

    seen.take(&writer);
    for id in moves {
        let mut log = Log::default();
        log.take(&mover);
        if log.answers.iter().any(|(to, _)| *to == id) {
            assert_eq!(*log.answer(id), Content::Empty, "{what}");
        }
    }
    let acknowledged: Vec<&str> = asked
        .iter()
        .filter(|(id, _)| code(seen.answer(*id)).is_none())
        .map(|(_, name)| *name)
        .collect();
    assert_eq!(acknowledged.len(), asked.len(), "{what}: all came in time");
    assert_eq!(
        seen.closed.len(),
        1,
        "{what}: the stream at the old place ends"
    );
    let mut at_new_place = Log::default();
    at_new_place.take(&opener);
    let mut call = "n";
    if !at_new_place.closed.is_empty() {
        // The client had opened the document that was replaced.
        assert!(
            change == Change::Overwrite && moment != Moment::Told,
            "{what}"
        );
        call = "again";
        world.begin_open(&opener, call, json!({ "path": destination }));
        world.settle();
        at_new_place.take(&opener);
    }
    let shown = at_new_place.payloads(call);
    assert_eq!(
        missing(&shown, &acknowledged),
        Vec::<&str>::new(),
        "{what}: shown"
    );
    assert_eq!(count(&shown, "replaced"), 0, "{what}");

    // The document continues at the new path.
    let more = world.update(
        &opener,
        call,
        &Editor::new(2).append("body", "at the new place"),
    );
    world.settle();
    assert_eq!(opener.answer(more), Content::Empty, "{what}");
    let acknowledged = [&acknowledged[..], &["at the new place"]].concat();
    everywhere(&mut world, destination, &acknowledged, &what);
}

#[test]
fn acknowledged_updates_follow_their_document_to_its_new_place() {
    for change in Change::ALL {
        for moment in [Moment::Staged, Moment::Written, Moment::Told] {
            race(change, moment, false);
        }
    }
}

#[test]
fn acknowledged_patches_follow_their_document_to_its_new_place() {
    for change in Change::ALL {
        for moment in [Moment::Staged, Moment::Written, Moment::Told] {
            race(change, moment, true);
        }
    }
}

#[test]
fn updates_behind_a_deletion_are_refused_and_not_in_the_next_document() {
    for moment in [Moment::Staged, Moment::Written, Moment::Told] {
        let what = format!("opened when {moment:?}");
        let mut world = world();
        let (writer, other) = (world.join("writer"), world.join("other"));
        let opener = world.join("opener");
        world.open(&writer, "w", json!({ "path": SOURCE }));
        let editor = Editor::new(1);
        let before = world.update(&writer, "w", &editor.append("body", "before"));
        let delete = world.invoke(&other, "storage", "delete", json!({ "path": SOURCE }));
        let behind = world.update(&writer, "w", &editor.append("body", "behind"));
        world.run();
        let next = world.update(&writer, "w", &editor.append("body", "next"));
        let open = |world: &mut World, now: Moment| {
            if now == moment {
                world.begin_open(&opener, "n", json!({ "path": SOURCE }));
                world.run();
            }
        };
        open(&mut world, Moment::Staged);
        let result = write(&mut world);
        open(&mut world, Moment::Written);
        tell(&mut world, result);
        open(&mut world, Moment::Told);
        world.settle();
        assert_eq!(other.answer(delete), Content::Empty, "{what}");
        let mut seen = Log::default();
        seen.take(&writer);
        assert_eq!(code(seen.answer(before)), None, "{what}");
        for id in [behind, next] {
            assert!(
                code(seen.answer(id)).is_some(),
                "{what}: the document was gone"
            );
        }
        // A client that had opened the old document saw it end. It opens the new one now.
        opener.take();
        world.begin_open(&opener, "again", json!({ "path": SOURCE }));
        world.settle();
        let update = Editor::new(2).append("body", "new");
        let new = world.update(&opener, "again", &update);
        world.settle();
        let mut log = Log::default();
        log.take(&opener);
        assert_eq!(*log.answer(new), Content::Empty, "{what}");
        let shown: Vec<Vec<u8>> = [log.payloads("again"), vec![update]].concat();
        let old = ["before", "behind", "next"].map(|id| count(&shown, id));
        assert_eq!(old, [0; 3], "{what}");
        everywhere(&mut world, SOURCE, &["new"], &what);
    }
}

/// Published clients learn from the close what was not kept, so the close comes last.
#[test]
fn the_close_of_a_deleted_document_reports_the_updates_behind_the_deletion() {
    let mut world = world();
    let (writer, other) = (world.join("writer"), world.join("other"));
    world.open(&writer, "w", json!({ "path": SOURCE }));
    world.open(&other, "o", json!({ "path": SOURCE }));
    let editor = Editor::new(1);
    let before = world.update(&writer, "w", &editor.append("body", "before"));
    world.invoke(&other, "storage", "delete", json!({ "path": SOURCE }));
    let mut behind = vec![world.update(&writer, "w", &editor.append("body", "zurück"))];
    world.run();
    // The first one is in the batch of the deletion, and this one is in the next.
    behind.push(world.update(&writer, "w", &editor.append("body", "落后")));
    world.settle();

    let own = |seen: &Seen| match seen {
        Seen::Answer(id, _) => *id == before || behind.contains(id),
        Seen::Chunk(_, chunk) => matches!(chunk, Content::Control(_)),
        Seen::Other(_) => false,
    };
    let seen: Vec<Seen> = writer.take().into_iter().filter(own).collect();
    let [
        Seen::Answer(kept, Content::Empty),
        refused @ ..,
        Seen::Chunk(_, close),
    ] = &*seen
    else {
        panic!("expected an answer, two refusals and a close, found {seen:?}");
    };
    assert_eq!(*kept, before);
    let named = |seen: &Seen| match seen {
        Seen::Answer(id, content) => (*id, code(content), super::text(content).contains(SOURCE)),
        _ => (0, None, false),
    };
    let refused: Vec<_> = refused.iter().map(named).collect();
    let not_found = |id: &u64| (*id, Some(ErrorCode::NotFound.number()), true);
    assert_eq!(refused, behind.iter().map(not_found).collect::<Vec<_>>());
    let Content::Control(Control::Close {
        status_code: Control::INVALID_DATA,
        message: Some(message),
    }) = close
    else {
        panic!("expected a close that reports a loss, found {close:?}");
    };
    assert!(message.contains("and 1 more"), "{message}");
    // Nothing of the other reader was lost.
    let seen = other.take();
    let closes = seen.iter().filter(|seen| matches!(seen, Seen::Chunk(_, Content::Control(close)) if *close == Control::close()));
    assert_eq!(closes.count(), 1, "{seen:?}");
}

/// The next read that the room requests; it is not done yet.
fn next_read(world: &mut World) -> (u64, super::Fetch) {
    match world.room.poll_action() {
        Some(Action::Fetch(number, fetch)) => (number, fetch),
        other => panic!("expected a read, found {other:?}"),
    }
}

/// A late result of a reload finds no document, another one, or its own at another path.
#[test]
fn a_late_reload_belongs_to_its_document() {
    for change in ["moved", "deleted", "replaced"] {
        for read_first in [false, true] {
            let what = format!("{change}, read first: {read_first}");
            let mut world = world();
            let (writer, other) = (world.join("writer"), world.join("other"));
            world.open(&writer, "w", json!({ "path": "a.document" }));
            world.open(&other, "o", json!({ "path": "b.document" }));
            world.update(&writer, "w", &Editor::new(1).append("body", "of-a"));
            world.update(&other, "o", &Editor::new(2).append("body", "of-b"));
            world.settle();

            let commits = world.store.commits();
            world
                .store
                .fail_commits(commits..commits + 1, Fault::Unavailable);
            let lost = world.update(&writer, "w", &Editor::new(3).append("body", "lost"));
            world.run();
            let result = write(&mut world);
            world.room.handle_committed(result, world.now);
            let (number, fetch) = next_read(&mut world);
            let early = read_first.then(|| world.read(fetch.clone()));
            match change {
                "moved" => _ = rename(&mut world, &other, "a.document", "c.document"),
                "deleted" => {
                    _ = world.invoke(&other, "storage", "delete", json!({ "path": "a.document" }));
                }
                _ => _ = rename(&mut world, &other, "b.document", "a.document"),
            }
            world.settle();
            let result = early.unwrap_or_else(|| world.read(fetch));
            world.room.handle_fetched(number, result, world.now);
            world.settle();

            assert!(code(&writer.answer(lost)).is_some(), "{what}");
            let (path, acknowledged) = match change {
                "moved" => ("c.document", "of-a"),
                "deleted" => ("b.document", "of-b"),
                _ => ("a.document", "of-b"),
            };
            let reader = world.join("reader");
            let state = world.open(&reader, "r", json!({ "path": path }));
            let shown = ["of-a", "of-b", "lost"].map(|id| count(std::slice::from_ref(&state), id));
            let expected = ["of-a", "of-b", "lost"].map(|id| usize::from(id == acknowledged));
            assert_eq!(shown, expected, "{what}");
            let more = world.update(&reader, "r", &Editor::new(4).append("body", "more"));
            world.settle();
            assert_eq!(reader.answer(more), Content::Empty, "{what}");
            everywhere(&mut world, path, &[acknowledged, "more"], &what);
        }
    }
}

#[test]
fn a_moved_document_that_nobody_has_open_is_read_at_its_new_place() {
    let mut world = world();
    let (writer, other) = (world.join("writer"), world.join("other"));
    world.open(&writer, "w", json!({ "path": SOURCE }));
    world.update(&writer, "w", &Editor::new(1).append("body", "kept"));
    world.settle();
    world.chunk(&writer, "w", Content::Control(Control::close()));
    world.unload();
    rename(&mut world, &other, "folder", "other");
    world.begin_open(&writer, "n", json!({ "path": "other/ä.document" }));
    world.settle();
    let state = writer.state("n");
    assert_eq!(count(&[state], "kept"), 1);
    let gone = json!({ "path": SOURCE, "create": false });
    world.begin_open(&other, "g", gone);
    world.settle();
    assert_eq!(code(&other.chunks("g")[0]), Some(1003));
}

/// A document stays in memory while one of its writes is in flight, even if it has no readers for
/// long.
#[test]
fn a_document_with_writes_under_way_is_not_let_go() {
    let mut world = world();
    let writer = world.join("writer");
    world.open(&writer, "w", json!({ "path": SOURCE }));
    world.update(&writer, "w", &Editor::new(1).append("body", "one"));
    world.run();
    world.update(&writer, "w", &Editor::new(2).append("body", "two"));
    world.leave(&writer);
    world.now.0 += 1_000_000;
    world.room.handle_timeout(world.now);
    let late = world.join("late");
    world.begin_open(&late, "l", json!({ "path": SOURCE }));
    world.settle();
    let updates = late.updates("l");
    assert_eq!((count(&updates, "one"), count(&updates, "two")), (1, 1));
    everywhere(&mut world, SOURCE, &["one", "two"], "under way");
}

/// Published clients learn this from the close alone, whichever side ends the call.
#[test]
fn a_move_tells_at_the_close_what_was_refused() {
    for deletes in [false, true] {
        let mut world = world();
        let (author, mover) = (world.join("author"), world.join("mover"));
        world.open(&author, "s", json!({ "path": SOURCE }));
        let refused = world.update(&author, "s", b"k\xc3\xa4se");
        assert_eq!(code(&author.answer(refused)), Some(1002));
        if deletes {
            world.invoke(&mover, "storage", "delete", json!({ "path": SOURCE }));
        } else {
            rename(&mut world, &mover, SOURCE, "elsewhere.document");
        }
        world.settle();
        match &author.chunks("s")[..] {
            [
                Content::Control(Control::Close {
                    status_code,
                    message: Some(message),
                }),
            ] => {
                assert_eq!(*status_code, Control::INVALID_DATA);
                assert!(message.contains("refused"), "{message}");
            }
            other => panic!("one close that says so, not {other:?}"),
        }
    }
}

/// A chunk may cross the close. Its sender has to learn that it may send the edit again, at the
/// present path of the document: 1002 would say that a retry does not help.
#[test]
fn what_crosses_the_close_of_a_moved_document_may_be_sent_again() {
    // More than the ended calls that a connection remembers.
    const CALLS: usize = 100;
    let mut world = world();
    let (author, mover) = (world.join("author"), world.join("mover"));
    for call in 0..CALLS {
        let path = format!("folder/{call}.document");
        world.open(&author, &call.to_string(), json!({ "path": path }));
    }
    rename(&mut world, &mover, "folder", "other");
    world.settle();
    for call in 0..CALLS {
        let late = Editor::new(1).append("body", "late");
        let sent = world.update(&author, &call.to_string(), &late);
        assert_eq!(code(&author.answer(sent)), Some(1006), "call {call}");
    }
}

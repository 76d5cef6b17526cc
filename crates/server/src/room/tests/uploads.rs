//! The end of an upload: its close chunk says that the file is on disk, whatever the client sends
//! meanwhile.

use meshagent_protocol::{ClientToServer, ServerToClient};
use meshagent_store::Fault;
use serde_json::{Value, json};

use crate::config::Config;

use super::{Bytes, Client, Content, Control, Seen, World, code, cpu_time, files, invoke};

const CALL: &str = "grüße";

fn piece(headers: Value, data: &'static str) -> Content {
    Content::Binary {
        headers: headers.as_object().unwrap().clone(),
        data: Bytes::from_static(data.as_bytes()),
    }
}

fn start(path: &str) -> Content {
    let headers = json!({ "kind": "start", "path": path, "overwrite": false });
    piece(headers, "")
}

fn data(text: &'static str) -> Content {
    piece(json!({ "kind": "data" }), text)
}

fn close() -> Content {
    Content::Control(Control::close())
}

fn open(world: &mut World, client: &Client) -> u64 {
    let open = invoke("storage", "upload", Content::Control(Control::Open), CALL);
    world.send(client, open)
}

/// Sends an upload up to its close. The disk does not write yet.
fn begin(world: &mut World, client: &Client, path: &str) {
    open(world, client);
    world.chunk(client, CALL, start(path));
    world.chunk(client, CALL, data("первый"));
    world.chunk(client, CALL, close());
    world.run();
    let seen = client.take();
    assert!(chunks(&seen).iter().all(is_pull), "{seen:?}");
}

fn chunks(seen: &[Seen]) -> Vec<Content> {
    let chunks = seen.iter().filter_map(|seen| match seen {
        Seen::Chunk(call, chunk) if call == CALL => Some(chunk.clone()),
        _ => None,
    });
    chunks.collect()
}

fn answer(seen: &[Seen], id: u64) -> &Content {
    let answer = seen.iter().find_map(|seen| match seen {
        Seen::Answer(request, content) if *request == id => Some(content),
        _ => None,
    });
    answer.unwrap_or_else(|| panic!("no answer to {id} in {seen:?}"))
}

fn is_pull(chunk: &Content) -> bool {
    matches!(chunk, Content::Binary { headers, .. } if headers["kind"] == "pull")
}

fn is_close(chunk: &Content) -> bool {
    let Content::Control(Control::Close { status_code, .. }) = chunk else {
        return false;
    };
    *status_code == 1000
}

fn exists(world: &mut World, client: &Client, path: &str) -> bool {
    let answer = world.call(client, "storage", "exists", json!({ "path": path }));
    answer == Content::Json(json!({ "exists": true }))
}

#[test]
fn a_second_close_does_not_say_that_the_file_is_on_disk() {
    for fails in [false, true] {
        let mut world = World::new();
        let client = world.join("client");
        if fails {
            let commits = world.store.commits();
            let store = &mut world.store;
            store.fail_commits(commits..commits + 1, Fault::Unavailable);
        }
        begin(&mut world, &client, "новый.txt");
        for _ in 0..3 {
            let again = world.chunk(&client, CALL, close());
            world.run();
            let seen = client.take();
            assert_eq!(*answer(&seen, again), Content::Empty);
            assert_eq!(seen.len(), 1, "nothing is on disk: {seen:?}");
        }
        world.commit();
        let seen = client.take();
        match &chunks(&seen)[..] {
            [end] if fails => assert_eq!(code(end), Some(1008)),
            [end] => assert!(is_close(end), "{end:?}"),
            other => panic!("one end of the call, not {other:?}"),
        }
        let late = world.chunk(&client, CALL, close());
        assert_eq!(client.answer(late), Content::Empty);
        assert_eq!(exists(&mut world, &client, "новый.txt"), !fails);
        assert_eq!(world.room.uploads.bytes(), 0);
    }
}

#[test]
fn a_second_close_does_not_hide_that_the_file_was_refused() {
    let mut world = World::new();
    let client = world.join("client");
    files::upload(&mut world, &client, "a.txt", b"old", false);
    begin(&mut world, &client, "a.txt");
    world.chunk(&client, CALL, close());
    world.settle();
    let ends = chunks(&client.take());
    assert_eq!(ends.len(), 1, "{ends:?}");
    assert_eq!(code(&ends[0]), Some(3005), "{ends:?}");
}

#[test]
fn the_end_of_an_upload_is_not_the_end_of_the_next_one_under_its_id() {
    let mut world = World::new();
    let client = world.join("client");
    begin(&mut world, &client, "a.txt");
    world.chunk(&client, CALL, close());
    let early = open(&mut world, &client);
    assert_eq!(code(&client.answer(early)), Some(1002), "it is still open");
    world.settle();
    let ends = chunks(&client.take());
    assert!(matches!(&ends[..], [end] if is_close(end)), "{ends:?}");

    // The id is free now. The next upload ends with its own commit.
    begin(&mut world, &client, "b.txt");
    world.settle();
    let ends = chunks(&client.take());
    assert!(matches!(&ends[..], [end] if is_close(end)), "{ends:?}");
    assert!(exists(&mut world, &client, "a.txt") && exists(&mut world, &client, "b.txt"));
    assert_eq!(world.room.participants[&client.conn].calls.len(), 0);
}

#[test]
fn what_follows_a_close_is_refused_and_does_not_end_the_call() {
    let mut world = World::new();
    let client = world.join("client");
    begin(&mut world, &client, "a.txt");
    let unreadable = || piece(json!({ "kind": "end" }), "");
    for late in [start("b.txt"), data("второй"), start("a.txt"), unreadable()] {
        let id = world.chunk(&client, CALL, late);
        world.run();
        let seen = client.take();
        assert_eq!(code(answer(&seen, id)), Some(1006), "{seen:?}");
        assert_eq!(seen.len(), 1, "the call goes on: {seen:?}");
    }
    world.chunk(&client, CALL, close());
    world.settle();
    let seen = client.take();
    let ends = chunks(&seen);
    assert!(matches!(&ends[..], [end] if is_close(end)), "{seen:?}");
    let told = seen.iter().filter_map(|seen| match seen {
        Seen::Other(ServerToClient::FileUpdated { path, .. }) => Some(path.as_str()),
        _ => None,
    });
    assert_eq!(told.collect::<Vec<_>>(), ["a.txt"]);
    assert!(exists(&mut world, &client, "a.txt") && !exists(&mut world, &client, "b.txt"));
}

#[test]
fn a_call_that_is_closed_before_it_began_is_closed_at_once() {
    let mut world = World::new();
    let client = world.join("client");
    open(&mut world, &client);
    world.chunk(&client, CALL, close());
    let ends = chunks(&client.take());
    assert!(matches!(&ends[..], [end] if is_close(end)), "{ends:?}");
    assert!(!world.commit(), "there is nothing to write");
}

/// Stalled uploads do not prevent others.
#[test]
fn an_upload_that_stands_still_makes_room_for_others() {
    let mut config = Config::default();
    config.limits.max_upload_bytes_per_room = 1_000;
    let mut world = World::with_config(config);
    let (idle, slow, busy) = (world.join("idle"), world.join("slow"), world.join("busy"));
    let half = "x".repeat(450).leak();
    for (client, path) in [(&idle, "ä"), (&slow, "ö"), (&busy, "ü")] {
        open(&mut world, client);
        world.chunk(client, CALL, start(path));
    }
    world.chunk(&idle, CALL, data(half));
    world.pass_seconds(5);
    world.chunk(&slow, CALL, data(half));
    let refused = world.chunk(&busy, CALL, data(half));
    world.settle();
    assert_eq!(code(answer(&busy.take(), refused)), Some(1008));
    world.pass_seconds(6);
    // The call failed, so it is opened again.
    open(&mut world, &busy);
    world.chunk(&busy, CALL, start("ü"));
    let accepted = world.chunk(&busy, CALL, data(half));
    world.chunk(&busy, CALL, close());
    world.settle();
    assert_eq!(*answer(&busy.take(), accepted), Content::Empty);
    assert!(exists(&mut world, &busy, "ü"));
    let ends = |client: &Client| {
        let chunks = chunks(&client.take());
        chunks.iter().filter(|chunk| code(chunk).is_some()).count()
    };
    assert_eq!(ends(&idle), 1);
    assert_eq!(ends(&slow), 0, "it stands still for six seconds only");
}

/// A room in which `count` uploads of one byte are stalled, and another one that has begun and
/// needs their space.
fn stalled(count: usize) -> (World, Client) {
    let mut config = Config::default();
    config.limits.max_upload_bytes_per_room = count;
    config.limits.max_streams_per_connection = count;
    config.limits.max_streams = count + 1;
    let mut world = World::with_config(config);
    let (idle, busy) = (world.join("idle"), world.join("büsy"));
    for number in 0..count {
        let call = format!("grüße{number}");
        let opened = invoke("storage", "upload", Content::Control(Control::Open), &call);
        world.send(&idle, opened);
        world.chunk(&idle, &call, start(&format!("ä{number}")));
        world.chunk(&idle, &call, data("x"));
        idle.take();
    }
    world.pass_seconds(11);
    open(&mut world, &busy);
    world.chunk(&busy, CALL, start("ü"));
    busy.take();
    (world, busy)
}

/// To end each of thousands of uploads costs less than it cost to begin them.
#[test]
fn many_uploads_that_stand_still_are_ended_in_linear_time() {
    const COUNT: usize = 8_000;
    let started = cpu_time();
    let (mut world, busy) = stalled(COUNT);
    let begun = cpu_time().saturating_sub(started);
    let bytes: &'static str = "x".repeat(COUNT).leak();
    let started = cpu_time();
    let accepted = world.chunk(&busy, CALL, data(bytes));
    let ended = cpu_time().saturating_sub(started);
    assert_eq!(*answer(&busy.take(), accepted), Content::Empty);
    assert_eq!(world.room.uploads.bytes(), COUNT);
    assert!(ended < begun, "{ended:?}, and {begun:?} to begin them");
}

#[test]
fn a_piece_that_ends_many_uploads_is_no_light_work() {
    let (world, busy) = stalled(2_000);
    let weight = |bytes: &'static str| {
        let chunk = ClientToServer::RequestChunk {
            tool_call_id: CALL.to_owned(),
            chunk: data(bytes),
        };
        world.room.message_weight(busy.conn, &chunk)
    };
    let (one, all) = (weight("x"), weight("x".repeat(2_000).leak()));
    assert!(one < 10_000, "{one}");
    assert!(crate::lane::is_heavy(all), "{all}");
}

/// An upload whose pieces wait in the room is not stalled.
#[test]
fn the_time_for_which_an_upload_waited_for_the_server_is_not_its_own() {
    let mut config = Config::default();
    config.limits.max_upload_bytes_per_room = 600;
    let mut world = World::with_config(config);
    let (patient, busy) = (world.join("geduldig"), world.join("büsy"));
    let half = "x".repeat(400).leak();
    open(&mut world, &patient);
    world.chunk(&patient, CALL, start("ä"));
    world.chunk(&patient, CALL, data(half));
    let account = world.room.participants[&patient.conn].account.clone();
    for (seconds, waited, makes_room) in [(12, 5, false), (2, 2, false), (4, 0, true)] {
        world.pass_seconds(seconds);
        account.keep_waiting(std::time::Duration::from_secs(waited));
        open(&mut world, &busy);
        world.chunk(&busy, CALL, start("ö"));
        let piece = world.chunk(&busy, CALL, data(half));
        let answer = answer(&busy.take(), piece).clone();
        assert_eq!(answer == Content::Empty, makes_room, "{answer:?}");
    }
}

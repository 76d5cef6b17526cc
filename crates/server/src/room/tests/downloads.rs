//! Downloads of a room: read in parts when they are pulled, and always of one content.

use meshagent_store::{Store as _, Write};

use super::*;

fn content(seed: u8, bytes: usize) -> Bytes {
    (0..251)
        .cycle()
        .take(bytes)
        .map(|number: u8| number ^ seed)
        .collect()
}

fn put(world: &World, path: &str, data: &Bytes) {
    let write = Write::PutFile {
        room: RoomId::new("project", "room"),
        path: path.to_owned(),
        data: data.clone(),
        mime_type: "image/png".to_owned(),
        overwrite: true,
        at: world.now,
    };
    world.store.commit(&[write]).unwrap().remove(0).unwrap();
}

fn binary(headers: Value) -> Content {
    Content::Binary {
        headers: headers.as_object().unwrap().clone(),
        data: Bytes::new(),
    }
}

fn start(world: &mut World, client: &Client, call: &str, path: &str, chunk_size: usize) {
    let open = invoke("storage", "download", Content::Control(Control::Open), call);
    world.send(client, open);
    let start = json!({ "kind": "start", "path": path, "chunk_size": chunk_size });
    world.chunk(client, call, binary(start));
    world.settle();
}

fn pull(world: &mut World, client: &Client, call: &str) -> u64 {
    world.chunk(client, call, binary(json!({ "kind": "pull" })))
}

fn data(chunks: &[Content]) -> Vec<u8> {
    chunks
        .iter()
        .filter_map(|chunk| match chunk {
            Content::Binary { headers, data } if headers["kind"] == "data" => Some(&data[..]),
            _ => None,
        })
        .collect::<Vec<_>>()
        .concat()
}

/// The parts that the room requests from the store.
fn reads(world: &mut World) -> Vec<(u64, usize)> {
    let mut parts = Vec::new();
    while let Some(action) = world.room.poll_action() {
        let Action::Fetch(number, fetch) = action else {
            panic!("{action:?}")
        };
        if let Fetch::FilePart {
            reading, length, ..
        } = &fetch
        {
            parts.push((reading.position(), *length));
        }
        let room = RoomId::new("project", "room");
        let result = crate::rooms::read_now(&world.store, &room, fetch);
        world.room.handle_fetched(number, result, world.now);
    }
    parts
}

#[test]
fn a_file_is_read_as_far_as_it_is_pulled() {
    let mut world = World::new();
    let client = world.join("jörg");
    let file = content(1, 3 << 20);
    put(&world, "ä/large.png", &file);
    for number in 0..80 {
        start(
            &mut world,
            &client,
            &format!("call-{number}"),
            "ä/large.png",
            1000,
        );
    }
    // Without a pull, nothing is read. One pull of each download reads little ahead, however many
    // there are.
    assert_eq!(reads(&mut world), []);
    let mut ahead = 0;
    for number in 0..80 {
        pull(&mut world, &client, &format!("call-{number}"));
        for (_, length) in reads(&mut world) {
            ahead += length - 1000;
        }
    }
    assert!(ahead <= 1 << 20, "{ahead} bytes are read ahead");
    let seen = client.take();
    for number in 0..80 {
        let call = format!("call-{number}");
        let chunks: Vec<_> = seen
            .iter()
            .filter_map(|seen| match seen {
                Seen::Chunk(id, chunk) if *id == call => Some(chunk.clone()),
                _ => None,
            })
            .collect();
        assert_eq!(data(&chunks), file[..1000], "{call}");
    }
}

#[test]
fn pulls_that_come_together_are_answered_in_order() {
    let mut world = World::new();
    let client = world.join("jörg");
    let file = content(2, 1_300_001);
    put(&world, "f", &file);
    start(&mut world, &client, "call", "f", 100_000);
    let ids: Vec<_> = (0..20).map(|_| pull(&mut world, &client, "call")).collect();
    world.settle();
    // The queue is over its mark: the rest waits until the client reads.
    let mut chunks = client.chunks("call");
    world.room.handle_drained(client.conn);
    world.settle();
    chunks.extend(client.chunks("call"));
    assert!(data(&chunks) == file, "{} bytes", data(&chunks).len());
    assert!(matches!(
        chunks.last(),
        Some(Content::Control(Control::Close {
            status_code: 1000,
            ..
        }))
    ));
    assert_eq!(ids.len(), 20);
}

#[test]
fn a_download_does_not_mix_two_contents() {
    for change in ["replaced", "deleted", "moved"] {
        let mut world = World::new();
        let (client, other) = (world.join("jörg"), world.join("zoë"));
        let (old, new) = (content(3, 2 << 20), content(4, 2 << 20));
        put(&world, "f", &old);
        start(&mut world, &client, "call", "f", 200_000);
        pull(&mut world, &client, "call");
        world.settle();
        let mut chunks = client.chunks("call");
        match change {
            "replaced" => put(&world, "f", &new),
            "deleted" => drop(world.call(&other, "storage", "delete", json!({ "path": "f" }))),
            _ => drop(world.call(
                &other,
                "storage",
                "move",
                json!({ "source_path": "f", "destination_path": "g" }),
            )),
        }
        let mut last = 0;
        for _ in 0..20 {
            last = pull(&mut world, &client, "call");
            world.settle();
        }
        chunks.extend(client.chunks("call"));
        let got = data(&chunks);
        assert!(old.starts_with(&got), "{change}: {} bytes", got.len());
        assert!(got.len() < old.len(), "{change}");
        assert!(
            matches!(
                chunks.last(),
                Some(Content::Error {
                    code: Some(1008),
                    ..
                })
            ),
            "{change}: {:?}",
            chunks.last()
        );
        assert!(last > 0);
    }
}

#[test]
fn what_was_read_ahead_is_not_sent_when_the_file_is_gone() {
    for change in [
        "replaced",
        "deleted",
        "moved",
        "folder deleted",
        "folder moved",
    ] {
        let mut world = World::new();
        let (client, other) = (world.join("jörg"), world.join("zoë"));
        let (file, small) = (content(6, 400_000), content(7, 400_000));
        put(&world, "ä/f", &file);
        put(&world, "ä/g", &small);
        start(&mut world, &client, "call", "ä/f", 100_000);
        start(&mut world, &client, "other", "ä/g", 100_000);
        pull(&mut world, &client, "call");
        pull(&mut world, &client, "other");
        world.settle();
        let seen = client.take();
        assert_eq!(data(&of_call(&seen, "call")), file[..100_000], "{change}");
        let (tool, input) = match change {
            "deleted" => ("delete", json!({ "path": "ä/f" })),
            "folder deleted" => ("delete", json!({ "path": "ä", "recursive": true })),
            "moved" => (
                "move",
                json!({ "source_path": "ä/f", "destination_path": "ö" }),
            ),
            _ => (
                "move",
                json!({ "source_path": "ä", "destination_path": "ö" }),
            ),
        };
        if change == "replaced" {
            files::upload(&mut world, &other, "ä/f", "neu ☃".as_bytes(), true);
        } else {
            let done = world.call(&other, "storage", tool, input);
            assert_eq!(code(&done), None, "{change}: {done:?}");
        }
        for _ in 0..5 {
            pull(&mut world, &client, "call");
            pull(&mut world, &client, "other");
            world.settle();
        }
        let seen = client.take();
        let chunks = of_call(&seen, "call");
        assert_eq!(data(&chunks).len(), 0, "{change}");
        assert!(
            matches!(
                chunks.last(),
                Some(Content::Error {
                    code: Some(1008),
                    ..
                })
            ),
            "{change}: {chunks:?}"
        );
        // The download of another file continues.
        let rest = if change.starts_with("folder") {
            0
        } else {
            300_000
        };
        assert_eq!(data(&of_call(&seen, "other")).len(), rest, "{change}");
    }
}

/// The chunks of one call.
fn of_call(seen: &[Seen], call: &str) -> Vec<Content> {
    let chunks = seen.iter().filter_map(|seen| match seen {
        Seen::Chunk(id, chunk) if id == call => Some(chunk.clone()),
        _ => None,
    });
    chunks.collect()
}

#[test]
fn a_download_that_is_closed_answers_its_pulls() {
    let mut world = World::new();
    let client = world.join("jörg");
    put(&world, "f", &content(5, 100));
    start(&mut world, &client, "call", "f", 10);
    client.take();
    let pulled = pull(&mut world, &client, "call");
    let closed = world.chunk(&client, "call", Content::Control(Control::close()));
    world.settle();
    let answers: Vec<_> = client
        .take()
        .into_iter()
        .filter_map(|seen| match seen {
            Seen::Answer(id, Content::Empty) => Some(id),
            _ => None,
        })
        .collect();
    assert!(
        answers.contains(&pulled) && answers.contains(&closed),
        "{answers:?}"
    );
}

#[test]
fn downloads_of_what_stays_go_on() {
    for change in ["folder onto a folder", "file above", "upload above"] {
        let mut world = World::new();
        let (client, other) = (world.join("jörg"), world.join("zoë"));
        let file = content(6, 400_000);
        // A file may have the name of a folder.
        for path in ["docs", "neu/ü"] {
            put(&world, path, &content(1, 10));
        }
        put(&world, "docs/groß", &file);
        start(&mut world, &client, "call", "docs/groß", 100_000);
        pull(&mut world, &client, "call");
        world.settle();
        let first = client.take();
        let mut taken = data(&of_call(&first, "call"));
        let moved = json!({ "source_path": "neu", "destination_path": "docs" });
        let done = match change {
            "folder onto a folder" => world.call(&other, "storage", "move", moved),
            "file above" => world.call(&other, "storage", "delete", json!({ "path": "docs" })),
            _ => {
                files::upload(&mut world, &other, "docs", b"neu", true);
                Content::Empty
            }
        };
        assert_eq!(code(&done), None, "{change}: {done:?}");
        for _ in 0..5 {
            pull(&mut world, &client, "call");
            world.settle();
        }
        let rest = client.take();
        taken.extend(data(&of_call(&rest, "call")));
        assert_eq!(taken.len(), file.len(), "{change}");
    }
}

/// The files that the room wants to open. The store answers when the test says so.
fn openings(world: &mut World) -> Vec<(u64, Fetch)> {
    let mut asked = Vec::new();
    while let Some(action) = world.room.poll_action() {
        match action {
            Action::Fetch(number, fetch @ Fetch::OpenFile { .. }) => asked.push((number, fetch)),
            other => panic!("{other:?}"),
        }
    }
    asked
}

#[test]
fn files_are_opened_one_at_a_time_for_a_connection() {
    const CALLS: usize = 50;
    let mut world = World::new();
    let (client, other) = (world.join("jörg"), world.join("zoë"));
    put(&world, "ä/large.png", &content(1, 3 << 20));
    let begin = |world: &mut World, client: &Client, call: &str| {
        let open = invoke("storage", "download", Content::Control(Control::Open), call);
        world.send(client, open);
        let start = json!({ "kind": "start", "path": "ä/large.png", "chunk_size": 1000 });
        world.chunk(client, call, binary(start))
    };
    let calls: Vec<String> = (0..CALLS).map(|number| format!("c{number}")).collect();
    let requests: Vec<u64> = calls
        .iter()
        .map(|call| begin(&mut world, &client, call))
        .collect();
    let others = begin(&mut world, &other, "other");
    // A download that is closed while it waits is answered, and its file is never opened.
    let close = world.chunk(&client, &calls[7], Content::Control(Control::close()));
    let mut under_way = openings(&mut world);
    assert_eq!(under_way.len(), 2, "one for each connection");
    let mut opened = 0;
    while let Some((number, fetch)) = under_way.pop() {
        opened += 1;
        let result = world.read(fetch);
        world.room.handle_fetched(number, result, world.now);
        under_way.extend(openings(&mut world));
        assert!(under_way.len() <= 2, "{} are under way", under_way.len());
    }
    assert_eq!(opened, CALLS, "all but the closed one, and the other's");
    let seen = client.take();
    for request in requests.into_iter().chain([close]) {
        let is_answer = |seen: &&Seen| matches!(seen, Seen::Answer(id, _) if *id == request);
        let answers: Vec<_> = seen.iter().filter(is_answer).collect();
        assert!(
            matches!(answers[..], [Seen::Answer(_, Content::Empty)]),
            "{request}: {answers:?}"
        );
    }
    assert_eq!(other.answer(others), Content::Empty);
}

/// A client may use a call's id again after the call has ended.
#[test]
fn a_download_gets_nothing_of_the_one_before_with_its_id() {
    // What is read for the first download when the second begins: its file is opened, a part is
    // read, or the server looks up what is at the path instead of a file.
    for (path, pulls, steps) in [
        ("first", false, 0),
        ("first", true, 0),
        ("missing", false, 1),
    ] {
        let mut world = World::new();
        let client = world.join("client");
        put(&world, "first", &content(1, 1_000));
        put(&world, "second", &content(2, 1_000));
        let open = || invoke("storage", "download", Content::Control(Control::Open), "d");
        let start_of = |path: &str| binary(json!({ "kind": "start", "path": path }));
        world.send(&client, open());
        world.chunk(&client, "d", start_of(path));
        if pulls {
            world.settle();
            pull(&mut world, &client, "d");
        }
        let mut reading = world.room.poll_action();
        for _ in 0..steps {
            let Some(Action::Fetch(number, fetch)) = reading else {
                panic!("{reading:?}")
            };
            let result = world.read(fetch);
            world.room.handle_fetched(number, result, world.now);
            reading = world.room.poll_action();
        }
        world.chunk(&client, "d", Content::Control(Control::close()));
        world.send(&client, open());
        world.chunk(&client, "d", start_of("second"));
        if pulls {
            world.settle();
            pull(&mut world, &client, "d");
        }
        if pulls {
            client.take();
        }
        let Some(Action::Fetch(number, fetch)) = reading else {
            panic!("{reading:?}")
        };
        let result = world.read(fetch);
        world.room.handle_fetched(number, result, world.now);
        world.settle();
        if !pulls {
            pull(&mut world, &client, "d");
            world.settle();
        }
        let case = format!("{path}, {pulls}");
        let chunks = client.chunks("d");
        assert!(data(&chunks) == content(2, 1_000), "{case}");
        let failed = chunks.iter().find(|chunk| code(chunk).is_some());
        assert_eq!(failed, None, "{case}");
        let starts = chunks.iter().filter(
            |chunk| matches!(chunk, Content::Binary { headers, .. } if headers["kind"] == "start"),
        );
        assert_eq!(starts.count(), usize::from(!pulls), "{case}");
    }
}

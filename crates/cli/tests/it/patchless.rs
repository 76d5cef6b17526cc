//! `meshagent room sync update` on a server without the tool `patch`: a proxy replaces the name of
//! the tool.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use meshagent_protocol::{
    ClientToServer, Envelope, Message, PacketLimits, PacketReader, SyncChunk,
};
use serde_json::{Value, json};

use crate::raw::masked_length;
use crate::room::{Home, PLAN, json as parsed, refused};
use crate::{Ran, run};

/// A home with a proxy that hides the tool.
struct Patchless {
    home: Home,
    url: String,
    seen: Arc<Seen>,
}

/// Counts of requests in the proxy, and a command to run there.
#[derive(Default)]
struct Seen {
    /// Calls of the tool.
    patches: AtomicUsize,
    /// Updates of open documents.
    updates: AtomicUsize,
    /// A command to run before the next update is forwarded.
    meanwhile: Mutex<Option<Command>>,
}

impl Patchless {
    /// Creates the document `plan`.
    fn new() -> Self {
        let home = Home::new();
        home.create("plan");
        let server = home.server().url().trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Seen::default());
        let for_proxy = Arc::clone(&seen);
        thread::spawn(move || {
            for client in listener.incoming() {
                proxy(client.unwrap(), &server, &for_proxy);
            }
        });
        Self { home, url, seen }
    }

    /// `meshagent room sync update plan` with this patch, without the tool.
    fn update(&self, patch: &Value, more: &[&str]) -> Ran {
        let before = self.seen.patches.load(Ordering::SeqCst);
        let mut command = command(&self.home, patch, more);
        let ran = run(command.env("MESHAGENT_API_URL", &self.url));
        let tried = self.seen.patches.load(Ordering::SeqCst) - before;
        assert_eq!(tried, 1, "the tool is asked for once");
        ran
    }

    /// The same without the proxy.
    fn update_by_tool(&self, patch: &Value, more: &[&str]) -> Ran {
        run(&mut command(&self.home, patch, more))
    }

    fn get_with_ids(&self) -> Value {
        let get = ["sync", "get", "plan", "--include-ids"];
        parsed(&self.home.done(&get))
    }

    fn updates(&self) -> usize {
        self.seen.updates.load(Ordering::SeqCst)
    }
}

fn command(home: &Home, patch: &Value, more: &[&str]) -> Command {
    let patch = patch.to_string();
    home.command(&[&["sync", "update", "plan", "--patch", &patch], more].concat())
}

/// Forwards data in both directions until one side closes.
fn proxy(client: TcpStream, server: &str, seen: &Arc<Seen>) {
    let server = TcpStream::connect(server).unwrap();
    let to_client = Closing(client.try_clone().unwrap());
    let to_server = Closing(server.try_clone().unwrap());
    let (mut client, mut server) = (client, server);
    thread::spawn(move || {
        let _ended = io::copy(&mut server, &mut &to_client.0);
    });
    let seen = Arc::clone(seen);
    thread::spawn(move || {
        let _ended = pass_requests(&mut client, &to_server.0, &seen);
    });
}

/// Shuts down the connection when dropped, also by a panic, so that the other direction ends.
struct Closing(TcpStream);

impl Drop for Closing {
    fn drop(&mut self) {
        let _gone = self.0.shutdown(Shutdown::Both);
    }
}

fn pass_requests(client: &mut TcpStream, mut server: &TcpStream, seen: &Seen) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte)?;
        head.extend(byte);
    }
    server.write_all(&head)?;
    let mut packets = PacketReader::new(PacketLimits::default());
    loop {
        let (opcode, payload) = read_frame(client)?;
        if opcode != BINARY {
            write_frame(server, opcode, &payload)?;
        } else if let Some(message) = packets.handle_packet(&payload).unwrap() {
            pass_message(&message, server, seen)?;
        }
    }
}

fn pass_message(message: &Message, server: &TcpStream, seen: &Seen) -> io::Result<()> {
    let mut packets = Vec::new();
    let mut envelope = Envelope::parse(message.clone()).unwrap();
    match &mut envelope.message {
        ClientToServer::Invoke(invoke) if invoke.toolkit == "sync" && invoke.tool == "patch" => {
            seen.patches.fetch_add(1, Ordering::SeqCst);
            "no-such-tool".clone_into(&mut invoke.tool);
            envelope.encode(&mut packets);
        }
        ClientToServer::RequestChunk { chunk, .. } if SyncChunk::parse(chunk).is_ok() => {
            seen.updates.fetch_add(1, Ordering::SeqCst);
            if let Some(mut command) = seen.meanwhile.lock().unwrap().take() {
                let ran = run(&mut command);
                assert_eq!(ran.code, Some(0), "{}", ran.stderr);
            }
            message.encode(&mut packets);
        }
        _ => message.encode(&mut packets),
    }
    for packet in packets {
        write_frame(server, BINARY, &packet)?;
    }
    Ok(())
}

const BINARY: u8 = 2;

/// The opcode and the payload of a client's frame.
fn read_frame(client: &mut TcpStream) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 2];
    client.read_exact(&mut head)?;
    assert_eq!(head[0] & 0xf0, 0x80, "clients send whole frames");
    assert_eq!(head[1] & 0x80, 0x80, "clients mask");
    let mut length = [0; 8];
    match head[1] & 0x7f {
        126 => client.read_exact(&mut length[6..])?,
        127 => client.read_exact(&mut length)?,
        short => length[7] = short,
    }
    let mut mask = [0; 4];
    client.read_exact(&mut mask)?;
    let mut payload = vec![0; usize::try_from(u64::from_be_bytes(length)).unwrap()];
    client.read_exact(&mut payload)?;
    for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
    Ok((head[0] & 0x0f, payload))
}

fn write_frame(mut server: &TcpStream, opcode: u8, payload: &[u8]) -> io::Result<()> {
    // Masked with zeros, which leave the payload as it is.
    let mut frame = vec![0x80 | opcode];
    frame.extend(masked_length(payload.len()));
    frame.extend([0; 4]);
    frame.extend(payload);
    server.write_all(&frame)
}

#[test]
fn change_is_minimal_and_keeps_concurrent_edits() {
    let patchless = Patchless::new();
    let before = patchless.get_with_ids();

    // Between reading the document and sending the change, others change another element and
    // another attribute of the same element, and add an element.
    let others = json!([
        { "op": "replace", "path": "/doc/children/1/item/s", "value": "rye bread" },
        { "op": "replace", "path": "/doc/children/0/item/n", "value": 3 },
        { "op": "add", "path": "/doc/children/0", "value": { "item": { "s": "salt" } } },
    ]);
    let meanwhile = command(&patchless.home, &others, &[]);
    *patchless.seen.meanwhile.lock().unwrap() = Some(meanwhile);
    let patch = json!([
        { "op": "replace", "path": "/doc/children/0/item/s", "value": "oat milk" },
        { "op": "add", "path": "/doc/children/-", "value": { "item": { "s": "tea", "n": 1 } } },
    ]);
    let ran = patchless.update(&patch, &[]);
    assert_eq!(
        (ran.code, ran.stdout.as_str(), ran.stderr.as_str()),
        (Some(0), "Updated document at plan\n", "")
    );
    assert_eq!(patchless.updates(), 1, "all of it or nothing");
    assert!(patchless.seen.meanwhile.lock().unwrap().is_none());

    let mut after = patchless.get_with_ids();
    let old = |index: usize| before["doc"]["children"][index]["item"]["$id"].clone();
    assert_ne!(old(0), old(1));
    for index in [0, 3] {
        let id = after["doc"]["children"][index]["item"]["$id"].take();
        assert!(id.is_string() && ![old(0), old(1)].contains(&id), "{id}");
    }
    let expected = json!([
        { "item": { "$id": null, "s": "salt" } },
        { "item": { "$id": old(0), "s": "oat milk", "n": 3 } },
        { "item": { "$id": old(1), "s": "rye bread" } },
        { "item": { "$id": null, "s": "tea", "n": 1 } },
    ]);
    assert_eq!(after["doc"]["children"], expected);
    assert_eq!(after["doc"]["title"], "Plan");
}

#[test]
fn removed_parts_are_reported() {
    let patchless = Patchless::new();
    // Both use the same $id, which must be unique.
    let item = |s: &str| json!({ "item": { "$id": "same", "s": s } });
    let add = |s| json!([{ "op": "add", "path": "/doc/children/0", "value": item(s) }]);
    let meanwhile = command(&patchless.home, &add("theirs"), &[]);
    *patchless.seen.meanwhile.lock().unwrap() = Some(meanwhile);
    let ran = patchless.update(&add("mine"), &["--json"]);
    let words = [
        "others changed \"plan\"",
        "\n  /doc/children/",
        "\nhint: check the document, and patch it again",
    ];
    refused(&ran, 1, &words);
}

#[test]
fn failures_match_the_tool_and_change_nothing() {
    let patchless = Patchless::new();
    let before = patchless.get_with_ids();
    let good = json!({ "op": "remove", "path": "/doc/children/0" });
    for (code, bad, words) in [
        (
            1,
            json!({ "op": "remove", "path": "/doc/absent" }),
            "operation 1: \"/doc/absent\" does not exist",
        ),
        (
            1,
            json!({ "op": "test", "path": "/doc/title", "value": "Another" }),
            "operation 1: test failed at \"/doc/title\": expected \"Another\"",
        ),
        // Violations of the schema: an attribute, a type, and a tag.
        (
            1,
            json!({ "op": "add", "path": "/doc/colour", "value": "red" }),
            "violates the schema in 1 place:\n  /doc/colour: ",
        ),
        (
            1,
            json!({ "op": "add", "path": "/doc/children/0/item/n", "value": "two" }),
            "violates the schema in 1 place:\n  /doc/children/0/item/n: ",
        ),
        (
            1,
            json!({ "op": "add", "path": "/doc/children/-", "value": { "task": {} } }),
            "violates the schema in 1 place:\n  /doc/children/1",
        ),
        (2, json!({ "op": "frob" }), "operation 1 is malformed"),
        (
            2,
            json!({ "op": "add", "path": "/doc/a~", "value": 1 }),
            "in a pointer, \"~\" must be followed by",
        ),
        (
            2,
            json!({ "op": "remove", "path": "/doc/~2" }),
            "operation 1 is malformed",
        ),
    ] {
        let patch = json!([good, bad]);
        for more in [&[][..], &["--json"], &["--dry-run"]] {
            let ran = patchless.update(&patch, more);
            refused(&ran, code, &[words, "\nhint: "]);
            let by_tool = patchless.update_by_tool(&patch, more);
            assert_eq!((by_tool.code, by_tool.stderr), (ran.code, ran.stderr));
        }
    }
    assert_eq!(patchless.get_with_ids(), before);
    assert_eq!(patchless.updates(), 0);

    patchless.home.done(&["sync", "delete", "plan"]);
    for more in [&[][..], &["--json"], &["--dry-run"], &["--if-version", "v"]] {
        let ran = patchless.update(&json!([good]), more);
        refused(&ran, 3, &["\"plan\"", "\nhint: "]);
        let by_tool = patchless.update_by_tool(&json!([good]), more);
        refused(&by_tool, 3, &["\"plan\"", "\nhint: "]);
    }
}

#[test]
fn results_of_operations_are_printed_without_a_version() {
    let patchless = Patchless::new();
    let before = patchless.get_with_ids();
    let patch = json!([
        { "op": "test", "path": "/doc/title", "value": "Plan" },
        { "op": "replace", "path": "/doc/title", "value": "Plan" },
        { "op": "remove", "path": "/doc/children/0" },
    ]);
    let without_version = |ran: &Ran| {
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
        let mut answer = parsed(&ran.stdout);
        answer["version"] = Value::Null;
        answer
    };

    let dry = patchless.update(&patch, &["--dry-run"]);
    let by_tool = patchless.update_by_tool(&patch, &["--dry-run"]);
    assert_eq!(parsed(&dry.stdout), without_version(&by_tool));
    assert_eq!(parsed(&dry.stdout)["dry_run"], true);
    assert_eq!(patchless.get_with_ids(), before);
    assert_eq!(patchless.updates(), 0);

    let done = patchless.update(&patch, &["--json"]);
    let expected = json!({
        "version": null,
        "operations": [
            { "op": "test", "path": "/doc/title", "result": "no change" },
            { "op": "replace", "path": "/doc/title", "result": "no change" },
            { "op": "remove", "path": "/doc/children/0", "result": "applied" },
        ],
    });
    assert_eq!(without_version(&done), expected);
    assert_eq!(parsed(&done.stdout), expected);
    let left = r#"{"doc": {"title": "Plan", "children": [{"item": {"s": "bread"}}]}}"#;
    assert_eq!(patchless.home.get("plan"), left);

    // An empty change is not sent.
    let updates = patchless.updates();
    let nothing = json!([patch[0], patch[1]]);
    let ran = patchless.update(&nothing, &["--json"]);
    let by_tool = patchless.update_by_tool(&nothing, &["--json"]);
    assert_eq!(parsed(&ran.stdout), without_version(&by_tool));
    assert_eq!(patchless.updates(), updates);
}

#[test]
fn if_version_is_refused_without_the_tool() {
    let patchless = Patchless::new();
    let seen = patchless.home.done(&["sync", "get", "plan", "--version"]);
    let version = parsed(&seen)["version"].as_str().unwrap().to_owned();
    let patch = json!([{ "op": "remove", "path": "/doc/children/0" }]);
    for more in [&[][..], &["--json"], &["--dry-run"]] {
        let more = [&["--if-version", &version], more].concat();
        let words = [
            "can't update \"plan\" if its version is",
            "does not support versions",
            "\nhint: nothing was changed; omit --if-version",
        ];
        refused(&patchless.update(&patch, &more), 1, &words);
    }
    assert_eq!(patchless.home.get("plan"), PLAN);
    assert_eq!(patchless.updates(), 0);
}

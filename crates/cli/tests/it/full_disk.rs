//! A full disk: writes are refused, reads continue, and writes succeed again when there is space.
//!
//! A file size limit on the running server simulates the full disk.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use meshagent_client::{CallError, Connection, SyncStream};
use meshagent_document::{MeshDocument, MeshSchema, Target};
use meshagent_protocol::DocPath;
use meshagent_protocol::sync::SyncOpenStart;
use rlimit::{INFINITY, Resource};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::serve::{Server, serve_with, under_limit};
use crate::stress::{alone, http_get, metric, room_url, token};

/// No step takes this long; a test that hangs fails.
const PATIENCE: Duration = Duration::from_mins(3);

#[test]
fn full_disk_refuses_only_writes() {
    let _machine = alone();
    let home = TempDir::new().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let accepted = runtime.block_on(fill_and_free(home.path()));

    // After a restart, exactly the accepted writes are there.
    let server = Server::start(&mut serve(home.path()));
    runtime.block_on(async {
        let client = Connection::connect(&room_url(server.url()), &token("late"))
            .await
            .unwrap();
        let shown = texts(&client.sync().describe("a.document").await.unwrap());
        assert_eq!(shown, accepted);
        for path in ["new.document", "file.bin"] {
            assert!(!client.storage().exists(path).await.unwrap(), "{path}");
        }
        client.close().await;
    });
    server.terminate();
}

/// Fills and frees the disk twice; returns the texts of the accepted writes in order.
async fn fill_and_free(home: &Path) -> Vec<String> {
    let server = Server::start(&mut serve(home));
    let url = room_url(server.url());
    let writer = Connection::connect(&url, &token("writer")).await.unwrap();
    let reader = Connection::connect(&url, &token("reader")).await.unwrap();
    writer
        .sync()
        .create("apart.document", Some(content("apart")), None)
        .await
        .unwrap();
    let mut writing = Writing {
        stream: writer.sync().open(&start()).await.unwrap(),
        known: replica(1),
        client_id: 1,
    };
    let mut shown = Shown {
        stream: reader.sync().open(&start()).await.unwrap(),
        replica: replica(2),
    };
    let mut accepted = Vec::new();

    for (round, room) in [300_000, 0].into_iter().enumerate() {
        let first = format!("{round} before");
        writing.append(&first).await.unwrap();
        accepted.push(first);
        shown.wait_for(&accepted).await;

        // In the first round the disk becomes full during writes; in the second there is no space
        // at all.
        let wal = home.join("data/meshagent.db-wal").metadata().unwrap().len();
        limit_files(server.id(), if room == 0 { 0 } else { wal + room });
        let mut failures = 0;
        for attempt in 0..100 {
            let text = format!("{round} {attempt} {}", "x".repeat(40_000));
            match writing.append(&text).await {
                Ok(()) => accepted.push(text),
                Err(error) => {
                    assert_typed(&error);
                    failures += 1;
                }
            }
            if failures == 5 {
                break;
            }
        }
        assert_eq!(failures, 5, "the disk was never full");

        // Other writes are refused as well. In the first round, small ones may still fit.
        if room == 0 {
            let new = Some(content("new"));
            let error = reader.sync().create("new.document", new, None).await;
            assert_typed(&error.unwrap_err());
            let storage = writer.storage();
            let file = vec![7; 10_000];
            storage.upload("file.bin", file, true).await.unwrap_err();
            for path in ["new.document", "file.bin"] {
                assert!(!reader.storage().exists(path).await.unwrap(), "{path}");
            }
            let (status, body) = http_get(server.url(), "/readyz").await;
            assert_eq!(status, 503, "{body}");
            assert!(body.contains("\"cause\":\"storage-"), "{body}");
        }

        // Reads continue: of a loaded document, of an unloaded one, and by a new participant.
        shown.wait_for(&accepted).await;
        let described = answered(async || reader.sync().describe("a.document").await).await;
        assert_eq!(texts(&described), accepted);
        let described = answered(async || reader.sync().describe("apart.document").await).await;
        assert_eq!(texts(&described), ["apart"]);
        let newcomer = Connection::connect(&url, &token("newcomer")).await.unwrap();
        let opened = answered(async || newcomer.sync().open(&start()).await).await;
        let mut seen = replica(3);
        seen.apply_update(opened.state()).unwrap();
        assert_eq!(texts(&seen.to_json(false)), accepted);
        assert!(metric(server.url(), "meshagent_commit_failures_total").await > 0.0);
        shown.wait_for_nothing().await;

        // The server recovers by itself, and connections stay open.
        limit_files(server.id(), INFINITY);
        let text = format!("{round} after");
        let freed = Instant::now();
        while let Err(error) = writing.append(&text).await {
            assert_typed(&error);
            assert!(freed.elapsed() < PATIENCE, "still refused: {error}");
            sleep(Duration::from_millis(50)).await;
        }
        accepted.push(text);
        shown.wait_for(&accepted).await;
        assert_eq!(http_get(server.url(), "/readyz").await.0, 200);
        assert!(!writer.is_closed() && !reader.is_closed());
    }
    server.kill();
    accepted
}

/// A server that unloads documents immediately after their last participant leaves.
fn serve(home: &Path) -> Command {
    serve_with(home, &["--unload-after", "0"])
}

/// The same, with a file size limit in blocks of 512 bytes.
fn serve_limited(home: &Path, blocks: u64) -> Command {
    under_limit(&serve(home), home, &format!("-S -f {blocks}"))
}

#[test]
fn server_starts_on_a_full_disk_and_deletions_free_it() {
    let _machine = alone();
    let home = TempDir::new().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let content = "größer als der Rest – ".repeat(20_000).into_bytes();
    let server = Server::start(&mut serve(home.path()));
    runtime.block_on(async {
        let url = room_url(server.url());
        let client = Connection::connect(&url, &token("ann")).await.unwrap();
        for path in ["one.txt", "two.txt", "three.txt"] {
            let storage = client.storage();
            storage.upload(path, content.clone(), true).await.unwrap();
        }
        client.close().await;
    });
    server.terminate();

    // The limit is lower than the size of each file, so that only small writes fit in the log.
    let server = Server::start(&mut serve_limited(home.path(), 256));
    runtime.block_on(async {
        let url = room_url(server.url());
        let client = Connection::connect(&url, &token("ann")).await.unwrap();
        let storage = client.storage();
        let file = storage.download("one.txt").await.unwrap();
        assert_eq!(file.data, content);
        let refused = storage.upload("four.txt", content.clone(), true).await;
        assert_typed(&refused.unwrap_err());
        for path in ["one.txt", "two.txt"] {
            storage.delete(path, false).await.unwrap();
            assert!(!storage.exists(path).await.unwrap(), "{path}");
        }
        // The new file fits in the space of the deleted ones.
        let before = home.path().join("data/meshagent.db").metadata().unwrap();
        limit_files(server.id(), INFINITY);
        storage
            .upload("four.txt", content.clone(), true)
            .await
            .unwrap();
        client.close().await;
        let after = home.path().join("data/meshagent.db").metadata().unwrap();
        assert!(after.len() <= before.len(), "nothing was freed");
    });
    server.terminate();
    let server = Server::start(&mut serve(home.path()));
    runtime.block_on(async {
        let url = room_url(server.url());
        let client = Connection::connect(&url, &token("ann")).await.unwrap();
        let storage = client.storage();
        for (path, there) in [("one.txt", false), ("three.txt", true), ("four.txt", true)] {
            assert_eq!(storage.exists(path).await.unwrap(), there, "{path}");
        }
        client.close().await;
    });
    server.terminate();
    let grown = home.path().join("data/meshagent.db").metadata().unwrap();
    assert!(grown.len() < 4 * content.len() as u64, "{}", grown.len());
}

/// Sets the file size limit of a process.
fn limit_files(process: u32, bytes: u64) {
    let process = i32::try_from(process).unwrap();
    rlimit::prlimit(process, Resource::FSIZE, Some((bytes, INFINITY)), None).unwrap();
}

/// Retries a request, which the server may refuse while it reloads a document after a failed write.
async fn answered<T>(ask: impl AsyncFn() -> Result<T, CallError>) -> T {
    let asked = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => {
                assert_typed(&error);
                assert!(asked.elapsed() < PATIENCE, "still refused: {error}");
            }
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// Checks that a refusal has a code for programs and advice for people.
fn assert_typed(error: &CallError) {
    let CallError::Refused { code, text } = error else {
        panic!("{error:?}");
    };
    assert_eq!(*code, Some(1008), "{text}");
    assert!(text.contains("again"), "{text}");
}

struct Writing {
    stream: SyncStream,
    /// The accepted updates.
    known: MeshDocument,
    client_id: u64,
}

impl Writing {
    /// Appends an element with a new client id, so that it does not depend on a refused update.
    async fn append(&mut self, text: &str) -> Result<(), CallError> {
        self.client_id += 10;
        let mut replica = replica(self.client_id);
        replica.apply_update(&self.known.encode_state()).unwrap();
        let element = json!({ "body": { "text": text } });
        let mut next_id = || format!("e{}", self.client_id);
        let update = replica
            .append_child(Target::Root, element, &mut next_id)
            .unwrap()
            .unwrap();
        let sent = timeout(PATIENCE, self.stream.send(&update))
            .await
            .expect("an answer");
        assert_eq!(sent?.notice, None);
        self.known = replica;
        Ok(())
    }
}

struct Shown {
    stream: SyncStream,
    replica: MeshDocument,
}

impl Shown {
    async fn wait_for(&mut self, accepted: &[String]) {
        while texts(&self.replica.to_json(false)) != accepted {
            let next = timeout(PATIENCE, self.stream.recv()).await;
            let update = next
                .expect("the reader sees what was accepted")
                .unwrap()
                .unwrap();
            self.replica.apply_update(&update).unwrap();
        }
    }

    async fn wait_for_nothing(&mut self) {
        let next = timeout(Duration::from_millis(200), self.stream.recv()).await;
        assert!(
            next.is_err(),
            "the reader was shown something that was refused: {next:?}"
        );
    }
}

fn replica(client_id: u64) -> MeshDocument {
    MeshDocument::new(MeshSchema::builtin("document").unwrap(), client_id)
}

fn start() -> SyncOpenStart {
    SyncOpenStart::new(DocPath::parse("a.document").unwrap())
}

fn content(text: &str) -> Value {
    json!({ "document": { "content": [{ "body": { "text": text } }] } })
}

fn texts(json: &Value) -> Vec<String> {
    let elements = json["document"]["content"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    elements
        .iter()
        .map(|element| element["body"]["text"].as_str().unwrap().to_owned())
        .collect()
}

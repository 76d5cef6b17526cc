//! Many clients open one large document concurrently and share one encoded state; half of them send
//! it back, as published clients do.
//!
//! Small by default. `JOINERS=200 JOIN_MEGABYTES=10 MESHAGENT_BIN=target/release/meshagent cargo
//! test -p meshagent-cli joiners` is the full size.

use std::fs;
use std::hash::{DefaultHasher, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use meshagent_client::Connection;
use meshagent_document::{Edit, MeshDocument, MeshSchema, Position, Target, UpdateKind};
use meshagent_protocol::DocPath;
use meshagent_protocol::sync::SyncOpenStart;
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::{Barrier, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::raw::RawSocket;
use crate::serve::{Server, serve_with};
use crate::stress::{alone, metric, peak_kilobytes, resident_kilobytes, room_url, setting, token};

const PATH: &str = "large.document";
/// No step takes this long; a test that hangs fails.
const PATIENCE: Duration = Duration::from_mins(5);

#[test]
fn joiners_share_one_encoded_state() {
    let _machine = alone();
    let joiners: u32 = setting("JOINERS", 40);
    let megabytes: usize = setting("JOIN_MEGABYTES", 2);
    // The server's limit on incoming messages; all echoes together exceed it by far.
    let receive_bytes = (3 * megabytes) << 20;
    let home = TempDir::new().unwrap();
    let options = ["--max-receive-bytes", &receive_bytes.to_string()];
    let server = Server::start(&mut serve_with(home.path(), &options));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(run(&server, joiners, megabytes, receive_bytes));
    server.terminate();
}

async fn run(server: &Server, joiners: u32, megabytes: usize, receive_bytes: usize) {
    let client = Connection::connect(&room_url(server.url()), &token("author"))
        .await
        .unwrap();
    let start = SyncOpenStart::new(DocPath::parse(PATH).unwrap());
    // Stays open during the test, so that the document stays loaded.
    let stream = client.sync().open(&start).await.unwrap();
    let mut document = MeshDocument::new(MeshSchema::builtin("document").unwrap(), 1);
    for part in 0..megabytes {
        let sent = stream
            .send(&one_megabyte(&mut document, part))
            .await
            .unwrap();
        assert_eq!(sent.notice, None);
    }
    let state_bytes = document.encode_state().len();
    assert!(state_bytes > megabytes << 20);

    let encodings = metric(server.url(), "meshagent_state_encodings_total").await;
    let unread = metric(server.url(), "meshagent_echoes_unread_total").await;
    // The peak memory is measured from here on.
    fs::write(format!("/proc/{}/clear_refs", server.id()), "5").unwrap();
    let before = resident_kilobytes(server.id());

    let (publish, published) = watch::channel(Arc::new(Vec::new()));
    let ready = Arc::new(Barrier::new(joiners as usize));
    let mut joining = JoinSet::new();
    for number in 0..joiners {
        let joiner = Joiner {
            number,
            ready: Arc::clone(&ready),
            publish: publish.clone(),
            published: published.clone(),
        };
        joining.spawn(joiner.join(server.url().to_owned()));
    }
    let mut digests = Vec::new();
    while let Some(joined) = timeout(PATIENCE, joining.join_next())
        .await
        .expect("all come in")
    {
        digests.push(joined.unwrap());
    }
    let peak = peak_kilobytes(server.id());

    assert_eq!(digests.len(), joiners as usize);
    digests.dedup();
    assert_eq!(digests.len(), 1, "some got another state than others");
    let state = STANDARD.decode(&**published.borrow()).unwrap();
    let mut seen = MeshDocument::new(MeshSchema::builtin("document").unwrap(), 2);
    seen.apply_update(&state).unwrap();
    assert_eq!(
        seen.classify(&document.encode_state()),
        Ok(UpdateKind::Contained),
        "the state is not the whole"
    );

    let encodings = metric(server.url(), "meshagent_state_encodings_total").await - encodings;
    assert!(
        encodings <= 1.0,
        "{joiners} joiners cost {encodings} encodings of one version"
    );
    let unread = metric(server.url(), "meshagent_echoes_unread_total").await - unread;
    assert!(
        unread * 2.0 >= f64::from(joiners),
        "{unread} echoes were known by their bytes"
    );
    // Twice the encoded document; the incoming echoes; for each connection the first part of its
    // message, its own part of the queue, and its buffers; and a reserve for the allocator and the
    // threads, which return pages late on a busy machine.
    let bound = before
        + (4 * state_bytes as u64 + 2 * receive_bytes as u64) / 1024
        + 256 * u64::from(joiners)
        + (48 << 10);
    assert!(
        peak <= bound,
        "{before} kB before, up to {peak} kB with {joiners} joiners; at most {bound} kB are due"
    );
    client.close().await;
}

/// An update that appends elements with a megabyte of text.
fn one_megabyte(document: &mut MeshDocument, part: usize) -> Vec<u8> {
    let insert = |number| Edit::Insert {
        parent: Target::Root,
        position: Position::Last,
        element: json!({
            "body": { "$id": format!("e{part}-{number}"), "text": "x".repeat(2 << 10) },
        }),
    };
    let edits: Vec<Edit> = (0..512).map(insert).collect();
    document.edit(&edits, &mut String::new).unwrap().unwrap()
}

struct Joiner {
    number: u32,
    ready: Arc<Barrier>,
    /// The state, which the first client stores for those that send it back.
    publish: watch::Sender<Arc<Vec<u8>>>,
    published: watch::Receiver<Arc<Vec<u8>>>,
}

impl Joiner {
    /// Opens the document when all clients are connected; returns the length and a hash of
    /// its state.
    async fn join(mut self, server: String) -> (usize, u64) {
        let mut socket = RawSocket::join(&server, "joiner", None).await;
        self.ready.wait().await;
        socket.open(PATH).await;
        let (mut kept, mut hasher) = (Vec::new(), DefaultHasher::new());
        let digest = loop {
            let message = socket.next(|piece| {
                hasher.write(piece);
                if self.number == 0 {
                    kept.extend(piece);
                }
            });
            let message = message.await;
            if message.kind == "room.tool_call_response_chunk" {
                assert_eq!(message.header["chunk"]["headers"]["kind"], "state");
                break (message.payload_bytes, hasher.finish());
            }
            assert_eq!(
                message.payload_bytes, 0,
                "{} {}",
                message.kind, message.header
            );
        };
        if self.number == 0 {
            self.publish.send_replace(Arc::new(kept));
        }
        if self.number.is_multiple_of(2) {
            let state = self
                .published
                .wait_for(|state| !state.is_empty())
                .await
                .unwrap()
                .clone();
            socket.update(3, &state).await;
            loop {
                let message = socket.next(|_| {}).await;
                if message.id == 3 && message.kind == "__response__" {
                    assert_eq!(message.header["type"], "empty", "{}", message.header);
                    break;
                }
            }
        }
        digest
    }
}

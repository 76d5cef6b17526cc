//! The tasks of rooms from outside: effects on other rooms when one panics or has heavy work.

mod entering;
mod held;
mod leaving;
mod letters;
mod links;
mod owners;
mod reading;

use std::sync::atomic::Ordering;
use std::sync::mpsc;

use bytes::Bytes;
use meshagent_protocol::{
    ApiScope, ClientToServer, Content, Envelope, Invoke, MessageId, ServerToClient,
};
use meshagent_store::{Embedded, MemoryStore, Store, Write};
use serde_json::{Value, json};

use self::held::Held;
use super::*;
use crate::outbox::Outbox;
use crate::room::{Conn, Joining};
use crate::room_loop::Entering;

struct Member {
    conn: Conn,
    mailbox: Mailbox,
    outbox: Arc<Outbox>,
}

fn joining(rooms: &Rooms, name: &str) -> (Joining, Arc<Outbox>) {
    let account = rooms.usage().ledger().account(name);
    let outbox = Arc::new(Outbox::new(1 << 20, &account));
    let joining = Joining {
        participant_id: rooms.participant_id(),
        name: name.to_owned(),
        role: "user".to_owned(),
        scope: ApiScope::full(),
        origin: "http://127.0.0.1:1".to_owned(),
        expires: None,
        outbox: Arc::clone(&outbox),
        account,
    };
    (joining, outbox)
}

async fn join(rooms: &Arc<Rooms>, room: &str) -> Member {
    join_as(rooms, room, room).await
}

async fn join_as(rooms: &Arc<Rooms>, room: &str, name: &str) -> Member {
    let (joining, outbox) = joining(rooms, name);
    let joined = rooms.join(room, joining, std::future::pending()).await;
    let Joined::In(conn, mailbox) = joined else {
        panic!("{joined:?}");
    };
    Member {
        conn,
        mailbox,
        outbox,
    }
}

impl Member {
    async fn send(&self, input: RoomInput) {
        self.mailbox
            .send(input, 0, meshagent_ledger::Held::none())
            .await
            .unwrap();
    }

    async fn ask(&self, id: u64, tool: &str, input: Value) {
        self.say(id, invoke("sync", tool, input)).await;
    }

    async fn ask_storage(&self, id: u64, tool: &str, input: Value) {
        self.say(id, invoke("storage", tool, input)).await;
    }

    /// Starts a download.
    async fn download(&self, id: u64, path: &str) {
        let call = format!("call-{id}");
        let open = ClientToServer::Invoke(Invoke {
            toolkit: "storage".to_owned(),
            tool: "download".to_owned(),
            arguments: Content::Control(meshagent_protocol::Control::Open),
            tool_call_id: Some(call.clone()),
            participant_id: None,
            on_behalf_of_id: None,
        });
        self.say(id + 1_000, open).await;
        let headers = json!({ "kind": "start", "path": path });
        let start = ClientToServer::RequestChunk {
            tool_call_id: call,
            chunk: Content::Binary {
                headers: headers.as_object().unwrap().clone(),
                data: Bytes::new(),
            },
        };
        self.say(id, start).await;
    }

    async fn say(&self, id: u64, message: ClientToServer) {
        self.send(self.input(id, message)).await;
    }

    fn input(&self, id: u64, message: ClientToServer) -> RoomInput {
        let envelope = Envelope {
            id: MessageId::from(id),
            trace: None,
            message,
        };
        RoomInput::Message(self.conn, envelope)
    }

    /// The answer to a request; `None` if the connection ends before it.
    async fn answer(&self, id: u64) -> Option<Content> {
        loop {
            for (item, _) in self.outbox.take().await? {
                if let Some(ServerToClient::Response { request, content }) = item.into_message()
                    && request == MessageId::from(id)
                {
                    return Some(content);
                }
            }
        }
    }
}

fn invoke(toolkit: &str, tool: &str, input: Value) -> ClientToServer {
    ClientToServer::Invoke(Invoke {
        toolkit: toolkit.to_owned(),
        tool: tool.to_owned(),
        arguments: Content::Json(input),
        tool_call_id: None,
        participant_id: None,
        on_behalf_of_id: None,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_that_panics_starts_anew_and_others_do_not_notice() {
    let (word, go_on) = mpsc::channel();
    let store: Arc<dyn AsyncStore> = Arc::new(Embedded(Held::new(go_on)));
    let metrics = Arc::new(Metrics::new());
    let (committer, thread) = Committer::start(Arc::clone(&store), Arc::clone(&metrics)).unwrap();
    let stopping = CancellationToken::new();
    let rooms = Arc::new(Rooms::new(
        "project",
        Arc::new(Config::default()),
        Arc::clone(&metrics),
        store,
        committer,
        UrlSigner::new("secret"),
        Ids::from_seed([1; 32]),
        stopping.clone(),
        CancellationToken::new(),
        Usage::new(0, &Config::default().limits),
    ));
    let create = |path: &str| json!({ "path": path, "json": { "document": { "content": [] } } });
    let describe = |path: &str| json!({ "path": path });
    let (unlucky, other) = (join(&rooms, "a").await, join(&rooms, "b").await);

    word.send(()).unwrap();
    unlucky.ask(1, "create", create("first.document")).await;
    assert_eq!(unlucky.answer(1).await, Some(Content::Empty));
    // The second is being committed when the room panics.
    unlucky.ask(2, "create", create("second.document")).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    unlucky.ask(7, "create", create("thïrd.document")).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    unlucky.send(RoomInput::Panic).await;
    unlucky.ask(3, "describe", describe("first.document")).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    // A join meanwhile enters the next room, once the result of the second is known.
    let early = {
        let rooms = Arc::clone(&rooms);
        tokio::spawn(async move { join(&rooms, "a").await })
    };
    other.ask(4, "describe", describe("none.document")).await;
    assert!(other.answer(4).await.is_some(), "another room goes on");
    word.send(()).unwrap();
    assert_eq!(unlucky.answer(3).await, None, "the connection ends");
    let early = early.await.unwrap();
    early.ask(8, "describe", describe("second.document")).await;
    let answer = early.answer(8).await;
    assert!(matches!(answer, Some(Content::Json(_))), "{answer:?}");

    let again = join(&rooms, "a").await;
    for (id, path) in [(5, "first.document"), (6, "second.document")] {
        again.ask(id, "describe", describe(path)).await;
        let answer = again.answer(id).await;
        assert!(
            matches!(answer, Some(Content::Json(_))),
            "{path}: {answer:?}"
        );
    }
    assert_eq!(metrics.room_panics.get(), 1);
    // The panicked task releases the rest last.
    let documents = || rooms.usage().documents();
    let counts = || (metrics.participants.get(), metrics.rooms.get(), documents());
    // The third document was never submitted.
    for _ in 0..500 {
        if counts() == (3, 2, 2) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(counts(), (3, 2, 2));

    drop(word);
    stopping.cancel();
    rooms.wait().await;
    drop((rooms, unlucky, other, early, again));
    tokio::task::spawn_blocking(move || thread.join().unwrap())
        .await
        .unwrap();
}

/// Rooms over a store in memory, with the tokens that stop them.
struct Server {
    rooms: Arc<Rooms>,
    metrics: Arc<Metrics>,
    stopping: CancellationToken,
    killed: CancellationToken,
    committer: std::thread::JoinHandle<()>,
}

impl Server {
    fn start() -> Self {
        Self::start_on(Arc::new(MemoryStore::new()))
    }

    fn start_on(store: Arc<dyn Store>) -> Self {
        Self::start_with(store, Config::default())
    }

    fn start_with(store: Arc<dyn Store>, config: Config) -> Self {
        Self::start_over(Arc::new(Embedded(store)), config)
    }

    fn start_over(store: Arc<dyn AsyncStore>, config: Config) -> Self {
        let usage = Usage::new(0, &config.limits);
        let metrics = Arc::new(Metrics::new());
        let (committer, thread) =
            Committer::start(Arc::clone(&store), Arc::clone(&metrics)).unwrap();
        let (stopping, killed) = (CancellationToken::new(), CancellationToken::new());
        let rooms = Rooms::new(
            "project",
            Arc::new(config),
            Arc::clone(&metrics),
            store,
            committer,
            UrlSigner::new("secret"),
            Ids::from_seed([1; 32]),
            stopping.clone(),
            killed.clone(),
            usage,
        );
        Self {
            rooms: Arc::new(rooms),
            metrics,
            stopping,
            killed,
            committer: thread,
        }
    }

    async fn end(self) {
        self.stopping.cancel();
        self.rooms.wait().await;
        drop(self.rooms);
        tokio::task::spawn_blocking(move || self.committer.join().unwrap())
            .await
            .unwrap();
    }

    /// The number of heavy turns so far.
    fn heavy(&self) -> u64 {
        let text = self.metrics.render();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("meshagent_heavy_work_seconds_count "));
        line.unwrap().parse().unwrap()
    }
}

/// A document with `elements` elements.
fn large(elements: usize) -> Value {
    let element = json!({ "body": { "text": "héllo wörld 😀".repeat(4) } });
    let content = vec![element; elements];
    json!({ "path": "large.document", "json": { "document": { "content": content } } })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_document_with_nothing_due_is_no_heavy_work() {
    let server = Server::start();
    let member = join(&server.rooms, "a").await;
    member.ask(1, "create", large(4_000)).await;
    assert_eq!(member.answer(1).await, Some(Content::Empty));
    // After its creation the document is checked once; then nothing is due.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let before = server.heavy();
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!(server.heavy(), before);
    server.end().await;
}

/// A patch of [`large`] that changes nothing, takes long, and has a short answer.
fn slow_check() -> Value {
    json!({
        "path": "large.document",
        "patch": [{ "op": "replace", "path": "/document/content", "value": [] }],
        "dry_run": true,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rooms_with_heavy_work_take_turns() {
    const QUEUED: u64 = 60;
    let server = Server::start();
    let (busy, other) = (
        join(&server.rooms, "a").await,
        join(&server.rooms, "b").await,
    );
    for member in [&busy, &other] {
        member.ask(1, "create", large(4_000)).await;
        assert_eq!(member.answer(1).await, Some(Content::Empty));
    }
    let check = slow_check();
    for id in 0..QUEUED {
        busy.ask(100 + id, "patch", check.clone()).await;
    }
    other.ask(2, "patch", check).await;
    let answer = other.answer(2).await;
    assert!(matches!(answer, Some(Content::Json(_))), "{answer:?}");
    // Requests that were answered earlier; the rest follows.
    let answered = busy.outbox.try_take().len() as u64;
    assert!(answered < QUEUED / 2, "{answered} of {QUEUED} went before");
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_grace_a_room_begins_nothing_more() {
    const QUEUED: u64 = 60;
    let server = Server::start();
    let busy = join(&server.rooms, "a").await;
    busy.ask(1, "create", large(4_000)).await;
    assert_eq!(busy.answer(1).await, Some(Content::Empty));
    let check = slow_check();
    for id in 0..QUEUED {
        busy.ask(100 + id, "patch", check.clone()).await;
    }
    server.stopping.cancel();
    server.killed.cancel();
    server.rooms.wait().await;
    let answered = busy.outbox.try_take().len() as u64;
    assert!(answered < QUEUED / 2, "{answered} of {QUEUED} were begun");
    server.end().await;
}

#[tokio::test]
async fn a_connection_with_much_in_the_mailbox_keeps_nobody_else_waiting() {
    let none = meshagent_ledger::Held::none;
    let input = || RoomInput::Drained(Conn(1));
    let moment = Duration::from_millis(50);
    let (one, mut inputs) = Mailbox::new();
    let other = one.for_another();
    for _ in 0..PLACES {
        one.send(input(), 0, none()).await.unwrap();
    }
    let more = tokio::time::timeout(moment, one.send(input(), 0, none())).await;
    assert!(more.is_err(), "it waits for its own");
    let sent = tokio::time::timeout(moment * 100, other.send(input(), 0, none())).await;
    sent.unwrap().unwrap();
    // Each handled envelope frees a place; a long one takes as many places as several short ones.
    drop(inputs.recv().await);
    one.send(input(), 0, none()).await.unwrap();
    let long = mailbox::PLACE_BYTES * 10;
    for _ in 0..10 {
        drop(inputs.recv().await);
    }
    let waits = tokio::time::timeout(moment, one.send(input(), long, none())).await;
    assert!(waits.is_err(), "ten places are free, and it takes eleven");
    drop(inputs.recv().await);
    one.send(input(), long, none()).await.unwrap();
}

/// However long files take to open, in whichever rooms, short reads get their turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_take_long_to_open_keep_no_other_read_waiting() {
    const CROWD: u64 = 30;
    let (word, go_on) = mpsc::channel();
    drop(word);
    let store = Arc::new(Held::new(go_on));
    let server = Server::start_on(Arc::<Held>::clone(&store));
    let put = |room: &str| Write::PutFile {
        room: RoomId::new("project", room),
        path: "groß".to_owned(),
        data: Bytes::from_static(b"x"),
        mime_type: "text/plain".to_owned(),
        overwrite: true,
        at: now(),
    };
    let rooms = ["a", "b", "c"];
    store.inner.commit(&rooms.map(put)).unwrap();
    let shut = store.files.write().await;
    let mut crowd = Vec::new();
    for room in rooms {
        for id in 0..CROWD {
            let member = join(&server.rooms, room).await;
            member.download(id, "groß").await;
            crowd.push((id, member));
        }
    }
    // In one of these rooms, and in another.
    for (id, room) in [(500, "a"), (501, "z")] {
        let member = join(&server.rooms, room).await;
        let create = json!({ "path": "neu", "json": { "a": { "t": "é" } } });
        member.ask(id, "create", create).await;
        let answer = tokio::time::timeout(Duration::from_secs(20), member.answer(id)).await;
        assert_eq!(answer, Ok(Some(Content::Empty)), "{room}");
    }
    drop(shut);
    for (id, member) in &crowd {
        assert_eq!(member.answer(*id).await, Some(Content::Empty));
    }
    drop((crowd, store));
    server.end().await;
}

/// A message as a client sends it, in two masked frames.
fn sent(id: u64, kind: &str, header: &Value, payload: &[u8]) -> Vec<u8> {
    let header = header.to_string();
    let first = [&1_u32.to_be_bytes()[..], kind.as_bytes()].concat();
    let length = (header.len() as u64).to_be_bytes();
    let second = [&length[..], header.as_bytes(), payload].concat();
    let mut sent = Vec::new();
    for (number, part) in [(0_u32, first), (1, second)] {
        let packet = [&id.to_be_bytes()[..], &number.to_be_bytes(), &part].concat();
        let length = u16::try_from(packet.len()).unwrap();
        let [high, low] = length.to_be_bytes();
        if length < 126 {
            sent.extend([0x82, 0x80 | low]);
        } else {
            sent.extend([0x82, 0xfe, high, low]);
        }
        // A mask of zeros does not change the payload.
        sent.extend([0; 4]);
        sent.extend(packet);
    }
    sent
}

/// Reads until the word has arrived `times` times in all.
async fn read_until(
    stream: &mut tokio::net::TcpStream,
    all: &mut Vec<u8>,
    word: &str,
    times: usize,
) {
    use tokio::io::AsyncReadExt as _;
    let mut some = [0; 4096];
    while String::from_utf8_lossy(all).matches(word).count() < times {
        let read = tokio::time::timeout(Duration::from_secs(20), stream.read(&mut some));
        let bytes = read.await.expect("it comes").unwrap();
        assert!(bytes > 0, "the connection was dropped");
        all.extend_from_slice(&some[..bytes]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_uploads_is_not_dropped_for_a_disk_that_takes_its_time() {
    use tokio::io::AsyncWriteExt as _;
    const WINDOW: Duration = Duration::from_millis(100);
    let (word, go_on) = mpsc::channel();
    let store: Arc<dyn AsyncStore> = Arc::new(Embedded(Held::new(go_on)));
    let metrics = Arc::new(Metrics::new());
    let (committer, thread) = Committer::start(Arc::clone(&store), Arc::clone(&metrics)).unwrap();
    let (stopping, killed) = (CancellationToken::new(), CancellationToken::new());
    let config = Arc::new(Config {
        pace_window: WINDOW,
        ..Config::default()
    });
    let rooms = Arc::new(Rooms::new(
        "project",
        Arc::clone(&config),
        Arc::clone(&metrics),
        store,
        committer,
        UrlSigner::new("secret"),
        Ids::from_seed([1; 32]),
        stopping.clone(),
        killed.clone(),
        Usage::new(0, &config.limits),
    ));
    let shared = crate::connection::Shared {
        rooms: Arc::clone(&rooms),
        config,
        metrics,
        clock: Arc::new(crate::wall_clock::WallClock::new(now)),
        total_rate: Arc::new(crate::budget::Rate::new(u64::MAX, Duration::from_secs(2))),
        stopping: stopping.clone(),
        killed,
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let (uploader, _outbox) = joining(&rooms, "läder");
    let serving = tokio::spawn(async move {
        crate::connection::run(stream, Bytes::new(), "a", uploader, None, &shared).await;
    });

    let open = json!({ "toolkit": "storage", "tool": "upload", "tool_call_id": "u", "arguments": { "type": "control", "method": "open" } });
    client
        .write_all(&sent(1, "room.invoke_tool", &open, b""))
        .await
        .unwrap();
    let chunk = |headers: Value| json!({ "tool_call_id": "u", "chunk": { "type": "binary", "headers": headers } });
    let start = chunk(json!({ "kind": "start", "path": "größe" }));
    let data = chunk(json!({ "kind": "data" }));
    let kind = "room.tool_call_request_chunk";
    client.write_all(&sent(2, kind, &start, b"")).await.unwrap();
    client
        .write_all(&sent(3, kind, &data, &[7; 8 << 10]))
        .await
        .unwrap();
    let mut came = Vec::new();
    let pull = r#""kind":"pull""#;
    read_until(&mut client, &mut came, pull, 2).await;

    // A batch is being committed and a move waits behind it, so the room takes no messages.
    let mover = join(&rooms, "a").await;
    let create = json!({ "path": "a.document", "json": { "document": { "content": [] } } });
    mover.ask(1, "create", create).await;
    tokio::time::sleep(WINDOW / 2).await;
    let input = json!({ "source_path": "a.document", "destination_path": "b.document" });
    mover.ask_storage(2, "move", input).await;
    client
        .write_all(&sent(4, kind, &data, &[7; 100]))
        .await
        .unwrap();
    // Others want memory all the time.
    let wanted = rooms.usage().ledger().want();
    tokio::time::sleep(WINDOW * 10).await;
    drop(wanted);
    for _ in 0..2 {
        word.send(()).unwrap();
    }
    assert_eq!(mover.answer(2).await, Some(Content::Empty));
    read_until(&mut client, &mut came, pull, 3).await;

    // A peer that was asked for more data must send it.
    let _wanted = rooms.usage().ledger().want();
    tokio::time::timeout(Duration::from_secs(20), serving)
        .await
        .expect("it is dropped")
        .unwrap();
    drop((word, mover));
    stopping.cancel();
    rooms.wait().await;
    drop(rooms);
    tokio::task::spawn_blocking(move || thread.join().unwrap())
        .await
        .unwrap();
}

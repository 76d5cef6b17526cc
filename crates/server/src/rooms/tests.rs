//! A room that panics, seen from outside: from its own connections and from other rooms.

use std::sync::mpsc;

use meshagent_protocol::{ApiScope, Content, Invoke, ServerToClient};
use meshagent_store::{
    DocumentId, Entry, MemoryStore, Seq, StoreStats, StoredDocument, StoredFile, StoredUpdate,
    Write, WriteError, Written,
};
use serde_json::{Value, json};

use super::*;
use crate::outbox::Outgoing;

/// A store whose commits wait for a word.
#[derive(Debug)]
struct Held {
    inner: MemoryStore,
    go_on: Mutex<mpsc::Receiver<()>>,
}

impl Store for Held {
    fn commit(&self, writes: &[Write]) -> Result<Vec<Result<Written, WriteError>>, StoreError> {
        let _ = self.go_on.lock().unwrap().recv();
        self.inner.commit(writes)
    }

    fn stat(&self, room: &RoomId, path: &str) -> Result<Option<Entry>, StoreError> {
        self.inner.stat(room, path)
    }

    fn list(&self, room: &RoomId, folder: &str) -> Result<Option<Vec<Entry>>, StoreError> {
        self.inner.list(room, folder)
    }

    fn load(&self, room: &RoomId, path: &str) -> Result<Option<StoredDocument>, StoreError> {
        self.inner.load(room, path)
    }

    fn follow(
        &self,
        document: DocumentId,
        after: Seq,
        limit: usize,
    ) -> Result<Vec<StoredUpdate>, StoreError> {
        self.inner.follow(document, after, limit)
    }

    fn provenance(
        &self,
        document: DocumentId,
    ) -> Result<Vec<meshagent_store::ProvenanceRecord>, StoreError> {
        self.inner.provenance(document)
    }

    fn read_file(&self, room: &RoomId, path: &str) -> Result<Option<StoredFile>, StoreError> {
        self.inner.read_file(room, path)
    }

    fn check(&self) -> Result<(), StoreError> {
        self.inner.check()
    }

    fn stats(&self) -> Result<StoreStats, StoreError> {
        self.inner.stats()
    }
}

struct Member {
    conn: Conn,
    mailbox: Mailbox,
    outbox: Arc<Outbox>,
}

async fn join(rooms: &Arc<Rooms>, room: &str) -> Member {
    let outbox = Arc::new(Outbox::new(1 << 20, Arc::clone(&rooms.metrics)));
    let joining = Joining {
        participant_id: rooms.participant_id(),
        name: "ann".to_owned(),
        role: "user".to_owned(),
        scope: ApiScope::full(),
        origin: "http://127.0.0.1:1".to_owned(),
        outbox: Arc::clone(&outbox),
    };
    let (conn, mailbox) = rooms.join(room, joining).await.unwrap();
    Member {
        conn,
        mailbox,
        outbox,
    }
}

impl Member {
    async fn send(&self, input: RoomInput) {
        self.mailbox
            .send(input, 0, Charge::default())
            .await
            .unwrap();
    }

    async fn ask(&self, id: u64, tool: &str, input: Value) {
        let message = ClientToServer::Invoke(Invoke {
            toolkit: "sync".to_owned(),
            tool: tool.to_owned(),
            arguments: Content::Json(input),
            tool_call_id: None,
            participant_id: None,
            on_behalf_of_id: None,
        });
        let envelope = Envelope {
            id: MessageId::from(id),
            trace: None,
            message,
        };
        self.send(RoomInput::Message(self.conn, envelope)).await;
    }

    /// The answer to a request; `None` if the connection ends before it.
    async fn answer(&self, id: u64) -> Option<Content> {
        loop {
            for (item, _) in self.outbox.take().await? {
                if let Outgoing::Message(ServerToClient::Response { request, content }) = item
                    && request == MessageId::from(id)
                {
                    return Some(content);
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_that_panics_starts_anew_and_others_do_not_notice() {
    let (word, go_on) = mpsc::channel();
    let store: Arc<dyn Store> = Arc::new(Held {
        inner: MemoryStore::new(),
        go_on: Mutex::new(go_on),
    });
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
        Usage::default(),
    ));
    let create = |path: &str| json!({ "path": path, "json": { "document": { "content": [] } } });
    let describe = |path: &str| json!({ "path": path });
    let (unlucky, other) = (join(&rooms, "a").await, join(&rooms, "b").await);

    word.send(()).unwrap();
    unlucky.ask(1, "create", create("first.document")).await;
    assert_eq!(unlucky.answer(1).await, Some(Content::Empty));
    // The second is with the store when the room panics.
    unlucky.ask(2, "create", create("second.document")).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    unlucky.send(RoomInput::Panic).await;
    unlucky.ask(3, "describe", describe("first.document")).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    // Who comes meanwhile is let go too, once the room knows what became of the second.
    let early = join(&rooms, "a").await;
    other.ask(4, "describe", describe("none.document")).await;
    assert!(other.answer(4).await.is_some(), "another room goes on");
    word.send(()).unwrap();
    assert_eq!(unlucky.answer(3).await, None, "the connection ends");
    assert_eq!(early.answer(0).await, None);

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
    // The task that panicked lets go of the rest last.
    let counts = || (metrics.participants.get(), metrics.rooms.get());
    for _ in 0..500 {
        if counts() == (2, 2) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(counts(), (2, 2));

    drop(word);
    stopping.cancel();
    rooms.wait().await;
    drop((rooms, unlucky, other, early, again));
    tokio::task::spawn_blocking(move || thread.join().unwrap())
        .await
        .unwrap();
}

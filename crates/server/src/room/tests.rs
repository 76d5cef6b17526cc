//! A room that the tests drive: messages in, messages out, and a disk that answers when the test
//! says so.

#![expect(
    clippy::needless_pass_by_value,
    reason = "a test hands over the JSON that it writes down"
)]

mod behind;
mod blanks;
mod compaction;
mod costs;
mod downloads;
mod durability;
mod files;
mod gate;
mod held;
mod identity;
mod limits;
mod making;
mod misfits;
mod moving;
mod news;
mod opening;
mod patching;
mod places;
mod random;
mod readers;
mod refused;
mod rights;
mod shares;
mod talking;
mod uploads;
mod worn_ids;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use meshagent_document::{MeshDocument, MeshSchema};
use meshagent_protocol::{
    ApiScope, ClientToServer, Content, Control, Envelope, Invoke, MessageId, ServerToClient,
};
use meshagent_store::{Embedded, FailingStore, MemoryStore, RoomId, StoreError, Timestamp, Write};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use yrs::{Doc, Transact as _, XmlElementPrelim, XmlFragment as _, XmlFragmentRef};

use super::{Action, Conn, Fetch, FetchResult, Joining, Room};
use crate::committer::{Owner, commit_and_look};
use crate::config::Config;
use crate::ids::Ids;
use crate::metrics::Metrics;
use crate::outbox::Outbox;
use crate::signer::UrlSigner;
use crate::usage::Usage;

/// A room with its store and clock.
struct World {
    room: Room,
    store: FailingStore<MemoryStore>,
    owner: Arc<Owner>,
    metrics: Arc<Metrics>,
    now: Timestamp,
    next_conn: u64,
    next_message: u64,
    /// The batch that the disk has not written yet.
    held: Option<Vec<Write>>,
}

/// A participant's side of the connection, with the messages that the test has not taken.
struct Client {
    conn: Conn,
    id: String,
    outbox: Arc<Outbox>,
}

/// What a client received, in a form that is easy to compare.
#[derive(Debug, PartialEq)]
enum Seen {
    Answer(u64, Content),
    Chunk(String, Content),
    Other(ServerToClient),
}

impl World {
    fn new() -> Self {
        Self::with_config(Config::default())
    }

    fn with_config(config: Config) -> Self {
        let config = Arc::new(config);
        let metrics = Arc::new(Metrics::new());
        let room = Room::new(
            RoomId::new("project", "room"),
            Arc::clone(&config),
            Arc::clone(&metrics),
            UrlSigner::new("secret"),
            Arc::new(Usage::new(0, &config.limits)),
            Ids::from_seed([7; 32]),
        );
        Self {
            room,
            store: FailingStore::new(MemoryStore::new()),
            owner: Owner::new(RoomId::new("project", "room")),
            metrics,
            now: Timestamp(1_000_000),
            next_conn: 0,
            next_message: 100,
            held: None,
        }
    }

    fn join(&mut self, name: &str) -> Client {
        self.join_with(name, ApiScope::full())
    }

    fn join_with(&mut self, name: &str, scope: ApiScope) -> Client {
        self.next_conn += 1;
        let conn = Conn(self.next_conn);
        let account = self.room.usage.ledger().account(name);
        let outbox = Arc::new(Outbox::new(
            self.room.config.limits.max_outbox_bytes,
            &account,
        ));
        let joining = Joining {
            participant_id: format!("{name}-id"),
            name: name.to_owned(),
            role: "user".to_owned(),
            scope,
            origin: "http://127.0.0.1:1".to_owned(),
            expires: None,
            outbox: Arc::clone(&outbox),
            account,
        };
        self.room.handle_join(conn, joining, self.now);
        let client = Client {
            conn,
            id: format!("{name}-id"),
            outbox,
        };
        assert_eq!(client.take().len(), 2, "room_ready and connected");
        client
    }

    fn leave(&mut self, client: &Client) {
        self.room.handle_leave(client.conn, self.now);
    }

    fn send(&mut self, client: &Client, message: ClientToServer) -> u64 {
        self.next_message += 1;
        let envelope = Envelope {
            id: MessageId::from(self.next_message),
            trace: None,
            message,
        };
        self.room.handle_message(client.conn, envelope, self.now);
        self.next_message
    }

    fn invoke(&mut self, client: &Client, toolkit: &str, tool: &str, input: Value) -> u64 {
        let message = invoke(toolkit, tool, Content::Json(input), "plain");
        self.send(client, message)
    }

    /// Invokes a tool, settles everything, and returns the answer.
    fn call(&mut self, client: &Client, toolkit: &str, tool: &str, input: Value) -> Content {
        let id = self.invoke(client, toolkit, tool, input);
        self.settle();
        client.answer(id)
    }

    fn chunk(&mut self, client: &Client, call: &str, chunk: Content) -> u64 {
        self.send(
            client,
            ClientToServer::RequestChunk {
                tool_call_id: call.to_owned(),
                chunk,
            },
        )
    }

    /// Sends the two messages of a streamed open, without waiting for anything.
    fn begin_open(&mut self, client: &Client, call: &str, start: Value) -> u64 {
        let open = invoke("sync", "open", Content::Control(Control::Open), call);
        self.send(client, open);
        self.start(client, call, start)
    }

    /// Sends the start chunk of a streamed open.
    fn start(&mut self, client: &Client, call: &str, start: Value) -> u64 {
        let mut headers = json!({ "kind": "start" });
        headers
            .as_object_mut()
            .unwrap()
            .extend(start.as_object().unwrap().clone());
        let headers = headers.as_object().unwrap().clone();
        self.chunk(
            client,
            call,
            Content::Binary {
                headers,
                data: Bytes::new(),
            },
        )
    }

    /// Opens a document and returns the state that arrived.
    fn open(&mut self, client: &Client, call: &str, start: Value) -> Vec<u8> {
        self.begin_open(client, call, start);
        self.settle();
        client.state(call)
    }

    fn update(&mut self, client: &Client, call: &str, update: &[u8]) -> u64 {
        self.chunk(client, call, sync_chunk(STANDARD.encode(update)))
    }

    /// Does the actions of the room. A batch is held until [`World::commit`].
    fn run(&mut self) {
        while let Some(action) = self.room.poll_action() {
            match action {
                Action::Commit(writes) => {
                    assert!(
                        self.held.replace(writes).is_none(),
                        "a room has one batch under way at most"
                    );
                }
                Action::Fetch(number, fetch) => {
                    let result = self.read(fetch);
                    self.room.handle_fetched(number, result, self.now);
                }
            }
        }
        while self.room.has_news() {
            self.room.tell_news(|| true);
        }
    }

    /// Reads from the store.
    fn read(&self, fetch: Fetch) -> Result<FetchResult, StoreError> {
        let room = RoomId::new("project", "room");
        crate::rooms::read_now(&self.store, &room, fetch)
    }

    /// The disk writes the held batch. Returns false if there was none.
    fn commit(&mut self) -> bool {
        self.run();
        let Some(writes) = self.held.take() else {
            return false;
        };
        let store = Embedded(&self.store);
        let result = commit_and_look(&store, &self.owner, &writes, &self.metrics);
        self.room.handle_committed(result, self.now);
        self.run();
        true
    }

    fn settle(&mut self) {
        while self.commit() {}
    }

    fn pass_seconds(&mut self, seconds: i64) {
        for _ in 0..seconds {
            self.now.0 += 1000;
            self.room.handle_timeout(self.now);
            self.settle();
        }
    }

    /// Waits until all documents are unloaded. None may be open.
    fn unload(&mut self) {
        for _ in 0..600 {
            self.pass_seconds(1);
            if self.room.documents.is_empty() {
                return;
            }
        }
        panic!("the document stays");
    }

    /// The value of a line of the metrics.
    fn metric(&self, line: &str) -> u64 {
        let text = self.metrics.render();
        let value = text
            .lines()
            .find_map(|found| found.strip_prefix(line)?.strip_prefix(' '));
        value
            .unwrap_or_else(|| panic!("no {line} in\n{text}"))
            .parse()
            .unwrap()
    }
}

impl Client {
    fn take(&self) -> Vec<Seen> {
        let mut seen = Vec::new();
        for (item, cost) in self.outbox.try_take() {
            self.outbox.written(cost);
            if let Some(message) = item.into_message() {
                seen.push(match message {
                    ServerToClient::Response { request, content } => {
                        Seen::Answer(u64::from_be_bytes(request.0), content)
                    }
                    ServerToClient::ResponseChunk {
                        tool_call_id,
                        chunk,
                    } => Seen::Chunk(tool_call_id, chunk),
                    other => Seen::Other(other),
                });
            }
        }
        seen
    }

    /// Returns the only answer to a request, and discards everything else that arrived.
    fn answer(&self, id: u64) -> Content {
        let seen = self.take();
        let mut answers = seen.iter().filter_map(|seen| match seen {
            Seen::Answer(request, content) if *request == id => Some(content.clone()),
            _ => None,
        });
        let answer = answers
            .next()
            .unwrap_or_else(|| panic!("no answer to {id} in {seen:?}"));
        assert!(answers.next().is_none(), "two answers to {id}");
        answer
    }

    fn chunks(&self, call: &str) -> Vec<Content> {
        let chunks = self.take().into_iter().filter_map(|seen| match seen {
            Seen::Chunk(id, chunk) if id == call => Some(chunk),
            _ => None,
        });
        chunks.collect()
    }

    /// The payload of the state chunk, which has to be the only chunk.
    fn state(&self, call: &str) -> Vec<u8> {
        let chunks = self.chunks(call);
        match chunks.as_slice() {
            [Content::Binary { headers, data }] if headers["kind"] == "state" => {
                STANDARD.decode(data).unwrap()
            }
            other => panic!("expected the state chunk, found {} chunks", other.len()),
        }
    }

    /// The payloads of all chunks of a stream: the state and the updates.
    fn updates(&self, call: &str) -> Vec<Vec<u8>> {
        let payloads = self
            .chunks(call)
            .into_iter()
            .filter_map(|chunk| match chunk {
                Content::Binary { data, .. } => Some(STANDARD.decode(data).unwrap()),
                _ => None,
            });
        payloads.collect()
    }

    /// The updates of a stream, without the state.
    fn changes(&self, call: &str) -> Vec<Vec<u8>> {
        let changes = self
            .chunks(call)
            .into_iter()
            .filter_map(|chunk| match chunk {
                Content::Binary { headers, data } if headers["kind"] == "sync" => {
                    Some(STANDARD.decode(data).unwrap())
                }
                _ => None,
            });
        changes.collect()
    }
}

/// An editing program: a replica of its own, as the published SDKs have.
struct Editor {
    doc: Doc,
    root: XmlFragmentRef,
}

impl Editor {
    fn new(client_id: u64) -> Self {
        let doc = Doc::with_client_id(client_id);
        let root = doc.get_or_insert_xml_fragment("xml");
        Self { doc, root }
    }

    /// Appends an element to the root and returns the update.
    fn append(&self, tag: &str, id: &str) -> Vec<u8> {
        use yrs::Xml as _;
        let mut transaction = self.doc.transact_mut();
        let element = self
            .root
            .push_back(&mut transaction, XmlElementPrelim::empty(tag));
        element.insert_attribute(&mut transaction, "$id", id);
        transaction.encode_update_v1()
    }

    /// Removes a child of the root.
    fn remove(&self, index: u32) -> Vec<u8> {
        let mut transaction = self.doc.transact_mut();
        self.root.remove_range(&mut transaction, index, 1);
        transaction.encode_update_v1()
    }

    /// Sets an attribute of the first element.
    fn set_first(&self, name: &str, value: &str) -> Vec<u8> {
        use yrs::Xml as _;
        let mut transaction = self.doc.transact_mut();
        let first = self
            .root
            .get(&transaction, 0)
            .unwrap()
            .into_xml_element()
            .unwrap();
        first.insert_attribute(&mut transaction, name, value);
        transaction.encode_update_v1()
    }
}

/// The CPU time of this thread.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).expect("time does not run backwards")
}

fn invoke(toolkit: &str, tool: &str, arguments: Content, call: &str) -> ClientToServer {
    ClientToServer::Invoke(Invoke {
        toolkit: toolkit.to_owned(),
        tool: tool.to_owned(),
        arguments,
        tool_call_id: Some(call.to_owned()),
        participant_id: None,
        on_behalf_of_id: None,
    })
}

fn sync_chunk(payload: impl Into<Bytes>) -> Content {
    let headers = json!({ "kind": "sync" }).as_object().unwrap().clone();
    Content::Binary {
        headers,
        data: payload.into(),
    }
}

/// The document's JSON after these updates, in the schema for `.document`.
fn shown(updates: &[Vec<u8>]) -> Value {
    let mut document = MeshDocument::new(MeshSchema::builtin("document").unwrap(), 99);
    for update in updates.iter().filter(|update| !update.is_empty()) {
        document.apply_update(update).unwrap();
    }
    document.to_json(true)
}

/// How often an element with this id is in what [`shown`] returns.
fn count(updates: &[Vec<u8>], id: &str) -> usize {
    shown(updates)
        .to_string()
        .matches(&format!("\"$id\":\"{id}\""))
        .count()
}

fn code(content: &Content) -> Option<i64> {
    match content {
        Content::Error { code, .. } => *code,
        _ => None,
    }
}

fn text(content: &Content) -> &str {
    match content {
        Content::Error { text, .. } => text,
        other => panic!("expected an error, found {other:?}"),
    }
}

/// The messages that a client received, without answers and chunks.
fn events(client: &Client) -> VecDeque<ServerToClient> {
    let events = client.take().into_iter().filter_map(|seen| match seen {
        Seen::Other(message) => Some(message),
        _ => None,
    });
    events.collect()
}

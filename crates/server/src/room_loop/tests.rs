//! The order in which a room takes envelopes, and its estimate of the work in a turn.

mod leaving;
mod moving;
mod weight;

use std::cell::Cell;
use std::collections::VecDeque;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use meshagent_document::{MeshDocument, MeshSchema, Target};
use meshagent_ledger::Account;
use meshagent_protocol::{
    ApiScope, ClientToServer, Content, Control, Envelope, Invoke, ServerToClient,
};
use meshagent_store::{MemoryStore, RoomId, Store as _, StoreError, Write, WriteError};
use serde_json::json;

use super::*;
use crate::config::Config;
use crate::ids::Ids;
use crate::metrics::Metrics;
use crate::outbox::Outgoing;
use crate::signer::UrlSigner;
use crate::usage::Usage;

struct World {
    room: RoomLoop,
    usage: Arc<Usage>,
    /// The time that the room's work has taken so far.
    clock: Cell<Duration>,
    next_conn: u64,
}

struct Member {
    conn: Conn,
    outbox: Arc<Outbox>,
    account: Arc<Account>,
}

impl World {
    fn new() -> Self {
        Self::with_config(Config::default())
    }

    fn with_config(config: Config) -> Self {
        let config = Arc::new(config);
        let usage = Arc::new(Usage::new(0, &config.limits));
        let room = Room::new(
            RoomId::new("project", "room"),
            config,
            Arc::new(Metrics::new()),
            UrlSigner::new("secret"),
            Arc::clone(&usage),
            Ids::from_seed([7; 32]),
        );
        Self {
            room: RoomLoop::new(room),
            usage,
            clock: Cell::default(),
            next_conn: 0,
        }
    }

    fn hand_in(&mut self, input: RoomInput) {
        let letter = Letter::new(input, 0, None, Held::none());
        self.room.receive(vec![letter]);
    }

    fn join(&mut self, name: &str) -> Member {
        self.join_with(name, 1 << 20)
    }

    fn join_with(&mut self, name: &str, outbox_bytes: usize) -> Member {
        self.next_conn += 1;
        let conn = Conn(self.next_conn);
        let joining = self.joining(name, outbox_bytes);
        let member = Member {
            conn,
            outbox: Arc::clone(&joining.outbox),
            account: Arc::clone(&joining.account),
        };
        self.hand_in(RoomInput::Join(conn, joining.into()));
        member
    }

    fn joining(&self, name: &str, outbox_bytes: usize) -> crate::room::Joining {
        let account = self.usage.ledger().account(name);
        crate::room::Joining {
            participant_id: format!("{name}-id"),
            name: name.to_owned(),
            role: "user".to_owned(),
            scope: ApiScope::full(),
            origin: "http://127.0.0.1:1".to_owned(),
            outbox: Arc::new(Outbox::new(outbox_bytes, &account)),
            account,
            expires: None,
        }
    }

    fn ask(&mut self, member: &Member, id: u64) {
        let message = ClientToServer::Unknown {
            kind: "ünknown".to_owned(),
        };
        let envelope = Envelope {
            id: MessageId::from(id),
            trace: None,
            message,
        };
        self.hand_in(RoomInput::Message(member.conn, envelope));
    }

    fn say(&mut self, member: &Member, message: ClientToServer) {
        let envelope = Envelope {
            id: MessageId::from(1),
            trace: None,
            message,
        };
        self.hand_in(RoomInput::Message(member.conn, envelope));
    }

    fn open(&mut self, member: &Member) {
        self.open_at(member, "open", "a.document");
    }

    fn open_at(&mut self, member: &Member, call: &str, path: &str) {
        self.say(
            member,
            ClientToServer::Invoke(Invoke {
                toolkit: "sync".to_owned(),
                tool: "open".to_owned(),
                arguments: Content::Control(Control::Open),
                tool_call_id: Some(call.to_owned()),
                participant_id: None,
                on_behalf_of_id: None,
            }),
        );
        self.chunk_in(call, member, &json!({ "kind": "start", "path": path }), "");
    }

    fn chunk(&mut self, member: &Member, headers: &serde_json::Value, data: &str) {
        self.chunk_in("open", member, headers, data);
    }

    fn chunk_in(&mut self, call: &str, member: &Member, headers: &serde_json::Value, data: &str) {
        let chunk = Content::Binary {
            headers: headers.as_object().unwrap().clone(),
            data: data.to_owned().into(),
        };
        self.say(
            member,
            ClientToServer::RequestChunk {
                tool_call_id: call.to_owned(),
                chunk,
            },
        );
    }

    /// Runs the room until nothing is left to do.
    fn settle(&mut self, store: &MemoryStore) {
        let mut committed = VecDeque::new();
        let mut fetched = VecDeque::new();
        loop {
            match self.room.next(Timestamp(0)) {
                Next::Work { .. } => self.room.work(Timestamp(0), || Duration::ZERO),
                Next::Commit(writes) => committed.push_back(store.commit(&writes)),
                Next::Fetch(number, fetch) => {
                    let room = RoomId::new("project", "room");
                    fetched.push_back((number, crate::rooms::read_now(store, &room, fetch)));
                }
                Next::Wait { goes_on, .. } => {
                    if let Some((number, result)) = fetched.pop_front() {
                        self.room.fetched(number, result.into());
                    } else if let Some(result) = committed.pop_front() {
                        self.room
                            .committed(result.map_err(Arc::new), Duration::ZERO);
                    } else if goes_on {
                        self.room.go_on();
                    } else {
                        return;
                    }
                }
                Next::End => return,
            }
        }
    }

    /// Runs the room until it waits, at the time `now` and with a disk that takes `took` for each
    /// batch. Returns the number of batches.
    fn run_at(&mut self, now: i64, store: &MemoryStore, took: Duration) -> usize {
        let (mut committing, mut batches) = (None, 0);
        loop {
            match self.room.next(Timestamp(now)) {
                Next::Work { .. } => self.room.work(Timestamp(now), || Duration::ZERO),
                Next::Commit(writes) => committing = Some(store.commit(&writes)),
                Next::Fetch(..) => panic!("nobody asked for it"),
                Next::Wait { goes_on, .. } => match committing.take() {
                    Some(result) => {
                        batches += 1;
                        self.room.committed(result.map_err(Arc::new), took);
                    }
                    None if goes_on => self.room.go_on(),
                    None => return batches,
                },
                Next::End => return batches,
            }
        }
    }

    /// The room's estimate of the turn with its next envelope.
    fn weighs(&mut self) -> usize {
        loop {
            match self.room.next(Timestamp(0)) {
                Next::Wait { goes_on: true, .. } => self.room.go_on(),
                Next::Work { bytes } => return bytes,
                next => panic!("nothing to do: {next:?}"),
            }
        }
    }

    /// Runs one turn, in which each envelope takes `each`.
    fn turn(&mut self, each: Duration) {
        let mut has_gone_on = false;
        loop {
            match self.room.next(Timestamp(0)) {
                Next::Work { .. } => {
                    let clock = &self.clock;
                    clock.set(Duration::ZERO);
                    self.room.work(Timestamp(0), || {
                        clock.set(clock.get() + each);
                        clock.get()
                    });
                    if has_gone_on {
                        return;
                    }
                }
                Next::Wait { goes_on: true, .. } => {
                    has_gone_on = true;
                    self.room.go_on();
                }
                next => panic!("nothing to do: {next:?}"),
            }
        }
    }
}

impl Member {
    /// The requests that were answered since the last call, in order.
    fn answered(&self) -> Vec<u64> {
        let mut answered = Vec::new();
        for (item, cost) in self.outbox.try_take() {
            self.outbox.written(cost);
            if let Some(ServerToClient::Response { request, .. }) = item.into_message() {
                answered.push(u64::from_be_bytes(request.0));
            }
        }
        answered
    }
}

const LONG: Duration = Duration::from_millis(40);

#[test]
fn who_sends_much_that_takes_long_waits_for_itself() {
    let mut world = World::new();
    // Two connections get no more time than one.
    let flood = [world.join("flöd"), world.join("flöd")];
    let other = world.join("ünschuldig");
    for id in 0..500 {
        world.ask(&flood[usize::from(id % 2 == 1)], id);
    }
    for _ in 0..20 {
        world.turn(LONG);
    }
    let before: usize = flood.iter().map(|member| member.answered().len()).sum();
    assert!((1..=40).contains(&before), "{before}");
    // A participant that comes later is next, each time.
    for id in 1_000..1_010 {
        world.ask(&other, id);
        let mut turns = 0;
        while !other.answered().contains(&id) {
            world.turn(LONG);
            turns += 1;
            assert!(turns <= 3, "request {id}");
        }
    }
    // Nothing is lost, and a connection's answers have the order of its requests.
    let mut answered = [Vec::new(), Vec::new()];
    while world.room.queues.peek(false).is_some() {
        world.turn(Duration::ZERO);
        for (member, answered) in flood.iter().zip(&mut answered) {
            answered.extend(member.answered());
        }
    }
    for answered in &answered {
        assert!(answered.is_sorted() && !answered.is_empty());
    }
}

#[test]
fn time_is_shared_by_what_each_takes_and_not_by_count() {
    let mut world = World::new();
    let (long, short) = (world.join("läng"), world.join("kürz"));
    world.turn(Duration::ZERO);
    for id in 0..400 {
        world.ask(&long, id);
        world.ask(&short, id);
    }
    let (mut of_long, mut of_short) = (0, 0);
    // Envelopes of one participant take twenty times as long as those of the other.
    while of_short < 100 {
        let is_long = world
            .room
            .queues
            .peek(false)
            .is_some_and(|letter| letter.input.conn() == long.conn);
        world.turn(if is_long {
            FULL_TURN * 2
        } else {
            FULL_TURN + FULL_TURN / 10
        });
        of_long += long.answered().len();
        of_short += short.answered().len();
    }
    let share = (45..=60).contains(&of_long);
    assert!(share, "{of_long} long ones beside {of_short} short ones");
}

/// A room with a large document, eight participants that request all of it repeatedly, and one that
/// types.
struct Crowd {
    world: World,
    store: MemoryStore,
    asking: Vec<Member>,
    typist: Member,
    editor: MeshDocument,
    written: usize,
    /// The crowd's envelopes that have been handled, the answers to them, and the typist's updates
    /// that were answered.
    begun: usize,
    described: usize,
    typed: usize,
    committing: Option<Vec<Write>>,
}

impl Crowd {
    fn new() -> Self {
        let store = MemoryStore::new();
        let mut world = World::new();
        let typist = world.join_with("tïpper", 64 << 20);
        let names = (0..8).map(|number| format!("möb{number}"));
        let asking: Vec<Member> = names.map(|name| world.join_with(&name, 64 << 20)).collect();
        world.open(&typist);
        world.settle(&store);
        let mut this = Self {
            world,
            store,
            asking,
            typist,
            editor: MeshDocument::new(MeshSchema::builtin("document").unwrap(), 5),
            written: 0,
            begun: 0,
            described: 0,
            typed: 0,
            committing: None,
        };
        this.write(100_000);
        this.world.settle(&this.store);
        this.typist.answered();
        this
    }

    fn write(&mut self, letters: usize) {
        let before = self.editor.state_vector();
        self.written += 1;
        let id = format!("é{}", self.written);
        let element = json!({ "body": { "text": "é".repeat(letters) } });
        self.editor
            .append_child(Target::Root, element, &mut || id.clone())
            .unwrap();
        let update = STANDARD.encode(self.editor.encode_diff(&before).unwrap());
        self.world
            .chunk(&self.typist, &json!({ "kind": "sync" }), &update);
    }

    fn describe(&mut self) {
        for member in &self.asking {
            let message = ClientToServer::Invoke(Invoke {
                toolkit: "sync".to_owned(),
                tool: "describe".to_owned(),
                arguments: Content::Json(json!({ "path": "a.document" })),
                tool_call_id: None,
                participant_id: None,
                on_behalf_of_id: None,
            });
            self.world.say(member, message);
        }
    }

    /// Runs one step of the room, in which a description takes a second. If it `writes`, the disk
    /// finishes a batch when the room waits for nothing else. Returns whether there was something
    /// to do.
    fn step(&mut self, writes: bool) -> bool {
        match self.world.room.next(Timestamp(0)) {
            Next::Work { .. } => {
                let peeked = self.world.room.queues.peek(false);
                let whose = peeked.map(|letter| letter.input.conn());
                let each = if whose == Some(self.typist.conn) {
                    Duration::from_micros(100)
                } else {
                    Duration::from_secs(1)
                };
                let clock = Cell::new(Duration::ZERO);
                let before = self.world.room.queues.len();
                self.world.room.work(Timestamp(0), || {
                    clock.set(clock.get() + each);
                    clock.get()
                });
                if whose != Some(self.typist.conn) {
                    self.begun += before - self.world.room.queues.len();
                }
            }
            Next::Commit(writes) => self.committing = Some(writes),
            Next::Fetch(..) | Next::End => panic!("nobody asked for it"),
            Next::Wait { goes_on: true, .. } => self.world.room.go_on(),
            Next::Wait { .. } => match self.committing.take_if(|_| writes) {
                Some(writes) => {
                    let result = self.store.commit(&writes).map_err(Arc::new);
                    self.world.room.committed(result, Duration::ZERO);
                }
                None => return false,
            },
        }
        for member in &self.asking {
            self.described += member.answered().len();
        }
        self.typed += self.typist.answered().len();
        true
    }
}

#[test]
fn who_waits_for_the_disk_goes_before_what_takes_long() {
    let mut world = Crowd::new();
    for _ in 0..10 {
        world.describe();
    }
    // Some have begun.
    while world.begun < 4 {
        assert!(world.step(true));
    }
    for _ in 0..10 {
        let (begun, typed) = (world.begun, world.typed);
        world.write(1);
        while world.typed == typed {
            assert!(world.step(true));
        }
        let meanwhile = world.begun - begun;
        assert!(meanwhile <= 1, "{meanwhile} descriptions went before");
    }
}

#[test]
fn what_takes_long_has_its_turn_beside_whoever_types() {
    let mut world = Crowd::new();
    world.describe();
    while world.described < 8 {
        let typed = world.typed;
        world.write(1);
        while world.typed == typed {
            assert!(world.step(true));
        }
        assert!(world.typed < 40, "{} were described", world.described);
    }
}

#[test]
fn what_takes_long_does_not_wait_for_a_disk_that_does_not_answer() {
    let mut world = Crowd::new();
    world.write(1);
    world.describe();
    while world.step(false) {}
    assert_eq!(world.begun, 0);
    world.world.room.tick();
    while world.step(false) {}
    assert_eq!(world.begun, 8);
    // The answers show edits that are not on disk, so they are held back.
    assert_eq!(world.described, 0);
    while world.step(true) {}
    assert_eq!((world.described, world.typed), (8, 1));
}

/// A folder with `files` files; the paths of 1,050 are almost as long as a move permits.
fn fill_folder(store: &MemoryStore, files: usize) {
    let room = RoomId::new("project", "room");
    let name = "ä".repeat(240);
    let files: Vec<Write> = (0..files)
        .map(|number| Write::PutFile {
            room: room.clone(),
            path: format!("F/{name}{number:05}"),
            data: "x".into(),
            mime_type: String::new(),
            overwrite: false,
            at: Timestamp(0),
        })
        .collect();
    store.commit(&files).unwrap();
}

fn rename(source: &str, destination: &str) -> ClientToServer {
    ClientToServer::Invoke(Invoke {
        toolkit: "storage".to_owned(),
        tool: "move".to_owned(),
        arguments: Content::Json(json!({ "source_path": source, "destination_path": destination })),
        tool_call_id: None,
        participant_id: None,
        on_behalf_of_id: None,
    })
}

#[test]
fn news_of_moves_are_told_before_there_are_more_of_them() {
    const MEMBERS: usize = 20;
    const FILES: usize = 520;
    const MOVES: usize = 32;
    let mut config = Config::default();
    config.limits.max_held_bytes = 8 << 20;
    let max = config.limits.max_held_bytes;
    let store = MemoryStore::new();
    fill_folder(&store, FILES);
    let mut world = World::with_config(config);
    let mover = world.join("möver");
    let members: Vec<Member> = (0..MEMBERS)
        .map(|number| world.join(&format!("hörer{number}")))
        .collect();
    world.settle(&store);
    for member in members.iter().chain([&mover]) {
        member.answered();
    }
    for number in 0..MOVES {
        let (from, to) = if number % 2 == 0 {
            ("F", "Ü")
        } else {
            ("Ü", "F")
        };
        world.say(&mover, rename(from, to));
    }
    // An edit meanwhile does not wait for the storage events.
    world.ask(&members[0], 77);
    let (mut most, mut heard, mut moved, mut committing) = (0, [0; MEMBERS], 0, None);
    let mut asked_after = None;
    loop {
        match world.room.next(Timestamp(0)) {
            Next::Work { .. } => world.room.work(Timestamp(0), || Duration::ZERO),
            Next::Commit(writes) => committing = Some(store.commit(&writes)),
            Next::Fetch(..) | Next::End => panic!("nobody asked for it"),
            Next::Wait { goes_on, .. } => match committing.take() {
                Some(result) => {
                    let result = result.map_err(Arc::new);
                    world.room.committed(result, Duration::ZERO);
                }
                None if goes_on => world.room.go_on(),
                None => break,
            },
        }
        most = most.max(world.usage.ledger().held());
        // All members read.
        for (member, heard) in members.iter().zip(&mut heard) {
            for (item, cost) in member.outbox.try_take() {
                member.outbox.written(cost);
                match item {
                    Outgoing::Shared { .. } => *heard += 1,
                    _ => asked_after = asked_after.or(Some(moved)),
                }
            }
        }
        moved += mover.answered().len();
    }
    assert_eq!(moved, MOVES);
    assert_eq!(heard, [MOVES * (FILES + 1); MEMBERS]);
    assert!(
        asked_after.is_some_and(|moves| moves <= 2),
        "{asked_after:?}"
    );
    assert!(most <= max, "{} MiB", most >> 20);
}

/// How many answers two participants have received since the last call.
fn answers(one: &Member, other: &Member) -> (usize, usize) {
    (one.answered().len(), other.answered().len())
}

#[test]
fn who_touched_much_waits_for_what_the_disk_had_to_do() {
    const SECOND: i64 = 1_000;
    let store = MemoryStore::new();
    fill_folder(&store, 300);
    let mut world = World::new();
    let (mover, other) = (world.join("möver"), world.join("ünschuldig"));
    world.settle(&store);
    for (from, to) in [("F", "Ü"), ("Ü", "F")] {
        world.say(&mover, rename(from, to));
    }
    answers(&mover, &other);
    // The disk took a second for the first move.
    let begun = world.run_at(0, &store, Duration::from_secs(1));
    assert_eq!((begun, answers(&mover, &other)), (1, (1, 0)));
    // The participant's next move waits, and its later messages behind it; those of others are
    // handled immediately.
    world.ask(&mover, 7);
    world.ask(&other, 8);
    world.say(&other, rename("nöthing", "else"));
    for now in [0, SECOND, 2 * SECOND] {
        let begun = world.run_at(now, &store, Duration::ZERO);
        assert_eq!(begun, usize::from(now == 0), "at {now}");
    }
    assert_eq!(answers(&mover, &other), (0, 2));
    assert_eq!(world.run_at(3 * SECOND, &store, Duration::ZERO), 1);
    assert_eq!(answers(&mover, &other), (2, 0));
    // A room that ends does not wait.
    world.say(&other, rename("F", "Ü"));
    world.run_at(4 * SECOND, &store, Duration::from_secs(1));
    world.say(&other, rename("Ü", "F"));
    assert_eq!(world.run_at(4 * SECOND, &store, Duration::ZERO), 0);
    world.room.close();
    assert_eq!(world.run_at(4 * SECOND, &store, Duration::ZERO), 1);
    assert_eq!(answers(&mover, &other), (0, 2));
}

/// A room is cut short before it handles the result of its last batch. Its staged writes may build
/// on refused ones.
#[test]
fn what_builds_on_a_refused_batch_is_not_handed_on_at_the_end() {
    let down = || StoreError::Unavailable("the disk is gone".into());
    let refused = || Err(WriteError::IntoItself);
    let answers: [(BatchResult, usize); 3] = [
        (Err(Arc::new(down())), 0),
        (Ok(vec![refused()]), 0),
        (
            Ok(vec![Ok(Written::Deleted {
                entries: Vec::new(),
            })]),
            1,
        ),
    ];
    for (answer, expected) in answers {
        let case = format!("{answer:?}");
        let mut world = World::new();
        let member = world.join("member");
        let delete = |path: &str| {
            ClientToServer::Invoke(Invoke {
                toolkit: "storage".to_owned(),
                tool: "delete".to_owned(),
                arguments: Content::Json(json!({ "path": path })),
                tool_call_id: None,
                participant_id: None,
                on_behalf_of_id: None,
            })
        };
        let mut batches = Vec::new();
        for path in ["one", "two"] {
            world.say(&member, delete(path));
            loop {
                match world.room.next(Timestamp(0)) {
                    Next::Work { .. } => world.room.work(Timestamp(0), || Duration::ZERO),
                    Next::Commit(writes) => batches.push(writes),
                    Next::Wait { goes_on: true, .. } => world.room.go_on(),
                    _ => break,
                }
            }
        }
        assert_eq!(batches.len(), 1, "the second waits for the first");
        world.room.committed(answer, Duration::ZERO);
        assert_eq!(world.room.take_writes().len(), expected, "{case}");
    }
}

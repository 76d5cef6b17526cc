//! A reader that stops reading for half a minute while others write: it costs little memory, delays
//! no other participant, and later gets the missed changes as one merged update.
//!
//! `SLOW_SECONDS=120 cargo test -p meshagent-cli slow_reader` runs longer.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use meshagent_client::{Connection, SyncStream};
use meshagent_document::{MeshDocument, MeshSchema, Target};
use meshagent_protocol::DocPath;
use meshagent_protocol::sync::SyncOpenStart;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::raw::RawSocket;
use crate::serve::Server;
use crate::stress::{alone, metric, resident_kilobytes, room_url, setting, token};
use crate::{KEY, meshagent};

const WRITERS: u64 = 2;
/// Elements whose texts are overwritten repeatedly: many bytes are sent and the document
/// stays small.
const ELEMENTS: usize = 8;
const TEXT_BYTES: usize = 32 << 10;
/// Time between two updates of a writer; other tests use the machine, too.
const WRITE_EVERY: Duration = Duration::from_millis(20);
/// Time between two of the small updates that measure delays.
const PULSE_EVERY: Duration = Duration::from_millis(25);
/// Number of measured delays before the slow reader joins; as many before them are ignored.
const PULSES_BEFORE: usize = 100;
/// Minimum bytes written while the slow reader does not read.
const MUCH: u64 = 16 << 20;
/// Maximum memory for the slow reader: its outbox of 1 MiB, and a reserve for the allocator.
const MORE_KILOBYTES: u64 = 48 << 10;
/// No step takes this long; a test that hangs fails.
const PATIENCE: Duration = Duration::from_mins(5);

#[test]
fn slow_reader_delays_no_other_participant() {
    let _machine = alone();
    let home = TempDir::new().unwrap();
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--data-dir", "data"];
    let mut command = meshagent(home.path(), &arguments);
    command
        .current_dir(home.path())
        .env("MESHAGENT_API_KEY", KEY);
    let server = Server::start(&mut command);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(run(&server));
    server.terminate();
}

async fn run(server: &Server) {
    let url = room_url(server.url());
    let first = Connection::connect(&url, &token("first")).await.unwrap();
    let elements = vec![json!({ "body": { "text": "" } }); ELEMENTS];
    let content = json!({ "document": { "content": elements } });
    first
        .sync()
        .create(PATH, Some(content), None)
        .await
        .unwrap();

    let world = Arc::new(World::default());
    let mut tasks = Vec::new();
    for number in 0..WRITERS {
        let replica = Replica::open(&url, 10 + number).await;
        tasks.push(tokio::spawn(write(replica, Arc::clone(&world))));
    }
    let replica = Replica::open(&url, 20).await;
    tasks.push(tokio::spawn(pulse(replica, Arc::clone(&world))));
    let replica = Replica::open(&url, 30).await;
    let reader = tokio::spawn(read(replica, Arc::clone(&world)));

    // The first seconds allocate permanent memory: caches of the database, threads.
    world.measure(PULSES_BEFORE).await;
    let before = world.measure(PULSES_BEFORE).await;
    let most_before = resident_kilobytes(server.id());

    let mut slow = RawSocket::join(server.url(), "slow", Some(4096)).await;
    slow.open(PATH).await;
    let stopped = Instant::now();
    let written_before = world.written_bytes.load(Ordering::Relaxed);
    let mut most = 0;
    let enough = Duration::from_secs(setting("SLOW_SECONDS", 30));
    let mut written = 0;
    while stopped.elapsed() < enough || written < MUCH {
        sleep(Duration::from_millis(100)).await;
        most = most.max(resident_kilobytes(server.id()));
        written = world.written_bytes.load(Ordering::Relaxed) - written_before;
        assert!(
            stopped.elapsed() < enough + PATIENCE,
            "only {written} bytes were written; the machine is too slow to prove anything"
        );
    }
    let during = world.take_delays();
    assert!(
        during.len() >= 20,
        "others saw {} updates while it did not read",
        during.len()
    );
    world.stopping.store(true, Ordering::Relaxed);
    for task in tasks {
        timeout(PATIENCE, task).await.unwrap().unwrap();
    }

    // A participant that waited for the slow reader would wait for half a minute; smaller
    // differences are due to other processes on the machine.
    let (usual, meanwhile) = (percentile(&before, 50), percentile(&during, 50));
    assert!(
        meanwhile <= usual * 4 + Duration::from_millis(500),
        "median delay: {usual:?} before the reader stopped, {meanwhile:?} afterwards"
    );
    let (usual, meanwhile) = (percentile(&before, 99), percentile(&during, 99));
    assert!(
        meanwhile <= usual * 4 + Duration::from_secs(5),
        "99th percentile: {usual:?} before the reader stopped, {meanwhile:?} afterwards"
    );
    assert!(
        most <= most_before + MORE_KILOBYTES,
        "{most_before} kB before it stopped reading, up to {most} kB while it did not read"
    );

    // It reads again: the bytes in flight, and one merged update.
    let expected = timeout(PATIENCE, reader).await.unwrap().unwrap();
    let mut replica = MeshDocument::new(schema(), 40);
    let mut received = 0;
    let converge = async {
        while replica.to_json(true) != expected {
            let mut update = Vec::new();
            let message = slow.next(|piece| update.extend(piece)).await;
            if message.kind == "room.tool_call_response_chunk" {
                assert_eq!(message.header["chunk"]["type"], "binary");
                received += message.payload_bytes as u64;
                replica
                    .apply_update(&STANDARD.decode(&update).unwrap())
                    .unwrap();
            }
        }
    };
    timeout(PATIENCE, converge)
        .await
        .expect("it is brought up to date");
    assert!(
        received < written / 4,
        "it got {received} bytes of the {written} that were written, instead of what they amount to"
    );
    assert!(metric(server.url(), "meshagent_catch_ups_total").await > 0.0);
    first.close().await;
}

const PATH: &str = "a.document";

fn schema() -> MeshSchema {
    MeshSchema::builtin("document").unwrap()
}

/// State shared by the participants.
#[derive(Default)]
struct World {
    stopping: AtomicBool,
    written_bytes: AtomicU64,
    /// The times at which pulses were sent.
    sent: Mutex<Vec<Instant>>,
    /// The delays until pulses arrived.
    delays: Mutex<Vec<Duration>>,
}

impl World {
    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    fn take_delays(&self) -> Vec<Duration> {
        std::mem::take(&mut *self.delays.lock().unwrap())
    }

    /// Waits for a number of delays.
    async fn measure(&self, count: usize) -> Vec<Duration> {
        let started = Instant::now();
        loop {
            let measured = self.delays.lock().unwrap().len();
            if measured >= count {
                return self.take_delays();
            }
            assert!(
                started.elapsed() < PATIENCE,
                "only {measured} pulses were seen in {PATIENCE:?}"
            );
            sleep(Duration::from_millis(50)).await;
        }
    }
}

fn percentile(delays: &[Duration], percent: usize) -> Duration {
    let mut sorted = delays.to_vec();
    sorted.sort_unstable();
    sorted[(sorted.len() - 1) * percent / 100]
}

struct Replica {
    // Must outlive its stream.
    _client: Connection,
    stream: SyncStream,
    document: MeshDocument,
}

impl Replica {
    async fn open(url: &str, client_id: u64) -> Self {
        let client = Connection::connect(url, &token("member")).await.unwrap();
        let start = SyncOpenStart::new(DocPath::parse(PATH).unwrap());
        let stream = client.sync().open(&start).await.unwrap();
        let mut document = MeshDocument::new(schema(), client_id);
        document.apply_update(stream.state()).unwrap();
        Self {
            _client: client,
            stream,
            document,
        }
    }

    async fn set(&mut self, element: usize, value: String) -> usize {
        let id = self
            .document
            .root()
            .child(element)
            .unwrap()
            .id()
            .unwrap()
            .to_owned();
        let update = self
            .document
            .set_attribute(Target::Id(id), "text", value.into())
            .unwrap()
            .unwrap();
        let sent = timeout(PATIENCE, self.stream.send(&update))
            .await
            .expect("an answer");
        assert_eq!(sent.unwrap().notice, None);
        update.len()
    }

    /// Applies the updates that arrive within a time.
    async fn apply(&mut self, within: Duration) -> bool {
        match timeout(within, self.stream.recv()).await {
            Ok(update) => {
                self.document
                    .apply_update(&update.unwrap().unwrap())
                    .unwrap();
                true
            }
            Err(_nothing_came) => false,
        }
    }
}

async fn write(mut replica: Replica, world: Arc<World>) {
    for number in 0_usize.. {
        if world.is_stopping() {
            return;
        }
        let text = format!("{number}{}", "x".repeat(TEXT_BYTES));
        // The first element is for pulses.
        let element = 1 + number % (ELEMENTS - 1);
        let bytes = replica.set(element, text).await;
        world
            .written_bytes
            .fetch_add(bytes as u64, Ordering::Relaxed);
        let written = Instant::now();
        while replica
            .apply(WRITE_EVERY.saturating_sub(written.elapsed()))
            .await
        {}
    }
}

async fn pulse(mut replica: Replica, world: Arc<World>) {
    while !world.is_stopping() {
        let number = {
            let mut sent = world.sent.lock().unwrap();
            sent.push(Instant::now());
            sent.len() - 1
        };
        replica.set(0, number.to_string()).await;
        let sent = Instant::now();
        while replica
            .apply(PULSE_EVERY.saturating_sub(sent.elapsed()))
            .await
        {}
    }
}

/// Measures the delay of each pulse; returns the final document.
async fn read(mut replica: Replica, world: Arc<World>) -> Value {
    let mut seen = None;
    loop {
        let has_changed = replica.apply(Duration::from_millis(500)).await;
        let pulse = replica
            .document
            .root()
            .child(0)
            .unwrap()
            .attribute("text")
            .unwrap();
        let pulse: Option<usize> = pulse.as_str().unwrap().parse().ok();
        if let Some(number) = pulse.filter(|_| pulse != seen) {
            let sent = world.sent.lock().unwrap()[number];
            world.delays.lock().unwrap().push(sent.elapsed());
            seen = pulse;
        }
        if !has_changed && world.is_stopping() {
            return replica.document.to_json(true);
        }
    }
}

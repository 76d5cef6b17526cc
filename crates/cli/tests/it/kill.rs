//! Kills the server at random moments during edits: everything that it acknowledged or sent to a
//! reader survives.
//!
//! `KILLS=1000 KILL_SEED=7 cargo test -p meshagent-cli kill` runs longer, or with another seed.
//! The seed determines the kills and the edits; the progress of the edits until a kill depends on
//! the machine.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use meshagent_client::{CallError, Connection, StreamEnd, SyncStream};
use meshagent_document::{MeshDocument, MeshSchema, Target, UpdateKind};
use meshagent_protocol::DocPath;
use meshagent_protocol::sync::SyncOpenStart;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::serve::{Server, serve_at};
use crate::stress::{Random, Repeat, alone, quiet_port, room_url, setting, token};

const DOCUMENTS: [&str; 3] = ["a.document", "b.document", "c.document"];
const WRITERS: u64 = 6;
/// No step takes this long; a test that hangs fails.
const PATIENCE: Duration = Duration::from_mins(5);
/// The minimum number of acknowledged updates before a kill, unless the server is killed during its
/// start. A number instead of a time, so that a slow machine tests as much as a fast one.
const MIN_ACKNOWLEDGED: u64 = 10;
/// The upper bound of a random number of further acknowledged updates.
const MORE_ACKNOWLEDGED: u64 = 80;

#[test]
fn acknowledged_and_sent_updates_survive_a_kill() {
    let _machine = alone();
    let kills: u64 = setting("KILLS", 50);
    let seed: u64 = setting("KILL_SEED", 1);
    let _repeat = Repeat(format!(
        "KILLS={kills} KILL_SEED={seed} cargo test -p meshagent-cli kill"
    ));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let mut random = Random(seed);
    let home = TempDir::new().unwrap();
    let port = quiet_port(&mut random);
    let log = home.path().join("log");
    let url = room_url(&format!("http://127.0.0.1:{port}"));
    let ledger = Arc::new(Ledger::default());

    // The clients reconnect by themselves during the whole test.
    ledger.is_audited.store(true, Ordering::SeqCst);
    let mut actors = Vec::new();
    for _ in 0..WRITERS {
        actors.push(runtime.spawn(write(url.clone(), Arc::clone(&ledger), random.fork())));
    }
    for document in DOCUMENTS {
        actors.push(runtime.spawn(read(url.clone(), Arc::clone(&ledger), document)));
    }
    actors.push(runtime.spawn(create(url.clone(), Arc::clone(&ledger))));

    let mut audits = 0;
    for kill in 0..kills {
        // One server in four is killed at any time, perhaps during its start, while all clients
        // connect.
        if random.below(4) == 0 {
            ledger.is_audited.store(false, Ordering::SeqCst);
            let mut server = serve(home.path(), port)
                .stdout(Stdio::null())
                .stderr(append(&log))
                .spawn()
                .unwrap();
            std::thread::sleep(Duration::from_millis(random.below(150)));
            ledger.is_audited.store(true, Ordering::SeqCst);
            server.kill().unwrap();
            server.wait().unwrap();
        } else {
            let server = Server::start_with_log(&mut serve(home.path(), port), append(&log));
            runtime.block_on(audit(&url, &ledger, kill, 20));
            audits += 1;
            let enough = ledger.acknowledged.load(Ordering::Relaxed)
                + MIN_ACKNOWLEDGED
                + random.below(MORE_ACKNOWLEDGED);
            ledger.is_audited.store(false, Ordering::SeqCst);
            runtime.block_on(ledger.wait_for_acknowledgements(enough));
            // At a random moment between two acknowledgements.
            std::thread::sleep(Duration::from_millis(random.below(20)));
            // From here on, clients wait; the kill interrupts requests in flight.
            ledger.is_audited.store(true, Ordering::SeqCst);
            server.kill();
        }
        for actor in &actors {
            assert!(!actor.is_finished(), "an actor failed before kill {kill}");
        }
    }
    let connection = rusqlite::Connection::open(home.path().join("data/meshagent.db")).unwrap();
    let verdict: String = connection
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(verdict, "ok");
    drop(connection);

    let server = Server::start_with_log(&mut serve(home.path(), port), append(&log));
    runtime.block_on(audit(&url, &ledger, kills, usize::MAX));
    for actor in actors {
        actor.abort();
    }
    let log = fs::read_to_string(log).unwrap();
    assert!(!log.contains("panicked") && !log.contains("ERROR"), "{log}");
    server.terminate();

    let [acknowledged, sent] =
        [&ledger.acknowledged, &ledger.sent].map(|count| count.load(Ordering::Relaxed));
    assert!(
        acknowledged > kills * 10 && sent > kills * 10 && audits > kills / 2,
        "too few events: {acknowledged} updates acknowledged, {sent} sent, {audits} audits"
    );
}

/// A server with frequent snapshots and unloading, so that kills also happen during these.
fn serve(home: &Path, port: u16) -> Command {
    let listen = format!("127.0.0.1:{port}");
    let options = ["--snapshot-every", "7", "--unload-after", "0"];
    serve_at(home, &listen, &options)
}

fn append(log: &Path) -> File {
    let mut options = File::options();
    options.create(true).append(true).open(log).unwrap()
}

/// Everything that the server has acknowledged or sent to readers.
#[derive(Default)]
struct Ledger {
    documents: Mutex<BTreeMap<&'static str, Known>>,
    /// Created documents with their text.
    created: Mutex<Vec<(String, String)>>,
    /// Whether clients must not connect: they could restore lost data before the audit.
    is_audited: AtomicBool,
    acknowledged: AtomicU64,
    sent: AtomicU64,
    serial: AtomicU64,
}

/// The known state of one document.
struct Known {
    /// All updates that the server has acknowledged or sent.
    replica: MeshDocument,
    /// Elements whose insertion was acknowledged.
    inserted: BTreeSet<String>,
    /// Elements whose deletion was sent to the server, so that they may be deleted.
    deleting: BTreeSet<String>,
    /// Elements whose deletion was acknowledged.
    deleted: BTreeSet<String>,
}

impl Default for Known {
    fn default() -> Self {
        Self {
            replica: replica(1),
            inserted: BTreeSet::new(),
            deleting: BTreeSet::new(),
            deleted: BTreeSet::new(),
        }
    }
}

impl Ledger {
    fn with<T>(&self, path: &'static str, f: impl FnOnce(&mut Known) -> T) -> T {
        f(self.documents.lock().unwrap().entry(path).or_default())
    }

    fn acknowledged(&self, path: &'static str, update: &[u8]) {
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
        self.with(path, |known| known.replica.apply_update(update).unwrap());
    }

    fn sent(&self, path: &'static str, update: &[u8]) {
        self.sent.fetch_add(1, Ordering::Relaxed);
        self.with(path, |known| known.replica.apply_update(update).unwrap());
    }

    async fn wait_for_acknowledgements(&self, count: u64) {
        let wait = async {
            while self.acknowledged.load(Ordering::Relaxed) < count {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, wait)
            .await
            .expect("updates are acknowledged");
    }

    /// A unique number.
    fn serial(&self) -> u64 {
        2 + self.serial.fetch_add(1, Ordering::Relaxed)
    }
}

fn replica(client_id: u64) -> MeshDocument {
    MeshDocument::new(MeshSchema::builtin("document").unwrap(), client_id)
}

/// Compares the edited documents and the newest created ones with the ledger.
async fn audit(url: &str, ledger: &Ledger, kill: u64, newest: usize) {
    let look = async {
        let client = Connection::connect(url, &token("auditor")).await.unwrap();
        for path in DOCUMENTS {
            let known = ledger.with(path, |known| {
                let waiting = known.replica.encode_pending();
                let sets = (known.inserted.clone(), known.deleted.clone());
                (known.replica.encode_state(), waiting, sets)
            });
            let (state, waiting, (inserted, deleted)) = known;
            let stream = client.sync().open(&start(path, None)).await.unwrap();
            let mut served = replica(0);
            served.apply_update(stream.state()).unwrap();
            for update in std::iter::once(state).chain(waiting) {
                let kind = served.classify(&update).unwrap();
                assert!(
                    matches!(kind, UpdateKind::Contained | UpdateKind::Empty),
                    "after {kill} kills {path} lacks an acknowledged or sent update: {kind:?}"
                );
            }
            let ids = element_ids(&served.to_json(true));
            let deleting = ledger.with(path, |known| known.deleting.clone());
            let lost: Vec<_> = inserted
                .iter()
                .filter(|&id| !ids.contains(id) && !deleting.contains(id))
                .collect();
            let back: Vec<_> = deleted.intersection(&ids).collect();
            assert!(
                lost.is_empty() && back.is_empty(),
                "after {kill} kills {path} has lost {lost:?}, and {back:?} are back"
            );
        }
        let created = ledger.created.lock().unwrap().clone();
        let mut looks = JoinSet::new();
        for (path, text) in created.into_iter().rev().take(newest) {
            let sync = client.sync();
            looks.spawn(async move {
                let json = sync.describe(&path).await.unwrap();
                assert_eq!(json, content(&text), "after {kill} kills, {path}");
            });
        }
        while let Some(look) = looks.join_next().await {
            look.unwrap();
        }
        client.close().await;
    };
    timeout(PATIENCE, look).await.unwrap();
}

fn element_ids(json: &Value) -> BTreeSet<String> {
    let elements = json["document"]["content"].as_array().unwrap().iter();
    let id = |element: &Value| element["body"]["$id"].as_str().unwrap().to_owned();
    elements.map(id).collect()
}

fn start(path: &str, replica: Option<&MeshDocument>) -> SyncOpenStart {
    let mut start = SyncOpenStart::new(DocPath::parse(path).unwrap());
    start.vector = replica.map(MeshDocument::state_vector);
    start
}

/// Connects as soon as a server runs and no audit is in progress.
async fn connect(url: &str, ledger: &Ledger, name: &str) -> Connection {
    let jwt = token(name);
    loop {
        if ledger.is_audited.load(Ordering::SeqCst) {
            sleep(Duration::from_millis(2)).await;
            continue;
        }
        // The server may be killed during the handshake.
        match Connection::connect(url, &jwt).await {
            // A connection that was opened during an audit is closed; it has sent nothing.
            Ok(client) if !ledger.is_audited.load(Ordering::SeqCst) => return client,
            Ok(_) => {}
            Err(_) => sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Opens a document; `None` if the connection is lost.
async fn open(client: &Connection, start: &SyncOpenStart) -> Option<SyncStream> {
    match client.sync().open(start).await {
        Ok(stream) => Some(stream),
        Err(CallError::Disconnected) => None,
        Err(error) => panic!("{error}"),
    }
}

/// Records everything that the server sends of a document, each time from the first operation on.
async fn read(url: String, ledger: Arc<Ledger>, path: &'static str) {
    loop {
        let client = connect(&url, &ledger, "reader").await;
        let Some(mut stream) = open(&client, &start(path, None)).await else {
            continue;
        };
        ledger.sent(path, stream.state());
        while let Some(update) = next(&mut stream).await {
            ledger.sent(path, &update);
        }
    }
}

/// The next update; `None` if the connection is lost.
async fn next(stream: &mut SyncStream) -> Option<Vec<u8>> {
    match stream.recv().await {
        Ok(Some(update)) => Some(update),
        Err(StreamEnd::Disconnected) => None,
        ended => panic!("the server ended the stream: {ended:?}"),
    }
}

/// Edits a document until the connection is lost; then the same or another one, with the old or a
/// new replica.
async fn write(url: String, ledger: Arc<Ledger>, mut random: Random) {
    let mut kept: Option<(&'static str, MeshDocument)> = None;
    loop {
        let (path, mut document) = kept.take().unwrap_or_else(|| {
            let index = usize::try_from(random.below(DOCUMENTS.len() as u64)).unwrap();
            (DOCUMENTS[index], replica(ledger.serial()))
        });
        let client = connect(&url, &ledger, "writer").await;
        let Some(mut stream) = open(&client, &start(path, Some(&document))).await else {
            continue;
        };
        apply(&ledger, path, &mut document, stream.state());
        // As all published clients do. It restores updates that were not acknowledged before the
        // connection was lost.
        let mut update = Some(document.encode_state());
        loop {
            if let Some(update) = &update
                && !send(&ledger, path, &stream, update).await
            {
                break;
            }
            let pause = Duration::from_millis(random.below(8));
            match timeout(pause, next(&mut stream)).await {
                Ok(Some(seen)) => {
                    apply(&ledger, path, &mut document, &seen);
                    update = None;
                }
                Ok(None) => break,
                Err(_nothing_came) => {
                    update = edit(&ledger, path, &mut document, &stream, &mut random).await;
                    if update.is_none() && client.is_closed() {
                        break;
                    }
                }
            }
        }
        // Updates that arrived before the connection was lost count as sent.
        while let Some(seen) = next(&mut stream).await {
            apply(&ledger, path, &mut document, &seen);
        }
        if random.below(2) == 0 {
            kept = Some((path, document));
        }
    }
}

fn apply(ledger: &Ledger, path: &'static str, document: &mut MeshDocument, update: &[u8]) {
    if !update.is_empty() {
        ledger.sent(path, update);
        document.apply_update(update).unwrap();
    }
}

/// Whether an update was acknowledged.
async fn send(ledger: &Ledger, path: &'static str, stream: &SyncStream, update: &[u8]) -> bool {
    match stream.send(update).await {
        Ok(acknowledgement) => {
            // A notice would report a gap in what the server had sent, or a repair. A notice about
            // deleted elements is not a loss.
            let notice = acknowledgement
                .notice
                .filter(|notice| notice.get("deleted").is_none());
            assert_eq!(notice, None, "of an update of {path}");
            ledger.acknowledged(path, update);
            true
        }
        Err(CallError::Disconnected) => false,
        Err(error) => panic!("{error}"),
    }
}

/// Makes an edit. Insertions and deletions are sent here, so that their `$id` is recorded; other
/// edits are returned.
async fn edit(
    ledger: &Ledger,
    path: &'static str,
    document: &mut MeshDocument,
    stream: &SyncStream,
    random: &mut Random,
) -> Option<Vec<u8>> {
    let count = document.root().child_count();
    let chosen = usize::try_from(random.below(count.max(1) as u64)).unwrap();
    let id = document
        .root()
        .child(chosen)
        .and_then(|element| element.id().map(str::to_owned));
    let serial = ledger.serial();
    match (random.below(10), id) {
        (0, Some(id)) => {
            ledger.with(path, |known| known.deleting.insert(id.clone()));
            let update = document.delete(&id).unwrap()?;
            if send(ledger, path, stream, &update).await {
                ledger.with(path, |known| known.deleted.insert(id));
            }
            None
        }
        (1..5, Some(id)) => {
            let text = json!(format!("{serial} {}", "x".repeat(chosen % 50)));
            document
                .set_attribute(Target::Id(id), "text", text)
                .unwrap()
        }
        _ => {
            let id = format!("e{serial}");
            let element = json!({ "body": { "text": serial.to_string() } });
            let update = document
                .append_child(Target::Root, element, &mut || id.clone())
                .unwrap()?;
            if send(ledger, path, stream, &update).await {
                ledger.with(path, |known| known.inserted.insert(id));
            }
            None
        }
    }
}

/// Creates documents sequentially.
async fn create(url: String, ledger: Arc<Ledger>) {
    loop {
        let client = connect(&url, &ledger, "creator").await;
        loop {
            let serial = ledger.serial();
            let path = format!("made/{serial}.document");
            let text = serial.to_string();
            let made = Some(content(&text));
            match client.sync().create(&path, made, None).await {
                Ok(()) => {
                    ledger.created.lock().unwrap().push((path, text));
                }
                Err(CallError::Disconnected) => break,
                Err(error) => panic!("{error}"),
            }
            sleep(Duration::from_millis(40)).await;
        }
    }
}

fn content(text: &str) -> Value {
    json!({ "document": { "content": [{ "body": { "text": text } }] } })
}

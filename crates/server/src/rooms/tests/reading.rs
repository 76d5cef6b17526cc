//! Results of reads that are not handled yet: their bound in a room, however slow its turns are.

use std::sync::atomic::AtomicUsize;

use meshagent_document::{MeshDocument, MeshSchema};
use meshagent_ledger::Kind;
use meshagent_store::RoomId;
use serde_json::json;

use super::*;

const KIB: usize = 1 << 10;
/// Rounds of another room's reads, each of which passes through the queues of the reads in
/// question.
const ROUNDS: u64 = 200;

/// Creates a document of approximately `bytes` bytes in a room of the store.
fn put_document(store: &MemoryStore, room: &str, path: &str, bytes: usize) {
    let schema = MeshSchema::builtin("document").unwrap();
    let mut document = MeshDocument::new(schema.clone(), 1);
    let text = "é".repeat(bytes / 2);
    let json = json!({ "document": { "content": [{ "body": { "text": text } }] } });
    document
        .insert_json(&json, &mut || "id".to_owned())
        .unwrap();
    let write = Write::CreateDocument {
        room: RoomId::new("project", room),
        path: path.to_owned(),
        schema: schema.to_json().to_string(),
        state: document.encode_state().into(),
        contributions: Vec::new(),
        at: now(),
    };
    store.commit(&[write]).unwrap().remove(0).unwrap();
}

/// Fills the heavy-work pool until the sender is dropped.
fn fill_pool(server: &Server) -> mpsc::Sender<()> {
    let places = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .saturating_sub(1)
        .max(1);
    let (end, ended) = mpsc::channel();
    let ended = Arc::new(Mutex::new(ended));
    let begun = Arc::new(AtomicUsize::new(0));
    for _ in 0..places {
        let (rooms, metrics) = (Arc::clone(&server.rooms), Arc::clone(&server.metrics));
        let (ended, begun) = (Arc::clone(&ended), Arc::clone(&begun));
        tokio::spawn(async move {
            let work = || {
                begun.fetch_add(1, Ordering::SeqCst);
                let _: Result<(), _> = ended.lock().unwrap().recv();
            };
            rooms.lane().run(usize::MAX, &metrics, work).await;
        });
    }
    while begun.load(Ordering::SeqCst) < places.min(1) {
        std::thread::yield_now();
    }
    end
}

/// Requests documents of these sizes while the room can't handle them; returns how many the store
/// gave meanwhile, then lets all be answered.
async fn read_at_once(max_held_bytes: usize, sizes: &[usize]) -> usize {
    let (word, go_on) = mpsc::channel();
    drop(word);
    let store = Arc::new(Held::new(go_on));
    for (number, bytes) in sizes.iter().enumerate() {
        put_document(&store.inner, "a", &format!("{number}.document"), *bytes);
    }
    let mut config = Config::default();
    config.limits.max_held_bytes = max_held_bytes;
    let server = Server::start_with(Arc::<Held>::clone(&store), config);
    let (asker, other) = (
        join(&server.rooms, "a").await,
        join(&server.rooms, "b").await,
    );
    let end = fill_pool(&server);
    // All are requested before the first is read.
    let shut = store.documents.write().await;
    let loads = || store.loads.load(Ordering::SeqCst);
    for (id, number) in (1_000..).zip(0..sizes.len()) {
        let path = format!("{number}.document");
        // The answer is short, so the test need not read it.
        let nothing = json!({ "path": path, "patch": [], "dry_run": true });
        asker.ask(id, "patch", nothing).await;
    }
    asker.ask(1, "nothing", json!({})).await;
    assert!(asker.answer(1).await.is_some());
    drop(shut);
    for id in 0..ROUNDS {
        let missing = json!({ "path": "missing.document" });
        other.ask(id, "describe", missing).await;
        assert!(other.answer(id).await.is_some());
    }
    let at_once = loads();
    let usage = Arc::clone(&server.rooms.usage);
    let charged = || usage.ledger().held_of(Kind::Read);
    let smallest = sizes.iter().min().unwrap();
    assert!(
        charged() >= at_once * smallest,
        "{} for {at_once}",
        charged()
    );
    drop(end);
    let mut answers = 0;
    while answers < sizes.len() {
        for (item, _) in asker.outbox.take().await.unwrap() {
            if let Some(ServerToClient::Response { content, .. }) = item.into_message() {
                assert!(matches!(content, Content::Json(_)), "{content:?}");
                answers += 1;
            }
        }
    }
    assert_eq!(loads(), sizes.len());
    drop((asker, other, store));
    server.end().await;
    assert_eq!(charged(), 0);
    at_once
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn few_reads_wait_for_a_room_that_is_slow() {
    let at_once = read_at_once(256 << 20, &[200 * KIB; 40]).await;
    assert!((1..=4).contains(&at_once), "{at_once}");
}

/// The bound is an eighth of the server's; a larger document is read alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_read_for_a_room_that_is_slow_has_a_bound_in_bytes() {
    for first in [600, 1_500] {
        let mut sizes = [600 * KIB; 6];
        sizes[0] = first * KIB;
        sizes[4] = 2_000 * KIB;
        let at_once = read_at_once(8 << 20, &sizes).await;
        assert_eq!(at_once, 1, "{first}");
    }
}

/// Two rooms have all the space for unhandled results, and a third one waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_documents_of_other_rooms_are_read_while_large_ones_wait() {
    let (word, go_on) = mpsc::channel();
    drop(word);
    let store = Arc::new(Held::new(go_on));
    let slow = ["a", "c", "d"];
    for room in slow {
        put_document(&store.inner, room, "large.document", 950 * KIB);
    }
    for path in ["klein.document", "short list/ä.document"] {
        put_document(&store.inner, "b", path, 10 * KIB);
    }
    let mut config = Config::default();
    config.limits.max_held_bytes = 8 << 20;
    let server = Server::start_with(Arc::<Held>::clone(&store), config);
    let mut askers = Vec::new();
    for room in slow {
        askers.push(join(&server.rooms, room).await);
    }
    let other = join(&server.rooms, "b").await;
    let end = fill_pool(&server);
    for asker in &askers {
        let nothing = json!({ "path": "large.document", "patch": [], "dry_run": true });
        asker.ask(1_000, "patch", nothing).await;
    }
    // Both are read and can't be handled; the size of the third is known, and there is no space for
    // it.
    let usage = Arc::clone(&server.rooms.usage);
    let stats = || store.stats.load(Ordering::SeqCst);
    while usage.ledger().held_of(Kind::Read) < 2 * 950 * KIB || stats() < 3 {
        tokio::task::yield_now().await;
    }
    for (id, path) in (1..).zip(["klein.document", "short list/ä.document"]) {
        other.ask(id, "describe", json!({ "path": path })).await;
        let answer = tokio::time::timeout(Duration::from_mins(1), other.answer(id)).await;
        assert!(answer.is_ok_and(|answer| answer.is_some()), "{path} waits");
    }
    assert_eq!(store.loads.load(Ordering::SeqCst), 4);
    drop(end);
    for asker in &askers {
        assert!(asker.answer(1_000).await.is_some());
    }
    drop((askers, other, store));
    server.end().await;
    assert_eq!(usage.ledger().held_of(Kind::Read), 0);
}

/// Creates a folder whose list needs space.
fn put_files(store: &MemoryStore, room: &str, folder: &str, files: usize) {
    let put = |number| Write::PutFile {
        room: RoomId::new("project", room),
        path: format!("{folder}/{number}"),
        data: Bytes::from_static(b"x"),
        mime_type: "text/plain".to_owned(),
        overwrite: true,
        at: now(),
    };
    let writes: Vec<Write> = (0..files).map(put).collect();
    store.commit(&writes).unwrap();
}

/// Large lists in four rooms wait for space that unhandled results of their rooms take.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_lists_are_read_while_long_ones_wait_for_space() {
    let (word, go_on) = mpsc::channel();
    drop(word);
    let store = Arc::new(Held::new(go_on));
    let slow = ["a", "c", "d", "e"];
    for room in slow {
        put_document(&store.inner, room, "large.document", 950 * KIB);
        put_files(&store.inner, room, "lang", 600);
        put_files(&store.inner, room, "kurz", 3);
    }
    put_files(&store.inner, "b", "kurz", 3);
    let mut config = Config::default();
    config.limits.max_held_bytes = 8 << 20;
    let server = Server::start_with(Arc::<Held>::clone(&store), config);
    let mut askers = Vec::new();
    for room in slow {
        askers.push(join(&server.rooms, room).await);
    }
    // Their documents have all of their space until this is dropped.
    let shut = store.documents.write().await;
    for (asker, number) in askers.iter().zip(1..) {
        let nothing = json!({ "path": "large.document", "patch": [], "dry_run": true });
        asker.ask(1_000, "patch", nothing).await;
        while store.stats.load(Ordering::SeqCst) < number {
            tokio::task::yield_now().await;
        }
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    for (asker, number) in askers.iter().zip(1..) {
        asker
            .ask_storage(1_001, "list", json!({ "path": "lang" }))
            .await;
        while store.lists.load(Ordering::SeqCst) < number {
            tokio::task::yield_now().await;
        }
    }
    // A participant in another room, and one in one of these.
    let others = [
        ("b", join(&server.rooms, "b").await),
        ("a", join_as(&server.rooms, "a", "otto").await),
    ];
    for (room, other) in &others {
        other
            .ask_storage(1, "list", json!({ "path": "kurz" }))
            .await;
        let answer = tokio::time::timeout(Duration::from_secs(20), other.answer(1)).await;
        assert!(answer.is_ok_and(|answer| answer.is_some()), "{room} waits");
    }
    drop(shut);
    for asker in &askers {
        let mut answers = 0;
        while answers < 2 {
            for (item, _) in asker.outbox.take().await.unwrap() {
                if let Some(ServerToClient::Response { content, .. }) = item.into_message() {
                    assert!(matches!(content, Content::Json(_)), "{content:?}");
                    answers += 1;
                }
            }
        }
    }
    let usage = Arc::clone(&server.rooms.usage);
    drop((askers, others, store));
    server.end().await;
    assert_eq!(usage.ledger().held_of(Kind::Read), 0);
}

/// As many large documents as a room may read wait for space that other rooms hold.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_documents_are_read_while_large_ones_of_their_room_wait_for_others() {
    let (word, go_on) = mpsc::channel();
    drop(word);
    let store = Arc::new(Held::new(go_on));
    let slow = ["c", "d"];
    for room in slow {
        put_document(&store.inner, room, "large.document", 950 * KIB);
    }
    for number in 0..4 {
        let path = format!("{number}.document");
        put_document(&store.inner, "b", &path, 200 * KIB);
    }
    put_document(&store.inner, "b", "klein.document", 10 * KIB);
    let mut config = Config::default();
    config.limits.max_held_bytes = 8 << 20;
    let server = Server::start_with(Arc::<Held>::clone(&store), config);
    let mut askers = Vec::new();
    for room in slow {
        askers.push(join(&server.rooms, room).await);
    }
    let other = join(&server.rooms, "b").await;
    let end = fill_pool(&server);
    let nothing = |path: &str| json!({ "path": path, "patch": [], "dry_run": true });
    for asker in &askers {
        asker.ask(1_000, "patch", nothing("large.document")).await;
    }
    let usage = Arc::clone(&server.rooms.usage);
    while usage.ledger().held_of(Kind::Read) < 2 * 950 * KIB {
        tokio::task::yield_now().await;
    }
    for number in 0..4_u64 {
        let path = format!("{number}.document");
        other.ask(1_000 + number, "patch", nothing(&path)).await;
    }
    while store.stats.load(Ordering::SeqCst) < 6 {
        tokio::task::yield_now().await;
    }
    let describe = json!({ "path": "klein.document" });
    other.ask(1, "describe", describe).await;
    let answer = tokio::time::timeout(Duration::from_secs(20), other.answer(1)).await;
    assert!(answer.is_ok_and(|answer| answer.is_some()), "it waits");
    drop(end);
    for asker in &askers {
        assert!(asker.answer(1_000).await.is_some());
    }
    drop((askers, other, store));
    server.end().await;
}

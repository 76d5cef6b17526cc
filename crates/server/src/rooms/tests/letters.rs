//! Envelopes that wait in a room, for the room or because of their participant's work on the disk,
//! and their effect on others.

use meshagent_store::RoomId;
use serde_json::json;

use super::*;

/// A folder with so many files that a move of it makes its participant wait.
fn put_folder(store: &MemoryStore, room: &str, folder: &str, files: usize) {
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

fn rename(source: &str, destination: &str) -> Value {
    json!({ "source_path": source, "destination_path": destination })
}

/// Sends `letters` envelopes of `bytes` bytes each, as far as there are places.
async fn send_all(member: Member, letters: u64, bytes: usize) {
    for id in 0..letters {
        let chunk = ClientToServer::RequestChunk {
            tool_call_id: "unknown".to_owned(),
            chunk: Content::Empty,
        };
        let input = member.input(id, chunk);
        let held = meshagent_ledger::Held::none();
        member.mailbox.send(input, bytes, held).await.unwrap();
    }
}

/// It does not matter how much its other connections have sent meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn participant_whose_letters_are_held_keeps_nobody_else_waiting() {
    const MOVES: u64 = 60;
    for (connections, letters, bytes) in [(17, 64, (64 << 10) - 1), (1, 1, 64 << 20)] {
        let (word, go_on) = mpsc::channel();
        drop(word);
        let store = Arc::new(Held::new(go_on));
        put_folder(&store.inner, "a", "hier", 20);
        let server = Server::start_on(Arc::<Held>::clone(&store));
        store.commit_takes.store(300, Ordering::SeqCst);
        let mover = join_as(&server.rooms, "a", "ünal").await;
        let mut crowd = Vec::new();
        for _ in 0..connections {
            crowd.push(join_as(&server.rooms, "a", "ünal").await);
        }
        for number in 0..MOVES {
            let there = if number % 2 == 0 {
                rename("hier", "da")
            } else {
                rename("da", "hier")
            };
            mover.ask_storage(number, "move", there).await;
        }
        let crowd: Vec<_> = crowd
            .into_iter()
            .map(|member| tokio::spawn(send_all(member, letters, bytes)))
            .collect();
        // They have arrived, or wait for a place.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let other = join_as(&server.rooms, "a", "otto").await;
        let input = other.input(1, invoke("sync", "nothing", json!({})));
        let held = meshagent_ledger::Held::none();
        let served = async {
            other.mailbox.send(input, 2 << 10, held).await.unwrap();
            other.answer(1).await
        };
        let answer = tokio::time::timeout(Duration::from_secs(15), served).await;
        assert!(
            answer.is_ok_and(|answer| answer.is_some()),
            "{connections} connections"
        );
        store.commit_takes.store(0, Ordering::SeqCst);
        for sender in crowd {
            sender.abort();
        }
        drop((mover, other, store));
        server.end().await;
    }
}

/// The disk's work for others does not count.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn participant_waits_for_what_its_own_move_took() {
    let (word, go_on) = mpsc::channel();
    drop(word);
    let store = Arc::new(Held::new(go_on));
    put_folder(&store.inner, "a", "hier", 20);
    let server = Server::start_on(Arc::<Held>::clone(&store));
    let mover = join(&server.rooms, "a").await;
    // A large file of another room occupies the disk.
    store.step_takes.store(2_000, Ordering::SeqCst);
    let large = Write::PutFile {
        room: RoomId::new("project", "b"),
        path: "groß".to_owned(),
        data: vec![7; 1 << 20].into(),
        mime_type: String::new(),
        overwrite: false,
        at: now(),
    };
    let owner = Owner::new(server.rooms.room_id("b"));
    let others = server.rooms.committer.submit(&owner, vec![large]).await;
    mover.ask_storage(1, "move", rename("hier", "da")).await;
    assert_eq!(mover.answer(1).await, Some(Content::Empty));
    store.step_takes.store(0, Ordering::SeqCst);
    let before = Instant::now();
    mover.ask_storage(2, "move", rename("da", "hier")).await;
    assert_eq!(mover.answer(2).await, Some(Content::Empty));
    assert!(
        before.elapsed() < Duration::from_secs(3),
        "{:?}",
        before.elapsed()
    );
    others.await.unwrap().0.unwrap();
    drop((mover, store));
    server.end().await;
}

//! Rooms that lose their ownership, or don't learn what became of their writes.

use meshagent_store::{FailingStore, Fault};

use super::*;
use crate::committer::Gated;

fn create(path: &str) -> Value {
    json!({ "path": path, "json": { "document": { "content": [] } } })
}

fn rename(source: &str, destination: &str) -> Value {
    json!({ "source_path": source, "destination_path": destination })
}

/// The connections end without an answer, and the next room serves what is stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_that_another_writer_took_over_ends_its_connections() {
    let store = Arc::new(MemoryStore::new());
    let server = Server::start_on(Arc::<MemoryStore>::clone(&store));
    let (writer, reader) = (
        join_as(&server.rooms, "größe", "writer").await,
        join_as(&server.rooms, "größe", "reader").await,
    );
    writer.ask(1, "create", create("first.document")).await;
    assert_eq!(writer.answer(1).await, Some(Content::Empty));
    let room = server.rooms.room_id("größe");
    store.take_over(&room, None).unwrap();
    writer.ask(2, "create", create("second.document")).await;
    assert_eq!(writer.answer(2).await, None, "the connection ends");
    assert_eq!(reader.answer(9).await, None, "so do the others");
    assert!(store.load(&room, "second.document").unwrap().is_none());

    let again = join_as(&server.rooms, "größe", "writer").await;
    again.ask(3, "create", create("second.document")).await;
    assert_eq!(again.answer(3).await, Some(Content::Empty));
    let documents = store.stats().unwrap().documents;
    assert_eq!(documents, 2);
    drop((writer, reader, again));
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_with_an_unknown_outcome_is_not_answered() {
    for fault in [Fault::Lost, Fault::Dropped] {
        let store = Arc::new(FailingStore::new(MemoryStore::new()));
        let server = Server::start_on(Arc::<FailingStore<_>>::clone(&store));
        let mover = join(&server.rooms, "a").await;
        mover.ask(1, "create", create("ä.document")).await;
        assert_eq!(mover.answer(1).await, Some(Content::Empty));
        let commits = store.commits();
        store.fail_commits(commits..commits + 1, fault);
        let input = rename("ä.document", "b.document");
        mover.ask_storage(2, "move", input).await;
        assert_eq!(mover.answer(2).await, None, "{fault:?}");
        let again = join(&server.rooms, "a").await;
        let path = if fault == Fault::Lost { "b" } else { "ä" };
        let path = format!("{path}.document");
        again.ask(3, "describe", json!({ "path": path })).await;
        let answer = again.answer(3).await;
        assert!(matches!(answer, Some(Content::Json(_))), "{answer:?}");
        drop((mover, again));
        server.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_with_an_unknown_outcome_is_answered_by_what_is_stored() {
    for fault in [Fault::Lost, Fault::Dropped] {
        let store = Arc::new(FailingStore::new(MemoryStore::new()));
        let server = Server::start_on(Arc::<FailingStore<_>>::clone(&store));
        let writer = join(&server.rooms, "a").await;
        writer.ask(1, "create", create("ä.document")).await;
        assert_eq!(writer.answer(1).await, Some(Content::Empty));
        let commits = store.commits();
        store.fail_commits(commits..commits + 1, fault);
        let element = json!({ "body": { "text": "größe 🌿" } });
        let patch = json!({
            "path": "ä.document",
            "patch": [{ "op": "add", "path": "/document/content/-", "value": element }],
        });
        writer.ask(2, "patch", patch).await;
        let answer = writer.answer(2).await;
        let is_refused = matches!(answer, Some(Content::Error { .. }));
        assert_eq!(is_refused, fault == Fault::Dropped, "{fault:?}: {answer:?}");
        drop(writer);
        server.end().await;
    }
}

#[tokio::test]
async fn a_room_whose_store_waits_delays_no_other() {
    let store = Gated::new();
    let server = Server::start_over(Arc::<Gated>::clone(&store), Config::default());
    let slow = join(&server.rooms, "slow").await;
    let other = join(&server.rooms, "größe").await;
    slow.ask_storage(1, "exists", json!({ "path": "x" })).await;
    slow.ask(2, "create", create("ä.document")).await;
    // The read of each of both requests.
    store.wait_for(2).await;
    for id in 0..20 {
        let path = format!("{id}.document");
        other.ask(2 * id, "create", create(&path)).await;
        assert_eq!(other.answer(2 * id).await, Some(Content::Empty));
        other
            .ask(2 * id + 1, "describe", json!({ "path": path }))
            .await;
        let answer = other.answer(2 * id + 1).await;
        assert!(matches!(answer, Some(Content::Json(_))), "{answer:?}");
    }
    store.gate.add_permits(3);
    assert_eq!(slow.answer(2).await, Some(Content::Empty));
    drop((slow, other));
    server.end().await;
}

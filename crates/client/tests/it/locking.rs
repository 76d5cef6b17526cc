//! Lookups of documents while other documents are edited.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::mpsc;
use std::task::{Context, Waker};
use std::thread;
use std::time::Duration;

use meshagent_document::MeshDocument;
use meshagent_protocol::Content;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::peer::{Peer, append, begin, listen};

#[tokio::test]
async fn edit_of_one_document_looks_for_another_while_the_first_is_opened() {
    let (listener, room) = listen().await;
    let serve = async {
        let mut peer = Peer::accept(listener.accept().await.unwrap().0).await;
        begin(&mut peer).await;
        begin(&mut peer).await;
        peer
    };
    let user = async {
        let room = room.connect().await.unwrap();
        let one = room.sync().open("a.document").await.unwrap();
        let other = room.sync().open("ß.document").await.unwrap();
        (room, one, other)
    };
    let (_peer, (room, one, other)) = timeout(PATIENCE, async { tokio::join!(serve, user) })
        .await
        .unwrap();

    let update = other.read(MeshDocument::encode_state);
    let (edits, is_edited) = mpsc::channel();
    let (done, is_done) = oneshot::channel();
    let opener = {
        let room = room.clone();
        thread::spawn(move || {
            is_edited.recv().unwrap();
            let sync = room.sync();
            let mut open = pin!(sync.open("a.document"));
            // The lookup waits for the edit at most, and the edit is in progress here.
            let _opened = open.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        })
    };
    thread::spawn(move || {
        let edited = one.edit(|_| {
            edits.send(()).unwrap();
            // Meanwhile the other thread reaches the document's lock.
            for _ in 0..300 {
                thread::sleep(Duration::from_millis(1));
                room.sync().sync("ß.document", &update).unwrap();
            }
        });
        opener.join().unwrap();
        done.send(edited).unwrap();
    });
    timeout(PATIENCE, is_done).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn handles_that_are_cloned_and_dropped_within_closures_count() {
    let (listener, room) = listen().await;
    let serve = async {
        let mut peer = Peer::accept(listener.accept().await.unwrap().0).await;
        let call = begin(&mut peer).await;
        let edit = peer.chunk(Content::Empty).await;
        assert!(matches!(edit, Content::Binary { .. }), "{edit:?}");
        assert_eq!(peer.chunk(Content::Empty).await, Content::close());
        peer.send_chunk(&call, Content::close()).await;
        peer
    };
    let user = async {
        let room = room.connect().await.unwrap();
        let document = room.sync().open("a.document").await.unwrap();
        let mut clones = Vec::new();
        document.edit(|_| drop(document.clone())).unwrap();
        document.edit(|_| clones.push(document.clone())).unwrap();
        document.read(|_| drop(document.clone()));
        document.read(|_| clones.push(document.clone()));
        for is_edited in [true, false] {
            let panicked = catch_unwind(AssertUnwindSafe(|| {
                if is_edited {
                    document.edit(|_| panic!("beside {:?}", document.clone().path()))
                } else {
                    document.read(|_| panic!("beside {:?}", document.clone().path()))
                }
            }));
            assert!(panicked.is_err());
        }
        // One goes elsewhere, and ends as soon as it can.
        let other = document.read(|_| {
            let other = document.clone();
            thread::spawn(|| drop(other))
        });
        other.join().unwrap();
        drop(document);
        clones.pop();
        let last = clones.pop().unwrap();
        // If it did not count, the call would be closed by now.
        tokio::time::sleep(Duration::from_millis(50)).await;
        append(&last, "mine");
        assert_eq!(last.saved().await, Ok(()));
        drop(last);
        room
    };
    let (peer, room) = timeout(PATIENCE, async { tokio::join!(serve, user) })
        .await
        .unwrap();
    assert_eq!(room.close().await, []);
    drop(peer);
}

/// Long enough for any machine.
const PATIENCE: Duration = Duration::from_secs(30);
